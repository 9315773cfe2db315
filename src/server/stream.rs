//! What a connection arrives on, and which version of HTTP it speaks.

use super::connection::Place;
use super::tls;
use crate::gateway::Informational;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::sleep;
use tokio_rustls::server::TlsStream;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Version {
    /// HTTP/1.0 and 1.1
    Http1,
    /// HTTP/2
    Http2,
}

/// A connection that can be looked at before it is read.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// HTTP/2 begins with a preface that no HTTP/1 request begins with (RFC 9113 §3.4).
    fn version(&self) -> impl Future<Output = io::Result<Version>> + Send;
}

impl Stream for TcpStream {
    async fn version(&self) -> io::Result<Version> {
        let mut seen = [0; PREFACE.len()];
        let mut pause = Duration::from_millis(1);
        loop {
            let count = self.peek(&mut seen).await?;
            pause = (2 * pause).min(Duration::from_secs(1));
            match recognise(&seen[..count]) {
                Some(version) => return Ok(version),
                // What was seen stays readable, so readiness says nothing about more of it. Longer
                // and longer: clients that send one byte and wait must not cost a core.
                None => sleep(pause).await,
            }
        }
    }
}

impl Stream for Box<TlsStream<TcpStream>> {
    /// The handshake has agreed on one (ALPN, RFC 7301); on none when the client did not ask.
    async fn version(&self) -> io::Result<Version> {
        match self.get_ref().1.alpn_protocol() {
            Some(tls::HTTP2) => Ok(Version::Http2),
            _ => Ok(Version::Http1),
        }
    }
}

impl Stream for UnixStream {
    /// Whoever is on this machine speaks HTTP/1.1 to us.
    async fn version(&self) -> io::Result<Version> {
        Ok(Version::Http1)
    }
}

/// None while it could still become either.
fn recognise(seen: &[u8]) -> Option<Version> {
    let length = seen.len().min(PREFACE.len());
    match seen[..length] == PREFACE[..length] {
        _ if seen.is_empty() => Some(Version::Http1),
        false => Some(Version::Http1),
        true if length == PREFACE.len() => Some(Version::Http2),
        true => None,
    }
}

/// A connection with its place, which it keeps when it becomes a tunnel and leaves HTTP behind.
pub struct Seated<S> {
    pub stream: S,
    pub place: Place,
    informational: Option<Arc<Informational>>,
    /// hyper is in the midst of writing.
    has_unflushed: bool,
}

impl<S> Seated<S> {
    pub fn new(stream: S, place: Place) -> Seated<S> {
        Seated { stream, place, informational: None, has_unflushed: false }
    }

    /// Writes what `informational` holds whenever hyper has written all it had.
    pub fn telling(self, informational: &Arc<Informational>) -> Seated<S> {
        Seated { informational: Some(Arc::clone(informational)), ..self }
    }
}

impl<S: AsyncWrite + Unpin> Seated<S> {
    /// Before hyper writes: nothing of its own is under way when all before was flushed, and what was told came before what it now has.
    fn poll_tell_before_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(informational) = self.informational.as_ref().filter(|informational| informational.is_waiting()) else {
            return Poll::Ready(Ok(()));
        };
        if !self.has_unflushed || informational.has_begun() {
            return informational.poll_write(&mut self.stream, cx);
        }
        if informational.has_ended() {
            informational.drop_waiting();
        }
        Poll::Ready(Ok(()))
    }

    /// hyper flushes when it has written all it had, be it nothing. Once the attempt has ended that may have been the final head.
    fn poll_tell_after_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(informational) = self.informational.as_ref().filter(|informational| informational.is_waiting()) else {
            return Poll::Ready(Ok(()));
        };
        if informational.has_ended() && !informational.has_begun() {
            informational.drop_waiting();
            return Poll::Ready(Ok(()));
        }
        ready!(informational.poll_write(&mut self.stream, cx))?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Seated<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Seated<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_tell_before_write(cx))?;
        self.has_unflushed = true;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_tell_before_write(cx))?;
        self.has_unflushed = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.has_unflushed = false;
        self.poll_tell_after_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_told_apart_by_the_first_bytes() {
        assert_eq!(recognise(PREFACE), Some(Version::Http2));
        assert_eq!(recognise(b"GET / HTTP/1.1\r\n"), Some(Version::Http1));
        assert_eq!(recognise(b"PRI * HTTP/1.1\r\n"), Some(Version::Http1));
        assert_eq!(recognise(b"PRI"), None);
        assert_eq!(recognise(b""), Some(Version::Http1), "it was closed");
    }
}
