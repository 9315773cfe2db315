//! Where a login may lead back to (SPEC §6), judged as a browser judges it.
//!
//! | `return_to` | |
//! |---|---|
//! | 1. empty, or more than 2 KiB | refused |
//! | 2. a control character, white space or a backslash anywhere | refused: browsers drop or rewrite them |
//! | 3. neither `/…` nor `http(s)://…` | refused |
//! | 4. `//` anywhere else, the query included | refused: the address of another site, for a browser or for the page behind |
//! | 5. user information, even empty | refused |
//! | 6. parsed against the external origin: on it | path and query |
//! | 7. parsed: on an allowed origin | the whole URL |
//! | 8. anything else | refused |
//!
//! The fragment is dropped everywhere.

use url::{Host, Origin, Position, Url};

/// A target that a signed-in browser may be sent to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReturnTo(String);

/// An entry of `login.allowed_return_origins`: `https://app.example.com`, or `https://*.example.com`
/// for all hosts below that domain. Scheme and port are always exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AllowedOrigin {
    scheme: String,
    host: AllowedHost,
    port: Option<u16>,
}

impl ReturnTo {
    /// Accepts `input` if it stays on the origin of `external` or on one of `allowed_origins`, entries
    /// as [`AllowedOrigin::parse`] takes them. None also when in doubt. The caller then goes to
    /// `login.after_login`.
    #[must_use]
    pub fn parse(input: &str, external: &Url, allowed_origins: &[String]) -> Option<ReturnTo> {
        if input.is_empty() || input.len() > LONGEST {
            return None;
        }
        if input.contains(|character: char| character.is_control() || character.is_whitespace() || character == '\\') {
            return None;
        }
        let target = input.split('#').next().unwrap_or_default();
        let behind_scheme = behind_http_scheme(target);
        if !target.starts_with('/') && behind_scheme.is_none() {
            return None;
        }
        if behind_scheme.unwrap_or(target).contains("//") {
            return None;
        }
        if behind_scheme.is_some_and(|rest| !has_plain_authority(rest)) {
            return None;
        }
        let url = external.join(target).ok()?;
        let kept = if url.origin() == external.origin() {
            ReturnTo::on_external_origin(&url, external)?
        } else {
            let mut origins = allowed_origins.iter().filter_map(|entry| AllowedOrigin::parse(entry));
            origins.any(|origin| origin.admits(&url)).then(|| ReturnTo(url.into()))?
        };
        // Escaping may have made it longer.
        (kept.0.len() <= LONGEST).then_some(kept)
    }

    /// The value of a `Location` field: path and query, or an absolute URL; ASCII without spaces.
    #[must_use]
    pub fn as_location(&self) -> &str {
        &self.0
    }

    /// What is sent is a reference, which the browser parses a second time: it must come to the same.
    fn on_external_origin(url: &Url, external: &Url) -> Option<ReturnTo> {
        let reference = &url[Position::BeforePath..Position::AfterQuery];
        let again = external.join(reference).ok()?;
        let stays = reference.starts_with('/')
            && !reference[1..].starts_with(['/', '\\'])
            && again.origin() == external.origin()
            && &again[Position::BeforePath..] == reference;
        stays.then(|| ReturnTo(reference.to_owned()))
    }
}

impl AllowedOrigin {
    /// Reads an entry. None if it is more or less than `http(s)://host[:port]`.
    #[must_use]
    pub fn parse(entry: &str) -> Option<AllowedOrigin> {
        let behind_scheme = behind_http_scheme(entry)?;
        let suffix = behind_scheme.strip_prefix("*.");
        let authority = suffix.unwrap_or(behind_scheme);
        if !has_plain_authority(authority) || authority.contains(['/', '?', '#', '\\', '*']) {
            return None;
        }
        let scheme = &entry[..entry.len() - behind_scheme.len()];
        let url = Url::parse(&[scheme, authority].concat()).ok()?;
        let host = match (suffix, url.host()?) {
            (None, host) => AllowedHost::Exact(host.to_owned()),
            (Some(_), Host::Domain(domain)) => AllowedHost::Below(format!(".{domain}")),
            (Some(_), _) => return None,
        };
        Some(AllowedOrigin { scheme: url.scheme().to_owned(), host, port: url.port_or_known_default() })
    }

    /// Whether the URL is on this origin.
    #[must_use]
    pub fn admits(&self, url: &Url) -> bool {
        let host = match (&self.host, url.host()) {
            (AllowedHost::Exact(allowed), Some(host)) => *allowed == host.to_owned(),
            (AllowedHost::Below(suffix), Some(Host::Domain(domain))) => {
                domain.strip_suffix(suffix.as_str()).is_some_and(|labels| !labels.is_empty())
            }
            _ => false,
        };
        host && self.scheme == url.scheme() && self.port == url.port_or_known_default()
    }
}

/// Whether an `Origin` field names the origin of `external`: the serialisations are compared byte for
/// byte (RFC 6454 §6.2), so `null`, another port, a trailing dot and capital letters are all foreign.
#[must_use]
pub fn same_origin(origin_header: &str, external: &Url) -> bool {
    match external.origin() {
        Origin::Opaque(_) => false,
        origin => origin.ascii_serialization() == origin_header,
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum AllowedHost {
    Exact(Host),
    /// With its leading dot.
    Below(String),
}

fn behind_http_scheme(url: &str) -> Option<&str> {
    ["https://", "http://"]
        .into_iter()
        .find(|scheme| url.get(..scheme.len()).is_some_and(|start| start.eq_ignore_ascii_case(scheme)))
        .map(|scheme| &url[scheme.len()..])
}

/// Whether a host comes right behind the scheme. Browsers skip further slashes, and user information
/// is made to be mistaken for a host.
fn has_plain_authority(behind_scheme: &str) -> bool {
    let authority = behind_scheme.split(['/', '?', '#']).next().unwrap_or_default();
    !authority.is_empty() && !authority.contains('@')
}

/// Bytes. A longer one would have to be kept through the login for nothing.
const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use super::*;
    use percent_encoding::percent_decode_str;
    use proptest::prelude::*;
    use std::io::Write;

    const EXTERNAL: &str = "http://localhost:8080";

    fn parse(input: &str, external: &str, allowed: &[&str]) -> Option<String> {
        let allowed: Vec<String> = allowed.iter().map(|&entry| entry.to_owned()).collect();
        ReturnTo::parse(input, &Url::parse(external).unwrap(), &allowed).map(|target| target.0)
    }

    #[test]
    fn what_stays_on_the_external_origin_is_kept_to_the_byte() {
        for input in [
            "/",
            "/a",
            "/a/",
            "/a?b=c%26d",
            "/a?b=c%2Fd&e=%zz&&f+g",
            "/a?",
            "/?next=%2F%2Fexample.com",
            "/@me/a:b;c=1/caf%C3%A9/%2F%5C%09",
            "/~a/a%20b/*()!$',",
            "/a?b=:@/?",
        ] {
            assert_eq!(parse(input, EXTERNAL, &[]).as_deref(), Some(input));
        }
    }

    #[test]
    fn targets_are_reduced_to_path_and_query() {
        for (external, input, expected) in [
            (EXTERNAL, "/a?b=c%26d#e", "/a?b=c%26d"),
            (EXTERNAL, "/a#//x", "/a"),
            (EXTERNAL, "/café?ü", "/caf%C3%A9?%C3%BC"),
            (EXTERNAL, "/a/../b/.", "/b/"),
            (EXTERNAL, "http://localhost:8080", "/"),
            (EXTERNAL, "http://localhost:8080/a?b#c", "/a?b"),
            (EXTERNAL, "HTTP://LOCALHOST:8080?b", "/?b"),
            ("https://app.example.com/", "https://app.example.com:443/a", "/a"),
        ] {
            assert_eq!(parse(input, external, &[]).as_deref(), Some(expected), "{input}");
        }
    }

    #[test]
    fn what_could_lead_elsewhere_is_refused() {
        for input in [
            "",
            "a",
            "?a",
            "#a",
            "./a",
            "*",
            "//example.com",
            "///example.com",
            "/\\example.com",
            "\\\\example.com",
            "/\t/example.com",
            "/\n/example.com",
            "/\r/example.com",
            "/\u{b}/example.com",
            "/a\0",
            "/a b",
            " /a",
            "/a ",
            "\u{feff}/a",
            "/\u{a0}/example.com",
            "/\u{2028}/example.com",
            "/\u{85}/example.com",
            "/./\\example.com",
            "/.//example.com",
            "/a/..//example.com",
            "/https://example.com",
            "/redirect?url=//example.com",
            "/redirect?url=https://example.com",
            "http:/a",
            "http:a",
            "http:///localhost:8080/a",
            "http://",
            "https://localhost:8080/",
            "http://localhost/",
            "http://localhost.:8080/",
            "http://sub.localhost:8080/",
            "http://localhost:8080.example.com/",
            "http://localhost:8080@example.com/",
            "http://example.com@localhost:8080/",
            "http://@localhost:8080/",
            "http://:@localhost:8080/",
            "http://localhost:8080//example.com",
            "http://example.com/",
            "ftp://localhost:8080/",
            "javascript:alert(1)",
            "javascript://localhost:8080/%0aalert(1)",
            "data:text/html,x",
            "〱example.com",
        ] {
            assert_eq!(parse(input, EXTERNAL, &[]), None, "{input:?}");
        }
    }

    #[test]
    fn the_length_is_limited() {
        let longest = format!("/{}", "a".repeat(LONGEST - 1));
        assert_eq!(parse(&longest, EXTERNAL, &[]).as_ref(), Some(&longest));
        assert_eq!(parse(&format!("{longest}a"), EXTERNAL, &[]), None);
        assert_eq!(parse(&format!("/{}", "é".repeat(LONGEST / 4)), EXTERNAL, &[]), None);
    }

    #[test]
    fn allowed_origins_are_exact_or_end_at_a_dot() {
        let exact = "https://app.example.com";
        let wildcard = "https://*.example.com";
        let with_port = "http://*.example.com:8000";
        for (entry, input, accepted) in [
            (exact, "https://app.example.com", true),
            (exact, "https://app.example.com:443/a?b=c%26d", true),
            (exact, "https://APP.example.COM/", true),
            (exact, "https://app.example.com:8443/", false),
            (exact, "http://app.example.com/", false),
            (exact, "https://example.com/", false),
            (exact, "https://a.app.example.com/", false),
            (exact, "https://app.example.com./", false),
            (exact, "https://app.example.com.evil/", false),
            (exact, "https://user@app.example.com/", false),
            (exact, "https://app.example.com\\@evil/", false),
            (exact, "https:///app.example.com/", false),
            (exact, "//app.example.com/", false),
            (exact, "https://app.example.com//evil", false),
            (wildcard, "https://app.example.com/", true),
            (wildcard, "https://a.b.example.com/", true),
            (wildcard, "https://xn--bcher-kva.example.com/", true),
            (wildcard, "https://example.com/", false),
            (wildcard, "https://.example.com/", false),
            (wildcard, "https://badexample.com/", false),
            (wildcard, "https://evil-example.com/", false),
            (wildcard, "https://app.example.com./", false),
            (wildcard, "https://app.example.com.evil/", false),
            (wildcard, "https://app.example.com:444/", false),
            (wildcard, "https://xn--example-.com/", false),
            (with_port, "http://a.example.com:8000/", true),
            (with_port, "http://a.example.com/", false),
            (with_port, "https://a.example.com:8000/", false),
            ("http://[::1]:3000", "http://[0::1]:3000/", true),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3000/", true),
            ("http://127.0.0.1:3000", "http://127.0.0.1:3001/", false),
            ("https://bücher.example", "https://xn--bcher-kva.example/", true),
        ] {
            assert_eq!(parse(input, EXTERNAL, &[entry]).is_some(), accepted, "{entry} {input}");
        }
        let absolute = parse("https://APP.example.com/a?b=c%26d#e", EXTERNAL, &[exact]);
        assert_eq!(absolute.as_deref(), Some("https://app.example.com/a?b=c%26d"));
    }

    #[test]
    fn entries_that_are_not_origins_are_refused() {
        for entry in [
            "",
            "*",
            "app.example.com",
            "//app.example.com",
            "ftp://app.example.com",
            "https://",
            "https://*",
            "https://*.",
            "https://a.*.example.com",
            "https://*.*.example.com",
            "https://*.127.0.0.1",
            "https://*.[::1]",
            "https://app.example.com/",
            "https://app.example.com/a",
            "https://app.example.com?",
            "https://app.example.com#",
            "https://user@app.example.com",
            "https://app.example.com:port",
            "null",
        ] {
            assert_eq!(AllowedOrigin::parse(entry), None, "{entry}");
        }
    }

    #[test]
    fn origins_are_compared_byte_for_byte() {
        let gateway = "https://gw.test";
        for (external, header, same) in [
            (gateway, "https://gw.test", true),
            ("https://gw.test:443/", "https://gw.test", true),
            ("https://GW.test", "https://gw.test", true),
            (EXTERNAL, "http://localhost:8080", true),
            ("http://[::1]:80", "http://[::1]", true),
            (gateway, "https://gw.test:443", false),
            (gateway, "https://gw.test/", false),
            (gateway, "https://GW.test", false),
            (gateway, "https://gw.test.", false),
            (gateway, "https://gw.test.evil", false),
            (gateway, "https://sub.gw.test", false),
            (gateway, "https://gw.test:8443", false),
            (gateway, "http://gw.test", false),
            (gateway, "https://gw.test https://evil.test", false),
            (gateway, "", false),
            (gateway, "null", false),
            ("data:x", "null", false),
        ] {
            assert_eq!(same_origin(header, &Url::parse(external).unwrap()), same, "{external} {header}");
        }
    }

    /// A list of open redirects, one on each line: `open-redirects.txt` of oauth2-proxy.
    #[test]
    fn known_open_redirects_are_refused() {
        let Some(corpora) = std::env::var_os("LATCHGATE_CORPORA") else {
            // Written past the capture of the test harness, which would keep it from being seen.
            let _ = writeln!(
                std::io::stderr(),
                "skipped: LATCHGATE_CORPORA does not name the directory of open-redirects.txt"
            );
            return;
        };
        let list = std::fs::read(std::path::Path::new(&corpora).join("open-redirects.txt")).unwrap();
        let list = String::from_utf8_lossy(&list);
        let external = Url::parse(EXTERNAL).unwrap();
        assert!(list.lines().count() > 500);
        for line in list.lines() {
            if let Some(target) = ReturnTo::parse(line, &external, &[]) {
                assert_stays(&target, &external);
            }
            let unescaped = percent_decode_str(line).decode_utf8_lossy();
            assert_eq!(ReturnTo::parse(&unescaped, &external, &[]), None, "{line}");
            let unescaped_form = line.replace('+', " ");
            let unescaped_form = percent_decode_str(&unescaped_form).decode_utf8_lossy();
            assert_eq!(ReturnTo::parse(&unescaped_form, &external, &[]), None, "{line}");
        }
    }

    fn assert_stays(target: &ReturnTo, external: &Url) {
        let location = target.as_location();
        assert!(location.starts_with('/'), "{location}");
        assert!(location.bytes().all(|byte| byte.is_ascii_graphic()), "{location}");
        assert_eq!(external.join(location).unwrap().origin(), external.origin(), "{location}");
    }

    /// Inputs made of the pieces that open redirects are made of.
    fn hostile_input() -> impl Strategy<Value = String> {
        let pieces = prop::sample::select(vec![
            "/",
            "/",
            "\\",
            "//",
            "http:",
            "https:",
            "http://",
            "https://",
            "localhost:8080",
            "localhost",
            ":8080",
            "example.com",
            "@",
            "?",
            "#",
            ":",
            ".",
            "..",
            "%2e",
            "%2f",
            "%5c",
            "%09",
            "\t",
            "\n",
            " ",
            "\u{a0}",
            "a",
            "é",
            "/a",
            "；",
            "／",
            "。",
            "\u{ad}",
            "\u{200b}",
            "[",
            "]",
            "javascript:",
            "&",
            "=",
            "'",
            "\"",
            "<",
        ]);
        prop::collection::vec(pieces, 0..9).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4000))]

        #[test]
        fn any_input_stays_on_the_external_origin(
            input in prop_oneof![
                hostile_input(),
                hostile_input().prop_map(|rest| format!("/{rest}")),
                hostile_input().prop_map(|rest| format!("{EXTERNAL}{rest}")),
                any::<String>(),
                "/[ -~]{0,20}",
            ]
        ) {
            let external = Url::parse(EXTERNAL).unwrap();
            if let Some(target) = ReturnTo::parse(&input, &external, &[]) {
                assert_stays(&target, &external);
                prop_assert_eq!(ReturnTo::parse(target.as_location(), &external, &[]), Some(target));
            }
        }

        #[test]
        fn any_input_stays_on_an_allowed_origin(
            input in hostile_input().prop_map(|rest| format!("https://app.example.com{rest}")),
        ) {
            let external = Url::parse(EXTERNAL).unwrap();
            let allowed = ["https://app.example.com".to_owned()];
            if let Some(target) = ReturnTo::parse(&input, &external, &allowed) {
                let url = Url::parse(target.as_location()).unwrap();
                prop_assert_eq!(url.origin().ascii_serialization(), allowed[0].as_str());
            }
        }
    }
}
