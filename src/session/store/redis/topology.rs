//! Which server is asked: the primary of a slot. Who that is can change at any time; sentinels and cluster nodes know.

use super::connection::{Connection, Dialer, Purpose, Question};
use super::fault::Fault;
use super::keys::SLOTS;
use super::node::Node;
use super::settings::{Address, Mode};
use crate::clock::Clock;
use redis::Value;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

/// The primaries, as far as they are known.
pub(super) struct Topology {
    dialer: Arc<Dialer>,
    clock: Clock,
    nodes: Mutex<HashMap<Address, Arc<Node>>>,
    map: watch::Sender<Arc<Map>>,
    /// What is known has turned out wrong.
    stale: Notify,
}

/// Who has which slots. Without a cluster one server has all.
#[derive(Default)]
pub(super) struct Map {
    shards: Vec<Shard>,
}

#[derive(Clone)]
struct Shard {
    first: u16,
    last: u16,
    primary: Arc<Node>,
}

impl Map {
    /// Every primary once, in the order of their first slots.
    pub(super) fn primaries(&self) -> Vec<Arc<Node>> {
        let mut primaries: Vec<Arc<Node>> = Vec::new();
        for shard in &self.shards {
            if primaries.iter().all(|known| known.address != shard.primary.address) {
                primaries.push(Arc::clone(&shard.primary));
            }
        }
        primaries
    }

    fn primary_of(&self, slot: u16) -> Option<Arc<Node>> {
        let shard = self.shards.iter().find(|shard| (shard.first..=shard.last).contains(&slot))?;
        Some(Arc::clone(&shard.primary))
    }
}

impl Topology {
    pub(super) fn new(dialer: Arc<Dialer>, clock: Clock) -> Topology {
        let map = watch::Sender::new(Arc::default());
        let topology = Topology { dialer, clock, nodes: Mutex::default(), map, stale: Notify::new() };
        if let Mode::Single(address) = &topology.dialer.settings.mode {
            topology.publish(vec![(0, SLOTS - 1, address.clone())]);
        }
        topology
    }

    /// Asks the primary of a slot, and follows where it is sent.
    pub(super) async fn ask(&self, slot: u16, question: &Question<'_>) -> Result<Value, Fault> {
        let mut node = self.primary_of(slot).await?;
        let mut asking = false;
        for _ in 0..MOST_REDIRECTIONS {
            match node.ask(question, asking).await {
                Err(Fault::Moved(Some(target))) => {
                    self.is_stale();
                    (node, asking) = (self.node(&target), false);
                }
                Err(Fault::Ask(Some(target))) => (node, asking) = (self.node(&target), true),
                Err(fault) => {
                    if matches!(fault, Fault::Moved(_) | Fault::NotPrimary | Fault::Unreachable | Fault::TimedOut) {
                        self.is_stale();
                    }
                    return Err(fault);
                }
                Ok(answer) => return Ok(answer),
            }
        }
        Err(Fault::NotPrimary)
    }

    /// All primaries, once any are known.
    pub(super) async fn primaries(&self) -> Result<Vec<Arc<Node>>, Fault> {
        Ok(self.known().await?.primaries())
    }

    /// Is told of every change.
    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Map>> {
        self.map.subscribe()
    }

    /// Asks for the present state of things.
    pub(super) fn is_stale(&self) {
        self.stale.notify_one();
    }

    pub(super) fn dialer(&self) -> &Arc<Dialer> {
        &self.dialer
    }

    /// Keeps the map true, for as long as it is polled.
    pub(super) async fn keep_true(&self) {
        let mut known = HashMap::new();
        let mut seed = 0;
        loop {
            let found = match &self.dialer.settings.mode {
                Mode::Single(_) => return,
                Mode::Sentinel { nodes, master, username, password } => {
                    let purpose = || Purpose::Sentinel(username.as_deref(), password.as_ref());
                    self.ask_sentinels(&mut known, nodes, master, purpose).await
                }
                Mode::Cluster(seeds) => {
                    seed += 1;
                    self.ask_cluster(&mut known, seeds, seed).await
                }
            };
            if let Some(shards) = found {
                self.publish(shards);
            }
            sleep(SHORTEST_INTERVAL).await;
            let _ = timeout(INTERVAL, self.stale.notified()).await;
        }
    }

    async fn primary_of(&self, slot: u16) -> Result<Arc<Node>, Fault> {
        self.known().await?.primary_of(slot).ok_or(Fault::NotReady)
    }

    async fn known(&self) -> Result<Arc<Map>, Fault> {
        let mut map = self.map.subscribe();
        let known = timeout(self.dialer.settings.timeout, map.wait_for(|map| !map.shards.is_empty())).await;
        match known {
            Ok(Ok(map)) => Ok(Arc::clone(&map)),
            _ => Err(Fault::Unreachable),
        }
    }

    fn node(&self, address: &Address) -> Arc<Node> {
        let mut nodes = self.nodes.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Arc::new(Node::new(address.clone(), Arc::clone(&self.dialer), self.clock.clone()));
        Arc::clone(nodes.entry(address.clone()).or_insert_with(new))
    }

    fn publish(&self, mut shards: Vec<(u16, u16, Address)>) {
        shards.sort();
        let is = |map: &Map| {
            let known = map.shards.iter().map(|shard| (shard.first, shard.last, &shard.primary.address));
            known.eq(shards.iter().map(|(first, last, address)| (*first, *last, address)))
        };
        if is(&self.map.borrow()) {
            return;
        }
        let shards: Vec<Shard> = shards
            .iter()
            .map(|(first, last, address)| Shard { first: *first, last: *last, primary: self.node(address) })
            .collect();
        self.nodes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|address, _| shards.iter().any(|shard| shard.primary.address == *address));
        let map = Map { shards };
        let primaries: Vec<String> = map.primaries().iter().map(|node| node.address.to_string()).collect();
        tracing::info!(primaries = primaries.join(" "), "where Redis is");
        self.map.send_replace(Arc::new(map));
    }

    /// What the sentinel with the newest configuration says.
    async fn ask_sentinels<'a>(
        &'a self,
        known: &mut HashMap<Address, Arc<Connection>>,
        sentinels: &[Address],
        master: &str,
        purpose: impl Fn() -> Purpose<'a>,
    ) -> Option<Vec<(u16, u16, Address)>> {
        let mut asked = JoinSet::new();
        for sentinel in sentinels {
            let connection = match self.connection(known, sentinel, purpose()).await {
                Some(connection) => connection,
                None => continue,
            };
            let (sentinel, mut question) = (sentinel.clone(), redis::cmd("SENTINEL"));
            question.arg("MASTER").arg(master);
            asked.spawn(async move {
                let answer = timeout(ANSWER, connection.ask(&Question::Command(question), false)).await;
                (sentinel, answer)
            });
        }
        let mut newest: Option<(u64, Address)> = None;
        while let Some(Ok((sentinel, answer))) = asked.join_next().await {
            match answer {
                Ok(Ok(answer)) => {
                    let named = primary_named(&answer);
                    newest = newest.max(named);
                }
                Ok(Err(error)) if Fault::from(&error).is_an_answer() => {
                    let detail = error.detail().unwrap_or_default();
                    self.dialer.trouble(&format!("sentinel {sentinel}"), "no_such_master", detail);
                }
                _ => {
                    known.remove(&sentinel);
                }
            }
        }
        let (_, address) = newest?;
        Some(vec![(0, SLOTS - 1, address)])
    }

    /// What some node says; each time it is another one's turn first.
    async fn ask_cluster(
        &self,
        known: &mut HashMap<Address, Arc<Connection>>,
        seeds: &[Address],
        turn: usize,
    ) -> Option<Vec<(u16, u16, Address)>> {
        let mut nodes: Vec<Address> = self.map.borrow().primaries().iter().map(|node| node.address.clone()).collect();
        nodes.extend(seeds.iter().cloned());
        let turn = turn % nodes.len().max(1);
        nodes.rotate_left(turn);
        known.retain(|address, _| nodes.contains(address));
        for address in nodes {
            let Some(connection) = self.connection(known, &address, Purpose::Topology).await else { continue };
            let mut question = redis::cmd("CLUSTER");
            question.arg("SLOTS");
            match timeout(ANSWER, connection.ask(&Question::Command(question), false)).await {
                Ok(Ok(answer)) => match shards_named(&answer, &address) {
                    Some(shards) if !shards.is_empty() => return Some(shards),
                    _ => self.dialer.trouble(&format!("cluster node {address}"), "no_slots", ""),
                },
                Ok(Err(error)) if Fault::from(&error).is_an_answer() => {
                    let detail = error.detail().unwrap_or_default();
                    self.dialer.trouble(&format!("cluster node {address}"), "no_slots", detail);
                }
                _ => {
                    known.remove(&address);
                }
            }
        }
        None
    }

    async fn connection(
        &self,
        known: &mut HashMap<Address, Arc<Connection>>,
        address: &Address,
        purpose: Purpose<'_>,
    ) -> Option<Arc<Connection>> {
        known.retain(|_, connection| !connection.is_broken());
        if let Some(connection) = known.get(address) {
            return Some(Arc::clone(connection));
        }
        let connection = Arc::new(timeout(ANSWER, self.dialer.dial(address, purpose)).await.ok()?.ok()?);
        known.insert(address.clone(), Arc::clone(&connection));
        Some(connection)
    }
}

/// `SENTINEL MASTER`: names and values in turn.
fn primary_named(answer: &Value) -> Option<(u64, Address)> {
    let Value::Array(fields) = answer else { return None };
    let value = |name: &str| {
        let at = fields.chunks_exact(2).find(|pair| text(&pair[0]) == Some(name))?;
        text(&at[1])
    };
    let port = value("port")?.parse().ok()?;
    Some((value("config-epoch")?.parse().ok()?, Address::Tcp(value("ip")?.to_ascii_lowercase(), port)))
}

/// `CLUSTER SLOTS`: first slot, last slot, the primary, its replicas. A node without a name is where it was asked.
fn shards_named(answer: &Value, asked: &Address) -> Option<Vec<(u16, u16, Address)>> {
    let Value::Array(ranges) = answer else { return None };
    let shard = |range: &Value| {
        let Value::Array(range) = range else { return None };
        let [Value::Int(first), Value::Int(last), Value::Array(primary), ..] = &range[..] else { return None };
        let [host, Value::Int(port), ..] = &primary[..] else { return None };
        let host = match (text(host), asked) {
            (Some(host), _) if !host.is_empty() && host != "?" => host.to_ascii_lowercase(),
            (_, Address::Tcp(host, _)) => host.clone(),
            (_, Address::Unix(_)) => return None,
        };
        let port = u16::try_from(*port).ok()?;
        Some((u16::try_from(*first).ok()?, u16::try_from(*last).ok()?, Address::Tcp(host, port)))
    };
    ranges.iter().map(shard).collect()
}

fn text(value: &Value) -> Option<&str> {
    match value {
        Value::BulkString(bytes) => std::str::from_utf8(bytes).ok(),
        Value::SimpleString(text) => Some(text),
        _ => None,
    }
}

const MOST_REDIRECTIONS: usize = 4;
/// Other gateways may have moved on to a new primary: until we know it, our opened sessions may be old.
const INTERVAL: Duration = Duration::from_millis(400);
const SHORTEST_INTERVAL: Duration = Duration::from_millis(100);
const ANSWER: Duration = Duration::from_millis(400);

#[cfg(test)]
mod tests {
    use super::*;

    fn bulk(text: &str) -> Value {
        Value::BulkString(text.into())
    }

    #[test]
    fn the_newest_configuration_names_the_primary() {
        let answer = |ip: &str, epoch: &str| {
            Value::Array(["name", "m", "ip", ip, "port", "6379", "config-epoch", epoch].map(bulk).into())
        };
        let old = primary_named(&answer("10.0.0.1", "9"));
        let new = primary_named(&answer("10.0.0.2", "10"));
        assert_eq!(old.max(new), Some((10, Address::Tcp("10.0.0.2".into(), 6379))));
        assert_eq!(primary_named(&Value::Nil), None);
        assert_eq!(primary_named(&Value::Array(vec![bulk("ip")])), None);
    }

    #[test]
    fn shards_are_read_and_nonsense_is_not() {
        let node = |host: Value| Value::Array(vec![host, Value::Int(7001), bulk("id")]);
        let range = |host: Value| Value::Array(vec![Value::Int(0), Value::Int(99), node(host), node(bulk("replica"))]);
        let asked = Address::Tcp("seed".into(), 7000);
        let read = |answer: Value| shards_named(&Value::Array(vec![answer]), &asked);
        assert_eq!(read(range(bulk("a"))), Some(vec![(0, 99, Address::Tcp("a".into(), 7001))]));
        assert_eq!(read(range(Value::Nil)), Some(vec![(0, 99, Address::Tcp("seed".into(), 7001))]));
        assert_eq!(read(Value::Int(3)), None);
        assert_eq!(read(Value::Array(vec![Value::Int(-1), Value::Int(99), node(bulk("a"))])), None);
    }
}
