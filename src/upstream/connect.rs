//! New connections to one server: TCP, TLS or a unix socket.

use super::ServerAddress;
use super::resolve::{self, Resolver};
use crate::clock::Clock;
use crate::tls;
use rustls::client::Resumption;
use rustls::pki_types::ServerName;
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use socket2::{SockRef, TcpKeepalive};
use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio::task::JoinSet;
use tokio::time::sleep;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How the servers of one upstream are reached, and how long connections are kept.
#[derive(Debug, Clone)]
pub struct ConnectionSettings {
    /// `protocol`, default `auto`.
    pub protocol: Protocol,
    /// `[upstreams.NAME.tls]`
    pub tls: TlsSettings,
    /// `idle_timeout`, default 30 s: servers close idle connections after a minute or so; better not to race them.
    pub idle_timeout: Duration,
    /// `connection_max_age`: from then on a connection takes no more requests.
    pub connection_max_age: Option<Duration>,
    /// `max_idle_connections`, default 256, of each worker to each server.
    pub max_idle_connections: usize,
    /// `dns_refresh`, default 30 s.
    pub dns_refresh: Duration,
}

/// What is spoken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// What a TLS server chooses (ALPN, RFC 7301); HTTP/1.1 without TLS.
    Auto,
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 alone: by ALPN, or with prior knowledge (RFC 9113 §3.3). WebSockets still take HTTP/1.1.
    Http2,
}

/// `[upstreams.NAME.tls]`: what is believed, and what is shown.
#[derive(Clone, Default)]
pub struct TlsSettings {
    /// `ca_file`: these sign the servers' certificates and nobody else does. None: the roots of this machine.
    pub roots: Option<Arc<RootCertStore>>,
    /// `server_name`: asked for (SNI) and looked for in the certificate. None: the host of the URL.
    pub server_name: Option<ServerName<'static>>,
    /// `client_certificate` and `client_key`.
    pub client: Option<Arc<CertifiedKey>>,
}

impl fmt::Debug for TlsSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TlsSettings")
            .field("own_roots", &self.roots.is_some())
            .field("server_name", &self.server_name)
            .field("client", &self.client.is_some())
            .finish()
    }
}

/// How to reach one server.
pub struct Connector {
    target: Target,
    protocol: Protocol,
}

enum Target {
    Tcp(Addresses, Option<Tls>),
    Unix(std::path::PathBuf),
    Demo,
}

enum Addresses {
    Fixed(SocketAddr),
    Named(Arc<Resolver>),
}

struct Tls {
    /// Offers what the upstream's `protocol` allows.
    config: Arc<ClientConfig>,
    /// Offers HTTP/1.1 alone.
    http1: Arc<ClientConfig>,
    /// Err: no certificate can be for this host.
    name: Result<ServerName<'static>, String>,
}

/// A new connection, and what is spoken on it.
pub struct Connected {
    /// The bytes.
    pub io: Io,
    /// HTTP/2, else HTTP/1.1.
    pub speaks_http2: bool,
    /// Where it leads; None for a unix socket.
    pub address: Option<SocketAddr>,
}

impl Connector {
    /// `machine_roots` is used for `https://` without a `ca_file`.
    ///
    /// Every connector has a TLS configuration of its own, tickets included: no session that was agreed on with one client certificate is
    /// resumed with another.
    pub fn new(
        address: &ServerAddress,
        settings: &ConnectionSettings,
        machine_roots: &ClientConfig,
        clock: &Clock,
    ) -> Connector {
        let target = match address {
            ServerAddress::Tcp { tls, host, port } => {
                let addresses = match host.parse::<IpAddr>() {
                    Ok(ip) => Addresses::Fixed(SocketAddr::new(ip, *port)),
                    Err(_) => Addresses::Named(Resolver::new(
                        host.clone(),
                        *port,
                        settings.dns_refresh,
                        resolve::system(),
                        clock.clone(),
                    )),
                };
                Target::Tcp(addresses, tls.then(|| Tls::new(host, settings, machine_roots)))
            }
            ServerAddress::Unix(path) => Target::Unix(path.clone()),
            ServerAddress::Demo => Target::Demo,
        };
        Connector { target, protocol: settings.protocol }
    }

    /// Without TLS, to a name that leads where the test says.
    #[cfg(test)]
    pub fn to_name(resolver: Arc<Resolver>, protocol: Protocol) -> Connector {
        Connector { target: Target::Tcp(Addresses::Named(resolver), None), protocol }
    }

    /// The scheme of requests to the server.
    pub fn scheme(&self) -> http::uri::Scheme {
        match &self.target {
            Target::Tcp(_, Some(_)) => http::uri::Scheme::HTTPS,
            _ => http::uri::Scheme::HTTP,
        }
    }

    /// Whether [`Connector::connect`] can end in HTTP/2.
    pub fn may_speak_http2(&self) -> bool {
        match self.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Auto => matches!(self.target, Target::Tcp(_, Some(_))),
        }
    }

    /// A connection with what the upstream's `protocol` allows.
    ///
    /// # Errors
    /// With the matter in words: for the log, since they name addresses.
    pub async fn connect(&self) -> io::Result<Connected> {
        self.open(self.protocol).await
    }

    /// A connection for HTTP/1.1.
    ///
    /// # Errors
    /// As [`Connector::connect`].
    pub async fn connect_for_http1(&self) -> io::Result<Connected> {
        self.open(Protocol::Http1).await
    }

    /// Looks the name up again when it is time to.
    pub fn keep_addresses_fresh(&self) {
        if let Target::Tcp(Addresses::Named(resolver), _) = &self.target {
            resolver.keep_fresh();
        }
    }

    /// How often the server's addresses have changed.
    pub fn address_changes(&self) -> u64 {
        match &self.target {
            Target::Tcp(Addresses::Named(resolver), _) => resolver.changes(),
            _ => 0,
        }
    }

    /// Whether the server still has this address.
    pub fn leads_to(&self, address: Option<SocketAddr>) -> bool {
        match (&self.target, address) {
            (Target::Tcp(Addresses::Named(resolver), _), Some(address)) => resolver.leads_to(address),
            _ => true,
        }
    }

    async fn open(&self, protocol: Protocol) -> io::Result<Connected> {
        let prior_knowledge = protocol == Protocol::Http2;
        match &self.target {
            Target::Tcp(addresses, tls) => {
                let (stream, address) = addresses.connect().await?;
                let (io, speaks_http2) = match tls {
                    Some(tls) => tls.handshake(stream, protocol).await?,
                    None => (Io::Tcp(stream), prior_knowledge),
                };
                Ok(Connected { io, speaks_http2, address: Some(address) })
            }
            Target::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(|error| about(path.display(), &error))?;
                Ok(Connected { io: Io::Unix(stream), speaks_http2: prior_knowledge, address: None })
            }
            Target::Demo => Err(io::Error::other("the built-in upstream has no connections")),
        }
    }
}

impl Addresses {
    async fn connect(&self) -> io::Result<(TcpStream, SocketAddr)> {
        match self {
            Addresses::Fixed(address) => connect_to(*address).await,
            Addresses::Named(resolver) => {
                let addresses = resolver.addresses().await.map_err(|error| about("cannot resolve the name", &error))?;
                connect_to_first(addresses).await
            }
        }
    }
}

/// In order, the next when one fails or is slow (RFC 8305 §5); the first that answers stays.
async fn connect_to_first(addresses: Vec<SocketAddr>) -> io::Result<(TcpStream, SocketAddr)> {
    if let [only] = addresses[..] {
        return connect_to(only).await;
    }
    let mut left = addresses.into_iter();
    let mut attempts = JoinSet::new();
    let mut failure = io::Error::from(io::ErrorKind::AddrNotAvailable);
    loop {
        if let Some(next) = left.next() {
            attempts.spawn(connect_to(next));
        }
        tokio::select! {
            Some(ended) = attempts.join_next() => match ended {
                Ok(Ok(connected)) => return Ok(connected),
                Ok(Err(error)) => failure = error,
                Err(panicked) => failure = io::Error::other(panicked),
            },
            () = sleep(ATTEMPT_DELAY), if left.len() > 0 => {}
            else => return Err(failure),
        }
    }
}

async fn connect_to(address: SocketAddr) -> io::Result<(TcpStream, SocketAddr)> {
    let stream = TcpStream::connect(address).await.map_err(|error| about(address, &error))?;
    stream.set_nodelay(true)?;
    // A server that is gone without a word (a machine that died, a firewall that forgot) is noticed by the system.
    SockRef::from(&stream).set_tcp_keepalive(&TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE))?;
    Ok((stream, address))
}

impl Tls {
    fn new(host: &str, settings: &ConnectionSettings, machine_roots: &ClientConfig) -> Tls {
        let offered: &[&[u8]] = match settings.protocol {
            Protocol::Auto => &[H2, HTTP_1_1],
            Protocol::Http1 => &[HTTP_1_1],
            Protocol::Http2 => &[H2],
        };
        Tls {
            config: Arc::new(client_config(&settings.tls, machine_roots, offered)),
            http1: Arc::new(client_config(&settings.tls, machine_roots, &[HTTP_1_1])),
            name: match &settings.tls.server_name {
                Some(name) => Ok(name.clone()),
                None => ServerName::try_from(host.to_owned()).map_err(|error| format!("`{host}`: {error}")),
            },
        }
    }

    async fn handshake(&self, stream: TcpStream, protocol: Protocol) -> io::Result<(Io, bool)> {
        let name = self.name.clone().map_err(io::Error::other)?;
        let config = if protocol == Protocol::Http1 { &self.http1 } else { &self.config };
        let asked = format!("TLS with {}", name.to_str());
        let stream = TlsConnector::from(Arc::clone(config))
            .connect(name, stream)
            .await
            .map_err(|error| about(&asked, &error))?;
        let speaks_http2 = stream.get_ref().1.alpn_protocol() == Some(H2);
        if protocol == Protocol::Http2 && !speaks_http2 {
            return Err(io::Error::other(format!("{asked}: the server does not offer HTTP/2")));
        }
        Ok((Io::Tls(Box::new(stream)), speaks_http2))
    }
}

fn client_config(settings: &TlsSettings, machine_roots: &ClientConfig, protocols: &[&[u8]]) -> ClientConfig {
    let mut config = match &settings.roots {
        Some(roots) => tls::client_config_trusting(Arc::clone(roots)),
        None => machine_roots.clone(),
    };
    config.resumption = Resumption::default();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    if let Some(client) = &settings.client {
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(Arc::clone(client)));
    }
    config
}

fn about(what: impl fmt::Display, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
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

/// RFC 8305 §8, "Connection Attempt Delay".
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);
const KEEPALIVE: Duration = Duration::from_secs(30);
const H2: &[u8] = b"h2";
const HTTP_1_1: &[u8] = b"http/1.1";

#[cfg(test)]
mod tests {
    use super::*;
    use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, date_time_ymd};
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};
    use rustls::server::WebPkiClientVerifier;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;
    use tokio_rustls::TlsAcceptor;

    /// Signs certificates.
    struct Authority(CertifiedIssuer<'static, KeyPair>);

    type Identity = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

    impl Authority {
        fn new(name: &str) -> Authority {
            let mut params = CertificateParams::default();
            params.distinguished_name.push(DnType::CommonName, name);
            params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
            Authority(CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap())
        }

        fn roots(&self) -> Arc<RootCertStore> {
            let mut roots = RootCertStore::empty();
            roots.add(self.0.der().clone()).unwrap();
            Arc::new(roots)
        }

        fn identity(&self, name: &str) -> Identity {
            self.identity_of(CertificateParams::new([name.to_owned()]).unwrap())
        }

        fn identity_of(&self, params: CertificateParams) -> Identity {
            let key = KeyPair::generate().unwrap();
            let certificate = params.signed_by(&key, &self.0).unwrap();
            (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
        }
    }

    fn self_signed(name: &str) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().self_signed(&key).unwrap();
        (vec![certificate.der().clone()], PrivateKeyDer::try_from(key.serialize_der()).unwrap())
    }

    /// Sends back what it is sent; wants a client certificate of `clients`, when there is one.
    async fn serve(identity: Identity, protocols: &[&[u8]], clients: Option<&Authority>) -> u16 {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let config = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
            .with_safe_default_protocol_versions()
            .unwrap();
        let config = match clients {
            Some(clients) => config.with_client_cert_verifier(
                WebPkiClientVerifier::builder_with_provider(clients.roots(), provider).build().unwrap(),
            ),
            None => config.with_no_client_auth(),
        };
        let mut config = config.with_single_cert(identity.0, identity.1).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else { return };
                    let mut byte = [0];
                    while stream.read_exact(&mut byte).await.is_ok() && stream.write_all(&byte).await.is_ok() {}
                });
            }
        });
        port
    }

    fn settings(protocol: Protocol, tls: TlsSettings) -> ConnectionSettings {
        ConnectionSettings {
            protocol,
            tls,
            idle_timeout: Duration::from_secs(30),
            connection_max_age: None,
            max_idle_connections: 256,
            dns_refresh: Duration::from_secs(30),
        }
    }

    fn trusting(authority: &Authority) -> TlsSettings {
        TlsSettings { roots: Some(authority.roots()), ..TlsSettings::default() }
    }

    fn connector(host: &str, port: u16, settings: &ConnectionSettings) -> Connector {
        let nobody = tls::client_config_trusting(Arc::new(RootCertStore::empty()));
        let address = ServerAddress::Tcp { tls: true, host: host.to_owned(), port };
        Connector::new(&address, settings, &nobody, &Clock::system())
    }

    /// Whether a byte comes back: with TLS 1.3 a client learns of its refusal only then.
    async fn echo(connected: io::Result<Connected>) -> io::Result<bool> {
        let Connected { mut io, speaks_http2, .. } = connected?;
        io.write_all(b"x").await?;
        io.flush().await?;
        io.read_u8().await?;
        Ok(speaks_http2)
    }

    async fn failure(connector: &Connector) -> String {
        echo(connector.connect().await).await.unwrap_err().to_string()
    }

    // OU-04
    #[tokio::test]
    async fn ou_04_bad_certificates_are_refused_and_the_log_says_why() {
        let (authority, stranger) = (Authority::new("ours"), Authority::new("a stranger's"));
        let mut expired = CertificateParams::new(["localhost".to_owned()]).unwrap();
        (expired.not_before, expired.not_after) = (date_time_ymd(2020, 1, 1), date_time_ymd(2021, 1, 1));
        let mut early = CertificateParams::new(["localhost".to_owned()]).unwrap();
        early.not_before = date_time_ymd(2900, 1, 1);
        for (identity, why) in [
            (authority.identity_of(expired), "expired"),
            (authority.identity_of(early), "not valid yet"),
            (authority.identity("other.test"), "not valid for name"),
            (stranger.identity("localhost"), "UnknownIssuer"),
            (self_signed("localhost"), "UnknownIssuer"),
        ] {
            let port = serve(identity, &[], None).await;
            let said = failure(&connector("localhost", port, &settings(Protocol::Auto, trusting(&authority)))).await;
            assert!(said.starts_with("TLS with localhost: ") && said.contains(why), "{why}: {said}");
        }
        // Its own authority replaces the machine's, which here knows nobody.
        let port = serve(authority.identity("localhost"), &[], None).await;
        let known = connector("localhost", port, &settings(Protocol::Auto, trusting(&authority)));
        assert!(!echo(known.connect().await).await.unwrap());
        let unknown = connector("localhost", port, &settings(Protocol::Auto, TlsSettings::default()));
        assert!(failure(&unknown).await.contains("UnknownIssuer"));
    }

    // OU-05
    #[tokio::test]
    async fn ou_05_the_name_that_is_checked() {
        let authority = Authority::new("ours");
        let port = serve(authority.identity("app_1.internal"), &[], None).await;
        let mut tls = trusting(&authority);
        let by_address = connector("127.0.0.1", port, &settings(Protocol::Auto, tls.clone()));
        assert!(failure(&by_address).await.contains("not valid for name"));
        tls.server_name = Some(ServerName::try_from("app_1.internal").unwrap());
        let by_name = connector("127.0.0.1", port, &settings(Protocol::Auto, tls));
        assert!(echo(by_name.connect().await).await.is_ok());

        let port = serve(authority.identity("127.0.0.1"), &[], None).await;
        let by_address = connector("127.0.0.1", port, &settings(Protocol::Auto, trusting(&authority)));
        assert!(echo(by_address.connect().await).await.is_ok());

        for host in ["a".repeat(64) + ".test", "a.".repeat(200) + "test", "a..test".to_owned()] {
            let nowhere = connector(&host, port, &settings(Protocol::Auto, trusting(&authority)));
            assert!(nowhere.connect().await.is_err(), "{host}");
        }
    }

    // OU-06
    #[tokio::test]
    async fn ou_06_a_client_certificate_is_shown_by_those_who_have_it() {
        let [authority, clients, others] = ["servers'", "clients'", "others'"].map(Authority::new);
        let port = serve(authority.identity("localhost"), &[], Some(&clients)).await;
        let of = |issuer: Option<&Authority>| {
            let client = issuer.map(|issuer| {
                let (chain, key) = issuer.identity("gateway");
                Arc::new(tls::certified_key(chain, key).unwrap())
            });
            connector("localhost", port, &settings(Protocol::Auto, TlsSettings { client, ..trusting(&authority) }))
        };
        let ours = of(Some(&clients));
        for _ in 0..3 {
            // With tickets that the others could resume, were they shared.
            assert!(echo(ours.connect().await).await.is_ok());
            for stranger in [of(None), of(Some(&others))] {
                let said = failure(&stranger).await;
                assert!(said.contains("CertificateRequired") || said.contains("UnknownCA"), "{said}");
            }
        }
    }

    #[tokio::test]
    async fn what_is_spoken_is_what_both_sides_offer() {
        let authority = Authority::new("ours");
        let both: &[&[u8]] = &[H2, HTTP_1_1];
        for (protocol, offered, spoken) in [
            (Protocol::Auto, both, Ok(true)),
            (Protocol::Auto, &[HTTP_1_1], Ok(false)),
            (Protocol::Auto, &[], Ok(false)),
            (Protocol::Http1, both, Ok(false)),
            (Protocol::Http2, both, Ok(true)),
            (Protocol::Http2, &[], Err("does not offer HTTP/2")),
            (Protocol::Http2, &[HTTP_1_1], Err("NoApplicationProtocol")),
        ] {
            let port = serve(authority.identity("localhost"), offered, None).await;
            let connector = connector("localhost", port, &settings(protocol, trusting(&authority)));
            match (echo(connector.connect().await).await, spoken) {
                (Ok(http2), Ok(expected)) => assert_eq!(http2, expected, "{protocol:?} {offered:?}"),
                (Err(error), Err(why)) => assert!(error.to_string().contains(why), "{error}"),
                (result, _) => panic!("{protocol:?} {offered:?}: {result:?}"),
            }
            if offered.contains(&HTTP_1_1) {
                assert!(!connector.connect_for_http1().await.unwrap().speaks_http2);
            }
        }
    }

    // OU-09
    #[tokio::test]
    async fn ou_09_addresses_are_tried_in_order_and_a_dead_one_holds_nobody_up() {
        let deserted = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let alive = listener.local_addr().unwrap();
        // A full backlog: what comes now is not answered.
        let mute = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        mute.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
        mute.listen(0).unwrap();
        let silent = mute.local_addr().unwrap().as_socket().unwrap();
        let _in_line = TcpStream::connect(silent).await.unwrap();

        for dead in [vec![deserted, alive], vec![silent, alive], vec![silent, deserted, alive]] {
            let reached = tokio::time::timeout(Duration::from_secs(5), connect_to_first(dead)).await;
            assert_eq!(reached.expect("not held up").unwrap().1, alive);
        }
        let refused = connect_to_first(vec![deserted, deserted]).await.unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
        assert!(refused.to_string().starts_with(&deserted.to_string()), "{refused}");
    }

    #[test]
    fn keys_are_not_shown() {
        let (chain, key) = self_signed("gateway");
        let client = tls::certified_key(chain, key).unwrap();
        let settings = TlsSettings { client: Some(Arc::new(client)), ..TlsSettings::default() };
        let shown = format!("{settings:?}");
        assert_eq!(shown, "TlsSettings { own_roots: false, server_name: None, client: true }");
    }
}
