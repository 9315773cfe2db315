//! The cookie jar of a browser (RFC 6265bis §5), as far as a gateway can notice.

use latchgate::clock::{Clock, Mono};
use std::time::Duration;
use url::Url;

/// One `Set-Cookie`, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetCookie {
    pub name: String,
    pub value: String,
    /// Names in lower case.
    pub attributes: Vec<(String, String)>,
}

impl SetCookie {
    /// Reads the value of a `Set-Cookie` field.
    pub fn parse(field: &str) -> SetCookie {
        let mut parts = field.split(';').map(str::trim);
        let (name, value) = parts.next().unwrap_or("").split_once('=').unwrap_or(("", ""));
        let attributes = parts.map(|part| {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            (name.to_ascii_lowercase(), value.to_owned())
        });
        SetCookie { name: name.to_owned(), value: value.to_owned(), attributes: attributes.collect() }
    }

    /// The value of an attribute, `Some("")` for a bare one.
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Whether it removes the cookie.
    pub fn deletes(&self) -> bool {
        let max_age = self.attribute("max-age").and_then(|age| age.parse::<i64>().ok());
        max_age.map_or_else(|| self.attribute("expires").is_some_and(|date| date.contains(" 1970 ")), |age| age <= 0)
    }
}

/// A cookie that was accepted.
#[derive(Clone, Debug)]
pub struct Cookie {
    pub name: String,
    pub value: String,
    domain: Option<String>,
    host: String,
    path: String,
    secure: bool,
    lax_or_strict: bool,
    expires: Option<Mono>,
}

/// All cookies of one browser.
#[derive(Clone, Debug)]
pub struct Jar {
    cookies: Vec<Cookie>,
    clock: Clock,
}

impl Jar {
    /// No cookies; lives are counted by `clock`.
    pub fn empty(clock: Clock) -> Jar {
        Jar { cookies: Vec::new(), clock }
    }

    /// Stores what a response from `url` sets. A cookie that breaks a rule is ignored.
    pub fn store(&mut self, url: &Url, field: &str) {
        let set = SetCookie::parse(field);
        let host = url.host_str().unwrap_or("").to_owned();
        let secure = set.attribute("secure").is_some();
        let domain = set.attribute("domain").filter(|domain| !domain.is_empty());
        let domain = domain.map(|domain| domain.trim_start_matches('.').to_ascii_lowercase());
        let path = set.attribute("path").filter(|path| path.starts_with('/')).unwrap_or("/").to_owned();
        let prefix = set.name.to_ascii_lowercase();
        let broken = (secure && url.scheme() != "https")
            || (prefix.starts_with("__secure-") && !secure)
            || (prefix.starts_with("__host-") && (!secure || domain.is_some() || path != "/"))
            || domain.as_ref().is_some_and(|domain| !belongs(&host, domain))
            || set.name.is_empty();
        if broken {
            return;
        }
        let old = self.cookies.iter().position(|cookie| {
            cookie.name == set.name && cookie.domain == domain && cookie.host == host && cookie.path == path
        });
        if set.deletes() {
            if let Some(old) = old {
                self.cookies.remove(old);
            }
            return;
        }
        let life = set.attribute("max-age").and_then(|age| age.parse().ok()).map(Duration::from_secs);
        let lax_or_strict = !set.attribute("samesite").is_some_and(|mode| mode.eq_ignore_ascii_case("none"));
        let expires = life.map(|life| self.clock.now().mono.after(life));
        let cookie = Cookie { name: set.name, value: set.value, domain, host, path, secure, lax_or_strict, expires };
        match old {
            Some(old) => self.cookies[old] = cookie,
            None => self.cookies.push(cookie),
        }
    }

    /// The `Cookie` field of a request to `url`. `strange` requests come from another site and are not
    /// top-level GETs: cookies with `SameSite` stay at home.
    pub fn field(&self, url: &Url, strange: bool) -> Option<String> {
        let now = self.clock.now().mono;
        let host = url.host_str().unwrap_or("");
        let mut fitting: Vec<&Cookie> = self
            .cookies
            .iter()
            .filter(|cookie| {
                let here = cookie.domain.as_deref().map_or(cookie.host == host, |domain| belongs(host, domain));
                let path = cookie.path.trim_end_matches('/');
                let below = url.path().strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
                here && below
                    && (!cookie.secure || url.scheme() == "https")
                    && !(strange && cookie.lax_or_strict)
                    && cookie.expires.is_none_or(|expires| now < expires)
            })
            .collect();
        fitting.sort_by_key(|cookie| std::cmp::Reverse(cookie.path.len()));
        let pairs: Vec<String> = fitting.iter().map(|cookie| format!("{}={}", cookie.name, cookie.value)).collect();
        (!pairs.is_empty()).then(|| pairs.join("; "))
    }

    /// All cookies that have not expired.
    pub fn cookies(&self) -> Vec<Cookie> {
        let now = self.clock.now().mono;
        let live = self.cookies.iter().filter(|cookie| cookie.expires.is_none_or(|expires| now < expires));
        live.cloned().collect()
    }
}

fn belongs(host: &str, domain: &str) -> bool {
    host == domain || host.strip_suffix(domain).is_some_and(|front| front.ends_with('.'))
}
