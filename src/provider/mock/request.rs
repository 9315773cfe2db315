//! Reading what the mock provider is asked.

use super::response::TokenError;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::{Method, Request};
use std::borrow::Cow;
use std::collections::HashSet;
use url::form_urlencoded;

/// The parameters of a query or a form. One that is repeated is an error, and one without a value
/// was not sent (RFC 6749 §3.1).
pub(super) struct Parameters<'a>(Vec<(Cow<'a, str>, Cow<'a, str>)>);

impl<'a> Parameters<'a> {
    fn parse(text: &'a [u8]) -> Result<Parameters<'a>, &'static str> {
        if text.len() > PARAMETERS_MAX {
            return Err("The request is too long.");
        }
        let pairs: Vec<_> = form_urlencoded::parse(text).collect();
        let mut names = HashSet::new();
        if pairs.iter().all(|(name, _)| names.insert(name)) {
            Ok(Parameters(pairs))
        } else {
            Err("The request has a parameter twice.")
        }
    }

    /// Of the query of a GET or the form of a POST: the endpoints a browser is sent to take both.
    pub(super) fn of_browser(request: &'a Request<Bytes>) -> Result<Parameters<'a>, &'static str> {
        if request.method() == Method::POST {
            Parameters::parse(request.body())
        } else {
            Parameters::parse(request.uri().query().unwrap_or_default().as_bytes())
        }
    }

    pub(super) fn of_form(request: &'a Request<Bytes>) -> Result<Parameters<'a>, TokenError> {
        let content_type =
            request.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        if !media_type.eq_ignore_ascii_case("application/x-www-form-urlencoded") {
            return Err(TokenError::invalid_request("the body is not application/x-www-form-urlencoded"));
        }
        Parameters::parse(request.body()).map_err(TokenError::invalid_request)
    }

    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.given(name).filter(|value| !value.is_empty())
    }

    /// Also when it is empty: the mock provider's own client may have an empty `client_id`.
    pub(super) fn given(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(one, _)| one == name).map(|(_, value)| &**value)
    }

    /// The same request with one parameter changed; an empty value takes it out.
    pub(super) fn link(&self, name: &str, value: &str) -> String {
        let mut query = form_urlencoded::Serializer::for_suffix("?".to_owned(), 1);
        for (one, old) in self.0.iter().filter(|(one, _)| one != name) {
            query.append_pair(one, old);
        }
        if !value.is_empty() {
            query.append_pair(name, value);
        }
        query.finish()
    }
}

/// The client that calls, by HTTP Basic or by the form (RFC 6749 §2.3.1); its secret is not looked at.
pub(super) fn client_id(request: &Request<Bytes>, parameters: &Parameters<'_>) -> Result<String, TokenError> {
    let Some(authorization) = request.headers().get(AUTHORIZATION) else {
        return parameters.given("client_id").map(str::to_owned).ok_or(TokenError::invalid_client());
    };
    let id = || {
        let (scheme, credentials) = authorization.to_str().ok()?.split_once(' ')?;
        let credentials = STANDARD.decode(scheme.eq_ignore_ascii_case("basic").then_some(credentials.trim())?).ok()?;
        let id = credentials.split(|byte| *byte == b':').next()?;
        // The id is form-encoded: parsed as the name of a field without value.
        Some(form_urlencoded::parse(id).next().map_or_else(String::new, |(id, _)| id.into_owned()))
    };
    id().ok_or(TokenError::invalid_client())
}

pub(super) fn bearer(request: &Request<Bytes>) -> Option<&str> {
    let (scheme, token) = request.headers().get(AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then_some(token.trim())
}

/// Bytes of a query or a form: what is remembered of a request is part of this.
pub(super) const PARAMETERS_MAX: usize = 8 * 1024;
