//! For apps that know of no gateway and think they handle their tokens themselves (SPEC §6 "Capture"): their login becomes a session,
//! and their refresh and logout are answered as their backend would, with stand-ins for tokens.

use super::code_flow::Flow;
use super::{Asked, Endpoints, logout, opening, refresh};
use crate::body::Body;
use crate::clock::Mono;
use crate::provider::backend::BackendSettings;
use crate::provider::{Provider, ProviderError, TokenResponse};
use crate::reply::{self, Refusal};
use crate::session::cookie::Name;
use crate::session::{Session, stand_in};
use http::{HeaderValue, Response, StatusCode};
use serde_json::{Map, Value};
use std::sync::Arc;

/// A login that a backend has granted to an app.
pub struct Granted {
    /// The backend.
    pub provider: Arc<Provider>,
    /// What it gave.
    pub tokens: TokenResponse,
    /// All it said: an object.
    pub answer: Value,
    /// What the login was made with, as far as it could be read.
    pub username: Option<String>,
    /// When the request came: a sign-out after this counts for the session too.
    pub began: Mono,
}

impl Endpoints {
    /// The backend whose calls apps make through a route that names `provider`, or none where there is only one.
    #[must_use]
    pub fn backend_of_route(&self, provider: Option<&str>) -> Option<Arc<Provider>> {
        let provider = match (provider, self.providers.as_slice()) {
            (Some(name), _) => self.provider(name)?,
            (None, [only]) => only,
            (None, _) => return None,
        };
        provider.backend().map(|_| Arc::clone(provider))
    }

    /// A session for a login that was granted, with the `Set-Cookie` values that give it to the browser whose `Cookie` lines these are.
    ///
    /// # Errors
    /// Nobody knows who signed in, or there is no room for the session. There is none then.
    pub async fn open_granted(
        &self,
        granted: Granted,
        lines: &[HeaderValue],
    ) -> Result<(Arc<Session>, Vec<HeaderValue>), Refusal> {
        let Granted { provider, tokens, answer, username, began } = granted;
        let signed_in = provider
            .identify(tokens, answer.as_object().unwrap_or(&Map::new()), username.as_deref())
            .await
            .map_err(|error| {
                let refusal = opening::login_failed(&provider, &error);
                // The backend has signed somebody in: it is not about their credentials.
                if let ProviderError::Refused { .. } = error { Refusal::ProviderBroken } else { refusal }
            })?;
        let now = self.clock.now();
        let opened =
            opening::open_session(&self.sessions, &provider, signed_in, false, began, now, Flow::Cookie).await?;
        let session = opened.session;
        match self.sessions.set_cookies(&session, &self.cookies, lines, now) {
            Ok(mut cookies) => {
                // Whoever has signed in with it before is not to come back when this session is over.
                if self.cookies.values(lines, Name::Refresh).next().is_some() {
                    cookies.push(self.cookies.expire(Name::Refresh));
                }
                Ok((session, cookies))
            }
            Err(problem) => {
                // It is over in time if it cannot be ended now: nobody has its id.
                let _ = self.sessions.end(session.key).await;
                Err(opening::not_carried(problem))
            }
        }
    }

    /// An app's own refresh: a forced one, answered in the shape of `backend`. Without a session, 401 and CLEAR.
    pub async fn refresh_for_app(&self, asked: Asked<'_>, backend: &BackendSettings) -> Response<Body> {
        match refresh::for_app(self, &asked).await {
            Ok(session) => reply::json(StatusCode::OK, &self.stand_ins(&session, backend)),
            Err(refused) => *refused,
        }
    }

    /// An app's own logout: as ours, `{"success":true}`.
    pub async fn log_out_for_app(&self, asked: Asked<'_>) -> Response<Body> {
        logout::by_script(self, &asked).await
    }

    /// Whatever an app's backend calls its tokens, it finds them in the answer of our own refresh. They are stand-ins: only `token`
    /// stands for the session.
    pub(super) fn add_names_of_backends(&self, answer: &mut Value, session: &Session, expires_in: u64) {
        if self.provider(&session.provider).is_none_or(|provider| provider.backend().is_none()) {
            return;
        }
        let access_token = stand_in::for_token(&session.tokens.access_token);
        answer["accessToken"] = access_token.as_str().into();
        answer["access_token"] = access_token.into();
        if let Some(refresh_token) = session.tokens.refresh_token.as_ref().map(stand_in::for_token) {
            answer["refreshToken"] = refresh_token.as_str().into();
            answer["refresh_token"] = refresh_token.into();
        }
        answer["expires_in"] = expires_in.into();
    }

    /// What the backend answers to a refresh, but for the tokens.
    fn stand_ins(&self, session: &Session, backend: &BackendSettings) -> Value {
        let tokens = &session.tokens;
        let left = tokens.expires().map(|expires| expires.since(self.clock.mono()));
        let refresh_token = tokens.refresh_token.as_ref().map(stand_in::for_token);
        backend.refresh_answer(&stand_in::for_token(&tokens.access_token), refresh_token.as_deref(), left)
    }
}
