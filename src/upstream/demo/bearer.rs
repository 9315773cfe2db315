//! The bearer token of a request, as a backend sees it.

use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::HeaderMap;
use http::header::AUTHORIZATION;
use serde_json::{Map, Value};

/// A token, known by its hash. If it is a JWT, its claims are read and believed: whether they are
/// true is for the gateway to know. A backend of your own checks the signature.
pub(super) struct Bearer {
    hash: TokenHash,
    claims: Map<String, Value>,
}

/// SHA-256 of a token.
pub(super) type TokenHash = [u8; 32];

/// Why a request is turned away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// There is no bearer token.
    Absent,
    /// The demo was told to refuse this token.
    Refused,
    /// `exp` has passed.
    Expired,
}

impl Bearer {
    /// None without `Authorization: Bearer …`.
    pub(super) fn of(headers: &HeaderMap) -> Option<Bearer> {
        let (scheme, token) = headers.get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
        let token = token.trim();
        (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty())
            .then(|| Bearer { hash: sha256(token.as_bytes()), claims: payload(token).unwrap_or_default() })
    }

    pub(super) fn hash(&self) -> TokenHash {
        self.hash
    }

    /// The first 8 hex digits of the hash: enough to tell two tokens apart, worth nothing elsewhere.
    pub(super) fn fingerprint(&self) -> String {
        hex(&self.hash[..4])
    }

    /// Empty when the token is not a JWT.
    pub(super) fn claims(&self) -> &Map<String, Value> {
        &self.claims
    }

    pub(super) fn subject(&self) -> Option<&str> {
        self.claims.get("sub").and_then(Value::as_str)
    }

    /// Seconds until `exp`, 0 when it has passed; None when the token does not say.
    pub(super) fn seconds_left(&self, unix: u64) -> Option<u64> {
        let exp = self.claims.get("exp")?;
        // NumericDate may have a fraction (RFC 7519 §2).
        let exp = exp.as_u64().or_else(|| exp.as_f64().map(|seconds| seconds as u64))?;
        Some(exp.saturating_sub(unix))
    }
}

/// Whether an API lets the request in.
///
/// | token | answer |
/// |---|---|
/// | none | `Absent` |
/// | one that is to be refused | `Refused` |
/// | a JWT whose `exp` has passed | `Expired` |
/// | any other | let in |
pub(super) fn admit(bearer: Option<&Bearer>, refused: bool, unix: u64) -> Result<(), Refusal> {
    match bearer {
        None => Err(Refusal::Absent),
        Some(_) if refused => Err(Refusal::Refused),
        Some(bearer) if bearer.seconds_left(unix) == Some(0) => Err(Refusal::Expired),
        Some(_) => Ok(()),
    }
}

/// The payload of a compact JWS, unverified.
fn payload(token: &str) -> Option<Map<String, Value>> {
    let mut parts = token.split('.');
    let (_, payload, _, None) = (parts.next()?, parts.next()?, parts.next()?, parts.next()) else {
        return None;
    };
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).ok()?).ok()
}

pub(super) fn sha256(bytes: &[u8]) -> TokenHash {
    let mut hash = [0; 32];
    hash.copy_from_slice(digest(&SHA256, bytes).as_ref());
    hash
}

pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn bearer(authorization: &str) -> Option<Bearer> {
        let mut headers = HeaderMap::new();
        headers.insert(AUTHORIZATION, authorization.parse().unwrap());
        Bearer::of(&headers)
    }

    fn jwt(claims: &Value) -> Bearer {
        bearer(&format!("Bearer e30.{}.sig", URL_SAFE_NO_PAD.encode(claims.to_string()))).unwrap()
    }

    #[test]
    fn only_bearer_tokens_are_read() {
        assert!(bearer("Basic dTpw").is_none());
        assert!(bearer("Bearer").is_none());
        assert!(bearer("Bearer ").is_none());
        assert!(bearer("bearer opaque").unwrap().claims().is_empty());
    }

    #[test]
    fn the_fingerprint_is_the_start_of_the_hash() {
        // SHA-256 of "abc" (FIPS 180-4)
        assert_eq!(bearer("Bearer abc").unwrap().fingerprint(), "ba7816bf");
    }

    #[test]
    fn what_is_no_jwt_has_no_claims() {
        let object = URL_SAFE_NO_PAD.encode("{\"sub\":\"ada\"}");
        let array = URL_SAFE_NO_PAD.encode("[1]");
        for token in
            [format!("e30.{object}"), format!("e30.{object}.s.more"), format!("e30.{array}.s"), "e30.!!.s".to_owned()]
        {
            assert!(bearer(&format!("Bearer {token}")).unwrap().claims().is_empty(), "{token}");
        }
        assert_eq!(jwt(&json!({ "sub": "ada" })).subject(), Some("ada"));
    }

    #[test]
    fn the_table_of_admit() {
        let opaque = bearer("Bearer opaque").unwrap();
        let token = jwt(&json!({ "exp": 100 }));
        let fraction = jwt(&json!({ "exp": 100.5 }));
        for (bearer, refused, unix, expected) in [
            (None, false, 0, Err(Refusal::Absent)),
            (Some(&opaque), false, 0, Ok(())),
            (Some(&opaque), true, 0, Err(Refusal::Refused)),
            (Some(&token), false, 99, Ok(())),
            (Some(&token), false, 100, Err(Refusal::Expired)),
            (Some(&token), true, 100, Err(Refusal::Refused)),
            (Some(&fraction), false, 99, Ok(())),
            (Some(&fraction), false, 101, Err(Refusal::Expired)),
        ] {
            assert_eq!(admit(bearer, refused, unix), expected, "refused {refused}, at {unix}");
        }
    }
}
