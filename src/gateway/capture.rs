//! Step 5: the calls of an app that knows of no gateway and thinks it holds its tokens (SPEC §6 "Capture"). Its login goes to the
//! backend; of the answer the app gets everything but the tokens. Its refresh and its logout are answered here.
//!
//! | the backend's answer to a login | leads to |
//! |---|---|
//! | not 2xx, or empty | relayed |
//! | JSON object with a token at `token_property` | a session; relayed with stand-ins, for whatever else is called a token too |
//! | the same, but its refresh token is not where `refresh_token_property` says | 502 |
//! | JSON object without anything that is called like a token | relayed: an error inside 200, a second factor to come |
//! | any other JSON object: the token is not where `token_property` says | 502 |
//! | anything that cannot be read: no JSON object, repeated members, encoded, too large, too slow | 502 |

use super::replay::{self, Kept};
use super::{AppCall, Boxed, Exchange, Parts, Permitted, ShownByApp, Step, Verdict};
use crate::body::Body;
use crate::endpoints::{Asked, Granted};
use crate::provider::backend::{BackendSettings, is_name_of_refresh_token, is_name_of_token};
use crate::provider::{Provider, TokenResponse};
use crate::reply::{Outcome, Refusal};
use crate::session::{Session, stand_in};
use bytes::Bytes;
use http::Response;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use http::response::Parts as Head;
use http_body::Body as _;
use http_body_util::{BodyExt, Limited};
use percent_encoding::percent_decode_str;
use secrecy::{ExposeSecret, SecretString};
use serde_json::Value;
use std::convert::Infallible;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::timeout;
use tower::Service;
use url::form_urlencoded;

#[derive(Clone)]
pub struct Capture<S> {
    parts: Arc<Parts>,
    inner: S,
}

impl<S> Capture<S> {
    pub fn new(parts: &Arc<Parts>, inner: S) -> Capture<S> {
        Capture { parts: Arc::clone(parts), inner }
    }
}

impl<S> Service<Permitted> for Capture<S>
where
    S: Step<Permitted> + Clone + Send + 'static,
    S::Future: Send,
{
    type Response = S::Response;
    type Error = Infallible;
    type Future = Verdict<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut permitted: Permitted) -> Self::Future {
        let call = permitted.exchange.app_call.zip(permitted.exchange.route.backend.clone());
        let (Some((call, backend)), Some(shown)) = (call, permitted.shown.take()) else {
            return Verdict::Onward { rest: self.inner.call(permitted) };
        };
        let (parts, inner) = (Arc::clone(&self.parts), self.inner.clone());
        let rest: Boxed = match call {
            AppCall::Login => Box::pin(log_in(parts, inner, permitted, backend, shown)),
            AppCall::Refresh | AppCall::Logout => Box::pin(answer_here(parts, inner, permitted, backend, call, shown)),
        };
        Verdict::Waiting { rest }
    }
}

/// Refresh and logout. An app may show its stand-in in the body alone; without any, the call is the backend's own business.
async fn answer_here<S: Step<Permitted>>(
    parts: Arc<Parts>,
    mut inner: S,
    mut permitted: Permitted,
    backend: Arc<Provider>,
    call: AppCall,
    shown: ShownByApp,
) -> Result<Response<Body>, Infallible> {
    let exchange = Arc::clone(&permitted.exchange);
    if matches!(shown, ShownByApp::Nothing) {
        if !parts.captures {
            return inner.call(permitted).await;
        }
        let body =
            timeout(BODY_WITHIN, Limited::new(std::mem::take(&mut permitted.message.body), MOST_OF_CALL).collect());
        match body.await.map(|body| body.map(|body| body.to_bytes())) {
            Ok(Ok(body)) if stand_in::is_in(&body) => {}
            Ok(Ok(body)) => {
                permitted.message.body = body.into();
                return inner.call(permitted).await;
            }
            Ok(Err(_)) => return Ok(exchange.refuse(&Refusal::BodyTooLarge)),
            Err(_) => return Ok(exchange.refuse(&Refusal::Malformed("the body did not arrive in time"))),
        }
    }
    let session = match shown {
        ShownByApp::Session(session) => Some(session),
        ShownByApp::Remains | ShownByApp::Nothing => None,
    };
    let headers = permitted.message.headers;
    let asked = Asked { facts: &exchange.facts, cookies: &exchange.cookies, session, headers };
    Ok(match backend.backend() {
        Some(settings) if call == AppCall::Refresh => parts.endpoints.refresh_for_app(asked, settings).await,
        _ => parts.endpoints.log_out_for_app(asked).await,
    })
}

/// From the app's login to its answer, in tasks of their own: what the backend has granted is used, or given back when nobody is
/// there any more to take the cookie.
async fn log_in<S>(
    parts: Arc<Parts>,
    mut inner: S,
    mut permitted: Permitted,
    backend: Arc<Provider>,
    shown: ShownByApp,
) -> Result<Response<Body>, Infallible>
where
    S: Step<Permitted> + Send + 'static,
    S::Future: Send,
{
    let exchange = Arc::clone(&permitted.exchange);
    let previous = match shown {
        ShownByApp::Session(session) => Some(session),
        ShownByApp::Remains | ShownByApp::Nothing => None,
    };
    let form = Form::watch(&parts, &mut permitted);
    permitted.message.headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    let login = Login { parts: Arc::clone(&parts), exchange: Arc::clone(&exchange), backend, previous };
    let (announce, answer) = oneshot::channel();
    tokio::spawn(async move {
        let response = match inner.call(permitted).await {
            Ok(response) => response,
            Err(never) => match never {},
        };
        if response.status().is_success() && !response.body().is_end_stream() {
            let background = login.parts.endpoints.background.clone();
            background.run(login.finish(form, response, announce));
        } else {
            // Whoever has hung up needs no answer.
            let _ = announce.send(response);
        }
    });
    Ok(answer.await.unwrap_or_else(|_| exchange.refuse(&Refusal::Internal)))
}

/// An app's login that the backend has answered.
struct Login {
    parts: Arc<Parts>,
    exchange: Arc<Exchange>,
    backend: Arc<Provider>,
    previous: Option<Arc<Session>>,
}

impl Login {
    async fn finish(self, form: Form, response: Response<Body>, announce: oneshot::Sender<Response<Body>>) {
        let (head, body) = response.into_parts();
        let read = match self.read(&head, body).await {
            Ok(read) => read,
            Err(reason) => {
                tracing::warn!(target: "latchgate::audit", event = "login_failed", provider = self.backend.name(), reason, request = %self.exchange.facts.id, "a backend's answer to a login was kept back");
                return drop(announce.send(self.exchange.refuse(&Refusal::LoginAnswerUnusable)));
            }
        };
        let (text, answer, tokens, disguise) = match read {
            Answer::Other(text) => return drop(announce.send(Response::from_parts(head, text.into()))),
            Answer::Tokens { text, answer, tokens, disguise } => (text, answer, *tokens, disguise),
        };
        let granted = Granted {
            provider: Arc::clone(&self.backend),
            tokens: tokens.clone(),
            answer,
            username: form.username(self.backend.backend(), self.exchange.facts.path.query()).await,
            began: self.exchange.facts.now.mono,
        };
        let endpoints = &self.parts.endpoints;
        let delivered = match endpoints.open_granted(granted, &self.exchange.cookies).await {
            Ok((session, cookies)) => {
                let mut response = disguised(head, &text, cookies, &disguise);
                response.extensions_mut().insert(Outcome("signed_in"));
                let delivered = announce.send(response).is_ok();
                self.conclude(&session, delivered).await;
                delivered
            }
            Err(refusal) => {
                let _ = announce.send(self.exchange.refuse(&refusal));
                false
            }
        };
        if !delivered {
            // Best effort: the backend forgets it in time.
            let _ = self.backend.revoke(&tokens.access_token, tokens.refresh_token.as_ref()).await;
        }
    }

    /// Whatever the app may be given, or has to be.
    async fn read(&self, head: &Head, body: Body) -> Result<Answer, &'static str> {
        let Some(backend) = self.backend.backend() else { return Err("no_backend") };
        if head.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
            return Err("encoded");
        }
        let passed = self.parts.clock.mono().since(self.exchange.facts.now.mono);
        let within = self.exchange.route.response_timeout().saturating_sub(passed).max(LEAST_FOR_BODY);
        let text = match timeout(within, Limited::new(body, MOST_OF_ANSWER).collect()).await {
            Ok(Ok(whole)) => whole.to_bytes(),
            Ok(Err(error)) if error.is::<http_body_util::LengthLimitError>() => return Err("too_large"),
            Ok(Err(_)) => return Err("broken_off"),
            Err(_) => return Err("too_slow"),
        };
        if text.is_empty() {
            return Ok(Answer::Other(text));
        }
        let answer = Value::Object(BackendSettings::read_object(&text).ok_or("not_a_json_object")?);
        let Some(tokens) = backend.tokens(&answer) else {
            let is_elsewhere = !texts_called(&answer, is_name_of_token).is_empty();
            return if is_elsewhere { Err("token_elsewhere") } else { Ok(Answer::Other(text)) };
        };
        let lacks_refresh_token = tokens.refresh_token.is_none() && backend.refresh.is_some();
        if lacks_refresh_token && !texts_called(&answer, is_name_of_refresh_token).is_empty() {
            return Err("refresh_token_elsewhere");
        }
        let disguise = Disguise::of(&tokens, &answer);
        Ok(Answer::Tokens { text, answer, tokens: Box::new(tokens), disguise })
    }

    /// A session that nobody has heard of is undone; the one before it is over when there is another.
    async fn conclude(&self, session: &Session, delivered: bool) {
        let sessions = &self.parts.sessions;
        if !delivered {
            // It is over in time if it cannot be ended now: nobody has its id.
            let _ = sessions.end(session.key).await;
            return;
        }
        tracing::info!(target: "latchgate::audit", event = "login", provider = self.backend.name(), session = %session.key, request = %self.exchange.facts.id, "signed in");
        if let Some(previous) = &self.previous
            && let Err(error) = sessions.end(previous.key).await
        {
            // Its cookie is gone all the same, and it will be over in time.
            tracing::warn!(reason = error.reason, session = %previous.key, "the session before this login could not be ended");
        }
    }
}

/// What a backend said to a login.
enum Answer {
    /// That nobody is signed in yet.
    Other(Bytes),
    /// Tokens, among other things.
    Tokens { text: Bytes, answer: Value, tokens: Box<TokenResponse>, disguise: Disguise },
}

/// What the app has sent to sign in, for the name of who does.
struct Form {
    kept: Option<Kept>,
    is_json: bool,
}

impl Form {
    fn watch(parts: &Parts, permitted: &mut Permitted) -> Form {
        let message = &mut permitted.message;
        let mut content_types = message.headers.get_all(header::CONTENT_TYPE).iter();
        let content_type = match (content_types.next(), content_types.next()) {
            (Some(only), None) => only.to_str().unwrap_or_default().to_ascii_lowercase(),
            _ => String::new(),
        };
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let is_json = media_type == "application/json" || media_type.ends_with("+json") && !media_type.contains(',');
        if !is_json && media_type != "application/x-www-form-urlencoded" {
            return Form { kept: None, is_json };
        }
        let (body, kept) = replay::keep(std::mem::take(&mut message.body), MOST_OF_CALL as u64, &parts.replay_budget);
        message.body = body;
        Form { kept: Some(kept), is_json }
    }

    /// Only if the backend cannot have read another name out of the same call: in another spelling, another place, or a repetition.
    async fn username(self, backend: Option<&BackendSettings>, query: Option<&str>) -> Option<String> {
        let field = &backend?.fields.username;
        let is_alike = |name: &str| spelling(name) == spelling(field);
        if form_urlencoded::parse(query.unwrap_or_default().as_bytes()).any(|(name, _)| is_alike(&name)) {
            return None;
        }
        let body = timeout(BODY_WITHIN, Limited::new(self.kept?.replay()?, MOST_OF_CALL).collect()).await.ok()?.ok()?;
        let body = body.to_bytes();
        let sent: Vec<(String, Value)> = match self.is_json {
            true => BackendSettings::read_object(&body)?.into_iter().collect(),
            false => form_urlencoded::parse(&body).into_owned().map(|(name, value)| (name, value.into())).collect(),
        };
        let mut alike = sent.iter().filter(|(name, _)| is_alike(name));
        match (alike.next(), alike.next()) {
            (Some((name, value)), None) if name == field => value.as_str().map(str::to_owned),
            _ => None,
        }
    }
}

/// The same for all names that some backend takes for one: some overlook case as Unicode folds it, others punctuation, and what
/// stands in brackets makes a list.
fn spelling(name: &str) -> String {
    let name = name.split('[').next().unwrap_or_default();
    let folded = name.chars().flat_map(char::to_lowercase).flat_map(char::to_uppercase);
    folded.filter(|character| character.is_alphanumeric()).collect()
}

/// Tokens and what the app gets for them, the longest first.
struct Disguise(Vec<(SecretString, String)>);

impl Disguise {
    /// Whatever else `answer` calls a token gets a stand-in as well, unless it is too short to be one.
    fn of(tokens: &TokenResponse, answer: &Value) -> Disguise {
        let mut known: Vec<SecretString> =
            [Some(&tokens.access_token), tokens.refresh_token.as_ref()].into_iter().flatten().cloned().collect();
        for text in texts_called(answer, is_name_of_token) {
            if text.len() >= SHORTEST_OTHER && known.iter().all(|token| token.expose_secret() != text) {
                known.push(text.into());
            }
        }
        known.sort_by_key(|token| std::cmp::Reverse(token.expose_secret().len()));
        let with_stand_in = known.into_iter().map(|token| {
            let stand_in = stand_in::for_token(&token);
            (token, stand_in)
        });
        Disguise(with_stand_in.collect())
    }

    fn is_needed_for(&self, text: &str) -> bool {
        self.0.iter().any(|(token, _)| text.contains(token.expose_secret()))
    }

    fn text(&self, mut rest: &str) -> String {
        let mut text = String::with_capacity(rest.len());
        let first = |rest: &str| {
            let places = self.0.iter().filter_map(|(token, stand_in)| {
                let token = token.expose_secret();
                Some((rest.find(token)?, token.len(), stand_in.as_str()))
            });
            places.min_by_key(|&(at, ..)| at)
        };
        while let Some((at, length, stand_in)) = first(rest) {
            text.push_str(&rest[..at]);
            text.push_str(stand_in);
            rest = &rest[at + length..];
        }
        text.push_str(rest);
        text
    }

    /// A string without its tokens, which may be percent-encoded, as in a URL; None when there are none.
    fn string(&self, value: &str) -> Option<String> {
        if self.is_needed_for(value) {
            return Some(self.text(value));
        }
        let decoded = percent_decode_str(value).decode_utf8_lossy();
        self.is_needed_for(&decoded).then(|| self.text(&decoded))
    }

    /// In every string of a JSON text; all other bytes stay as they are.
    fn json(&self, text: &str) -> String {
        let mut result = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find('"') {
            result.push_str(&rest[..start]);
            let (literal, after) = rest[start..].split_at(end_of_string(&rest[start..]));
            match serde_json::from_str(literal).ok().and_then(|value: String| self.string(&value)) {
                Some(value) => result.push_str(&Value::String(value).to_string()),
                None => result.push_str(literal),
            }
            rest = after;
        }
        result.push_str(rest);
        result
    }
}

/// Behind the closing quote of the string that `text` begins with.
fn end_of_string(text: &str) -> usize {
    let mut is_escaped = false;
    for (at, byte) in text.bytes().enumerate().skip(1) {
        match byte {
            _ if is_escaped => is_escaped = false,
            b'\\' => is_escaped = true,
            b'"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The backend's answer without its tokens, and with the session's cookies.
fn disguised(mut head: Head, text: &[u8], cookies: Vec<HeaderValue>, disguise: &Disguise) -> Response<Body> {
    let headers = &mut head.headers;
    for name in OF_THE_OLD_BODY {
        headers.remove(name);
    }
    remove_lines(headers, |value| disguise.string(&String::from_utf8_lossy(value)).is_some());
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.extend(cookies.into_iter().map(|line| (header::SET_COOKIE, line)));
    Response::from_parts(head, disguise.json(&String::from_utf8_lossy(text)).into())
}

/// Takes out single values; others of the same name stay, in their order.
fn remove_lines(headers: &mut HeaderMap, is_unwanted: impl Fn(&[u8]) -> bool) {
    let names: Vec<HeaderName> = headers.keys().cloned().collect();
    for name in names {
        if headers.get_all(&name).iter().any(|value| is_unwanted(value.as_bytes()))
            && let header::Entry::Occupied(entry) = headers.entry(&name)
        {
            let kept: Vec<HeaderValue> = entry.iter().filter(|value| !is_unwanted(value.as_bytes())).cloned().collect();
            entry.remove_entry_mult();
            headers.extend(kept.into_iter().map(|value| (name.clone(), value)));
        }
    }
}

/// The texts of all members of such a name, at any depth.
fn texts_called(value: &Value, is_such_a_name: fn(&str) -> bool) -> Vec<&str> {
    match value {
        Value::Object(members) => {
            let texts = members.iter().flat_map(|(name, value)| match value {
                Value::String(text) if !text.is_empty() && is_such_a_name(name) => vec![text.as_str()],
                value => texts_called(value, is_such_a_name),
            });
            texts.collect()
        }
        Value::Array(items) => items.iter().flat_map(|item| texts_called(item, is_such_a_name)).collect(),
        _ => Vec::new(),
    }
}

/// A number or a word that is called a token stays: the same text may stand for something else beside it.
const SHORTEST_OTHER: usize = 8;
/// Headers that are about the bytes of the body as they were.
const OF_THE_OLD_BODY: [HeaderName; 8] = [
    header::CONTENT_LENGTH,
    header::CONTENT_ENCODING,
    header::ETAG,
    header::LAST_MODIFIED,
    header::ACCEPT_RANGES,
    HeaderName::from_static("digest"),
    HeaderName::from_static("content-digest"),
    HeaderName::from_static("repr-digest"),
];
const MOST_OF_ANSWER: usize = 1024 * 1024;
/// Of a login, a refresh or a logout: names, passwords and tokens are small.
const MOST_OF_CALL: usize = 16 * 1024;
const BODY_WITHIN: Duration = Duration::from_secs(10);
/// However long the backend took to begin.
const LEAST_FOR_BODY: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn disguise(access_token: &str, refresh_token: &str) -> Disguise {
        let tokens = TokenResponse {
            access_token: access_token.into(),
            expires_in: None,
            refresh_token: Some(refresh_token.into()),
            id_token: None,
            scope: None,
        };
        Disguise::of(&tokens, &Value::Null)
    }

    #[test]
    fn a_json_text_keeps_every_byte_but_those_of_the_tokens() {
        let disguise = disguise("a/t", "a/t+rt");
        let text = r#"{ "token" : "a\/t", "n":1.0, "big":123456789012345678901234567890,"é\u00e9\"":"\\",
            "both":"Bearer a/t, a\u002ft+rt", "a/t":["x", {"r":"a/t+rt"}], "u":"/x?t=a%2Ft"}"#;
        let (access, refresh) = (stand_in_of(&disguise, "a/t"), stand_in_of(&disguise, "a/t+rt"));
        let expected = text
            .replace(r#""a\/t""#, &format!("\"{access}\""))
            .replace(r#"Bearer a/t, a\u002ft+rt"#, &format!("Bearer {access}, {refresh}"))
            .replace("\"a/t\":[", &format!("\"{access}\":["))
            .replace("\"a/t+rt\"", &format!("\"{refresh}\""))
            .replace("a%2Ft", &access);
        assert_eq!(disguise.json(text), expected);
    }

    fn stand_in_of(disguise: &Disguise, token: &str) -> String {
        disguise.0.iter().find(|(known, _)| known.expose_secret() == token).unwrap().1.clone()
    }

    #[test]
    fn header_lines_with_a_token_go_and_the_others_stay() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("set-cookie", "a=1"),
            ("set-cookie", "t=a%2ft; HttpOnly"),
            ("set-cookie", "r=a/t+rt"),
            ("set-cookie", "b=2"),
            ("x-token", "a/t"),
            ("etag", "\"1\""),
            ("content-length", "7"),
            ("cache-control", "public"),
            ("x-more", "kept"),
        ] {
            headers.append(HeaderName::from_static(name), HeaderValue::from_static(value));
        }
        let mut head = Response::new(()).into_parts().0;
        head.headers = headers;
        let cookies = vec![HeaderValue::from_static("latchgate=x")];
        let response = disguised(head, b"{}", cookies, &disguise("a/t", "a/t+rt"));
        let mut left: Vec<(&str, &str)> =
            response.headers().iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
        left.sort_by_key(|&(name, _)| name);
        assert_eq!(
            left,
            [
                ("cache-control", "no-store"),
                ("set-cookie", "a=1"),
                ("set-cookie", "b=2"),
                ("set-cookie", "latchgate=x"),
                ("x-more", "kept"),
            ]
        );
    }

    #[test]
    fn what_is_called_like_a_token_is_seen_at_any_depth() {
        for (answer, seen) in [
            (json!({"data": [{"accessToken": "x"}]}), true),
            (json!({"refresh_token": "x"}), true),
            (json!({"token": ""}), false),
            (json!({"token": null, "access_token": {"of": "x"}}), false),
            (json!({"error": "token"}), false),
            (json!({"mfaToken": "x"}), false),
            (json!({"Access-Token": "x"}), true),
            (json!({"jwt": "x"}), true),
        ] {
            assert_eq!(!texts_called(&answer, is_name_of_token).is_empty(), seen, "{answer}");
        }
    }
}
