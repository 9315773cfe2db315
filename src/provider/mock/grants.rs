//! What the mock provider remembers: codes that were not redeemed yet, and families of tokens.
//!
//! A family begins with a code and lives through its refresh tokens. Only the newest of them is
//! good; showing an older one ends the family, as whoever holds it may have stolen it
//! (RFC 9700 §4.14.2). So does showing a code twice (RFC 6749 §4.1.2).

use super::persona::{Failure, Persona};
use crate::clock::Mono;
use aws_lc_rs::{hmac, rand};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use std::collections::{HashMap, VecDeque};
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

/// What the user agreed to at the authorization endpoint.
#[derive(Clone)]
pub(super) struct Consent {
    pub(super) persona: Arc<Persona>,
    pub(super) client_id: String,
    /// Space-separated.
    pub(super) scope: String,
    /// When, in seconds since 1970.
    pub(super) auth_time: u64,
    /// The first of the `acr_values` that were asked for.
    pub(super) acr: Option<String>,
    pub(super) access_life: Duration,
    pub(super) failure: Option<Failure>,
}

/// What an authorization code stands for.
pub(super) struct Code {
    pub(super) consent: Consent,
    pub(super) redirect_uri: String,
    pub(super) nonce: Option<String>,
    /// BASE64URL(SHA256(code_verifier)) (RFC 7636 §4.2)
    pub(super) code_challenge: String,
}

/// Names a family; as text it is the `sid` claim.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct FamilyId([u8; 16]);

/// What a redeemed code or refresh token is good for.
pub(super) struct Redeemed {
    pub(super) family: FamilyId,
    pub(super) consent: Consent,
    /// For the ID token; only a code has one.
    pub(super) nonce: Option<String>,
    /// None when `offline_access` was not granted.
    pub(super) refresh_token: Option<String>,
}

/// Why nothing was redeemed.
pub(super) enum Refusal<E> {
    /// Unknown, expired, used or revoked.
    Dead,
    /// The caller's own check said no.
    Unacceptable(E),
}

/// Codes and families, bounded in number and in time.
pub(super) struct Grants {
    codes: Shelf<[u8; CODE_BYTES], CodeState>,
    families: Shelf<FamilyId, Family>,
    refresh_key: hmac::Key,
}

enum CodeState {
    Issued(Box<Code>),
    Spent(Option<FamilyId>),
}

struct Family {
    consent: Consent,
    /// The refresh token that is good now; those before it were used.
    generation: u64,
}

impl Grants {
    pub(super) fn new() -> Grants {
        Grants {
            codes: Shelf::new(CODE_LIFE, CODES_MAX),
            families: Shelf::new(FAMILY_LIFE, FAMILIES_MAX),
            refresh_key: hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()),
        }
    }

    /// Returns the code: 43 characters, good once and for 60 s.
    pub(super) fn issue_code(&mut self, code: Code, now: Mono) -> String {
        let name = random::<CODE_BYTES>();
        self.codes.put(name, CodeState::Issued(Box::new(code)), now);
        URL_SAFE_NO_PAD.encode(name)
    }

    /// Begins a family. The code is spent even when `accept` refuses: nobody tries two verifiers on one code.
    pub(super) fn redeem_code<E>(
        &mut self,
        code: &str,
        now: Mono,
        accept: impl FnOnce(&Code) -> Result<(), E>,
    ) -> Result<Redeemed, Refusal<E>> {
        let name: [u8; CODE_BYTES] = decoded(code).ok_or(Refusal::Dead)?;
        let state = self.codes.find(&name, now).ok_or(Refusal::Dead)?;
        let code = match std::mem::replace(state, CodeState::Spent(None)) {
            CodeState::Issued(code) => code,
            CodeState::Spent(family) => {
                if let Some(family) = family {
                    self.families.remove(&family);
                }
                return Err(Refusal::Dead);
            }
        };
        accept(&code).map_err(Refusal::Unacceptable)?;

        let family = FamilyId(random());
        if let Some(state) = self.codes.find(&name, now) {
            *state = CodeState::Spent(Some(family));
        }
        self.families.put(family, Family { consent: code.consent.clone(), generation: 0 }, now);
        Ok(Redeemed {
            refresh_token: self.refresh_token(family, &code.consent, 0),
            family,
            nonce: code.nonce,
            consent: code.consent,
        })
    }

    /// Replaces the refresh token by its successor. One that `accept` refuses stays good.
    pub(super) fn redeem_refresh_token<E>(
        &mut self,
        refresh_token: &str,
        now: Mono,
        accept: impl FnOnce(&Consent) -> Result<(), E>,
    ) -> Result<Redeemed, Refusal<E>> {
        let (id, generation) = self.open(refresh_token).ok_or(Refusal::Dead)?;
        let family = self.families.find(&id, now).ok_or(Refusal::Dead)?;
        if generation != family.generation {
            self.families.remove(&id);
            return Err(Refusal::Dead);
        }
        accept(&family.consent).map_err(Refusal::Unacceptable)?;

        family.generation += 1;
        let (consent, generation) = (family.consent.clone(), family.generation);
        Ok(Redeemed { refresh_token: self.refresh_token(id, &consent, generation), family: id, nonce: None, consent })
    }

    /// What was agreed to, while the family lives.
    pub(super) fn consent(&mut self, family: FamilyId, now: Mono) -> Option<&Consent> {
        self.families.find(&family, now).map(|family| &family.consent)
    }

    /// Ends a family: none of its tokens is good any more.
    pub(super) fn end(&mut self, family: FamilyId) {
        self.families.remove(&family);
    }

    /// Whose refresh token this is, good or used; None if we never made it.
    pub(super) fn family_of(&self, refresh_token: &str) -> Option<FamilyId> {
        self.open(refresh_token).map(|(family, _)| family)
    }

    /// The token carries its place in the family under a MAC, so used ones need not be remembered.
    fn refresh_token(&self, family: FamilyId, consent: &Consent, generation: u64) -> Option<String> {
        if !consent.scope.split(' ').any(|token| token == "offline_access") {
            return None;
        }
        let mut token = Vec::with_capacity(REFRESH_TOKEN_BYTES);
        token.extend(family.0);
        token.extend(generation.to_be_bytes());
        let tag = hmac::sign(&self.refresh_key, &token);
        token.extend(tag.as_ref());
        Some(URL_SAFE_NO_PAD.encode(token))
    }

    fn open(&self, refresh_token: &str) -> Option<(FamilyId, u64)> {
        let token: [u8; REFRESH_TOKEN_BYTES] = decoded(refresh_token)?;
        let (place, tag) = token.split_at(24);
        hmac::verify(&self.refresh_key, place, tag).ok()?;
        let (family, generation) = place.split_at(16);
        Some((FamilyId(family.try_into().ok()?), u64::from_be_bytes(generation.try_into().ok()?)))
    }
}

impl FamilyId {
    /// The `sid` claim.
    pub(super) fn to_sid(self) -> String {
        URL_SAFE_NO_PAD.encode(self.0)
    }

    /// None for a text that never was a `sid`.
    pub(super) fn from_sid(sid: &str) -> Option<FamilyId> {
        decoded(sid).map(FamilyId)
    }
}

/// Things that all live equally long, so the oldest is also the first to go. When there is no more
/// room, the oldest goes early.
struct Shelf<K, V> {
    life: Duration,
    room: usize,
    things: HashMap<K, (V, Mono)>,
    by_age: VecDeque<(K, Mono)>,
}

impl<K: Copy + Eq + Hash, V> Shelf<K, V> {
    fn new(life: Duration, room: usize) -> Shelf<K, V> {
        Shelf { life, room, things: HashMap::new(), by_age: VecDeque::new() }
    }

    fn put(&mut self, key: K, value: V, now: Mono) {
        while let Some((oldest, expires)) = self.by_age.front() {
            if *expires > now && self.by_age.len() < self.room {
                break;
            }
            self.things.remove(oldest);
            self.by_age.pop_front();
        }
        let expires = now.after(self.life);
        self.things.insert(key, (value, expires));
        self.by_age.push_back((key, expires));
    }

    fn find(&mut self, key: &K, now: Mono) -> Option<&mut V> {
        self.things.get_mut(key).filter(|(_, expires)| *expires > now).map(|(value, _)| value)
    }

    fn remove(&mut self, key: &K) {
        self.things.remove(key);
    }
}

pub(super) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    rand::fill(&mut bytes).expect("the system has random bytes");
    bytes
}

fn decoded<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

const CODE_BYTES: usize = 32;
/// Family, generation, HMAC-SHA256.
const REFRESH_TOKEN_BYTES: usize = 16 + 8 + 32;
const CODE_LIFE: Duration = Duration::from_secs(60);
const CODES_MAX: usize = 10_000;
const FAMILY_LIFE: Duration = Duration::from_secs(30 * 24 * 3600);
const FAMILIES_MAX: usize = 50_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_shelf_gives_up_its_oldest() {
        let mut shelf = Shelf::new(Duration::from_secs(60), 2);
        for key in 1..=3 {
            shelf.put(key, (), Mono(key));
        }
        let kept: Vec<u64> = (1..=3).filter(|key| shelf.find(key, Mono(4)).is_some()).collect();
        assert_eq!(kept, [2, 3]);
        assert_eq!((shelf.things.len(), shelf.by_age.len()), (2, 2));
    }

    #[test]
    fn what_expired_is_not_found_and_makes_room() {
        let mut shelf = Shelf::new(Duration::from_secs(60), 10);
        shelf.put("old", (), Mono(0));
        assert!(shelf.find(&"old", Mono(59_999)).is_some());
        assert!(shelf.find(&"old", Mono(60_000)).is_none());
        shelf.put("new", (), Mono(60_000));
        assert_eq!(shelf.things.len(), 1);
    }

    #[test]
    fn removed_things_do_not_pile_up() {
        let mut shelf = Shelf::new(Duration::from_secs(60), 3);
        for key in 0..100 {
            shelf.put(key, (), Mono(0));
            shelf.remove(&key);
        }
        assert!(shelf.things.is_empty());
        assert!(shelf.by_age.len() <= 3);
    }

    #[test]
    fn a_refresh_token_with_a_flipped_bit_was_never_ours() {
        let grants = Grants::new();
        let consent = Consent {
            persona: Arc::new(Persona::new(serde_json::json!({ "sub": "ada" }).as_object().unwrap()).unwrap()),
            client_id: String::new(),
            scope: "openid offline_access".to_owned(),
            auth_time: 0,
            acr: None,
            access_life: Duration::from_secs(60),
            failure: None,
        };
        let family = FamilyId(random());
        let token = grants.refresh_token(family, &consent, 3).unwrap();
        assert!(grants.family_of(&token) == Some(family));
        let bytes: [u8; REFRESH_TOKEN_BYTES] = decoded(&token).unwrap();
        for position in 0..REFRESH_TOKEN_BYTES {
            let mut forged = bytes;
            forged[position] ^= 1;
            assert!(grants.family_of(&URL_SAFE_NO_PAD.encode(forged)).is_none(), "byte {position}");
        }
    }
}
