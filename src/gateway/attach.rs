//! Step 6: the route's credential (SPEC §4) and identity headers, in place of anything the client
//! sent under those names.

use super::{Attach, Attempted, Complete, Parts, Route, Step, TokenChoice, cors, query};
use crate::body::Body;
use crate::policy;
use crate::policy::csrf::Source;
use crate::policy::require::claim;
use crate::session::{Session, stand_in};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Response, header};
use percent_encoding::{AsciiSet, CONTROLS, NON_ALPHANUMERIC, utf8_percent_encode};
use pin_project_lite::pin_project;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tower::Service;

#[derive(Clone)]
pub struct AttachCredential<S> {
    parts: Arc<Parts>,
    inner: S,
}

impl<S> AttachCredential<S> {
    pub fn new(parts: &Arc<Parts>, inner: S) -> AttachCredential<S> {
        AttachCredential { parts: Arc::clone(parts), inner }
    }
}

impl<S> Service<Attempted> for AttachCredential<S>
where
    S: Step<Complete>,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Attached<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, attempted: Attempted) -> Self::Future {
        let Attempted { exchange, mut message, session, client, token } = attempted;
        let route = &exchange.route;
        let target = route.upstream_target(&exchange.facts.path);
        let target = match &route.acceptance {
            Some(acceptance) => target.and_then(|target| query::without(&target, acceptance.key_parameters())),
            None => target,
        };
        let with_token = |target: PathAndQuery, token: Option<&SecretString>| match exchange.shows_stand_in {
            true => stand_in::replace_in_query(&target, token),
            false => Some(target),
        };
        if policy::is_preflight(&message.method, &message.headers) {
            // It has shown no session, so a credential of the gateway's own stays here as well.
            let target = target.and_then(|target| with_token(target, None));
            let rest = self.inner.call(Complete { exchange, message, session, client, target });
            return Attached { rest, in_query: None };
        }
        if client.is_some() && route.settings.attach.is_the_gateway_s_own() {
            message.headers.remove(header::AUTHORIZATION);
        }
        attach_credential(&self.parts, &route.settings.attach, &mut message.headers, session.as_deref(), &token);
        let takes_token = matches!(token, TokenChoice::Send) && route.settings.attach.needs_session();
        let in_query = session
            .as_ref()
            .filter(|_| exchange.shows_stand_in && takes_token && !is_foreign(&self.parts, route, &message.headers))
            .map(|session| session.tokens.access_token.clone());
        let target = target.and_then(|target| with_token(target, in_query.as_ref()));
        let claims = session.as_ref().map(|session| &session.identity.claims);
        if let Some(claims) = claims.or(client.as_ref().map(|client| &client.claims)) {
            attach_identity(route, &mut message.headers, claims);
        }
        let target = match &route.settings.attach {
            Attach::ApiKeyQuery(name, key) => target.and_then(|target| with_api_key(&target, name, key)),
            _ => target,
        };
        Attached { rest: self.inner.call(Complete { exchange, message, session, client, target }), in_query }
    }
}

pin_project! {
    /// The rest of the way, and on the way back nothing of a token that the query may have got.
    pub struct Attached<F> {
        #[pin]
        rest: F,
        in_query: Option<SecretString>,
    }
}

impl<F> Future for Attached<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>>,
{
    type Output = F::Output;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = self.project();
        let mut outcome = ready!(this.rest.poll(cx));
        if let (Some(token), Ok(response)) = (this.in_query, &mut outcome) {
            stand_in::put_back(response.headers_mut(), token);
        }
        Poll::Ready(outcome)
    }
}

/// Whether another site has written the query: it could make up a stand-in, and a backend might copy the query to who knows where.
fn is_foreign(parts: &Parts, route: &Route, headers: &HeaderMap) -> bool {
    cors::source(parts, route, headers) == Source::Foreign
}

fn attach_credential(
    parts: &Parts,
    attach: &Attach,
    headers: &mut HeaderMap,
    session: Option<&Session>,
    token: &TokenChoice,
) {
    let session = session.filter(|_| matches!(token, TokenChoice::Send));
    match (attach, session) {
        (Attach::Bearer { header, scheme }, Some(session)) => {
            let value = if scheme == "Bearer" {
                Some(session.tokens.bearer.clone())
            } else {
                token_value(scheme, &session.tokens.access_token)
            };
            put(headers, header, value)
        }
        (Attach::IdToken, Some(session)) => {
            let value = session.tokens.id_token.as_ref().and_then(|token| token_value("Bearer", token));
            put(headers, &header::AUTHORIZATION, value)
        }
        (Attach::Assertion(settings), Some(session)) => {
            let value = parts.assertions.header_value(settings, session, parts.clock.now());
            put(headers, &settings.header, value)
        }
        (Attach::ClientCredentials(_), _) => {
            if let TokenChoice::Machine(token) = token {
                headers.insert(header::AUTHORIZATION, token.bearer.clone());
            }
        }
        (Attach::Basic(value), _) => {
            headers.insert(header::AUTHORIZATION, value.clone());
        }
        (Attach::ApiKeyHeader(name, value), _) => {
            headers.insert(name, value.clone());
        }
        (Attach::Bearer { .. } | Attach::IdToken | Attach::Assertion(_), None)
        | (Attach::ApiKeyQuery(..) | Attach::Never, _) => {}
    }
}

/// One credential, and no other beside it.
fn put(headers: &mut HeaderMap, name: &HeaderName, value: Option<HeaderValue>) {
    let Some(value) = value else { return };
    if *name != header::AUTHORIZATION {
        headers.remove(header::AUTHORIZATION);
    }
    headers.insert(name, value);
}

fn token_value(scheme: &str, token: &SecretString) -> Option<HeaderValue> {
    let token = token.expose_secret();
    let text = if scheme.is_empty() { token.to_owned() } else { format!("{scheme} {token}") };
    let mut value = HeaderValue::try_from(text).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A claim that is missing leaves no header: the client's were taken out at intake.
fn attach_identity(route: &Route, headers: &mut HeaderMap, claims: &Map<String, Value>) {
    for (name, path) in &route.settings.identity {
        if let Some(text) = claim(claims, path).and_then(header_text)
            && let Ok(value) = HeaderValue::try_from(text)
        {
            headers.insert(name, value);
        }
    }
}

/// Claims as header text: what cannot stand there is percent-encoded as UTF-8, and so are `%`, spaces
/// at the ends, which get lost on the way (RFC 9110 §5.5), and, within arrays, the comma that joins
/// them, so that no member can pass for two and no name for another.
fn header_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(encoded(text, UNFIT)),
        Value::Bool(_) | Value::Number(_) => Some(value.to_string()),
        Value::Array(members) => {
            let texts: Option<Vec<String>> = members
                .iter()
                .map(|member| match member {
                    Value::String(text) => Some(encoded(text, UNFIT_IN_LIST)),
                    scalar => header_text(scalar),
                })
                .collect();
            Some(texts?.join(","))
        }
        Value::Null | Value::Object(_) => None,
    }
}

fn encoded(text: &str, unfit: &'static AsciiSet) -> String {
    let inner = text.trim_matches(' ');
    let spaces_before = text.len() - text.trim_start_matches(' ').len();
    let spaces_after = text.len() - inner.len() - spaces_before;
    let space = |count| "%20".repeat(count);
    format!("{}{}{}", space(spaces_before), utf8_percent_encode(inner, unfit), space(spaces_after))
}

/// The key once; a client's copy is gone, the other parameters keep their order and bytes.
fn with_api_key(target: &PathAndQuery, name: &str, key: &SecretString) -> Option<PathAndQuery> {
    let mut pairs: Vec<String> = target
        .query()
        .unwrap_or_default()
        .split('&')
        .filter(|pair| !pair.is_empty())
        .filter(|pair| !query::is_named(pair, name))
        .map(str::to_owned)
        .collect();
    pairs.push(format!(
        "{}={}",
        utf8_percent_encode(name, NON_ALPHANUMERIC),
        utf8_percent_encode(key.expose_secret(), NON_ALPHANUMERIC)
    ));
    PathAndQuery::try_from(format!("{}?{}", target.path(), pairs.join("&"))).ok()
}

/// Controls, the escape character itself, and (by the encoder's nature) everything outside ASCII.
const UNFIT: &AsciiSet = &CONTROLS.add(b'%');
const UNFIT_IN_LIST: &AsciiSet = &UNFIT.add(b',');

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn claims_cannot_forge_headers_or_groups() {
        for (claim, text) in [
            (json!("Ada"), Some("Ada")),
            (json!("a\r\nX-Admin: 1"), Some("a%0D%0AX-Admin: 1")),
            (json!("100 %"), Some("100 %25")),
            (json!("Zoë"), Some("Zo%C3%AB")),
            (json!("a,b"), Some("a,b")),
            (json!(" a b  "), Some("%20a b%20%20")),
            (json!("  "), Some("%20%20")),
            (json!(["a", " b"]), Some("a,%20b")),
            (json!(["users", "CN=Admins,OU=x"]), Some("users,CN=Admins%2COU=x")),
            (json!([1, true]), Some("1,true")),
            (json!([]), Some("")),
            (json!({"a": 1}), None),
            (json!(null), None),
            (json!([{"a": 1}]), None),
        ] {
            assert_eq!(header_text(&claim).as_deref(), text, "{claim}");
        }
    }

    #[test]
    fn the_api_key_stands_once_and_the_rest_keeps_its_bytes() {
        let target = PathAndQuery::from_static("/p?a=1&a=2&apiKey=forged&b=%7e&api%4Bey=too&c");
        let target = with_api_key(&target, "apiKey", &"re al".into()).unwrap();
        assert_eq!(target, "/p?a=1&a=2&b=%7e&c&apiKey=re%20al");
    }
}
