//! `accept` of a route (SPEC §11): which credentials let a request in, besides a session or instead of one. The first of the list that
//! is there decides, good or bad. What is there besides goes no further: an upstream of such a route sees no credential that nobody
//! has looked at, and no API key at all.

use super::headers::OwnedNames;
use super::{Credential, Known, Parts, query};
use crate::clients::{ApiKeyEntry, BearerEntry, Carrier, Clients, Entry, Judgement, Rejection};
use crate::policy::{self, Auth};
use crate::reply::Refusal;
use http::{HeaderMap, HeaderName, header};
use secrecy::SecretString;

/// One of a route's `accept`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accept {
    /// `"session"`: our cookie, or a token of ours.
    Session,
    /// The name of a `[bearer.*]` or `[api_keys.*]`.
    Client(String),
}

/// `accept`, ready for requests, of a route that takes more than sessions, or none.
pub struct Acceptance {
    order: Vec<Accepted>,
    bearer: Vec<BearerEntry>,
    key_headers: OwnedNames,
    key_parameters: Vec<String>,
}

#[derive(Clone, Copy)]
enum Accepted {
    Session,
    BearerToken,
    ApiKey(ApiKeyEntry),
}

/// What decides about a request.
pub enum Deciding {
    /// The session, if it has one.
    Session,
    /// Nothing is there that the route accepts.
    Nothing,
    /// A credential of the client's own, and what it is worth.
    Judged(Credential),
    /// A bearer token that somebody has to be asked about.
    Token(BearerEntry, SecretString),
}

impl Acceptance {
    /// None for `["session"]`, the default, which costs nothing.
    #[must_use]
    pub fn new(accept: &[Accept], clients: &Clients) -> Option<Acceptance> {
        if accept == [Accept::Session] {
            return None;
        }
        let (mut order, mut bearer, mut headers, mut key_parameters) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for accept in accept {
            let entry = match accept {
                Accept::Session => {
                    order.push(Accepted::Session);
                    continue;
                }
                Accept::Client(name) => clients.find(name),
            };
            match entry {
                Some(Entry::Bearer(entry)) => {
                    order.push(Accepted::BearerToken);
                    bearer.push(entry);
                }
                Some(Entry::ApiKeys(entry)) => {
                    order.push(Accepted::ApiKey(entry));
                    match clients.carrier(entry) {
                        Carrier::Header(name) => headers.push(name),
                        Carrier::Query(name) => key_parameters.push(name.clone()),
                    }
                }
                None => {}
            }
        }
        Some(Acceptance { order, bearer, key_headers: OwnedNames::new(headers.into_iter()), key_parameters })
    }

    /// Whether API keys are carried in this header.
    #[must_use]
    pub fn reads(&self, name: &HeaderName) -> bool {
        self.key_headers.contain(name)
    }

    /// The names of query parameters that API keys are carried in.
    #[must_use]
    pub fn key_parameters(&self) -> &[String] {
        &self.key_parameters
    }

    /// Finds what decides, and takes out of the request what must go no further.
    pub fn decide(&self, parts: &Parts, known: &mut Known, shows_session: impl FnOnce(&Known) -> bool) -> Deciding {
        let looks_at_clients = matches!(known.exchange.route.auth, Auth::Required | Auth::Optional);
        let deciding = if policy::is_preflight(&known.message.method, &known.message.headers) {
            Deciding::Nothing
        } else if looks_at_clients {
            self.first(parts, known, shows_session)
        } else {
            Deciding::Session
        };
        let headers = &mut known.message.headers;
        let by_token = match &deciding {
            Deciding::Token(..) => true,
            Deciding::Judged(credential) => credential.is_a_bearer_token(),
            Deciding::Session | Deciding::Nothing => false,
        };
        if looks_at_clients && !by_token && !self.bearer.is_empty() && is_bearer(headers) {
            headers.remove(header::AUTHORIZATION);
        }
        self.key_headers.strip(headers);
        deciding
    }

    fn first(&self, parts: &Parts, known: &Known, shows_session: impl FnOnce(&Known) -> bool) -> Deciding {
        let mut shows_session = Some(shows_session);
        for accepted in &self.order {
            match accepted {
                Accepted::Session => {
                    if shows_session.take().is_some_and(|shows_session| shows_session(known)) {
                        return Deciding::Session;
                    }
                }
                Accepted::BearerToken => {
                    if is_bearer(&known.message.headers) {
                        return self.by_bearer_token(parts, known);
                    }
                }
                Accepted::ApiKey(entry) => {
                    if let Some(key) = key_of(parts.clients.carrier(*entry), known) {
                        let (address, now) = (known.exchange.facts.client_address, known.exchange.facts.now);
                        let judgement = match key {
                            Key::One(key) => parts.clients.judge_key(*entry, &key, address, now),
                            Key::Several => Err(Rejection::InvalidApiKey),
                        };
                        return Deciding::Judged(credential(parts, known, Entry::ApiKeys(*entry), judgement));
                    }
                }
            }
        }
        Deciding::Nothing
    }

    fn by_bearer_token(&self, parts: &Parts, known: &Known) -> Deciding {
        let Some(token) = bearer_token(&known.message.headers) else {
            let malformed = Err(Rejection::InvalidToken { reason: "authorization_malformed" });
            return Deciding::Judged(credential(parts, known, Entry::Bearer(self.bearer[0]), malformed));
        };
        let entry = parts.clients.choose(&self.bearer, token);
        match parts.clients.recall(entry, token, known.exchange.facts.now) {
            Some(judgement) => Deciding::Judged(credential(parts, known, Entry::Bearer(entry), judgement)),
            None => Deciding::Token(entry, token.into()),
        }
    }
}

/// What a judgement makes of the request. What is refused is told to the log, which the client is not.
pub fn credential(parts: &Parts, known: &Known, entry: Entry, judgement: Judgement) -> Credential {
    let rejection = match judgement {
        Ok(client) => return Credential::Client(client),
        Err(rejection) => rejection,
    };
    let (reason, refusal) = match rejection {
        Rejection::InvalidToken { reason } => (reason, Refusal::InvalidToken),
        Rejection::InvalidApiKey => ("api_key_unknown", Refusal::InvalidApiKey),
        Rejection::TooManyAttempts { retry_after } => {
            ("too_many_attempts", Refusal::TooManyAttempts { retry_after: retry_after.as_secs() + 1 })
        }
        Rejection::Unavailable { reason, retry_after } => {
            (reason, Refusal::ProviderUnavailable { retry_after: retry_after.as_secs() })
        }
    };
    let facts = &known.exchange.facts;
    tracing::info!(
        target: "latchgate::audit",
        event = "client_refused",
        entry = parts.clients.name(entry),
        reason,
        request = %facts.id,
        client = facts.client_address.map(tracing::field::display),
    );
    Credential::Rejected(Box::new(refusal))
}

/// A key as it stands in a request.
enum Key {
    One(Vec<u8>),
    /// Nobody can say which one counts.
    Several,
}

fn key_of(carrier: &Carrier, known: &Known) -> Option<Key> {
    match carrier {
        Carrier::Header(name) => only(header_values(&known.message.headers, name)),
        Carrier::Query(name) => only(query::values(known.exchange.facts.path.path_and_query(), name)),
    }
}

fn header_values<'h>(headers: &'h HeaderMap, name: &HeaderName) -> impl Iterator<Item = Vec<u8>> + use<'h> {
    headers.get_all(name).iter().map(|value| value.as_bytes().to_vec())
}

fn only(mut values: impl Iterator<Item = Vec<u8>>) -> Option<Key> {
    let first = values.next()?;
    Some(if values.next().is_some() { Key::Several } else { Key::One(first) })
}

/// Whether there is an `Authorization` that any reader could take for a bearer token's.
fn is_bearer(headers: &HeaderMap) -> bool {
    let Some(value) = headers.get(header::AUTHORIZATION) else { return false };
    let scheme = value.as_bytes().split(|byte| !byte.is_ascii_graphic()).find(|part| !part.is_empty());
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
}

/// The token of `Authorization: Bearer`, and nothing but: the scheme in any case, one space, a `b64token` (RFC 9110 §11.4,
/// RFC 6750 §2.1). Whoever is less strict reads another token than the next one.
fn bearer_token(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let body = token.trim_end_matches('=');
    let is_token_char = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~+/".contains(&byte);
    (scheme.eq_ignore_ascii_case("bearer") && !body.is_empty() && body.bytes().all(is_token_char)).then_some(token)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    // GHSA-gv94-wp4h-vv8p
    #[test]
    fn authorization_has_one_reading() {
        for (value, is_there, token) in [
            (&b"Bearer abc"[..], true, Some("abc")),
            (b"bEARER a.b-c_d~e+f/g==", true, Some("a.b-c_d~e+f/g==")),
            (b"Bearer", true, None),
            (b"Bearer ", true, None),
            (b"Bearer  abc", true, None),
            (b"Bearer\tabc", true, None),
            (b"Bearer abc ", true, None),
            (b"Bearer abc def", true, None),
            (b"Bearer abc,def", true, None),
            (b"Bearer a=b", true, None),
            (b"Bearer ==", true, None),
            (b" Bearer abc", true, None),
            (b"Bearer \xff", true, None),
            (b"Bearer \"abc\"", true, None),
            (b"BearerToken abc", false, None),
            (b"Basic abc", false, None),
            (b"DPoP abc", false, None),
            (b"", false, None),
        ] {
            let headers = HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::from_bytes(value).unwrap())]);
            assert_eq!(is_bearer(&headers), is_there, "{value:?}");
            assert_eq!(bearer_token(&headers), token, "{value:?}");
        }
        assert!(!is_bearer(&HeaderMap::new()));
    }
}
