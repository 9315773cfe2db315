//! The provider's answer: checked against the login it belongs to, redeemed once, turned into a
//! session under an id that did not exist before.

use super::login::{LoginRecord, redirect_uri};
use super::{Asked, Endpoints, LOGIN_LIFE, RETRY_AFTER, provider_refusal};
use crate::body::Body;
use crate::clock::{Clock, Mono, Now};
use crate::provider::{CodeRedemption, Provider, ProviderError, SignedIn};
use crate::reply::{self, Outcome, Refusal};
use crate::session::carried::NotCarried;
use crate::session::cookie::Name;
use crate::session::store::{OnceName, StoreError};
use crate::session::{Identity, Opening, OpeningFailed, Session, Sessions};
use crate::tokens::token_set;
use http::{Response, StatusCode, header};
use secrecy::SecretString;
use std::sync::Arc;
use tokio::sync::oneshot;

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
    let label = LoginRecord::label(&answer.state).ok_or(Refusal::LoginInvalid(UNKNOWN_STATE))?;
    let now = asked.facts.now;
    let record = endpoints
        .cookies
        .values(asked.cookies, Name::Login(label))
        .filter_map(|value| LoginRecord::open(endpoints, label, value, now.unix))
        .find(|record| record.state == answer.state && record.provider == provider.name())
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
    let exchange = Exchange {
        provider: Arc::clone(provider),
        sessions: endpoints.sessions.clone(),
        clock: endpoints.clock.clone(),
        iss: answer.iss,
        outcome: answer.outcome,
        transient: !record.remember,
        redemption: |code| CodeRedemption {
            code,
            redirect_uri,
            code_verifier: record.verifier.clone().into(),
            nonce: record.nonce.clone(),
            max_age: record.max_age,
        },
    };
    let session = exchange.begin(endpoints).await?;
    if let Some(previous) = &asked.session
        && let Err(error) = endpoints.sessions.end(previous.key).await
    {
        // Its cookie goes all the same, and it will be over in time.
        tracing::warn!(reason = error.reason, session = %previous.key, "the session before this login could not be ended");
    }
    tracing::info!(target: "latchgate::audit", event = "login", provider = provider.name(), session = %session.key, request = %asked.facts.id, "signed in");
    let mut response = reply::redirect(StatusCode::FOUND, &record.return_to);
    response.extensions_mut().insert(Outcome("signed_in"));
    let cookies = endpoints.sessions.set_cookies(&session, &endpoints.cookies, asked.cookies, asked.facts.now);
    for line in cookies.map_err(not_carried)? {
        response.headers_mut().append(header::SET_COOKIE, line);
    }
    Ok(response)
}

/// Everything from the code to the session, in a task of its own: a code works once, so what was
/// begun is finished, or undone when nobody is there any more to take the cookie.
struct Exchange<F> {
    provider: Arc<Provider>,
    sessions: Sessions,
    clock: Clock,
    iss: Option<String>,
    outcome: Result<SecretString, String>,
    transient: bool,
    redemption: F,
}

impl<F: FnOnce(SecretString) -> CodeRedemption> Exchange<F> {
    async fn begin(self, endpoints: &Endpoints) -> Result<Arc<Session>, Refusal> {
        let Exchange { provider, sessions, clock, iss, outcome, transient, redemption } = self;
        let redemption = outcome.map(redemption);
        let (announce, result) = oneshot::channel();
        endpoints.background.run(async move {
            let began = clock.now().mono;
            let signed_in = async {
                provider.check_callback_issuer(iss.as_deref()).await.map_err(|error| match log(&provider, &error) {
                    // The answer came by way of the browser: who sent it is not known.
                    Refusal::ProviderBroken => Refusal::LoginInvalid(OTHER_ISSUER),
                    refusal => refusal,
                })?;
                let redemption = redemption.map_err(|error| refused_by_provider(&provider, &error))?;
                provider.redeem_code(&redemption).await.map_err(|error| log(&provider, &error))
            };
            let signed_in = match signed_in.await {
                Ok(signed_in) => signed_in,
                Err(refusal) => return drop(announce.send(Err(refusal))),
            };
            let refresh_token = signed_in.tokens.refresh_token.clone();
            let opened = open_session(&sessions, &provider, signed_in, transient, began, clock.now()).await;
            let is_open = opened.is_ok();
            let announced = announce.send(opened);
            if let Err(Ok(session)) = &announced {
                // A session whose id nobody has is over in time if it cannot be ended now.
                let _ = sessions.end(session.key).await;
            }
            if (!is_open || announced.is_err())
                && let Some(token) = refresh_token
            {
                // Best effort: the provider forgets it in time.
                let _ = provider.revoke(&token).await;
            }
        });
        result.await.unwrap_or(Err(Refusal::Internal))
    }
}

pub(super) async fn open_session(
    sessions: &Sessions,
    provider: &Provider,
    signed_in: SignedIn,
    transient: bool,
    began: Mono,
    now: Now,
) -> Result<Arc<Session>, Refusal> {
    let SignedIn { tokens, issuer, subject, sid, claims } = signed_in;
    let tokens = token_set(tokens, 1, now).ok_or(Refusal::ProviderBroken)?;
    let identity = Identity { issuer, subject, sid, claims };
    let opening = Opening { provider: provider.name().into(), identity, tokens, transient, began };
    sessions.open(opening, now).await.map_err(|failure| match failure {
        OpeningFailed::Full => {
            tracing::error!("session.max_sessions is reached: logins are turned away");
            Refusal::Overloaded
        }
        OpeningFailed::Revoked => Refusal::LoginInvalid("you were signed out while this sign-in was under way"),
        OpeningFailed::Over => Refusal::LoginInvalid("the identity provider says that this session is over"),
        OpeningFailed::TooLarge => not_carried(NotCarried::TooLarge),
        OpeningFailed::NoRandomness => Refusal::Internal,
        OpeningFailed::Store(error) => store_refusal(error),
    })
}

fn log(provider: &Provider, error: &ProviderError) -> Refusal {
    tracing::warn!(target: "latchgate::audit", event = "login_failed", provider = provider.name(), reason = error.reason(), "a login failed");
    provider_refusal(error)
}

pub(super) fn not_carried(problem: NotCarried) -> Refusal {
    match problem {
        NotCarried::TooLarge => {
            tracing::error!(target: "latchgate::audit", event = "login_failed", reason = "too_large_for_cookies", "a login brought more than cookies hold: raise limits.header_bytes, or choose another session.store");
            Refusal::LoginInvalid(TOO_LARGE)
        }
        NotCarried::NoRandomness => Refusal::Internal,
    }
}

fn store_refusal(error: StoreError) -> Refusal {
    tracing::warn!(target: "latchgate::audit", event = "login_failed", reason = error.reason, "a login failed at the session store");
    Refusal::StoreUnavailable
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
const TOO_LARGE: &str =
    "what the identity provider says about this account is more than cookies hold, and this site keeps sessions there";
const OTHER_ISSUER: &str = "this answer does not come from the identity provider that was asked";
const UNKNOWN_STATE: &str = "this sign-in was not begun in this browser, or took too long. Please start again";
