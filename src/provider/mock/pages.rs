//! The pages of the mock provider. They work without JavaScript, by links alone.

use super::MockProvider;
use super::persona::{Failure, Persona};
use super::request::Parameters;
use super::response::respond;
use askama::Template;
use bytes::Bytes;
use http::header::{CONTENT_SECURITY_POLICY, CONTENT_TYPE};
use http::{HeaderValue, Response, StatusCode};
use std::time::Duration;

impl MockProvider {
    /// The page to choose a persona on. Every link is the same request with one more answer in it.
    pub(super) fn choose_page(
        &self,
        parameters: &Parameters<'_>,
        client_id: &str,
        scope: &str,
        access_life: Duration,
    ) -> Response<Bytes> {
        let lives = ACCESS_LIVES.map(|seconds| Choice {
            label: format!("{seconds} s"),
            href: parameters.link("ttl", &seconds.to_string()),
            current: parameters.get("ttl") == Some(&seconds.to_string()),
        });
        let default = Choice {
            label: format!("Default ({} s)", self.access_life.as_secs()),
            href: parameters.link("ttl", ""),
            current: parameters.get("ttl").is_none(),
        };
        page(
            StatusCode::OK,
            &ChoosePage {
                client_id,
                scopes: scope.split(' ').filter(|token| !token.is_empty()).collect(),
                personas: self.personas.iter().map(|persona| PersonaCard::new(persona, parameters)).collect(),
                lives: lives.into_iter().chain([default]).collect(),
                access_life: access_life.as_secs(),
                failures: REHEARSALS
                    .iter()
                    .map(|(value, outcome)| Rehearsal { value, outcome, href: parameters.link("mock_error", value) })
                    .collect(),
                rehearsed: parameters.get("mock_error").filter(|value| Failure::named(value).is_some()),
                without_failure: parameters.link("mock_error", ""),
                cancel: parameters.link("mock_error", "access_denied"),
            },
        )
    }
}

/// A page that says what is wrong with the request, with status 400.
pub(super) fn problem_page(problem: &'static str) -> Response<Bytes> {
    message_page(StatusCode::BAD_REQUEST, "This cannot go on", problem)
}

/// A page that says one thing.
pub(super) fn message_page(status: StatusCode, title: &'static str, text: &'static str) -> Response<Bytes> {
    page(status, &MessagePage { title, text })
}

#[derive(Template)]
#[template(path = "mock_choose.html")]
struct ChoosePage<'a> {
    client_id: &'a str,
    scopes: Vec<&'a str>,
    personas: Vec<PersonaCard<'a>>,
    lives: Vec<Choice>,
    /// Seconds.
    access_life: u64,
    failures: Vec<Rehearsal>,
    rehearsed: Option<&'a str>,
    without_failure: String,
    cancel: String,
}

struct PersonaCard<'a> {
    name: &'a str,
    initials: String,
    email: Option<&'a str>,
    role: Option<&'a str>,
    fails: bool,
    href: String,
}

struct Choice {
    label: String,
    href: String,
    current: bool,
}

struct Rehearsal {
    value: &'static str,
    outcome: &'static str,
    href: String,
}

#[derive(Template)]
#[template(path = "mock_message.html")]
struct MessagePage {
    title: &'static str,
    text: &'static str,
}

impl<'a> PersonaCard<'a> {
    fn new(persona: &'a Persona, parameters: &Parameters<'_>) -> PersonaCard<'a> {
        let name = persona.text("name").unwrap_or(persona.sub());
        PersonaCard {
            name,
            initials: name.split_whitespace().take(2).filter_map(|word| word.chars().next()).collect(),
            email: persona.text("email"),
            role: persona.text("role"),
            fails: persona.failure.is_some(),
            href: parameters.link("user", persona.sub()),
        }
    }
}

fn page(status: StatusCode, template: &impl Template) -> Response<Bytes> {
    let Ok(html) = template.render() else {
        return respond(StatusCode::INTERNAL_SERVER_ERROR, Bytes::new());
    };
    let mut response = respond(status, html.into());
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
    response
}

/// Only links lead on, so no form may be sent from here.
const PAGE_POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// Access-token lives one can choose, in seconds.
const ACCESS_LIVES: [u64; 3] = [5, 15, 60];
/// Failures offered on the page.
const REHEARSALS: [(&str, &str); 6] = [
    ("access_denied", "the person says no"),
    ("temporarily_unavailable", "the provider is busy"),
    ("token:invalid_grant", "the code is refused"),
    ("token:server_error", "the code meets a broken provider"),
    ("refresh:invalid_grant", "every refresh is refused"),
    ("refresh:temporarily_unavailable", "every refresh meets a provider that is down"),
];
