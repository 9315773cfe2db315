//! A session that has somebody else's identity for a while (RFC 8693 §1.1 calls it that when nobody below can tell; here everybody can:
//! the claims have `act`).
//!
//! What the session was opened with stays its own: who may end it at the provider, its tokens, its limits. Those tokens are not the
//! other person's, so no upstream gets them meanwhile. It does not fall back by itself: when its time is over, so is the session.

use super::{Identity, Session};
use crate::clock::Mono;
use std::sync::Arc;
use std::time::Duration;

/// How long somebody may be somebody else.
pub const IMPERSONATION_LIFE: Duration = Duration::from_secs(900);

/// Who somebody is while they are somebody else.
#[derive(Clone)]
pub struct Impersonation {
    /// Who opened the session.
    pub owner: Arc<Identity>,
    /// When the session ends unless this has ended before.
    pub until: Mono,
}

impl Session {
    /// Who opened it, whoever they are for now.
    #[must_use]
    pub fn owner(&self) -> &Arc<Identity> {
        self.impersonation.as_ref().map_or(&self.identity, |impersonation| &impersonation.owner)
    }

    /// What the access token was granted, as far as it says something of who the session is: it is its owner's.
    #[must_use]
    pub fn granted_scope(&self) -> Option<&str> {
        self.tokens.scope.as_deref().filter(|_| self.impersonation.is_none())
    }

    /// The next state, as `target`. None while it has another identity already.
    #[must_use]
    pub fn impersonating(&self, target: Arc<Identity>, now: Mono) -> Option<Session> {
        let impersonation = Impersonation { owner: Arc::clone(&self.identity), until: now.after(IMPERSONATION_LIFE) };
        let next = Session { identity: target, impersonation: Some(impersonation), ..self.clone() };
        self.impersonation.is_none().then_some(next)
    }

    /// The next state, as whoever opened it. None when it has no other identity.
    #[must_use]
    pub fn restored(&self) -> Option<Session> {
        let Impersonation { owner, .. } = self.impersonation.clone()?;
        Some(Session { identity: owner, impersonation: None, ..self.clone() })
    }
}

#[cfg(test)]
mod tests {
    use super::super::tests::{opening, sessions};
    use super::super::{Found, Update};
    use super::*;
    use crate::session::store::Filter;
    use serde_json::{Map, json};

    fn bob() -> Arc<Identity> {
        let claims = json!({"sub": "bob", "session_expiry": 1, "act": {"sub": "ada"}});
        let claims = claims.as_object().unwrap().clone();
        Arc::new(Identity { issuer: "https://idp".into(), subject: "bob".into(), sid: None, claims })
    }

    #[tokio::test]
    async fn the_session_stays_its_owner_s() {
        let (sessions, clock) = sessions();
        let session = sessions.open(opening("ada"), clock.now()).await.unwrap();
        let now = clock.mono();
        let update = sessions.update(&session, move |session| session.impersonating(bob(), now)).await;
        let Ok(Update::Stored(as_bob)) = update else { panic!() };
        assert!(as_bob.impersonating(bob(), now).is_none(), "one at a time");
        assert_eq!((as_bob.identity.subject.as_str(), as_bob.owner().subject.as_str()), ("bob", "ada"));

        let renewed = as_bob.renewed(Arc::clone(&as_bob.tokens), Map::from_iter([("name".into(), "Ada".into())]));
        assert_eq!(renewed.identity.claims, bob().claims, "what the provider says is said of the owner");
        assert_eq!(renewed.restored().unwrap().identity.claims["name"], "Ada");

        sessions.inner.opened.all_changed();
        let again = sessions.current(&as_bob, clock.now()).await.unwrap().unwrap();
        assert_eq!(again.identity.claims, bob().claims);
        assert_eq!((again.identity.subject.as_str(), again.owner().subject.as_str()), ("bob", "ada"));
        let of = |subject: &str| Filter { subject: Some(subject.into()), ..Filter::default() };
        assert_eq!(sessions.end_where(of("bob")).await, Ok(0), "nobody's logout ends another's session");
        assert_eq!(sessions.end_where(of("ada")).await, Ok(1));
    }

    #[tokio::test]
    async fn it_ends_with_its_time_unless_it_was_given_up() {
        let (sessions, clock) = sessions();
        for gives_up in [false, true] {
            let session = sessions.open(opening("ada"), clock.now()).await.unwrap();
            let now = clock.mono();
            let _ = sessions.update(&session, move |session| session.impersonating(bob(), now)).await;
            clock.advance(IMPERSONATION_LIFE - Duration::from_secs(1));
            if gives_up {
                let update = sessions.update(&session, Session::restored).await;
                assert!(matches!(update, Ok(Update::Stored(restored)) if restored.identity.subject == "ada"));
                assert!(matches!(sessions.update(&session, Session::restored).await, Ok(Update::Declined(_))));
            }
            clock.advance(Duration::from_secs(1));
            let id = super::super::SessionId::parse(&session.id().to_cookie_value()).unwrap();
            let found = sessions.find(vec![id.into()], clock.now()).await.unwrap();
            assert_eq!(matches!(found, Found::Live(_)), gives_up);
        }
    }
}
