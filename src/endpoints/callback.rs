//! The provider's answer: checked against the login it belongs to, redeemed once, turned into a
//! session under an id that did not exist before.

use super::code_flow::{self, Flow};
use super::login::{LoginRecord, redirect_uri};
use super::opening::{self, login_failed, store_refusal};
use super::{Asked, Endpoints, LOGIN_LIFE, RETRY_AFTER};
use crate::body::Body;
use crate::provider::{CodeRedemption, Provider};
use crate::reply::{self, Refusal};
use crate::session::cookie::Name;
use crate::session::store::OnceName;
use http::{Response, StatusCode, header};
use secrecy::SecretString;
use std::sync::Arc;

/// Whether this is a provider's answer, and not the start of a login.
pub(super) fn is_one(asked: &Asked<'_>) -> bool {
    asked.parameters().iter().any(|(name, _)| ANSWERS.contains(&name.as_str()))
}

/// `GET {prefix}/{provider}?code=…` or `?error=…` (RFC 6749 §4.1.2).
pub(super) async fn finish(endpoints: &Endpoints, asked: &Asked<'_>, provider: &Arc<Provider>) -> Response<Body> {
    let answer = match Answer::read(asked) {
        Ok(answer) => answer,
        Err(refusal) => return again(endpoints, asked, &refusal, None),
    };
    let record = match claim(endpoints, asked, &answer, provider).await {
        Ok(record) => record,
        Err(refusal) => return again(endpoints, asked, &refusal, None),
    };
    let mut response = match sign_in(endpoints, asked, provider, answer, &record).await {
        Ok(response) => response,
        Err(refusal) if record.flow == Flow::Code => code_flow::failed(endpoints, &record, &refusal),
        Err(refusal) => again(endpoints, asked, &refusal, Some(&record.return_to)),
    };
    if let Some(label) = LoginRecord::label(&record.state) {
        response.headers_mut().append(header::SET_COOKIE, endpoints.cookies.expire(Name::Login(label)));
    }
    response
}

/// The parameters we know, each at most once (RFC 6749 §3.1); others are ignored.
struct Answer {
    state: String,
    iss: Option<String>,
    outcome: Result<SecretString, String>,
}

impl Answer {
    fn read(asked: &Asked<'_>) -> Result<Answer, Refusal> {
        let mut found: [Option<String>; 4] = Default::default();
        for (name, value) in asked.parameters() {
            if let Some(at) = ANSWERS.iter().position(|known| *known == name)
                && found[at].replace(value).is_some()
            {
                return Err(Refusal::LoginInvalid("a parameter of the sign-in was given twice"));
            }
        }
        let [code, error, state, iss] = found;
        let state = state.filter(|state| !state.is_empty()).ok_or(Refusal::LoginInvalid(NO_STATE))?;
        let outcome = match (code, error) {
            (_, Some(error)) => Err(error),
            (Some(code), None) if !code.is_empty() => Ok(SecretString::from(code)),
            _ => return Err(Refusal::LoginInvalid("the identity provider's answer has no code")),
        };
        Ok(Answer { state, iss, outcome })
    }
}

/// The login that this answer belongs to: begun in this browser, with this provider, not long ago,
/// and not finished before (RFC 9700 §4.7, §4.2.4).
async fn claim(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    answer: &Answer,
    provider: &Provider,
) -> Result<LoginRecord, Refusal> {
    let record = LoginRecord::begun_here(endpoints, asked, &answer.state, provider)
        .ok_or(Refusal::LoginInvalid(UNKNOWN_STATE))?;
    match endpoints.sessions.take_once(OnceName::new("login state", &record.state), LOGIN_LIFE).await {
        Ok(true) => Ok(record),
        Ok(false) => Err(Refusal::LoginInvalid("this sign-in was finished before")),
        Err(error) => Err(store_refusal(error)),
    }
}

async fn sign_in(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    provider: &Arc<Provider>,
    answer: Answer,
    record: &LoginRecord,
) -> Result<Response<Body>, Refusal> {
    let redirect_uri = redirect_uri(endpoints, provider).ok_or(Refusal::Internal)?;
    let (asking, iss, outcome) = (Arc::clone(provider), answer.iss, answer.outcome);
    let redemption = outcome.map(|code| CodeRedemption {
        code,
        redirect_uri,
        code_verifier: record.verifier.clone().into(),
        nonce: record.nonce.clone(),
        max_age: record.max_age,
    });
    let signing_in = async move {
        asking.check_callback_issuer(iss.as_deref()).await.map_err(|error| match login_failed(&asking, &error) {
            // The answer came by way of the browser: who sent it is not known.
            Refusal::ProviderBroken => Refusal::LoginInvalid(OTHER_ISSUER),
            refusal => refusal,
        })?;
        let redemption = redemption.map_err(|error| refused_by_provider(&asking, &error))?;
        asking.redeem_code(&redemption).await.map_err(|error| login_failed(&asking, &error))
    };
    let opened = opening::open(endpoints, provider, !record.remember, record.flow, signing_in).await?;
    opening::lead_on(endpoints, asked, record, &opened, StatusCode::FOUND).await
}

/// RFC 6749 §4.1.2.1. The provider's own words go nowhere: they are the sender's to choose.
fn refused_by_provider(provider: &Provider, error: &str) -> Refusal {
    let (label, refusal) = match error {
        "server_error" => ("server_error", Refusal::ProviderBroken),
        "temporarily_unavailable" => {
            ("temporarily_unavailable", Refusal::ProviderUnavailable { retry_after: RETRY_AFTER.as_secs() })
        }
        "access_denied" => ("access_denied", Refusal::LoginRefused),
        "login_required" => ("login_required", Refusal::LoginRefused),
        _ => ("other", Refusal::LoginRefused),
    };
    tracing::info!(target: "latchgate::audit", event = "login_refused", provider = provider.name(), error = label, "the provider ended a login");
    refusal
}

/// A page that says what went wrong and offers to start again.
fn again(endpoints: &Endpoints, asked: &Asked<'_>, refusal: &Refusal, return_to: Option<&str>) -> Response<Body> {
    let login_url = endpoints.login_url(return_to.unwrap_or(&endpoints.settings.after_login));
    reply::refuse_with_login(asked.asker(), refusal, Some(&login_url))
}

const ANSWERS: [&str; 4] = ["code", "error", "state", "iss"];
const NO_STATE: &str = "the identity provider's answer has no state";
const OTHER_ISSUER: &str = "this answer does not come from the identity provider that was asked";
const UNKNOWN_STATE: &str = "this sign-in was not begun in this browser, or took too long. Please start again";
