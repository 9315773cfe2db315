//! `[server.tls]`: handshakes, names, client certificates, and files that change.

use crate::harness::{Answer, Connection, PATIENCE, Plan, Reply, Site, eventually, together};
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, HandshakeKind, RootCertStore};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

#[tokio::test]
async fn versions_are_agreed_on_by_alpn() {
    let papers = Papers::new();
    let site = papers.site("").await;
    for (offered, agreed) in [
        (&["h2", "http/1.1"][..], Some("h2")),
        (&["http/1.1"], Some("http/1.1")),
        (&["http/1.1", "h2"], Some("h2")),
        (&[], None),
    ] {
        let stream = papers.connect(&site, "gw.test", papers.client(offered)).await.unwrap();
        assert_eq!(stream.get_ref().1.alpn_protocol(), agreed.map(str::as_bytes));
        if agreed == Some("h2") {
            assert_eq!(http2(stream, "https://gw.test/public").await, 200);
        } else {
            assert_eq!(ask(stream, "/public", "gw.test").await.unwrap().status, 200);
        }
    }
    assert!(papers.connect(&site, "gw.test", papers.client(&["spdy/3"])).await.is_err(), "nothing in common");
    let received = site.upstream.last();
    assert_eq!(received.header("x-forwarded-proto"), "https");
    assert_eq!(received.header("x-forwarded-for"), "127.0.0.1");
}

#[tokio::test]
async fn older_versions_are_refused_and_newer_ones_may_be_demanded() {
    let papers = Papers::new();
    let with_versions = |versions: &[&'static rustls::SupportedProtocolVersion]| {
        let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_protocol_versions(versions)
            .unwrap();
        builder.with_root_certificates(papers.roots()).with_no_client_auth()
    };
    for (lines, tls12) in [("", true), ("min_version = \"1.2\"", true), ("min_version = \"1.3\"", false)] {
        let site = papers.site(lines).await;
        let by_12 = papers.connect(&site, "gw.test", with_versions(&[&rustls::version::TLS12])).await;
        assert_eq!(by_12.is_ok(), tls12, "{lines}");
        assert!(papers.connect(&site, "gw.test", with_versions(&[&rustls::version::TLS13])).await.is_ok());
    }
}

// H1-25: TLS slowloris; RL-10: the handshake; its place is free again
#[tokio::test]
async fn h1_25_rl_10_a_handshake_has_its_time() {
    let papers = Papers::new();
    let site = papers.plan("handshake_timeout = \"500ms\"").limits("connections = 1").start().await;
    let hello = hello(&papers);
    for sent in [0, 1, 5, hello.len() - 1] {
        let mut silent = TcpStream::connect(site.gateway.address).await.unwrap();
        silent.write_all(&hello[..sent]).await.unwrap();
        let begun = site.clock.mono();
        assert_eq!(silent.read(&mut [0; 64]).await.unwrap_or(0), 0, "closed, without a word");
        let taken = site.clock.mono().since(begun);
        assert!((450..2000).contains(&taken.as_millis()), "{taken:?}");
    }
    let mut dripping = TcpStream::connect(site.gateway.address).await.unwrap();
    let begun = site.clock.mono();
    for byte in &hello {
        if dripping.write_all(&[*byte]).await.is_err() {
            break;
        }
        sleep(Duration::from_millis(50)).await;
    }
    let taken = site.clock.mono().since(begun);
    assert!(taken < Duration::from_secs(3), "cut off in the middle: {taken:?}");
    assert_eq!(papers.get(&site, "/public").await.unwrap().status, 200);
}

#[tokio::test]
async fn handshakes_take_places() {
    let papers = Papers::new();
    let site = papers.plan("").limits("connections = 1").start().await;
    let is_served = async || papers.get(&site, "/public").await.is_some_and(|reply| reply.status == 200);
    // Another worker may have seen the one that asks before the one that is silent.
    let silent = loop {
        let silent = TcpStream::connect(site.gateway.address).await.unwrap();
        sleep(Duration::from_millis(50)).await;
        if !is_served().await {
            break silent;
        }
    };
    drop(silent);
    eventually(is_served).await;
}

// H1-25: a ClientHello in pieces, of records as well as of packets
#[tokio::test]
async fn h1_25_a_hello_in_pieces_is_a_hello() {
    let papers = Papers::new();
    let site = papers.site("").await;
    let (address, config) = (site.gateway.address, Arc::new(papers.client(&[])));
    let asked = tokio::task::spawn_blocking(move || {
        let mut client = ClientConnection::new(config, ServerName::try_from("gw.test").unwrap()).unwrap();
        let mut hello = Vec::new();
        client.write_tls(&mut hello).unwrap();
        let mut stream = std::net::TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let (header, message) = hello.split_at(5);
        for piece in message.chunks(40) {
            let length = u16::try_from(piece.len()).unwrap().to_be_bytes();
            let record = [&header[..3], &length, piece].concat();
            let (front, back) = record.split_at(7);
            stream.write_all(front).unwrap();
            std::thread::sleep(Duration::from_millis(2));
            stream.write_all(back).unwrap();
        }
        client.complete_io(&mut stream).unwrap();
        let mut stream = rustls::Stream::new(&mut client, &mut stream);
        stream.write_all(b"GET /public HTTP/1.1\r\nHost: gw.test\r\nConnection: close\r\n\r\n").unwrap();
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).unwrap();
        String::from_utf8(answer).unwrap()
    });
    assert!(asked.await.unwrap().starts_with("HTTP/1.1 200 "));
}

// H1-25: no SNI, SNI != Host; H2-15: each request is judged by its own authority, whatever the connection was opened for
#[tokio::test]
async fn h1_25_h2_15_the_name_of_a_connection_opens_no_route() {
    let papers = Papers::new();
    let site = papers
        .plan("")
        .route("/*", "host = \"open.test\"\nauth = false")
        .route("/*", "host = \"closed.test\"\nauth = true")
        .start()
        .await;
    for name in ["open.test", "closed.test", "127.0.0.1"] {
        for (host, status) in [("open.test", 200), ("closed.test", 401), ("nobody.test", 404)] {
            let stream = papers.connect(&site, name, papers.client(&[])).await.unwrap();
            assert_eq!(ask(stream, "/x", host).await.unwrap().status, status, "SNI {name}, Host {host}");
        }
        let stream = papers.connect(&site, name, papers.client(&["h2"])).await.unwrap();
        let mut client = http2_client(stream).await;
        for (host, status) in [("open.test", 200), ("closed.test", 401), ("open.test", 200), ("nobody.test", 404)] {
            let request = hyper::Request::get(format!("https://{host}/x")).body(Empty::<Bytes>::new()).unwrap();
            let answer = client.send_request(request).await.unwrap();
            assert_eq!(answer.status(), status, "SNI {name}, :authority {host}");
        }
    }
    assert!(site.upstream.received().iter().all(|it| it.header("host") != "closed.test"));
}

#[tokio::test]
async fn a_name_chooses_its_certificate() {
    let papers = Papers::new();
    let one = papers.issue("one", &["one.test"]);
    let any = papers.issue("any", &["*.wild.test"]);
    let both = format!("certificates = [{one}, {any}]");
    let site = papers.site(&both).await;
    for (name, file) in [("gw.test", "server"), ("one.test", "one"), ("a.wild.test", "any")] {
        let stream = papers.connect(&site, name, papers.client(&[])).await.unwrap();
        assert_eq!(shown(&stream), papers.certificate(file), "{name}");
    }
    for name in ["127.0.0.1", "other.test"] {
        let stream = papers.connect(&site, name, papers.client(&[])).await.unwrap();
        assert_eq!(shown(&stream), papers.certificate("server"), "{name}: the first");
    }
}

#[tokio::test]
async fn client_certificates_are_checked() {
    let papers = Papers::new();
    papers.issue("client", &["client"]);
    let strangers = Papers::new();
    strangers.issue("client", &["client"]);
    let ca = papers.path("ca.pem");
    for (lines, without) in [
        (format!("client_ca = \"{ca}\""), None),
        (format!("client_ca = \"{ca}\"\nclient_auth = \"required\""), None),
        (format!("client_ca = \"{ca}\"\nclient_auth = \"optional\""), Some(200)),
    ] {
        let site = papers.site(&lines).await;
        for (whose, expected) in [(Some(&papers), Some(200)), (Some(&strangers), None), (None, without)] {
            let config = match whose {
                Some(whose) => papers.client_with(whose, "client"),
                None => papers.client(&[]),
            };
            let found = match papers.connect(&site, "gw.test", config).await {
                Ok(stream) => ask(stream, "/public", "gw.test").await.map(|reply| reply.status),
                Err(_) => None,
            };
            let who = whose.map(|whose| std::ptr::eq(whose, &papers));
            assert_eq!(found, expected, "{lines}, of this authority: {who:?}");
        }
    }
}

// Whoever resumes was let in by the authorities of that time; other ones ask again.
#[tokio::test]
async fn a_change_of_authorities_ends_resumption() {
    let papers = Papers::new();
    papers.issue("client", &["client"]);
    let others = Papers::new();
    let site = papers.site(&format!("client_ca = \"{}\"", papers.path("ca.pem"))).await;
    let config = Arc::new(papers.client_with(&papers, "client"));
    let connect = async || papers.connect_with(&site, "gw.test", Arc::clone(&config)).await.ok();
    for kind in [HandshakeKind::Full, HandshakeKind::Resumed] {
        let stream = connect().await.unwrap();
        assert_eq!(stream.get_ref().1.handshake_kind(), Some(kind));
        assert_eq!(ask(stream, "/public", "gw.test").await.unwrap().status, 200);
    }
    fs::copy(others.path("ca.pem"), papers.path("ca.pem")).unwrap();
    site.gateway.reload_certificates();
    let found = match connect().await {
        Some(stream) => ask(stream, "/public", "gw.test").await.map(|reply| reply.status),
        None => None,
    };
    assert_eq!(found, None);
}

// RL-05: the part of it that is about certificates
#[tokio::test]
async fn rl_05_new_certificates_are_taken_up_and_bad_ones_are_not() {
    let papers = Papers::new();
    let site = papers.site("").await;
    let first = papers.certificate("server");
    let mut open = Connection::on(papers.connect(&site, "gw.test", papers.client(&[])).await.unwrap());
    papers.issue("server", &["gw.test"]);
    let second = papers.certificate("server");
    site.gateway.reload_certificates();
    let serves = async || shown(&papers.connect(&site, "gw.test", papers.client(&[])).await.unwrap());
    assert_ne!(first, second);
    assert_eq!(serves().await, second);

    let key = fs::read(papers.path("server.key")).unwrap();
    let strange = KeyPair::generate().unwrap().serialize_pem();
    for bad in ["", "no PEM", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", &strange] {
        fs::write(papers.path("server.key"), bad).unwrap();
        site.gateway.reload_certificates();
        assert_eq!(serves().await, second, "{bad:?}");
    }
    fs::remove_file(papers.path("server.key")).unwrap();
    site.gateway.reload_certificates();
    assert_eq!(serves().await, second);
    fs::write(papers.path("server.key"), key).unwrap();

    open.send(b"GET /public HTTP/1.1\r\nHost: gw.test\r\n\r\n").await.unwrap();
    assert_eq!(open.reply("GET").await.unwrap().status, 200, "opened with the first, and still there");
}

#[tokio::test]
async fn files_that_change_are_noticed_behind_links_too() {
    let papers = Papers::new();
    let directory = papers.directory.path();
    let mount = |name: &str| {
        fs::create_dir(directory.join(name)).unwrap();
        fs::copy(papers.path("server.pem"), directory.join(name).join("tls.crt")).unwrap();
        fs::copy(papers.path("server.key"), directory.join(name).join("tls.key")).unwrap();
    };
    mount("..1");
    symlink("..1", directory.join("..data")).unwrap();
    let lines =
        format!("certificate = \"{0}/..data/tls.crt\"\nprivate_key = \"{0}/..data/tls.key\"", directory.display());
    let site = Papers::plan_with(&lines).start().await;
    papers.issue("server", &["gw.test"]);
    mount("..2");
    symlink("..2", directory.join("..new")).unwrap();
    fs::rename(directory.join("..new"), directory.join("..data")).unwrap();
    let new = papers.certificate("server");
    eventually(async || shown(&papers.connect(&site, "gw.test", papers.client(&[])).await.unwrap()) == new).await;
}

#[tokio::test]
async fn plain_http_is_told_what_it_has_met() {
    let papers = Papers::new();
    let site = papers.site("").await;
    let reply = site.raw("GET /public HTTP/1.1\r\nHost: gw.test\r\n\r\n").await.unwrap();
    assert_eq!((reply.status, reply.text().as_str()), (400, "This port speaks HTTPS, not HTTP.\r\n"));
    assert_eq!(site.upstream.hits(), 0);
}

#[tokio::test]
async fn a_websocket_goes_through_tls() {
    let papers = Papers::new();
    let site = papers.site("").await;
    site.upstream.answer(|_| Answer::websocket_echo());
    let mut socket = Connection::on(papers.connect(&site, "gw.test", papers.client(&["http/1.1"])).await.unwrap());
    let request = "GET /public HTTP/1.1\r\nHost: gw.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    socket.send(request.as_bytes()).await.unwrap();
    assert_eq!(socket.reply_head().await.word(1), "101");
    socket.send(b"to and fro").await.unwrap();
    assert_eq!(socket.raw().await, b"to and fro");
}

#[tokio::test]
async fn large_bodies_go_through_tls_both_ways() {
    let papers = Papers::new();
    let site = papers.site("").await;
    let body = vec![b'x'; 3 << 20];
    site.upstream.answer(|received| Answer::status(200).body(received.body.clone()));
    let mut connection = Connection::on(papers.connect(&site, "gw.test", papers.client(&[])).await.unwrap());
    let head = format!("POST /public HTTP/1.1\r\nHost: gw.test\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.send(&[head.as_bytes(), &body].concat()).await.unwrap();
    let reply = connection.reply("POST").await.unwrap();
    assert!(reply.body == body, "{} bytes", reply.body.len());
}

// What TLS has taken and the socket has not: some of these sizes leave a part of the answer there, and nothing else.
#[tokio::test]
async fn the_end_of_an_answer_waits_for_a_client_that_pauses() {
    let papers = Arc::new(Papers::new());
    let site = Arc::new(papers.site("").await);
    site.upstream.answer(|received| {
        Answer::status(200).body(vec![b'x'; received.target.rsplit('=').next().unwrap().parse().unwrap()])
    });
    let lengths = together(64, |number| {
        let (papers, site, length) = (Arc::clone(&papers), Arc::clone(&site), (number + 1) * (48 << 10));
        async move {
            let stream = papers.connect(&site, "gw.test", papers.client(&["http/1.1"])).await.unwrap();
            let mut connection = Connection::on(stream);
            let request = format!("GET /public?length={length} HTTP/1.1\r\nHost: gw.test\r\n\r\n");
            connection.send(request.as_bytes()).await.unwrap();
            sleep(Duration::from_secs(3)).await;
            let reply = timeout(PATIENCE, connection.reply("GET")).await;
            (length, reply.ok().flatten().map(|reply| reply.body.len()))
        }
    });
    for (length, came) in lengths.await {
        assert_eq!(came, Some(length));
    }
}

#[tokio::test]
async fn a_drain_waits_for_no_handshake() {
    let papers = Papers::new();
    let site = papers.site("").await;
    let _silent = TcpStream::connect(site.gateway.address).await.unwrap();
    let mut idle = Connection::on(papers.connect(&site, "gw.test", papers.client(&[])).await.unwrap());
    idle.send(b"GET /public HTTP/1.1\r\nHost: gw.test\r\n\r\n").await.unwrap();
    assert_eq!(idle.reply("GET").await.unwrap().status, 200);
    let begun = site.clock.mono();
    let clock = site.clock.clone();
    site.gateway.shut_down().await;
    assert!(clock.mono().since(begun) < Duration::from_secs(4));
}

/// An authority and what it has signed, in a directory: `ca.pem`, and `server.pem` with `server.key` for `gw.test`,
/// `open.test`, `closed.test` and 127.0.0.1.
pub struct Papers {
    directory: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Papers {
    pub fn new() -> Papers {
        let mut authority = CertificateParams::new(Vec::new()).unwrap();
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        authority.distinguished_name.push(DnType::CommonName, "authority");
        let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
        let papers = Papers { directory: tempfile::tempdir().unwrap(), authority };
        fs::write(papers.path("ca.pem"), papers.authority.pem()).unwrap();
        papers.issue("server", &["gw.test", "open.test", "closed.test", "other.test", "127.0.0.1"]);
        papers
    }

    /// Writes `file.pem` and `file.key`; the inline table that names them.
    pub fn issue(&self, file: &str, names: &[&str]) -> String {
        let key = KeyPair::generate().unwrap();
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let certificate = CertificateParams::new(names).unwrap().signed_by(&key, &self.authority).unwrap();
        let (pem, key_file) = (self.path(&format!("{file}.pem")), self.path(&format!("{file}.key")));
        fs::write(&pem, certificate.pem()).unwrap();
        fs::write(&key_file, key.serialize_pem()).unwrap();
        format!("{{ certificate = \"{pem}\", private_key = \"{key_file}\" }}")
    }

    pub fn path(&self, file: &str) -> String {
        self.directory.path().join(file).display().to_string()
    }

    pub fn certificate(&self, file: &str) -> CertificateDer<'static> {
        CertificateDer::from_pem_file(Path::new(&self.path(&format!("{file}.pem")))).unwrap()
    }

    /// A gateway with `server.pem`, these lines in `[server.tls]`, and `/public`.
    pub async fn site(&self, lines: &str) -> Site {
        self.plan(lines).start().await
    }

    pub fn plan(&self, lines: &str) -> Plan {
        let (certificate, key) = (self.path("server.pem"), self.path("server.key"));
        Papers::plan_with(&format!("certificate = \"{certificate}\"\nprivate_key = \"{key}\"\n{lines}"))
    }

    fn plan_with(lines: &str) -> Plan {
        let lines = format!("[server.tls]\n{lines}");
        Site::plan().external_url("https://gw.test").server(&lines).route("/public", "auth = false")
    }

    fn roots(&self) -> RootCertStore {
        let mut roots = RootCertStore::empty();
        roots.add(self.authority.der().clone()).unwrap();
        roots
    }

    /// Trusts this authority.
    pub fn client(&self, alpn: &[&str]) -> ClientConfig {
        let mut config = self.client_builder().with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        config
    }

    fn client_with(&self, whose: &Papers, file: &str) -> ClientConfig {
        let key = PrivateKeyDer::from_pem_file(Path::new(&whose.path(&format!("{file}.key")))).unwrap();
        self.client_builder().with_client_auth_cert(vec![whose.certificate(file)], key).unwrap()
    }

    fn client_builder(&self) -> rustls::ConfigBuilder<ClientConfig, rustls::client::WantsClientCert> {
        ClientConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(self.roots())
    }

    async fn connect(&self, site: &Site, name: &str, config: ClientConfig) -> std::io::Result<TlsStream<TcpStream>> {
        self.connect_with(site, name, Arc::new(config)).await
    }

    async fn connect_with(
        &self,
        site: &Site,
        name: &str,
        config: Arc<ClientConfig>,
    ) -> std::io::Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(site.gateway.address).await?;
        handshake(stream, name, config).await
    }

    /// Asks on a connection of its own; None when none comes about.
    async fn get(&self, site: &Site, path: &str) -> Option<Reply> {
        ask(self.connect(site, "gw.test", self.client(&[])).await.ok()?, path, "gw.test").await
    }
}

pub async fn handshake(
    stream: TcpStream,
    name: &str,
    config: Arc<ClientConfig>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = ServerName::try_from(name.to_owned()).unwrap();
    timeout(PATIENCE, TlsConnector::from(config).connect(name, stream)).await.expect("a handshake in time")
}

pub async fn ask(stream: TlsStream<TcpStream>, path: &str, host: &str) -> Option<Reply> {
    let mut connection = Connection::on(stream);
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()).await.ok()?;
    connection.reply("GET").await
}

async fn http2_client(stream: TlsStream<TcpStream>) -> hyper::client::conn::http2::SendRequest<Empty<Bytes>> {
    let io = TokioIo::new(stream);
    let (client, connection) = hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await.unwrap();
    tokio::spawn(connection);
    client
}

pub async fn http2(stream: TlsStream<TcpStream>, url: &str) -> u16 {
    let request = hyper::Request::get(url).body(Empty::<Bytes>::new()).unwrap();
    let answer = http2_client(stream).await.send_request(request).await.unwrap();
    let status = answer.status().as_u16();
    answer.into_body().collect().await.unwrap();
    status
}

fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    stream.get_ref().1.peer_certificates().unwrap()[0].clone()
}

/// The bytes of a ClientHello.
fn hello(papers: &Papers) -> Vec<u8> {
    let config = Arc::new(papers.client(&[]));
    let mut client = ClientConnection::new(config, ServerName::try_from("gw.test").unwrap()).unwrap();
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).unwrap();
    bytes
}
