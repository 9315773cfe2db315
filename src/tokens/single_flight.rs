//! The single flight: of all who want the same thing at the same time one does it, and all have the result.
//!
//! `tests/model.rs` compiles this very file against a model checker's `Mutex` and runs it in all orders.

use super::Mutex;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, PoisonError};
use tokio::sync::watch;

/// What is under way, by key. A flight leaves this map when its result is known and before it is announced:
/// whoever comes later starts from what the flight has left behind.
pub struct Flights<K: Eq + Hash + Clone, V> {
    most_waiters: usize,
    under_way: Mutex<HashMap<K, Arc<Landing<V>>>>,
}

/// Waits for a result.
pub struct Seat<V>(watch::Receiver<Option<V>>);

/// The duty to bring the flight down. Dropped without [`Pilot::land`], as in a panic, it still frees the place, and
/// whoever waits learns that there is no result.
pub struct Pilot<K: Eq + Hash + Clone, V> {
    flights: Arc<Flights<K, V>>,
    key: K,
    landing: Arc<Landing<V>>,
    result: Option<V>,
}

/// What comes of [`Flights::board`].
pub struct Boarding<K: Eq + Hash + Clone, V> {
    /// A seat.
    pub seat: Seat<V>,
    /// For whoever found no flight under way.
    pub pilot: Option<Pilot<K, V>>,
}

/// As many wait as may.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full;

/// None until the result is known.
type Landing<V> = watch::Sender<Option<V>>;

impl<K: Eq + Hash + Clone, V: Clone> Flights<K, V> {
    /// None under way yet; at most `most_waiters` wait for one of them.
    pub fn new(most_waiters: usize) -> Arc<Flights<K, V>> {
        Arc::new(Flights { most_waiters, under_way: Mutex::new(HashMap::new()) })
    }

    /// A seat in the flight for `key`. Whoever finds none under way is its pilot.
    ///
    /// # Errors
    /// No seat is left.
    pub fn board(self: &Arc<Self>, key: K) -> Result<Boarding<K, V>, Full> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        match under_way.entry(key) {
            Entry::Occupied(flight) if flight.get().receiver_count() >= self.most_waiters => Err(Full),
            Entry::Occupied(flight) => Ok(Boarding { seat: Seat(flight.get().subscribe()), pilot: None }),
            Entry::Vacant(place) => {
                let (landing, seat) = watch::channel(None);
                let landing = Arc::new(landing);
                let key = place.key().clone();
                place.insert(Arc::clone(&landing));
                let pilot = Pilot { flights: Arc::clone(self), key, landing, result: None };
                Ok(Boarding { seat: Seat(seat), pilot: Some(pilot) })
            }
        }
    }
}

impl<V: Clone> Seat<V> {
    /// The result; None when the flight ended without one. May be dropped at any point.
    pub async fn landed(mut self) -> Option<V> {
        self.0.wait_for(Option::is_some).await.ok()?.clone()
    }
}

impl<K: Eq + Hash + Clone, V> Pilot<K, V> {
    /// Frees the place, then tells everybody.
    pub fn land(mut self, result: V) {
        self.result = Some(result);
    }
}

impl<K: Eq + Hash + Clone, V> Drop for Pilot<K, V> {
    fn drop(&mut self) {
        self.flights.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.key);
        if let Some(result) = self.result.take() {
            self.landing.send_replace(Some(result));
        }
    }
}
