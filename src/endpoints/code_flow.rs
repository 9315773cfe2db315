//! The CODE flow (SPEC §6): a login that ends in a code, for front ends that hold a token instead of the cookie.
//!
//! | step | answer |
//! |---|---|
//! | the provider's answer, for a login with `flow=code` | 302 `{prefix}/callback?code=…`, or `?error=…` without a word of the provider's |
//! | `GET {prefix}/callback` | a page that takes the code out of the address, exchanges it, and goes on to `return_to` |
//! | `POST {prefix}/token` | the code's session: a token of ours in the body, a refresh token in a cookie |
//!
//! A code in the address of our page could have been put there by anybody, to sign somebody in as somebody else (RFC 9700 §4.7). So the
//! browser that was given a code has a cookie with its label, and the page exchanges no other. Scripts that exchange a code by
//! themselves know where it comes from.

use super::login::{self, LoginRecord};
use super::{Asked, Endpoints, Look, json_object, media_type, read_body};
use crate::attempts;
use crate::body::Body;
use crate::reply::{self, Outcome, Refusal};
use crate::session::Session;
use crate::session::code_flow::{CODE_LIFE, Code, CodeExchange};
use crate::session::cookie::Name;
use askama::Template;
use http::{HeaderMap, Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Duration;
use url::form_urlencoded;

/// What the browser gets at the end of a login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Flow {
    /// The session cookie.
    #[default]
    Cookie,
    /// A code for a token of ours.
    Code,
}

/// What the CODE flow goes by.
#[derive(Debug, Clone)]
pub struct Settings {
    /// `tokens.aliases`, default false: whether answers with a token have it under its other names too.
    pub aliases: bool,
    /// `refresh.rotation`, default true: whether a refresh token is replaced when it is used.
    pub rotation: bool,
    /// `refresh.grace`: for so long the one before the newest still works.
    pub grace: Duration,
}

/// The login is done: on to the page with its code. A cookie of a session before it goes.
pub(super) fn hand_over(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    record: &LoginRecord,
    code: &Code,
    status: StatusCode,
) -> Response<Body> {
    let mut response = to_page(endpoints, record, status, "code", &code.to_text());
    response.extensions_mut().insert(Outcome("code_issued"));
    let known = endpoints.cookies.set(Name::Code(&code.label()), "1", Some(CODE_LIFE));
    response.headers_mut().append(header::SET_COOKIE, known);
    if asked.session.is_some() {
        endpoints.expire_session_cookies(asked, &mut response);
    }
    response
}

/// The login came to nothing: on to the page, and what it is told is one of two words of ours.
pub(super) fn failed(endpoints: &Endpoints, record: &LoginRecord, refusal: &Refusal) -> Response<Body> {
    let error = if *refusal == Refusal::LoginRefused { ACCESS_DENIED } else { "authentication_failed" };
    let mut response = to_page(endpoints, record, StatusCode::FOUND, "error", error);
    response.extensions_mut().insert(Outcome(refusal.code()));
    response
}

fn to_page(endpoints: &Endpoints, record: &LoginRecord, status: StatusCode, name: &str, value: &str) -> Response<Body> {
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.append_pair(name, value);
    if record.return_to != endpoints.settings.after_login {
        query.append_pair("return_to", &record.return_to);
    }
    reply::redirect(status, &format!("{}/callback?{}", endpoints.settings.prefix, query.finish()))
}

/// `GET {prefix}/callback`
pub(super) fn page(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    let return_to = login::return_to(endpoints, asked);
    let login_url = format!("{}&flow=code", endpoints.login_url(&return_to));
    let refuse = |refusal: &Refusal| reply::refuse_with_login(asked.asker(), refusal, Some(&login_url));
    match (asked.parameter("error").as_deref(), asked.parameter("code")) {
        (Some(ACCESS_DENIED), _) => return refuse(&Refusal::LoginRefused),
        (Some(_), _) => return refuse(&Refusal::LoginInvalid(FAILED)),
        (None, None) => {
            return refuse(&Refusal::LoginInvalid("this address is where a sign-in ends, and needs its code"));
        }
        (None, Some(code)) => {
            let label = Code::parse(&code).map(|code| code.label());
            let is_known =
                label.is_some_and(|label| endpoints.cookies.values(asked.cookies, Name::Code(&label)).next().is_some());
            if !is_known {
                return refuse(&Refusal::LoginInvalid(OTHER_BROWSER));
            }
        }
    }
    let exchange_url = format!("{}/token", endpoints.settings.prefix);
    let look = &endpoints.settings.look;
    let page =
        CallbackPage { look, script: SCRIPT, exchange_url: &exchange_url, onward: &return_to, login_url: &login_url };
    reply::html_with_script(StatusCode::OK, &page, SCRIPT)
}

#[derive(Template)]
#[template(path = "callback.html")]
struct CallbackPage<'a> {
    look: &'a Look,
    script: &'static str,
    exchange_url: &'a str,
    onward: &'a str,
    login_url: &'a str,
}

/// `POST {prefix}/token`
pub(super) async fn exchange(endpoints: &Endpoints, asked: &Asked<'_>, body: Body) -> Response<Body> {
    if endpoints.is_foreign(&asked.headers) {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    let code = match read_code(&asked.headers, body).await {
        Ok(code) => code,
        Err(refusal) => return asked.refuse(&refusal),
    };
    let client = attempts::client(asked.facts.client_address);
    if let Some(client) = &client
        && let Err(wait) = endpoints.code_attempts.begin(client, asked.facts.now.mono)
    {
        return asked.refuse(&Refusal::TooManyAttempts { retry_after: wait.as_secs() + 1 });
    }
    let was_no_guess = || client.iter().for_each(|client| endpoints.code_attempts.withdraw(client));
    let Some(code) = Code::parse(&code) else { return asked.refuse(&Refusal::CodeInvalid) };
    match endpoints.sessions.exchange(&code, asked.facts.now).await {
        Ok(CodeExchange::Made(session)) => {
            was_no_guess();
            tracing::info!(target: "latchgate::audit", event = "code_exchanged", provider = %session.provider, session = %session.key, request = %asked.facts.id, "a code was exchanged");
            let mut response = token_answer(endpoints, asked, &session);
            let expired = endpoints.cookies.expire(Name::Code(&code.label()));
            response.headers_mut().append(header::SET_COOKIE, expired);
            response
        }
        Ok(CodeExchange::Repeated(session)) => {
            tracing::warn!(target: "latchgate::audit", event = "code_reused", provider = %session.provider, session = %session.key, request = %asked.facts.id, "a code was shown again");
            asked.refuse(&Refusal::CodeInvalid)
        }
        Ok(CodeExchange::Unknown) => asked.refuse(&Refusal::CodeInvalid),
        Err(error) => {
            was_no_guess();
            tracing::warn!(reason = error.reason, request = %asked.facts.id, "a code could not be exchanged");
            asked.refuse(&Refusal::StoreUnavailable)
        }
    }
}

/// `{"code": "…"}`, and nothing that a form of another site could post.
async fn read_code(headers: &HeaderMap, body: Body) -> Result<String, Refusal> {
    let body = read_body(body, MOST_EXCHANGE).await?;
    if body.is_empty() {
        return Err(MISSING);
    }
    if media_type(headers).as_deref() != Some("application/json") {
        return Err(Refusal::Malformed("the body must be JSON, and Content-Type must say so"));
    }
    match json_object(&body)?.get("code") {
        Some(Value::String(code)) if !code.is_empty() => Ok(code.clone()),
        _ => Err(MISSING),
    }
}

/// A token of ours for this session, and the refresh token if it is one of the CODE flow.
pub(super) fn token_answer(endpoints: &Endpoints, asked: &Asked<'_>, session: &Session) -> Response<Body> {
    let Some(own) = endpoints.own_tokens.issue(session, session.ends_at(), asked.facts.now) else {
        return asked.refuse(&Refusal::Internal);
    };
    let mut answer = json!({"token": own.token, "expiresIn": own.expires_in});
    if endpoints.code_flow.aliases {
        for name in ["accessToken", "access_token"] {
            answer[name] = own.token.clone().into();
        }
        answer["tokenType"] = "Bearer".into();
    }
    if session.code_flow.is_none() {
        endpoints.add_names_of_backends(&mut answer, session, own.expires_in);
    }
    let mut response = reply::json(StatusCode::OK, &answer);
    if let Some(refresh_token) = endpoints.sessions.refresh_token(session) {
        let line = endpoints.cookies.set(Name::Refresh, &refresh_token, Some(REFRESH_COOKIE_LIFE));
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    response
}

const SCRIPT: &str = include_str!("../pages/callback.js");
/// RFC 6749 §4.1.2.1
const ACCESS_DENIED: &str = "access_denied";
const FAILED: &str = "the sign-in could not be finished. Please try again";
const OTHER_BROWSER: &str = "this sign-in was not begun in this browser, or took too long. Please start again";
const MISSING: Refusal = Refusal::Malformed("Missing authorization code");
const MOST_EXCHANGE: usize = 4 * 1024;
/// The cookie's; the session's own timeouts say how long it is worth something.
const REFRESH_COOKIE_LIFE: Duration = Duration::from_secs(604_800);
