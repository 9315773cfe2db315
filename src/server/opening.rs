//! What comes before HTTP: a place, who it is from, TLS, the version. All of it together within
//! `limits.header_timeout`, and TLS within its own time besides.

use super::connection::{FIRST_REQUEST_WITHIN, Place, serve, times, turn_away};
use super::proxy_protocol;
use super::stream::{Seated, Stream};
use super::tls::Terminator;
use super::worker::{Door, stopped};
use crate::gateway::Peer;
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use tokio::net::{TcpStream, UnixStream};
use tokio::time::{Instant, sleep};

/// Serves it, or turns it away when there is no place.
pub async fn plain(mut stream: TcpStream, address: IpAddr, door: Arc<Door>) {
    let Some(place) = door.places.take(door.limits.connections) else { return turn_away(stream).await };
    let since = Instant::now();
    let opening = async {
        let peer = who(&mut stream, address, &door).await?;
        Ok((peer, stream.version().await?))
    };
    let Some((peer, version)) = in_time(&door, &place, opening).await else { return };
    serve(Seated::new(stream, place), version, peer, &door, since).await;
}

/// As [`plain`]. Whoever finds no place is told nothing: that would take the handshake that there is no place for.
pub async fn tls(mut stream: TcpStream, address: IpAddr, terminator: Arc<Terminator>, door: Arc<Door>) {
    let Some(place) = door.places.take(door.limits.connections) else { return };
    let since = Instant::now();
    let opening = async {
        let peer = who(&mut stream, address, &door).await?;
        let stream = terminator.accept(stream).await?;
        let version = stream.version().await?;
        Ok((stream, peer, version))
    };
    let Some((stream, peer, version)) = in_time(&door, &place, opening).await else { return };
    serve(Seated::new(stream, place), version, peer, &door, since).await;
}

/// As [`plain`]. No proxy is spoken for here, and nobody listens in.
pub async fn unix(stream: UnixStream, door: Arc<Door>) {
    let Some(place) = door.places.take(door.limits.connections) else { return turn_away(stream).await };
    let since = Instant::now();
    let Some(version) = in_time(&door, &place, stream.version()).await else { return };
    let peer = Peer::on_a_unix_socket(!door.trusted_proxies.is_empty());
    serve(Seated::new(stream, place), version, peer, &door, since).await;
}

/// Who the connection is from. With the PROXY protocol that is whom a trusted proxy names, and it is this address that
/// says whether forwarded headers count; nobody else may speak at all, and nothing of what they say is read.
async fn who(stream: &mut TcpStream, address: IpAddr, door: &Door) -> io::Result<Peer> {
    let next = Peer::at(address, &door.trusted_proxies);
    if !door.proxy_protocol {
        return Ok(next);
    }
    if !next.trusted {
        tracing::debug!(%address, "closed: with server.proxy_protocol only server.trusted_proxies may connect");
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    // Behind a pointer: the others keep no room for it.
    let source = Box::pin(proxy_protocol::read(stream)).await;
    let source = source.inspect_err(|error| tracing::debug!(%address, %error, "closed"))?;
    Ok(source.map_or(next, |source| Peer::at(source, &door.trusted_proxies)))
}

/// None when the client is too slow or gone, or has not come to it when the process is to stop.
async fn in_time<T>(door: &Door, place: &Place, opening: impl Future<Output = io::Result<T>>) -> Option<T> {
    let stopping = async {
        stopped(&door.stop).await;
        sleep(FIRST_REQUEST_WITHIN).await;
    };
    tokio::select! {
        biased;
        opened = opening => opened.ok(),
        () = sleep(times(door, place).head) => None,
        () = stopping => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the future that a call returns, without a call.
    fn size_of_future<A, B, C, F>(_: impl Fn(A, B, C) -> F) -> usize {
        size_of::<F>()
    }

    /// It is allocated for every connection, and stays as large as it can ever get.
    #[test]
    fn what_an_idle_connection_waits_in_is_small() {
        let size = size_of_future(plain);
        assert!(size <= LARGEST, "{size} bytes");
    }

    const LARGEST: usize = 1536;
}
