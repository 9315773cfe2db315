//! The store in Redis or Valkey, shared by many gateways.
//!
//! What has to happen at once is a script on keys of one slot (`script.rs`); the names are in `keys.rs`.
//! Only primaries are asked, so what one gateway was told is what the next one reads. What crosses slots keeps
//! this order, so that no login survives the removal of its user:
//!
//! | `create` | `remove_where` |
//! |---|---|
//! | 1. enter the session into its indices | 1. at once: remember the removal, read the index |
//! | 2. write the record | 2. remove the records that it names |
//! | 3. enter again, at once with: was it removed since it began? | |
//!
//! If the removal is remembered before 3, `create` sees it and takes the record away; if after, the index has
//! had the session since 1 and the record is there since 2, so the removal takes it away.
//!
//! An index may name sessions that are over: nobody believes it without reading the record.

mod breaker;
mod connection;
mod fault;
mod invalidation;
mod keys;
mod node;
mod script;
mod settings;
mod topology;

pub use settings::{Address, Mode, RedisProblem, RedisSettings, TlsSettings};

use super::{
    About, Claim, Creation, Filter, Lease, Lookup, OnceName, Page, REMEMBER_REMOVALS, Record, Replacement,
    SessionStore, StoreError,
};
use crate::background::Background;
use crate::clock::{Clock, Mono, Now};
use crate::session::SessionKey;
use crate::session::opened::Opened;
use async_trait::async_trait;
use bytes::Bytes;
use connection::{Dialer, Question};
use fault::Fault;
use invalidation::Links;
use keys::{IndexKeys, Keys, Member, SessionKeys};
use redis::Value;
use script::{CREATE, ENTER, FIND, LEASE, RELEASE, REMOVE, RENEW, REPLACE, REVOKE, Script, TAKE_ONCE, TOUCH};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio_util::task::AbortOnDropHandle;
use topology::Topology;

/// See the module.
pub struct RedisStore {
    topology: Arc<Topology>,
    keys: Arc<Keys>,
    opened: Arc<Opened>,
    unreadable: AtomicU64,
    _tasks: [AbortOnDropHandle<()>; 2],
}

impl RedisStore {
    /// Starts to connect; that no server answers, or refuses us, is logged and goes on being tried.
    /// `opened` is told what other gateways change, and that it is not to be trusted while that is unknown.
    ///
    /// # Errors
    /// Settings that make no sense, and PEM files that cannot be used.
    pub fn new(
        settings: RedisSettings,
        opened: Arc<Opened>,
        background: Background,
        clock: Clock,
    ) -> Result<Arc<RedisStore>, RedisProblem> {
        let keys = Arc::new(Keys::new(&settings.key_prefix));
        let dialer = Arc::new(Dialer::new(settings, background.clone())?);
        let topology = Arc::new(Topology::new(dialer, clock));
        let links = Arc::new(Links::new(Arc::clone(&topology), Arc::clone(&keys), Arc::clone(&opened)));
        let discovery = {
            let topology = Arc::clone(&topology);
            background.run_forever(async move { topology.keep_true().await })
        };
        let tasks = [discovery, background.run_forever(links.keep_up())].map(AbortOnDropHandle::new);
        Ok(Arc::new(RedisStore { topology, keys, opened, unreadable: AtomicU64::new(0), _tasks: tasks }))
    }

    /// How often something that is no record was found under the name of one.
    #[must_use]
    pub fn unreadable(&self) -> u64 {
        self.unreadable.load(Ordering::Relaxed)
    }

    async fn run(
        &self,
        script: &'static Script,
        slot: u16,
        keys: &[&str],
        arguments: &[&[u8]],
    ) -> Result<Value, Fault> {
        self.topology.ask(slot, &Question::Script(script, keys, arguments)).await
    }

    /// The record as it stands, expired or not.
    async fn read(&self, keys: &SessionKeys) -> Result<Reading, Fault> {
        match self.run(&FIND, keys.slot, &[&keys.record, &keys.marker], &[]).await? {
            Value::Int(NOTHING) => Ok(Reading::Nothing),
            Value::Int(ENDED) => Ok(Reading::Over),
            Value::Int(_) => Ok(self.is_unreadable()),
            value => Ok(record_of(value).map_or_else(|| self.is_unreadable(), Reading::Record)),
        }
    }

    fn is_unreadable(&self) -> Reading {
        let count = self.unreadable.fetch_add(1, Ordering::Relaxed) + 1;
        if count.is_power_of_two() {
            tracing::warn!(count, "what is in Redis under the name of a session is none");
        }
        Reading::Nothing
    }

    /// Enters a session into an index: who is in it, and what was removed since the login began.
    async fn enter(
        &self,
        index: &IndexKeys,
        member: &Member,
        began: Mono,
        now: Now,
    ) -> Result<(Vec<Member>, Vec<Filter>), Fault> {
        let (text, life, began) = (member.text(), life(Mono(member.ends), now.mono), began.0.to_string());
        let arguments = [text.as_bytes(), life.as_bytes(), began.as_bytes()];
        let answer = self.run(&ENTER, index.slot, &[&index.members, &index.removals], &arguments).await?;
        let Value::Array(answer) = answer else { return Err(Fault::Protocol) };
        let [members, removals] = <[Value; 2]>::try_from(answer).map_err(|_| Fault::Protocol)?;
        let removals = strings(removals)?.iter().filter_map(|text| filter_of(text)).collect();
        Ok((self.members(index, members, now).await?, removals))
    }

    /// Reads members, and forgets those whose time is over.
    async fn members(&self, index: &IndexKeys, members: Value, now: Now) -> Result<Vec<Member>, Fault> {
        let members = strings(members)?.iter().filter_map(|text| Member::parse(text)).collect::<Vec<_>>();
        let (over, members): (Vec<_>, Vec<_>) = members.into_iter().partition(|member| member.ends <= now.mono.0);
        self.leave(index, &over).await?;
        Ok(members)
    }

    async fn leave(&self, index: &IndexKeys, members: &[Member]) -> Result<(), Fault> {
        if members.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("ZREM");
        command.arg(&index.members);
        members.iter().for_each(|member| {
            command.arg(member.text());
        });
        self.topology.ask(index.slot, &Question::Command(command)).await.map(drop)
    }

    /// Removes the oldest sessions of the same user beyond `most`. `members` is oldest first, the new one among
    /// them: of several logins at once each keeps the same newest ones, even if it is not one of them itself.
    async fn evict(
        &self,
        own: &Member,
        members: Vec<Member>,
        most: usize,
        about: &About,
    ) -> Result<Vec<SessionKey>, Fault> {
        let of_user: Vec<Member> = members.into_iter().filter(|member| member.is_of_same_issuer(own)).collect();
        let most = most.max(1);
        if of_user.len() <= most {
            return Ok(Vec::new());
        }
        let (mut live, mut over) = (Vec::new(), Vec::new());
        for member in of_user {
            match self.read(&self.keys.session(member.key)).await? {
                Reading::Record(_) => live.push(member.key),
                Reading::Over => over.push(member),
                // Another login that has not written its record yet: it counts again when it has.
                Reading::Nothing => {}
            }
        }
        self.leave(&self.keys.of_subject(&about.subject), &over).await?;
        let mut evicted = Vec::new();
        for &key in &live[..live.len().saturating_sub(most)] {
            if self.take(key).await? {
                evicted.push(key);
            }
        }
        Ok(evicted)
    }

    /// Removes a record and what is known of its refresh. Whether it was there.
    async fn take(&self, key: SessionKey) -> Result<bool, Fault> {
        let keys = self.keys.session(key);
        let removed = match self.run(&REMOVE, keys.slot, &[&keys.record, &keys.lease, &keys.refresh], &[]).await? {
            Value::Int(existed) => return Ok(existed == 1),
            Value::BulkString(bytes) => Record::decode(&bytes),
            _ => return Err(Fault::Protocol),
        };
        if let Some(record) = removed {
            let member = Member::new(key, &record.about);
            for index in self.keys.indices_of(&record.about) {
                // It is gone; an index that still names it does no harm.
                let _ = self.leave(&index, std::slice::from_ref(&member)).await;
            }
        }
        Ok(true)
    }

    async fn pick(&self, keys: Vec<SessionKey>, filter: &Filter) -> Result<Vec<(SessionKey, Record)>, Fault> {
        let mut picked = Vec::new();
        for key in keys {
            if let Reading::Record(record) = self.read(&self.keys.session(key)).await?
                && filter.selects(&record.about)
            {
                picked.push((key, record));
            }
        }
        Ok(picked)
    }

    /// The index that has all that a filter selects, if one has.
    fn index_for(&self, filter: &Filter) -> Option<IndexKeys> {
        let of_sid = || filter.sid.as_deref().map(|sid| self.keys.of_sid(sid));
        filter.subject.as_deref().map(|subject| self.keys.of_subject(subject)).or_else(of_sid)
    }

    /// One step of a walk over all keys of all primaries.
    async fn scan(&self, cursor: Option<&str>) -> Result<(Vec<SessionKey>, Option<String>), Fault> {
        let primaries = self.topology.primaries().await?;
        let (shard, position) = match cursor.map(|cursor| cursor.split_once('-')) {
            None => (0, "0"),
            Some(Some((shard, position))) => (shard.parse().unwrap_or(usize::MAX), position),
            Some(None) => (usize::MAX, "0"),
        };
        let Some(primary) = primaries.get(shard) else { return Ok((Vec::new(), None)) };
        let mut command = redis::cmd("SCAN");
        command.arg(position).arg("MATCH").arg(format!("{}*", self.keys.record_prefix())).arg("COUNT").arg(PAGE);
        let answer = primary.ask(&Question::Command(command), false).await?;
        let (position, names): (String, Vec<Vec<u8>>) = redis::from_redis_value(answer).map_err(|_| Fault::Protocol)?;
        let keys = names.iter().filter_map(|name| self.keys.session_of(name)).collect();
        let next = if position != "0" {
            Some(format!("{shard}-{position}"))
        } else {
            (shard + 1 < primaries.len()).then(|| format!("{}-0", shard + 1))
        };
        Ok((keys, next))
    }
}

#[async_trait]
impl SessionStore for RedisStore {
    async fn create(
        &self,
        key: SessionKey,
        record: Record,
        most_per_user: usize,
        now: Now,
    ) -> Result<Creation, StoreError> {
        let about = &record.about;
        let member = Member::new(key, about);
        let indices = self.keys.indices_of(about);
        for index in &indices {
            self.enter(index, &member, about.began, now).await?;
        }
        let keys = self.keys.session(key);
        let [version, seen, expires, ends] =
            [record.version, record.last_seen.0, record.expires.0, about.ends.0].map(|number| number.to_string());
        let (life, marker_life) = (life(record.expires.min(about.ends), now.mono), life(about.ends, now.mono));
        let encoded = record.encode();
        let arguments: [&[u8]; 7] = [
            version.as_bytes(),
            seen.as_bytes(),
            expires.as_bytes(),
            &encoded,
            ends.as_bytes(),
            life.as_bytes(),
            marker_life.as_bytes(),
        ];
        match self.run(&CREATE, keys.slot, &[&keys.record, &keys.marker], &arguments).await? {
            Value::Int(1) => {}
            _ => return Err(StoreError { reason: "name_taken" }),
        }
        let mut of_user = Vec::new();
        for (number, index) in indices.iter().enumerate() {
            let (members, removals) = self.enter(index, &member, about.began, now).await?;
            if removals.iter().any(|filter| filter.selects(about)) {
                self.take(key).await?;
                return Ok(Creation::Revoked);
            }
            if number == 0 {
                of_user = members;
            }
        }
        let evicted = self.evict(&member, of_user, most_per_user, about).await?;
        Ok(Creation::Created { evicted })
    }

    async fn find(&self, key: SessionKey, now: Now) -> Result<Lookup, StoreError> {
        Ok(match self.read(&self.keys.session(key)).await? {
            Reading::Record(record) if now.mono < record.expires => Lookup::Live(record),
            Reading::Record(_) | Reading::Over => Lookup::Ended,
            Reading::Nothing => Lookup::Unknown,
        })
    }

    async fn replace(&self, key: SessionKey, seen: u64, record: Record, now: Now) -> Result<Replacement, StoreError> {
        let keys = self.keys.session(key);
        let about = &record.about;
        let [seen_version, version, seen, expires, ends] =
            [seen, record.version, record.last_seen.0, record.expires.0, about.ends.0].map(|number| number.to_string());
        let (life, marker_life) = (life(record.expires.min(about.ends), now.mono), life(about.ends, now.mono));
        let encoded = record.encode();
        let replace = async |is_indexed: &[u8]| {
            let arguments: [&[u8]; 9] = [
                seen_version.as_bytes(),
                version.as_bytes(),
                seen.as_bytes(),
                expires.as_bytes(),
                &encoded,
                life.as_bytes(),
                ends.as_bytes(),
                marker_life.as_bytes(),
                is_indexed,
            ];
            self.run(&REPLACE, keys.slot, &[&keys.record, &keys.marker], &arguments).await
        };
        let mut answer = replace(b"0").await?;
        if answer == Value::Int(OUTLIVES_INDICES) {
            // Before the record: as long as it lives, a sign-out of its user has to find it.
            let member = Member::new(key, about);
            for index in self.keys.indices_of(about) {
                self.enter(&index, &member, about.began, now).await?;
            }
            answer = replace(b"1").await?;
        }
        match answer {
            Value::Int(1) => Ok(Replacement::Replaced),
            Value::Int(NOTHING) => Ok(Replacement::Gone),
            answer => Ok(match record_of(answer) {
                Some(record) => Replacement::Conflict(record),
                None => {
                    self.is_unreadable();
                    Replacement::Gone
                }
            }),
        }
    }

    async fn touch(&self, key: SessionKey, seen_at: Mono, expires: Mono) -> Result<(), StoreError> {
        let keys = self.keys.session(key);
        let [seen, expires] = [seen_at, expires].map(|at| at.0.to_string());
        self.run(&TOUCH, keys.slot, &[&keys.record], &[seen.as_bytes(), expires.as_bytes()]).await?;
        Ok(())
    }

    async fn remove(&self, key: SessionKey, _: Now) -> Result<bool, StoreError> {
        Ok(self.take(key).await?)
    }

    async fn remove_where(&self, filter: &Filter, now: Now) -> Result<Vec<SessionKey>, StoreError> {
        let Some(index) = self.index_for(filter) else { return Ok(Vec::new()) };
        let at = now.mono.0.to_string();
        let remember = REMEMBER_REMOVALS.as_millis().to_string();
        let removal = text_of(filter);
        let arguments = [removal.as_bytes(), at.as_bytes(), remember.as_bytes()];
        let members = self.run(&REVOKE, index.slot, &[&index.members, &index.removals], &arguments).await?;
        let members = self.members(&index, members, now).await?;
        let mut removed = Vec::new();
        let keys = members.iter().map(|member| member.key).collect();
        for (key, _) in self.pick(keys, filter).await? {
            if self.take(key).await? {
                removed.push(key);
            }
        }
        Ok(removed)
    }

    async fn list(&self, filter: &Filter, cursor: Option<&str>, now: Now) -> Result<Page, StoreError> {
        let (keys, next) = match self.index_for(filter) {
            // As many as one user may have.
            Some(index) => {
                let mut command = redis::cmd("ZRANGE");
                command.arg(&index.members).arg(0).arg(-1);
                let members = self.topology.ask(index.slot, &Question::Command(command)).await?;
                let members = strings(members)?;
                (members.iter().filter_map(|text| Some(Member::parse(text)?.key)).collect(), None)
            }
            None => self.scan(cursor).await?,
        };
        let mut records = self.pick(keys, filter).await?;
        records.retain(|(_, record)| now.mono < record.expires);
        Ok(Page { records, next })
    }

    async fn lease(&self, claim: &Claim, _: Now) -> Result<Lease, StoreError> {
        let keys = self.keys.session(claim.key);
        let [owner, generation, life] = claimed(claim);
        let arguments = [owner.as_bytes(), generation.as_bytes(), life.as_bytes()];
        match self.run(&LEASE, keys.slot, &[&keys.lease, &keys.refresh, &keys.marker], &arguments).await? {
            Value::Int(0) => Ok(Lease::Held),
            Value::Int(granted) => Ok(Lease::Granted { interrupted: granted == 2 }),
            _ => Err(Fault::Protocol.into()),
        }
    }

    async fn renew_lease(&self, claim: &Claim, _: Now) -> Result<bool, StoreError> {
        let keys = self.keys.session(claim.key);
        let [owner, _, life] = claimed(claim);
        let answer =
            self.run(&RENEW, keys.slot, &[&keys.lease, &keys.refresh], &[owner.as_bytes(), life.as_bytes()]).await?;
        Ok(answer == Value::Int(1))
    }

    async fn release_lease(&self, claim: &Claim, resolved: bool) -> Result<(), StoreError> {
        let keys = self.keys.session(claim.key);
        let [owner, ..] = claimed(claim);
        let resolved: &[u8] = if resolved { b"1" } else { b"0" };
        self.run(&RELEASE, keys.slot, &[&keys.lease, &keys.refresh], &[owner.as_bytes(), resolved]).await?;
        Ok(())
    }

    async fn take_once(&self, name: OnceName, life: Duration, _: Now) -> Result<bool, StoreError> {
        let (slot, key) = self.keys.once(&name);
        let life = millis(life);
        let who = format!("{:016x}{:016x}", fastrand::u64(..), fastrand::u64(..));
        Ok(self.run(&TAKE_ONCE, slot, &[&key], &[who.as_bytes(), life.as_bytes()]).await? == Value::Int(1))
    }

    fn len(&self) -> Option<usize> {
        None
    }

    async fn ping(&self) -> Result<(), StoreError> {
        for primary in self.topology.primaries().await? {
            primary.ask(&Question::Command(redis::cmd("PING")), false).await?;
        }
        Ok(())
    }

    /// Nothing to do: every key has a TTL.
    async fn sweep(&self, _: Now) -> Result<(), StoreError> {
        Ok(())
    }

    fn is_durable(&self) -> bool {
        true
    }
}

impl Drop for RedisStore {
    fn drop(&mut self) {
        // Nobody says any more what has changed.
        self.opened.trust(false);
    }
}

enum Reading {
    Record(Record),
    Over,
    Nothing,
}

/// What `FIND` and `REPLACE` answer: the record as it was written, and what a touch has changed since.
fn record_of(value: Value) -> Option<Record> {
    let (version, seen, expires, record): (u64, u64, u64, Bytes) = redis::from_redis_value(value).ok()?;
    let record = Record::decode(&record)?;
    (record.version == version).then_some(Record { last_seen: Mono(seen), expires: Mono(expires), ..record })
}

fn strings(value: Value) -> Result<Vec<Vec<u8>>, Fault> {
    redis::from_redis_value(value).map_err(|_| Fault::Protocol)
}

fn claimed(claim: &Claim) -> [String; 3] {
    [format!("{:032x}", claim.owner), claim.generation.to_string(), millis(claim.life)]
}

/// How long from now until then, as an argument of PX.
fn life(until: Mono, now: Mono) -> String {
    millis(until.since(now))
}

/// A TTL is positive, and the server cannot add one of more than so many years to its time.
fn millis(life: Duration) -> String {
    life.clamp(Duration::from_millis(1), LONGEST_LIFE).as_millis().to_string()
}

fn text_of(filter: &Filter) -> String {
    serde_json::json!([filter.issuer, filter.subject, filter.sid]).to_string()
}

fn filter_of(text: &[u8]) -> Option<Filter> {
    let (issuer, subject, sid) = serde_json::from_slice(text).ok()?;
    Some(Filter { issuer, subject, sid })
}

const NOTHING: i64 = 0;
const ENDED: i64 = 1;
const OUTLIVES_INDICES: i64 = 3;
const PAGE: usize = 100;
const LONGEST_LIFE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
