//! An OpenID provider that refreshes tokens, takes its time for it and says how long it took.

use crate::Failure;
use crate::stage::{ACCESS_TOKEN, REFRESH_TOKEN, text};
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderValue};
use http::{Method, Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use latchgate::clock::Clock;
use latchgate::provider::{ClientAuth, Dialect, HttpClient, Kind, Provider, Settings};
use latchgate::tls;
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

/// Runs on a thread of its own, and is reached through a socket, as any other.
#[derive(Clone)]
pub struct TokenEndpoint {
    address: SocketAddr,
    last: Arc<Mutex<Option<Call>>>,
}

/// One request.
#[derive(Clone, Copy)]
pub struct Call {
    pub arrived: Instant,
    pub answered: Instant,
}

impl TokenEndpoint {
    /// Answers [`LATENCY`] after the request has arrived.
    pub fn start() -> Result<TokenEndpoint, Failure> {
        let last = Arc::default();
        let (address_known, address) = mpsc::channel();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let shared = Arc::clone(&last);
        std::thread::Builder::new().name("provider".into()).spawn(move || {
            runtime.block_on(async move {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
                let _ = address_known.send(listener.local_addr()?);
                serve(listener, shared).await
            })
        })?;
        Ok(TokenEndpoint { address: address.recv()?, last })
    }

    /// As the gateway sees it.
    pub fn provider(&self, clock: &Clock) -> Provider {
        let settings = Settings {
            name: NAME.to_owned(),
            kind: Kind::Oidc { issuer: issuer_at(self.address) },
            client_id: "bench".to_owned(),
            client_secret: None,
            client_auth: ClientAuth::None,
            scopes: Vec::new(),
            timeout: Duration::from_secs(10),
            title: None,
            dialect: Dialect::default(),
        };
        Provider::new(settings, HttpClient::network(tls::client_config()), clock.clone())
    }

    /// The last request, which has been answered.
    pub fn last_call(&self) -> Result<Call, Failure> {
        Ok(self.last.lock().unwrap_or_else(PoisonError::into_inner).take().ok_or("the provider was not asked")?)
    }
}

async fn serve(listener: TcpListener, last: Arc<Mutex<Option<Call>>>) -> Result<(), std::io::Error> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (issuer, last) = (issuer_at(listener.local_addr()?), Arc::clone(&last));
        let answer = service_fn(move |request| answer(request, issuer.clone(), Arc::clone(&last)));
        let connection = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer);
        // A connection that breaks is its client's affair.
        tokio::spawn(async move { connection.await.ok() });
    }
}

async fn answer(request: Request<Incoming>, issuer: String, last: Arc<Mutex<Option<Call>>>) -> Answer {
    let is_token_request = request.method() == Method::POST;
    request.into_body().collect().await?;
    let arrived = Instant::now();
    let json = if is_token_request {
        sleep(LATENCY).await;
        let number = fastrand::usize(..);
        let [access_token, refresh_token] = [text(number, ACCESS_TOKEN), text(number, REFRESH_TOKEN)];
        json!({
            "access_token": access_token, "refresh_token": refresh_token, "token_type": "Bearer", "expires_in": 3600,
        })
    } else {
        json!({
            "issuer": issuer,
            "authorization_endpoint": format!("{issuer}/authorize"),
            "token_endpoint": format!("{issuer}/token"),
            "jwks_uri": format!("{issuer}/keys"),
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["RS256"],
        })
    };
    let mut response = Response::new(Full::from(json.to_string()));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    if is_token_request {
        *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Call { arrived, answered: Instant::now() });
    }
    Ok(response)
}

type Answer = Result<Response<Full<Bytes>>, hyper::Error>;

fn issuer_at(address: SocketAddr) -> String {
    format!("http://{address}")
}

/// Of the provider's table.
pub const NAME: &str = "bench";
const LATENCY: Duration = Duration::from_millis(20);
