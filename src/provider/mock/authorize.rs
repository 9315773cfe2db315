//! The authorization endpoint of the mock provider (RFC 6749 §4.1.1, OIDC Core §3.1.2).
//!
//! Until the redirect URI is known to be ours, an error is a page; after that it goes back to the client.

use super::MockProvider;
use super::grants::{Code, Consent};
use super::pages::problem_page;
use super::persona::{Failure, Persona, Stage};
use super::request::Parameters;
use super::response::found;
use aws_lc_rs::digest::SHA256;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::{Request, Response};
use std::sync::Arc;
use std::time::Duration;
use url::Url;

/// Who asks, and where the browser goes next.
struct Client<'a> {
    client_id: &'a str,
    redirect_uri: &'a str,
    target: Url,
}

/// What is asked for in the words of the standards.
struct Terms<'a> {
    code_challenge: &'a str,
    scope: &'a str,
    /// `prompt=none`: no page may be shown.
    silent: bool,
}

/// What is asked of this provider because it is a mock.
struct Wishes<'a> {
    persona: Option<&'a Arc<Persona>>,
    access_life: Duration,
    failure: Option<Failure>,
}

/// Why no code is issued.
enum Refusal {
    /// What is wrong, for the person at the browser.
    Page(&'static str),
    /// `error` and `error_description`, for the client.
    Redirect(&'static str, &'static str),
}

impl MockProvider {
    pub(super) fn authorize(&self, request: &Request<Bytes>) -> Response<Bytes> {
        let parameters = match Parameters::of_browser(request) {
            Ok(parameters) => parameters,
            Err(problem) => return problem_page(problem),
        };
        let client = match self.client(&parameters) {
            Ok(client) => client,
            Err(problem) => return problem_page(problem),
        };
        match self.code_or_page(&parameters, &client) {
            Ok(answer) => answer,
            Err(Refusal::Page(problem)) => problem_page(problem),
            Err(Refusal::Redirect(error, description)) => {
                let answer = [("error", error), ("error_description", description)];
                found(&self.callback(&client.target, &parameters, &answer))
            }
        }
    }

    fn client<'a>(&self, parameters: &'a Parameters<'_>) -> Result<Client<'a>, &'static str> {
        let client_id = parameters.given("client_id").ok_or("The request has no client_id.")?;
        if client_id.len() > CLIENT_ID_MAX {
            return Err("The client_id is too long.");
        }
        let redirect_uri = parameters.get("redirect_uri").ok_or("The request has no redirect_uri.")?;
        let target = self
            .own_url(redirect_uri)
            .ok_or("The redirect_uri is not on the origin of this gateway, so the browser is not sent there.")?;
        Ok(Client { client_id, redirect_uri, target })
    }

    fn code_or_page(&self, parameters: &Parameters<'_>, client: &Client<'_>) -> Result<Response<Bytes>, Refusal> {
        let wishes = self.wishes(parameters)?;
        let terms = terms(parameters)?;
        if let Some(Failure { stage: Stage::Authorization, code }) = wishes.failure {
            return Err(Refusal::Redirect(code, "the mock provider was asked for this error"));
        }
        let Some(persona) = wishes.persona else {
            if terms.silent {
                return Err(Refusal::Redirect("login_required", "prompt=none, and nobody was named"));
            }
            return Ok(self.choose_page(parameters, client.client_id, terms.scope, wishes.access_life));
        };

        let now = self.clock.now();
        let code = Code {
            consent: Consent {
                persona: Arc::clone(persona),
                client_id: client.client_id.to_owned(),
                scope: terms.scope.to_owned(),
                auth_time: now.unix,
                acr: parameters.get("acr_values").and_then(|values| values.split(' ').next()).map(str::to_owned),
                access_life: wishes.access_life,
                failure: wishes.failure,
            },
            redirect_uri: client.redirect_uri.to_owned(),
            nonce: parameters.get("nonce").map(str::to_owned),
            code_challenge: terms.code_challenge.to_owned(),
        };
        let code = self.grants().issue_code(code, now.mono);
        Ok(found(&self.callback(&client.target, parameters, &[("code", &code)])))
    }

    fn wishes(&self, parameters: &Parameters<'_>) -> Result<Wishes<'_>, Refusal> {
        let persona = match parameters.get("user") {
            Some(sub) => {
                let persona = self.persona(|persona| persona.sub() == sub);
                Some(persona.ok_or(Refusal::Page("There is no such persona; see `users`."))?)
            }
            None => parameters
                .get("login_hint")
                .and_then(|hint| self.persona(|persona| persona.sub() == hint || persona.text("email") == Some(hint))),
        };
        let access_life = match parameters.get("ttl").map(str::parse) {
            None => self.access_life,
            Some(Ok(seconds @ 1..=ACCESS_LIFE_MAX)) => Duration::from_secs(seconds),
            Some(_) => {
                return Err(Refusal::Page("ttl is a whole number of seconds, from 1 to 86400."));
            }
        };
        let asked = parameters.get("mock_error");
        let failure = asked.and_then(Failure::named);
        if let (Some(value), None) = (asked, failure) {
            tracing::warn!(?value, "mock_error names no error the mock provider can give; going on without");
        }
        let failure = failure.or_else(|| persona?.failure);
        Ok(Wishes { persona, access_life, failure })
    }

    fn persona(&self, wanted: impl Fn(&Persona) -> bool) -> Option<&Arc<Persona>> {
        self.personas.iter().find(|persona| wanted(persona))
    }

    /// The redirect back to the client, with `state` and `iss` (RFC 9207).
    fn callback(&self, target: &Url, parameters: &Parameters<'_>, answer: &[(&str, &str)]) -> Url {
        let mut location = target.clone();
        let mut pairs = location.query_pairs_mut();
        pairs.extend_pairs(answer);
        if let Some(state) = parameters.given("state") {
            pairs.append_pair("state", state);
        }
        pairs.append_pair("iss", &self.issuer);
        drop(pairs);
        location
    }
}

fn terms<'a>(parameters: &'a Parameters<'_>) -> Result<Terms<'a>, Refusal> {
    // RFC 6749 would send this back to the client. A page says it to the person who wrote the URL.
    if parameters.get("response_type") != Some("code") {
        return Err(Refusal::Page("The response_type is not \"code\", the only one there is here."));
    }
    let invalid = |description| Refusal::Redirect("invalid_request", description);
    let code_challenge = parameters
        .get("code_challenge")
        .filter(|challenge| URL_SAFE_NO_PAD.decode(challenge).is_ok_and(|hash| hash.len() == SHA256.output_len))
        .ok_or(invalid("code_challenge is missing or is not a SHA-256"))?;
    if parameters.get("code_challenge_method") != Some("S256") {
        return Err(invalid("code_challenge_method must be S256"));
    }
    if parameters.get("response_mode").is_some_and(|mode| mode != "query") {
        return Err(invalid("response_mode must be query"));
    }
    let scope = parameters.get("scope").unwrap_or_default();
    if !is_scope(scope) {
        return Err(Refusal::Redirect("invalid_scope", "scope is not a list of scope tokens"));
    }
    let mut prompts = parameters.get("prompt").unwrap_or_default().split(' ');
    let silent = prompts.clone().any(|prompt| prompt == "none");
    if silent && prompts.nth(1).is_some() {
        return Err(invalid("prompt=none stands alone"));
    }
    Ok(Terms { code_challenge, scope, silent })
}

/// RFC 6749 §3.3; none at all is fine.
fn is_scope(scope: &str) -> bool {
    let token =
        |token: &str| !token.is_empty() && token.bytes().all(|byte| matches!(byte, 0x21 | 0x23..=0x5B | 0x5D..=0x7E));
    scope.is_empty() || scope.split(' ').all(token)
}

/// What `ttl` may ask for, in seconds.
const ACCESS_LIFE_MAX: u64 = 24 * 3600;
const CLIENT_ID_MAX: usize = 256;
