//! A browser: cookies, fetch metadata, redirects between the gateway and the provider. It inspects
//! every reply of the gateway.

use super::PATIENCE;
use super::inspect::{Expectations, inspect, is_ours};
use super::jar::{Cookie, Jar};
use super::provider::Provider;
use super::wire::{Connection, Head, Headers, Reply, message};
use latchgate::clock::Clock;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use tokio::time::timeout;
use url::Url;

/// A request before `Host` and `Cookie` are added.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub target: String,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Request {
    /// A request with no headers of its own.
    pub fn new(method: &str, target: &str) -> Request {
        Request { method: method.to_owned(), target: target.to_owned(), headers: Vec::new(), body: Vec::new() }
    }

    /// A GET that the user typed into the address bar.
    pub fn navigation(target: &str) -> Request {
        Request::new("GET", target)
            .header("Accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8")
            .header("Sec-Fetch-Site", "none")
            .header("Sec-Fetch-Mode", "navigate")
            .header("Sec-Fetch-Dest", "document")
    }

    /// What `fetch()` sends from a page of the same origin; the page adds `Origin` by itself.
    pub fn fetch(method: &str, target: &str) -> Request {
        Request::new(method, target)
            .header("Accept", "*/*")
            .header("Sec-Fetch-Site", "same-origin")
            .header("Sec-Fetch-Mode", "cors")
            .header("Sec-Fetch-Dest", "empty")
    }

    /// One more header field.
    pub fn header(mut self, name: &str, value: &str) -> Request {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// The field with this one value.
    pub fn with(self, name: &str, value: &str) -> Request {
        self.without(name).header(name, value)
    }

    /// Without this field.
    pub fn without(mut self, name: &str) -> Request {
        self.headers.retain(|(found, _)| !found.eq_ignore_ascii_case(name));
        self
    }

    /// A body with its `Content-Type`.
    pub fn body(mut self, content_type: &str, body: impl Into<Vec<u8>>) -> Request {
        self.body = body.into();
        self.with("Content-Type", content_type)
    }

    fn value(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }
}

/// Where a navigation ended.
#[derive(Clone, Debug)]
pub struct Page {
    /// The address bar. Beyond the gateway and the provider nothing is fetched.
    pub url: Url,
    /// The last reply.
    pub reply: Reply,
    /// Every URL that was asked, with the status it gave.
    pub trail: Vec<(Url, u16)>,
}

/// A browser with its own cookies; clones share them.
#[derive(Clone)]
pub struct Browser {
    shared: Arc<Shared>,
}

struct Shared {
    gateway: SocketAddr,
    provider: Provider,
    expected: Expectations,
    jar: Mutex<Jar>,
}

impl Browser {
    /// A fresh browser that resolves the external name to `gateway`.
    pub fn new(gateway: SocketAddr, provider: Provider, expected: Expectations, clock: Clock) -> Browser {
        let shared = Shared { gateway, provider, expected, jar: Mutex::new(Jar::empty(clock)) };
        Browser { shared: Arc::new(shared) }
    }

    /// Types `target` into the address bar and follows every redirect.
    pub async fn navigate(&self, target: &str) -> Page {
        self.follow(self.url(target), Request::navigation(""), |_| false).await
    }

    /// Posts a form as a page of the same origin does, and follows every redirect.
    pub async fn submit(&self, target: &str, form: &str) -> Page {
        let request = Request { method: "POST".to_owned(), ..Request::navigation("") }
            .with("Sec-Fetch-Site", "same-origin")
            .header("Origin", &self.origin())
            .body("application/x-www-form-urlencoded", form);
        self.follow(self.url(target), request, |_| false).await
    }

    /// Calls `fetch()` on a page at `/page`.
    pub async fn fetch(&self, method: &str, target: &str) -> Reply {
        self.send(Request::fetch(method, target)).await
    }

    /// Signs in as `user` and ends at `target`.
    ///
    /// # Panics
    /// When there is no session at the end.
    pub async fn sign_in_as(&self, user: &str, target: &str) -> Page {
        let page = self.navigate(&login_path(target, user)).await;
        assert!(self.session_cookie().is_some(), "no session after {:?}: {}", page.trail, page.reply.text());
        page
    }

    /// Navigates to `target`, through the provider, and stops at the callback without asking it.
    ///
    /// # Panics
    /// When the way ends elsewhere.
    pub async fn stop_before_callback(&self, target: &str) -> Url {
        let origin = self.origin();
        let page = self
            .follow(self.url(target), Request::navigation(""), |url| {
                url.origin().ascii_serialization() == origin
                    && url.query_pairs().any(|(name, _)| name == "code" || name == "error")
            })
            .await;
        assert!(page.url.query_pairs().any(|(name, _)| name == "state"), "no callback: {:?}", page.trail);
        page.url
    }

    /// Navigates to `target` and gives back where the gateway sends the browser for authorization.
    ///
    /// # Panics
    /// When it sends it nowhere.
    pub async fn authorization_request(&self, target: &str) -> Url {
        let issuer = self.shared.provider.issuer();
        let page =
            self.follow(self.url(target), Request::navigation(""), |url| url.as_str().starts_with(&issuer)).await;
        assert!(page.url.as_str().starts_with(&issuer), "no authorization request: {:?}", page.trail);
        page.url
    }

    /// Navigates as if the provider had sent the browser here.
    pub async fn arrive_from_provider(&self, url: &Url) -> Page {
        self.follow(url.clone(), Request::navigation("").with("Sec-Fetch-Site", "cross-site"), |_| false).await
    }

    /// One request to the gateway and its reply; redirects are not followed.
    pub async fn send(&self, request: Request) -> Reply {
        let method = request.method.clone();
        let url = self.url(&request.target);
        let mut connection = self.dispatch(request).await;
        let reply = connection.reply(&method).await.unwrap_or_else(|| panic!("{method} {url}: closed without a reply"));
        self.take(&url, &reply);
        reply
    }

    /// One request to the gateway; the body of the reply is still to be read.
    pub async fn open(&self, request: Request) -> (Head, Connection) {
        let mut connection = self.dispatch(request).await;
        let head = connection.reply_head().await;
        (head, connection)
    }

    /// Sends a request and gives back the connection before anything is read.
    pub async fn dispatch(&self, request: Request) -> Connection {
        let mut connection = Connection::open(self.shared.gateway).await;
        let bytes = self.serialise(request);
        timeout(PATIENCE, connection.send(&bytes)).await.expect("the gateway takes the request").ok();
        connection
    }

    /// The request as it goes on the wire, with `Host`, `Referer` and cookies.
    pub fn serialise(&self, request: Request) -> Vec<u8> {
        let url = self.url(&request.target);
        let unsafe_method = !matches!(request.method.as_str(), "GET" | "HEAD" | "OPTIONS");
        let mode = request.value("Sec-Fetch-Mode");
        let strange = request.value("Sec-Fetch-Site") == Some("cross-site")
            && (unsafe_method || mode.is_some_and(|mode| mode != "navigate"));
        let mut headers = vec![("Host".to_owned(), url.authority().to_owned())];
        if mode == Some("cors") && request.value("Referer").is_none() {
            headers.push(("Referer".to_owned(), format!("{}/page", self.origin())));
        }
        if mode == Some("cors") && unsafe_method && request.value("Origin").is_none() {
            headers.push(("Origin".to_owned(), self.origin()));
        }
        if request.value("Cookie").is_none()
            && let Some(cookies) = self.jar().field(&url, strange)
        {
            headers.push(("Cookie".to_owned(), cookies));
        }
        let length = request.value("Content-Length").is_some() || request.value("Transfer-Encoding").is_some();
        if !length && (unsafe_method || !request.body.is_empty()) {
            headers.push(("Content-Length".to_owned(), request.body.len().to_string()));
        }
        if request.value("Host").is_some() {
            headers.remove(0);
        }
        headers.extend(request.headers);
        message(&format!("{} {} HTTP/1.1", request.method, request.target), &Headers(headers), &request.body)
    }

    /// All live cookies.
    pub fn cookies(&self) -> Vec<Cookie> {
        self.jar().cookies()
    }

    /// The value of the session cookie.
    pub fn session_cookie(&self) -> Option<String> {
        let name = self.session_cookie_name();
        self.cookies().into_iter().find(|cookie| cookie.name == name).map(|cookie| cookie.value)
    }

    /// `__Host-latchgate` on https, else `latchgate`.
    pub fn session_cookie_name(&self) -> &'static str {
        if self.shared.expected.external.scheme() == "https" { "__Host-latchgate" } else { "latchgate" }
    }

    /// Names of the gateway's cookies besides the session's.
    pub fn login_cookies(&self) -> Vec<String> {
        let names = self.cookies().into_iter().map(|cookie| cookie.name);
        names.filter(|name| is_ours(name) && name.contains("-login-")).collect()
    }

    /// The `Cookie` field for the gateway, whoever asks.
    pub fn cookie_field(&self) -> String {
        self.jar().field(&self.url("/"), false).unwrap_or_default()
    }

    /// Stores a cookie as if a page of the external origin had set it.
    pub fn plant(&self, set_cookie: &str) {
        let url = self.url("/");
        self.jar().store(&url, set_cookie);
    }

    /// The external origin.
    pub fn origin(&self) -> String {
        self.shared.expected.external.origin().ascii_serialization()
    }

    /// `target` on the external origin.
    ///
    /// # Panics
    /// When that is no URL.
    pub fn url(&self, target: &str) -> Url {
        let base = self.origin();
        Url::parse(&format!("{base}{target}"))
            .or_else(|_| Url::parse(target))
            .or_else(|_| Url::parse(&base))
            .expect("an origin")
    }

    async fn follow(&self, start: Url, first: Request, stop: impl Fn(&Url) -> bool) -> Page {
        let (mut url, mut request, mut trail) = (start, first, Vec::new());
        let issuer = self.shared.provider.issuer();
        loop {
            assert!(trail.len() < 20, "an endless redirect: {trail:?}");
            let origin = url.origin().ascii_serialization();
            request.target = url[url::Position::BeforePath..url::Position::AfterQuery].to_owned();
            let reply = if origin == self.origin() {
                self.send(request.clone()).await
            } else {
                ask_provider(self.shared.provider.address(), &request.target).await
            };
            trail.push((url.clone(), reply.status));
            let location = reply.headers.value("location").filter(|_| (300..400).contains(&reply.status));
            let Some(location) = location else {
                return Page { url, reply, trail };
            };
            let next = url.join(location).unwrap_or_else(|error| panic!("{url} sends to {location}: {error}"));
            let next_origin = next.origin().ascii_serialization();
            if stop(&next) || (next_origin != self.origin() && next_origin != issuer) {
                return Page { url: next, reply, trail };
            }
            if reply.status != 307 && reply.status != 308 {
                let site = request.value("Sec-Fetch-Site").unwrap_or("none").to_owned();
                request = Request::navigation("").with("Sec-Fetch-Site", &site);
            }
            if next_origin != origin {
                request = request.with("Sec-Fetch-Site", "cross-site");
            }
            url = next;
        }
    }

    fn take(&self, url: &Url, reply: &Reply) {
        inspect(url, reply, &self.shared.provider.secrets(), &self.shared.expected);
        let mut jar = self.jar();
        for field in reply.headers.values("set-cookie") {
            jar.store(url, field);
        }
    }

    fn jar(&self) -> MutexGuard<'_, Jar> {
        self.shared.jar.lock().expect("no test panics while it holds the jar")
    }
}

/// `/auth/login` that ends at `target` and signs in as `user` without asking.
pub fn login_path(target: &str, user: &str) -> String {
    let mut query = url::form_urlencoded::Serializer::new(String::new());
    query.append_pair("return_to", target).append_pair("login_hint", user);
    format!("/auth/login?{}", query.finish())
}

async fn ask_provider(address: SocketAddr, target: &str) -> Reply {
    let mut connection = Connection::open(address).await;
    let request = format!("GET {target} HTTP/1.1\r\nHost: {address}\r\nAccept: text/html\r\n\r\n");
    connection.send(request.as_bytes()).await.expect("the provider takes the request");
    connection.reply("GET").await.expect("the provider answers")
}
