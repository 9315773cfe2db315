//! Connections on which nothing happens. What serves them, buffers and all, is gone meanwhile; a socket, the client's address and the
//! place among `limits.connections` are what is left of them.

use super::worker::stopped;
use std::io;
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};
use tokio_rustls::server::TlsStream;

/// A connection that can be waited for without a buffer.
pub trait Readable: Sync {
    /// Resolves when there may be something to read, be it the end.
    fn readable(&self) -> impl Future<Output = io::Result<()>> + Send;
}

impl Readable for TcpStream {
    async fn readable(&self) -> io::Result<()> {
        TcpStream::readable(self).await
    }
}

impl Readable for UnixStream {
    async fn readable(&self) -> io::Result<()> {
        UnixStream::readable(self).await
    }
}

/// A record that was decrypted already may hold more than was taken of it.
impl Readable for Box<TlsStream<TcpStream>> {
    async fn readable(&self) -> io::Result<()> {
        let (socket, session) = self.get_ref();
        if session.wants_read() { socket.readable().await } else { Ok(()) }
    }
}

/// Whether the client has gone on before `deadline`, and before the gateway stops.
pub async fn goes_on<S: Readable>(stream: &S, deadline: Instant, stop: &watch::Receiver<bool>) -> bool {
    tokio::select! {
        // Who has asked by the time the gateway stops is answered.
        biased;
        readable = stream.readable() => readable.is_ok(),
        () = sleep_until(deadline) => false,
        () = stopped(stop) => false,
    }
}
