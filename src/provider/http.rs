//! The one way out to identity providers.
//!
//! Redirects are never followed: they could carry a credential to another host. Nothing is decompressed, bodies are bounded, and one
//! deadline covers a whole exchange, so that a provider that drips bytes costs no more than one that is down. `HTTP_PROXY` and its
//! kin have no effect.

use crate::clock::Now;
use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER, USER_AGENT};
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use secrecy::{ExposeSecret, SecretString};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use url::Url;

/// An HTTP client for identity providers. Clones share connections.
#[derive(Clone)]
pub struct HttpClient(Transport);

/// Why there is no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HttpError {
    /// Nothing listens there, its name does not resolve, or TLS failed.
    Connect,
    /// The deadline passed. The request may have arrived.
    Timeout,
    /// The connection broke, or what came was not HTTP. The request may have arrived.
    Broken,
    /// The body is longer than [`BODY_LIMIT`].
    TooLarge,
    /// The request cannot be written as HTTP.
    Unsendable,
}

impl HttpError {
    /// A label for logs and metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            HttpError::Connect => "connect",
            HttpError::Timeout => "timeout",
            HttpError::Broken => "connection_lost",
            HttpError::TooLarge => "answer_too_large",
            HttpError::Unsendable => "request_not_http",
        }
    }
}

#[derive(Clone)]
enum Transport {
    Network(Client<HttpsConnector<HttpConnector>, Full<Bytes>>),
    InProcess(Arc<InProcess>),
}

type InProcess = dyn Fn(Request<Bytes>) -> Pin<Box<dyn Future<Output = Response<Bytes>> + Send>> + Send + Sync;

impl HttpClient {
    /// HTTP/1.1 over TCP, and over TLS as `tls` has it.
    #[must_use]
    pub fn network(tls: rustls::ClientConfig) -> HttpClient {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_connect_timeout(Some(CONNECT_TIMEOUT));
        tcp.set_nodelay(true);
        let https =
            HttpsConnectorBuilder::new().with_tls_config(tls).https_or_http().enable_http1().wrap_connector(tcp);
        let client = Client::builder(TokioExecutor::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_timer(TokioTimer::new())
            .http1_max_buf_size(HEAD_LIMIT)
            .build(https);
        HttpClient(Transport::Network(client))
    }

    /// Requests are answered by `answer` instead of a network: the mock provider goes through the same code as any other.
    pub fn in_process<F, A>(answer: F) -> HttpClient
    where
        F: Fn(Request<Bytes>) -> A + Send + Sync + 'static,
        A: Future<Output = Response<Bytes>> + Send + 'static,
    {
        HttpClient(Transport::InProcess(Arc::new(move |request| Box::pin(answer(request)))))
    }

    /// One exchange, from connecting to the last byte of the body, within `timeout`.
    ///
    /// # Errors
    /// [`HttpError`], when there is no whole answer.
    pub(crate) async fn send(&self, request: Request<Bytes>, timeout: Duration) -> Result<Response<Bytes>, HttpError> {
        tokio::time::timeout(timeout, self.exchange(request)).await.unwrap_or(Err(HttpError::Timeout))
    }

    async fn exchange(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let client = match &self.0 {
            Transport::Network(client) => client,
            Transport::InProcess(answer) => return Ok(answer(request).await),
        };
        let answer = client
            .request(request.map(Full::new))
            .await
            .map_err(|error| if error.is_connect() { HttpError::Connect } else { HttpError::Broken })?;
        let (head, mut body) = answer.into_parts();
        let mut whole = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|_| HttpError::Broken)?;
            let Some(data) = frame.data_ref() else {
                continue;
            };
            if whole.len() + data.len() > BODY_LIMIT {
                return Err(HttpError::TooLarge);
            }
            whole.extend_from_slice(data);
        }
        Ok(Response::from_parts(head, whole.freeze()))
    }
}

/// A GET for JSON. A bearer token goes into the header and nowhere else (RFC 6750 §2.1).
pub(crate) fn get(url: &Url, bearer: Option<&SecretString>) -> Result<Request<Bytes>, HttpError> {
    let mut request = Request::get(url.as_str()).header(ACCEPT, JSON).header(USER_AGENT, NAME);
    if let Some(token) = bearer {
        let mut value =
            HeaderValue::try_from(format!("Bearer {}", token.expose_secret())).map_err(|_| HttpError::Unsendable)?;
        value.set_sensitive(true);
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Bytes::new()).map_err(|_| HttpError::Unsendable)
}

/// A POST of a form, with the client's credentials when they go into the header.
pub(crate) fn post(url: &Url, authorization: Option<HeaderValue>, form: String) -> Result<Request<Bytes>, HttpError> {
    let mut request = Request::post(url.as_str())
        .header(ACCEPT, JSON)
        .header(USER_AGENT, NAME)
        .header(CONTENT_TYPE, "application/x-www-form-urlencoded");
    if let Some(value) = authorization {
        request = request.header(AUTHORIZATION, value);
    }
    request.body(Bytes::from(form)).map_err(|_| HttpError::Unsendable)
}

/// A DELETE with a JSON body.
pub(super) fn delete(url: &Url, authorization: HeaderValue, body: String) -> Result<Request<Bytes>, HttpError> {
    Request::delete(url.as_str())
        .header(ACCEPT, JSON)
        .header(USER_AGENT, NAME)
        .header(CONTENT_TYPE, JSON)
        .header(AUTHORIZATION, authorization)
        .body(Bytes::from(body))
        .map_err(|_| HttpError::Unsendable)
}

/// How long the provider asks to be left alone: seconds, or a date (RFC 9110 §10.2.3).
pub(crate) fn retry_after(answer: &Response<Bytes>, now: Now) -> Option<Duration> {
    let value = answer.headers().get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = value.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(value).ok()?.duration_since(UNIX_EPOCH).ok()?;
    Some(date.saturating_sub(Duration::from_secs(now.unix)))
}

const JSON: &str = "application/json";
/// Some providers answer nobody without a name.
const NAME: &str = concat!("latchgate/", env!("CARGO_PKG_VERSION"));
/// More than any answer of a provider needs.
pub(super) const BODY_LIMIT: usize = 1 << 20;
const HEAD_LIMIT: usize = 64 << 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Shorter than the shortest common keep-alive (Node.js: 5 s): a code or refresh token works once and must not be written into a
/// connection that the provider is just closing. It also makes a provider's new address count soon.
const IDLE_TIMEOUT: Duration = Duration::from_secs(4);
