//! What the gateway signs with: its own tokens (`own_token`) and assertions for upstreams.
//!
//! A key has one algorithm, and nothing but the key says which: what a token's header says of `alg` is only
//! compared with it (RFC 8725 §3.1). What a token is for is in its `typ` (§3.11).

use super::seal::{NoRandomness, keys_of};
use aws_lc_rs::hkdf::{HKDF_SHA256, Salt};
use aws_lc_rs::hmac;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::jwk::{Jwk, PublicKeyUse, ThumbprintHash};
use jsonwebtoken::{DecodingKey, EncodingKey, Header, Validation};
use secrecy::SecretString;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use std::fmt;
use std::sync::Arc;
use zeroize::Zeroizing;

/// `tokens.algorithm` (RFC 7518 §3.1, RFC 8037 §3.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Algorithm {
    /// HMAC with SHA-256: whoever verifies can sign as well.
    #[default]
    Hs256,
    /// ECDSA on P-256.
    Es256,
    /// Ed25519.
    EdDsa,
}

/// A key to sign with, and to verify with.
#[derive(Clone)]
pub struct SigningKey {
    inner: Arc<Inner>,
}

struct Inner {
    algorithm: Algorithm,
    kid: String,
    signing: EncodingKey,
    verifying: DecodingKey,
    /// As it is published; None for a shared secret.
    public: Option<Jwk>,
}

/// The text is no private key of this algorithm.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotAKey;

impl SigningKey {
    /// HS256 under a shared secret, of at least 32 bytes (RFC 7518 §3.2). Its `kid` is derived from it.
    #[must_use]
    pub fn shared(secret: &[u8]) -> SigningKey {
        let label = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"latchgate kid v1");
        let kid = URL_SAFE_NO_PAD.encode(&label.as_ref()[..KID_LEN]);
        let (signing, verifying) = (EncodingKey::from_secret(secret), DecodingKey::from_secret(secret));
        SigningKey { inner: Arc::new(Inner { algorithm: Algorithm::Hs256, kid, signing, verifying, public: None }) }
    }

    /// ES256 or EdDSA with the private key in a PKCS#8 PEM (RFC 5958, RFC 7468 §10).
    ///
    /// # Errors
    /// When it is something else, or `algorithm` has no such keys.
    pub fn from_pem(algorithm: Algorithm, pem: &str) -> Result<SigningKey, NotAKey> {
        match algorithm {
            Algorithm::Hs256 => Err(NotAKey),
            Algorithm::Es256 => {
                SigningKey::of_pair(algorithm, EncodingKey::from_ec_pem(pem.as_bytes()).map_err(|_| NotAKey)?)
            }
            Algorithm::EdDsa => {
                let read = EncodingKey::from_ed_pem(pem.as_bytes()).map_err(|_| NotAKey)?;
                SigningKey::ed25519(&Ed25519KeyPair::from_pkcs8(read.as_bytes()).map_err(|_| NotAKey)?)
            }
        }
    }

    fn ed25519(pair: &Ed25519KeyPair) -> Result<SigningKey, NotAKey> {
        let document = pair.to_pkcs8v1().map_err(|_| NotAKey)?;
        SigningKey::of_pair(Algorithm::EdDsa, EncodingKey::from_ed_der(document.as_ref()))
    }

    /// The `kid` is the thumbprint of the public key (RFC 7638).
    fn of_pair(algorithm: Algorithm, signing: EncodingKey) -> Result<SigningKey, NotAKey> {
        let mut public = Jwk::from_encoding_key(&signing, algorithm.jose()).map_err(|_| NotAKey)?;
        let kid = public.thumbprint(ThumbprintHash::SHA256).map_err(|_| NotAKey)?;
        public.common.key_id = Some(kid.clone());
        public.common.public_key_use = Some(PublicKeyUse::Signature);
        let verifying = DecodingKey::from_jwk(&public).map_err(|_| NotAKey)?;
        Ok(SigningKey { inner: Arc::new(Inner { algorithm, kid, signing, verifying, public: Some(public) }) })
    }

    /// What tells it from others in a token's header.
    #[must_use]
    pub fn kid(&self) -> &str {
        &self.inner.kid
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SigningKey")
            .field("algorithm", &self.inner.algorithm)
            .field("kid", &self.inner.kid)
            .finish_non_exhaustive()
    }
}

/// The keys that count: the first signs, all verify and are published.
pub struct KeySet {
    keys: Vec<SigningKey>,
}

impl KeySet {
    /// The configured ones. Without any: HS256 and EdDSA have one for each of `session.secret`, which is the same in
    /// every process that has the secret; ES256 has one that this process makes for itself. Without secrets all of
    /// them do.
    ///
    /// # Errors
    /// When there are no random bytes to make one of.
    pub fn new(
        algorithm: Algorithm,
        configured: &[SigningKey],
        secrets: &[SecretString],
    ) -> Result<KeySet, NoRandomness> {
        let keys = match algorithm {
            _ if !configured.is_empty() => configured.to_vec(),
            Algorithm::Hs256 => keys_of(secrets, derived_shared)?,
            Algorithm::EdDsa => keys_of(secrets, derived_ed25519)?,
            Algorithm::Es256 => vec![random_es256()?],
        };
        Ok(KeySet { keys })
    }

    /// A compact JWS over `claims`. None when the system has no random bytes for a signature.
    #[must_use]
    pub fn sign(&self, typ: &str, claims: &Map<String, Value>) -> Option<String> {
        let key = &self.keys.first()?.inner;
        let mut header = Header::new(key.algorithm.jose());
        header.typ = Some(typ.to_owned());
        header.kid = Some(key.kid.clone());
        jsonwebtoken::encode(&header, claims, &key.signing).ok()
    }

    /// The claims of a token that one of these keys has signed, of this `typ`, for this issuer and audience. Whether
    /// its time is over is for the caller to say.
    #[must_use]
    pub fn verify(&self, token: &str, typ: &str, issuer: &str, audience: &str) -> Option<Map<String, Value>> {
        let header = ClaimedHeader::of(token).filter(|header| header.is_of_type(typ))?;
        let key = &self.keys.iter().find(|key| Some(key.kid()) == header.kid.as_deref())?.inner;
        let mut validation = Validation::new(key.algorithm.jose());
        validation.validate_exp = false;
        validation.set_required_spec_claims(&["iss", "aud", "exp"]);
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        Some(jsonwebtoken::decode(token, &key.verifying, &validation).ok()?.claims)
    }

    /// The JWK set (RFC 7517 §5); a shared secret is in none.
    #[must_use]
    pub fn jwks(&self) -> Value {
        let public: Vec<&Jwk> = self.keys.iter().filter_map(|key| key.inner.public.as_ref()).collect();
        json!({ "keys": public })
    }
}

impl Algorithm {
    fn jose(self) -> jsonwebtoken::Algorithm {
        match self {
            Algorithm::Hs256 => jsonwebtoken::Algorithm::HS256,
            Algorithm::Es256 => jsonwebtoken::Algorithm::ES256,
            Algorithm::EdDsa => jsonwebtoken::Algorithm::EdDSA,
        }
    }
}

/// What a token says of itself, before anyone has verified it. Not the `alg`: a token that claims to be ours with
/// none, or with one nobody knows, is to be recognised as well.
#[derive(Deserialize)]
pub(super) struct ClaimedHeader {
    typ: Option<String>,
    kid: Option<String>,
}

impl ClaimedHeader {
    /// None when `token` does not begin as a compact JWS does.
    pub(super) fn of(token: &str) -> Option<ClaimedHeader> {
        let (header, _) = token.split_once('.')?;
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).ok()?).ok()
    }

    /// A media type: case makes no difference, and `application/` may be left out (RFC 7515 §4.1.9).
    pub(super) fn is_of_type(&self, typ: &str) -> bool {
        let Some(claimed) = &self.typ else { return false };
        let claimed = claimed.to_ascii_lowercase();
        claimed.strip_prefix("application/").unwrap_or(&claimed).eq_ignore_ascii_case(typ)
    }
}

fn derived_shared(secret: &[u8]) -> SigningKey {
    let key = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), b"latchgate own tokens v1");
    SigningKey::shared(key.as_ref())
}

fn derived_ed25519(secret: &[u8]) -> SigningKey {
    let mut seed = Zeroizing::new([0; ED25519_SEED_LEN]);
    Salt::new(HKDF_SHA256, b"latchgate own tokens EdDSA v1")
        .extract(secret)
        .expand(&[b"seed"], HKDF_SHA256)
        .and_then(|okm| okm.fill(seed.as_mut()))
        .expect("as long as one block of HKDF-SHA-256");
    let pair = Ed25519KeyPair::from_seed_unchecked(seed.as_ref()).expect("any 32 bytes are a seed (RFC 8032 §5.1.5)");
    SigningKey::ed25519(&pair).expect("a key pair can be written and read")
}

fn random_es256() -> Result<SigningKey, NoRandomness> {
    let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).map_err(|_| NoRandomness)?;
    let document = pair.to_pkcs8v1().map_err(|_| NoRandomness)?;
    SigningKey::of_pair(Algorithm::Es256, EncodingKey::from_ec_der(document.as_ref())).map_err(|NotAKey| NoRandomness)
}

const KID_LEN: usize = 12;
const ED25519_SEED_LEN: usize = 32;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    const SECRET: &str = "one secret of at least 32 bytes!!";
    const OTHER: &str = "another secret of at least 32 byte";
    const TYPE: &str = "latchgate+jwt";

    /// A new private key as `openssl genpkey` writes it.
    pub(crate) fn pem(algorithm: &'static rcgen::SignatureAlgorithm) -> String {
        rcgen::KeyPair::generate_for(algorithm).unwrap().serialize_pem()
    }

    pub(crate) fn ec_pem() -> String {
        pem(&rcgen::PKCS_ECDSA_P256_SHA256)
    }

    fn keys(algorithm: Algorithm, secrets: &[&str]) -> KeySet {
        let secrets: Vec<SecretString> = secrets.iter().map(|&secret| secret.into()).collect();
        KeySet::new(algorithm, &[], &secrets).unwrap()
    }

    fn configured(algorithm: Algorithm, pems: &[&str]) -> KeySet {
        let pems: Vec<SigningKey> = pems.iter().map(|pem| SigningKey::from_pem(algorithm, pem).unwrap()).collect();
        KeySet::new(algorithm, &pems, &[]).unwrap()
    }

    fn claims() -> Map<String, Value> {
        json!({"iss": "gw", "aud": "gw", "exp": 1, "sub": "corp:ada"}).as_object().unwrap().clone()
    }

    fn opens(keys: &KeySet, token: &str) -> bool {
        keys.verify(token, TYPE, "gw", "gw") == Some(claims())
    }

    #[test]
    fn every_algorithm_verifies_what_it_signed_and_by_its_published_key_too() {
        for algorithm in [Algorithm::Hs256, Algorithm::Es256, Algorithm::EdDsa] {
            let keys = keys(algorithm, &[SECRET]);
            let token = keys.sign(TYPE, &claims()).unwrap();
            assert!(opens(&keys, &token), "{algorithm:?}");
            assert!(!opens(&self::keys(algorithm, &[OTHER]), &token), "{algorithm:?}: with another key");
            let set: jsonwebtoken::jwk::JwkSet = serde_json::from_value(keys.jwks()).unwrap();
            let header = jsonwebtoken::decode_header(&token).unwrap();
            assert_eq!((header.alg, header.typ.as_deref()), (algorithm.jose(), Some(TYPE)));
            if algorithm == Algorithm::Hs256 {
                assert_eq!(keys.jwks(), json!({"keys": []}));
                continue;
            }
            let jwk = set.find(&header.kid.unwrap()).unwrap();
            let mut validation = Validation::new(algorithm.jose());
            validation.validate_exp = false;
            validation.validate_aud = false;
            let read = jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_jwk(jwk).unwrap(), &validation);
            assert_eq!(read.unwrap().claims["sub"], "corp:ada", "{algorithm:?}");
            let published = keys.jwks()["keys"][0].clone();
            assert_eq!((&published["use"], published.get("d")), (&json!("sig"), None), "{published}");
        }
    }

    /// The example of RFC 8037 §A.3.
    #[test]
    fn kids_are_thumbprints() {
        let der = format!("302e020100300506032b657004220420{RFC_8037_SEED}");
        let der: Vec<u8> =
            (0..der.len()).step_by(2).map(|at| u8::from_str_radix(&der[at..at + 2], 16).unwrap()).collect();
        let key = SigningKey::ed25519(&Ed25519KeyPair::from_pkcs8(&der).unwrap()).unwrap();
        assert_eq!(key.kid(), "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k");
    }

    const RFC_8037_SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";

    #[test]
    fn who_has_the_secret_has_the_keys() {
        for algorithm in [Algorithm::Hs256, Algorithm::EdDsa] {
            let token = keys(algorithm, &[SECRET]).sign(TYPE, &claims()).unwrap();
            assert!(opens(&keys(algorithm, &[SECRET]), &token), "{algorithm:?}: a replica");
            assert!(opens(&keys(algorithm, &[OTHER, SECRET]), &token), "{algorithm:?}: a new secret before it");
            assert!(!opens(&keys(algorithm, &[]), &token), "{algorithm:?}: at random");
        }
        let (here, there) = (keys(Algorithm::Es256, &[SECRET]), keys(Algorithm::Es256, &[SECRET]));
        assert!(!opens(&there, &here.sign(TYPE, &claims()).unwrap()), "ES256 keys are of one process");
    }

    #[test]
    fn keys_are_rotated() {
        for (algorithm, kind) in
            [(Algorithm::Es256, &rcgen::PKCS_ECDSA_P256_SHA256), (Algorithm::EdDsa, &rcgen::PKCS_ED25519)]
        {
            let (old, new) = (pem(kind), pem(kind));
            let token = configured(algorithm, &[&old]).sign(TYPE, &claims()).unwrap();
            let both = configured(algorithm, &[&new, &old]);
            assert!(opens(&both, &token) && opens(&both, &both.sign(TYPE, &claims()).unwrap()));
            assert!(!opens(&configured(algorithm, &[&new]), &token), "retired");
            assert_eq!(both.jwks()["keys"].as_array().unwrap().len(), 2, "both are published");
            let signed_by_new = configured(algorithm, &[&new]);
            assert!(opens(&signed_by_new, &both.sign(TYPE, &claims()).unwrap()), "the first signs");
        }
    }

    #[test]
    fn what_is_no_key_of_the_algorithm_is_refused() {
        let (ec, ed, p384) = (ec_pem(), pem(&rcgen::PKCS_ED25519), pem(&rcgen::PKCS_ECDSA_P384_SHA384));
        let broken = ec.replace("BEGIN PRIVATE", "BEGIN EC PRIVATE");
        let public = rcgen::KeyPair::generate().unwrap().public_key_pem();
        for (algorithm, text) in [
            (Algorithm::Es256, ed.as_str()),
            (Algorithm::Es256, &p384),
            (Algorithm::Es256, &broken),
            (Algorithm::Es256, &public),
            (Algorithm::Es256, SECRET),
            (Algorithm::EdDsa, &ec),
            (Algorithm::EdDsa, ""),
            (Algorithm::Hs256, &ec),
        ] {
            assert_eq!(SigningKey::from_pem(algorithm, text).map(drop), Err(NotAKey), "{algorithm:?}\n{text}");
        }
        assert!(
            SigningKey::from_pem(Algorithm::Es256, &ec).is_ok() && SigningKey::from_pem(Algorithm::EdDsa, &ed).is_ok()
        );
    }

    // TG-26
    #[test]
    fn tg_26_no_token_chooses_how_it_is_verified() {
        let keys = configured(Algorithm::Es256, &[&ec_pem()]);
        let kid = keys.keys[0].kid().to_owned();
        let encode = |part: &Value| URL_SAFE_NO_PAD.encode(part.to_string());
        let body = encode(&Value::Object(claims()));
        let unsigned = |alg: &str| format!("{}.{body}.", encode(&json!({"alg": alg, "typ": TYPE, "kid": kid})));
        let public = serde_json::to_vec(&keys.jwks()["keys"][0]).unwrap();
        let verifying = keys.keys[0].inner.verifying.try_get_as_bytes().unwrap().to_vec();
        let with_public_key = |secret: &[u8]| {
            let mut header = Header::new(jsonwebtoken::Algorithm::HS256);
            (header.typ, header.kid) = (Some(TYPE.into()), Some(kid.clone()));
            jsonwebtoken::encode(&header, &claims(), &EncodingKey::from_secret(secret)).unwrap()
        };
        for forged in [
            unsigned("none"),
            unsigned("None"),
            unsigned("ES256"),
            unsigned("HS256"),
            with_public_key(&public),
            with_public_key(&verifying),
            with_public_key(b""),
        ] {
            assert!(!opens(&keys, &forged), "{forged}");
        }
        let good = keys.sign(TYPE, &claims()).unwrap();
        for (typ, issuer, audience) in [("JWT", "gw", "gw"), (TYPE, "gv", "gw"), (TYPE, "gw", "gv"), (TYPE, "", "")] {
            assert_eq!(keys.verify(&good, typ, issuer, audience), None, "{typ} {issuer} {audience}");
        }
        for missing in ["iss", "aud", "exp"] {
            let mut claims = claims();
            claims.remove(missing);
            let token = keys.sign(TYPE, &claims).unwrap();
            assert_eq!(keys.verify(&token, TYPE, "gw", "gw"), None, "without {missing}");
        }
    }

    #[test]
    fn types_are_media_types() {
        let of = |typ: &Value| {
            let token = format!("{}.e30.", URL_SAFE_NO_PAD.encode(json!({"alg": "none", "typ": typ}).to_string()));
            ClaimedHeader::of(&token).is_some_and(|header| header.is_of_type(TYPE))
        };
        for (typ, is_ours) in [
            (json!("latchgate+jwt"), true),
            (json!("Latchgate+JWT"), true),
            (json!("application/latchgate+jwt"), true),
            (json!("JWT"), false),
            (json!("xlatchgate+jwt"), false),
            (json!(7), false),
            (json!(null), false),
        ] {
            assert_eq!(of(&typ), is_ours, "{typ}");
        }
        for text in ["", ".", "a.b.c", "!!.e30.", "e30"] {
            assert!(ClaimedHeader::of(text).is_none(), "{text}");
        }
    }

    #[test]
    fn no_key_is_printed() {
        let shown = format!("{:?}", SigningKey::shared(SECRET.as_bytes()));
        assert!(shown.contains("kid") && !shown.contains("secret"), "{shown}");
    }
}
