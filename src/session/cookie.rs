//! The cookies that are ours: their names, what they may look like, and how they leave a request
//! before an upstream sees it.

use cookie::{Cookie, SameSite};
use http::{HeaderMap, HeaderValue, header};
use std::ops::Range;
use std::time::Duration;

/// Names and attributes, by the scheme of `server.external_url`.
#[derive(Debug, Clone)]
pub struct Cookies {
    secure: bool,
    session: &'static str,
}

/// What a request's session cookies say.
pub struct SessionValues<'h> {
    /// Those of [`Name::Session`]; a browser sends one.
    pub first: Vec<&'h str>,
    more: [Chunk<'h>; MOST_CHUNKS],
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Chunk<'h> {
    Missing,
    Is(&'h str),
    Ambiguous,
}

impl<'h> SessionValues<'h> {
    /// The value of [`Name::Chunk`], if there is exactly one.
    #[must_use]
    pub fn chunk(&self, number: usize) -> Option<&'h str> {
        match self.more.get(number)? {
            Chunk::Is(value) => Some(value),
            Chunk::Missing | Chunk::Ambiguous => None,
        }
    }

    fn shows(&self, number: usize) -> bool {
        self.more.get(number).is_some_and(|&chunk| chunk != Chunk::Missing)
    }
}

/// One of our cookies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name<'a> {
    /// Names the session, or carries the beginning of it.
    Session,
    /// Carries more of it; from 1 to below [`MOST_CHUNKS`].
    Chunk(usize),
    /// The record of one login under way, told apart by a label of its state.
    Login(&'a str),
    /// Counts logins for the same page, so that they cannot go round for ever.
    Loop,
    /// This browser was given the code with this label.
    Code(&'a str),
    /// The refresh token of a session of the CODE flow.
    Refresh,
}

impl Cookies {
    /// `secure` when browsers see https: the `__Host-` prefix then keeps other hosts from setting them.
    #[must_use]
    pub fn new(secure: bool) -> Cookies {
        Cookies { secure, session: if secure { HOST_NAME } else { PLAIN_NAME } }
    }

    /// The value to put into `Set-Cookie`. HttpOnly, SameSite=Lax, Path=/, no Domain; without
    /// `max_age` it lives as long as the browser does.
    ///
    /// # Panics
    /// Never: our names and values are made of header-safe characters.
    #[must_use]
    pub fn set(&self, name: Name<'_>, value: &str, max_age: Option<Duration>) -> HeaderValue {
        let mut cookie = Cookie::build((self.name(name), value))
            .path("/")
            .secure(self.secure)
            .http_only(true)
            .same_site(SameSite::Lax)
            .build();
        if let Some(max_age) = max_age {
            let seconds = i64::try_from(max_age.as_secs()).unwrap_or(i64::MAX);
            cookie.set_max_age(cookie::time::Duration::seconds(seconds));
        }
        HeaderValue::try_from(cookie.to_string()).expect("names and values are header-safe")
    }

    /// The value that takes the cookie away again, with the attributes it was set with.
    #[must_use]
    pub fn expire(&self, name: Name<'_>) -> HeaderValue {
        self.set(name, "", Some(Duration::ZERO))
    }

    /// Sets the session's cookies to `values`, and takes away those that `lines` show beyond them.
    #[must_use]
    pub fn set_session<V: AsRef<str>>(
        &self,
        values: &[V],
        max_age: Option<Duration>,
        lines: &[HeaderValue],
    ) -> Vec<HeaderValue> {
        let name = |number| if number == 0 { Name::Session } else { Name::Chunk(number) };
        let set = values.iter().enumerate().map(|(number, value)| self.set(name(number), value.as_ref(), max_age));
        let shown = self.session_values(lines);
        let surplus = (values.len().max(1)..MOST_CHUNKS).filter(|&number| shown.shows(number));
        set.chain(surplus.map(|number| self.expire(name(number)))).collect()
    }

    /// Takes the session's cookies away, all that `lines` show.
    #[must_use]
    pub fn expire_session(&self, lines: &[HeaderValue]) -> Vec<HeaderValue> {
        self.set_session(&[""], Some(Duration::ZERO), lines)
    }

    /// Whether a `Set-Cookie` value is for the session's cookie.
    #[must_use]
    pub fn is_for_session(&self, set_cookie: &HeaderValue) -> bool {
        set_cookie.as_bytes().strip_prefix(self.session.as_bytes()).is_some_and(|rest| rest.starts_with(b"="))
    }

    /// What these `Cookie` lines give for the session's cookies.
    #[must_use]
    pub fn session_values<'h>(&self, lines: &'h [HeaderValue]) -> SessionValues<'h> {
        let mut values = SessionValues { first: Vec::new(), more: [Chunk::Missing; MOST_CHUNKS] };
        for (name, value) in pairs(lines) {
            let Some(rest) = name.strip_prefix(self.session) else { continue };
            if rest.is_empty() {
                values.first.push(value);
            } else if let Some(chunk) = chunk_number(rest).and_then(|number| values.more.get_mut(number)) {
                *chunk = if *chunk == Chunk::Missing { Chunk::Is(value) } else { Chunk::Ambiguous };
            }
        }
        values
    }

    /// Every value that these `Cookie` lines give for [`Name::Session`]: what most requests are asked for.
    pub fn sessions<'h>(&self, lines: &'h [HeaderValue]) -> impl Iterator<Item = &'h str> {
        let name = self.session.as_bytes();
        lines.iter().flat_map(crumbs).filter_map(move |crumb| {
            let value = crumb.trim_ascii().strip_prefix(name)?.strip_prefix(b"=")?;
            std::str::from_utf8(value).ok()
        })
    }

    /// Every value that these `Cookie` lines give for `name`; a browser sends one.
    pub fn values<'h>(&self, lines: &'h [HeaderValue], name: Name<'_>) -> impl Iterator<Item = &'h str> {
        let wanted = self.name(name);
        pairs(lines).filter(move |&(name, _)| name == wanted).map(|(_, value)| value)
    }

    /// Labels and values of all logins under way.
    pub fn logins<'h>(&self, lines: &'h [HeaderValue]) -> impl Iterator<Item = (&'h str, &'h str)> {
        let prefix = format!("{}{LOGIN_SUFFIX}", self.session);
        pairs(lines).filter_map(move |(name, value)| Some((name.strip_prefix(&prefix)?, value)))
    }

    fn name(&self, name: Name<'_>) -> std::borrow::Cow<'static, str> {
        match name {
            Name::Session => self.session.into(),
            Name::Chunk(number) => format!("{}-{number}", self.session).into(),
            Name::Login(label) => format!("{}{LOGIN_SUFFIX}{label}", self.session).into(),
            Name::Loop => format!("{}-loop", self.session).into(),
            Name::Code(label) => format!("{}-code-{label}", self.session).into(),
            Name::Refresh => format!("{}-refresh", self.session).into(),
        }
    }
}

/// Takes our cookies out of a request; the others keep their bytes and their order.
pub fn strip_ours(headers: &mut HeaderMap) {
    strip_pairs(headers, is_ours);
}

/// Takes the cookies out of a request whose `name=value` is unwanted; the others keep their bytes and their order.
pub fn strip_pairs(headers: &mut HeaderMap, is_unwanted: impl Fn(&[u8]) -> bool) {
    let header::Entry::Occupied(mut entry) = headers.entry(header::COOKIE) else { return };
    let mut lines = entry.iter_mut();
    if let (Some(only), None) = (lines.next(), lines.next()) {
        match without(only, &is_unwanted) {
            Rest::Whole => {}
            Rest::Part(rest) => *only = rest,
            Rest::Nothing => {
                entry.remove_entry_mult();
            }
        }
        return;
    }
    let rest = |line: &HeaderValue| match without(line, &is_unwanted) {
        Rest::Whole => Some(line.clone()),
        Rest::Part(rest) => Some(rest),
        Rest::Nothing => None,
    };
    let mut kept = entry.iter().filter_map(rest).collect::<Vec<_>>().into_iter();
    match kept.next() {
        None => {
            entry.remove_entry_mult();
        }
        Some(first) => {
            entry.insert(first);
            kept.for_each(|line| entry.append(line));
        }
    }
}

/// Takes `Set-Cookie` lines for our names out of an upstream's answer, in any case: it cannot set,
/// clear or fixate a session. Answers how many there were.
pub fn strip_foreign_claims(headers: &mut HeaderMap) -> usize {
    let is_claim = |line: &HeaderValue| is_ours(line.as_bytes());
    let claims = headers.get_all(header::SET_COOKIE).iter().filter(|line| is_claim(line)).count();
    if claims > 0
        && let header::Entry::Occupied(entry) = headers.entry(header::SET_COOKIE)
    {
        let kept: Vec<HeaderValue> = entry.iter().filter(|line| !is_claim(line)).cloned().collect();
        entry.remove_entry_mult();
        kept.into_iter().for_each(|line| {
            headers.append(header::SET_COOKIE, line);
        });
    }
    claims
}

/// What is left of a `Cookie` line.
enum Rest {
    Whole,
    Part(HeaderValue),
    Nothing,
}

fn without(line: &HeaderValue, is_unwanted: impl Fn(&[u8]) -> bool) -> Rest {
    let line = line.as_bytes();
    // Most often ours is the first cookie or the last one, and what is left is in one piece.
    let (mut piece, mut pieces, mut is_whole) = (None::<Range<usize>>, Vec::new(), true);
    let mut start = 0;
    for crumb in line.split(|&byte| byte == b';') {
        let end = start + crumb.len();
        match &mut piece {
            _ if is_unwanted(crumb) => is_whole = false,
            None => piece = Some(start..end),
            Some(piece) if pieces.is_empty() && piece.end + 1 == start => piece.end = end,
            Some(piece) => {
                if pieces.is_empty() {
                    pieces.extend_from_slice(&line[piece.clone()]);
                }
                pieces.push(b';');
                pieces.extend_from_slice(crumb);
            }
        }
        start = end + 1;
    }
    if is_whole {
        return Rest::Whole;
    }
    let rest = if pieces.is_empty() { &line[piece.unwrap_or_default()] } else { &pieces };
    match rest.trim_ascii() {
        b"" => Rest::Nothing,
        rest => HeaderValue::from_bytes(rest).map_or(Rest::Nothing, Rest::Part),
    }
}

/// Whether `name=value` bears one of our names, in whatever case or prefix. A cookie without a name
/// comes back as its value alone (RFC 6265bis §5.8.3), so `=latchgate=…` bears it too.
#[must_use]
pub fn is_ours(crumb: &[u8]) -> bool {
    // Most cookies differ in the first letter.
    let Some(start) = crumb.iter().position(|byte| !matches!(byte, b'=' | b' ' | b'\t')) else { return false };
    if !matches!(crumb[start], b'l' | b'L' | b'_') {
        return false;
    }
    let name = crumb[start..].split(|&byte| byte == b'=').next().unwrap_or_default().trim_ascii();
    let name = strip_prefix_ignoring_case(name, b"__Host-")
        .or_else(|| strip_prefix_ignoring_case(name, b"__Secure-"))
        .unwrap_or(name);
    strip_prefix_ignoring_case(name, PLAIN_NAME.as_bytes()).is_some_and(|rest| rest.is_empty() || rest[0] == b'-')
}

fn strip_prefix_ignoring_case<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    let (head, rest) = text.split_at_checked(prefix.len())?;
    head.eq_ignore_ascii_case(prefix).then_some(rest)
}

fn crumbs(line: &HeaderValue) -> impl Iterator<Item = &[u8]> {
    line.as_bytes().split(|&byte| byte == b';')
}

/// Names and values, as RFC 6265 §5.4 has user agents write them.
pub fn pairs(lines: &[HeaderValue]) -> impl Iterator<Item = (&str, &str)> {
    lines.iter().flat_map(crumbs).filter_map(|crumb| {
        let (name, value) = std::str::from_utf8(crumb.trim_ascii()).ok()?.split_once('=')?;
        Some((name, value))
    })
}

/// What is left of `latchgate-7`.
fn chunk_number(rest: &str) -> Option<usize> {
    let digits = rest.strip_prefix('-')?;
    let is_canonical = !digits.starts_with('0') && digits.bytes().all(|byte| byte.is_ascii_digit());
    is_canonical.then(|| digits.parse().ok())?
}

/// Cookies that one session may take, of the fifty that browsers keep for a site (RFC 6265 §6.1).
pub const MOST_CHUNKS: usize = 32;
const PLAIN_NAME: &str = "latchgate";
const HOST_NAME: &str = "__Host-latchgate";
const LOGIN_SUFFIX: &str = "-login-";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn with(name: header::HeaderName, lines: &[&str]) -> HeaderMap {
        lines.iter().map(|line| (name.clone(), HeaderValue::from_str(line).unwrap())).collect()
    }

    fn lines(headers: &HeaderMap, name: &header::HeaderName) -> Vec<String> {
        headers.get_all(name).iter().map(|line| line.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn attributes() {
        let https = Cookies::new(true);
        assert_eq!(
            https.set(Name::Session, "abc", Some(Duration::from_secs(60))),
            "__Host-latchgate=abc; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=60"
        );
        assert_eq!(
            https.expire(Name::Login("x1")),
            "__Host-latchgate-login-x1=; HttpOnly; SameSite=Lax; Secure; Path=/; Max-Age=0"
        );
        assert_eq!(
            Cookies::new(false).set(Name::Session, "abc", None),
            "latchgate=abc; HttpOnly; SameSite=Lax; Path=/"
        );
    }

    #[test]
    fn values_of_all_lines_are_seen() {
        let cookies = Cookies::new(false);
        let lines = ["a=1; latchgate=x", "latchgate=y;latchgate-login-s=z; latchgatex=q"].map(HeaderValue::from_static);
        assert_eq!(cookies.values(&lines, Name::Session).collect::<Vec<_>>(), ["x", "y"]);
        assert_eq!(cookies.logins(&lines).collect::<Vec<_>>(), [("s", "z")]);
    }

    #[test]
    fn chunks_are_told_apart_and_leftovers_go() {
        let cookies = Cookies::new(false);
        let lines = [
            "latchgate=a; latchgate-1=b; latchgate-2=c",
            "latchgate-2=d; latchgate-31=e; latchgate-32=f; latchgate-01=g",
        ]
        .map(HeaderValue::from_static);
        let values = cookies.session_values(&lines);
        assert_eq!(values.first, ["a"]);
        assert_eq!(
            [0, 1, 2, 3, 31, 32].map(|number| values.chunk(number)),
            [None, Some("b"), None, None, Some("e"), None]
        );
        let names = |lines: Vec<HeaderValue>| -> Vec<String> {
            let lines = lines.iter().map(|line| line.to_str().unwrap());
            lines.map(|line| line[..line.find(';').unwrap()].to_owned()).collect()
        };
        assert_eq!(
            names(cookies.set_session(&["x", "y"], None, &lines)),
            ["latchgate=x", "latchgate-1=y", "latchgate-2=", "latchgate-31="]
        );
        assert_eq!(
            names(cookies.expire_session(&lines)),
            ["latchgate=", "latchgate-1=", "latchgate-2=", "latchgate-31="]
        );
        assert_eq!(cookies.expire_session(&[]), [cookies.expire(Name::Session)]);
        assert!(cookies.is_for_session(&cookies.expire(Name::Session)));
        assert!(!cookies.is_for_session(&cookies.set(Name::Loop, "1", None)));
    }

    #[test]
    fn ours_leave_and_the_others_keep_their_bytes() {
        for (before, after) in [
            (&["theme=dark; latchgate=abc; x=\"a b\";y"][..], &["theme=dark; x=\"a b\";y"][..]),
            (&["latchgate=abc"], &[]),
            (&["latchgate=abc; a=1"], &["a=1"]),
            (&["a=1; latchgate=abc"], &["a=1"]),
            (&["__Host-latchgate=abc", "a=1", "__host-LATCHGATE-login-q=1; b=2"], &["a=1", "b=2"]),
            (&["latchgatex=1; xlatchgate=2"], &["latchgatex=1; xlatchgate=2"]),
            (&["a=latchgate=1"], &["a=latchgate=1"]),
            (&["  spaced = out ;; "], &["  spaced = out ;; "]),
        ] {
            let mut headers = with(header::COOKIE, before);
            strip_ours(&mut headers);
            assert_eq!(lines(&headers, &header::COOKIE), after);
        }
    }

    proptest! {
        #[test]
        fn what_is_left_of_a_line_is_its_other_cookies(crumbs in prop::collection::vec(" ?(|a=1|b=\"x y\"|latchgate=z|__Host-LATCHGATE-1=q) ?", 0..6)) {
            let line = crumbs.join(";");
            let mut headers = with(header::COOKIE, &[&line]);
            strip_ours(&mut headers);
            let others: Vec<&str> = crumbs.iter().map(String::as_str).filter(|crumb| !is_ours(crumb.as_bytes())).collect();
            let rest = others.join(";");
            let expected = if others.len() == crumbs.len() { line.as_str() } else { rest.trim() };
            let is_gone = expected.is_empty() && others.len() < crumbs.len();
            prop_assert_eq!(lines(&headers, &header::COOKIE), if is_gone { vec![] } else { vec![expected.to_owned()] });
        }

        /// RFC 6265bis §4.1.3, §5.8.3, without the look at the first letter.
        #[test]
        fn ours_are_known_by_their_names_in_any_dress(crumb in "[ =\t]{0,2}(__(host|Secure|HOST)-|_)?(latchgate|LATCHGATE|l|a)?(-1|-login-x|-xsrf)?[ \t]?(=.{0,3})?") {
            let text = crumb.trim_start_matches(['=', ' ', '\t']).to_ascii_lowercase();
            let name = text.split('=').next().unwrap_or_default().trim();
            let name = name.strip_prefix("__host-").or_else(|| name.strip_prefix("__secure-")).unwrap_or(name);
            let is_one = name == "latchgate" || name.starts_with("latchgate-");
            prop_assert_eq!(is_ours(crumb.as_bytes()), is_one, "{:?}", crumb);
        }

        #[test]
        fn several_lines_lose_ours_and_keep_the_rest(lines in prop::collection::vec(prop::collection::vec("a=1|b=2|latchgate=z|__Host-latchgate=q", 1..4), 1..4)) {
            let joined: Vec<String> = lines.iter().map(|line| line.join("; ")).collect();
            let mut headers = with(header::COOKIE, &joined.iter().map(String::as_str).collect::<Vec<_>>());
            strip_ours(&mut headers);
            let others = |line: &Vec<String>| {
                line.iter().filter(|crumb| !is_ours(crumb.as_bytes())).cloned().collect::<Vec<_>>().join("; ")
            };
            let expected: Vec<String> = lines.iter().map(others).filter(|line| !line.is_empty()).collect();
            let left: Vec<String> = headers.get_all(header::COOKIE).iter().map(|line| line.to_str().unwrap().to_owned()).collect();
            prop_assert_eq!(left, expected);
        }

        #[test]
        fn the_short_way_to_session_values_and_the_long_one_agree(line in "([ =;a\t]|(__Host-)?latchgate|-1|\u{e9}){0,12}") {
            let Ok(line) = HeaderValue::from_bytes(line.as_bytes()) else { return Ok(()) };
            for secure in [false, true] {
                let (cookies, lines) = (Cookies::new(secure), [line.clone()]);
                let found: Vec<&str> = cookies.sessions(&lines).collect();
                let expected: Vec<&str> = cookies.values(&lines, Name::Session).collect();
                prop_assert_eq!(found, expected);
            }
        }
    }

    #[test]
    fn an_upstream_cannot_set_our_cookies() {
        let mut headers = with(
            header::SET_COOKIE,
            &["a=1; Path=/", "latchgate=evil", "__HOST-Latchgate-loop=; Path=/", " latchgate =x", "b=latchgate"],
        );
        assert_eq!(strip_foreign_claims(&mut headers), 3);
        assert_eq!(lines(&headers, &header::SET_COOKIE), ["a=1; Path=/", "b=latchgate"]);
    }
}
