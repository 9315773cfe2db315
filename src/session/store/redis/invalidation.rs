//! What other gateways change, as every primary tells it (`CLIENT TRACKING … BCAST`, RESP3 pushes).
//!
//! A link that is silent says nothing of what changed, so each is asked all the time; while any primary's link is not known
//! to be up, [`Opened`] is told that nothing in it counts. An answer proves that all that was pushed before has arrived.

use super::connection::{Connection, Purpose, Question};
use super::fault::Fault;
use super::keys::Keys;
use super::node::Node;
use super::settings::Address;
use super::topology::Topology;
use crate::session::opened::Opened;
use redis::{PushInfo, PushKind, Value};
use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use tokio_util::task::AbortOnDropHandle;

/// The links to all primaries.
pub(super) struct Links {
    topology: Arc<Topology>,
    keys: Arc<Keys>,
    opened: Arc<Opened>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    wanted: HashSet<Address>,
    up: HashSet<Address>,
    is_trusted: bool,
    /// Servers whose policy was looked at.
    examined: HashSet<Address>,
}

impl Links {
    /// Nothing is trusted at first.
    pub(super) fn new(topology: Arc<Topology>, keys: Arc<Keys>, opened: Arc<Opened>) -> Links {
        opened.trust(false);
        Links { topology, keys, opened, state: Mutex::default() }
    }

    /// Keeps a link to every primary, for as long as it is polled.
    pub(super) async fn keep_up(self: Arc<Links>) {
        let mut map = self.topology.subscribe();
        let mut following: HashMap<Address, AbortOnDropHandle<()>> = HashMap::new();
        loop {
            let primaries = map.borrow_and_update().primaries();
            let wanted: HashSet<Address> = primaries.iter().map(|node| node.address.clone()).collect();
            following.retain(|address, _| wanted.contains(address));
            self.settle(|state| {
                state.up.retain(|address| wanted.contains(address));
                state.wanted = wanted;
            });
            for node in primaries {
                following.entry(node.address.clone()).or_insert_with(|| {
                    let work = Arc::clone(&self).follow_forever(node);
                    AbortOnDropHandle::new(self.topology.dialer().background().run_forever(work))
                });
            }
            if map.changed().await.is_err() {
                return;
            }
        }
    }

    async fn follow_forever(self: Arc<Links>, node: Arc<Node>) {
        let mut pause = SHORTEST_PAUSE;
        loop {
            let (was_up, fault) = self.follow(&node).await;
            self.settle(|state| {
                state.up.remove(&node.address);
            });
            self.topology.is_stale();
            pause = match fault {
                Fault::NoResp3 | Fault::Forbidden | Fault::Protocol => {
                    let detail = "it cannot say what changes: every request asks it";
                    self.topology.dialer().trouble(&subject(&node), "no_invalidation", detail);
                    UNABLE_PAUSE
                }
                _ if was_up => SHORTEST_PAUSE,
                _ => (pause * 2).min(LONGEST_PAUSE),
            };
            sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0)).await;
        }
    }

    /// Listens until the link fails: whether it was ever up, and why it failed.
    async fn follow(&self, node: &Node) -> (bool, Fault) {
        let link = match self.open(node).await {
            Ok(link) => link,
            Err(fault) => return (false, fault),
        };
        node.is_there();
        self.settle(|state| {
            state.up.insert(node.address.clone());
        });
        self.topology.dialer().well(&subject(node));
        self.examine(node, &link).await;
        loop {
            tokio::select! {
                () = link.broken() => return (true, Fault::Unreachable),
                () = sleep(HEARTBEAT) => {}
            }
            match timeout(ANSWER, link.check_primary()).await {
                Ok(Ok(())) => node.is_there(),
                Ok(Err(fault)) => {
                    if fault == Fault::NotPrimary {
                        node.close();
                    }
                    return (true, fault);
                }
                Err(_) => return (true, Fault::TimedOut),
            }
        }
    }

    async fn open(&self, node: &Node) -> Result<Connection, Fault> {
        let (keys, opened) = (Arc::clone(&self.keys), Arc::clone(&self.opened));
        let purpose = Purpose::Pushes(Box::new(move |push| deliver(&push, &keys, &opened)));
        let link = self.topology.dialer().dial(&node.address, purpose).await?;
        let mut tracking = redis::cmd("CLIENT");
        tracking.arg("TRACKING").arg("ON").arg("BCAST").arg("PREFIX").arg(self.keys.record_prefix());
        match timeout(ANSWER, link.ask(&Question::Command(tracking), false)).await {
            Ok(Ok(_)) => Ok(link),
            Ok(Err(error)) => Err(Fault::from(&error)),
            Err(_) => Err(Fault::TimedOut),
        }
    }

    /// Warns of a server that may drop sessions when its memory is full. Says nothing when it may not be asked.
    async fn examine(&self, node: &Node, link: &Connection) {
        let is_first = self.state.lock().unwrap_or_else(PoisonError::into_inner).examined.insert(node.address.clone());
        if !is_first {
            return;
        }
        let mut question = redis::cmd("INFO");
        question.arg("memory");
        let Ok(Ok(answer)) = timeout(ANSWER, link.ask(&Question::Command(question), false)).await else { return };
        let Ok(text) = redis::from_redis_value::<String>(answer) else { return };
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        if let (Some(limit), Some(policy)) = (field("maxmemory"), field("maxmemory_policy"))
            && limit != "0"
            && policy != "noeviction"
        {
            tracing::warn!(
                redis = %node.address,
                policy,
                "maxmemory-policy lets Redis drop live sessions when its memory is full: noeviction does not"
            );
        }
    }

    fn settle(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        let is_trusted = !state.wanted.is_empty() && state.wanted.is_subset(&state.up);
        if is_trusted != state.is_trusted {
            state.is_trusted = is_trusted;
            self.opened.trust(is_trusted);
        }
    }
}

/// `invalidate` and a list of keys; no list when everything was flushed.
fn deliver(push: &PushInfo, keys: &Keys, opened: &Opened) {
    if push.kind != PushKind::Invalidate {
        return;
    }
    match push.data.first() {
        Some(Value::Array(names)) => {
            for name in names {
                match name {
                    Value::BulkString(name) => {
                        if let Some(key) = keys.session_of(name) {
                            opened.changed(key);
                        }
                    }
                    _ => opened.all_changed(),
                }
            }
        }
        _ => opened.all_changed(),
    }
}

fn subject(node: &Node) -> String {
    format!("{}, invalidation", node.address)
}

/// With [`ANSWER`]: a logout elsewhere is known here within a second, even when the link dies without a word.
const HEARTBEAT: Duration = Duration::from_millis(200);
const ANSWER: Duration = Duration::from_millis(500);
const SHORTEST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);
const UNABLE_PAUSE: Duration = Duration::from_secs(60);
