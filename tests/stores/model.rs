//! Random operations on a store and on a model of it that is too simple to be wrong: they answer alike. A failing
//! sequence is cut down to a short one before it is shown.

use crate::stage::{ISSUER, Kind, Stage, Standing, fresh_key, standing_of};
use bytes::Bytes;
use latchgate::clock::Mono;
use latchgate::session::SessionKey;
use latchgate::session::store::{About, Claim, Creation, Filter, Lease, OnceName, Record, Replacement};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use std::collections::{BTreeMap, HashSet};
use tokio::runtime::Handle;

#[derive(Clone, Debug)]
enum Operation {
    /// `began`: so many ticks ago.
    Create {
        user: usize,
        sid: Option<usize>,
        most: usize,
        began: u32,
        life: u32,
    },
    Find {
        session: usize,
    },
    /// Having seen the newest version, or the one before.
    Replace {
        session: usize,
        stale: bool,
        life: u32,
    },
    Touch {
        session: usize,
        life: u32,
    },
    Remove {
        session: usize,
    },
    RemoveWhere {
        issuer: Option<usize>,
        subject: Option<usize>,
        sid: Option<usize>,
    },
    List {
        issuer: Option<usize>,
        subject: Option<usize>,
        sid: Option<usize>,
    },
    Lease {
        session: usize,
        generation: u64,
        owner: u128,
    },
    RenewLease {
        session: usize,
        generation: u64,
        owner: u128,
    },
    ReleaseLease {
        session: usize,
        generation: u64,
        owner: u128,
        resolved: bool,
    },
    TakeOnce {
        name: usize,
        life: u32,
    },
    Sweep,
    Pass {
        ticks: u32,
    },
}

/// Issuer and subject: two of one name, two of one issuer.
const USERS: [(&str, &str); 4] = [(ISSUER, "ada"), ("https://other.test", "ada"), (ISSUER, "bob"), (ISSUER, "Ada")];
const SUBJECTS: [&str; 3] = ["ada", "bob", "Ada"];
const ISSUERS: [&str; 2] = [ISSUER, "https://other.test"];
const SIDS: [&str; 2] = ["s1", "s1\0"];
/// More than there are; those beyond the ones that were created are unknown.
const SESSIONS: usize = 8;

fn operations(timed: bool) -> impl Strategy<Value = Vec<Operation>> {
    let session = 0..SESSIONS;
    let life = if timed { 1..12u32 } else { 900..1000 };
    let filter =
        (prop::option::of(0..ISSUERS.len()), prop::option::of(0..SUBJECTS.len()), prop::option::of(0..SIDS.len()));
    let claim = (session.clone(), 1..3u64, 1..4u128);
    let operation = prop_oneof![
        5 => (0..USERS.len(), prop::option::of(0..SIDS.len()), 1..5usize, 0..4u32, life.clone())
            .prop_map(|(user, sid, most, began, life)| Operation::Create { user, sid, most, began, life }),
        4 => session.clone().prop_map(|session| Operation::Find { session }),
        5 => (session.clone(), any::<bool>(), life.clone())
            .prop_map(|(session, stale, life)| Operation::Replace { session, stale, life }),
        3 => (session.clone(), life.clone()).prop_map(|(session, life)| Operation::Touch { session, life }),
        2 => session.prop_map(|session| Operation::Remove { session }),
        2 => filter.clone().prop_map(|(issuer, subject, sid)| Operation::RemoveWhere { issuer, subject, sid }),
        2 => filter.prop_map(|(issuer, subject, sid)| Operation::List { issuer, subject, sid }),
        4 => claim.clone().prop_map(|(session, generation, owner)| Operation::Lease { session, generation, owner }),
        2 => claim.clone().prop_map(|(session, generation, owner)| Operation::RenewLease { session, generation, owner }),
        2 => (claim, any::<bool>()).prop_map(|((session, generation, owner), resolved)| {
            Operation::ReleaseLease { session, generation, owner, resolved }
        }),
        2 => (0..2usize, life).prop_map(|(name, life)| Operation::TakeOnce { name, life }),
        1 => Just(Operation::Sweep),
        3 => if timed { 1..5u32 } else { 0..1 }.prop_map(|ticks| Operation::Pass { ticks }),
    ];
    prop::collection::vec(operation, 1..60)
}

#[derive(Default)]
struct Model {
    /// In the order of their creation, the refused ones left out.
    names: Vec<SessionKey>,
    records: BTreeMap<usize, Record>,
    removals: Vec<(Filter, Mono)>,
    leases: BTreeMap<usize, Leased>,
    taken: BTreeMap<usize, Mono>,
    writes: u64,
}

struct Leased {
    generation: u64,
    owner: u128,
    /// None: given back unresolved.
    until: Option<Mono>,
}

impl Model {
    fn name(&self, session: usize) -> SessionKey {
        self.names.get(session).copied().unwrap_or_else(fresh_key)
    }

    fn live(&self, session: usize, now: Mono) -> Option<&Record> {
        self.records.get(&session).filter(|record| now < record.expires)
    }

    fn live_where(&self, now: Mono, selects: impl Fn(&About) -> bool) -> Vec<usize> {
        let live = self.records.iter().filter(|(_, record)| now < record.expires && selects(&record.about));
        live.map(|(&session, _)| session).collect()
    }

    fn keys(&self, sessions: &[usize]) -> HashSet<SessionKey> {
        sessions.iter().map(|&session| self.names[session]).collect()
    }

    /// Without those that have expired: a store may name them or not.
    fn without_expired(&self, keys: Vec<SessionKey>, now: Mono) -> HashSet<SessionKey> {
        let is_expired = |key: &SessionKey| {
            self.names
                .iter()
                .position(|name| name == key)
                .is_some_and(|session| self.records.get(&session).is_some_and(|record| now >= record.expires))
        };
        keys.into_iter().filter(|key| !is_expired(key)).collect()
    }

    fn remove(&mut self, session: usize) {
        self.records.remove(&session);
        self.leases.remove(&session);
    }

    fn sealed(&mut self) -> Bytes {
        self.writes += 1;
        self.writes.to_string().into()
    }

    /// Does `operation` to both.
    async fn step(&mut self, stage: &Stage, number: usize, operation: &Operation) -> Result<(), TestCaseError> {
        stage.pass_a_moment().await;
        let (store, now) = (stage.side(number), stage.now());
        let filter = |issuer: Option<usize>, subject: Option<usize>, sid: Option<usize>| Filter {
            issuer: issuer.map(|number| ISSUERS[number].into()),
            subject: subject.map(|number| SUBJECTS[number].into()),
            sid: sid.map(|number| SIDS[number].into()),
        };
        let claim = |session: usize, generation: u64, owner: u128| Claim {
            key: self.name(session),
            generation,
            owner: owner + 10 * u128::from(generation),
            life: stage.ticks(if stage.is_timed() { 4 } else { 1000 }),
        };
        match *operation {
            Operation::Create { user, sid, most, began, life } => {
                let (issuer, subject) = USERS[user];
                let record = stage.record_about(issuer, subject, sid.map(|sid| SIDS[sid]));
                let began = Mono(now.mono.0 - u64::try_from(stage.ticks(began).as_millis()).unwrap_or(0));
                let about = About { began, started: now.mono, ..record.about };
                let record = Record { about, expires: stage.later(life), sealed: self.sealed(), ..record };
                let key = fresh_key();
                let creation = store.create(key, record.clone(), most, now).await.unwrap();
                if self.removals.iter().any(|(filter, at)| *at >= began && filter.selects(&record.about)) {
                    prop_assert_eq!(creation, Creation::Revoked);
                    prop_assert_ne!(stage.standing(key).await, Standing::Live);
                    return Ok(());
                }
                let Creation::Created { evicted } = creation else {
                    return Err(TestCaseError::fail(format!("{creation:?}")));
                };
                let mut of_user =
                    self.live_where(now.mono, |about| (about.issuer.as_str(), about.subject.as_str()) == USERS[user]);
                of_user.truncate((of_user.len() + 1).saturating_sub(most));
                prop_assert_eq!(self.without_expired(evicted, now.mono), self.keys(&of_user));
                of_user.into_iter().for_each(|session| self.remove(session));
                self.names.push(key);
                self.records.insert(self.names.len() - 1, record);
            }
            Operation::Find { session } => {
                let found = store.find(self.name(session), now).await.unwrap();
                let expected = match self.live(session, now.mono) {
                    Some(_) => Standing::Live,
                    // What has expired may be forgotten when it is swept.
                    None if self.records.contains_key(&session) && standing_of(&found) == Standing::Unknown => {
                        Standing::Unknown
                    }
                    None if session < self.names.len() => Standing::Ended,
                    None => Standing::Unknown,
                };
                prop_assert_eq!(standing_of(&found), expected);
                if let latchgate::session::store::Lookup::Live(record) = found {
                    prop_assert_eq!(Some(&record), self.live(session, now.mono));
                }
            }
            Operation::Replace { session, stale, life } => {
                let newest = self.live(session, now.mono).cloned();
                let seen = newest.as_ref().map_or(1, |record| record.version) - u64::from(stale);
                let base = newest.clone().unwrap_or_else(|| stage.record());
                let expires = base.expires.max(stage.later(life));
                let record = Record { version: seen + 1, sealed: self.sealed(), expires, ..base };
                let replaced = store.replace(self.name(session), seen, record.clone(), now).await.unwrap();
                match (newest, replaced) {
                    (None, Replacement::Gone) => {}
                    (Some(newest), Replacement::Conflict(winner)) if stale => prop_assert_eq!(winner, newest),
                    (Some(_), Replacement::Replaced) if !stale => {
                        self.records.insert(session, record);
                    }
                    (_, replaced) => return Err(TestCaseError::fail(format!("{replaced:?}"))),
                }
            }
            Operation::Touch { session, life } => {
                let expires = stage.later(life);
                store.touch(self.name(session), now.mono, expires).await.unwrap();
                if let Some(record) = self.records.get_mut(&session).filter(|record| now.mono < record.expires) {
                    record.last_seen = record.last_seen.max(now.mono);
                    record.expires = record.expires.max(expires);
                }
            }
            Operation::Remove { session } => {
                let removed = store.remove(self.name(session), now).await.unwrap();
                let was_live = self.live(session, now.mono).is_some();
                let may_be_there = self.records.contains_key(&session);
                prop_assert!(removed == was_live || removed == may_be_there);
                self.remove(session);
            }
            Operation::RemoveWhere { issuer, subject, sid } => {
                let filter = filter(issuer, subject, sid);
                let removed = store.remove_where(&filter, now).await.unwrap();
                let selected = match filter.subject.is_some() || filter.sid.is_some() {
                    true => {
                        self.removals.push((filter.clone(), now.mono));
                        self.live_where(now.mono, |about| filter.selects(about))
                    }
                    false => Vec::new(),
                };
                prop_assert_eq!(self.without_expired(removed, now.mono), self.keys(&selected));
                selected.into_iter().for_each(|session| self.remove(session));
            }
            Operation::List { issuer, subject, sid } => {
                let filter = filter(issuer, subject, sid);
                let listed = stage.listed(&filter).await;
                let live = self.live_where(now.mono, |about| filter.selects(about));
                prop_assert_eq!(listed.len(), live.len());
                let records: BTreeMap<_, _> =
                    live.iter().map(|session| (self.names[*session].to_hex(), &self.records[session])).collect();
                for (key, record) in &listed {
                    let known = records.get(&key.to_hex()).map(|known| (known.version, &known.about));
                    prop_assert_eq!(Some((record.version, &record.about)), known);
                }
            }
            Operation::Lease { session, generation, owner } if self.live(session, now.mono).is_some() => {
                let claim = claim(session, generation, owner);
                let lease = store.lease(&claim, now).await.unwrap();
                let earlier = self.leases.get(&session);
                let others = earlier.filter(|leased| leased.owner != claim.owner);
                let holder = others.filter(|leased| leased.until.is_some_and(|until| now.mono < until));
                let interrupted = others.is_some_and(|leased| leased.generation == generation);
                let expected = match holder {
                    // While an older generation is being refreshed, the newer one may have to wait.
                    Some(holder) if holder.generation != generation && lease == Lease::Held => Lease::Held,
                    Some(holder) if holder.generation == generation => Lease::Held,
                    _ => Lease::Granted { interrupted },
                };
                prop_assert_eq!(lease, expected);
                if lease != Lease::Held {
                    let until = Some(now.mono.after(claim.life));
                    self.leases.insert(session, Leased { generation, owner: claim.owner, until });
                }
            }
            Operation::RenewLease { session, generation, owner } if self.live(session, now.mono).is_some() => {
                let claim = claim(session, generation, owner);
                let renewed = store.renew_lease(&claim, now).await.unwrap();
                let held = self.leases.get_mut(&session).filter(|leased| leased.owner == claim.owner);
                match held {
                    None => prop_assert!(!renewed),
                    Some(held) => {
                        let holds = held.until.is_some_and(|until| now.mono < until);
                        prop_assert!(renewed || !holds, "it ran out, or it is ours");
                        if renewed {
                            held.until = Some(now.mono.after(claim.life));
                        }
                    }
                }
            }
            Operation::ReleaseLease { session, generation, owner, resolved }
                if self.live(session, now.mono).is_some() =>
            {
                let claim = claim(session, generation, owner);
                store.release_lease(&claim, resolved).await.unwrap();
                if self.leases.get(&session).is_some_and(|leased| leased.owner == claim.owner) {
                    if resolved {
                        self.leases.remove(&session);
                    } else if let Some(leased) = self.leases.get_mut(&session) {
                        leased.until = None;
                    }
                }
            }
            Operation::Lease { .. } | Operation::RenewLease { .. } | Operation::ReleaseLease { .. } => {}
            Operation::TakeOnce { name, life } => {
                let life = stage.ticks(life);
                let first = store.take_once(OnceName::new("model", &name.to_string()), life, now).await.unwrap();
                prop_assert_eq!(first, self.taken.get(&name).is_none_or(|until| now.mono >= *until));
                if first {
                    self.taken.insert(name, now.mono.after(life));
                }
            }
            Operation::Sweep => store.sweep(now).await.unwrap(),
            Operation::Pass { ticks } => stage.pass(ticks).await,
        }
        Ok(())
    }
}

pub async fn random_operations_agree_with_the_model(stage: Stage) {
    let (kind, timed, handle) = (stage.kind, stage.is_timed(), Handle::current());
    let cases = match kind {
        Kind::Memory | Kind::Cookie => 512,
        Kind::File | Kind::Redis => 48,
    };
    let checking = tokio::task::spawn_blocking(move || {
        let config = Config { cases, failure_persistence: None, max_shrink_iters: 2000, ..Config::default() };
        TestRunner::new(config).run(&operations(timed), |operations| {
            handle.block_on(async {
                let (stage, mut model) = (stage.afresh().await, Model::default());
                for (number, operation) in operations.iter().enumerate() {
                    let step = model.step(&stage, number, operation).await;
                    step.map_err(|error| TestCaseError::fail(format!("{operation:?}: {error}")))?;
                }
                Ok(())
            })
        })
    });
    if let Err(failure) = checking.await.unwrap() {
        panic!("{failure}");
    }
}
