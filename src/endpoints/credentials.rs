//! `{prefix}/{provider}` of a backend: a form to sign in with, and the credentials that are posted there, by the form or as JSON.
//!
//! | who posts | must be | wrong credentials | right ones |
//! |---|---|---|---|
//! | the form | of this site, and shown to this browser | the form again, 401 | 303 to `return_to` |
//! | a script, as JSON | of this site, or no browser at all | 401 | 200 `{"user", "returnTo"}` |
//!
//! The form's `state` is that of a login record in a cookie, so that nobody can be signed in as somebody else by a form of another
//! site. Every cause of a refusal has the same text.

use super::code_flow::Flow;
use super::login::{LoginRecord, flow, keep_record, remember, return_to};
use super::opening::{self, Opened, login_failed};
use super::{Asked, Endpoints, Look, json_object, media_type, read_body};
use crate::attempts::{self, Attempts};
use crate::body::Body;
use crate::clock::Mono;
use crate::provider::backend::{Credentials, Fields};
use crate::provider::{Provider, ProviderError};
use crate::reply::{self, Refusal};
use crate::session::cookie::Name;
use askama::Template;
use http::{Method, Response, StatusCode, header};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;
use url::{Url, form_urlencoded};

/// `GET` and `POST {prefix}/{provider}`.
pub(super) async fn credentials(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    provider: &Arc<Provider>,
    body: Body,
) -> Response<Body> {
    if asked.facts.method != Method::POST {
        let form = Form::new(endpoints, asked, provider).and_then(|form| form.show(endpoints, asked, None));
        return form.unwrap_or_else(|refusal| asked.refuse(&refusal));
    }
    if endpoints.is_foreign(&asked.headers) {
        return asked.refuse(&Refusal::CrossOrigin);
    }
    let answered = match media_type(&asked.headers).as_deref() {
        Some("application/json") => take_json(endpoints, asked, provider, body).await,
        Some("application/x-www-form-urlencoded") => take_form(endpoints, asked, provider, body).await,
        _ => Err(Refusal::Malformed("credentials come as application/json or as a form")),
    };
    answered.unwrap_or_else(|refusal| asked.refuse(&refusal))
}

/// How often credentials may be wrong (`limits.login_attempts` within five minutes): for an account, and six times as often for
/// whoever tries.
pub struct LoginAttempts {
    by_account: Attempts,
    by_client: Attempts,
}

impl LoginAttempts {
    /// `most` for an account.
    #[must_use]
    pub fn new(most: u32) -> LoginAttempts {
        LoginAttempts {
            by_account: Attempts::new(most, WINDOW),
            by_client: Attempts::new(most.saturating_mul(ACCOUNTS_PER_CLIENT), WINDOW),
        }
    }

    /// One more attempt, which counts as a failure until it turns out to be none.
    ///
    /// # Errors
    /// How long to wait, when there were too many.
    pub fn begin(
        self: &Arc<LoginAttempts>,
        provider: &Provider,
        username: &str,
        client: Option<IpAddr>,
        now: Mono,
    ) -> Result<Attempt, Duration> {
        let account = format!("{} {}", provider.name(), username.trim().to_lowercase());
        let client = attempts::client(client).map(|client| format!("{} {client}", provider.name()));
        if let Some(client) = &client {
            self.by_client.begin(client, now)?;
        }
        let attempt = Attempt { attempts: Arc::clone(self), account, client };
        match attempt.attempts.by_account.begin(&attempt.account, now) {
            Ok(()) => Ok(attempt),
            Err(wait) => {
                attempt.withdraw_for_client();
                Err(wait)
            }
        }
    }
}

/// An attempt under way.
pub struct Attempt {
    attempts: Arc<LoginAttempts>,
    account: String,
    client: Option<String>,
}

impl Attempt {
    /// The credentials were right: those before them are forgiven to the account.
    pub fn succeeded(self) {
        self.attempts.by_account.forget(&self.account);
        self.withdraw_for_client();
    }

    /// Nobody could say.
    pub fn came_to_nothing(self) {
        self.attempts.by_account.withdraw(&self.account);
        self.withdraw_for_client();
    }

    fn withdraw_for_client(&self) {
        self.client.iter().for_each(|client| self.attempts.by_client.withdraw(client));
    }
}

async fn take_json(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    provider: &Arc<Provider>,
    body: Body,
) -> Result<Response<Body>, Refusal> {
    let bytes = read_body(body, MOST_CREDENTIALS).await?;
    let members = json_object(&bytes)?;
    let member = |name: &str| Some(members.get(name)?.as_str()?.to_owned());
    let credentials = read(provider, member).ok_or(INCOMPLETE)?;
    let session = sign_in(endpoints, asked, provider, credentials, remember(asked), Flow::Cookie).await?.session;
    let user = Value::Object(session.identity.claims.clone());
    let return_to = return_to(endpoints, asked);
    let mut response = reply::json(StatusCode::OK, &json!({ "user": user, "returnTo": return_to }));
    opening::hand_over(endpoints, asked, &session, &mut response).await?;
    Ok(response)
}

async fn take_form(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    provider: &Arc<Provider>,
    body: Body,
) -> Result<Response<Body>, Refusal> {
    let bytes = read_body(body, MOST_CREDENTIALS).await?;
    let fields: Vec<(String, String)> = form_urlencoded::parse(&bytes).into_owned().collect();
    let field = |name: &str| fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.clone());
    let fresh = Form::new(endpoints, asked, provider)?;
    let state = field("state").unwrap_or_default();
    let Some(record) = LoginRecord::begun_here(endpoints, asked, &state, provider) else {
        return fresh.show(endpoints, asked, Some(&Refusal::LoginInvalid(STALE)));
    };
    let credentials = read(provider, field);
    let username = credentials.as_ref().map(|credentials| credentials.username.clone()).unwrap_or_default();
    let form = Form { record, username, ..fresh };
    let signed_in = match credentials {
        Some(credentials) => {
            sign_in(endpoints, asked, provider, credentials, form.record.remember, form.record.flow).await
        }
        None => Err(INCOMPLETE),
    };
    let opened = match signed_in {
        Ok(opened) => opened,
        Err(refusal) => return form.show(endpoints, asked, Some(&refusal)),
    };
    let mut response = opening::lead_on(endpoints, asked, &form.record, &opened, StatusCode::SEE_OTHER).await?;
    if let Some(label) = LoginRecord::label(&form.record.state) {
        response.headers_mut().append(header::SET_COOKIE, endpoints.cookies.expire(Name::Login(label)));
    }
    Ok(response)
}

/// Under the names that the backend has for them, or under the plain ones; both with something in them.
fn read(provider: &Provider, value: impl Fn(&str) -> Option<String>) -> Option<Credentials> {
    let Fields { username, password } = &provider.backend()?.fields;
    let either = |name: &str, plain: &str| value(name).or_else(|| value(plain)).filter(|value| !value.is_empty());
    let username = either(username, "username")?;
    Some(Credentials { username, password: SecretString::from(either(password, "password")?) })
}

async fn sign_in(
    endpoints: &Endpoints,
    asked: &Asked<'_>,
    provider: &Arc<Provider>,
    credentials: Credentials,
    remember: bool,
    flow: Flow,
) -> Result<Opened, Refusal> {
    let (client, now) = (asked.facts.client_address, asked.facts.now.mono);
    let attempt = endpoints.login_attempts.begin(provider, &credentials.username, client, now).map_err(|wait| {
        tracing::warn!(target: "latchgate::audit", event = "login_failed", provider = provider.name(), reason = "too_many_attempts", request = %asked.facts.id, "a login was not tried");
        Refusal::TooManyAttempts { retry_after: wait.as_secs() + 1 }
    })?;
    let asking = Arc::clone(provider);
    let signing_in = async move {
        match asking.log_in(&credentials).await {
            Ok(signed_in) => {
                attempt.succeeded();
                Ok(signed_in)
            }
            Err(error @ ProviderError::Refused { .. }) => {
                login_failed(&asking, &error);
                Err(Refusal::CredentialsRefused)
            }
            Err(error) => {
                attempt.came_to_nothing();
                Err(login_failed(&asking, &error))
            }
        }
    };
    opening::open(endpoints, provider, !remember, flow, signing_in).await
}

/// The form for one login, and what it is for.
struct Form {
    record: LoginRecord,
    action: String,
    is_email: bool,
    introduction: &'static str,
    username: String,
}

impl Form {
    fn new(endpoints: &Endpoints, asked: &Asked<'_>, provider: &Provider) -> Result<Form, Refusal> {
        let query = asked.facts.path.query().map(|query| format!("?{query}")).unwrap_or_default();
        let fields = provider.backend().map(|backend| &backend.fields);
        let flow = flow(endpoints, asked)?;
        Ok(Form {
            record: LoginRecord { flow, ..LoginRecord::begin(endpoints, asked, provider) },
            action: format!("{}/{}{query}", endpoints.settings.prefix, provider.name()),
            is_email: fields.is_some_and(|fields| fields.username.to_lowercase().contains("mail")),
            introduction: match asked.parameter("status").as_deref() {
                Some("expired") => "Your session has expired. Please sign in again.",
                _ => "Please sign in to continue.",
            },
            username: asked.parameter("login_hint").unwrap_or_default(),
        })
    }

    /// The page, with what was wrong the last time.
    fn show(
        &self,
        endpoints: &Endpoints,
        asked: &Asked<'_>,
        refusal: Option<&Refusal>,
    ) -> Result<Response<Body>, Refusal> {
        let page = |problem| FormPage {
            look: &endpoints.settings.look,
            action: &self.action,
            state: &self.record.state,
            is_email: self.is_email,
            introduction: self.introduction,
            username: &self.username,
            problem,
        };
        let mut response = match refusal {
            None => reply::html(StatusCode::OK, &page(None)),
            Some(refusal) => reply::refuse_on_page(refusal, |problem| page(Some(problem))),
        };
        reply::allow_form(&mut response, &elsewhere(&self.record.return_to));
        keep_record(endpoints, asked, &self.record, &mut response)?;
        Ok(response)
    }
}

#[derive(Template)]
#[template(path = "sign_in.html")]
struct FormPage<'a> {
    look: &'a Look,
    action: &'a str,
    state: &'a str,
    is_email: bool,
    introduction: &'static str,
    username: &'a str,
    problem: Option<String>,
}

/// The origin that a login leads to, if it is not ours: some browsers hold the redirect after a form to the form's policy.
fn elsewhere(return_to: &str) -> String {
    Url::parse(return_to).map(|url| url.origin().ascii_serialization()).unwrap_or_default()
}

/// Two texts.
const MOST_CREDENTIALS: usize = 16 * 1024;
const WINDOW: Duration = Duration::from_secs(300);
const ACCOUNTS_PER_CLIENT: u32 = 6;
const INCOMPLETE: Refusal = Refusal::Malformed("the user name or the password is missing");
const STALE: &str = "this page was open for too long, or in another browser. Please try again";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn forms_may_lead_to_where_the_login_ends() {
        assert_eq!(elsewhere("/orders?x=https://evil.test"), "");
        assert_eq!(elsewhere("https://app.example.com/x"), "https://app.example.com");
    }
}
