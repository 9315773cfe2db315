//! One server: few connections, a time limit for each question, and nobody waits for a server that is down.

use super::breaker::Breaker;
use super::connection::{Connection, Dialer, Purpose, Question};
use super::fault::Fault;
use super::settings::Address;
use crate::clock::Clock;
use redis::Value;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Semaphore, watch};
use tokio::time::timeout;

/// See the module.
pub(super) struct Node {
    pub(super) address: Address,
    dialer: Arc<Dialer>,
    clock: Clock,
    lanes: [Arc<Lane>; LANES],
    turn: AtomicUsize,
    under_way: Semaphore,
    breaker: Breaker,
}

/// Room for one connection, opened by the first who needs it.
#[derive(Default)]
struct Lane {
    state: Mutex<LaneState>,
    /// Counts what was answered here.
    answers: AtomicUsize,
}

#[derive(Default)]
enum LaneState {
    #[default]
    Closed,
    Dialing(watch::Receiver<Option<Dialed>>),
    Open(Arc<Connection>),
}

type Dialed = Result<Arc<Connection>, Fault>;

impl Node {
    pub(super) fn new(address: Address, dialer: Arc<Dialer>, clock: Clock) -> Node {
        Node {
            address,
            dialer,
            clock,
            lanes: Default::default(),
            turn: AtomicUsize::new(0),
            under_way: Semaphore::new(MOST_UNDER_WAY),
            breaker: Breaker::default(),
        }
    }

    /// The answer, within the time limit. The question is put again, once, when the connection breaks: it must do no harm to ask
    /// it twice.
    pub(super) async fn ask(&self, question: &Question<'_>, asking: bool) -> Result<Value, Fault> {
        let limit = self.dialer.settings.timeout;
        let _permit = self.under_way.try_acquire().map_err(|_| Fault::Busy)?;
        if !self.breaker.admit(self.clock.mono(), limit) {
            return Err(Fault::BackingOff);
        }
        let lane = &self.lanes[self.turn.fetch_add(1, Ordering::Relaxed) % LANES];
        let before = lane.answers.load(Ordering::Relaxed);
        let answer = timeout(limit, self.put(lane, question, asking)).await.unwrap_or(Err(Fault::TimedOut));
        match &answer {
            Err(fault) if !fault.is_an_answer() => {
                self.breaker.failed(self.clock.mono());
                // A slow answer is no reason to leave a connection; that nobody got one is.
                if *fault == Fault::TimedOut && lane.answers.load(Ordering::Relaxed) == before {
                    lane.close(None);
                }
            }
            _ => self.breaker.succeeded(),
        }
        // The name may lead somewhere else by now; another user may be meant.
        if matches!(answer, Err(Fault::NotPrimary | Fault::Credentials)) {
            self.close();
        }
        if let Err(fault @ (Fault::Full | Fault::Forbidden | Fault::NotSaving)) = &answer {
            self.dialer.trouble(&format!("{}, operations", self.address), fault.reason(), "");
        }
        answer
    }

    /// Somebody has found it well.
    pub(super) fn is_there(&self) {
        self.breaker.succeeded();
    }

    /// Whoever asks from now on connects again, and learns anew whether this is a primary.
    pub(super) fn close(&self) {
        self.lanes.iter().for_each(|lane| lane.close(None));
    }

    async fn put(&self, lane: &Arc<Lane>, question: &Question<'_>, asking: bool) -> Result<Value, Fault> {
        let mut is_second = false;
        loop {
            let connection = self.connection(lane).await?;
            let fault = match connection.ask(question, asking).await {
                Ok(answer) => {
                    lane.answers.fetch_add(1, Ordering::Relaxed);
                    return Ok(answer);
                }
                Err(error) => Fault::from(&error),
            };
            if fault != Fault::Unreachable {
                lane.answers.fetch_add(1, Ordering::Relaxed);
                return Err(fault);
            }
            lane.close(Some(&connection));
            if std::mem::replace(&mut is_second, true) {
                return Err(fault);
            }
        }
    }

    /// The lane's connection. Several callers wait for the same one to open, which goes on when they do not.
    async fn connection(&self, lane: &Arc<Lane>) -> Dialed {
        let mut dialed = {
            let mut state = lane.state.lock().unwrap_or_else(PoisonError::into_inner);
            match &*state {
                LaneState::Open(connection) if !connection.is_broken() => return Ok(Arc::clone(connection)),
                LaneState::Dialing(dialed) => dialed.clone(),
                LaneState::Closed | LaneState::Open(_) => {
                    let (result, dialed) = watch::channel(None);
                    *state = LaneState::Dialing(dialed.clone());
                    let (lane, dialer, address) = (Arc::clone(lane), Arc::clone(&self.dialer), self.address.clone());
                    self.dialer.background().run_forever(async move {
                        let opened = dialer.dial(&address, Purpose::Requests).await.map(Arc::new);
                        *lane.state.lock().unwrap_or_else(PoisonError::into_inner) =
                            opened.as_ref().map_or(LaneState::Closed, |opened| LaneState::Open(Arc::clone(opened)));
                        let _ = result.send(Some(opened));
                    });
                    dialed
                }
            }
        };
        match dialed.wait_for(Option::is_some).await {
            Ok(dialed) => dialed.clone().unwrap_or(Err(Fault::Unreachable)),
            Err(_) => Err(Fault::Unreachable),
        }
    }
}

impl Lane {
    /// Nobody new uses this connection; None is whichever there is.
    fn close(&self, connection: Option<&Arc<Connection>>) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        if let LaneState::Open(open) = &*state
            && connection.is_none_or(|connection| Arc::ptr_eq(open, connection))
        {
            *state = LaneState::Closed;
        }
    }
}

/// A large answer on one does not hold up those on the other.
const LANES: usize = 2;
/// Beyond this a server is not asked at all.
const MOST_UNDER_WAY: usize = 1024;
