//! One reading of a path, for us and for the upstream (SPEC §3).
//!
//! | in the target | becomes |
//! |---|---|
//! | escape of an unreserved character (RFC 3986 §2.3) | the character |
//! | any other escape | the same, in upper case |
//! | a character that RFC 3986 §3.3 does not allow in a path | its escape |
//! | `//` | `/` |
//! | `;params`, `%2F`, the query | untouched |
//! | a [`PathProblem`] | 400 |
//!
//! Two forms come out of it. The *normal form* goes to the upstream. The *matching form* is what
//! routes are compared with: without `;params`, and with those escapes decoded that every upstream
//! decodes (`%40` for `@`), so that no spelling of a path escapes the route that guards it.

use std::borrow::Cow;
use std::fmt;

use http::uri::PathAndQuery;
use percent_encoding::percent_encode_byte;

/// A path in normal form, with the query exactly as sent. What is matched is what is forwarded:
/// a [`super::route::RouteTable`] takes nothing else, and the same object becomes the upstream's target.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NormalPath {
    target: PathAndQuery,
    /// Nothing in the path has another spelling: see [`is_plain`].
    plain: bool,
}

/// Why a path is refused with 400. The `Display` text is fixed and repeats nothing of the request,
/// so it may be sent to the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PathProblem {
    /// `*`, `host:port`, or anything else that does not begin with `/`.
    NotAbsolute,
    /// `.` or `..` as a segment, in any encoding, with or without `;params`.
    DotSegment,
    /// `/;x/`: without its parameters the segment is gone, and some upstreams then drop it.
    OnlyParameters,
    /// `\` or `%5C`.
    Backslash,
    /// A control character, raw or escaped; NUL and DEL are two of them.
    Control,
    /// `%` without two hexadecimal digits.
    BadEscape,
    /// Escapes that decode to something other than UTF-8, overlong forms included.
    NotUtf8,
    /// An escape inside an escape (`%252e`) that a second decoding would turn into something that matters.
    DoubleEncoded,
    /// `%2F` on a route without `allow_encoded_slash`. Only the one who knows the route can say this:
    /// see [`NormalPath::has_encoded_slash`].
    EncodedSlash,
    /// Longer than 65,534 bytes once escaped.
    TooLong,
}

impl NormalPath {
    /// Puts the path of a request target into normal form. Does not allocate when it is there already.
    ///
    /// # Errors
    /// The reason to answer 400.
    pub fn from_target(target: &PathAndQuery) -> Result<NormalPath, PathProblem> {
        if target.as_str().starts_with('/') && is_plain(target.path().as_bytes()) {
            return Ok(NormalPath { target: target.clone(), plain: true });
        }
        let path = normal_form(target.path())?;
        // `http://host?q` has an empty path, and an origin-form target must begin with a slash
        // (RFC 9112 §3.2.1).
        let begins_with_query = target.as_str().starts_with('?');
        match path {
            Cow::Borrowed(_) if !begins_with_query => Ok(NormalPath { target: target.clone(), plain: false }),
            path => NormalPath::assemble(&path, target.query()),
        }
    }

    /// The path in normal form: what the upstream gets.
    #[must_use]
    pub fn path(&self) -> &str {
        self.target.path()
    }

    /// The query without its `?`, byte for byte as sent.
    #[must_use]
    pub fn query(&self) -> Option<&str> {
        self.target.query()
    }

    /// Path and query: the upstream's request target.
    #[must_use]
    pub fn path_and_query(&self) -> &PathAndQuery {
        &self.target
    }

    /// The path in matching form. Borrowed unless there are parameters to drop or escapes to decode.
    #[must_use]
    pub fn for_matching(&self) -> Cow<'_, str> {
        if self.plain { Cow::Borrowed(self.path()) } else { matching_form(self.path()) }
    }

    /// Whether a segment contains `%2F`. Upstreams disagree on what that is, so the request is to be
    /// refused with [`PathProblem::EncodedSlash`] unless its route says `allow_encoded_slash`.
    #[must_use]
    pub fn has_encoded_slash(&self) -> bool {
        !self.plain && self.path().contains(ENCODED_SLASH)
    }

    /// The same target with the leading segments `prefix` replaced by `replacement` (`""` or `"/"`
    /// strips them). Segments are compared in matching form, so `/api;v=1/x` loses `/api` as well;
    /// a slash at the end of either argument makes no difference.
    ///
    /// None if the path is not below `prefix`, or if the outcome would itself be refused.
    #[must_use]
    pub fn with_prefix_replaced(&self, prefix: &str, replacement: &str) -> Option<NormalPath> {
        let mut rest = self.path();
        for expected in prefix.trim_end_matches('/').split('/').skip(1) {
            let behind_slash = rest.strip_prefix('/')?;
            let (segment, _) = behind_slash.split_at(behind_slash.find('/').unwrap_or(behind_slash.len()));
            if matching_form(segment) != matching_form(expected) {
                return None;
            }
            rest = &behind_slash[segment.len()..];
        }
        let replacement = replacement.trim_end_matches('/');
        let path = if replacement.is_empty() && rest.is_empty() {
            Cow::Borrowed("/")
        } else {
            Cow::Owned([replacement, rest].concat())
        };
        NormalPath::assemble(&normal_form(&path).ok()?, self.query()).ok()
    }

    fn assemble(path: &str, query: Option<&str>) -> Result<NormalPath, PathProblem> {
        let target = match query {
            Some(query) => [path, "?", query].concat(),
            None => path.to_owned(),
        };
        // Every byte is one that `PathAndQuery` takes; only the length may have grown too far.
        let target = PathAndQuery::try_from(target).map_err(|_| PathProblem::TooLong)?;
        let plain = is_plain(target.path().as_bytes());
        Ok(NormalPath { target, plain })
    }
}

impl fmt::Display for PathProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            PathProblem::NotAbsolute => "the path does not begin with a slash",
            PathProblem::DotSegment => "the path contains a dot segment",
            PathProblem::OnlyParameters => "the path contains a segment that is nothing but parameters",
            PathProblem::Backslash => "the path contains a backslash",
            PathProblem::Control => "the path contains a control character",
            PathProblem::BadEscape => "the path contains an invalid percent-escape",
            PathProblem::NotUtf8 => "the path is not valid UTF-8",
            PathProblem::DoubleEncoded => "the path is percent-encoded twice",
            PathProblem::EncodedSlash => "the path contains an encoded slash",
            PathProblem::TooLong => "the path is too long",
        })
    }
}

impl std::error::Error for PathProblem {}

/// The normal form of a path without query. Borrowed when it is `path` itself.
///
/// # Errors
/// Why no request may have this path.
pub(super) fn normal_form(path: &str) -> Result<Cow<'_, str>, PathProblem> {
    if !path.starts_with('/') {
        return Err(PathProblem::NotAbsolute);
    }
    if is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let normal = escapes_and_slashes(path)?;
    refuse_ambiguous_segments(&normal)?;
    refuse_double_encoding(&normal)?;
    Ok(normal)
}

/// The matching form of a path, or of a part of one, in normal form.
pub(super) fn matching_form(normal: &str) -> Cow<'_, str> {
    let mut form = Rewrite::of(normal);
    let mut at = 0;
    while at < normal.len() {
        let rest = &normal[at..];
        if rest.starts_with([';', '%']) {
            if has_parameters_at(rest) {
                form.replace(at, "");
                at += end_of_parameters(rest);
            } else if let Some(character) = decoded_for_matching(rest) {
                form.replace(at, character);
                at += 3;
            } else {
                form.keep(at..at + 1);
                at += 1;
            }
        } else {
            let end = rest.find([';', '%']).map_or(normal.len(), |offset| at + offset);
            form.keep(at..end);
            at = end;
        }
    }
    form.finish()
}

/// Whether nothing needs a closer look, and all forms are the same: most paths, judged in one pass.
fn is_plain(path: &[u8]) -> bool {
    let mut previous = 0;
    path.iter().all(|&byte| {
        let suspicious = previous == b'/' && matches!(byte, b'/' | b'.');
        previous = byte;
        PLAIN[usize::from(byte)] && !suspicious
    })
}

/// Which bytes have one spelling, and mean nothing to anybody who reads a path.
const PLAIN: [bool; 256] = {
    let mut plain = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        plain[byte as usize] = byte == b'/' || (is_path_character(byte) && byte != b';');
        byte += 1;
    }
    plain
};

/// The first half of the normal form: everything that can be judged character by character.
fn escapes_and_slashes(path: &str) -> Result<Cow<'_, str>, PathProblem> {
    let bytes = path.as_bytes();
    let mut form = Rewrite::of(path);
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'/' if at > 0 && bytes[at - 1] == b'/' => {
                form.replace(at, "");
                at += 1;
            }
            b'%' => {
                let width = character_at(&bytes[at..])?;
                for escape in (at..at + 3 * width).step_by(3) {
                    rewrite_escape(&mut form, escape, escaped_byte(&bytes[escape..])?);
                }
                at += 3 * width;
            }
            b'\\' => return Err(PathProblem::Backslash),
            _ if byte.is_ascii_control() => return Err(PathProblem::Control),
            _ if byte == b'/' || is_path_character(byte) => {
                form.keep(at..at + 1);
                at += 1;
            }
            _ => {
                let width = path[at..].chars().next().map_or(1, char::len_utf8);
                for &byte in &bytes[at..at + width] {
                    form.replace(at, percent_encode_byte(byte));
                }
                at += width;
            }
        }
    }
    Ok(form.finish())
}

fn rewrite_escape(form: &mut Rewrite<'_>, at: usize, byte: u8) {
    let canonical = percent_encode_byte(byte);
    if is_unreserved(byte) {
        form.replace(at, &char::from(byte).to_string());
    } else if form.source[at..].starts_with(canonical) {
        form.keep(at..at + 3);
    } else {
        form.replace(at, canonical);
    }
}

/// How many escapes at the start of `bytes` make up one character, if it is one that a path may hold.
fn character_at(bytes: &[u8]) -> Result<usize, PathProblem> {
    let first = escaped_byte(bytes)?;
    let width = match first {
        b'\\' => return Err(PathProblem::Backslash),
        _ if first.is_ascii_control() => return Err(PathProblem::Control),
        0..=0x7f => return Ok(1),
        0xc2..=0xdf => 2,
        0xe0..=0xef => 3,
        0xf0..=0xf4 => 4,
        _ => return Err(PathProblem::NotUtf8),
    };
    let mut character = [0; 4];
    for (index, byte) in character[..width].iter_mut().enumerate() {
        let escape = bytes.get(3 * index..).unwrap_or_default();
        if escape.first() != Some(&b'%') {
            return Err(PathProblem::NotUtf8);
        }
        *byte = escaped_byte(escape)?;
    }
    std::str::from_utf8(&character[..width]).map(|_| width).map_err(|_| PathProblem::NotUtf8)
}

/// The byte that the escape at the start of `bytes` stands for.
fn escaped_byte(bytes: &[u8]) -> Result<u8, PathProblem> {
    bytes.get(1..3).and_then(hex_pair).ok_or(PathProblem::BadEscape)
}

fn hex_pair(digits: &[u8]) -> Option<u8> {
    let value = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
    Some(value(digits[0])? * 16 + value(digits[1])?)
}

/// Dot segments, and segments that vanish with their parameters. An upstream may take `%2F` for a
/// slash, so it separates segments here as well.
fn refuse_ambiguous_segments(normal: &str) -> Result<(), PathProblem> {
    let mut segments = normal.split('/').flat_map(|segment| segment.split(ENCODED_SLASH)).peekable();
    while let Some(segment) = segments.next() {
        let parameters = segment.find(';').into_iter().chain(segment.find(ENCODED_SEMICOLON)).min();
        let name = &segment[..parameters.unwrap_or(segment.len())];
        match name {
            "." | ".." => return Err(PathProblem::DotSegment),
            "" if parameters.is_some() && segments.peek().is_some() => {
                return Err(PathProblem::OnlyParameters);
            }
            _ => {}
        }
    }
    Ok(())
}

/// `%25` and the digits of a further escape: an upstream that decodes twice would read another path.
/// More layers (`%25252e`) are the same thing again.
fn refuse_double_encoding(normal: &str) -> Result<(), PathProblem> {
    let hidden = normal
        .match_indices("%25")
        .filter_map(|(at, escape)| {
            normal[at + escape.len()..].trim_start_matches("25").as_bytes().get(..2).and_then(hex_pair)
        })
        .any(|byte| {
            is_unreserved(byte)
                || byte.is_ascii_control()
                || matches!(byte, b'/' | b'\\' | b';')
                // never part of UTF-8: the beginning of an overlong dot or slash
                || matches!(byte, 0xc0 | 0xc1 | 0xf5..)
        });
    if hidden { Err(PathProblem::DoubleEncoded) } else { Ok(()) }
}

fn has_parameters_at(rest: &str) -> bool {
    rest.starts_with(';') || rest.starts_with(ENCODED_SEMICOLON)
}

fn end_of_parameters(rest: &str) -> usize {
    rest.find('/').into_iter().chain(rest.find(ENCODED_SLASH)).min().unwrap_or(rest.len())
}

/// The character behind the escape at the start of `rest`, if a path may also hold it unescaped.
/// RFC 3986 §2.2 calls the two spellings different; upstreams do not.
fn decoded_for_matching(rest: &str) -> Option<&'static str> {
    const DELIMITERS: [(&str, &str); 12] = [
        ("%21", "!"),
        ("%24", "$"),
        ("%26", "&"),
        ("%27", "'"),
        ("%28", "("),
        ("%29", ")"),
        ("%2A", "*"),
        ("%2B", "+"),
        ("%2C", ","),
        ("%3A", ":"),
        ("%3D", "="),
        ("%40", "@"),
    ];
    DELIMITERS.iter().find(|(escape, _)| rest.starts_with(escape)).map(|(_, character)| *character)
}

/// `unreserved` (RFC 3986 §2.3).
const fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~')
}

/// `pchar` without escapes (RFC 3986 §3.3).
const fn is_path_character(byte: u8) -> bool {
    is_unreserved(byte)
        || matches!(byte, b'!' | b'$' | b'&' | b'\'' | b'(' | b')' | b'*' | b'+' | b',' | b';' | b'=' | b':' | b'@')
}

/// A text read from left to right and copied only from the first difference on.
struct Rewrite<'a> {
    source: &'a str,
    copy: Option<String>,
}

impl<'a> Rewrite<'a> {
    fn of(source: &'a str) -> Rewrite<'a> {
        Rewrite { source, copy: None }
    }

    fn keep(&mut self, range: std::ops::Range<usize>) {
        if let Some(copy) = &mut self.copy {
            copy.push_str(&self.source[range]);
        }
    }

    fn replace(&mut self, at: usize, with: &str) {
        self.copy.get_or_insert_with(|| self.source[..at].to_owned()).push_str(with);
    }

    fn finish(self) -> Cow<'a, str> {
        self.copy.map_or(Cow::Borrowed(self.source), Cow::Owned)
    }
}

/// As the normal form spells it.
const ENCODED_SLASH: &str = "%2F";
const ENCODED_SEMICOLON: &str = "%3B";

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode;
    use proptest::prelude::*;

    fn normal(target: &str) -> Result<NormalPath, PathProblem> {
        NormalPath::from_target(&PathAndQuery::try_from(target).unwrap())
    }

    #[test]
    fn normal_forms() {
        for (target, upstream, matched) in [
            ("/", "/", "/"),
            ("/a/b", "/a/b", "/a/b"),
            ("/a/", "/a/", "/a/"),
            ("//a///b//", "/a/b/", "/a/b/"),
            ("/%61dmin/%7Euser/%2d%2E%5f", "/admin/~user/-._", "/admin/~user/-._"),
            ("/ADM%49N", "/ADMIN", "/ADMIN"),
            ("/caf%c3%a9", "/caf%C3%A9", "/caf%C3%A9"),
            ("/café/😀", "/caf%C3%A9/%F0%9F%98%80", "/caf%C3%A9/%F0%9F%98%80"),
            ("/\"{|}^[]", "/%22%7B%7C%7D%5E%5B%5D", "/%22%7B%7C%7D%5E%5B%5D"),
            ("/a%20b%2520c", "/a%20b%2520c", "/a%20b%2520c"),
            ("/100%25/%2525", "/100%25/%2525", "/100%25/%2525"),
            ("/a%3fb%23c", "/a%3Fb%23c", "/a%3Fb%23c"),
            ("/a%2fb", "/a%2Fb", "/a%2Fb"),
            ("/.well-known/...", "/.well-known/...", "/.well-known/..."),
            ("/a;v=1/b;w", "/a;v=1/b;w", "/a/b"),
            ("/a%3bv=1/b", "/a%3Bv=1/b", "/a/b"),
            ("/a;x%2fb;y/c", "/a;x%2Fb;y/c", "/a%2Fb/c"),
            ("/;jsessionid=1", "/;jsessionid=1", "/"),
            ("/users/%40me/a%2bb", "/users/%40me/a%2Bb", "/users/@me/a+b"),
            ("/%2A", "/%2A", "/*"),
        ] {
            let path = normal(target).unwrap_or_else(|problem| panic!("{target}: {problem}"));
            assert_eq!(path.path(), upstream, "{target}");
            assert_eq!(path.for_matching(), matched, "{target}");
            assert_eq!(path.query(), None, "{target}");
        }
    }

    #[test]
    fn refusals() {
        use PathProblem::{
            Backslash, BadEscape, Control, DotSegment, DoubleEncoded, NotAbsolute, NotUtf8, OnlyParameters,
        };
        for (problem, targets) in [
            (NotAbsolute, &["*"] as &[_]),
            (
                DotSegment,
                &[
                    "/.",
                    "/..",
                    "/a/./b",
                    "/a/../b",
                    "/a/%2e%2e/b",
                    "/a/.%2E",
                    "/%2e",
                    "/..;/b",
                    "/.;x/b",
                    "/..%3b/b",
                    "/a/..%2fb",
                    "/a%2f%2e%2e%2fb",
                    "/a%2F..;x%2Fb",
                    "//..//",
                ],
            ),
            (OnlyParameters, &["/;x/admin", "/%3Bx/admin", "/a/;/b", "/a%2F;x%2Fb"]),
            (Backslash, &["/a\\b", "/a%5cb", "/%5C"]),
            (Control, &["/%00", "/a%0d%0ab", "/%7f", "/%1F"]),
            (BadEscape, &["/%", "/%2", "/%zz", "/%u0041", "/%%32%35", "/%+1", "/%c3%"]),
            (
                NotUtf8,
                &[
                    "/%ff",
                    "/%c0%ae",
                    "/%c1%9c",
                    "/%e0%80%ae",
                    "/%f0%80%80%ae",
                    "/%f8%80%80%80%ae",
                    "/%c3",
                    "/%c3x",
                    "/%c3/%a9",
                    "/%a9",
                    "/%ed%a0%80",
                    "/%f5%80%80%80",
                ],
            ),
            (
                DoubleEncoded,
                &[
                    "/%252e%252e/",
                    "/%25252e",
                    "/%2525252e",
                    "/%25%32%65",
                    "/%25%32%35%32%65",
                    "/%252%45",
                    "/a%252fb",
                    "/a%255cb",
                    "/a%253Bb",
                    "/%2500",
                    "/%250a",
                    "/%257f",
                    "/%2561dmin",
                    "/..%25c0%25af",
                ],
            ),
        ] {
            for target in targets {
                assert_eq!(normal(target), Err(problem), "{target}");
            }
        }
    }

    #[test]
    fn control_characters_that_a_target_cannot_hold_are_refused_in_patterns_too() {
        for path in ["/a\tb", "/a\0", "/\u{7f}"] {
            assert_eq!(normal_form(path), Err(PathProblem::Control));
        }
        assert_eq!(normal_form("/a b`<>").unwrap(), "/a%20b%60%3C%3E");
    }

    #[test]
    fn the_query_is_never_touched() {
        let query = "a=%2e%2e//..&b=%zz\\;é{}'&c=?%61";
        for path in ["/a", "/%61"] {
            let path = normal(&format!("{path}?{query}")).unwrap();
            assert_eq!((path.path(), path.query()), ("/a", Some(query)));
            assert_eq!(path.path_and_query().as_str(), format!("/a?{query}"));
        }
        assert_eq!(normal("/a?").unwrap().path_and_query().as_str(), "/a?");
    }

    #[test]
    fn an_empty_path_becomes_a_slash() {
        let uri = http::Uri::from_static("http://example.com?q");
        let path = NormalPath::from_target(uri.path_and_query().unwrap()).unwrap();
        assert_eq!(path.path_and_query().as_str(), "/?q");
    }

    #[test]
    fn a_path_may_outgrow_the_limit_when_it_is_escaped() {
        let target = format!("/{}", "é".repeat(20_000));
        assert_eq!(normal(&target), Err(PathProblem::TooLong));
    }

    #[test]
    fn nothing_is_copied_when_there_is_nothing_to_do() {
        for target in ["/a/b", "/a/.hidden/caf%C3%A9%20;v=1"] {
            assert!(matches!(normal_form(target), Ok(Cow::Borrowed(_))), "{target}");
        }
        for target in ["/a/b", "/a%2Fb/caf%C3%A9"] {
            assert!(matches!(matching_form(target), Cow::Borrowed(_)), "{target}");
        }
    }

    #[test]
    fn encoded_slashes_are_seen_in_the_path_only() {
        assert!(normal("/a%2fb").unwrap().has_encoded_slash());
        assert!(!normal("/a/b?c=%2F").unwrap().has_encoded_slash());
    }

    #[test]
    fn prefixes_are_replaced_on_a_segment_boundary() {
        for (target, prefix, replacement, expected) in [
            ("/api/users?q=%2F", "/api", "", Some("/users?q=%2F")),
            ("/api/users", "/api/", "/", Some("/users")),
            ("/api", "/api", "", Some("/")),
            ("/api/", "/api", "", Some("/")),
            ("/api?q", "/api", "/v2/", Some("/v2?q")),
            ("/api/", "/api", "/v2", Some("/v2/")),
            ("/api/users", "/api", "/v2/x", Some("/v2/x/users")),
            ("/api;v=1/users;a", "/api", "", Some("/users;a")),
            ("/%40me/users", "/@me", "", Some("/users")),
            ("/a/b/c", "/a/b", "", Some("/c")),
            ("/a", "/", "/v2", Some("/v2/a")),
            ("/apix", "/api", "", None),
            ("/API/x", "/api", "", None),
            ("/a", "/a/b", "", None),
            ("/api/x", "/api", "v2", None),
            ("/api/x", "/api", "/v2/..", None),
        ] {
            let replaced = normal(target).unwrap().with_prefix_replaced(prefix, replacement);
            let text = replaced.as_ref().map(|path| path.path_and_query().as_str());
            assert_eq!(text, expected, "{target} {prefix} {replacement}");
        }
    }

    /// Targets made of the pieces that attacks on path rules are made of.
    fn hostile_target() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "/", "/", "/", "admin", "admin", "files", ".", "..", ";", ";x", "%2e", "%2E", "%2f", "%5c", "%3b", "%25",
            "25", "2e", "2f", "3b", "5c", "61", "%61", "%2561", "dmin", "%6", "1", "%", "%c0%ae", "%c3%a9", "é", "%40",
            "%00", "\\", "?", "{", "%2", "A",
        ]);
        prop::collection::vec(pieces, 0..14).prop_map(|pieces| format!("/{}", pieces.concat()))
    }

    /// The path as the most careless upstream reads it.
    fn careless_segments(path: &str) -> Vec<Vec<u8>> {
        let once: Vec<u8> = percent_decode(path.as_bytes()).collect();
        let twice: Vec<u8> = percent_decode(&once).collect();
        let mut segments: Vec<Vec<u8>> = Vec::new();
        for segment in twice.split(|byte| matches!(byte, b'/' | b'\\')) {
            match segment.split(|&byte| byte == b';').next().unwrap_or_default() {
                b"" | b"." => {}
                b".." => drop(segments.pop()),
                name => segments.push(name.to_vec()),
            }
        }
        segments
    }

    fn first_segment(path: &str) -> &str {
        path[1..].split('/').next().unwrap_or_default()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(2000))]

        #[test]
        fn any_target_is_read_or_refused(target in any::<Vec<u8>>()) {
            if let Ok(target) = PathAndQuery::try_from(target.as_slice()) {
                let _ = NormalPath::from_target(&target);
            }
        }

        #[test]
        fn a_plain_path_has_one_form(path in prop_oneof![hostile_target(), "/[a-z./;@~-]{0,12}"]) {
            if is_plain(path.as_bytes()) {
                prop_assert!(matches!(escapes_and_slashes(&path), Ok(Cow::Borrowed(_))));
                prop_assert_eq!((refuse_ambiguous_segments(&path), refuse_double_encoding(&path)), (Ok(()), Ok(())));
                prop_assert!(matches!(matching_form(&path), Cow::Borrowed(_)));
                prop_assert!(!path.contains(ENCODED_SLASH));
            }
        }

        #[test]
        fn normal_stays_normal(target in prop_oneof![hostile_target(), "/\\PC{0,40}"]) {
            let Ok(target) = PathAndQuery::try_from(target) else { return Ok(()) };
            if let Ok(path) = NormalPath::from_target(&target) {
                let again = NormalPath::from_target(path.path_and_query());
                prop_assert_eq!(again.as_ref(), Ok(&path));
                prop_assert_eq!(path.query(), target.query());
                prop_assert!(matches!(normal_form(path.path()), Ok(Cow::Borrowed(_))));
            }
        }

        #[test]
        fn no_spelling_reaches_admin_unseen(target in hostile_target()) {
            let Ok(target) = PathAndQuery::try_from(target) else { return Ok(()) };
            let Ok(path) = NormalPath::from_target(&target) else { return Ok(()) };
            if !path.has_encoded_slash() {
                let reached = careless_segments(path.path()).first().is_some_and(|name| name == b"admin");
                prop_assert_eq!(reached, first_segment(&path.for_matching()) == "admin", "{}", path.path());
            }
        }

        #[test]
        fn an_allowed_encoded_slash_does_not_leave_the_route(
            rest in prop::collection::vec(prop::sample::select(vec!["/", "%2f", "..", ".", "%2e", ";", "%3b", "a"]), 0..8)
        ) {
            let target = PathAndQuery::try_from(format!("/files/{}", rest.concat())).unwrap();
            let Ok(path) = NormalPath::from_target(&target) else { return Ok(()) };
            let segments = careless_segments(path.path());
            prop_assert_eq!(segments.first().map(Vec::as_slice), Some(b"files".as_slice()), "{}", path.path());
        }
    }
}
