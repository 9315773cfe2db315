//! A provider's public keys: JSON Web Key Sets (RFC 7517), kept.

use super::json;
use crate::clock::Mono;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey};
use serde_json::{Map, Value};
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// The keys of one JWKS that can check a signature.
#[derive(Default)]
pub(crate) struct KeySet(Vec<Key>);

/// One public key and what it may be used for.
pub(crate) struct Key {
    kid: Option<String>,
    algorithms: &'static [Algorithm],
    /// `issuer`, which only Microsoft says: whose tokens it signs.
    pub(super) issuer: Option<String>,
    pub(crate) decoding: DecodingKey,
}

impl KeySet {
    /// Reads a JWKS. A key that cannot be used is left out and spoils no other; `None` when `text` is no key set at all.
    pub(crate) fn parse(text: &[u8]) -> Option<KeySet> {
        let document = json::object(text)?;
        let keys = document.get("keys")?.as_array()?;
        Some(KeySet(keys.iter().filter_map(Value::as_object).filter_map(parse_key).take(MOST_KEYS).collect()))
    }

    /// The keys that may have made a signature: the algorithm fits the key, and `kid`, where the token names one, is the key's.
    /// Several keys may share a `kid` and then are all tried.
    pub(crate) fn candidates<'a>(
        &'a self,
        kid: Option<&'a str>,
        algorithm: Algorithm,
    ) -> impl Iterator<Item = &'a Key> {
        self.0
            .iter()
            .filter(move |key| key.algorithms.contains(&algorithm))
            .filter(move |key| kid.is_none_or(|kid| key.kid.as_deref() == Some(kid)))
    }

    fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a key has this `kid`.
    pub(crate) fn names(&self, kid: &str) -> bool {
        self.0.iter().any(|key| key.kid.as_deref() == Some(kid))
    }
}

/// The last good key set of one provider.
///
/// | the set | the key | the fetch limit | done |
/// |---|---|---|---|
/// | younger than 1 h | known | – | used |
/// | younger than 1 h | unknown | free | fetched, once; then used as it is |
/// | younger than 1 h | unknown | spent | refused |
/// | older than 1 h, or none | – | free | fetched; if that fails a set younger than 24 h is used |
/// | 1 h to 24 h | known | spent | used |
/// | older than 24 h, or none | – | spent | refused |
///
/// A fetch for an unknown key, and one that fails, spend the limit for 60 s: made-up key ids cannot turn us against the provider.
pub(crate) struct KeyCache {
    provider: String,
    kept: Mutex<Kept>,
    flight: tokio::sync::Mutex<()>,
}

#[derive(Clone, Default)]
struct Kept {
    keys: Arc<KeySet>,
    fetched: Option<Mono>,
    limited_until: Mono,
    failing: bool,
}

/// There is no key to check this signature with, for now: it could be that of a key that was not fetched.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct KeysUnavailable;

impl KeyCache {
    pub(crate) fn new(provider: &str) -> KeyCache {
        KeyCache { provider: provider.to_owned(), kept: Mutex::default(), flight: tokio::sync::Mutex::default() }
    }

    /// The key set to judge one token by. `knows` tells whether a set holds the key of that token; the provider's set, just got by
    /// `fetch`, is returned even if it does not. There is one fetch at a time.
    ///
    /// # Errors
    /// [`KeysUnavailable`].
    pub(crate) async fn keys<K, F>(&self, knows: K, now: Mono, fetch: F) -> Result<Arc<KeySet>, KeysUnavailable>
    where
        K: Fn(&KeySet) -> bool,
        F: Future<Output = Option<KeySet>>,
    {
        if let Some(keys) = self.kept().fresh(now).filter(|keys| knows(keys)) {
            return Ok(keys);
        }
        let _flight = self.flight.lock().await;
        let mut kept = self.kept();
        if let Some(keys) = kept.fresh(now).filter(|keys| knows(keys)) {
            return Ok(keys);
        }
        if now < kept.limited_until {
            return kept.usable(now).filter(|keys| knows(keys)).ok_or(KeysUnavailable);
        }
        let was_fresh = kept.fresh(now).is_some();
        let answer = fetch.await.filter(|keys| !keys.is_empty());
        if was_fresh || answer.is_none() {
            kept.limited_until = now.after(FETCH_INTERVAL);
        }
        if kept.failing != answer.is_none() {
            kept.failing = answer.is_none();
            if kept.failing {
                tracing::warn!(
                    provider = self.provider,
                    "no keys from the provider: those it had stay in use for a day"
                );
            } else {
                tracing::info!(provider = self.provider, "keys from the provider again");
            }
        }
        let fetched = answer.is_some();
        if let Some(keys) = answer {
            kept.keys = Arc::new(keys);
            kept.fetched = Some(now);
        }
        *self.kept.lock().unwrap_or_else(PoisonError::into_inner) = kept.clone();
        kept.usable(now).filter(|keys| fetched || knows(keys)).ok_or(KeysUnavailable)
    }

    /// Whether the keys at hand are all there are, as far as anybody can say.
    pub(crate) fn is_up_to_date(&self, now: Mono) -> bool {
        let kept = self.kept();
        kept.fresh(now).is_some() && !kept.failing
    }

    fn kept(&self) -> Kept {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Kept {
    fn age(&self, now: Mono) -> Option<Duration> {
        self.fetched.map(|fetched| now.since(fetched))
    }

    fn fresh(&self, now: Mono) -> Option<Arc<KeySet>> {
        self.age(now).filter(|age| *age < REFRESH_AFTER).map(|_| Arc::clone(&self.keys))
    }

    fn usable(&self, now: Mono) -> Option<Arc<KeySet>> {
        self.age(now).filter(|age| *age < STALE_AFTER).map(|_| Arc::clone(&self.keys))
    }
}

/// Which algorithms a key can check, or `None` for a key that is not for us:
///
/// 1. private or symmetric (`d`, `k`): who published that has lost it;
/// 2. `use` other than `sig`, or `key_ops` without `verify` (RFC 7517 §4.2, §4.3);
/// 3. `alg` that is not of the key's type and curve (§4.4);
/// 4. RSA: 2048 to 8192 bits, an odd exponent from 3 (RFC 7518 §3.3), no ROCA modulus (CVE-2017-15361);
/// 5. EC: P-256 or P-384 with coordinates of that length (§6.2.1); Ed25519: 32 bytes (RFC 8037 §2).
fn parse_key(key: &Map<String, Value>) -> Option<Key> {
    if key.contains_key("d") || key.contains_key("k") {
        return None;
    }
    if key.get("use").is_some_and(|used_for| used_for != "sig") {
        return None;
    }
    if let Some(operations) = key.get("key_ops")
        && !operations.as_array()?.iter().any(|operation| operation == "verify")
    {
        return None;
    }
    let bytes = |name: &str| URL_SAFE_NO_PAD.decode(json::text(key, name)?).ok();
    let (fitting, decoding): (&'static [Algorithm], _) = match (json::text(key, "kty")?, json::text(key, "crv")) {
        ("RSA", _) => {
            let (n, e) = (bytes("n")?, bytes("e")?);
            if !is_strong_rsa(&n, &e) {
                return None;
            }
            (&RSA, DecodingKey::from_rsa_raw_components(&n, &e))
        }
        ("EC", Some("P-256")) => (&[Algorithm::ES256], ec_point(bytes("x")?, bytes("y")?, 32)?),
        ("EC", Some("P-384")) => (&[Algorithm::ES384], ec_point(bytes("x")?, bytes("y")?, 48)?),
        ("OKP", Some("Ed25519")) => {
            (&[Algorithm::EdDSA], DecodingKey::from_ed_der(&bytes("x").filter(|x| x.len() == 32)?))
        }
        _ => return None,
    };
    let algorithms = match key.get("alg") {
        None => fitting,
        Some(named) => {
            let named: Algorithm = named.as_str()?.parse().ok()?;
            let at = fitting.iter().position(|fits| *fits == named)?;
            &fitting[at..=at]
        }
    };
    let kid = match key.get("kid") {
        None => None,
        Some(kid) => Some(kid.as_str()?.to_owned()),
    };
    let issuer = json::text(key, "issuer").map(str::to_owned);
    Some(Key { kid, algorithms, issuer, decoding })
}

fn ec_point(x: Vec<u8>, y: Vec<u8>, coordinate: usize) -> Option<DecodingKey> {
    if x.len() != coordinate || y.len() != coordinate {
        return None;
    }
    let mut point = vec![UNCOMPRESSED];
    point.extend(x);
    point.extend(y);
    Some(DecodingKey::from_ec_der(&point))
}

fn is_strong_rsa(n: &[u8], e: &[u8]) -> bool {
    let significant = n.iter().position(|byte| *byte != 0).map_or(&[][..], |first| &n[first..]);
    let bits = significant.first().map_or(0, |first| significant.len() * 8 - first.leading_zeros() as usize);
    let odd = e.last().is_some_and(|last| last % 2 == 1);
    let at_least_three = e.iter().rev().skip(1).any(|byte| *byte != 0) || e.last().is_some_and(|last| *last >= 3);
    (2048..=8192).contains(&bits) && odd && at_least_three && !has_roca_fingerprint(significant)
}

/// The moduli of a faulty smart card library are powers of 65537 modulo every small prime (Nemec et al., "The Return of
/// Coppersmith's Attack", §2.3): their factors can be found. A sound modulus looks like this once in about 2^27.
fn has_roca_fingerprint(n: &[u8]) -> bool {
    ROCA_PRIMES.iter().all(|prime| {
        let residue = n.iter().fold(0, |residue, byte| (residue * 256 + u32::from(*byte)) % prime);
        let mut power = 1;
        (0..*prime).any(|_| {
            let met = power == residue;
            power = power * 65537 % prime;
            met
        })
    })
}

const RSA: [Algorithm; 6] =
    [Algorithm::RS256, Algorithm::RS384, Algorithm::RS512, Algorithm::PS256, Algorithm::PS384, Algorithm::PS512];
const UNCOMPRESSED: u8 = 4;
const ROCA_PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109,
    113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];
/// Bounds the work for one token without a `kid`.
const MOST_KEYS: usize = 100;
const REFRESH_AFTER: Duration = Duration::from_secs(3600);
const STALE_AFTER: Duration = Duration::from_secs(24 * 3600);
const FETCH_INTERVAL: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::super::test_provider::SigningKey;
    use super::*;
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn set(keys: Value) -> KeySet {
        KeySet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
    }

    fn with(mut jwk: Value, name: &str, value: Value) -> Value {
        jwk[name] = value;
        jwk
    }

    #[test]
    fn dm_08_it_27_unusable_keys_spoil_no_good_one() {
        let good = SigningKey::es256("good").jwk();
        let rsa = SigningKey::rs256("rsa").jwk();
        let unusable = [
            json!({ "kty": "oct", "k": "c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0c2VjcmV0", "kid": "good" }),
            with(good.clone(), "d", json!("AQAB")),
            with(good.clone(), "use", json!("enc")),
            with(good.clone(), "key_ops", json!(["encrypt"])),
            with(good.clone(), "alg", json!("RS256")),
            with(good.clone(), "alg", json!("none")),
            with(good.clone(), "crv", json!("P-384")),
            with(good.clone(), "x", json!("AQAB")),
            with(good.clone(), "kid", json!(7)),
            with(rsa.clone(), "e", json!("AQ")),
            with(rsa.clone(), "e", json!("AQAA")),
            with(rsa.clone(), "n", json!("AQAB")),
            with(rsa.clone(), "alg", json!("ES256")),
            json!("text"),
            json!({}),
        ];
        for key in &unusable {
            assert!(set(json!([key])).is_empty(), "{key}");
        }
        let mut mixed = unusable.to_vec();
        mixed.extend([good, rsa]);
        assert_eq!(set(json!(mixed)).0.len(), 2);
    }

    #[test]
    fn dm_08_what_is_no_key_set_is_none() {
        for text in ["{}", "[]", "<html>", "", r#"{"keys":{}}"#, r#"{"keys":[],"keys":[]}"#] {
            assert!(KeySet::parse(text.as_bytes()).is_none(), "{text}");
        }
    }

    #[test]
    fn it_11_candidates_fit_kid_and_algorithm() {
        let keys = set(json!([
            SigningKey::es256("a").jwk(),
            SigningKey::es256("a").jwk(),
            SigningKey::es256("b").jwk(),
            SigningKey::rs256("a").jwk(),
        ]));
        assert_eq!(keys.candidates(Some("a"), Algorithm::ES256).count(), 2);
        assert_eq!(keys.candidates(None, Algorithm::ES256).count(), 3);
        assert_eq!(keys.candidates(Some("a"), Algorithm::EdDSA).count(), 0);
        assert_eq!(keys.candidates(Some("c"), Algorithm::ES256).count(), 0);
    }

    struct Counted {
        cache: KeyCache,
        fetches: AtomicUsize,
    }

    impl Counted {
        fn new() -> Counted {
            Counted { cache: KeyCache::new("corp"), fetches: AtomicUsize::new(0) }
        }

        async fn ask(&self, kid: &str, second: u64, answer: Option<&[&str]>) -> bool {
            let fetch = async {
                self.fetches.fetch_add(1, Ordering::SeqCst);
                tokio::task::yield_now().await;
                answer.map(|kids| set(kids.iter().map(|kid| SigningKey::es256(kid).jwk()).collect()))
            };
            let now = Mono(second * 1000);
            self.cache.keys(|keys| keys.names(kid), now, fetch).await.is_ok_and(|keys| keys.names(kid))
        }

        fn fetches(&self) -> usize {
            self.fetches.load(Ordering::SeqCst)
        }
    }

    #[tokio::test]
    async fn dm_05_a_key_rotated_right_after_the_fetch_is_found() {
        let counted = Counted::new();
        assert!(counted.ask("old", 0, Some(&["old"])).await);
        assert!(counted.ask("new", 1, Some(&["new"])).await);
        assert_eq!(counted.fetches(), 2);
    }

    #[tokio::test]
    async fn dm_06_random_kids_cause_one_fetch_a_minute() {
        for answer in [Some(&["a"][..]), None] {
            let counted = Counted::new();
            assert!(counted.ask("a", 0, Some(&["a"])).await);
            for second in 1..=60 {
                for n in 0..100 {
                    assert!(!counted.ask(&format!("random-{n}"), second, answer).await);
                }
            }
            assert_eq!(counted.fetches(), 2);
            assert!(!counted.ask("random", 61, answer).await);
            assert_eq!(counted.fetches(), 3);
            assert!(counted.ask("a", 61, answer).await, "a known key keeps working");
        }
    }

    #[tokio::test]
    async fn dm_06_a_provider_without_keys_is_asked_once_a_minute() {
        let counted = Counted::new();
        for second in 0..60 {
            assert!(!counted.ask("a", second, None).await);
        }
        assert_eq!(counted.fetches(), 1);
        assert!(counted.ask("a", 60, Some(&["a"])).await);
    }

    #[tokio::test]
    async fn dm_06_concurrent_requests_share_one_fetch() {
        let counted = Counted::new();
        let (a, b, c) = tokio::join!(
            counted.ask("a", 0, Some(&["a"])),
            counted.ask("a", 0, Some(&["a"])),
            counted.ask("a", 0, Some(&["a"])),
        );
        assert!(a && b && c);
        assert_eq!(counted.fetches(), 1);
    }

    #[tokio::test]
    async fn dm_07_known_keys_outlive_an_outage_of_a_day_and_no_longer() {
        let counted = Counted::new();
        assert!(counted.ask("a", 0, Some(&["a"])).await);
        for hour in 1..24 {
            assert!(counted.ask("a", hour * 3600, None).await, "hour {hour}");
        }
        assert!(!counted.ask("a", 24 * 3600, None).await);
        assert!(counted.ask("a", 24 * 3600 + 60, Some(&["a"])).await);
    }

    #[tokio::test]
    async fn a_key_the_provider_withdrew_stops_working_within_the_hour() {
        let counted = Counted::new();
        assert!(counted.ask("stolen", 0, Some(&["stolen"])).await);
        assert!(counted.ask("stolen", 3599, Some(&["new"])).await);
        assert!(!counted.ask("stolen", 3600, Some(&["new"])).await);
    }
}
