//! How one server of an upstream is reached: TLS, HTTP/2, names, connections that are kept and closed.

use crate::harness::expect::{error_json, relayed};
use crate::harness::upstream::{deserted_address, websocket_accept};
use crate::harness::wire::{Framing, Headers};
use crate::harness::{Answer, Gate, Plan, Request, Site, eventually, together};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::WebPkiClientVerifier;
use std::future::Future;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio_rustls::TlsAcceptor;

// ----------------------------------------------------------------------------------------- TLS

// OU-04, OU-06
#[tokio::test]
async fn ou_06_http2_over_tls_with_a_client_certificate() {
    let authority = Authority::new();
    let tls = authority.acceptor("app.internal", &[b"h2", b"http/1.1"]);
    let server = Server::start(move |_, stream| {
        let tls = tls.clone();
        async move {
            let Ok(stream) = tls.accept(stream).await else { return };
            http2(stream, 100, answer_what_was_asked).await;
        }
    })
    .await;
    let url = format!("url = \"https://{}\"", server.address);
    let (ca, client) = (authority.file("ca.pem"), authority.client());
    let known = format!("{url}\n[upstreams.app.tls]\nca_file = '{ca}'\nserver_name = \"app.internal\"");
    let site = public(&format!("{known}\n{client}")).await;
    for target in ["/a?b=c", "/d"] {
        let reply = site.browser().fetch("GET", target).await;
        assert_eq!((reply.status, reply.text()), (200, format!("GET https://gw.test{target}")));
    }
    assert_eq!(server.connections(), 1);

    for stranger in [known, format!("{url}\n[upstreams.app.tls]\n{client}")] {
        let site = public(&stranger).await;
        let reply = site.browser().fetch("GET", "/").await;
        error_json(&reply, 502);
        assert!(!reply.text().contains("127.0.0.1"), "{}", reply.text());
    }
}

#[tokio::test]
async fn a_websocket_takes_an_http1_connection_where_http2_is_spoken() {
    let authority = Authority::new();
    let tls = authority.acceptor("localhost", &[b"h2", b"http/1.1"]);
    let server = Server::start(move |_, stream| {
        let tls = tls.clone();
        async move {
            let Ok(mut stream) = tls.accept(stream).await else { return };
            if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                return http2(stream, 100, answer_what_was_asked).await;
            }
            let head = head_of(&mut stream).await;
            let key = head.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).unwrap().to_owned();
            let accept = websocket_accept(&key);
            let switched = format!(
                "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: {accept}\r\n\r\n"
            );
            stream.write_all(switched.as_bytes()).await.unwrap();
            let (mut from, mut to) = tokio::io::split(stream);
            let _ = tokio::io::copy(&mut from, &mut to).await;
        }
    })
    .await;
    let (ca, client) = (authority.file("ca.pem"), authority.client());
    let port = server.address.port();
    let site =
        public(&format!("url = \"https://localhost:{port}\"\n[upstreams.app.tls]\nca_file = '{ca}'\n{client}")).await;
    assert_eq!(site.browser().fetch("GET", "/").await.text(), "GET https://gw.test/");
    let request = Request::new("GET", "/socket")
        .header("Connection", "Upgrade")
        .header("Upgrade", "websocket")
        .header("Sec-WebSocket-Version", "13")
        .header("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("Origin", "http://gw.test");
    let (head, mut connection) = site.browser().open(request).await;
    assert_eq!(head.word(1), "101");
    connection.send(b"\x82\x80abcd").await.unwrap();
    let came = connection.data(&mut Framing::UntilClose, &mut Headers::default()).await.unwrap();
    assert_eq!(came.unwrap(), b"\x82\x80abcd");
    assert_eq!(site.browser().fetch("GET", "/").await.status, 200);
    assert_eq!(server.connections(), 2);
}

// -------------------------------------------------------------------------------------- HTTP/2

#[tokio::test]
async fn http2_with_prior_knowledge_carries_bodies_and_trailers() {
    let server = Server::start(|_, stream| {
        http2(stream, 100, |request, mut respond| async move {
            let te = request.headers().get("te").cloned();
            let names: Vec<_> = request.headers().keys().map(ToString::to_string).collect();
            assert!(!names.iter().any(|name| ["host", "connection", "transfer-encoding"].contains(&name.as_str())));
            let mut body = request.into_body();
            let mut sum = 0;
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap();
                sum += piece.len();
                body.flow_control().release_capacity(piece.len()).unwrap();
            }
            let head = http::Response::builder().header("x-te", te.unwrap()).body(()).unwrap();
            let mut answer = respond.send_response(head, false).unwrap();
            answer.send_data(Bytes::from(sum.to_string()), false).unwrap();
            let trailers = [("grpc-status".parse().unwrap(), "7".parse().unwrap())].into_iter().collect();
            answer.send_trailers(trailers).unwrap();
        })
    })
    .await;
    let site = public(&format!("url = \"http://{}\"\nprotocol = \"http2\"", server.address)).await;
    // More than every window on the way.
    let request = Request::fetch("POST", "/x").header("TE", "trailers").body("application/grpc", vec![1; 3 << 20]);
    let (head, mut connection) = site.browser().open(request).await;
    assert_eq!((head.word(1), head.headers.value("x-te")), ("200", Some("trailers")));
    let (mut framing, mut trailers) = (Framing::of_response(&head, "POST"), Headers::default());
    let mut body = Vec::new();
    while let Some(piece) = connection.data(&mut framing, &mut trailers).await.unwrap() {
        body.extend(piece);
    }
    assert_eq!(String::from_utf8(body).unwrap(), (3 << 20).to_string());
}

#[tokio::test]
async fn http2_on_a_unix_socket() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("app.sock");
    let listener = UnixListener::bind(&path).unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(http2(stream, 100, answer_what_was_asked));
        }
    });
    let site = public(&format!("url = \"unix:{}\"\nprotocol = \"http2\"", path.display())).await;
    assert_eq!(site.browser().fetch("GET", "/x").await.text(), "GET http://gw.test/x");
}

#[tokio::test]
async fn another_connection_is_opened_when_the_streams_of_one_are_used_up() {
    let gate = Gate::closed();
    let held = gate.clone();
    let server = Server::start(move |_, stream| {
        let held = held.clone();
        http2(stream, 2, move |request, respond| {
            let held = held.clone();
            async move {
                if request.uri().path() == "/slow" {
                    held.pass().await;
                }
                answer_what_was_asked(request, respond).await;
            }
        })
    })
    .await;
    let site = Arc::new(public(&format!("url = \"http://{}\"\nprotocol = \"http2\"", server.address)).await);
    // The server's limit is known from here on.
    assert_eq!(site.browser().fetch("GET", "/x").await.status, 200);
    let asked = {
        let site = Arc::clone(&site);
        tokio::spawn(async move {
            together(4, |_| {
                let browser = site.browser();
                async move { browser.fetch("GET", "/slow").await.status }
            })
            .await
        })
    };
    gate.arrivals(4).await;
    assert_eq!(server.connections(), 2);
    gate.open();
    assert_eq!(asked.await.unwrap(), [200; 4]);
}

// H2-16
#[tokio::test]
async fn h2_16_what_the_server_did_not_process_is_sent_once_more_on_a_new_connection() {
    let goaway: &[u8] = &[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let refused: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 7];
    let internal_error: &[u8] = &[0, 0, 4, 3, 0, 0, 0, 0, 1, 0, 0, 0, 2];
    for (frame, always, status, connections) in
        [(goaway, false, 200, 2), (refused, false, 200, 2), (internal_error, false, 502, 1), (refused, true, 502, 2)]
    {
        let server = Server::start(move |number, stream| async move {
            if number == 0 || always {
                answer_headers_with(stream, frame).await;
            } else {
                http2(stream, 100, answer_what_was_asked).await;
            }
        })
        .await;
        let site = public(&format!("url = \"http://{}\"\nprotocol = \"http2\"", server.address)).await;
        let request = Request::fetch("POST", "/x").body("text/plain", "");
        assert_eq!(site.browser().send(request).await.status, status, "{frame:?}");
        assert_eq!(server.connections(), connections, "{frame:?}");
    }
}

// H2-16
#[tokio::test]
async fn h2_16_exchanges_under_way_outlive_a_goaway() {
    let (gate, going) = (Gate::closed(), Gate::closed());
    let (held, goes) = (gate.clone(), going.clone());
    let server = Server::start(move |_, stream| {
        let (held, goes) = (held.clone(), goes.clone());
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut left = false;
            while let Some(Ok((request, respond))) = connection.accept().await {
                let held = held.clone();
                if request.uri().path() == "/slow" {
                    tokio::spawn(async move {
                        held.pass().await;
                        answer_what_was_asked(request, respond).await;
                    });
                } else {
                    tokio::spawn(answer_what_was_asked(request, respond));
                }
                if !left {
                    connection.graceful_shutdown();
                    goes.open();
                    left = true;
                }
            }
        }
    })
    .await;
    let site = Arc::new(public(&format!("url = \"http://{}\"\nprotocol = \"http2\"", server.address)).await);
    let slow = tokio::spawn({
        let browser = site.browser();
        async move { browser.fetch("GET", "/slow").await.text() }
    });
    gate.arrivals(1).await;
    going.pass().await;
    for _ in 0..3 {
        assert_eq!(site.browser().fetch("GET", "/x").await.status, 200);
    }
    assert!(server.connections() > 1);
    gate.open();
    assert_eq!(slow.await.unwrap(), "GET http://gw.test/slow");
}

// H2-17
#[tokio::test]
async fn h2_17_a_reset_after_the_headers_is_passed_on_in_both_directions() {
    let left = Gate::closed();
    let leaves = left.clone();
    let server = Server::start(move |_, stream| {
        let leaves = leaves.clone();
        http2(stream, 100, move |request, mut respond| {
            let leaves = leaves.clone();
            async move {
                let endless = request.uri().path() == "/endless";
                let mut answer = respond.send_response(http::Response::new(()), false).unwrap();
                answer.send_data(Bytes::from_static(b"part"), false).unwrap();
                if endless {
                    let reason = std::future::poll_fn(|cx| answer.poll_reset(cx)).await.unwrap();
                    assert_eq!(reason, Reason::CANCEL);
                    leaves.open();
                } else {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    answer.send_reset(Reason::INTERNAL_ERROR);
                }
            }
        })
    })
    .await;
    let site = public(&format!("url = \"http://{}\"\nprotocol = \"http2\"", server.address)).await;
    let (head, mut connection) = site.browser().open(Request::fetch("GET", "/broken")).await;
    assert_eq!(head.word(1), "200");
    assert!(connection.body(Framing::of_response(&head, "GET")).await.is_err(), "an answer cut short is no whole one");

    let (_, connection) = site.browser().open(Request::fetch("GET", "/endless")).await;
    drop(connection);
    tokio::time::timeout(Duration::from_secs(10), left.pass()).await.expect("the server is told");
    assert_eq!(server.connections(), 1, "the connection goes on");
}

// ------------------------------------------------------------------------------- names and ages

// OU-09
#[tokio::test]
async fn ou_09_a_server_is_reached_by_its_name() {
    let site = public("url = \"http://localhost:1\"").await;
    error_json(&site.browser().fetch("GET", "/").await, 502);
    let port = site.upstream.address().port();
    // `localhost` may be ::1 first, where nobody listens.
    let site = public(&format!("url = \"http://localhost:{port}\"")).await;
    assert_eq!(site.browser().fetch("GET", "/").await.status, 200);
}

// RL-28
#[tokio::test]
async fn rl_28_idle_connections_are_closed_although_no_request_comes() {
    for settings in ["idle_timeout = \"300ms\"", "connection_max_age = \"300ms\"\nidle_timeout = \"1m\""] {
        let (server, open) = counting_server().await;
        let site = public(&format!("url = \"http://{}\"\n{settings}", server.address)).await;
        for _ in 0..3 {
            assert_eq!(site.browser().fetch("GET", "/").await.status, 200);
        }
        assert_eq!(server.connections(), 1);
        eventually(|| async { open.load(Ordering::SeqCst) == 0 }).await;
        assert_eq!(site.browser().fetch("GET", "/").await.status, 200);
        assert_eq!(server.connections(), 2);
    }
}

// RL-28
#[tokio::test]
async fn rl_28_an_http2_connection_is_closed_when_nothing_is_under_way() {
    let open = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&open);
    let server = Server::start(move |_, stream| {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            http2(stream, 100, answer_what_was_asked).await;
            counted.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    let app = format!("url = \"http://{}\"\nprotocol = \"http2\"\nidle_timeout = \"300ms\"", server.address);
    let site = public(&app).await;
    assert_eq!(site.browser().fetch("GET", "/").await.status, 200);
    assert_eq!(open.load(Ordering::SeqCst), 1);
    eventually(|| async { open.load(Ordering::SeqCst) == 0 }).await;
    assert_eq!(site.browser().fetch("GET", "/").await.status, 200);
}

// RL-28
#[tokio::test]
async fn rl_28_no_more_idle_connections_are_kept_than_allowed() {
    let (server, open) = counting_server().await;
    let site = public(&format!("url = \"http://{}\"\nmax_idle_connections = 2", server.address)).await;
    let statuses = together(8, |_| {
        let browser = site.browser();
        async move { browser.fetch("GET", "/slow").await.status }
    })
    .await;
    assert_eq!(statuses, [200; 8]);
    assert!(server.connections() > 2);
    eventually(|| async { open.load(Ordering::SeqCst) == 2 }).await;
}

#[tokio::test]
async fn a_server_that_answers_no_connection_costs_no_more_than_the_connect_timeout() {
    let mute = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    mute.bind(&"127.0.0.1:0".parse::<SocketAddr>().unwrap().into()).unwrap();
    mute.listen(0).unwrap();
    let address = mute.local_addr().unwrap().as_socket().unwrap();
    let _in_line = TcpStream::connect(address).await.unwrap();
    let site = public(&format!("url = \"http://{address}\"\nconnect_timeout = \"200ms\"")).await;
    error_json(&site.browser().fetch("GET", "/").await, 504);
    let site = public(&format!("url = \"http://{}\"\nprotocol = \"http2\"", deserted_address().await)).await;
    error_json(&site.browser().fetch("GET", "/").await, 502);
}

#[tokio::test]
async fn a_server_that_does_not_speak_http2_is_told_from_one_that_does() {
    let site = public("protocol = \"http2\"").await;
    site.upstream.answer(|_| Answer::raw("HTTP/1.1 400 Bad Request\r\n\r\n"));
    error_json(&site.browser().fetch("GET", "/").await, 502);
    let site = public("protocol = \"http1\"").await;
    relayed(&site.browser().fetch("GET", "/").await, 200);
}

// ---------------------------------------------------------------------------------- the stage

/// One worker, one public route, and these lines for the upstream.
async fn public(app: &str) -> Site {
    plan(app).start().await
}

fn plan(app: &str) -> Plan {
    Site::plan().server("workers = 1").app(app).route("/*", "auth = \"public\"")
}

/// A server that counts its connections.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
}

impl Server {
    /// `serve` gets each connection with its number.
    async fn start<F, S>(serve: F) -> Server
    where
        F: Fn(usize, TcpStream) -> S + Send + 'static,
        S: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&connections);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(count.fetch_add(1, Ordering::SeqCst), stream));
            }
        });
        Server { address, connections }
    }

    fn connections(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }
}

/// HTTP/1.1 that answers 200, and how many of its connections are open.
async fn counting_server() -> (Server, Arc<AtomicUsize>) {
    let open = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&open);
    let server = Server::start(move |_, mut stream| {
        let count = Arc::clone(&count);
        async move {
            count.fetch_add(1, Ordering::SeqCst);
            loop {
                let head = head_of(&mut stream).await;
                if head.is_empty() {
                    break;
                }
                if head.starts_with("GET /slow ") {
                    tokio::time::sleep(Duration::from_millis(200)).await;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
            }
            count.fetch_sub(1, Ordering::SeqCst);
        }
    })
    .await;
    (server, open)
}

/// A request head without a body, in lower case but for its first line; empty at the end of the connection.
async fn head_of(stream: &mut (impl AsyncRead + Unpin)) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return String::new(),
        }
    }
    String::from_utf8(head).unwrap()
}

/// Serves HTTP/2 until the client is gone.
async fn http2<S, F, A>(stream: S, most_streams: u32, answer: F)
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Fn(http::Request<RecvStream>, SendResponse<Bytes>) -> A,
    A: Future<Output = ()> + Send + 'static,
{
    let mut server = h2::server::Builder::new();
    let Ok(mut connection) = server.max_concurrent_streams(most_streams).handshake(stream).await else { return };
    while let Some(Ok((request, respond))) = connection.accept().await {
        tokio::spawn(answer(request, respond));
    }
}

/// 200 with the method and the whole URL.
async fn answer_what_was_asked(request: http::Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let text = format!("{} {}", request.method(), request.uri());
    if let Ok(mut answer) = respond.send_response(http::Response::new(()), false) {
        let _ = answer.send_data(Bytes::from(text), true);
    }
}

/// HTTP/2 that answers the first HEADERS with this frame.
async fn answer_headers_with(mut stream: TcpStream, frame: &[u8]) {
    const SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];
    const HEADERS: u8 = 1;
    stream.write_all(SETTINGS).await.unwrap();
    let mut preface = [0; 24];
    stream.read_exact(&mut preface).await.unwrap();
    loop {
        let mut header = [0; 9];
        if stream.read_exact(&mut header).await.is_err() {
            return;
        }
        let mut payload = vec![0; u32::from_be_bytes([0, header[0], header[1], header[2]]) as usize];
        stream.read_exact(&mut payload).await.unwrap();
        if header[3] == HEADERS {
            stream.write_all(frame).await.unwrap();
        }
    }
}

/// Signs the certificates of both sides, and keeps them in files.
struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    directory: TempDir,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let authority = Authority { issuer, directory: tempfile::tempdir().unwrap() };
        authority.write("ca.pem", &authority.issuer.pem());
        authority
    }

    fn file(&self, name: &str) -> String {
        self.directory.path().join(name).display().to_string()
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.file(name), text).unwrap();
    }

    /// The lines that show a client certificate.
    fn client(&self) -> String {
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(["gateway".to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        self.write("client.pem", &certificate.pem());
        self.write("client.key", &key.serialize_pem());
        format!("client_certificate = '{}'\nclient_key = '{}'", self.file("client.pem"), self.file("client.key"))
    }

    /// A server of this name that wants a client certificate.
    fn acceptor(&self, name: &str, protocols: &[&[u8]]) -> TlsAcceptor {
        let key = KeyPair::generate().unwrap();
        let certificate = CertificateParams::new([name.to_owned()]).unwrap().signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
        let mut roots = rustls::RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build().unwrap();
        let mut config = rustls::ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_client_cert_verifier(clients)
            .with_single_cert(vec![certificate.der().clone()], key)
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}
