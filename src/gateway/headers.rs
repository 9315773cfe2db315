//! Header hygiene (SPEC §9, RFC 9110 §7.6.1): what ends at this hop, and what a client may not claim.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Names that only the gateway may use, in every spelling a backend might read as the same: CGI and
/// its heirs fold case and turn every other character into `_`.
#[derive(Debug, Default)]
pub struct OwnedNames {
    folded: Vec<String>,
}

impl OwnedNames {
    /// From the names as configured.
    pub fn new<'a>(names: impl Iterator<Item = &'a HeaderName>) -> OwnedNames {
        let mut folded: Vec<String> = names.map(|name| fold(name.as_str()).collect()).collect();
        folded.sort_unstable();
        folded.dedup();
        OwnedNames { folded }
    }

    /// Whether `name` is one of them, in any spelling.
    pub fn contain(&self, name: &HeaderName) -> bool {
        self.folded.iter().any(|owned| is_spelling_of(name.as_str(), owned))
    }

    /// Takes every spelling of every name out.
    pub fn strip(&self, headers: &mut HeaderMap) {
        if self.folded.is_empty() {
            return;
        }
        remove_where(headers, |name| self.folded.iter().any(|owned| is_spelling_of(name, owned)));
    }
}

/// Whether a header ends at this hop.
pub fn is_hop_by_hop(name: &str) -> bool {
    matches!(
        name,
        "connection"
            | "expect"
            | "keep-alive"
            | "proxy-authenticate"
            | "proxy-authorization"
            | "proxy-connection"
            | "te"
            | "trailer"
            | "transfer-encoding"
            | "upgrade"
    )
}

/// Takes out of a request what is meant for this hop alone: first, so that a name listed in `Connection` cannot
/// take ours with it later. `te: trailers` stays, since trailers are passed on, and so does the one expectation there is (§10.1.1) where
/// there is a body to wait for: any other, or another way to write it, a backend might take for it. Nothing to do where no name
/// [`is_hop_by_hop`].
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let takes_trailers = lists(headers, &header::TE, "trailers");
    let expects_continue = expects_continue(headers) && announces_a_body(headers);
    strip_hop_by_hop_of_answer(headers);
    if takes_trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
    if expects_continue {
        headers.insert(header::EXPECT, HeaderValue::from_static("100-continue"));
    }
}

/// The same for an answer, in which `TE` and `Expect` mean nothing.
pub fn strip_hop_by_hop_of_answer(headers: &mut HeaderMap) {
    if headers.contains_key(header::CONNECTION) {
        let listed: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok())
            // A sender may not name what the message needs (RFC 9110 §7.6.1); naming it changes nothing.
            .filter(|name| !END_TO_END.contains(name))
            .collect();
        for name in listed {
            headers.remove(name);
        }
    }
    remove_where(headers, is_hop_by_hop);
}

/// Whether a name needs the closer look that [`strip_claims_of_proxies`] takes: it is one of theirs, or might be one in another spelling.
pub fn may_claim(name: &str) -> bool {
    name.starts_with("x-")
        || matches!(name, "forwarded" | "true-client-ip" | "cf-connecting-ip" | "fastly-client-ip")
        || name.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-')
}

/// Takes out what says where a request came from, or what it "really" is, when a client says it.
/// We write our own forwarded headers afterwards. Nothing to do where no name [`may_claim`] anything.
pub fn strip_claims_of_proxies(headers: &mut HeaderMap) {
    remove_where(headers, |name| may_claim(name) && is_claim_of_a_proxy(name));
}

/// Whether `name`, in any spelling, is one of those.
pub fn is_claim_of_a_proxy(name: &str) -> bool {
    PROXY_CLAIMS.iter().any(|claim| is_spelling_of(name, claim))
        || name.get(..FORWARDED_PREFIX.len()).is_some_and(|start| is_spelling_of(start, FORWARDED_PREFIX))
}

/// What an upstream says and only we may say.
pub fn strip_our_words(headers: &mut HeaderMap) {
    headers.remove(LOGIN);
    headers.remove(REASON);
}

/// Whether `name` is one of those.
pub fn is_our_word(name: &HeaderName) -> bool {
    *name == LOGIN || *name == REASON
}

fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|member| member.trim().eq_ignore_ascii_case(wanted))
}

fn announces_a_body(headers: &HeaderMap) -> bool {
    headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
}

fn expects_continue(headers: &HeaderMap) -> bool {
    let mut expectations = headers.get_all(header::EXPECT).iter();
    match (expectations.next(), expectations.next()) {
        (Some(only), None) => only.as_bytes().eq_ignore_ascii_case(b"100-continue"),
        _ => false,
    }
}

fn remove_where(headers: &mut HeaderMap, is_unwanted: impl Fn(&str) -> bool) {
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| is_unwanted(name.as_str())).cloned().collect();
    for name in unwanted {
        headers.remove(name);
    }
}

/// Whether a backend behind CGI would take `name` for `folded`, which is in lower case with hyphens.
pub fn is_spelling_of(name: &str, folded: &str) -> bool {
    name.len() == folded.len() && fold(name).eq(folded.chars())
}

/// As a backend behind CGI would read it: lower case, everything but letters and digits a hyphen.
fn fold(name: &str) -> impl Iterator<Item = char> + '_ {
    name.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' })
}

/// Where to sign in, for clients that are not redirected.
pub const LOGIN: HeaderName = HeaderName::from_static("latchgate-login");
/// The same for htmx, which leads the page there. An upstream may say it too; it is not exposed to pages of other origins, where the
/// address would mean another one.
pub const HX_REDIRECT: HeaderName = HeaderName::from_static("hx-redirect");
/// Why.
pub const REASON: HeaderName = HeaderName::from_static("latchgate-reason");

/// Fields whose removal would change what the request is.
const END_TO_END: [HeaderName; 6] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::COOKIE,
    header::AUTHORIZATION,
    header::CACHE_CONTROL,
];

const FORWARDED_PREFIX: &str = "x-forwarded-";
const PROXY_CLAIMS: [&str; 14] = [
    "forwarded",
    "x-real-ip",
    "true-client-ip",
    "cf-connecting-ip",
    "x-client-ip",
    "x-cluster-client-ip",
    "fastly-client-ip",
    "x-host",
    "x-original-host",
    "x-original-url",
    "x-rewrite-url",
    "x-http-method",
    "x-http-method-override",
    "x-method-override",
];

#[cfg(test)]
mod tests {
    use super::super::survey::RequestSurvey;
    use super::*;
    use proptest::prelude::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.parse::<HeaderName>().unwrap(), value.parse().unwrap())).collect()
    }

    fn names(headers: &HeaderMap) -> Vec<&str> {
        let mut names: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        names
    }

    #[test]
    fn every_spelling_of_an_owned_name_goes() {
        let owned = OwnedNames::new([HeaderName::from_static("x-user")].iter());
        let mut headers = map(&[("X-User", "1"), ("x_user", "2"), ("X.USER", "3"), ("x-users", "4"), ("xuser", "5")]);
        owned.strip(&mut headers);
        assert_eq!(names(&headers), ["x-users", "xuser"]);
    }

    #[test]
    fn what_connection_lists_goes_but_not_what_the_message_needs() {
        let mut headers = map(&[
            ("connection", "close, X-Secret ,host"),
            ("connection", "authorization"),
            ("x-secret", "1"),
            ("host", "a"),
            ("authorization", "b"),
            ("keep-alive", "1"),
            ("te", "trailers"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
        ]);
        strip_hop_by_hop(&mut headers);
        assert_eq!(names(&headers), ["authorization", "host", "te"]);
    }

    // H1-18
    #[test]
    fn an_expectation_passes_in_one_spelling_and_before_a_body_alone() {
        let length = ("content-length", "5");
        for (pairs, passes) in [
            (vec![("expect", "100-Continue"), length], true),
            (vec![("expect", "100-continue"), ("transfer-encoding", "chunked")], true),
            (vec![("expect", "100-continue")], false),
            (vec![("expect", "100-continue"), ("content-length", "0")], false),
            (vec![("expect", "100-continue, 100-continue"), length], false),
            (vec![("expect", "100-continue"), ("expect", "100-continue"), length], false),
            (vec![("expect", "y 100-continue"), length], false),
        ] {
            let mut headers: HeaderMap = HeaderMap::new();
            for (name, value) in &pairs {
                headers.append(name.parse::<HeaderName>().unwrap(), value.parse().unwrap());
            }
            strip_hop_by_hop(&mut headers);
            let expected = if passes { vec!["100-continue"] } else { vec![] };
            assert_eq!(headers.get_all("expect").iter().collect::<Vec<_>>(), expected, "{pairs:?}");
        }
    }

    #[test]
    fn that_a_client_takes_trailers_is_passed_on_however_it_says_so() {
        for (pairs, takes) in [
            (vec![("te", "trailers"), ("connection", "TE")], true),
            (vec![("te", "gzip, Trailers"), ("connection", "TE")], true),
            (vec![("te", "gzip")], false),
        ] {
            let mut headers = map(&pairs);
            strip_hop_by_hop(&mut headers);
            assert_eq!(headers.contains_key("te"), takes, "{pairs:?}");
        }
    }

    #[test]
    fn every_claim_gets_the_closer_look() {
        assert!(PROXY_CLAIMS.into_iter().chain([FORWARDED_PREFIX]).all(may_claim));
    }

    #[test]
    fn where_a_request_came_from_is_not_for_the_client_to_say() {
        let mut headers = map(&[
            ("X-Forwarded-For", "1"),
            ("x_forwarded_for", "1"),
            ("x.forwarded.host", "1"),
            ("X-Forwarded-Anything", "1"),
            ("Forwarded", "for=1"),
            ("X-Real-IP", "1"),
            ("X-Original-URL", "/admin"),
            ("CF-Connecting-IP", "1"),
            ("X-Http-Method-Override", "DELETE"),
            ("X-Custom", "kept"),
            ("accept", "kept"),
        ]);
        strip_claims_of_proxies(&mut headers);
        assert_eq!(names(&headers), ["accept", "x-custom"]);
    }

    fn any_names() -> impl Strategy<Value = Vec<String>> {
        let mut known: Vec<String> = PROXY_CLAIMS.iter().map(ToString::to_string).collect();
        known.extend(["host", "accept", "user-agent", "x-forwarded-for", "x-request-id", "hx-request"].map(Into::into));
        known.extend(
            ["connection", "te", "upgrade", "keep-alive", "transfer-encoding", "expect", "trailer"].map(Into::into),
        );
        let respelt = |name: String, odd: String| name.replace('-', &odd);
        let name = prop_oneof![
            proptest::sample::select(known.clone()),
            (proptest::sample::select(known), "[-_.~]").prop_map(move |(name, odd)| respelt(name, odd)),
            "[a-z0-9_.!-]{1,20}",
        ];
        proptest::collection::vec(name, 0..6)
    }

    proptest! {
        /// The survey skips nothing that the general way would have taken out.
        #[test]
        fn what_the_survey_says_is_not_there_is_not_there(names in any_names()) {
            let headers: HeaderMap = names
                .iter()
                .map(|name| (name.parse::<HeaderName>().unwrap(), HeaderValue::from_static("x")))
                .collect();
            let survey = RequestSurvey::of(&headers);
            for (is_there, strip) in [
                (survey.hop_by_hop, strip_hop_by_hop as fn(&mut HeaderMap)),
                (survey.claims_of_proxies, strip_claims_of_proxies),
            ] {
                let mut stripped = headers.clone();
                strip(&mut stripped);
                prop_assert!(is_there || stripped == headers);
            }
            let bytes: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
            prop_assert_eq!(survey.bytes, bytes);
        }
    }
}
