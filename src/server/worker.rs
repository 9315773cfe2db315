//! One worker: one thread, one runtime, its own sockets, its own connections to upstreams.

use super::Bound;
use super::connection::Places;
use super::opening;
use super::tls::Terminator;
use crate::gateway::{Gateway, Limits, Tunnels};
use ipnet::IpNet;
use std::future::Future;
use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::task::TaskTracker;

/// What every connection of a worker shares.
pub struct Door {
    /// The request path.
    pub gateway: Gateway,
    /// Whose forwarded headers count.
    pub trusted_proxies: Vec<IpNet>,
    /// Whether connections by TCP begin with a PROXY header.
    pub proxy_protocol: bool,
    /// Ends TLS on connections by TCP.
    pub tls: Option<Arc<Terminator>>,
    /// Bounds.
    pub limits: Limits,
    /// WebSockets, which have left HTTP behind.
    pub tunnels: Tunnels,
    /// Open connections of all workers.
    pub places: Arc<Places>,
    /// What is served when there is no place left.
    pub logout_path: String,
    /// Turns true when the process is to stop.
    pub stop: watch::Receiver<bool>,
}

/// Accepts until told to stop, then lets requests finish; no longer than `drain`. Answers whether
/// all did.
pub async fn serve(sockets: Vec<Bound>, door: Door, drain: Duration) -> io::Result<bool> {
    let door = Arc::new(door);
    let connections = TaskTracker::new();
    let mut accepting = Vec::new();
    for socket in sockets {
        let (door, connections) = (Arc::clone(&door), connections.clone());
        accepting.push(match socket {
            Bound::Tcp(socket) => {
                let socket = TcpListener::from_std(socket)?;
                tokio::spawn(async move { accept_tcp(&socket, &door, &connections).await })
            }
            Bound::Unix(socket) => {
                let socket = UnixListener::from_std(socket)?;
                tokio::spawn(async move { accept_unix(&socket, &door, &connections).await })
            }
        });
    }
    for accept_loop in accepting {
        // An accept loop ends when it is told to; it does not panic.
        let _ = accept_loop.await;
    }
    connections.close();
    let finished = async {
        connections.wait().await;
        door.tunnels.closed().await;
    };
    Ok(timeout(drain, finished).await.is_ok())
}

async fn accept_tcp(socket: &TcpListener, door: &Arc<Door>, connections: &TaskTracker) {
    let (mut last_call, mut shortage) = (pin!(last_call(&door.stop)), Shortage::default());
    while let Some(accepted) = before(&mut last_call, socket.accept()).await {
        match accepted {
            Ok((stream, address)) => {
                shortage.is_over();
                // Without it small answers wait for the client's acknowledgement.
                let _ = stream.set_nodelay(true);
                give_up_on_clients_that_take_nothing(&stream, door.limits.write_timeout);
                let (address, door) = (address.ip(), Arc::clone(door));
                // Apart, so that plain connections do not hold memory for TLS.
                match door.tls.clone() {
                    None => connections.spawn(opening::plain(stream, address, door)),
                    Some(terminator) => connections.spawn(opening::tls(stream, address, terminator, door)),
                };
            }
            Err(error) => shortage.recover_from(&error).await,
        }
    }
}

/// What was sent and is not acknowledged, or not wanted, for so long ends the connection. A client
/// that is gone, or that asks and never reads, would keep it and the upstream's for ever.
fn give_up_on_clients_that_take_nothing(stream: &TcpStream, within: Duration) {
    #[cfg(target_os = "linux")]
    let _ = socket2::SockRef::from(stream).set_tcp_user_timeout(Some(within));
    #[cfg(not(target_os = "linux"))]
    let _ = (stream, within);
}

async fn accept_unix(socket: &UnixListener, door: &Arc<Door>, connections: &TaskTracker) {
    let (mut last_call, mut shortage) = (pin!(last_call(&door.stop)), Shortage::default());
    while let Some(accepted) = before(&mut last_call, socket.accept()).await {
        match accepted {
            Ok((stream, _)) => {
                shortage.is_over();
                connections.spawn(opening::unix(stream, Arc::clone(door)));
            }
            Err(error) => shortage.recover_from(&error).await,
        }
    }
}

/// Whether connections could not be accepted the last time.
#[derive(Default)]
struct Shortage {
    is_known: bool,
}

impl Shortage {
    /// A client that went away before it was accepted is nothing; a process out of descriptors needs a moment. It is told once, not
    /// at every try.
    async fn recover_from(&mut self, error: &io::Error) {
        if matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset) {
            return;
        }
        if !std::mem::replace(&mut self.is_known, true) {
            tracing::error!(%error, "cannot accept connections");
        }
        sleep(Duration::from_millis(100)).await;
    }

    fn is_over(&mut self) {
        if std::mem::take(&mut self.is_known) {
            tracing::info!("connections are accepted again");
        }
    }
}

/// Resolves when the process is to stop.
pub async fn stopped(stop: &watch::Receiver<bool>) {
    // The sender goes only when the process does.
    let _ = stop.clone().wait_for(|stop| *stop).await;
}

/// A little later. Closing the socket resets whoever has connected to it and was not accepted.
async fn last_call(stop: &watch::Receiver<bool>) {
    stopped(stop).await;
    sleep(LAST_CALL).await;
}

async fn before<T>(end: &mut Pin<&mut impl Future<Output = ()>>, work: impl Future<Output = T>) -> Option<T> {
    tokio::select! {
        biased;
        done = work => Some(done),
        () = end.as_mut() => None,
    }
}

const LAST_CALL: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::AsyncWriteExt;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_client_that_never_reads_loses_its_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        give_up_on_clients_that_take_nothing(&server, Duration::from_millis(500));
        let endless = async { while server.write_all(&[0; 64 * 1024]).await.is_ok() {} };
        assert!(timeout(Duration::from_secs(15), endless).await.is_ok());
        drop(client);
    }
}
