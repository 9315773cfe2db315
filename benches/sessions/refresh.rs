//! What the gateway adds to a provider's answer, and how soon all who wait have it.

use crate::Failure;
use crate::figures::{Samples, millis, verdict};
use crate::provider::{NAME, TokenEndpoint};
use crate::stage::{DIRECTORY, Kind, Stage};
use latchgate::background::Background;
use latchgate::session::Session;
use latchgate::tokens::{Outage, Renewal, Settings, Tokens};
use std::collections::HashMap;
use std::fmt;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::Instant;

/// Milliseconds.
pub struct Refreshes {
    lines: Vec<Line>,
    /// Of 4 KiB, where the file store is.
    fsync: Samples,
}

struct Line {
    kind: Kind,
    added: Samples,
    woken: Samples,
    spread: Samples,
}

/// A store, and one session that is refreshed again and again.
struct Refresher {
    stage: Stage,
    tokens: Arc<Tokens>,
    session: Arc<Session>,
    endpoint: TokenEndpoint,
}

/// One flight with many waiters, from the provider's answer.
struct Landing {
    first: Duration,
    last: Duration,
}

/// The stores in turn.
pub async fn measure(rounds: usize) -> Result<Refreshes, Failure> {
    let mut refreshers = Vec::new();
    for kind in Kind::ALL {
        let mut refresher = Refresher::new(kind).await?;
        // Connects.
        refresher.refresh().await?;
        refreshers.push(refresher);
    }
    let (mut added, mut landings) = (vec![Vec::new(); refreshers.len()], Vec::new());
    landings.resize_with(refreshers.len(), Vec::new);
    let (file, mut fsyncs) = (tempfile::tempfile_in(DIRECTORY)?, Vec::new());
    for _ in 0..rounds {
        fsyncs.push(millis(fsync(&file)?));
        for (refresher, added) in refreshers.iter_mut().zip(&mut added) {
            added.push(millis(refresher.refresh().await?));
        }
    }
    for _ in 0..rounds.div_ceil(10) {
        for (refresher, landings) in refreshers.iter_mut().zip(&mut landings) {
            landings.push(refresher.refresh_for_all().await?);
        }
    }
    let lines = refreshers.iter().zip(added).zip(landings).map(|((refresher, added), landings)| {
        let times = |of: fn(&Landing) -> Duration| Samples::new(landings.iter().map(of).map(millis).collect());
        let (woken, spread) = (times(|landing| landing.last), times(|landing| landing.last - landing.first));
        Line { kind: refresher.stage.kind, added: Samples::new(added), woken, spread }
    });
    Ok(Refreshes { lines: lines.collect(), fsync: Samples::new(fsyncs) })
}

fn fsync(file: &File) -> Result<Duration, Failure> {
    file.write_all_at(&[fastrand::u8(..); 4096], 0)?;
    let begun = Instant::now();
    file.sync_data()?;
    Ok(begun.elapsed())
}

impl Refresher {
    async fn new(kind: Kind) -> Result<Refresher, Failure> {
        let stage = Stage::of(kind).await?;
        let sessions = stage.gateway().await?;
        let session = stage.open(&sessions, 0).await?;
        let endpoint = TokenEndpoint::start()?;
        let providers = HashMap::from([(Arc::from(NAME), Arc::new(endpoint.provider(&stage.clock)))]);
        let background = Background::on_current_runtime();
        let tokens = Tokens::new(SETTINGS, sessions, providers, stage.clock.clone(), background).into();
        Ok(Refresher { stage, tokens, session, endpoint })
    }

    /// What it took beyond what the provider took: from the request that wants a token to the request that has it.
    async fn refresh(&mut self) -> Result<Duration, Failure> {
        let begun = Instant::now();
        let renewal = self.tokens.renew(&self.session).await;
        let took = begun.elapsed();
        let call = self.endpoint.last_call()?;
        self.session = self.renewed(renewal)?;
        Ok(took.saturating_sub(call.answered - call.arrived))
    }

    /// [`WAITERS`] want the same refresh. Its result is known a little after the provider's answer, so this is
    /// more than they wait for it.
    async fn refresh_for_all(&mut self) -> Result<Landing, Failure> {
        let mut waiters = JoinSet::new();
        for _ in 0..WAITERS {
            let (tokens, session) = (Arc::clone(&self.tokens), Arc::clone(&self.session));
            waiters.spawn(async move {
                let renewal = tokens.renew(&session).await;
                (Instant::now(), renewal)
            });
        }
        let (times, renewals): (Vec<_>, Vec<_>) = waiters.join_all().await.into_iter().unzip();
        let answered = self.endpoint.last_call()?.answered;
        for renewal in renewals {
            self.session = self.renewed(renewal)?;
        }
        let since = |time: Option<&Instant>| time.map(|time| time.duration_since(answered)).unwrap_or_default();
        Ok(Landing { first: since(times.iter().min()), last: since(times.iter().max()) })
    }

    fn renewed(&self, renewal: Renewal) -> Result<Arc<Session>, Failure> {
        let why = match renewal {
            Renewal::Renewed(session) => return Ok(session),
            Renewal::Refused => "refused",
            Renewal::NothingToRenewWith => "no refresh token",
            Renewal::Gone => "the session has ended",
            Renewal::Outage(Outage::Broken) => "broken",
            Renewal::Outage(Outage::Store) => "the store cannot be asked",
            Renewal::Outage(Outage::Provider { .. }) => "not now",
        };
        Err(format!("a refresh on {} failed: {why}", self.stage.kind.name()).into())
    }
}

impl fmt::Display for Refreshes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let heads = ["added to the provider's time, ms: median", "p99", "goal 2 ms"];
        let waiting =
            ["1,000 waiters, provider's answer to the last, ms: median", "most", "first to last", "goal 20 ms"];
        writeln!(
            f,
            "| refresh on | {} | {} |\n|---|---|---|---|---|---|---|---|",
            heads.join(" | "),
            waiting.join(" | ")
        )?;
        for Line { kind, added, woken, spread } in &self.lines {
            let (added_verdict, woken_verdict) =
                (verdict(added.median() < MOST_ADDED), verdict(woken.most() < MOST_WAIT));
            writeln!(
                f,
                "| {} | {:.2} | {:.2} | {added_verdict} | {:.2} | {:.2} | {:.2} | {woken_verdict} |",
                kind.name(),
                added.median(),
                added.p99(),
                woken.median(),
                woken.most(),
                spread.median(),
            )?;
        }
        let (median, p99) = (self.fsync.median(), self.fsync.p99());
        writeln!(
            f,
            "\none fsync of 4 KiB, where the file is: median {median:.2} ms, p99 {p99:.2}; a refresh waits for two"
        )
    }
}

const WAITERS: usize = 1000;
const MOST_ADDED: f64 = 2.0;
const MOST_WAIT: f64 = 20.0;
/// The gateway's defaults.
const SETTINGS: Settings = Settings {
    early: Duration::from_secs(30),
    timeout: Duration::from_secs(10),
    grace: Duration::from_secs(60),
    cooldown: Duration::from_secs(5),
};
