//! A scriptable backend that signs users in itself: JSON login, refresh tokens that work once, logout, user, and an API that
//! answers 401 to every token but its live ones. It records every call and knows every secret it ever gave out.

use super::keys::{base64url, random_text};
use super::provider::{Change, Fault, Provider, answer};
use super::upstream::{Answer, MARK, REFUSAL, Received, Upstream};
use super::wire::{Connection, Framing, Headers};
use latchgate::clock::{Clock, Mono};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;

/// What the backend serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Part {
    Login,
    Refresh,
    Logout,
    User,
    /// Every other path.
    Api,
}

/// Where its endpoints are and what it calls things; each a preset of the gateway's.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    pub preset: &'static str,
    pub login: &'static str,
    pub refresh: &'static str,
    pub logout: Option<(&'static str, &'static str)>,
    pub user: Option<&'static str>,
    /// The member of the refresh call's body.
    pub refresh_member: &'static str,
    pub access_token: &'static str,
    pub refresh_token: &'static str,
}

pub const NUXT: Shape = Shape {
    preset: "nuxt",
    login: "/login",
    refresh: "/refresh_tokens",
    logout: Some(("DELETE", "/logout")),
    user: Some("/me"),
    refresh_member: "token",
    access_token: "token",
    refresh_token: "refresh_token",
};
pub const SNEAT: Shape = Shape {
    preset: "sneat",
    login: "/auth/login",
    refresh: "/auth/refresh-token",
    logout: None,
    user: None,
    refresh_member: "refreshToken",
    access_token: "accessToken",
    refresh_token: "refreshToken",
};
pub const VUEXY: Shape = Shape {
    preset: "vuexy",
    login: "/jwt/login",
    refresh: "/jwt/refresh-token",
    logout: Some(("POST", "/jwt/logout")),
    ..SNEAT
};
pub const AXIOS: Shape = Shape {
    preset: "axios",
    refresh: "/auth/refresh",
    access_token: "access_token",
    refresh_token: "refresh_token",
    ..SNEAT
};
pub const SHAPES: [Shape; 4] = [NUXT, SNEAT, VUEXY, AXIOS];

/// One call as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub part: Part,
    pub method: String,
    pub target: String,
    pub headers: Headers,
    pub body: Vec<u8>,
}

impl Call {
    /// The body as JSON; null when it is none.
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    /// The token of `Authorization: Bearer …`.
    pub fn bearer(&self) -> Option<&str> {
        self.headers.value("authorization")?.strip_prefix("Bearer ")
    }
}

/// How the backend behaves. Changed by [`Backend::configure`].
pub struct Habits {
    pub shape: Shape,
    /// What the two credentials are called in the login's JSON.
    pub fields: (&'static str, &'static str),
    /// Life of access tokens, in seconds.
    pub access_ttl: u64,
    /// Access tokens are JWTs with `sub`, `iat` and `exp`.
    pub jwt: bool,
    /// Answers have `expires_in`.
    pub tell_life: bool,
    /// Every refresh gives a new refresh token and spends the old one.
    pub rotate: bool,
    /// Logins give a refresh token.
    pub offline: bool,
    /// Refresh tokens arrive in this header, as bearer, instead of the body.
    pub refresh_header: Option<&'static str>,
    /// The member that the user stands in, in answers to logins.
    pub user_member: Option<&'static str>,
    /// Changes what a login answers.
    pub login_answer: Change<Map<String, Value>>,
    /// Changes what a refresh answers.
    pub refresh_answer: Change<Map<String, Value>>,
    /// Changes what the user endpoint answers.
    pub user_answer: Change<Map<String, Value>>,
}

/// A handle on a running backend; clones are the same one.
#[derive(Clone)]
pub struct Backend {
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    clock: Clock,
    state: Mutex<State>,
}

struct State {
    habits: Habits,
    users: BTreeMap<String, Map<String, Value>>,
    next: HashMap<Part, VecDeque<Fault>>,
    always: HashMap<Part, Fault>,
    calls: Vec<Call>,
    secrets: Vec<String>,
    told: Option<Provider>,
    grants: Vec<Grant>,
    access_tokens: HashMap<String, AccessToken>,
    refresh_tokens: HashMap<String, usize>,
    reuses: usize,
}

struct Grant {
    user: String,
    refresh_token: Option<String>,
    revoked: bool,
}

struct AccessToken {
    grant: usize,
    expires: Mono,
    revoked: bool,
}

impl Backend {
    /// Starts a backend on a port of its own, with the users `ada`, `bob` and `eve`.
    pub async fn start(shape: Shape, clock: Clock) -> Backend {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let habits = Habits {
            shape,
            fields: ("username", "password"),
            access_ttl: 3600,
            jwt: false,
            tell_life: true,
            rotate: true,
            offline: true,
            refresh_header: None,
            user_member: shape.user.is_none().then_some("userData"),
            login_answer: Box::new(|_| {}),
            refresh_answer: Box::new(|_| {}),
            user_answer: Box::new(|_| {}),
        };
        let users = ["ada", "bob", "eve"].into_iter().enumerate().map(|(number, name)| {
            let user = json!({
                "id": number + 1, "username": name, "name": name.to_uppercase(), "email": format!("{name}@corp.test"),
            });
            (name.to_owned(), user.as_object().expect("an object").clone())
        });
        let state = State {
            habits,
            users: users.collect(),
            next: HashMap::new(),
            always: HashMap::new(),
            calls: Vec::new(),
            secrets: Vec::new(),
            told: None,
            grants: Vec::new(),
            access_tokens: HashMap::new(),
            refresh_tokens: HashMap::new(),
            reuses: 0,
        };
        let shared = Shared { address: listener.local_addr().expect("an address"), clock, state: Mutex::new(state) };
        let backend = Backend { shared: Arc::new(shared) };
        tokio::spawn(backend.clone().accept(listener));
        backend
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// What its tokens live by.
    pub fn clock(&self) -> Clock {
        self.shared.clock.clone()
    }

    /// The provider table of this backend with its preset and these `lines`.
    pub fn table(&self, name: &str, lines: &str) -> String {
        let preset = self.state().habits.shape.preset;
        let preset = if lines.contains("preset =") { String::new() } else { format!("preset = \"{preset}\"") };
        format!("[providers.{name}]\nkind = \"backend\"\nbase_url = \"{}\"\n{preset}\n{lines}\n", self.url())
    }

    /// `provider` knows all secrets of this backend, so that browsers look for them in every answer of the gateway's.
    pub fn tell_secrets_to(&self, provider: &Provider) {
        let mut state = self.state();
        state.secrets.iter().for_each(|secret| provider.keep_secret(secret));
        state.told = Some(provider.clone());
    }

    /// `upstream` answers 200 to live access tokens of this backend, else 401.
    pub fn guards(&self, upstream: &Upstream) {
        let backend = self.clone();
        upstream.answer(move |received: &Received| match received.bearer().and_then(|token| backend.user_of(token)) {
            Some(user) => Answer::status(200).header("X-Seen-User", &user),
            None => Answer::unauthorized(),
        });
    }

    /// Changes how the backend behaves from now on.
    pub fn configure(&self, change: impl FnOnce(&mut Habits)) {
        change(&mut self.state().habits);
    }

    /// Adds or replaces a user, whose password is [`password_of`].
    pub fn add_user(&self, name: &str, profile: Value) {
        self.state().users.insert(name.to_owned(), profile.as_object().expect("an object").clone());
    }

    /// The next call of `part` without a fault of its own meets this one.
    pub fn next(&self, part: Part, fault: Fault) {
        self.state().next.entry(part).or_default().push_back(fault);
    }

    /// Every call of `part` meets this fault, until [`Backend::recover`].
    pub fn always(&self, part: Part, fault: Fault) {
        self.state().always.insert(part, fault);
    }

    /// Ends all faults of `part`.
    pub fn recover(&self, part: Part) {
        let mut state = self.state();
        state.always.remove(&part);
        state.next.remove(&part);
    }

    /// No access token given out so far is live any more.
    pub fn revoke_access_tokens(&self) {
        for token in self.state().access_tokens.values_mut() {
            token.revoked = true;
        }
    }

    /// No refresh token given out so far is of use any more.
    pub fn revoke_grants(&self) {
        for grant in &mut self.state().grants {
            grant.revoked = true;
        }
    }

    /// Whether everybody who ever signed in is signed out.
    pub fn all_grants_revoked(&self) -> bool {
        self.state().grants.iter().all(|grant| grant.revoked)
    }

    /// The user an access token stands for, while it is neither expired nor revoked.
    pub fn user_of(&self, access_token: &str) -> Option<String> {
        let now = self.shared.clock.now().mono;
        self.state().user_of(access_token, now)
    }

    /// Every call so far.
    pub fn calls(&self, part: Part) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.part == part).cloned().collect()
    }

    /// The newest call of `part`.
    ///
    /// # Panics
    /// When there was none.
    pub fn last(&self, part: Part) -> Call {
        self.calls(part).pop().unwrap_or_else(|| panic!("no {part:?} call"))
    }

    /// How often `part` was called.
    pub fn count(&self, part: Part) -> usize {
        self.calls(part).len()
    }

    /// How often a spent refresh token was presented.
    pub fn reuses(&self) -> usize {
        self.state().reuses
    }

    /// All tokens ever given out.
    pub fn secrets(&self) -> Vec<String> {
        self.state().secrets.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no test panics while it holds the backend")
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let backend = self.clone();
            tokio::spawn(async move {
                let mut connection = Connection::over(stream);
                backend.serve(&mut connection).await;
                let _ = socket2::SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
            });
        }
    }

    async fn serve(&self, connection: &mut Connection) {
        while let Ok(Some(head)) = connection.head().await {
            let Ok((body, _)) = connection.body(Framing::of_request(&head)).await else {
                return;
            };
            let (method, target) = (head.word(0).to_owned(), head.word(1).to_owned());
            let part = self.state().part_at(&method, &target);
            let call = Call { part, method, target, headers: head.headers.clone(), body };
            let Some(bytes) = self.answer(call).await else {
                return;
            };
            if connection.send(&bytes).await.is_err() {
                return;
            }
        }
    }

    /// What goes back; `None` resets the connection.
    async fn answer(&self, call: Call) -> Option<Vec<u8>> {
        let fault = {
            let mut state = self.state();
            state.calls.push(call.clone());
            let queued = state.next.get_mut(&call.part).and_then(VecDeque::pop_front);
            queued.or_else(|| state.always.get(&call.part).cloned())
        };
        let serve = || self.state().serve(&self.shared, &call);
        match fault {
            None => Some(serve()),
            Some(fault) => fault.strike(&[(MARK, "yes")], serve).await,
        }
    }
}

impl State {
    fn part_at(&self, method: &str, target: &str) -> Part {
        let shape = &self.habits.shape;
        let path = target.split('?').next().unwrap_or("");
        match path {
            _ if path == shape.login => Part::Login,
            _ if path == shape.refresh => Part::Refresh,
            _ if shape.logout == Some((method, path)) => Part::Logout,
            _ if shape.user == Some(path) => Part::User,
            _ => Part::Api,
        }
    }

    fn serve(&mut self, shared: &Shared, call: &Call) -> Vec<u8> {
        match call.part {
            Part::Login => self.log_in(shared, call),
            Part::Refresh => self.refresh(shared, call),
            Part::Logout => self.log_out(call),
            Part::User => self.user(shared, call),
            Part::Api => match call.bearer().and_then(|token| self.user_of(token, shared.clock.mono())) {
                Some(user) => json_answer(200, &json!({ "user": user, "path": call.target })),
                None => bytes_answer(401, "application/json", &[("WWW-Authenticate", "Bearer")], REFUSAL.as_bytes()),
            },
        }
    }

    fn log_in(&mut self, shared: &Shared, call: &Call) -> Vec<u8> {
        let (credentials, (username, password)) = (call.json(), self.habits.fields);
        let user = credentials[username].as_str().unwrap_or_default().to_owned();
        let right = credentials[password] == password_of(&user).as_str() && self.users.contains_key(&user);
        if call.method != "POST" || !right {
            return json_answer(401, &json!({ "message": "Wrong password" }));
        }
        self.grants.push(Grant { user: user.clone(), refresh_token: None, revoked: false });
        let grant = self.grants.len() - 1;
        if self.habits.offline {
            self.renew_refresh_token(grant);
        }
        let mut answer = self.tokens(shared, grant);
        if let Some(member) = self.habits.user_member {
            answer.insert(member.to_owned(), Value::Object(self.users[&user].clone()));
        }
        (self.habits.login_answer)(&mut answer);
        json_answer(200, &Value::Object(answer))
    }

    fn refresh(&mut self, shared: &Shared, call: &Call) -> Vec<u8> {
        let refused = json_answer(401, &json!({ "message": "Invalid refresh token" }));
        let body = call.json();
        let presented = match self.habits.refresh_header {
            Some(name) => call.headers.value(name).and_then(|value| value.strip_prefix("Bearer ")),
            None => body[self.habits.shape.refresh_member].as_str(),
        };
        let Some((presented, grant)) = presented.and_then(|token| Some((token, *self.refresh_tokens.get(token)?)))
        else {
            return refused;
        };
        if self.grants[grant].refresh_token.as_deref() != Some(presented) {
            self.reuses += 1;
            self.grants[grant].revoked = true;
        }
        if self.grants[grant].revoked {
            return refused;
        }
        if self.habits.rotate {
            self.renew_refresh_token(grant);
        }
        let mut answer = self.tokens(shared, grant);
        if !self.habits.rotate {
            answer.remove(self.habits.shape.refresh_token);
        }
        (self.habits.refresh_answer)(&mut answer);
        json_answer(200, &Value::Object(answer))
    }

    fn log_out(&mut self, call: &Call) -> Vec<u8> {
        let Some(token) = call.bearer().and_then(|token| self.access_tokens.get_mut(token)) else {
            return json_answer(401, &json!({}));
        };
        token.revoked = true;
        self.grants[token.grant].revoked = true;
        json_answer(200, &json!({ "success": true }))
    }

    fn user(&mut self, shared: &Shared, call: &Call) -> Vec<u8> {
        let Some(user) = call.bearer().and_then(|token| self.user_of(token, shared.clock.mono())) else {
            return json_answer(401, &json!({}));
        };
        let mut answer = self.users[&user].clone();
        (self.habits.user_answer)(&mut answer);
        json_answer(200, &Value::Object(answer))
    }

    fn user_of(&self, access_token: &str, now: Mono) -> Option<String> {
        let token = self.access_tokens.get(access_token)?;
        let live = !token.revoked && now < token.expires;
        live.then(|| self.grants[token.grant].user.clone())
    }

    fn tokens(&mut self, shared: &Shared, grant: usize) -> Map<String, Value> {
        let now = shared.clock.now();
        let mut access_token = format!("at-{}", random_text(24));
        if self.habits.jwt {
            let part = |value: Value| base64url(value.to_string().as_bytes());
            let claims = json!({
                "sub": self.grants[grant].user, "iat": now.unix, "exp": now.unix + self.habits.access_ttl,
                "jti": random_text(8),
            });
            access_token = format!("{}.{}.c2lnbmF0dXJl", part(json!({ "alg": "HS256", "typ": "JWT" })), part(claims));
        }
        self.keep_secret(&access_token);
        let expires = now.mono.after(Duration::from_secs(self.habits.access_ttl));
        self.access_tokens.insert(access_token.clone(), AccessToken { grant, expires, revoked: false });
        let mut answer = Map::new();
        answer.insert(self.habits.shape.access_token.to_owned(), json!(access_token));
        if let Some(refresh_token) = &self.grants[grant].refresh_token {
            answer.insert(self.habits.shape.refresh_token.to_owned(), json!(refresh_token));
        }
        if self.habits.tell_life {
            answer.insert("expires_in".to_owned(), json!(self.habits.access_ttl));
        }
        answer
    }

    fn renew_refresh_token(&mut self, grant: usize) {
        let token = format!("rt-{}", random_text(24));
        self.keep_secret(&token);
        self.refresh_tokens.insert(token.clone(), grant);
        self.grants[grant].refresh_token = Some(token);
    }

    fn keep_secret(&mut self, secret: &str) {
        self.secrets.push(secret.to_owned());
        if let Some(told) = &self.told {
            told.keep_secret(secret);
        }
    }
}

/// The password of a user.
pub fn password_of(user: &str) -> String {
    format!("{user}'s pässword")
}

fn json_answer(status: u16, body: &Value) -> Vec<u8> {
    bytes_answer(status, "application/json; charset=utf-8", &[], &serde_json::to_vec(body).expect("JSON"))
}

/// Marked as the scripted upstream's are: an app may be given it as it is.
fn bytes_answer(status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    answer(status, content_type, &[&[(MARK, "yes")], headers].concat(), body)
}
