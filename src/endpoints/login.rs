//! Starting a login: the record of it goes into a sealed cookie of its own, so that two tabs can
//! log in at once and nothing is kept here for browsers that never come back.

use super::code_flow::Flow;
use super::{Asked, Endpoints, LOGIN_LIFE, Look, provider_refusal};
use crate::body::Body;
use crate::provider::{AuthorizationRequest, Provider, code_challenge, random_token};
use crate::reply::{self, Outcome, Refusal};
use crate::session::cookie::Name;
use crate::session::seal::Purpose;
use askama::Template;
use http::{Response, StatusCode, header};
use serde::{Deserialize, Serialize};
use serde_json::json;
use std::sync::Arc;
use url::{Url, form_urlencoded};

/// What a login remembers until it comes back. Sealed; only the browser that began it has it.
#[derive(Serialize, Deserialize)]
pub(super) struct LoginRecord {
    pub state: String,
    pub nonce: String,
    pub verifier: String,
    pub provider: String,
    pub return_to: String,
    pub max_age: Option<u64>,
    pub remember: bool,
    #[serde(default)]
    pub flow: Flow,
    /// Seconds since 1970.
    pub began: u64,
}

impl LoginRecord {
    /// Of a login that begins now, and ends with the session cookie.
    pub(super) fn begin(endpoints: &Endpoints, asked: &Asked<'_>, provider: &Provider) -> LoginRecord {
        LoginRecord {
            state: random_token(),
            nonce: random_token(),
            verifier: random_token(),
            provider: provider.name().to_owned(),
            return_to: return_to(endpoints, asked),
            max_age: None,
            remember: remember(asked),
            flow: Flow::Cookie,
            began: asked.facts.now.unix,
        }
    }

    /// The record of the login with this `state`: begun in this browser, with this provider, not long ago.
    pub(super) fn begun_here(
        endpoints: &Endpoints,
        asked: &Asked<'_>,
        state: &str,
        provider: &Provider,
    ) -> Option<LoginRecord> {
        let label = LoginRecord::label(state)?;
        endpoints
            .cookies
            .values(asked.cookies, Name::Login(label))
            .filter_map(|value| LoginRecord::open(endpoints, label, value, asked.facts.now.unix))
            .find(|record| record.state == state && record.provider == provider.name())
    }

    /// The part of the state that tells the cookies of several logins apart.
    pub(super) fn label(state: &str) -> Option<&str> {
        state.get(..LABEL_LENGTH).filter(|label| is_fit_for_a_name(label))
    }

    /// The record in one of our cookies, unless it is forged, foreign or too old.
    pub(super) fn open(endpoints: &Endpoints, label: &str, value: &str, now: u64) -> Option<LoginRecord> {
        let plain = endpoints.sealer.open(Purpose::Login, label, value)?;
        let record: LoginRecord = serde_json::from_slice(&plain).ok()?;
        (now.saturating_sub(record.began) < LOGIN_LIFE.as_secs()).then_some(record)
    }
}

/// `GET {prefix}/login`: on to the provider, or a page to choose one.
pub(super) async fn choose_or_start(endpoints: &Endpoints, asked: &Asked<'_>) -> Response<Body> {
    match (asked.parameter("provider"), endpoints.providers.as_slice()) {
        (Some(name), _) => match endpoints.provider(&name) {
            Some(provider) => start(endpoints, asked, provider).await,
            None => asked.refuse(&Refusal::NotFound),
        },
        (None, []) => asked.refuse(&Refusal::NotFound),
        (None, [only]) => start(endpoints, asked, only).await,
        (None, several) => choose(endpoints, asked, several),
    }
}

/// Sends the browser to `provider`.
pub(super) async fn start(endpoints: &Endpoints, asked: &Asked<'_>, provider: &Arc<Provider>) -> Response<Body> {
    if provider.backend().is_some() {
        return reply::redirect(StatusCode::FOUND, &own_login_url(endpoints, asked, provider));
    }
    let extra = match passed_on(asked, endpoints.mock.is_some()) {
        Ok(extra) => extra,
        Err(refusal) => return asked.refuse(&refusal),
    };
    let flow = match flow(endpoints, asked) {
        Ok(flow) => flow,
        Err(refusal) => return asked.refuse(&refusal),
    };
    let asked_max_age = extra.iter().find(|(name, _)| name == "max_age").map(|(_, value)| value.as_str());
    let max_age =
        asked_max_age.or_else(|| provider.authorization_param("max_age")).and_then(|value| value.parse().ok());
    let record = LoginRecord { max_age, flow, ..LoginRecord::begin(endpoints, asked, provider) };
    let Some(redirect_uri) = redirect_uri(endpoints, provider) else {
        return asked.refuse(&Refusal::Internal);
    };
    let request = AuthorizationRequest {
        redirect_uri,
        state: record.state.clone(),
        nonce: record.nonce.clone(),
        code_challenge: code_challenge(&record.verifier),
        extra,
    };
    let asking = Arc::clone(provider);
    let url = endpoints.background.run(async move { asking.authorization_url(&request).await }).await;
    match url {
        Ok(Ok(url)) => leave_for(endpoints, asked, &url, &record),
        Ok(Err(error)) => {
            tracing::warn!(provider = provider.name(), reason = error.reason(), request = %asked.facts.id, "a login could not be started");
            asked.refuse(&provider_refusal(&error))
        }
        Err(_) => asked.refuse(&Refusal::Internal),
    }
}

/// Where the login is to lead.
pub(super) fn return_to(endpoints: &Endpoints, asked: &Asked<'_>) -> String {
    let settings = &endpoints.settings;
    let wanted = asked.parameter("return_to").filter(|_| settings.return_to_page);
    endpoints.return_to(wanted.as_deref(), &settings.after_login)
}

/// Whether the session is to outlive the browser.
pub(super) fn remember(asked: &Asked<'_>) -> bool {
    asked.parameter("remember").as_deref() != Some("0")
}

/// What the browser is to get at the end. Who was sent to `{prefix}/login` needs the cookie to come back to the page; front ends
/// that begin at `{prefix}/{provider}` get what `login.flow` says.
pub(super) fn flow(endpoints: &Endpoints, asked: &Asked<'_>) -> Result<Flow, Refusal> {
    let begins_here = asked.facts.path.path() != format!("{}/login", endpoints.settings.prefix);
    match asked.parameter("flow").as_deref() {
        None if begins_here => Ok(endpoints.settings.flow),
        None | Some("cookie") => Ok(Flow::Cookie),
        Some("code") if endpoints.sessions.keeps_for_code() => Ok(Flow::Code),
        Some("code") => Err(Refusal::Malformed("there is no flow=code where browsers carry their sessions")),
        Some(_) => Err(Refusal::Malformed("the parameter flow must be code or cookie")),
    }
}

/// `{external_url}{prefix}/{provider}`: each provider has its own, which keeps their answers apart
/// (RFC 9700 §4.4.2.2).
pub(super) fn redirect_uri(endpoints: &Endpoints, provider: &Provider) -> Option<Url> {
    endpoints.external_url.join(&format!("{}/{}", endpoints.settings.prefix, provider.name())).ok()
}

fn leave_for(endpoints: &Endpoints, asked: &Asked<'_>, url: &Url, record: &LoginRecord) -> Response<Body> {
    let mut response = reply::redirect(StatusCode::FOUND, url.as_str());
    response.extensions_mut().insert(Outcome("login_started"));
    match keep_record(endpoints, asked, record, &mut response) {
        Ok(()) => response,
        Err(refusal) => asked.refuse(&refusal),
    }
}

/// Gives the browser the record of its login, and takes those away that there are too many of.
pub(super) fn keep_record(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    record: &LoginRecord,
    response: &mut Response<Body>,
) -> Result<(), Refusal> {
    let plain = serde_json::to_vec(record).unwrap_or_default();
    let label = LoginRecord::label(&record.state).ok_or(Refusal::Internal)?;
    let sealed = endpoints.sealer.seal(Purpose::Login, label, &plain).map_err(|_| Refusal::Internal)?;
    let headers = response.headers_mut();
    headers.append(header::SET_COOKIE, endpoints.cookies.set(Name::Login(label), &sealed, Some(LOGIN_LIFE)));
    for label in surplus(endpoints, asked) {
        headers.append(header::SET_COOKIE, endpoints.cookies.expire(Name::Login(&label)));
    }
    Ok(())
}

/// Labels of logins to give up, so that with the new one there are [`MOST_LOGINS`]: the dead ones
/// first, then the oldest.
fn surplus(endpoints: &Endpoints, asked: &Asked<'_>) -> Vec<String> {
    let now = asked.facts.now.unix;
    let mut under_way: Vec<(u64, String)> = endpoints
        .cookies
        .logins(asked.cookies)
        .filter(|(label, _)| LoginRecord::label(label).is_some_and(|whole| whole == *label))
        .map(|(label, value)| {
            let record = LoginRecord::open(endpoints, label, value, now);
            (record.map_or(0, |record| record.began), label.to_owned())
        })
        .collect();
    under_way.sort_unstable();
    let dead = under_way.iter().take_while(|(began, _)| *began == 0).count();
    let count = dead.max((under_way.len() + 1).saturating_sub(MOST_LOGINS));
    under_way.into_iter().take(count).map(|(_, label)| label).collect()
}

/// Whether a label that a browser sent may stand in a `Set-Cookie` of ours.
pub(super) fn is_fit_for_a_name(label: &str) -> bool {
    label.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
}

/// Query parameters that pass to the provider, once each; nothing else of the caller's does.
fn passed_on(asked: &Asked<'_>, to_mock: bool) -> Result<Vec<(String, String)>, Refusal> {
    let mut extra: Vec<(String, String)> = Vec::new();
    for (name, value) in asked.parameters() {
        let passes = PASSED_ON.contains(&name.as_str()) || (to_mock && PASSED_TO_MOCK.contains(&name.as_str()));
        if passes && !extra.iter().any(|(earlier, _)| *earlier == name) {
            if name == "max_age" && (value.is_empty() || !value.bytes().all(|byte| byte.is_ascii_digit())) {
                return Err(Refusal::Malformed("the parameter max_age must be a number of seconds"));
            }
            extra.push((name, value));
        }
    }
    Ok(extra)
}

/// `{prefix}/{provider}` with what is to be kept of the query.
fn own_login_url(endpoints: &Endpoints, asked: &Asked<'_>, provider: &Provider) -> String {
    // A provider shows no page of ours that could say it.
    let dropped: &[&str] = if provider.backend().is_some() { &["provider"] } else { &["provider", "status"] };
    let kept = asked.parameters().into_iter().filter(|(name, _)| !dropped.contains(&name.as_str()));
    let mut query = form_urlencoded::Serializer::new(String::new());
    query.extend_pairs(kept);
    if endpoints.settings.flow == Flow::Code && asked.parameter("flow").is_none() {
        query.append_pair("flow", "cookie");
    }
    let query = query.finish();
    let mark = if query.is_empty() { "" } else { "?" };
    format!("{}/{}{mark}{query}", endpoints.settings.prefix, provider.name())
}

fn choose(endpoints: &Endpoints, asked: &Asked<'_>, providers: &[Arc<Provider>]) -> Response<Body> {
    let choices: Vec<Choice> = providers
        .iter()
        .map(|provider| Choice {
            initial: provider.title().chars().next().unwrap_or_default(),
            name: provider.name().to_owned(),
            title: provider.title().to_owned(),
            login_url: own_login_url(endpoints, asked, provider),
        })
        .collect();
    if asked.facts.client.navigates() {
        let introduction = match asked.parameter("status").as_deref() {
            Some("expired") => "Your session has expired. Choose how to sign in again.",
            _ => "Choose how to sign in.",
        };
        return reply::html(StatusCode::OK, &ChoosePage { look: &endpoints.settings.look, introduction, choices });
    }
    let list: Vec<_> =
        choices.iter().map(|it| json!({"name": it.name, "title": it.title, "loginUrl": it.login_url})).collect();
    reply::json(StatusCode::OK, &json!({ "providers": list }))
}

struct Choice {
    initial: char,
    name: String,
    title: String,
    login_url: String,
}

#[derive(Template)]
#[template(path = "choose.html")]
struct ChoosePage<'a> {
    look: &'a Look,
    introduction: &'static str,
    choices: Vec<Choice>,
}

const PASSED_ON: [&str; 8] =
    ["prompt", "login_hint", "ui_locales", "acr_values", "max_age", "screen_hint", "organization", "connection"];
const PASSED_TO_MOCK: [&str; 3] = ["user", "mock_error", "ttl"];
const LABEL_LENGTH: usize = 8;
const MOST_LOGINS: usize = 5;
