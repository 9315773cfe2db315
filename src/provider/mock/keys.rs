//! The signing key of the mock provider: ES256, made when the provider starts and kept by nobody.

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde_json::{Map, Value, json};

/// What a JWT is for, as its `typ` header says it (RFC 8725 §3.11).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum TokenType {
    /// `at+jwt` (RFC 9068 §2.1)
    Access,
    /// `JWT`
    Id,
}

/// Signs tokens, and recognises its own.
pub(super) struct SigningKey {
    kid: String,
    x: String,
    y: String,
    signing: EncodingKey,
    verifying: DecodingKey,
}

impl SigningKey {
    /// A new P-256 key.
    ///
    /// # Panics
    /// When the system has no random bytes to give.
    pub(super) fn generate() -> SigningKey {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("a P-256 key can be made");
        let pkcs8 = pair.to_pkcs8v1().expect("a new key can be written as PKCS#8");
        // SEC 1 §2.3.3: 0x04, then both coordinates.
        let point = pair.public_key().as_ref();
        let x = URL_SAFE_NO_PAD.encode(&point[1..33]);
        let y = URL_SAFE_NO_PAD.encode(&point[33..65]);
        SigningKey {
            kid: thumbprint(&x, &y),
            signing: EncodingKey::from_ec_der(pkcs8.as_ref()),
            verifying: DecodingKey::from_ec_components(&x, &y).expect("the coordinates were just encoded"),
            x,
            y,
        }
    }

    /// The key set that `jwks_uri` serves (RFC 7517 §5).
    pub(super) fn jwks(&self) -> Value {
        json!({ "keys": [{
            "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256",
            "kid": self.kid, "x": self.x, "y": self.y,
        }] })
    }

    /// A compact JWS over `claims`.
    pub(super) fn sign(&self, kind: TokenType, claims: &Map<String, Value>) -> jsonwebtoken::errors::Result<String> {
        let mut header = Header::new(Algorithm::ES256);
        header.typ = Some(kind.typ().to_owned());
        header.kid = Some(self.kid.clone());
        jsonwebtoken::encode(&header, claims, &self.signing)
    }

    /// The claims of a token of ours of this kind, expired or not; None for any other text.
    pub(super) fn open(&self, kind: TokenType, token: &str) -> Option<Map<String, Value>> {
        // Expiry is the caller's: an expired ID token is still a good hint, and the time is an argument here.
        let mut validation = Validation::new(Algorithm::ES256);
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        let opened = jsonwebtoken::decode::<Map<String, Value>>(token, &self.verifying, &validation).ok()?;
        (opened.header.typ.as_deref() == Some(kind.typ())).then_some(opened.claims)
    }
}

impl TokenType {
    fn typ(self) -> &'static str {
        match self {
            TokenType::Access => "at+jwt",
            TokenType::Id => "JWT",
        }
    }
}

/// RFC 7638: the required members in lexicographic order, without white space.
fn thumbprint(x: &str, y: &str) -> String {
    let members = format!(r#"{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}"#);
    URL_SAFE_NO_PAD.encode(digest(&SHA256, members.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claims() -> Map<String, Value> {
        json!({ "sub": "ada" }).as_object().unwrap().clone()
    }

    #[test]
    fn a_token_opens_only_as_what_it_is() {
        let key = SigningKey::generate();
        let token = key.sign(TokenType::Access, &claims()).unwrap();
        assert_eq!(key.open(TokenType::Access, &token), Some(claims()));
        assert_eq!(key.open(TokenType::Id, &token), None, "an access token is no ID token");
    }

    #[test]
    fn tokens_of_another_key_do_not_open() {
        let token = SigningKey::generate().sign(TokenType::Id, &claims()).unwrap();
        assert_eq!(SigningKey::generate().open(TokenType::Id, &token), None);
    }

    #[test]
    fn the_published_key_verifies_the_signature() {
        let key = SigningKey::generate();
        let token = key.sign(TokenType::Id, &claims()).unwrap();
        let jwk: jsonwebtoken::jwk::Jwk = serde_json::from_value(key.jwks()["keys"][0].clone()).unwrap();
        let mut validation = Validation::new(Algorithm::ES256);
        validation.required_spec_claims.clear();
        validation.validate_exp = false;
        let published = DecodingKey::from_jwk(&jwk).unwrap();
        let opened = jsonwebtoken::decode::<Map<String, Value>>(&token, &published, &validation).unwrap();
        assert_eq!(opened.header.kid, jwk.common.key_id);
    }
}
