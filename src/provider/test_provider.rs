//! A provider for tests: answers what its script says, remembers what it was asked, in process or on a port of loopback.

use super::{ClientAuth, Dialect, HttpClient, Kind, Provider, Settings};
use crate::clock::Clock;
use ::http::{Request, Response};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair, RSA_PKCS1_SHA256, RsaKeyPair,
    RsaPublicKeyComponents,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

pub(crate) const CLIENT_ID: &str = "app";
pub(crate) const NONCE: &str = "the-nonce-of-this-login";
pub(crate) const ACCESS_TOKEN: &str = "access-1";

/// A private key with the public half a JWKS shows.
#[derive(Clone)]
pub(crate) struct SigningKey {
    kid: String,
    pair: Pair,
}

#[derive(Clone)]
enum Pair {
    Ec(Arc<EcdsaKeyPair>),
    Ed(Arc<Ed25519KeyPair>),
    Rsa(&'static RsaKeyPair),
}

static RSA_PAIR: LazyLock<RsaKeyPair> = LazyLock::new(|| RsaKeyPair::generate(KeySize::Rsa2048).unwrap());

impl SigningKey {
    pub(crate) fn es256(kid: &str) -> SigningKey {
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_FIXED_SIGNING).unwrap();
        SigningKey { kid: kid.to_owned(), pair: Pair::Ec(Arc::new(pair)) }
    }

    pub(crate) fn ed25519(kid: &str) -> SigningKey {
        let pair = Ed25519KeyPair::generate().unwrap();
        SigningKey { kid: kid.to_owned(), pair: Pair::Ed(Arc::new(pair)) }
    }

    /// Always the same key pair: making one takes long.
    pub(crate) fn rs256(kid: &str) -> SigningKey {
        SigningKey { kid: kid.to_owned(), pair: Pair::Rsa(&RSA_PAIR) }
    }

    pub(crate) fn algorithm(&self) -> &'static str {
        match self.pair {
            Pair::Ec(_) => "ES256",
            Pair::Ed(_) => "EdDSA",
            Pair::Rsa(_) => "RS256",
        }
    }

    pub(crate) fn jwk(&self) -> Value {
        let b64 = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        match &self.pair {
            Pair::Ec(pair) => {
                let (x, y) = pair.public_key().as_ref()[1..].split_at(32);
                json!({ "kty": "EC", "crv": "P-256", "kid": self.kid, "x": b64(x), "y": b64(y) })
            }
            Pair::Ed(pair) => {
                let x = pair.public_key().as_ref();
                json!({ "kty": "OKP", "crv": "Ed25519", "kid": self.kid, "x": b64(x) })
            }
            Pair::Rsa(pair) => {
                let public = RsaPublicKeyComponents::<Vec<u8>>::from(pair.public_key());
                json!({ "kty": "RSA", "kid": self.kid, "n": b64(&public.n), "e": b64(&public.e) })
            }
        }
    }

    pub(crate) fn header(&self) -> Value {
        json!({ "alg": self.algorithm(), "kid": self.kid, "typ": "JWT" })
    }

    /// A JWS in compact serialization of exactly this header and payload.
    pub(crate) fn sign(&self, header: &[u8], payload: &[u8]) -> String {
        let signed = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
        let random = SystemRandom::new();
        let signature = match &self.pair {
            Pair::Ec(pair) => pair.sign(&random, signed.as_bytes()).unwrap().as_ref().to_vec(),
            Pair::Ed(pair) => pair.sign(signed.as_bytes()).as_ref().to_vec(),
            Pair::Rsa(pair) => {
                let mut signature = vec![0; pair.public_modulus_len()];
                pair.sign(&RSA_PKCS1_SHA256, &random, signed.as_bytes(), &mut signature).unwrap();
                signature
            }
        };
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }

    pub(crate) fn sign_claims(&self, claims: &Value) -> String {
        self.sign(self.header().to_string().as_bytes(), claims.to_string().as_bytes())
    }
}

/// Lays `changes` over `base`; null takes a member away.
pub(crate) fn changed(mut base: Value, changes: &Value) -> Value {
    let members = base.as_object_mut().unwrap();
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(members.remove(name)),
            value => drop(members.insert(name.clone(), value.clone())),
        }
    }
    base
}

/// What one request to the provider was.
#[derive(Clone)]
pub(crate) struct Asked {
    pub(crate) path: String,
    pub(crate) query: String,
    pub(crate) authorization: Option<String>,
    pub(crate) form: HashMap<String, String>,
}

/// What the provider will answer.
pub(crate) struct Script {
    pub(crate) issuer: String,
    pub(crate) key: SigningKey,
    /// Laid over the metadata.
    pub(crate) metadata: Value,
    /// Laid over the claims of ID tokens.
    pub(crate) claims: Value,
    /// Laid over the token answer.
    pub(crate) tokens: Value,
    /// A path answers this instead.
    pub(crate) instead: HashMap<&'static str, Answer>,
    pub(crate) userinfo: Value,
    /// Whoever redeems the code `ada` is `ada`, with a nonce and an access token of their own.
    pub(crate) user_is_code: bool,
    pub(crate) asked: Vec<Asked>,
}

#[derive(Clone)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(&'static str, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn new(status: u16, body: impl ToString) -> Answer {
        Answer { status, headers: Vec::new(), body: body.to_string() }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Answer {
        self.headers.push((name, value.to_owned()));
        self
    }
}

#[derive(Clone)]
pub(crate) struct TestProvider {
    script: Arc<Mutex<Script>>,
    pub(crate) clock: Clock,
}

impl TestProvider {
    pub(crate) fn new() -> TestProvider {
        TestProvider {
            script: Arc::new(Mutex::new(Script {
                issuer: "https://op.example".to_owned(),
                key: SigningKey::es256("key-1"),
                metadata: json!({}),
                claims: json!({}),
                tokens: json!({}),
                instead: HashMap::new(),
                userinfo: json!({ "sub": "ada" }),
                user_is_code: false,
                asked: Vec::new(),
            })),
            clock: Clock::system(),
        }
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.script.lock().unwrap());
    }

    pub(crate) fn asked(&self, path: &str) -> Vec<Asked> {
        let script = self.script.lock().unwrap();
        script.asked.iter().filter(|asked| asked.path == path).cloned().collect()
    }

    pub(crate) fn settings(&self) -> Settings {
        Settings {
            name: "corp".to_owned(),
            kind: Kind::Oidc { issuer: self.script.lock().unwrap().issuer.clone() },
            client_id: CLIENT_ID.to_owned(),
            client_secret: Some(SecretString::from("client-secret")),
            client_auth: ClientAuth::ClientSecretBasic,
            scopes: ["openid", "profile", "email", "offline_access"].map(str::to_owned).to_vec(),
            timeout: Duration::from_secs(2),
            title: None,
            dialect: Dialect::default(),
        }
    }

    /// A provider that reaches this one in process.
    pub(crate) fn provider(&self) -> Provider {
        self.provider_with(self.settings())
    }

    pub(crate) fn provider_with(&self, settings: Settings) -> Provider {
        let this = self.clone();
        let http = HttpClient::in_process(move |request| {
            let this = this.clone();
            async move {
                // As over a network, others get a turn before the answer comes.
                tokio::task::yield_now().await;
                this.answer(&request)
            }
        });
        Provider::new(settings, http, self.clock.clone())
    }

    /// Listens on loopback and takes its address as issuer.
    pub(crate) async fn listen(&self) -> SocketAddr {
        let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        self.script(|script| script.issuer = format!("http://{address}"));
        let this = self.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let this = this.clone();
                let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
                    let this = this.clone();
                    async move {
                        let (head, body) = request.into_parts();
                        let body = body.collect().await.unwrap().to_bytes();
                        Ok::<_, Infallible>(this.answer(&Request::from_parts(head, body)).map(Full::new))
                    }
                });
                tokio::spawn(
                    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service),
                );
            }
        });
        address
    }

    pub(crate) fn answer(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let mut script = self.script.lock().unwrap();
        let path = request.uri().path().to_owned();
        let form: HashMap<String, String> = url::form_urlencoded::parse(request.body()).into_owned().collect();
        if let Some(user) = form.get("code").filter(|_| script.user_is_code) {
            script.claims = json!({ "sub": user, "nonce": format!("{NONCE}-{user}") });
            script.tokens = json!({ "access_token": format!("{ACCESS_TOKEN}-{user}") });
        }
        let answer = script.instead.get(path.as_str()).cloned().unwrap_or_else(|| match path.as_str() {
            "/.well-known/openid-configuration" => Answer::new(200, script.document()),
            "/jwks" => Answer::new(200, json!({ "keys": [script.key.jwk()] })),
            "/token" => Answer::new(200, script.token_answer(self.clock.now().unix)),
            "/userinfo" => Answer::new(200, &script.userinfo),
            "/revoke" => Answer::new(200, ""),
            _ => Answer::new(404, ""),
        });
        let authorization = request.headers().get("authorization");
        script.asked.push(Asked {
            path,
            query: request.uri().query().unwrap_or_default().to_owned(),
            authorization: authorization.map(|value| value.to_str().unwrap().to_owned()),
            form,
        });
        let mut response = Response::builder().status(answer.status);
        for (name, value) in answer.headers {
            response = response.header(name, value);
        }
        response.body(Bytes::from(answer.body)).unwrap()
    }
}

impl Script {
    fn document(&self) -> Value {
        let at = |path: &str| format!("{}{path}", self.issuer);
        let document = json!({
            "issuer": self.issuer,
            "authorization_endpoint": at("/authorize"),
            "token_endpoint": at("/token"),
            "jwks_uri": at("/jwks"),
            "userinfo_endpoint": at("/userinfo"),
            "revocation_endpoint": at("/revoke"),
            "end_session_endpoint": at("/logout?tenant=a"),
            "id_token_signing_alg_values_supported": ["RS256", "ES256", "EdDSA", "none", "HS256"],
            "code_challenge_methods_supported": ["plain", "S256"],
        });
        changed(document, &self.metadata)
    }

    pub(crate) fn id_token(&self, now: u64) -> String {
        let claims = json!({
            "iss": self.issuer, "sub": "ada", "aud": CLIENT_ID, "exp": now + 300, "iat": now, "nonce": NONCE,
            "name": "Ada Example", "email": "ada@example.com",
        });
        self.key.sign_claims(&changed(claims, &self.claims))
    }

    fn token_answer(&self, now: u64) -> Value {
        let answer = json!({
            "access_token": ACCESS_TOKEN, "token_type": "Bearer", "expires_in": 300, "refresh_token": "refresh-1",
            "id_token": self.id_token(now),
        });
        changed(answer, &self.tokens)
    }
}
