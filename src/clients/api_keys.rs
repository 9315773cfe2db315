//! API keys. The configuration has their SHA-256, so whoever reads it cannot use them.

use super::{ApiClient, Judgement, Rejection, Shown};
use crate::attempts::{self, Attempts};
use crate::clock::{Mono, Now};
use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderName;
use serde_json::{Map, Value};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use subtle::{ConditionallySelectable, ConstantTimeEq};

/// One `[api_keys.NAME]` table.
#[derive(Debug, Clone)]
pub struct ApiKeySettings {
    /// The table's name.
    pub name: String,
    /// `header` or `query`.
    pub carrier: Carrier,
    /// `keys`; no two have the same `id` or the same hash.
    pub keys: Vec<KeySettings>,
}

/// Where a key stands in a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Carrier {
    /// In this header, alone.
    Header(HeaderName),
    /// In this query parameter.
    Query(String),
}

/// One of `keys`.
#[derive(Debug, Clone)]
pub struct KeySettings {
    /// `id`
    pub id: String,
    /// `sha256`
    pub hash: KeyHash,
    /// `claims`
    pub claims: Map<String, Value>,
    /// `scope`, space-separated.
    pub scope: Option<String>,
    /// `expires`, in seconds since 1970: from then on it lets nobody in.
    pub expires: Option<u64>,
}

/// The SHA-256 of a key. Does not print: a short key can be found from it.
#[derive(Clone, Copy)]
pub struct KeyHash(pub [u8; 32]);

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyHash(…)")
    }
}

/// The keys of one entry.
pub(super) struct ApiKeys {
    name: String,
    carrier: Carrier,
    keys: Vec<Key>,
}

struct Key {
    hash: KeyHash,
    expires: Option<u64>,
    client: Arc<ApiClient>,
}

impl ApiKeys {
    pub(super) fn new(settings: &ApiKeySettings) -> ApiKeys {
        let key = |key: &KeySettings| {
            let mut claims = key.claims.clone();
            claims.insert("sub".to_owned(), format!("{}:{}", settings.name, key.id).into());
            if let Some(scope) = &key.scope {
                claims.insert("scope".to_owned(), scope.as_str().into());
            }
            let client = ApiClient { shown: Shown::ApiKey, claims, scope: key.scope.clone() };
            Key { hash: key.hash, expires: key.expires, client: Arc::new(client) }
        };
        ApiKeys {
            name: settings.name.clone(),
            carrier: settings.carrier.clone(),
            keys: settings.keys.iter().map(key).collect(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn carrier(&self) -> &Carrier {
        &self.carrier
    }

    /// Whose key this is. Every hash is compared, and each to its end: how long it takes says nothing.
    pub(super) fn owner(&self, key: &[u8], now: Now) -> Owner {
        let hash = digest(&SHA256, key);
        let mut found = u32::MAX;
        for (at, key) in (0..u32::MAX).zip(&self.keys) {
            found.conditional_assign(&at, key.hash.0.as_slice().ct_eq(hash.as_ref()));
        }
        match usize::try_from(found).ok().and_then(|found| self.keys.get(found)) {
            None => Owner::Nobody,
            Some(key) if key.expires.is_some_and(|expires| expires <= now.unix) => Owner::Former,
            Some(key) => Owner::Client(Arc::clone(&key.client)),
        }
    }
}

/// Whose a key is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Owner {
    Client(Arc<ApiClient>),
    /// Somebody's, until it expired.
    Former,
    Nobody,
}

/// How often an address has guessed.
pub(super) struct Guesses(Attempts);

impl Guesses {
    pub(super) fn new() -> Guesses {
        Guesses(Attempts::new(MOST_GUESSES, WITHIN))
    }

    /// Asks `owner`, unless `address` was wrong too often. Who still shows a key that has expired does not guess: a job that nobody
    /// looks after shuts out no neighbour of its own.
    pub(super) fn limited(&self, address: Option<IpAddr>, now: Mono, owner: impl FnOnce() -> Owner) -> Judgement {
        let client = attempts::client(address);
        if let Some(client) = &client {
            self.0.begin(client, now).map_err(|retry_after| Rejection::TooManyAttempts { retry_after })?;
        }
        let owner = owner();
        if owner != Owner::Nobody
            && let Some(client) = &client
        {
            self.0.withdraw(client);
        }
        match owner {
            Owner::Client(client) => Ok(client),
            Owner::Former | Owner::Nobody => Err(Rejection::InvalidApiKey),
        }
    }
}

const MOST_GUESSES: u32 = 60;
const WITHIN: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn hash(key: &[u8]) -> KeyHash {
        KeyHash(digest(&SHA256, key).as_ref().try_into().unwrap())
    }

    fn keys() -> ApiKeys {
        let key = |id: &str, key: &[u8], expires| KeySettings {
            id: id.into(),
            hash: hash(key),
            claims: json!({ "role": "ci" }).as_object().unwrap().clone(),
            scope: Some("deploy".into()),
            expires,
        };
        let keys = vec![key("old", b"key-1", Some(2000)), key("new", b"key-2", None)];
        ApiKeys::new(&ApiKeySettings { name: "ci".into(), carrier: Carrier::Query("k".into()), keys })
    }

    #[test]
    fn cr_05_keys_are_found_by_their_hash_and_expire() {
        let at = |unix| Now { mono: Mono(0), unix };
        for (key, unix, subject) in [
            (&b"key-1"[..], 1999, Some("ci:old")),
            (b"key-1", 2000, None),
            (b"key-2", 9999, Some("ci:new")),
            (b"key-3", 0, None),
            (b"key-1\n", 0, None),
            (b"", 0, None),
            (&[0; 32], 0, None),
        ] {
            let owner = keys().owner(key, at(unix));
            let found = match &owner {
                Owner::Client(client) => client.claims["sub"].as_str(),
                Owner::Former | Owner::Nobody => None,
            };
            assert_eq!(found, subject, "{key:?} {unix}");
        }
        assert_eq!(keys().owner(b"key-1", at(2000)), Owner::Former);
        let Owner::Client(owner) = keys().owner(b"key-2", at(0)) else { panic!("nobody's") };
        assert_eq!(Value::Object(owner.claims.clone()), json!({ "role": "ci", "sub": "ci:new", "scope": "deploy" }));
        assert_eq!(keys().owner(&hash(b"key-2").0, at(0)), Owner::Nobody, "the hash is not the key");
    }

    #[test]
    fn cr_05_an_address_has_so_many_guesses() {
        let guesses = Guesses::new();
        let now = |seconds: u64| Mono(seconds * 1000);
        let ask = |address: &str, right: bool, seconds| {
            let client = || keys().owner(if right { b"key-2" } else { b"guess" }, Now { mono: Mono(0), unix: 0 });
            guesses.limited(Some(address.parse().unwrap()), now(seconds), client)
        };
        for _ in 0..200 {
            assert!(ask("192.0.2.1", true, 0).is_ok(), "good ones do not count");
        }
        for _ in 0..MOST_GUESSES {
            assert_eq!(ask("192.0.2.1", false, 0), Err(Rejection::InvalidApiKey));
            assert_eq!(ask("2001:db8::1", false, 0), Err(Rejection::InvalidApiKey));
        }
        let wait = Rejection::TooManyAttempts { retry_after: Duration::from_secs(200) };
        assert_eq!(ask("192.0.2.1", false, 100), Err(wait));
        assert_eq!(ask("192.0.2.1", true, 100), Err(wait), "a guess that would be right is not told from the others");
        assert_eq!(ask("2001:db8::ffff", true, 100), Err(wait), "the same network");
        assert!(ask("2001:db8:0:1::1", true, 100).is_ok());
        assert!(ask("192.0.2.2", true, 100).is_ok());
        assert!(ask("192.0.2.1", true, 300).is_ok());
    }

    #[test]
    fn a_forgotten_job_with_an_expired_key_shuts_nobody_out() {
        let (guesses, late) = (Guesses::new(), Now { mono: Mono(0), unix: 3000 });
        for _ in 0..=MOST_GUESSES {
            let judgement = guesses.limited(None, late.mono, || keys().owner(b"key-1", late));
            assert_eq!(judgement, Err(Rejection::InvalidApiKey));
        }
        assert!(guesses.limited(None, late.mono, || keys().owner(b"key-2", late)).is_ok());
    }

    #[test]
    fn hashes_do_not_print() {
        assert_eq!(format!("{:?}", hash(b"key")), "KeyHash(…)");
    }
}
