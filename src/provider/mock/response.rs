//! How the mock provider answers.

use super::grants::Refusal;
use super::persona::{Failure, Stage};
use bytes::Bytes;
use http::header::{
    CACHE_CONTROL, CONTENT_TYPE, LOCATION, REFERRER_POLICY, RETRY_AFTER, WWW_AUTHENTICATE, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Value, json};
use url::Url;

/// RFC 6749 §5.2
#[derive(Debug)]
pub(super) struct TokenError {
    status: StatusCode,
    code: &'static str,
    description: &'static str,
}

impl TokenError {
    pub(super) fn invalid_request(description: &'static str) -> TokenError {
        TokenError { status: StatusCode::BAD_REQUEST, code: "invalid_request", description }
    }

    pub(super) fn invalid_client() -> TokenError {
        let description = "client_id is missing, or another than the one the token was issued to";
        TokenError { status: StatusCode::UNAUTHORIZED, code: "invalid_client", description }
    }

    pub(super) fn invalid_grant(description: &'static str) -> TokenError {
        TokenError { status: StatusCode::BAD_REQUEST, code: "invalid_grant", description }
    }

    pub(super) fn invalid_scope() -> TokenError {
        let description = "scope is more than was granted";
        TokenError { status: StatusCode::BAD_REQUEST, code: "invalid_scope", description }
    }

    pub(super) fn unsupported_grant_type() -> TokenError {
        let description = "grant_type is neither authorization_code nor refresh_token";
        TokenError { status: StatusCode::BAD_REQUEST, code: "unsupported_grant_type", description }
    }

    /// Fails if a failure was asked for at this stage.
    pub(super) fn rehearsed(failure: Option<Failure>, stage: Stage) -> Result<(), TokenError> {
        let Some(Failure { code, .. }) = failure.filter(|failure| failure.stage == stage) else {
            return Ok(());
        };
        let status = match code {
            "invalid_client" => StatusCode::UNAUTHORIZED,
            "server_error" => StatusCode::INTERNAL_SERVER_ERROR,
            "temporarily_unavailable" => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::BAD_REQUEST,
        };
        Err(TokenError { status, code, description: "the mock provider was asked for this error" })
    }

    pub(super) fn into_response(self) -> Response<Bytes> {
        let body = json!({ "error": self.code, "error_description": self.description });
        let mut response = json_response(self.status, &body);
        match self.status {
            StatusCode::UNAUTHORIZED => {
                response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(r#"Basic realm="mock""#));
            }
            StatusCode::SERVICE_UNAVAILABLE => {
                response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
            }
            _ => {}
        }
        response
    }
}

impl From<Refusal<TokenError>> for TokenError {
    fn from(refusal: Refusal<TokenError>) -> TokenError {
        match refusal {
            Refusal::Dead => TokenError::invalid_grant("it is unknown, expired, used or revoked"),
            Refusal::Unacceptable(error) => error,
        }
    }
}

impl From<jsonwebtoken::errors::Error> for TokenError {
    fn from(_: jsonwebtoken::errors::Error) -> TokenError {
        let description = "a token could not be signed";
        TokenError { status: StatusCode::INTERNAL_SERVER_ERROR, code: "server_error", description }
    }
}

pub(super) fn found(location: &Url) -> Response<Bytes> {
    let mut response = respond(StatusCode::FOUND, Bytes::new());
    response.headers_mut().insert(LOCATION, header_value(location.as_str()));
    response
}

pub(super) fn unauthorized(challenge: &'static str, body: &Value) -> Response<Bytes> {
    let mut response = json_response(StatusCode::UNAUTHORIZED, body);
    response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
    response
}

pub(super) fn json_response(status: StatusCode, body: &Value) -> Response<Bytes> {
    let mut response = respond(status, body.to_string().into());
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

pub(super) fn respond(status: StatusCode, body: Bytes) -> Response<Bytes> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The address of a page holds state and nonce.
    headers.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    response
}

pub(super) fn header_value(text: &str) -> HeaderValue {
    // Serialised URLs and lists of methods are ASCII without controls.
    HeaderValue::from_str(text).unwrap_or(HeaderValue::from_static(""))
}
