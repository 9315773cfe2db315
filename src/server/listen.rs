//! Binding: one socket for each worker on the same port, so that the kernel spreads connections and
//! no accept crosses a core.

use super::Listen;
use socket2::{Domain, Protocol, Socket, Type};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixListener;
use std::path::Path;

/// What one worker listens on.
pub enum Bound {
    /// A share of a port.
    Tcp(TcpListener),
    /// The same socket as every other worker.
    Unix(UnixListener),
}

/// All sockets of a gateway.
pub struct Sockets {
    /// Worker by worker.
    pub of_worker: Vec<Vec<Bound>>,
    /// In the order of the configuration, unix sockets left out; port 0 has become a real one.
    pub addresses: Vec<SocketAddr>,
}

/// Binds `workers` sockets for each of `listen`.
///
/// # Errors
/// The address, and why it cannot be bound; a port that anyone listens on already is such a reason.
pub fn bind(listen: &[Listen], workers: usize) -> Result<Sockets, (Listen, io::Error)> {
    let mut of_worker: Vec<Vec<Bound>> = (0..workers).map(|_| Vec::new()).collect();
    let mut addresses = Vec::new();
    for place in listen {
        match place {
            Listen::Tcp(address) => {
                let sockets = bind_tcp(*address, workers).map_err(|error| (place.clone(), error))?;
                if let Some(Ok(address)) = sockets.first().map(TcpListener::local_addr) {
                    addresses.push(address);
                }
                for (worker, socket) in of_worker.iter_mut().zip(sockets) {
                    worker.push(Bound::Tcp(socket));
                }
            }
            Listen::Unix(path) => {
                let socket = bind_unix(path).map_err(|error| (place.clone(), error))?;
                for worker in &mut of_worker {
                    let share = socket.try_clone().map_err(|error| (place.clone(), error))?;
                    worker.push(Bound::Unix(share));
                }
            }
        }
    }
    Ok(Sockets { of_worker, addresses })
}

fn bind_tcp(address: SocketAddr, workers: usize) -> io::Result<Vec<TcpListener>> {
    let shared = workers > 1;
    if shared && address.port() != 0 {
        // With SO_REUSEPORT a second gateway would silently take half of the connections. Without it,
        // binding fails while anyone listens there.
        drop(tcp_socket(address, false)?);
    }
    // For port 0 the kernel chooses one that nobody shares, and we do not let go of it.
    let first = tcp_socket(address, shared)?;
    let address = first.local_addr()?.as_socket().unwrap_or(address);
    let others = (1..workers).map(|_| tcp_socket(address, shared));
    std::iter::once(Ok(first)).chain(others).map(|socket| socket.map(TcpListener::from)).collect()
}

fn tcp_socket(address: SocketAddr, shared: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(shared)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket)
}

/// A socket file that nobody listens on any more is left over from a crash, and is replaced.
fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    let socket = match UnixListener::bind(path) {
        Err(error) if error.kind() == io::ErrorKind::AddrInUse && is_left_over(path) => {
            std::fs::remove_file(path)?;
            UnixListener::bind(path)?
        }
        bound => bound?,
    };
    socket.set_nonblocking(true)?;
    Ok(socket)
}

fn is_left_over(path: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(path).is_err_and(|error| error.kind() == io::ErrorKind::ConnectionRefused)
}

const BACKLOG: i32 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_gateway_on_a_port_in_use_fails_at_start() {
        let any = [Listen::Tcp(([127, 0, 0, 1], 0).into())];
        let first = bind(&any, 2).map_err(|(_, error)| error).unwrap();
        let same = [Listen::Tcp(first.addresses[0])];
        for workers in [1, 2] {
            let error = bind(&same, workers).map(|_| ()).unwrap_err().1;
            assert_eq!(error.kind(), io::ErrorKind::AddrInUse);
        }
    }

    #[test]
    fn gateways_that_start_at_once_on_any_port_share_none() {
        let starts: Vec<_> = (0..8)
            .map(|_| {
                std::thread::spawn(|| {
                    let any = [Listen::Tcp(([127, 0, 0, 1], 0).into())];
                    (0..100).map(|_| bind(&any, 2).map_err(|(_, error)| error).unwrap()).collect::<Vec<_>>()
                })
            })
            .collect();
        let sockets: Vec<Sockets> = starts.into_iter().flat_map(|start| start.join().unwrap()).collect();
        let ports: std::collections::HashSet<u16> = sockets.iter().map(|sockets| sockets.addresses[0].port()).collect();
        assert_eq!(ports.len(), sockets.len());
    }

    #[test]
    fn a_socket_file_left_over_from_a_crash_is_replaced() {
        let directory = tempfile::tempdir().unwrap();
        let place = [Listen::Unix(directory.path().join("gateway.sock"))];
        let first = bind(&place, 1).map_err(|(_, error)| error).unwrap();
        assert!(bind(&place, 1).is_err(), "somebody listens there");
        drop(first);
        assert!(bind(&place, 1).is_ok());
    }
}
