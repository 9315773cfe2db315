//! Bodies of the demo: one piece, or a stream of events.

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use std::error::Error;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::time::{Interval, interval};

/// What the demo upstream sends.
#[derive(Debug)]
pub enum DemoBody {
    /// One piece, known beforehand.
    Full(Bytes),
    /// `text/event-stream`.
    Events(Events),
}

/// Ten `tick` events at an even pace, then `done`. It has to be polled within a tokio runtime.
#[derive(Debug)]
pub struct Events {
    pace: Duration,
    ticks: Option<Interval>,
    sent: u32,
}

impl Body for DemoBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let piece = match self.get_mut() {
            DemoBody::Full(bytes) => Some(std::mem::take(bytes)).filter(|bytes| !bytes.is_empty()),
            DemoBody::Events(events) => ready!(events.poll_next(context)),
        };
        Poll::Ready(piece.map(|bytes| Ok(Frame::data(bytes))))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            DemoBody::Full(bytes) => bytes.is_empty(),
            DemoBody::Events(events) => events.sent > EVENTS,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            DemoBody::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            DemoBody::Events(_) => SizeHint::default(),
        }
    }
}

impl Events {
    /// The first event comes at once.
    pub(super) fn every(pace: Duration) -> Events {
        Events { pace, ticks: None, sent: 0 }
    }

    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<Option<Bytes>> {
        if self.sent > EVENTS {
            return Poll::Ready(None);
        }
        ready!(self.ticks.get_or_insert_with(|| interval(self.pace)).poll_tick(context));
        self.sent += 1;
        let event = match self.sent {
            number @ 1..=EVENTS => {
                format!("event: tick\ndata: {{\"number\":{number},\"of\":{EVENTS}}}\n\n")
            }
            _ => "event: done\ndata: {}\n\n".to_owned(),
        };
        Poll::Ready(Some(event.into()))
    }
}

const EVENTS: u32 = 10;

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    #[tokio::test]
    async fn events_come_one_by_one_and_end() {
        let mut body = DemoBody::Events(Events::every(Duration::from_millis(1)));
        let mut events = Vec::new();
        while let Some(frame) = body.frame().await {
            events.push(frame.unwrap().into_data().unwrap());
        }
        assert_eq!(events.len(), 11);
        assert_eq!(events[2], "event: tick\ndata: {\"number\":3,\"of\":10}\n\n");
        assert_eq!(events[10], "event: done\ndata: {}\n\n");
        assert!(body.is_end_stream());
    }

    #[tokio::test]
    async fn one_piece_comes_whole_and_has_a_length() {
        let body = DemoBody::Full(Bytes::from_static(b"hello"));
        assert_eq!(body.size_hint().exact(), Some(5));
        assert_eq!(body.collect().await.unwrap().to_bytes(), "hello");
    }
}
