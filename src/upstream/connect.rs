//! New connections to one server: TCP, TLS or a unix socket.

use super::ServerAddress;
use rustls::pki_types::ServerName;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How to reach one server.
pub struct Connector {
    address: ServerAddress,
    tls: Arc<rustls::ClientConfig>,
}

impl Connector {
    /// `tls` is used for `https://`.
    pub fn new(address: ServerAddress, tls: Arc<rustls::ClientConfig>) -> Connector {
        Connector { address, tls }
    }

    pub async fn connect(&self) -> io::Result<Io> {
        match &self.address {
            ServerAddress::Tcp { tls, host, port } => {
                let stream = TcpStream::connect((host.as_str(), *port)).await?;
                stream.set_nodelay(true)?;
                if *tls {
                    let name = ServerName::try_from(host.clone()).map_err(io::Error::other)?;
                    let connector = TlsConnector::from(Arc::clone(&self.tls));
                    Ok(Io::Tls(Box::new(connector.connect(name, stream).await?)))
                } else {
                    Ok(Io::Tcp(stream))
                }
            }
            ServerAddress::Unix(path) => Ok(Io::Unix(UnixStream::connect(path).await?)),
            ServerAddress::Demo => Err(io::Error::other("the built-in upstream has no connections")),
        }
    }
}

/// A connection to a server.
pub enum Io {
    /// `http://`
    Tcp(TcpStream),
    /// `https://`
    Tls(Box<TlsStream<TcpStream>>),
    /// `unix:`
    Unix(UnixStream),
}

macro_rules! each {
    ($io:expr, $stream:ident => $do:expr) => {
        match $io.get_mut() {
            Io::Tcp($stream) => $do,
            Io::Tls($stream) => $do,
            Io::Unix($stream) => $do,
        }
    };
}

impl AsyncRead for Io {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Io {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write(cx, bytes))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        each!(self, stream => Pin::new(stream).poll_write_vectored(cx, pieces))
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Io::Tcp(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
            Io::Unix(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        each!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
