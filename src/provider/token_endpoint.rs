//! The token endpoint (RFC 6749 §3.2): who we are, what we send, and what an answer means.

use super::http::{self, HttpError};
use super::{ClientAuth, ProviderError, json};
use crate::clock::Now;
use ::http::header::HeaderValue;
use ::http::{Request, Response, StatusCode};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use std::time::Duration;
use url::Url;
use url::form_urlencoded::{Serializer, byte_serialize};

/// What the token endpoint gave (RFC 6749 §5.1).
#[derive(Debug, Clone)]
pub struct TokenResponse {
    /// Visible ASCII, so that it fits into a header.
    pub access_token: SecretString,
    /// Life of the access token. `None` when the provider did not say, or said zero, a negative number or no number: the token is
    /// then good until somebody refuses it. At most a year.
    pub expires_in: Option<Duration>,
    /// A new refresh token; on a refresh, `None` leaves the old one in force (RFC 6749 §6).
    pub refresh_token: Option<SecretString>,
    /// Verified, else it is not here.
    pub id_token: Option<SecretString>,
    /// The granted scope, when it was told.
    pub scope: Option<String>,
}

/// A client as the provider knows it.
pub(crate) struct Client {
    pub(crate) id: String,
    pub(crate) secret: Option<SecretString>,
    pub(crate) auth: ClientAuth,
}

impl Client {
    /// A form to the token or revocation endpoint. The client authenticates with exactly one method (RFC 6749 §2.3).
    pub(crate) fn request(&self, url: &Url, parameters: &[(&str, &str)]) -> Result<Request<Bytes>, HttpError> {
        let mut form = Serializer::new(String::new());
        form.extend_pairs(parameters);
        let authorization = match (self.auth, &self.secret) {
            (ClientAuth::ClientSecretBasic, Some(secret)) => Some(self.basic(secret)?),
            (ClientAuth::ClientSecretPost, Some(secret)) => {
                form.append_pair("client_id", &self.id).append_pair("client_secret", secret.expose_secret());
                None
            }
            (ClientAuth::None, _) | (_, None) => {
                form.append_pair("client_id", &self.id);
                None
            }
        };
        http::post(url, authorization, form.finish())
    }

    /// RFC 6749 §2.3.1: id and secret are form-encoded before they are joined, so that neither can contain the colon.
    pub(super) fn basic(&self, secret: &SecretString) -> Result<HeaderValue, HttpError> {
        let encoded = |text: &str| byte_serialize(text.as_bytes()).collect::<String>();
        let credentials = STANDARD.encode(format!("{}:{}", encoded(&self.id), encoded(secret.expose_secret())));
        let mut value = HeaderValue::try_from(format!("Basic {credentials}")).map_err(|_| HttpError::Unsendable)?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// What an answer of the token endpoint means. The first row that fits counts.
///
/// | status | body | outcome |
/// |---|---|---|
/// | 2xx | JSON with an access token of type Bearer | tokens |
/// | 2xx | JSON without, and an error of the second next row | as there: GitHub says no with 200 |
/// | 2xx | JSON without | refused |
/// | 2xx | no JSON: somebody else answered | unavailable |
/// | 429 | any | unavailable, `Retry-After` |
/// | 4xx | `invalid_client`, `unauthorized_client`, `incorrect_client_credentials`, `redirect_uri_mismatch` | misconfigured: it is not about this user |
/// | 4xx | `temporarily_unavailable`, `server_error` | unavailable, `Retry-After` |
/// | 4xx | any | refused |
/// | any other, redirects included | any | unavailable, `Retry-After` |
pub(super) fn read(answer: &Response<Bytes>, now: Now) -> Result<TokenResponse, ProviderError> {
    let unavailable = |reason| ProviderError::Unavailable { reason, retry_after: http::retry_after(answer, now) };
    let body = json::object(answer.body());
    let error = body.as_ref().and_then(|body| json::text(body, "error")).map(error_label);
    match (answer.status(), body) {
        (status, Some(body)) if status.is_success() => tokens(&body).ok_or(match error {
            Some(reason) if is_about_the_client(reason) => ProviderError::Misconfigured { reason },
            error => ProviderError::Refused { reason: error.unwrap_or("no_access_token") },
        }),
        (status, None) if status.is_success() => Err(unavailable("token_answer_not_json")),
        (StatusCode::TOO_MANY_REQUESTS, _) => Err(unavailable("too_many_requests")),
        (status, _) if status.is_client_error() => Err(match error {
            Some(reason) if is_about_the_client(reason) => ProviderError::Misconfigured { reason },
            Some(reason @ ("temporarily_unavailable" | "server_error")) => unavailable(reason),
            Some(reason) => ProviderError::Refused { reason },
            None => ProviderError::Refused { reason: "client_error_status" },
        }),
        (status, _) if status.is_redirection() => Err(unavailable("redirect")),
        _ => Err(unavailable("server_error_status")),
    }
}

/// The provider does not know us, or not so; the last two are GitHub's.
fn is_about_the_client(error: &str) -> bool {
    ["invalid_client", "unauthorized_client", "incorrect_client_credentials", "redirect_uri_mismatch"].contains(&error)
}

/// An OAuth error code as a label. What the provider says in its own words goes no further.
pub(super) fn error_label(code: &str) -> &'static str {
    ERROR_CODES.iter().find(|known| **known == code).copied().unwrap_or("other_error")
}

fn tokens(body: &Map<String, Value>) -> Option<TokenResponse> {
    let secret = |name: &str| {
        json::text(body, name).filter(|token| token.bytes().all(|byte| byte.is_ascii_graphic())).map(SecretString::from)
    };
    // RFC 6749 §7.1: a token of a type one does not understand is not to be used. The type's case means nothing (§5.1).
    if body.get("token_type").is_some_and(|kind| !kind.as_str().is_some_and(|kind| kind.eq_ignore_ascii_case("bearer")))
    {
        return None;
    }
    Some(TokenResponse {
        access_token: secret("access_token")?,
        expires_in: body.get("expires_in").and_then(lifetime),
        refresh_token: secret("refresh_token"),
        id_token: secret("id_token"),
        scope: json::text(body, "scope").map(str::to_owned),
    })
}

/// `expires_in`, between a second and a year. Some providers send the number as a string.
pub(super) fn lifetime(value: &Value) -> Option<Duration> {
    let seconds = value.as_f64().or_else(|| value.as_str()?.parse().ok())?;
    (seconds >= 1.0).then(|| Duration::from_secs_f64(seconds.min(LONGEST_LIFE.as_secs_f64())))
}

/// RFC 6749 §4.1.2.1 and §5.2, OIDC Core §3.1.2.6, RFC 7009 §2.2.1, and what GitHub says.
const ERROR_CODES: [&str; 22] = [
    "access_denied",
    "account_selection_required",
    "bad_refresh_token",
    "bad_verification_code",
    "consent_required",
    "incorrect_client_credentials",
    "interaction_required",
    "invalid_client",
    "invalid_grant",
    "invalid_request",
    "invalid_scope",
    "invalid_target",
    "login_required",
    "redirect_uri_mismatch",
    "server_error",
    "temporarily_unavailable",
    "unauthorized_client",
    "unsupported_grant_type",
    "unsupported_response_type",
    "unsupported_token_type",
    "unverified_user_email",
    "expired_token",
];
const LONGEST_LIFE: Duration = Duration::from_secs(365 * 24 * 3600);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;
    use serde_json::json;

    fn answer(status: u16, body: impl Into<Bytes>) -> Response<Bytes> {
        Response::builder().status(status).body(body.into()).unwrap()
    }

    fn outcome(status: u16, body: &str) -> String {
        match read(&answer(status, body.to_owned()), Clock::system().now()) {
            Ok(_) => "tokens".to_owned(),
            Err(ProviderError::Refused { reason }) => format!("refused {reason}"),
            Err(ProviderError::Unavailable { reason, .. }) => format!("unavailable {reason}"),
            Err(ProviderError::Misconfigured { reason }) => format!("misconfigured {reason}"),
            Err(ProviderError::Invalid { reason }) => format!("invalid {reason}"),
        }
    }

    #[test]
    fn cb_14_rf_12_rf_15_every_answer_has_its_meaning() {
        for (status, body, expected) in [
            (200, r#"{"access_token":"a","token_type":"Bearer"}"#, "tokens"),
            (201, r#"{"access_token":"a","token_type":"bEARER","x":{}}"#, "tokens"),
            (200, r#"{"access_token":"a"}"#, "tokens"),
            (200, r#"{"access_token":"a","token_type":"DPoP"}"#, "refused no_access_token"),
            (200, r#"{"access_token":"a","token_type":7}"#, "refused no_access_token"),
            (200, r#"{"access_token":""}"#, "refused no_access_token"),
            (200, r#"{"access_token":"a\r\nX-Admin: 1"}"#, "refused no_access_token"),
            (200, r#"{"access_token":["a"]}"#, "refused no_access_token"),
            (200, "{}", "refused no_access_token"),
            (200, r#"{"error":"bad_verification_code"}"#, "refused bad_verification_code"),
            (200, r#"{"error":"bad_refresh_token"}"#, "refused bad_refresh_token"),
            (200, r#"{"error":"incorrect_client_credentials"}"#, "misconfigured incorrect_client_credentials"),
            (200, r#"{"error":"redirect_uri_mismatch"}"#, "misconfigured redirect_uri_mismatch"),
            (200, "<html>", "unavailable token_answer_not_json"),
            (200, "", "unavailable token_answer_not_json"),
            (200, r#"{"access_token":"a","access_token":"b"}"#, "unavailable token_answer_not_json"),
            (204, "", "unavailable token_answer_not_json"),
            (302, r#"{"access_token":"a"}"#, "unavailable redirect"),
            (400, r#"{"error":"invalid_grant"}"#, "refused invalid_grant"),
            (401, r#"{"error":"invalid_grant"}"#, "refused invalid_grant"),
            (400, r#"{"error":"invalid_client"}"#, "misconfigured invalid_client"),
            (401, r#"{"error":"invalid_client"}"#, "misconfigured invalid_client"),
            (400, r#"{"error":"unauthorized_client"}"#, "misconfigured unauthorized_client"),
            (400, r#"{"error":"temporarily_unavailable"}"#, "unavailable temporarily_unavailable"),
            (400, r#"{"error":"<script>"}"#, "refused other_error"),
            (400, "<html>", "refused client_error_status"),
            (401, "", "refused client_error_status"),
            (403, "", "refused client_error_status"),
            (429, r#"{"error":"invalid_grant"}"#, "unavailable too_many_requests"),
            (500, r#"{"error":"invalid_grant"}"#, "unavailable server_error_status"),
            (503, "", "unavailable server_error_status"),
        ] {
            assert_eq!(outcome(status, body), expected, "{status} {body}");
        }
    }

    #[test]
    fn rf_13_retry_after_is_read_as_seconds_and_as_a_date() {
        let now = Now { unix: 784_111_777, ..Clock::system().now() };
        for (value, expected) in [
            ("7", Some(7)),
            ("Sun, 06 Nov 1994 08:49:47 GMT", Some(10)),
            ("Sun, 06 Nov 1994 08:49:00 GMT", Some(0)),
            ("-1", None),
            ("soon", None),
        ] {
            let mut answer = answer(503, "");
            answer.headers_mut().insert("retry-after", value.parse().unwrap());
            let expected = expected.map(Duration::from_secs);
            let error = read(&answer, now).err().unwrap();
            assert_eq!(
                error,
                ProviderError::Unavailable { reason: "server_error_status", retry_after: expected },
                "{value}"
            );
        }
    }

    #[test]
    fn dm_15_rf_26_lives_are_clamped() {
        for (value, seconds) in [
            (json!(300), Some(300)),
            (json!("300"), Some(300)),
            (json!(300.5), Some(300)),
            (json!(1), Some(1)),
            (json!(0), None),
            (json!(-1), None),
            (json!("soon"), None),
            (json!("NaN"), None),
            (json!(null), None),
            (json!([300]), None),
            (json!(1e12), Some(LONGEST_LIFE.as_secs())),
            (json!(1e300), Some(LONGEST_LIFE.as_secs())),
            (json!("inf"), Some(LONGEST_LIFE.as_secs())),
        ] {
            assert_eq!(lifetime(&value).map(|life| life.as_secs()), seconds, "{value}");
        }
    }

    #[test]
    fn tk_01_one_way_to_authenticate_and_nothing_ambiguous_in_it() {
        let url = Url::parse("https://op.example/token").unwrap();
        let request = |auth, secret: Option<&str>| {
            let client = Client { id: "a:b+c/ü".to_owned(), secret: secret.map(SecretString::from), auth };
            let request = client.request(&url, &[("code", "x&y")]).unwrap();
            let header = request.headers().get("authorization").map(|value| value.to_str().unwrap().to_owned());
            (header, String::from_utf8(request.body().to_vec()).unwrap())
        };
        let basic = format!("Basic {}", STANDARD.encode("a%3Ab%2Bc%2F%C3%BC:s+%25%3A"));
        assert_eq!(request(ClientAuth::ClientSecretBasic, Some("s %:")), (Some(basic), "code=x%26y".to_owned()));
        let id = "code=x%26y&client_id=a%3Ab%2Bc%2F%C3%BC";
        assert_eq!(request(ClientAuth::ClientSecretPost, Some("s %:")), (None, format!("{id}&client_secret=s+%25%3A")));
        assert_eq!(request(ClientAuth::None, Some("unused")), (None, id.to_owned()));
        assert_eq!(request(ClientAuth::ClientSecretBasic, None), (None, id.to_owned()));
    }

    #[test]
    fn cr_02_tokens_do_not_print() {
        let tokens =
            tokens(json!({ "access_token": "canary", "refresh_token": "canary" }).as_object().unwrap()).unwrap();
        assert!(!format!("{tokens:?}").contains("canary"));
    }
}
