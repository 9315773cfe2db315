//! WebSocket tunnels: after the 101 the bytes go through, in both directions, until either side
//! closes, until the session they were opened with ends (close code 1008, RFC 6455 §7.4.1), or until
//! nothing has come for long or the gateway stops (1001).

use crate::session::opened::Hold;
use crate::upstream::Duplex;
use bytes::BytesMut;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadHalf, WriteHalf};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// The tunnels of one worker. They live on the worker that holds both connections.
#[derive(Clone)]
pub struct Tunnels {
    open: TaskTracker,
    stop: watch::Receiver<bool>,
    idle_timeout: Duration,
}

impl Tunnels {
    /// None yet; they close when `stop` turns true, and each when nothing has come from either side for `idle_timeout`.
    #[must_use]
    pub fn new(stop: watch::Receiver<bool>, idle_timeout: Duration) -> Tunnels {
        Tunnels { open: TaskTracker::new(), stop, idle_timeout }
    }

    /// Joins the two sides once the client's has switched.
    pub fn open(&self, client: OnUpgrade, upstream: Box<dyn Duplex>, session: Option<Hold>) {
        let (end, idle_timeout) = (self.end(session), self.idle_timeout);
        self.open.spawn(async move {
            let Ok(client) = client.await else { return };
            let moved = AtomicU64::new(0);
            let end = async {
                tokio::select! {
                    code = end => code,
                    () = quiet(&moved, idle_timeout) => GOING_AWAY,
                }
            };
            // A side that breaks off ends the other; there is nobody to tell.
            let _ = pass_until(end, TokioIo::new(client), upstream, &moved).await;
        });
    }

    /// Resolves when what stays open must end, with the close code that says why: its session has ended, or the gateway stops.
    pub fn end(&self, session: Option<Hold>) -> impl Future<Output = u16> + Send + use<> {
        let mut stop = self.stop.clone();
        async move {
            tokio::select! {
                () = ended(session) => POLICY_VIOLATION,
                _ = stop.wait_for(|stop| *stop) => GOING_AWAY,
            }
        }
    }

    /// Resolves when all have closed, after the worker was told to stop.
    pub async fn closed(&self) {
        self.open.close();
        self.open.wait().await;
    }
}

async fn ended(session: Option<Hold>) {
    match session {
        Some(session) => session.ended().await,
        None => std::future::pending().await,
    }
}

/// Resolves when `moved` has not changed for `within`, or a little longer: looking now and then costs less than a timer for each piece.
async fn quiet(moved: &AtomicU64, within: Duration) {
    let (mut seen, mut looks) = (moved.load(Ordering::Relaxed), 0);
    while looks < LOOKS {
        sleep(within / LOOKS).await;
        let now = moved.load(Ordering::Relaxed);
        looks = if now == seen { looks + 1 } else { 0 };
        seen = now;
    }
}

type Client = TokioIo<Upgraded>;
type Upstream = Box<dyn Duplex>;

async fn pass_until(
    end: impl Future<Output = u16>,
    client: Client,
    upstream: Upstream,
    moved: &AtomicU64,
) -> io::Result<()> {
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let mut downward = Downward::default();
    let up = async {
        tokio::io::copy(&mut from_client, &mut Counted { to: &mut to_upstream, moved }).await?;
        to_upstream.shutdown().await
    };
    let down = async {
        downward.pass(&mut from_upstream, &mut to_client, moved).await?;
        to_client.shutdown().await
    };
    let code = tokio::select! {
        passed = async { tokio::try_join!(up, down) } => return passed.map(drop),
        code = end => code,
    };
    let farewell = async {
        // A close frame may not stand in the middle of another one.
        downward.finish_frame(&mut from_upstream, &mut to_client).await?;
        if !downward.frames.at_boundary() {
            return Ok(());
        }
        let [high, low] = code.to_be_bytes();
        to_client.write_all(&[CLOSE, 2, high, low]).await
    };
    // A client that does not read hears nothing of it, and is not waited for.
    let _: Result<io::Result<()>, _> = timeout(FAREWELL_WITHIN, farewell).await;
    to_client.shutdown().await
}

/// To the upstream, counting what moves.
struct Counted<'a> {
    to: &'a mut WriteHalf<Upstream>,
    moved: &'a AtomicU64,
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.moved.fetch_add(1, Ordering::Relaxed);
        Pin::new(&mut *this.to).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().to).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.get_mut().to).poll_shutdown(cx)
    }
}

/// From the upstream to the client. What was read and not yet written survives when a pass is given up.
#[derive(Default)]
struct Downward {
    pending: BytesMut,
    frames: Frames,
}

impl Downward {
    /// Until the upstream closes.
    async fn pass(
        &mut self,
        from: &mut ReadHalf<Upstream>,
        to: &mut WriteHalf<Client>,
        moved: &AtomicU64,
    ) -> io::Result<()> {
        while self.fill(from, to).await? {
            moved.fetch_add(1, Ordering::Relaxed);
            let written = to.write(&self.pending).await?;
            self.passed(written)?;
        }
        Ok(())
    }

    /// Until the frame that was begun is whole.
    async fn finish_frame(&mut self, from: &mut ReadHalf<Upstream>, to: &mut WriteHalf<Client>) -> io::Result<()> {
        while !self.frames.at_boundary() && self.fill(from, to).await? {
            let most = usize::try_from(self.frames.payload_left).unwrap_or(usize::MAX).clamp(1, self.pending.len());
            let written = to.write(&self.pending[..most]).await?;
            self.passed(written)?;
        }
        Ok(())
    }

    async fn fill(&mut self, from: &mut ReadHalf<Upstream>, to: &mut WriteHalf<Client>) -> io::Result<bool> {
        if self.pending.is_empty() {
            to.flush().await?;
            self.pending.reserve(PIECE);
            from.read_buf(&mut self.pending).await?;
        }
        Ok(!self.pending.is_empty())
    }

    fn passed(&mut self, written: usize) -> io::Result<()> {
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.frames.advance(&self.pending.split_to(written));
        Ok(())
    }
}

/// Where in a frame the bytes are (RFC 6455 §5.2).
#[derive(Debug, Default)]
struct Frames {
    header: Vec<u8>,
    payload_left: u64,
}

impl Frames {
    fn at_boundary(&self) -> bool {
        self.header.is_empty() && self.payload_left == 0
    }

    fn advance(&mut self, mut bytes: &[u8]) {
        while let Some((&first, rest)) = bytes.split_first() {
            if self.payload_left > 0 {
                let skipped = usize::try_from(self.payload_left).unwrap_or(usize::MAX).min(bytes.len());
                self.payload_left -= skipped as u64;
                bytes = &bytes[skipped..];
                continue;
            }
            self.header.push(first);
            bytes = rest;
            if let Some(payload) = payload_length(&self.header) {
                self.payload_left = payload;
                self.header.clear();
            }
        }
    }
}

/// The length that a whole frame header announces; None while it is not whole.
fn payload_length(header: &[u8]) -> Option<u64> {
    let (&flags, rest) = header.get(1..)?.split_first()?;
    let mask = if flags & 0x80 == 0 { 0 } else { 4 };
    let (length, extended) = match flags & 0x7f {
        126 => (u64::from(u16::from_be_bytes(*rest.first_chunk()?)), 2),
        127 => (u64::from_be_bytes(*rest.first_chunk()?), 8),
        short => (u64::from(short), 0),
    };
    (rest.len() == extended + mask).then_some(length)
}

/// FIN, opcode 8.
const CLOSE: u8 = 0x88;
const POLICY_VIOLATION: u16 = 1008;
const GOING_AWAY: u16 = 1001;
/// How often a tunnel is looked at before it counts as idle.
const LOOKS: u32 = 4;
const FAREWELL_WITHIN: Duration = Duration::from_secs(2);
const PIECE: usize = 16 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn frame(length: usize, masked: bool) -> Vec<u8> {
        let mask = if masked { 0x80 } else { 0 };
        let mut frame = vec![0x82];
        match length {
            0..126 => frame.push(mask | length as u8),
            126..65536 => {
                frame.push(mask | 126);
                frame.extend((length as u16).to_be_bytes());
            }
            _ => {
                frame.push(mask | 127);
                frame.extend((length as u64).to_be_bytes());
            }
        }
        frame.extend(vec![0; length + if masked { 4 } else { 0 }]);
        frame
    }

    proptest! {
        #[test]
        fn boundaries_are_seen_however_the_bytes_arrive(
            lengths in proptest::collection::vec(prop_oneof![0..200_usize, 65_500..65_600_usize], 1..4),
            masked: bool,
            step in 1..70_000_usize,
        ) {
            let whole: Vec<Vec<u8>> = lengths.iter().map(|&length| frame(length, masked)).collect();
            let bytes = whole.concat();
            let mut frames = Frames::default();
            for piece in bytes.chunks(step) {
                frames.advance(piece);
            }
            prop_assert!(frames.at_boundary());
            let mut frames = Frames::default();
            frames.advance(&bytes[..bytes.len() - 1]);
            prop_assert!(!frames.at_boundary());
        }
    }
}
