//! A scriptable OpenID provider: discovery, JWKS, the code flow with PKCE, refresh tokens with strict
//! rotation and reuse detection, userinfo, revocation, end of session. It records every call and
//! knows every secret it ever gave out.

use super::gate::Gate;
use super::keys::{Algorithm, IdToken, Signature, SigningKey, base64url, random_text};
use super::wire::{Connection, Framing, Headers, message};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use latchgate::clock::{Clock, Mono};
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use url::form_urlencoded;

/// The client every gateway under test is registered as.
pub const CLIENT_ID: &str = "latchgate-under-test";
/// Its secret.
pub const CLIENT_SECRET: &str = "client-secret-f3b1c0de";

/// What the provider serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Endpoint {
    Discovery,
    Jwks,
    Authorize,
    Token,
    Userinfo,
    Revocation,
    Introspection,
    EndSession,
}

/// What goes wrong with a call, or holds it up.
#[derive(Clone, Debug)]
pub enum Fault {
    /// This status and this JSON.
    Json(u16, Value),
    /// This status, this JSON and `Retry-After` in seconds.
    RetryAfter(u16, u64),
    /// This status, content type and body.
    Bytes(u16, &'static str, Vec<u8>),
    /// 200 and a page.
    Html,
    /// 302 to this place.
    Redirect(String),
    /// No answer, ever.
    Hang,
    /// The connection is reset before the call is looked at.
    Reset,
    /// The call is served, and the connection is reset instead of an answer.
    LoseAnswer,
    /// The call is served after this long.
    Delay(Duration),
    /// The call is served when the gate opens.
    Held(Gate),
}

/// One call as it arrived.
#[derive(Clone, Debug)]
pub struct Call {
    pub endpoint: Endpoint,
    pub method: String,
    pub headers: Headers,
    /// The query, decoded.
    pub query: Vec<(String, String)>,
    /// The form in the body, decoded.
    pub form: Vec<(String, String)>,
}

impl Call {
    /// The first `name` of the query or the form.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.query.iter().chain(&self.form).find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }
}

/// A hand of the test in what the provider says.
pub type Change<T> = Box<dyn Fn(&mut T) + Send>;

/// What kind of provider this is. Changed by [`Provider::configure`].
pub struct Habits {
    /// Who signs in when the request has neither `user` nor `login_hint`.
    pub user: String,
    /// Life of access tokens, in seconds.
    pub access_ttl: u64,
    /// Every refresh gives a new refresh token and spends the old one.
    pub rotate: bool,
    /// Logins give a refresh token.
    pub offline: bool,
    /// Authorization responses carry `iss` (RFC 9207).
    pub state_issuer: bool,
    /// Authorization fails with this `error` and `error_description`.
    pub refuse: Option<(String, String)>,
    /// Changes the discovery document.
    pub metadata: fn(&mut Map<String, Value>),
    /// Changes what the token endpoint answers.
    pub token_answer: Change<Map<String, Value>>,
    /// Changes ID tokens before and while they are signed.
    pub id_token: Change<IdToken>,
    /// Changes what userinfo answers.
    pub userinfo: fn(&mut Map<String, Value>),
}

impl Default for Habits {
    fn default() -> Habits {
        Habits {
            user: "ada".to_owned(),
            access_ttl: 3600,
            rotate: true,
            offline: true,
            state_issuer: true,
            refuse: None,
            metadata: |_| {},
            token_answer: Box::new(|_| {}),
            id_token: Box::new(|_| {}),
            userinfo: |_| {},
        }
    }
}

/// A handle on a running provider; clones are the same one.
#[derive(Clone)]
pub struct Provider {
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    clock: Clock,
    down: watch::Sender<bool>,
    state: Mutex<State>,
}

struct State {
    habits: Habits,
    users: BTreeMap<String, Map<String, Value>>,
    redirect_uris: Vec<String>,
    keys: Vec<SigningKey>,
    next: HashMap<Endpoint, VecDeque<Fault>>,
    always: HashMap<Endpoint, Fault>,
    calls: Vec<Call>,
    secrets: Vec<String>,
    codes: HashMap<String, Code>,
    grants: Vec<Grant>,
    access_tokens: HashMap<String, AccessToken>,
    refresh_tokens: HashMap<String, usize>,
    /// When each was exchanged for its successor.
    spent: HashMap<String, Mono>,
    reuses: Vec<Reuse>,
    /// What introspection says, by token.
    introspected: HashMap<String, Value>,
}

/// A refresh token that was presented after it was spent.
#[derive(Clone, Debug)]
#[allow(dead_code, reason = "the soak looks into it")]
pub struct Reuse {
    pub token: String,
    pub spent: Mono,
    pub presented: Mono,
}

struct Code {
    grant: usize,
    redirect_uri: String,
    challenge: Option<String>,
    nonce: Option<String>,
    used: bool,
}

struct Grant {
    user: String,
    scope: String,
    refresh_token: Option<String>,
    revoked: bool,
}

struct AccessToken {
    grant: usize,
    expires: Mono,
    revoked: bool,
}

impl Provider {
    /// Starts a provider on a port of its own, with the users `ada`, `bob` and `eve`.
    pub async fn start(clock: Clock) -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let state = State {
            habits: Habits::default(),
            users: BTreeMap::new(),
            redirect_uris: Vec::new(),
            keys: vec![SigningKey::generate(Algorithm::Es256)],
            next: HashMap::new(),
            always: HashMap::new(),
            calls: Vec::new(),
            secrets: vec![CLIENT_SECRET.to_owned()],
            codes: HashMap::new(),
            grants: Vec::new(),
            access_tokens: HashMap::new(),
            refresh_tokens: HashMap::new(),
            spent: HashMap::new(),
            reuses: Vec::new(),
            introspected: HashMap::new(),
        };
        let shared = Shared {
            address: listener.local_addr().expect("an address"),
            clock,
            down: watch::Sender::new(false),
            state: Mutex::new(state),
        };
        let provider = Provider { shared: Arc::new(shared) };
        for name in ["ada", "bob", "eve"] {
            provider.add_user(name, json!({ "name": name.to_uppercase(), "email": format!("{name}@corp.test") }));
        }
        tokio::spawn(provider.clone().accept(listener));
        provider
    }

    /// `http://127.0.0.1:<port>`
    pub fn issuer(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Allows one more `redirect_uri`; others are refused.
    pub fn register(&self, redirect_uri: &str) {
        self.state().redirect_uris.push(redirect_uri.to_owned());
    }

    /// Adds or replaces a user; `claims` go into ID tokens and userinfo.
    pub fn add_user(&self, sub: &str, claims: Value) {
        let mut claims = claims.as_object().expect("an object").clone();
        claims.insert("sub".to_owned(), json!(sub));
        self.state().users.insert(sub.to_owned(), claims);
    }

    /// A logout token for the client (Back-Channel Logout §2.4) with `claims` laid over; null takes one away. `change` has the last
    /// word.
    pub fn logout_token(&self, claims: Value, change: impl FnOnce(&mut IdToken)) -> String {
        let usual = json!({
            "aud": CLIENT_ID, "events": { "http://schemas.openid.net/event/backchannel-logout": {} },
        });
        self.signed("logout+jwt", 120, [usual, claims], change)
    }

    /// A JWT access token (RFC 9068) for the audience `api` and the subject `robot`, with `claims` laid over; null takes one away.
    /// `change` has the last word.
    pub fn access_token(&self, claims: Value, change: impl FnOnce(&mut IdToken)) -> String {
        self.signed("at+jwt", 600, [json!({ "aud": "api", "sub": "robot" }), claims], change)
    }

    /// A token of this type for so many seconds, with all `claims` laid over each other.
    fn signed(&self, typ: &str, life: u64, claims: [Value; 2], change: impl FnOnce(&mut IdToken)) -> String {
        let now = self.shared.clock.now();
        let all = json!({ "iss": self.issuer(), "iat": now.unix, "exp": now.unix + life, "jti": random_text(12) });
        let mut all = all.as_object().expect("an object").clone();
        for claims in claims {
            all.extend(claims.as_object().expect("an object").clone());
        }
        all.retain(|_, value| !value.is_null());
        let state = self.state();
        let key = state.keys.last().expect("a key");
        let header = json!({ "alg": key.algorithm(), "kid": key.kid, "typ": typ });
        let header = header.as_object().expect("an object").clone();
        let mut token = IdToken { header, claims: all, signature: Signature::Good };
        change(&mut token);
        token.encode(key)
    }

    /// Introspection says this of `token` from now on.
    pub fn says_of(&self, token: &str, answer: Value) {
        self.state().introspected.insert(token.to_owned(), answer);
    }

    /// ID tokens carry this `sid` from now on.
    pub fn start_session(&self, sid: &'static str) {
        self.configure(|habits| {
            habits.id_token = Box::new(move |token| drop(token.claims.insert("sid".into(), json!(sid))))
        });
    }

    /// Changes how the provider behaves from now on.
    pub fn configure(&self, change: impl FnOnce(&mut Habits)) {
        change(&mut self.state().habits);
    }

    /// The next call of `endpoint` without a fault of its own meets this one.
    pub fn next(&self, endpoint: Endpoint, fault: Fault) {
        self.state().next.entry(endpoint).or_default().push_back(fault);
    }

    /// Every call of `endpoint` meets this fault, until [`Provider::recover`].
    pub fn always(&self, endpoint: Endpoint, fault: Fault) {
        self.state().always.insert(endpoint, fault);
    }

    /// Ends all faults of `endpoint`.
    pub fn recover(&self, endpoint: Endpoint) {
        let mut state = self.state();
        state.always.remove(&endpoint);
        state.next.remove(&endpoint);
    }

    /// Resets all connections, and every new one.
    pub fn go_down(&self) {
        self.shared.down.send_replace(true);
    }

    /// Serves again.
    pub fn come_up(&self) {
        self.shared.down.send_replace(false);
    }

    /// Signs with a new key from now on; the old one is no longer published.
    pub fn rotate_key(&self, algorithm: Algorithm) {
        self.state().keys = vec![SigningKey::generate(algorithm)];
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

    /// The user an access token stands for, while it is neither expired nor revoked.
    pub fn user_of(&self, access_token: &str) -> Option<String> {
        let now = self.shared.clock.now().mono;
        let state = self.state();
        let token = state.access_tokens.get(access_token)?;
        let live = !token.revoked && now < token.expires;
        live.then(|| state.grants[token.grant].user.clone())
    }

    /// The user an access token was given out for, live or not.
    #[allow(dead_code, reason = "for the soak")]
    pub fn owner_of(&self, access_token: &str) -> Option<String> {
        let state = self.state();
        let token = state.access_tokens.get(access_token)?;
        Some(state.grants[token.grant].user.clone())
    }

    /// Whether the newest refresh token of each grant is revoked.
    pub fn all_grants_revoked(&self) -> bool {
        self.state().grants.iter().all(|grant| grant.revoked)
    }

    /// Every call so far.
    pub fn calls(&self, endpoint: Endpoint) -> Vec<Call> {
        self.state().calls.iter().filter(|call| call.endpoint == endpoint).cloned().collect()
    }

    /// How often `endpoint` was called.
    pub fn count(&self, endpoint: Endpoint) -> usize {
        self.calls(endpoint).len()
    }

    /// How often a refresh token was presented.
    pub fn refreshes(&self) -> usize {
        self.grants_of_type("refresh_token")
    }

    /// How often a code was presented.
    pub fn code_exchanges(&self) -> usize {
        self.grants_of_type("authorization_code")
    }

    /// How often a spent refresh token was presented.
    pub fn reuses(&self) -> usize {
        self.state().reuses.len()
    }

    /// Each time a spent refresh token was presented.
    #[allow(dead_code, reason = "for the soak")]
    pub fn reuse_log(&self) -> Vec<Reuse> {
        self.state().reuses.clone()
    }

    /// Everything a browser must never see: the client secret, codes, and all tokens.
    pub fn secrets(&self) -> Vec<String> {
        self.state().secrets.clone()
    }

    /// One more thing that a browser must never see.
    pub fn keep_secret(&self, secret: &str) {
        self.state().secrets.push(secret.to_owned());
    }

    fn grants_of_type(&self, grant_type: &str) -> usize {
        let calls = self.calls(Endpoint::Token);
        calls.iter().filter(|call| call.parameter("grant_type") == Some(grant_type)).count()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no test panics while it holds the provider")
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let provider = self.clone();
            tokio::spawn(async move {
                let mut down = provider.shared.down.subscribe();
                let mut connection = Connection::over(stream);
                tokio::select! {
                    biased;
                    _ = down.wait_for(|down| *down) => {}
                    () = provider.serve(&mut connection) => {}
                }
                reset(&connection);
            });
        }
    }

    async fn serve(&self, connection: &mut Connection) {
        while let Ok(Some(head)) = connection.head().await {
            let Ok((body, _)) = connection.body(Framing::of_request(&head)).await else {
                return;
            };
            let target = head.word(1).to_owned();
            let (path, query) = target.split_once('?').unwrap_or((&target, ""));
            let Some(endpoint) = endpoint_at(path) else {
                let missing = answer(404, "application/json", &[], b"{}");
                let _ = connection.send(&missing).await;
                continue;
            };
            let call = Call {
                endpoint,
                method: head.word(0).to_owned(),
                headers: head.headers.clone(),
                query: form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
                form: form_urlencoded::parse(&body).into_owned().collect(),
            };
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
            let queued = state.next.get_mut(&call.endpoint).and_then(VecDeque::pop_front);
            queued.or_else(|| state.always.get(&call.endpoint).cloned())
        };
        let serve = || self.state().serve(&self.shared, &call);
        match fault {
            None => Some(serve()),
            Some(fault) => fault.strike(&[("Cache-Control", "no-store")], serve).await,
        }
    }
}

impl Fault {
    /// What goes back in place of what `serve` would have said; `None` resets the connection. `marks` stand on all but that.
    pub async fn strike(self, marks: &[(&str, &str)], serve: impl FnOnce() -> Vec<u8>) -> Option<Vec<u8>> {
        let with = |field| [marks, &[field]].concat();
        Some(match self {
            Fault::Json(status, body) => answer(status, "application/json", marks, body.to_string().as_bytes()),
            Fault::Bytes(status, content_type, body) => answer(status, content_type, marks, &body),
            Fault::RetryAfter(status, seconds) => {
                let seconds = seconds.to_string();
                answer(status, "application/json", &with(("Retry-After", &seconds)), br#"{"error":"slow_down"}"#)
            }
            Fault::Html => answer(200, "text/html", marks, b"<h1>Maintenance</h1>"),
            Fault::Redirect(to) => answer(302, "text/html", &with(("Location", &to)), b""),
            Fault::Hang => std::future::pending().await,
            Fault::Reset => return None,
            Fault::LoseAnswer => {
                serve();
                return None;
            }
            Fault::Delay(by) => {
                tokio::time::sleep(by).await;
                serve()
            }
            Fault::Held(gate) => {
                gate.pass().await;
                serve()
            }
        })
    }
}

impl State {
    fn serve(&mut self, shared: &Shared, call: &Call) -> Vec<u8> {
        match call.endpoint {
            Endpoint::Discovery => json_answer(200, &Value::Object(self.metadata(shared))),
            Endpoint::Jwks => {
                let keys: Vec<Value> = self.keys.iter().map(SigningKey::jwk).collect();
                json_answer(200, &json!({ "keys": keys }))
            }
            Endpoint::Authorize => self.authorize(shared, call),
            Endpoint::Token => match self.token(shared, call) {
                Ok(tokens) => json_answer(200, &tokens),
                Err((status, error)) => json_answer(status, &json!({ "error": error })),
            },
            Endpoint::Userinfo => self.userinfo(call),
            Endpoint::Revocation => self.revoke(call),
            Endpoint::Introspection => self.introspect(call),
            Endpoint::EndSession => match call.parameter("post_logout_redirect_uri") {
                Some(back) => {
                    let state = call.parameter("state").map(|state| format!("?state={state}"));
                    redirect(&format!("{back}{}", state.unwrap_or_default()))
                }
                None => answer(200, "text/html", &[], b"<h1>Signed out</h1>"),
            },
        }
    }

    fn metadata(&self, shared: &Shared) -> Map<String, Value> {
        let issuer = format!("http://{}", shared.address);
        let document = json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
            "jwks_uri": format!("{issuer}/jwks"),
            "revocation_endpoint": format!("{issuer}/revoke"),
            "end_session_endpoint": format!("{issuer}/end-session"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256", "RS256"],
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "authorization_response_iss_parameter_supported": true,
        });
        let mut document = document.as_object().expect("an object").clone();
        (self.habits.metadata)(&mut document);
        document
    }

    fn authorize(&mut self, shared: &Shared, call: &Call) -> Vec<u8> {
        let redirect_uri = call.parameter("redirect_uri").unwrap_or("").to_owned();
        if call.parameter("client_id") != Some(CLIENT_ID) || !self.redirect_uris.contains(&redirect_uri) {
            return answer(400, "text/html", &[], b"<h1>Unknown client or redirect_uri</h1>");
        }
        let mut back = form_urlencoded::Serializer::new(String::new());
        if let Some((error, description)) = &self.habits.refuse {
            back.append_pair("error", error).append_pair("error_description", description);
        } else {
            let chosen = call.parameter("user").or_else(|| call.parameter("login_hint"));
            let user = chosen.filter(|name| self.users.contains_key(*name)).unwrap_or(&self.habits.user);
            self.grants.push(Grant {
                user: user.to_owned(),
                scope: call.parameter("scope").unwrap_or("").to_owned(),
                refresh_token: None,
                revoked: false,
            });
            let code = self.secret("code");
            let record = Code {
                grant: self.grants.len() - 1,
                redirect_uri: redirect_uri.clone(),
                challenge: call.parameter("code_challenge").map(str::to_owned),
                nonce: call.parameter("nonce").map(str::to_owned),
                used: false,
            };
            self.codes.insert(code.clone(), record);
            back.append_pair("code", &code);
        }
        if let Some(state) = call.parameter("state") {
            back.append_pair("state", state);
        }
        if self.habits.state_issuer {
            back.append_pair("iss", &format!("http://{}", shared.address));
        }
        redirect(&format!("{redirect_uri}?{}", back.finish()))
    }

    fn token(&mut self, shared: &Shared, call: &Call) -> Result<Value, (u16, &'static str)> {
        if call.method != "POST" {
            return Err((405, "invalid_request"));
        }
        if !is_our_client(call) {
            return Err((401, "invalid_client"));
        }
        match call.parameter("grant_type") {
            Some("authorization_code") => self.redeem_code(shared, call),
            Some("refresh_token") => self.redeem_refresh_token(shared, call),
            Some("client_credentials") => Ok(self.tokens_of_the_client(shared, call)),
            _ => Err((400, "unsupported_grant_type")),
        }
    }

    fn redeem_code(&mut self, shared: &Shared, call: &Call) -> Result<Value, (u16, &'static str)> {
        let code = call.parameter("code").ok_or((400, "invalid_request"))?;
        let record = self.codes.get_mut(code).ok_or((400, "invalid_grant"))?;
        let verifier = call.parameter("code_verifier").unwrap_or("");
        let challenge = base64url(digest::digest(&digest::SHA256, verifier.as_bytes()).as_ref());
        let honest = record.challenge.as_deref() == Some(&challenge)
            && call.parameter("redirect_uri") == Some(&record.redirect_uri);
        let grant = record.grant;
        if std::mem::replace(&mut record.used, true) || !honest {
            self.grants[grant].revoked = true;
            return Err((400, "invalid_grant"));
        }
        let nonce = record.nonce.clone();
        if self.habits.offline {
            self.renew_refresh_token(grant, shared.clock.mono());
        }
        Ok(self.tokens(shared, grant, nonce))
    }

    fn redeem_refresh_token(&mut self, shared: &Shared, call: &Call) -> Result<Value, (u16, &'static str)> {
        let presented = call.parameter("refresh_token").ok_or((400, "invalid_request"))?;
        let grant = *self.refresh_tokens.get(presented).ok_or((400, "invalid_grant"))?;
        if self.grants[grant].refresh_token.as_deref() != Some(presented) {
            let now = shared.clock.mono();
            let spent = self.spent.get(presented).copied().unwrap_or(now);
            self.reuses.push(Reuse { token: presented.to_owned(), spent, presented: now });
            self.grants[grant].revoked = true;
        }
        if self.grants[grant].revoked {
            return Err((400, "invalid_grant"));
        }
        if self.habits.rotate {
            self.renew_refresh_token(grant, shared.clock.mono());
        }
        let mut tokens = self.tokens(shared, grant, None);
        if !self.habits.rotate {
            tokens.as_object_mut().expect("an object").remove("refresh_token");
        }
        Ok(tokens)
    }

    /// RFC 6749 §4.4.3: an access token and nothing else; [`Provider::user_of`] calls its owner by the client's name.
    fn tokens_of_the_client(&mut self, shared: &Shared, call: &Call) -> Value {
        let scope = call.parameter("scope").unwrap_or("").to_owned();
        self.grants.push(Grant { user: CLIENT_ID.to_owned(), scope, refresh_token: None, revoked: false });
        let access_token = self.secret("at");
        let expires = shared.clock.mono().after(Duration::from_secs(self.habits.access_ttl));
        let record = AccessToken { grant: self.grants.len() - 1, expires, revoked: false };
        self.access_tokens.insert(access_token.clone(), record);
        let answer =
            json!({ "access_token": access_token, "token_type": "Bearer", "expires_in": self.habits.access_ttl });
        let mut answer = answer.as_object().expect("an object").clone();
        (self.habits.token_answer)(&mut answer);
        Value::Object(answer)
    }

    fn renew_refresh_token(&mut self, grant: usize, now: Mono) {
        let token = self.secret("rt");
        self.refresh_tokens.insert(token.clone(), grant);
        if let Some(spent) = self.grants[grant].refresh_token.replace(token) {
            self.spent.insert(spent, now);
        }
    }

    fn tokens(&mut self, shared: &Shared, grant: usize, nonce: Option<String>) -> Value {
        let now = shared.clock.now();
        let access_token = self.secret("at");
        let expires = now.mono.after(Duration::from_secs(self.habits.access_ttl));
        self.access_tokens.insert(access_token.clone(), AccessToken { grant, expires, revoked: false });

        let mut claims = self.users[&self.grants[grant].user].clone();
        claims.insert("iss".to_owned(), json!(format!("http://{}", shared.address)));
        claims.insert("aud".to_owned(), json!(CLIENT_ID));
        claims.insert("iat".to_owned(), json!(now.unix));
        claims.insert("exp".to_owned(), json!(now.unix + 3600));
        if let Some(nonce) = nonce {
            claims.insert("nonce".to_owned(), json!(nonce));
        }
        let key = self.keys.last().expect("a key");
        let header = json!({ "alg": key.algorithm(), "kid": key.kid, "typ": "JWT" });
        let header = header.as_object().expect("an object").clone();
        let mut id_token = IdToken { header, claims, signature: Signature::Good };
        (self.habits.id_token)(&mut id_token);
        let id_token = id_token.encode(key);
        self.secrets.push(id_token.clone());

        let mut answer = Map::new();
        answer.insert("access_token".to_owned(), json!(access_token));
        answer.insert("token_type".to_owned(), json!("Bearer"));
        answer.insert("expires_in".to_owned(), json!(self.habits.access_ttl));
        answer.insert("scope".to_owned(), json!(self.grants[grant].scope));
        answer.insert("id_token".to_owned(), json!(id_token));
        if let Some(refresh_token) = &self.grants[grant].refresh_token {
            answer.insert("refresh_token".to_owned(), json!(refresh_token));
        }
        (self.habits.token_answer)(&mut answer);
        Value::Object(answer)
    }

    fn userinfo(&self, call: &Call) -> Vec<u8> {
        let authorization = call.headers.value("authorization").unwrap_or("");
        let token = authorization.strip_prefix("Bearer ").unwrap_or("");
        let Some(token) = self.access_tokens.get(token).filter(|token| !token.revoked) else {
            return json_answer(401, &json!({ "error": "invalid_token" }));
        };
        let mut claims = self.users[&self.grants[token.grant].user].clone();
        (self.habits.userinfo)(&mut claims);
        json_answer(200, &Value::Object(claims))
    }

    fn revoke(&mut self, call: &Call) -> Vec<u8> {
        if !is_our_client(call) {
            return json_answer(401, &json!({ "error": "invalid_client" }));
        }
        let token = call.parameter("token").unwrap_or("");
        if let Some(grant) = self.refresh_tokens.get(token) {
            self.grants[*grant].revoked = true;
        }
        if let Some(access_token) = self.access_tokens.get_mut(token) {
            access_token.revoked = true;
        }
        json_answer(200, &json!({}))
    }

    /// RFC 7662.
    fn introspect(&self, call: &Call) -> Vec<u8> {
        if !is_our_client(call) {
            return json_answer(401, &json!({ "error": "invalid_client" }));
        }
        let said = call.parameter("token").and_then(|token| self.introspected.get(token));
        json_answer(200, said.unwrap_or(&json!({ "active": false })))
    }

    fn secret(&mut self, kind: &str) -> String {
        let secret = format!("{kind}-{}", random_text(24));
        self.secrets.push(secret.clone());
        secret
    }
}

fn endpoint_at(path: &str) -> Option<Endpoint> {
    Some(match path {
        "/.well-known/openid-configuration" => Endpoint::Discovery,
        "/jwks" => Endpoint::Jwks,
        "/authorize" => Endpoint::Authorize,
        "/token" => Endpoint::Token,
        "/userinfo" => Endpoint::Userinfo,
        "/revoke" => Endpoint::Revocation,
        "/introspect" => Endpoint::Introspection,
        "/end-session" => Endpoint::EndSession,
        _ => return None,
    })
}

/// `client_secret_basic` or `client_secret_post` (RFC 6749 §2.3.1).
fn is_our_client(call: &Call) -> bool {
    if let Some(basic) = call.headers.value("authorization").and_then(|value| value.strip_prefix("Basic ")) {
        return STANDARD.decode(basic).is_ok_and(|pair| pair == format!("{CLIENT_ID}:{CLIENT_SECRET}").into_bytes());
    }
    call.parameter("client_id") == Some(CLIENT_ID) && call.parameter("client_secret") == Some(CLIENT_SECRET)
}

fn json_answer(status: u16, body: &Value) -> Vec<u8> {
    let body = serde_json::to_vec(body).expect("JSON");
    answer(status, "application/json", &[("Cache-Control", "no-store")], &body)
}

fn redirect(location: &str) -> Vec<u8> {
    answer(302, "text/html", &[("Location", location)], b"")
}

pub fn answer(status: u16, content_type: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let length = body.len().to_string();
    let mut fields = vec![("Content-Type", content_type), ("Content-Length", length.as_str())];
    fields.extend_from_slice(headers);
    let fields = fields.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    message(&format!("HTTP/1.1 {status} Scripted"), &Headers(fields), body)
}

/// The peer sees a reset and no orderly end.
fn reset(connection: &Connection) {
    let _ = socket2::SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
}
