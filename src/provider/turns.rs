//! Whose turn it is to call a provider: many sessions that expire at once are not a flood to it (RF-20).

use super::backend::Backend;
use super::metadata::Metadata;
use std::sync::Arc;
use tokio::sync::{Semaphore, SemaphorePermit, TryAcquireError};

/// A bounded queue, first come, first served.
pub(crate) struct Turns {
    places: Semaphore,
    calls: Semaphore,
}

/// The right to make one call at a time, for as long as this lives.
pub struct Turn<'a> {
    pub(super) with: Refresher<'a>,
    _ahead: Ahead<'a>,
}

/// Who exchanges refresh tokens, with all that it takes to ask.
pub(super) enum Refresher<'a> {
    TokenEndpoint(Arc<Metadata>),
    Backend(&'a Backend),
}

/// A place at the head of the queue.
pub(crate) struct Ahead<'a> {
    _place: SemaphorePermit<'a>,
    _call: SemaphorePermit<'a>,
}

impl Turns {
    /// `calls` at a time; at most `places` call or wait.
    pub(crate) fn new(calls: usize, places: usize) -> Turns {
        Turns { places: Semaphore::new(places), calls: Semaphore::new(calls) }
    }

    /// Waits for the turn. None when the queue is full.
    pub(crate) async fn next(&self) -> Option<Ahead<'_>> {
        let place = match self.places.try_acquire() {
            Ok(place) => place,
            Err(TryAcquireError::NoPermits | TryAcquireError::Closed) => return None,
        };
        Some(Ahead { _place: place, _call: self.calls.acquire().await.ok()? })
    }
}

impl<'a> Turn<'a> {
    pub(super) fn new(with: Refresher<'a>, ahead: Ahead<'a>) -> Turn<'a> {
        Turn { with, _ahead: ahead }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Mutex;

    #[tokio::test]
    async fn rf_20_first_come_first_served_and_no_more_than_fit() {
        let (turns, served) = (Arc::new(Turns::new(2, 5)), Arc::new(Mutex::new(Vec::new())));
        let first = [turns.next().await.unwrap(), turns.next().await.unwrap()];
        let mut waiting = tokio::task::JoinSet::new();
        for number in 0..3 {
            let (turns, served) = (Arc::clone(&turns), Arc::clone(&served));
            waiting.spawn(async move {
                let turn = turns.next().await.unwrap();
                served.lock().unwrap().push(number);
                tokio::task::yield_now().await;
                drop(turn);
            });
            tokio::task::yield_now().await;
        }
        assert!(turns.next().await.is_none(), "the queue is full");
        drop(first);
        while waiting.join_next().await.is_some() {}
        assert_eq!(*served.lock().unwrap(), [0, 1, 2]);
        assert!(turns.next().await.is_some());
    }
}
