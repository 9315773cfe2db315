//! Decisions without I/O: which path, which route, who may pass, what a 401 means, where a login
//! may return to.

pub mod csrf;
pub mod path;
pub mod require;
pub mod return_to;
pub mod route;

use http::{HeaderMap, HeaderValue, Method, header};

/// `auth` of a route (SPEC §2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Auth {
    /// `true`, `"required"`, `"protected"`: no session, no upstream.
    Required,
    /// `"optional"`, `"auto"`: the token when there is one.
    Optional,
    /// `false`: never the token; a 401 leads to the login.
    Anonymous,
    /// `"public"`, `"skip"`: never the token; a 401 is relayed.
    Public,
    /// `"guest"`: as public, but who is signed in is sent on.
    Guest,
}

impl Auth {
    /// What a 401 of the upstream means unless the route says otherwise.
    #[must_use]
    pub fn default_on_401(self) -> On401 {
        match self {
            Auth::Required => On401::Refresh,
            Auth::Optional | Auth::Anonymous => On401::Login,
            Auth::Public | Auth::Guest => On401::Relay,
        }
    }

    /// Whether the answer depends on who is asking. Where it does not, the session store is not asked.
    #[must_use]
    pub fn depends_on_session(self) -> bool {
        !matches!(self, Auth::Anonymous | Auth::Public)
    }
}

/// `on_401` of a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum On401 {
    /// Renew the token, send again, then log in.
    Refresh,
    /// Log in.
    Login,
    /// Hand it through.
    Relay,
}

/// Who is on the other end, as far as the *shape* of a refusal is concerned. Never decides whether
/// there is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Client {
    /// A browser navigation by GET or HEAD: redirects and pages work.
    Page,
    /// A browser navigation by a form's POST: as a page, but redirects are 303.
    Form,
    /// Anything that reads statuses: scripts, apps, prefetches, upgrades, event streams.
    Script,
}

impl Client {
    /// NAV, as SPEC §1 defines it.
    #[must_use]
    pub fn of(method: &Method, headers: &HeaderMap) -> Client {
        let mut signs = Signs::default();
        headers.iter().for_each(|(name, value)| signs.note(name.as_str(), value));
        signs.client(method)
    }

    /// Whether a person looks at the answer.
    #[must_use]
    pub fn navigates(self) -> bool {
        self != Client::Script
    }
}

/// What headers say of a [`Client`], for whoever passes over all of them anyway.
#[derive(Debug, Clone, Copy, Default)]
pub struct Signs {
    has_metadata: bool,
    navigates: bool,
    wants_html: bool,
    is_form: bool,
    is_xhr: bool,
    is_no_navigation: bool,
}

impl Signs {
    /// Takes one header into account; their order does not matter.
    pub fn note(&mut self, name: &str, value: &HeaderValue) {
        match name {
            "accept" => {
                self.wants_html |= says(value, "text/html");
                self.is_no_navigation |= says(value, "text/event-stream");
            }
            "sec-fetch-mode" => (self.has_metadata, self.navigates) = (true, value == "navigate"),
            "sec-fetch-site" | "sec-fetch-dest" | "sec-fetch-user" => self.has_metadata = true,
            "content-type" => self.is_form |= FORM_TYPES.iter().any(|form| says(value, form)),
            "x-requested-with" => self.is_xhr |= says(value, "xmlhttprequest"),
            // What a browser does on its own or from script, whatever else it claims.
            "sec-purpose" | "next-action" | "next-router-prefetch" => self.is_no_navigation = true,
            "purpose" => self.is_no_navigation |= says(value, "prefetch"),
            "upgrade" => self.is_no_navigation |= says(value, "websocket"),
            "rsc" => self.is_no_navigation |= value == "1",
            "hx-request" => self.is_no_navigation |= value == "true",
            _ => {}
        }
    }

    /// What they come to.
    #[must_use]
    pub fn client(self, method: &Method) -> Client {
        let shape = match *method {
            Method::GET | Method::HEAD => Client::Page,
            Method::POST => Client::Form,
            _ => return Client::Script,
        };
        let navigates = if self.has_metadata {
            self.navigates
        } else {
            self.wants_html && !self.is_xhr && (shape == Client::Page || self.is_form)
        };
        if navigates && !self.is_no_navigation { shape } else { Client::Script }
    }
}

/// What the request brought to prove who is asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Standing {
    /// No session, and no sign that there was one.
    Absent,
    /// It names a session that has ended.
    Ended,
    /// The store cannot be asked: that is not "signed out".
    Unverifiable,
    /// A live session, or a credential of a client's own.
    Valid,
    /// A credential of a client's own that lets nobody in.
    Rejected,
}

/// Why someone is sent to the login; `status` in its URL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Reason {
    /// There was no session.
    Unauthorized,
    /// There was one.
    Expired,
}

impl Reason {
    /// As it stands in URLs and in `Latchgate-Reason`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Reason::Unauthorized => "unauthorized",
            Reason::Expired => "expired",
        }
    }
}

/// What [`admit`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// Goes on; the session's credential may be attached.
    WithSession,
    /// Goes on, without any credential of a session.
    WithoutSession,
    /// LOGIN; the upstream sees nothing.
    Login(Reason),
    /// A guest page, and someone who is signed in: on to `login.after_login`.
    SendOn,
    /// 503; nobody is signed out because a store is down.
    Unavailable,
    /// What was shown is refused, and says why.
    Refuse,
}

/// Whether a request may pass.
///
/// | `auth` | absent | ended | unverifiable | valid | rejected |
/// |---|---|---|---|---|---|
/// | `true` | LOGIN(unauthorized) | LOGIN(expired) | 503 | pass with session | refused |
/// | `"optional"` | pass | pass | 503 | pass with session | refused |
/// | `false`, `"public"` | pass | pass | pass | pass | pass |
/// | `"guest"` | pass | pass | pass | NAV: sent on; else pass | pass |
#[must_use]
pub fn admit(auth: Auth, standing: Standing, client: Client) -> Admission {
    match (auth, standing) {
        (Auth::Required, Standing::Absent) => Admission::Login(Reason::Unauthorized),
        (Auth::Required, Standing::Ended) => Admission::Login(Reason::Expired),
        (Auth::Required | Auth::Optional, Standing::Unverifiable) => Admission::Unavailable,
        (Auth::Required | Auth::Optional, Standing::Valid) => Admission::WithSession,
        (Auth::Required | Auth::Optional, Standing::Rejected) => Admission::Refuse,
        (Auth::Guest, Standing::Valid) if client.navigates() => Admission::SendOn,
        (Auth::Optional, Standing::Absent | Standing::Ended) | (Auth::Anonymous | Auth::Public | Auth::Guest, _) => {
            Admission::WithoutSession
        }
    }
}

/// How a token stands before it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Freshness {
    /// Valid, or of unknown life.
    Fresh,
    /// Valid, but inside `refresh.early`.
    Ageing,
    /// Known to be expired.
    Expired,
}

/// What [`prepare`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preparation {
    /// Send the token as it is.
    Send,
    /// Send it, and start a refresh behind the request.
    SendAndRenewBehind,
    /// REFRESH first.
    RenewFirst,
    /// Send the request without it.
    SendWithout,
}

/// What happens to a session's token before the request goes out (SPEC §5 "Before").
///
/// | `on_401` | fresh | ageing | ageing, and the exchange stays open | expired |
/// |---|---|---|---|---|
/// | refresh | send | send, renew behind | renew first | renew first |
/// | login, relay on a `true` route | send | send, renew behind | renew first | renew first |
/// | login, relay elsewhere | send | send | send | send without |
///
/// Upgrades, event streams and gRPC stay open: they cannot be sent again, so they start fresh.
#[must_use]
pub fn prepare(auth: Auth, on_401: On401, freshness: Freshness, stays_open: bool) -> Preparation {
    let renews = auth == Auth::Required || on_401 == On401::Refresh;
    match (freshness, renews, stays_open) {
        (Freshness::Fresh, _, _) | (Freshness::Ageing, false, _) => Preparation::Send,
        (Freshness::Ageing, true, false) => Preparation::SendAndRenewBehind,
        (Freshness::Ageing, true, true) | (Freshness::Expired, true, _) => Preparation::RenewFirst,
        (Freshness::Expired, false, _) => Preparation::SendWithout,
    }
}

/// Which token the refused request carried.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TokenUse {
    /// None.
    Nothing,
    /// The one the session still holds.
    Current,
    /// One that has a successor by now.
    Superseded,
    /// One of a session that has ended since.
    Orphaned,
    /// None of a session's: the gateway's own.
    Machine,
}

/// What there is to renew the current token with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Renewable {
    /// A refresh token.
    Yes,
    /// The access token is so young that another one would be refused as well (`refresh.cooldown`).
    NotYet,
    /// No refresh token.
    Never,
}

/// First time, or already the REPLAY.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Attempt {
    /// The request as it came.
    First,
    /// The one re-send.
    Replay,
}

/// What [`recover`] says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recovery {
    /// The upstream's answer stands.
    Relay,
    /// LOGIN, the session is kept.
    Login(Reason),
    /// CLEAR, then LOGIN(expired).
    ClearAndLogin,
    /// REFRESH, then REPLAY.
    RefreshAndReplay,
    /// REPLAY with the token the session holds by now; no token call.
    Replay,
}

/// What the upstream's "not signed in" leads to.
///
/// | `on_401` | attempt | token sent | renewable | |
/// |---|---|---|---|---|
/// | relay | | | | relay |
/// | login | | none | | LOGIN(unauthorized) |
/// | login | | any | | LOGIN(expired) |
/// | refresh | | none | | LOGIN(unauthorized) |
/// | refresh | replay | any | | LOGIN(expired) |
/// | refresh | first | orphaned | | LOGIN(expired) |
/// | refresh | first | superseded | | REPLAY |
/// | refresh | first | current | yes | REFRESH, REPLAY |
/// | refresh | first | current | not yet | LOGIN(expired) |
/// | refresh | first | current | never | CLEAR, LOGIN(expired) |
/// | refresh | first | the gateway's own | yes | REFRESH, REPLAY |
/// | any | any | the gateway's own | any other | relay: no login of a user's would help |
#[must_use]
pub fn recover(on_401: On401, attempt: Attempt, sent: TokenUse, renewable: Renewable) -> Recovery {
    match (on_401, sent, attempt, renewable) {
        (On401::Relay, _, _, _) => Recovery::Relay,
        (On401::Refresh, TokenUse::Machine, Attempt::First, Renewable::Yes) => Recovery::RefreshAndReplay,
        (_, TokenUse::Machine, _, _) => Recovery::Relay,
        (_, TokenUse::Nothing, _, _) => Recovery::Login(Reason::Unauthorized),
        (On401::Login, _, _, _) | (On401::Refresh, _, Attempt::Replay, _) => Recovery::Login(Reason::Expired),
        (On401::Refresh, TokenUse::Orphaned, Attempt::First, _) => Recovery::Login(Reason::Expired),
        (On401::Refresh, TokenUse::Superseded, Attempt::First, _) => Recovery::Replay,
        (On401::Refresh, TokenUse::Current, Attempt::First, Renewable::Yes) => Recovery::RefreshAndReplay,
        (On401::Refresh, TokenUse::Current, Attempt::First, Renewable::NotYet) => Recovery::Login(Reason::Expired),
        (On401::Refresh, TokenUse::Current, Attempt::First, Renewable::Never) => Recovery::ClearAndLogin,
    }
}

/// A CORS preflight (Fetch §3.2.2): it carries no credentials by design, so it never meets auth.
#[must_use]
pub fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS
        && headers.contains_key(header::ORIGIN)
        && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// Whether any member of a comma-separated value, parameters aside, is `wanted`.
fn says(value: &HeaderValue, wanted: &str) -> bool {
    value.len() >= wanted.len()
        && value.to_str().is_ok_and(|text| {
            text.split(',')
                .any(|member| member.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case(wanted))
        })
}

/// The content types an HTML form can send.
const FORM_TYPES: [&str; 3] = ["application/x-www-form-urlencoded", "multipart/form-data", "text/plain"];

#[cfg(test)]
mod tests {
    use super::*;

    const AUTHS: [Auth; 5] = [Auth::Required, Auth::Optional, Auth::Anonymous, Auth::Public, Auth::Guest];
    const ON_401: [On401; 3] = [On401::Refresh, On401::Login, On401::Relay];

    fn client(method: Method, headers: &[(&'static str, &'static str)]) -> Client {
        let map = headers
            .iter()
            .map(|&(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect();
        Client::of(&method, &map)
    }

    #[test]
    fn navigations() {
        let navigate = ("sec-fetch-mode", "navigate");
        let html = ("accept", "text/html,application/xhtml+xml;q=0.9,*/*;q=0.8");
        assert_eq!(client(Method::GET, &[navigate]), Client::Page);
        assert_eq!(client(Method::HEAD, &[navigate]), Client::Page);
        assert_eq!(client(Method::POST, &[navigate]), Client::Form);
        assert_eq!(client(Method::PUT, &[navigate]), Client::Script);
        assert_eq!(client(Method::GET, &[html]), Client::Page);
        assert_eq!(client(Method::POST, &[html]), Client::Script, "an API client that also accepts HTML");
        assert_eq!(client(Method::POST, &[html, ("content-type", "multipart/form-data; boundary=x")]), Client::Form);
        assert_eq!(client(Method::GET, &[]), Client::Script);
        assert_eq!(client(Method::GET, &[("accept", "*/*")]), Client::Script);
        assert_eq!(client(Method::GET, &[html, ("x-requested-with", "XMLHttpRequest")]), Client::Script);
        assert_eq!(client(Method::GET, &[html, ("sec-fetch-mode", "cors")]), Client::Script);
        assert_eq!(client(Method::GET, &[html, ("sec-fetch-site", "same-origin")]), Client::Script);
    }

    #[test]
    fn what_a_browser_does_on_its_own_is_never_a_navigation() {
        for sign in [
            ("sec-purpose", "prefetch;prerender"),
            ("purpose", "prefetch"),
            ("upgrade", "websocket"),
            ("accept", "text/event-stream"),
            ("rsc", "1"),
            ("hx-request", "true"),
            ("next-action", "abc"),
        ] {
            assert_eq!(client(Method::GET, &[("sec-fetch-mode", "navigate"), sign]), Client::Script, "{sign:?}");
        }
    }

    #[test]
    fn admission_for_every_input() {
        use Admission::{Login, Refuse, SendOn, Unavailable, WithSession, WithoutSession};
        let standings =
            [Standing::Absent, Standing::Ended, Standing::Unverifiable, Standing::Valid, Standing::Rejected];
        let table = [
            (Auth::Required, [Login(Reason::Unauthorized), Login(Reason::Expired), Unavailable, WithSession, Refuse]),
            (Auth::Optional, [WithoutSession, WithoutSession, Unavailable, WithSession, Refuse]),
            (Auth::Anonymous, [WithoutSession; 5]),
            (Auth::Public, [WithoutSession; 5]),
            (Auth::Guest, [WithoutSession, WithoutSession, WithoutSession, SendOn, WithoutSession]),
        ];
        for (auth, row) in table {
            for (standing, expected) in standings.into_iter().zip(row) {
                for client in [Client::Page, Client::Form, Client::Script] {
                    let expected =
                        if expected == SendOn && client == Client::Script { WithoutSession } else { expected };
                    assert_eq!(admit(auth, standing, client), expected, "{auth:?} {standing:?} {client:?}");
                }
            }
        }
    }

    #[test]
    fn preparation_for_every_input() {
        use Preparation::{RenewFirst, Send, SendAndRenewBehind, SendWithout};
        for auth in AUTHS {
            for on_401 in ON_401 {
                let renews = auth == Auth::Required || on_401 == On401::Refresh;
                for stays_open in [false, true] {
                    let row = match (renews, stays_open) {
                        (true, false) => [Send, SendAndRenewBehind, RenewFirst],
                        (true, true) => [Send, RenewFirst, RenewFirst],
                        (false, _) => [Send, Send, SendWithout],
                    };
                    let states = [Freshness::Fresh, Freshness::Ageing, Freshness::Expired];
                    for (freshness, expected) in states.into_iter().zip(row) {
                        assert_eq!(prepare(auth, on_401, freshness, stays_open), expected);
                    }
                }
            }
        }
    }

    #[test]
    fn recovery_for_every_input() {
        use Recovery::{ClearAndLogin, Login, RefreshAndReplay, Relay, Replay};
        const SENT: [TokenUse; 5] =
            [TokenUse::Nothing, TokenUse::Current, TokenUse::Superseded, TokenUse::Orphaned, TokenUse::Machine];
        let expired = Login(Reason::Expired);
        for sent in SENT {
            for attempt in [Attempt::First, Attempt::Replay] {
                for renewable in [Renewable::Yes, Renewable::NotYet, Renewable::Never] {
                    assert_eq!(recover(On401::Relay, attempt, sent, renewable), Relay);
                    let login = match sent {
                        TokenUse::Nothing => Login(Reason::Unauthorized),
                        TokenUse::Machine => Relay,
                        TokenUse::Current | TokenUse::Superseded | TokenUse::Orphaned => expired,
                    };
                    assert_eq!(recover(On401::Login, attempt, sent, renewable), login);
                    let refresh = match (sent, attempt, renewable) {
                        (TokenUse::Nothing, _, _) => Login(Reason::Unauthorized),
                        (TokenUse::Machine, Attempt::First, Renewable::Yes) => RefreshAndReplay,
                        (TokenUse::Machine, _, _) => Relay,
                        (_, Attempt::Replay, _) | (TokenUse::Orphaned, _, _) => expired,
                        (TokenUse::Superseded, _, _) => Replay,
                        (TokenUse::Current, _, Renewable::Yes) => RefreshAndReplay,
                        (TokenUse::Current, _, Renewable::NotYet) => expired,
                        (TokenUse::Current, _, Renewable::Never) => ClearAndLogin,
                    };
                    assert_eq!(recover(On401::Refresh, attempt, sent, renewable), refresh);
                }
            }
        }
    }

    #[test]
    fn defaults_of_the_three_answers() {
        assert_eq!(
            AUTHS.map(Auth::default_on_401),
            [On401::Refresh, On401::Login, On401::Login, On401::Relay, On401::Relay]
        );
    }
}
