//! The admin listener: for this machine only, and apart from everything clients can reach.
//!
//! | path | answers |
//! |---|---|
//! | `GET /healthz` | 200: the process runs |
//! | `GET /readyz` | 200: it takes requests; 503 once it drains |
//! | `GET /sessions?user=&issuer=&sid=&cursor=` | 200, a page of those that all parameters select |
//! | `GET /upstreams` | 200, their servers: where each stands, and what it works on |
//! | `DELETE /sessions/{id}` | 204; 404 when there is none |
//! | `DELETE /sessions?user=&issuer=&sid=` | 200 `{"ended": n}`; 400 with neither `user` nor `sid` |
//!
//! Readiness depends on neither the provider nor the session store: all replicas share them, so taking one out of rotation would help
//! nobody, and would take public routes away as well. What the store cannot answer is 503 where it is asked.
//!
//! Who can open a port of this machine may do all of this; a page in a browser on it may not.

use crate::body::Body;
use crate::policy::csrf::{self, Source};
use crate::session::store::{Filter, Page, Record, StoreError};
use crate::session::{SessionKey, Sessions};
use crate::upstream::UpstreamState;
use http::uri::Authority;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use std::convert::Infallible;
use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::watch;
use url::form_urlencoded;

/// Binds the listener.
///
/// # Errors
/// When the address cannot be bound.
pub async fn bind(address: SocketAddr) -> std::io::Result<TcpListener> {
    TcpListener::bind(address).await
}

/// Serves until the process ends; `stop` turns true when it drains.
pub async fn serve(
    listener: TcpListener,
    sessions: Sessions,
    upstreams: Vec<Arc<UpstreamState>>,
    stop: watch::Receiver<bool>,
) {
    let upstreams: Arc<[Arc<UpstreamState>]> = upstreams.into();
    let spares = Arc::new(Spares::default());
    spares.fill();
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            if !spares.let_go() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
            continue;
        };
        spares.fill();
        let (sessions, upstreams, stop) = (sessions.clone(), Arc::clone(&upstreams), stop.clone());
        let spares = Arc::clone(&spares);
        tokio::spawn(async move {
            let service = service_fn(move |request: Request<Incoming>| {
                let (sessions, upstreams) = (sessions.clone(), Arc::clone(&upstreams));
                let stopping = *stop.borrow();
                async move { Ok::<_, Infallible>(answer(&request, &sessions, &upstreams, stopping).await) }
            });
            let mut builder = http1::Builder::new();
            builder.timer(TokioTimer::new()).header_read_timeout(Duration::from_secs(10));
            // Its errors are the caller's.
            let _ = builder.serve_connection(TokioIo::new(stream), service).await;
            spares.fill();
        });
    }
}

/// Descriptors that clients cannot take. When there is none left to accept an administrator with, one is let go of.
#[derive(Default)]
struct Spares(Mutex<Vec<File>>);

impl Spares {
    /// As far as there are any.
    fn fill(&self) {
        let mut kept = self.kept();
        while kept.len() < SPARES
            && let Ok(file) = File::open("/dev/null")
        {
            kept.push(file);
        }
    }

    /// Whether there was one.
    fn let_go(&self) -> bool {
        self.kept().pop().is_some()
    }

    fn kept(&self) -> MutexGuard<'_, Vec<File>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn answer<B>(
    request: &Request<B>,
    sessions: &Sessions,
    upstreams: &[Arc<UpstreamState>],
    stopping: bool,
) -> Response<Body> {
    let path = request.uri().path();
    let mut response = match (request.method(), path) {
        (&Method::GET | &Method::HEAD, "/healthz") => text(StatusCode::OK, "ok\n"),
        (&Method::GET | &Method::HEAD, "/readyz") if stopping => text(StatusCode::SERVICE_UNAVAILABLE, "draining\n"),
        (&Method::GET | &Method::HEAD, "/readyz") => text(StatusCode::OK, "ready\n"),
        (_, "/healthz" | "/readyz") => not_allowed("GET, HEAD"),
        (_, "/upstreams") if comes_from_a_page(request.headers()) => text(StatusCode::FORBIDDEN, NOT_FOR_PAGES),
        (&Method::GET, "/upstreams") => json_text(StatusCode::OK, &show_upstreams(upstreams)),
        (_, "/upstreams") => not_allowed("GET"),
        (_, "/sessions") if comes_from_a_page(request.headers()) => text(StatusCode::FORBIDDEN, NOT_FOR_PAGES),
        (&Method::GET, "/sessions") => list(request.uri().query(), sessions).await,
        (&Method::DELETE, "/sessions") => end_where(request.uri().query(), sessions).await,
        (_, "/sessions") => not_allowed("GET, DELETE"),
        (method, path) => match path.strip_prefix("/sessions/") {
            Some(_) if comes_from_a_page(request.headers()) => text(StatusCode::FORBIDDEN, NOT_FOR_PAGES),
            Some(id) if method == Method::DELETE => end(id, sessions).await,
            Some(_) => not_allowed("DELETE"),
            None => text(StatusCode::NOT_FOUND, "not found\n"),
        },
    };
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

/// Whether a page of another origin may have sent this: it says so itself, or it has given its own name to this machine. A name is
/// anybody's to point here (DNS rebinding); an address, and `localhost`, are not.
fn comes_from_a_page(headers: &HeaderMap) -> bool {
    let mut hosts = headers.get_all(header::HOST).iter();
    let (Some(host), None) = (hosts.next(), hosts.next()) else { return true };
    let Some(authority) = host.to_str().ok().and_then(|host| host.parse::<Authority>().ok()) else { return true };
    let name = authority.host().trim_start_matches('[').trim_end_matches(']');
    let is_fixed = name.eq_ignore_ascii_case("localhost") || name.parse::<IpAddr>().is_ok();
    let is_own = |origin: &str| origin.strip_prefix("http://") == Some(authority.as_str());
    !is_fixed || csrf::source(headers, is_own, |_| false) == Source::Foreign
}

async fn list(query: Option<&str>, sessions: &Sessions) -> Response<Body> {
    let selection = match Selection::read(query, true) {
        Ok(selection) => selection,
        Err(why) => return bad_request(why),
    };
    match sessions.list(&selection.filter, selection.cursor.as_deref()).await {
        Ok(Page { records, next }) => {
            let shown: Vec<Value> = records.iter().map(|(key, record)| show(*key, record)).collect();
            json_text(StatusCode::OK, &json!({"sessions": shown, "next": next}))
        }
        Err(error) => unavailable(error),
    }
}

/// Times are seconds since 1970.
fn show(key: SessionKey, record: &Record) -> Value {
    let about = &record.about;
    json!({
        "id": key.to_hex(),
        "user": about.subject,
        "issuer": about.issuer,
        "provider": about.provider,
        "sid": about.sid,
        "started": about.started.0 / 1000,
        "lastSeen": record.last_seen.0 / 1000,
        "expires": record.expires.0 / 1000,
    })
}

fn show_upstreams(upstreams: &[Arc<UpstreamState>]) -> Value {
    let upstreams: Vec<Value> = upstreams
        .iter()
        .map(|upstream| {
            let servers: Vec<Value> = upstream
                .report()
                .map(|it| json!({"server": it.server, "state": it.standing.as_str(), "inFlight": it.in_flight}))
                .collect();
            json!({"name": upstream.name(), "breaker": if upstream.is_open() { "open" } else { "closed" }, "servers": servers})
        })
        .collect();
    json!({ "upstreams": upstreams })
}

async fn end(id: &str, sessions: &Sessions) -> Response<Body> {
    let Some(key) = SessionKey::from_hex(id) else {
        return text(StatusCode::NOT_FOUND, "not found\n");
    };
    match sessions.end(key).await {
        Ok(true) => {
            tracing::info!(target: "latchgate::audit", event = "admin_logout", session = %key, sessions = 1, "signed out by an administrator");
            let mut response = Response::new(Body::Empty);
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(false) => text(StatusCode::NOT_FOUND, "not found\n"),
        Err(error) => unavailable(error),
    }
}

async fn end_where(query: Option<&str>, sessions: &Sessions) -> Response<Body> {
    let filter = match Selection::read(query, false) {
        Ok(Selection { filter, .. }) if filter.subject.is_some() || filter.sid.is_some() => filter,
        Ok(_) => return bad_request("user or sid must be given"),
        Err(why) => return bad_request(why),
    };
    let by = if filter.sid.is_some() { "sid" } else { "user" };
    match sessions.end_where(filter).await {
        Ok(ended) => {
            tracing::info!(target: "latchgate::audit", event = "admin_logout", by, sessions = ended, "signed out by an administrator");
            json_text(StatusCode::OK, &json!({"ended": ended}))
        }
        Err(error) => unavailable(error),
    }
}

/// The parameters of `/sessions`.
#[derive(Debug, Default, PartialEq, Eq)]
struct Selection {
    filter: Filter,
    cursor: Option<String>,
}

impl Selection {
    /// Strict: a parameter that is misspelt, empty or given twice must not end more sessions than was meant.
    fn read(query: Option<&str>, pages: bool) -> Result<Selection, &'static str> {
        let mut selection = Selection::default();
        for (name, value) in form_urlencoded::parse(query.unwrap_or_default().as_bytes()) {
            let slot = match &*name {
                "user" => &mut selection.filter.subject,
                "issuer" => &mut selection.filter.issuer,
                "sid" => &mut selection.filter.sid,
                "cursor" if pages => &mut selection.cursor,
                _ => return Err("the parameters are user, issuer and sid; and cursor for a list"),
            };
            if value.is_empty() || slot.replace(value.into_owned()).is_some() {
                return Err("a parameter must have one value");
            }
        }
        Ok(selection)
    }
}

fn bad_request(why: &str) -> Response<Body> {
    text(StatusCode::BAD_REQUEST, &format!("{why}\n"))
}

fn unavailable(error: StoreError) -> Response<Body> {
    tracing::warn!(reason = error.reason, "the session store could not answer an administrator");
    let mut response = text(StatusCode::SERVICE_UNAVAILABLE, "the session store cannot be reached\n");
    response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn not_allowed(methods: &'static str) -> Response<Body> {
    let mut response = text(StatusCode::METHOD_NOT_ALLOWED, &format!("only {methods}\n"));
    response.headers_mut().insert(header::ALLOW, HeaderValue::from_static(methods));
    response
}

fn json_text(status: StatusCode, body: &Value) -> Response<Body> {
    with_type(status, "application/json", body.to_string())
}

fn text(status: StatusCode, text: &str) -> Response<Body> {
    with_type(status, "text/plain; charset=utf-8", text.to_owned())
}

fn with_type(status: StatusCode, content_type: &'static str, body: String) -> Response<Body> {
    let mut response = Response::new(Body::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

/// A probe, a scrape, and somebody who looks.
const SPARES: usize = 4;
const NOT_FOR_PAGES: &str = "use an address or localhost as host, and no page of another origin\n";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::session::store::failing;
    use http::HeaderName;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn no_page_of_another_origin_gets_in() {
        for host in ["127.0.0.1:9901", "localhost:9901", "[::1]:9901", "10.0.0.7", "LocalHost"] {
            assert!(!comes_from_a_page(&headers(&[("host", host)])), "{host}");
        }
        for host in ["rebound.evil.test:9901", "localhost.evil.test", "127.0.0.1.evil.test", "", "a b", "2130706433"] {
            assert!(comes_from_a_page(&headers(&[("host", host)])), "{host}");
        }
        assert!(comes_from_a_page(&HeaderMap::new()));
        for (name, value, foreign) in [
            ("origin", "https://evil.test", true),
            ("origin", "null", true),
            ("origin", "http://127.0.0.1:9901", false),
            ("origin", "https://127.0.0.1:9901", true),
            ("origin", "http://127.0.0.1:9902", true),
            ("sec-fetch-site", "cross-site", true),
            ("sec-fetch-site", "same-site", true),
            ("sec-fetch-site", "same-origin", false),
            ("sec-fetch-site", "none", false),
        ] {
            let asked = headers(&[("host", "127.0.0.1:9901"), (name, value)]);
            assert_eq!(comes_from_a_page(&asked), foreign, "{name}: {value}");
        }
    }

    #[tokio::test]
    async fn a_store_that_is_down_is_503_and_the_gateway_stays_ready() {
        let (sessions, store, _) = failing::sessions();
        let ask = async |method: &str, target: &str| {
            let request = Request::builder().method(method).uri(target).header("host", "localhost").body(()).unwrap();
            answer(&request, &sessions, &[], false).await.status()
        };
        store.fail(3);
        let one = format!("/sessions/{}", "0".repeat(64));
        for (method, target) in [("GET", "/sessions"), ("DELETE", "/sessions?user=ada"), ("DELETE", &one)] {
            assert_eq!(ask(method, target).await, 503, "{method} {target}");
        }
        store.fail(1);
        assert_eq!(ask("GET", "/readyz").await, 200);
    }

    #[test]
    fn a_selection_is_what_was_meant_or_nothing() {
        let read = |query, pages| Selection::read(Some(query), pages);
        let filter = Filter { subject: Some("a b".into()), issuer: Some("https://op".into()), sid: Some("s".into()) };
        let query = "user=a%20b&issuer=https://op&sid=s";
        assert_eq!(read(query, false), Ok(Selection { filter, cursor: None }));
        assert_eq!(read("cursor=c", true).unwrap().cursor.as_deref(), Some("c"));
        assert_eq!(Selection::read(None, true), Ok(Selection::default()));
        for query in ["usr=ada", "user=", "user=ada&user=bob", "cursor=c", "user=ada&all", "USER=ada"] {
            assert!(read(query, false).is_err(), "{query}");
        }
    }
}
