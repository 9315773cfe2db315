//! The same for a token of the gateway's own: it is there whoever asks, and no login of a user's gets a better one.

use super::{Attempted, Exchange, Recovering, Step, TokenChoice, is_refused, unavailable};
use crate::body::Body;
use crate::policy::{self, Attempt, On401, Recovery, TokenUse};
use crate::reply::Refusal;
use crate::session::TokenSet;
use crate::tokens::{ClientCredentials, Unobtainable};
use http::Response;
use std::sync::Arc;

impl<S: Step<Attempted>> Recovering<S> {
    /// Sends `asked` with the token that `which` names; when the upstream refuses that, with another one.
    pub(super) async fn run_as_machine(&mut self, asked: Attempted, which: &ClientCredentials) -> Response<Body> {
        let Attempted { exchange, message, session, client, .. } = asked;
        let attempt = |message, token| Attempted {
            exchange: Arc::clone(&exchange),
            message,
            session: session.clone(),
            client: client.clone(),
            token: TokenChoice::Machine(token),
        };
        let token = match self.parts.tokens.machine().current(which).await {
            Ok(token) => token,
            Err(problem) => return no_token(&exchange, problem),
        };
        let (message, spare) =
            if exchange.route.on_401 == On401::Refresh { self.keep_a_spare(message) } else { (message, None) };
        let first = self.attempt(attempt(message, Arc::clone(&token))).await;
        if !is_refused(&exchange, &first) || self.recovery(&exchange, which, &token) != Recovery::RefreshAndReplay {
            return first;
        }
        let renewed = match self.parts.tokens.machine().renew(which, &token).await {
            Ok(renewed) => renewed,
            Err(problem) => return no_token(&exchange, problem),
        };
        let Some(message) = spare.and_then(|spare| spare.into_message(&exchange)) else {
            // The next request finds the new token.
            return first;
        };
        drop(first);
        let second = self.attempt(attempt(message, renewed)).await;
        self.parts.tokens.machine().replayed(which, is_refused(&exchange, &second));
        second
    }

    fn recovery(&self, exchange: &Exchange, which: &ClientCredentials, token: &TokenSet) -> Recovery {
        let renewable = self.parts.tokens.machine().renewable(which, token, self.parts.clock.now());
        policy::recover(exchange.route.on_401, Attempt::First, TokenUse::Machine, renewable)
    }
}

fn no_token(exchange: &Exchange, problem: Unobtainable) -> Response<Body> {
    match problem {
        Unobtainable::Unavailable { retry_after } => unavailable(exchange, retry_after),
        Unobtainable::Refused => exchange.refuse(&Refusal::ProviderBroken),
    }
}
