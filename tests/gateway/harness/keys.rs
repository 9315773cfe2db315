//! Signing keys and signed tokens, good and bad ones.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair, RSA_PKCS1_SHA256};
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

/// The algorithms the provider signs with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    Es256,
    Rs256,
}

/// One key pair with its `kid`.
pub struct SigningKey {
    pub kid: String,
    pair: Pair,
}

enum Pair {
    Ecdsa(EcdsaKeyPair),
    Rsa(Box<rsa::KeyPair>),
}

impl SigningKey {
    /// A fresh key.
    pub fn generate(algorithm: Algorithm) -> SigningKey {
        let pair = match algorithm {
            Algorithm::Es256 => Pair::Ecdsa(EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).expect("entropy")),
            Algorithm::Rs256 => Pair::Rsa(Box::new(rsa::KeyPair::generate(rsa::KeySize::Rsa2048).expect("entropy"))),
        };
        SigningKey { kid: random_text(8), pair }
    }

    /// The name of the algorithm in a JWT header (RFC 7518 §3.1).
    pub fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ecdsa(_) => "ES256",
            Pair::Rsa(_) => "RS256",
        }
    }

    /// The public half (RFC 7517 §4).
    pub fn jwk(&self) -> Value {
        match &self.pair {
            Pair::Ecdsa(pair) => {
                let point = pair.public_key().as_ref();
                json!({
                    "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": self.kid,
                    "x": base64url(&point[1..33]), "y": base64url(&point[33..65]),
                })
            }
            Pair::Rsa(pair) => {
                let public = pair.public_key();
                json!({
                    "kty": "RSA", "use": "sig", "alg": "RS256", "kid": self.kid,
                    "n": base64url(public.modulus().big_endian_without_leading_zero()),
                    "e": base64url(public.exponent().big_endian_without_leading_zero()),
                })
            }
        }
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        let random = SystemRandom::new();
        match &self.pair {
            Pair::Ecdsa(pair) => pair.sign(&random, message).expect("a signature").as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature).expect("a signature");
                signature
            }
        }
    }
}

/// How an ID token is signed in the end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Signature {
    /// With the current key.
    Good,
    /// With a key that was never published, under the `kid` of the current one.
    OtherKey,
    /// With the current key, one bit changed afterwards.
    Flipped,
    /// The third part is empty.
    Empty,
    /// HMAC-SHA-256 under these bytes.
    Hmac(Vec<u8>),
}

/// An ID token on its way out, to be changed by a test.
#[derive(Clone, Debug)]
pub struct IdToken {
    pub header: Map<String, Value>,
    pub claims: Map<String, Value>,
    pub signature: Signature,
}

impl IdToken {
    /// The compact serialisation (RFC 7515 §3.1).
    pub fn encode(&self, key: &SigningKey) -> String {
        let part = |object: &Map<String, Value>| base64url(&serde_json::to_vec(object).expect("JSON"));
        let signed = format!("{}.{}", part(&self.header), part(&self.claims));
        let signature = match &self.signature {
            Signature::Good => key.sign(signed.as_bytes()),
            Signature::OtherKey => SigningKey::generate(Algorithm::Es256).sign(signed.as_bytes()),
            Signature::Flipped => {
                let mut signature = key.sign(signed.as_bytes());
                signature[10] ^= 1;
                signature
            }
            Signature::Empty => Vec::new(),
            Signature::Hmac(secret) => {
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, secret), signed.as_bytes()).as_ref().to_vec()
            }
        };
        format!("{signed}.{}", base64url(&signature))
    }
}

/// `bytes` random bytes, in base64url.
pub fn random_text(bytes: usize) -> String {
    let mut random = vec![0; bytes];
    rand::fill(&mut random).expect("entropy");
    base64url(&random)
}

/// Base64url without padding.
pub fn base64url(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}
