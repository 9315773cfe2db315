//! A session as the bytes that are sealed: JSON, so that a later version can add to it.

use super::code_flow::CodeFlow;
use super::impersonation::Impersonation;
use super::store::About;
use super::{Identity, Session, SessionId, TokenSet, Vitals};
use crate::clock::{Mono, Now};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;
use zeroize::Zeroizing;

#[derive(Serialize, Deserialize)]
struct Plain<'a> {
    /// The owner's.
    claims: Cow<'a, Map<String, Value>>,
    #[serde(default, skip_serializing_if = "is_empty")]
    custom: Cow<'a, Map<String, Value>>,
    started_unix: u64,
    generation: u64,
    access_token: Cow<'a, str>,
    obtained: Mono,
    life_millis: Option<u64>,
    refresh_token: Option<Cow<'a, str>>,
    id_token: Option<Cow<'a, str>>,
    scope: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "is_false")]
    unchecked: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    transient: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code_flow: Option<CodeFlow>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    impersonation: Option<PlainImpersonation<'a>>,
}

/// Whose identity the session has; the issuer is the owner's.
#[derive(Serialize, Deserialize)]
struct PlainImpersonation<'a> {
    subject: Cow<'a, str>,
    claims: Cow<'a, Map<String, Value>>,
    until: Mono,
}

/// Everything of a session that its record does not say in the open.
pub(super) fn write(session: &Session) -> Zeroizing<Vec<u8>> {
    fn exposed(token: &Option<SecretString>) -> Option<Cow<'_, str>> {
        token.as_ref().map(|token| token.expose_secret().into())
    }
    let tokens = &session.tokens;
    let plain = Plain {
        claims: Cow::Borrowed(&session.owner().claims),
        custom: Cow::Borrowed(&session.custom),
        started_unix: session.started.unix,
        generation: tokens.generation,
        access_token: tokens.access_token.expose_secret().into(),
        obtained: tokens.obtained,
        life_millis: tokens.life.map(|life| u64::try_from(life.as_millis()).unwrap_or(u64::MAX)),
        refresh_token: exposed(&tokens.refresh_token),
        id_token: exposed(&tokens.id_token),
        scope: tokens.scope.as_deref().map(Cow::from),
        unchecked: tokens.unchecked,
        transient: session.transient,
        code_flow: session.code_flow,
        impersonation: session.impersonation.as_ref().map(|impersonation| PlainImpersonation {
            subject: session.identity.subject.as_str().into(),
            claims: Cow::Borrowed(&session.identity.claims),
            until: impersonation.until,
        }),
    };
    let text_length = plain.access_token.len()
        + [&plain.refresh_token, &plain.id_token].into_iter().flatten().map(|token| token.len()).sum::<usize>();
    let mut bytes = Zeroizing::new(Vec::with_capacity(text_length + ROOM_FOR_CLAIMS));
    // Maps with text keys, text and numbers: nothing that JSON has no form for.
    let _ = serde_json::to_writer(&mut *bytes, &plain);
    bytes
}

/// None for what [`write`] has not written.
pub(super) fn read(id: Arc<SessionId>, about: &About, plain: &[u8], vitals: Arc<Vitals>) -> Option<Session> {
    let plain: Plain<'_> = serde_json::from_slice(plain).ok()?;
    let secret = |token: Cow<'_, str>| SecretString::from(token.into_owned());
    let tokens = TokenSet::new(secret(plain.access_token), plain.generation, plain.obtained)?;
    let owner = Arc::new(Identity {
        issuer: about.issuer.clone(),
        subject: about.subject.clone(),
        sid: about.sid.clone(),
        claims: plain.claims.into_owned(),
    });
    let (identity, impersonation) = match plain.impersonation {
        None => (owner, None),
        Some(PlainImpersonation { subject, claims, until }) => {
            let (issuer, subject) = (about.issuer.clone(), subject.into_owned());
            let identity = Identity { issuer, subject, sid: None, claims: claims.into_owned() };
            (Arc::new(identity), Some(Impersonation { owner, until }))
        }
    };
    Some(Session {
        key: id.key(),
        id,
        provider: about.provider.as_str().into(),
        identity,
        tokens: Arc::new(TokenSet {
            life: plain.life_millis.map(Duration::from_millis),
            refresh_token: plain.refresh_token.map(secret),
            id_token: plain.id_token.map(secret),
            scope: plain.scope.map(Cow::into_owned),
            unchecked: plain.unchecked,
            ..tokens
        }),
        custom: Arc::new(plain.custom.into_owned()),
        transient: plain.transient,
        code_flow: plain.code_flow,
        impersonation,
        started: Now { mono: about.started, unix: plain.started_unix },
        ends: about.ends,
        began: about.began,
        vitals,
        version: 0,
        weight: 0,
    })
}

fn is_empty(map: &Map<String, Value>) -> bool {
    map.is_empty()
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(flag: &bool) -> bool {
    !flag
}

/// The buffer does not grow, and so leaves no copy of a token behind, unless claims are many.
const ROOM_FOR_CLAIMS: usize = 4096;
