//! LOGIN (SPEC §1): a redirect for browsers, a 401 with the address for everyone else, and the
//! guard that keeps a browser from going round in circles.

use super::headers::{HX_REDIRECT, LOGIN, REASON};
use super::{Exchange, LoginAnswer, Parts};
use crate::body::Body;
use crate::policy::{Client, Reason};
use crate::reply::{self, Asker, Outcome, Refusal};
use crate::session::cookie::Name;
use http::{HeaderValue, Response, StatusCode, header};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;
use url::{Position, Url};

/// Sends someone to the login. `upstream` is the upstream's refusal, when it was the upstream that
/// refused: scripts get it as it is.
#[must_use]
pub fn login(parts: &Parts, exchange: &Exchange, reason: Reason, upstream: Option<Response<Body>>) -> Response<Body> {
    let navigates = match exchange.route.settings.login {
        LoginAnswer::Auto => exchange.facts.client.navigates(),
        LoginAnswer::Redirect => true,
        LoginAnswer::Status => false,
    };
    if navigates { redirect(parts, exchange, reason) } else { status(parts, exchange, reason, upstream) }
}

/// CLEAR, as far as the browser is concerned; the store has forgotten the session already.
pub fn clear_cookie(parts: &Parts, exchange: &Exchange, response: &mut Response<Body>) {
    for line in parts.cookies.expire_session(&exchange.cookies) {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
}

fn redirect(parts: &Parts, exchange: &Exchange, reason: Reason) -> Response<Body> {
    let facts = &exchange.facts;
    let target = facts.path.path_and_query().as_str();
    let url = login_url(parts, exchange, target, reason);
    let earlier = Rounds::read(parts, exchange);
    if earlier.count(target) >= ROUNDS_ALLOWED {
        let logout = format!("{}/logout", parts.endpoints.settings.prefix);
        let mut page = reply::login_loop(Asker { id: &facts.id, client: facts.client }, &url, &logout);
        page.headers_mut().append(header::SET_COOKIE, parts.cookies.expire(Name::Loop));
        return page;
    }
    let mut response = reply::send_on(facts.client, &url);
    let rounds = earlier.and(target).to_cookie_value();
    let cookie = parts.cookies.set(Name::Loop, &rounds, Some(LOOP_WINDOW));
    response.headers_mut().append(header::SET_COOKIE, cookie);
    response.extensions_mut().insert(Outcome(reason.as_str()));
    response
}

fn status(parts: &Parts, exchange: &Exchange, reason: Reason, upstream: Option<Response<Body>>) -> Response<Body> {
    let facts = &exchange.facts;
    let page = referring_page(parts, exchange);
    let url = login_url(parts, exchange, page.as_deref().unwrap_or("/"), reason);
    let mut response = match upstream {
        Some(mut refusal) => {
            *refusal.status_mut() = StatusCode::UNAUTHORIZED;
            refusal
        }
        None => reply::refuse_with_login(
            Asker { id: &facts.id, client: Client::Script },
            &Refusal::Login(reason),
            Some(&url),
        ),
    };
    if let Ok(url) = HeaderValue::try_from(url) {
        if facts.htmx {
            response.headers_mut().insert(HX_REDIRECT, url.clone());
        }
        response.headers_mut().insert(LOGIN, url);
    }
    response.headers_mut().insert(REASON, HeaderValue::from_static(reason.as_str()));
    response.extensions_mut().insert(Outcome(reason.as_str()));
    response
}

/// Path and query of the page that a script belongs to: only one of our own origin is worth
/// returning to.
fn referring_page(parts: &Parts, exchange: &Exchange) -> Option<String> {
    let facts = &exchange.facts;
    let said = facts.htmx_page.iter().chain(&facts.referer);
    let mut pages = said.filter_map(|page| Url::parse(page.to_str().ok()?).ok());
    let ours = pages.find(|page| page.origin() == parts.external_url.origin())?;
    Some(ours[Position::BeforePath..Position::AfterQuery].to_owned())
}

fn login_url(parts: &Parts, exchange: &Exchange, return_to: &str, reason: Reason) -> String {
    let prefix = &parts.endpoints.settings.prefix;
    let return_to = utf8_percent_encode(return_to, QUERY_VALUE);
    let mut url = format!("{prefix}/login?return_to={return_to}&status={}", reason.as_str());
    if let Some(provider) = &exchange.route.settings.provider {
        url.push_str("&provider=");
        url.push_str(provider);
    }
    url
}

/// For which pages, and when, this browser was sent to the login lately. It is the browser that
/// remembers: whoever forges it only meets the guard early, or never.
struct Rounds {
    now: u64,
    made: Vec<(u64, u32)>,
}

impl Rounds {
    fn read(parts: &Parts, exchange: &Exchange) -> Rounds {
        let now = exchange.facts.now.unix;
        let text = parts.cookies.values(&exchange.cookies, Name::Loop).next().unwrap_or_default();
        let made = text
            .split('.')
            .take(MOST_ROUNDS)
            .filter_map(|round| {
                let (at, target) = round.split_once('-')?;
                Some((at.parse().ok()?, u32::from_str_radix(target, 16).ok()?))
            })
            .filter(|&(at, _)| (now.saturating_sub(LOOP_WINDOW.as_secs())..=now).contains(&at))
            .collect();
        Rounds { now, made }
    }

    fn count(&self, target: &str) -> usize {
        self.made.iter().filter(|&&(_, made)| made == fingerprint(target)).count()
    }

    fn and(mut self, target: &str) -> Rounds {
        if self.made.len() == MOST_ROUNDS {
            self.made.remove(0);
        }
        self.made.push((self.now, fingerprint(target)));
        self
    }

    fn to_cookie_value(&self) -> String {
        let rounds: Vec<String> = self.made.iter().map(|(at, target)| format!("{at}-{target:x}")).collect();
        rounds.join(".")
    }
}

#[expect(clippy::cast_possible_truncation, reason = "a fingerprint")]
fn fingerprint(target: &str) -> u32 {
    let mut hasher = DefaultHasher::new();
    target.hash(&mut hasher);
    hasher.finish() as u32
}

/// SPEC §2 "No loops": the third time within this window is one too many.
const LOOP_WINDOW: Duration = Duration::from_secs(30);
const ROUNDS_ALLOWED: usize = 2;
const MOST_ROUNDS: usize = 8;

/// Everything but what is unreserved (RFC 3986 §2.3) and the slash, which reads better as itself.
const QUERY_VALUE: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~').remove(b'/');
