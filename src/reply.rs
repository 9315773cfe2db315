//! Everything we answer ourselves: one shape for scripts, one page for people (SPEC §8).
//!
//! The client gets a fixed sentence and the request's id; causes go to the log.

use crate::body::Body;
use crate::facts::RequestId;
use crate::policy::path::PathProblem;
use crate::policy::{Client, Reason};
use askama::Template;
use aws_lc_rs::digest::{SHA256, digest};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue, Method, Response, StatusCode, header};
use serde_json::{Value, json};
use std::borrow::Cow;

/// Why a request ends here. The first word of each group says whose fault it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Refusal {
    /// client: the path reads differently to different readers.
    Path(PathProblem),
    /// client: `%2F` on a route that does not allow it.
    EncodedSlash,
    /// client: no host, several, or one that contradicts the request line.
    Host,
    /// client: anything else about the request that has no single meaning.
    Malformed(&'static str),
    /// client: the request did not come in time, its head or its body.
    RequestTimeout,
    /// client: headers beyond `limits.header_bytes`.
    HeadersTooLarge,
    /// client: a body beyond the route's `max_body`.
    BodyTooLarge,
    /// client: LOGIN, for those who are not redirected.
    Login(Reason),
    /// client: the loop guard.
    LoginLoop,
    /// client: an unsafe request from a foreign page.
    CrossOrigin,
    /// client: an unsafe request whose header does not repeat the XSRF cookie.
    XsrfMismatch,
    /// client: signed in, but not one of those who may.
    NotAllowed,
    /// client: a bearer token that is worth nothing here (RFC 6750 §3.1).
    InvalidToken,
    /// client: an API key that nobody has, or not any more.
    InvalidApiKey,
    /// client: no credential, where a login is none.
    CredentialMissing,
    /// client: a bearer token without one of these scopes, space-separated (RFC 6750 §3.1).
    InsufficientScope(String),
    /// client: signed in, but this is not theirs to do; says why.
    Forbidden(&'static str),
    /// client: no route, no endpoint.
    NotFound,
    /// client: there is an endpoint, but not what it was asked for; says what.
    Missing(&'static str),
    /// client: the path is there, for other methods.
    MethodNotAllowed(Vec<Method>),
    /// client: a login that cannot be finished: unknown, used or of another browser.
    LoginInvalid(&'static str),
    /// client: the provider says that the user, or their settings, refused.
    LoginRefused,
    /// client: a user name or a password that the backend does not know, and nobody says which.
    CredentialsRefused,
    /// client: too many of those.
    TooManyAttempts {
        /// Seconds.
        retry_after: u64,
    },
    /// client: a forced refresh without a session that could be refreshed.
    RefreshInvalid,
    /// client: `tokens.update_claims` is off.
    ClaimsUpdateDisabled,
    /// client: nothing to read the claims again with.
    NoRefreshToken,
    /// client: a code that leads to no session, for whatever reason.
    CodeInvalid,
    /// client: there is no access token to hand out; the code says why.
    NoAccessToken(&'static str),
    /// provider: it answered, and wrongly.
    ProviderBroken,
    /// provider: it cannot be reached, or says that it is busy.
    ProviderUnavailable {
        /// Seconds.
        retry_after: u64,
    },
    /// upstream: its answer to a login has no tokens that could be found, and may have some.
    LoginAnswerUnusable,
    /// upstream: no connection, or it broke.
    UpstreamBroken,
    /// upstream: no answer in time.
    UpstreamTimeout,
    /// upstream: shed, because it has enough to do, or fails too often.
    UpstreamOverloaded {
        /// Seconds.
        retry_after: u64,
    },
    /// store: it cannot be asked who is signed in; nobody is signed out for that.
    StoreUnavailable,
    /// us: shed, full or shutting down.
    Overloaded,
    /// us: a defect.
    Internal,
}

impl Refusal {
    /// Status, machine-readable code, sentence.
    fn parts(&self) -> (StatusCode, &'static str, Cow<'static, str>) {
        use Refusal as R;
        match self {
            R::Path(problem) => (StatusCode::BAD_REQUEST, "invalid_path", problem.to_string().into()),
            R::EncodedSlash => {
                (StatusCode::BAD_REQUEST, "invalid_path", "the path contains an encoded slash (%2F)".into())
            }
            R::Host => (
                StatusCode::BAD_REQUEST,
                "invalid_host",
                "the request must name exactly one valid host, and the same one everywhere".into(),
            ),
            R::Malformed(what) => (StatusCode::BAD_REQUEST, "bad_request", (*what).into()),
            R::RequestTimeout => {
                (StatusCode::REQUEST_TIMEOUT, "request_timeout", "the request did not come in time".into())
            }
            R::HeadersTooLarge => (
                StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "headers_too_large",
                "the request's headers are too large".into(),
            ),
            R::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", "the request's body is too large".into())
            }
            R::Login(Reason::Unauthorized) => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "Please sign in to continue".into())
            }
            R::Login(Reason::Expired) => (
                StatusCode::UNAUTHORIZED,
                "session_expired",
                "Your session has expired. Please sign in again to continue".into(),
            ),
            R::LoginLoop => (
                StatusCode::UNAUTHORIZED,
                "login_loop",
                "You were sent to sign in twice within half a minute, and the page still does not accept it".into(),
            ),
            R::CrossOrigin => {
                (StatusCode::FORBIDDEN, "cross_origin", "this request must come from a page of this site".into())
            }
            R::XsrfMismatch => (
                StatusCode::FORBIDDEN,
                "xsrf_mismatch",
                "this request must repeat the value of the XSRF cookie in its header".into(),
            ),
            R::NotAllowed => {
                (StatusCode::FORBIDDEN, "not_allowed", "you are signed in, but you may not use this page".into())
            }
            R::InvalidToken => (
                StatusCode::UNAUTHORIZED,
                "invalid_token",
                "the access token is not valid here, or not any more".into(),
            ),
            R::InvalidApiKey => {
                (StatusCode::UNAUTHORIZED, "invalid_api_key", "the API key is not valid, or not any more".into())
            }
            R::CredentialMissing => {
                (StatusCode::UNAUTHORIZED, "unauthorized", "this address asks for a credential".into())
            }
            R::InsufficientScope(_) => {
                (StatusCode::FORBIDDEN, "insufficient_scope", "the access token's scope does not reach this far".into())
            }
            R::Forbidden(why) => (StatusCode::FORBIDDEN, "forbidden", (*why).into()),
            R::Missing(what) => (StatusCode::NOT_FOUND, "not_found", (*what).into()),
            R::NotFound => (StatusCode::NOT_FOUND, "not_found", "there is nothing at this address".into()),
            R::MethodNotAllowed(_) => {
                (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "this address does not take this method".into())
            }
            R::LoginInvalid(why) => (StatusCode::BAD_REQUEST, "login_invalid", (*why).into()),
            R::LoginRefused => (StatusCode::UNAUTHORIZED, "login_refused", "The sign-in was not completed".into()),
            R::CredentialsRefused => {
                (StatusCode::UNAUTHORIZED, "credentials_refused", "The user name or password is not right".into())
            }
            R::TooManyAttempts { .. } => (
                StatusCode::TOO_MANY_REQUESTS,
                "too_many_attempts",
                "There were too many attempts. Please try again later".into(),
            ),
            R::RefreshInvalid => {
                (StatusCode::UNAUTHORIZED, "refresh_invalid", "Invalid or expired refresh token".into())
            }
            R::ClaimsUpdateDisabled => {
                (StatusCode::FORBIDDEN, "claims_update_disabled", "Claims update feature is disabled".into())
            }
            R::NoRefreshToken => (StatusCode::UNAUTHORIZED, "no_refresh_token", "No refresh token found".into()),
            R::CodeInvalid => {
                (StatusCode::UNAUTHORIZED, "code_invalid", "Invalid or expired authorization code".into())
            }
            R::NoAccessToken(code) => {
                (StatusCode::UNAUTHORIZED, code, "There is no access token. Please sign in".into())
            }
            R::ProviderBroken => (
                StatusCode::BAD_GATEWAY,
                "provider_error",
                "the identity provider gave an answer that cannot be used".into(),
            ),
            R::ProviderUnavailable { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "provider_unavailable",
                "the identity provider cannot be reached at the moment".into(),
            ),
            R::LoginAnswerUnusable => (
                StatusCode::BAD_GATEWAY,
                "login_answer_unusable",
                "the service behind this address gave an answer to the sign-in that cannot be used".into(),
            ),
            R::UpstreamBroken => {
                (StatusCode::BAD_GATEWAY, "upstream_error", "the service behind this address cannot be reached".into())
            }
            R::UpstreamTimeout => (
                StatusCode::GATEWAY_TIMEOUT,
                "upstream_timeout",
                "the service behind this address did not answer in time".into(),
            ),
            R::UpstreamOverloaded { .. } => (
                StatusCode::SERVICE_UNAVAILABLE,
                "upstream_overloaded",
                "the service behind this address takes no more requests at the moment".into(),
            ),
            R::StoreUnavailable => (
                StatusCode::SERVICE_UNAVAILABLE,
                "store_unavailable",
                "it cannot be found out at the moment who is signed in".into(),
            ),
            R::Overloaded => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "there are too many requests at the moment".into())
            }
            R::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal_error", "something went wrong".into()),
        }
    }

    /// What the page is called; the status is beside it.
    fn heading(&self) -> &'static str {
        match self {
            Refusal::LoginLoop => "Signing in does not help",
            Refusal::LoginInvalid(_) => "This sign-in cannot be finished",
            Refusal::LoginRefused | Refusal::CredentialsRefused => "You are not signed in",
            Refusal::ProviderBroken | Refusal::ProviderUnavailable { .. } => "The sign-in service is not available",
            Refusal::NotFound => "Not found",
            _ => self.parts().0.canonical_reason().unwrap_or("Error"),
        }
    }

    /// The label in logs.
    #[must_use]
    pub fn code(&self) -> &'static str {
        self.parts().1
    }
}

/// Whom an answer is for.
#[derive(Debug, Clone, Copy)]
pub struct Asker<'a> {
    /// The request.
    pub id: &'a RequestId,
    /// The shape.
    pub client: Client,
}

/// How an answer of ours came about, for the access line. Travels as an extension of the response.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome(pub &'static str);

/// A refusal in the shape that suits: JSON for scripts, a page for people.
#[must_use]
pub fn refuse(asker: Asker<'_>, refusal: &Refusal) -> Response<Body> {
    refuse_with_login(asker, refusal, None)
}

/// The same, with the address where to sign in.
#[must_use]
pub fn refuse_with_login(asker: Asker<'_>, refusal: &Refusal, login_url: Option<&str>) -> Response<Body> {
    if asker.client.navigates() {
        return refusal_page(asker, refusal, login_url, None);
    }
    let (status, code, message) = refusal.parts();
    let mut body = json!({
        "statusCode": status.as_u16(),
        "message": sentence(&message),
        "error": status.canonical_reason().unwrap_or_default(),
        "code": code,
        "requestId": asker.id.to_string(),
    });
    if let Some(login_url) = login_url {
        body["loginUrl"] = login_url.into();
    }
    let mut response = json(status, &body);
    complete(&mut response, refusal);
    response
}

/// The same on a page of its own, which is given the sentence: what was asked for once more, for example.
#[must_use]
pub fn refuse_on_page<P: Template>(refusal: &Refusal, page: impl FnOnce(String) -> P) -> Response<Body> {
    let (status, _, message) = refusal.parts();
    let mut response = html(status, &page(sentence(&message)));
    complete(&mut response, refusal);
    response
}

/// The loop guard's page: why, and where to go from here.
#[must_use]
pub fn login_loop(asker: Asker<'_>, login_url: &str, logout_url: &str) -> Response<Body> {
    refusal_page(asker, &Refusal::LoginLoop, Some(login_url), Some(logout_url))
}

fn refusal_page(
    asker: Asker<'_>,
    refusal: &Refusal,
    login_url: Option<&str>,
    logout_url: Option<&str>,
) -> Response<Body> {
    let (status, _, message) = refusal.parts();
    let page = RefusalPage {
        status: status.as_u16(),
        title: refusal.heading(),
        message: &sentence(&message),
        request_id: &asker.id.to_string(),
        login_url,
        login_label: match refusal {
            Refusal::LoginLoop | Refusal::LoginInvalid(_) | Refusal::LoginRefused => "Try again",
            _ => "Sign in",
        },
        logout_url,
    };
    let mut response = html(status, &page);
    complete(&mut response, refusal);
    response
}

/// Begins with a capital: reasons are written as clauses, to stand after others in logs. A name as it stands on the wire, such as
/// `targetUserId`, keeps its case.
fn sentence(clause: &str) -> String {
    let first_word = clause.split(' ').next().unwrap_or_default();
    if first_word.chars().skip(1).any(char::is_uppercase) {
        return clause.to_owned();
    }
    let mut rest = clause.chars();
    rest.next().map_or_else(String::new, |first| first.to_uppercase().chain(rest).collect())
}

/// A page of ours.
#[must_use]
pub fn html(status: StatusCode, page: &impl Template) -> Response<Body> {
    // Rendering into a String fails only if a Display does, and ours do not.
    let text = page.render().unwrap_or_default();
    let mut response = ours(status, Body::from(text));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}

/// Lets the page post its form to where it came from, and be led on to the origin `elsewhere`, if it is not empty. The browser
/// may say where the form was: some say it with `Origin` alone.
pub fn allow_form(response: &mut Response<Body>, elsewhere: &str) {
    let policy = PAGE_POLICY.replace("form-action 'none'", format!("form-action 'self' {elsewhere}").trim_end());
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response.headers_mut().insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
}

/// A page of ours with one script, which may talk to this origin. `script` is what stands between its tags.
#[must_use]
pub fn html_with_script(status: StatusCode, page: &impl Template, script: &str) -> Response<Body> {
    let mut response = html(status, page);
    let hash = STANDARD.encode(digest(&SHA256, script.as_bytes()));
    let policy = format!("{PAGE_POLICY}; script-src 'sha256-{hash}'; connect-src 'self'");
    if let Ok(policy) = HeaderValue::try_from(policy) {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, policy);
    }
    response
}

/// A JSON answer of ours.
#[must_use]
pub fn json(status: StatusCode, body: &Value) -> Response<Body> {
    let mut response = ours(status, Body::from(body.to_string()));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

/// A script of ours (RFC 9239).
#[must_use]
pub fn script(text: &'static str) -> Response<Body> {
    let mut response = ours(StatusCode::OK, Body::from(text.to_owned()));
    let content_type = HeaderValue::from_static("text/javascript; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// A status that says it all.
#[must_use]
pub fn empty(status: StatusCode, outcome: Outcome) -> Response<Body> {
    let mut response = ours(status, Body::Empty);
    response.extensions_mut().insert(outcome);
    response
}

/// An empty page that pages of `origin`, and no others, may put into a frame.
#[must_use]
pub fn empty_frame(origin: &str) -> Response<Body> {
    let mut response = ours(StatusCode::OK, Body::from("<!doctype html><title></title>".to_owned()));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    let policy = HeaderValue::try_from(format!("default-src 'none'; frame-ancestors {origin}"));
    headers.insert(header::CONTENT_SECURITY_POLICY, policy.unwrap_or(HeaderValue::from_static(PAGE_POLICY)));
    response
}

/// An empty answer that leads elsewhere. `location` must be header-safe; if it is not, 500.
#[must_use]
pub fn redirect(status: StatusCode, location: &str) -> Response<Body> {
    let Ok(location) = HeaderValue::from_str(location) else {
        return ours(StatusCode::INTERNAL_SERVER_ERROR, Body::Empty);
    };
    let mut response = ours(status, Body::Empty);
    response.headers_mut().insert(header::LOCATION, location);
    response
}

/// [`redirect`] for whoever asked: 303 after a form, so that it is not posted again elsewhere.
#[must_use]
pub fn send_on(client: Client, location: &str) -> Response<Body> {
    redirect(if client == Client::Form { StatusCode::SEE_OTHER } else { StatusCode::FOUND }, location)
}

fn ours(status: StatusCode, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    for (name, value) in OURS_ALONE {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response.extensions_mut().insert(Outcome("answered"));
    response
}

/// What only some refusals carry.
fn complete(response: &mut Response<Body>, refusal: &Refusal) {
    response.extensions_mut().insert(Outcome(refusal.code()));
    let headers = response.headers_mut();
    match refusal {
        Refusal::Login(Reason::Unauthorized)
        | Refusal::LoginRefused
        | Refusal::LoginLoop
        | Refusal::CredentialsRefused
        | Refusal::NoRefreshToken
        | Refusal::CredentialMissing => {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        Refusal::InsufficientScope(scope) => {
            let challenge = format!("Bearer error=\"insufficient_scope\", scope=\"{scope}\"");
            let challenge = HeaderValue::try_from(challenge);
            let without = HeaderValue::from_static("Bearer error=\"insufficient_scope\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge.unwrap_or(without));
        }
        Refusal::Login(Reason::Expired)
        | Refusal::RefreshInvalid
        | Refusal::CodeInvalid
        | Refusal::NoAccessToken(_)
        | Refusal::InvalidToken
        | Refusal::InvalidApiKey => {
            let challenge = HeaderValue::from_static("Bearer error=\"invalid_token\"");
            headers.insert(header::WWW_AUTHENTICATE, challenge);
        }
        Refusal::MethodNotAllowed(methods) => {
            let names: Vec<&str> = methods.iter().map(Method::as_str).collect();
            if let Ok(allow) = HeaderValue::try_from(names.join(", ")) {
                headers.insert(header::ALLOW, allow);
            }
        }
        Refusal::ProviderUnavailable { retry_after }
        | Refusal::TooManyAttempts { retry_after }
        | Refusal::UpstreamOverloaded { retry_after } => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from((*retry_after).max(1)));
        }
        Refusal::Overloaded | Refusal::StoreUnavailable => {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(1));
        }
        Refusal::HeadersTooLarge | Refusal::BodyTooLarge | Refusal::RequestTimeout => {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        _ => {}
    }
}

#[derive(Template)]
#[template(path = "refusal.html")]
struct RefusalPage<'a> {
    status: u16,
    title: &'a str,
    message: &'a str,
    request_id: &'a str,
    login_url: Option<&'a str>,
    login_label: &'a str,
    logout_url: Option<&'a str>,
}

/// Nothing of ours is stored by anyone, framed, sniffed, or told to other sites.
const OURS_ALONE: [(HeaderName, &str); 3] = [
    (header::CACHE_CONTROL, "no-store"),
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::REFERRER_POLICY, "no-referrer"),
];

const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderMap;
    use http_body_util::BodyExt;

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn scripts_get_the_contract_s_json() {
        let id = RequestId::of(&HeaderMap::from_iter([(
            HeaderName::from_static("x-request-id"),
            HeaderValue::from_static("r1"),
        )]));
        let asker = Asker { id: &id, client: Client::Script };
        let response = refuse_with_login(asker, &Refusal::Login(Reason::Expired), Some("/auth/login"));
        assert_eq!(response.status(), 401);
        assert_eq!(response.headers()["www-authenticate"], "Bearer error=\"invalid_token\"");
        assert_eq!(response.headers()["cache-control"], "no-store");
        let body: Value = serde_json::from_str(&text(response).await).unwrap();
        assert_eq!(body["statusCode"], 401);
        assert_eq!(body["error"], "Unauthorized");
        assert_eq!(body["code"], "session_expired");
        assert_eq!(body["requestId"], "r1");
        assert_eq!(body["loginUrl"], "/auth/login");
    }

    #[tokio::test]
    async fn the_loop_guard_s_page_says_why_and_leads_on() {
        let id = RequestId::of(&HeaderMap::new());
        let response = login_loop(Asker { id: &id, client: Client::Page }, "/auth/login", "/auth/logout");
        assert_eq!(response.status(), 401);
        let page = text(response).await;
        for expected in
            ["Signing in does not help", "You were sent to sign in twice", "\"/auth/login\"", "\"/auth/logout\""]
        {
            assert!(page.contains(expected), "{expected}");
        }
    }

    #[tokio::test]
    async fn people_get_a_page_that_escapes_what_it_shows() {
        let id = RequestId::of(&HeaderMap::new());
        let asker = Asker { id: &id, client: Client::Page };
        let url = "/auth/login?return_to=/\"><script>";
        let response = refuse_with_login(asker, &Refusal::Login(Reason::Unauthorized), Some(url));
        assert!(response.headers()["content-type"].to_str().unwrap().starts_with("text/html"));
        assert!(response.headers().contains_key("content-security-policy"));
        assert!(!text(response).await.contains("<script>"));
    }
}
