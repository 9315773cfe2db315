//! As much of an OpenID provider as the gateway and its peers need to open a session.
//!
//! Nothing is remembered: the code that a token is asked with is the nonce (`sign_in.rs`), and who the user is stands
//! in the access token.

use crate::Failure;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};

/// The length of an access token: a JWT with a dozen claims and an RSA signature.
pub const TOKEN_LENGTH: usize = 900;
/// As which all clients are registered.
pub const CLIENT_ID: &str = "bench";
/// Of those that cannot do without.
pub const CLIENT_SECRET: &str = "a-secret-of-nobody";

pub struct Provider {
    issuer: String,
    key: EcdsaKeyPair,
    issued: AtomicU64,
}

impl Provider {
    pub fn at(address: SocketAddr) -> Result<Provider, Failure> {
        let key = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING)?;
        Ok(Provider { issuer: format!("http://{address}"), key, issued: AtomicU64::new(0) })
    }

    /// The JSON for a request, if it is one for a provider. `authorization` is that header's value, `form` the body.
    pub fn answer(&self, path: &str, authorization: Option<&str>, form: &[u8], now: u64) -> Option<Value> {
        match path {
            "/.well-known/openid-configuration" => Some(self.metadata()),
            "/jwks" => Some(self.keys()),
            "/token" => self.token(form, now),
            "/userinfo" => Some(user(number_of(authorization.unwrap_or_default()))),
            _ => None,
        }
    }

    fn metadata(&self) -> Value {
        let issuer = &self.issuer;
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "userinfo_endpoint": format!("{issuer}/userinfo"),
            "jwks_uri": format!("{issuer}/jwks"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        })
    }

    fn keys(&self) -> Value {
        // An uncompressed point: 4, x, y.
        let point = self.key.public_key().as_ref();
        let (x, y) = (BASE64_URL_SAFE_NO_PAD.encode(&point[1..33]), BASE64_URL_SAFE_NO_PAD.encode(&point[33..65]));
        json!({ "keys": [{ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": KEY_ID, "x": x, "y": y }] })
    }

    fn token(&self, form: &[u8], now: u64) -> Option<Value> {
        let number = self.issued.fetch_add(1, Ordering::Relaxed);
        let code = url::form_urlencoded::parse(form).find_map(|(name, value)| (name == "code").then_some(value));
        let mut claims = user(number);
        claims["iss"] = self.issuer.as_str().into();
        claims["aud"] = CLIENT_ID.into();
        claims["iat"] = now.into();
        claims["exp"] = (now + LIFE).into();
        claims["nonce"] = code.as_deref().unwrap_or_default().into();
        Some(json!({
            "access_token": format!("{number:a>TOKEN_LENGTH$}"),
            "token_type": "Bearer",
            "expires_in": LIFE,
            "refresh_token": format!("rt-{number}"),
            "id_token": self.sign(&claims)?,
        }))
    }

    fn sign(&self, claims: &Value) -> Option<String> {
        let part = |value: &Value| BASE64_URL_SAFE_NO_PAD.encode(value.to_string());
        let header = json!({ "alg": "ES256", "typ": "JWT", "kid": KEY_ID });
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.key.sign(&SystemRandom::new(), signed.as_bytes()).ok()?;
        Some(format!("{signed}.{}", BASE64_URL_SAFE_NO_PAD.encode(signature)))
    }
}

fn user(number: u64) -> Value {
    let email = format!("user-{number}@example.com");
    json!({ "sub": format!("user-{number}"), "name": "Ada Example", "email": email, "email_verified": true })
}

/// Whose access token this is.
fn number_of(authorization: &str) -> u64 {
    authorization.trim_start_matches("Bearer ").trim_start_matches('a').parse().unwrap_or_default()
}

const KEY_ID: &str = "1";
const LIFE: u64 = 86_400;
