//! A scriptable backend: it records every request as received and answers by script.

use super::gate::Gate;
use super::provider::Provider;
use super::wire::{Connection, Framing, Headers, Reply, bytes_of, chunk, message};
use aws_lc_rs::digest;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

/// On every scripted answer, so that a relayed reply can be told from one the gateway made.
pub const MARK: &str = "X-Scripted-Upstream";

/// What the upstream says when it wants another token.
pub const REFUSAL: &str = r#"{"from":"upstream","problem":"token"}"#;

/// One request as it arrived.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Received {
    pub method: String,
    pub target: String,
    pub headers: Headers,
    pub body: Vec<u8>,
    pub trailers: Headers,
    /// Requests with the same number came on the same connection.
    pub connection: usize,
}

impl Received {
    /// The value of `name`; the empty string when it is missing.
    ///
    /// # Panics
    /// When there are several.
    pub fn header(&self, name: &str) -> &str {
        let values = self.headers.values(name);
        assert!(values.len() <= 1, "{name} arrived more than once: {values:?}");
        values.first().copied().unwrap_or("")
    }

    /// The token of `Authorization: Bearer …`.
    pub fn bearer(&self) -> Option<&str> {
        self.header("authorization").strip_prefix("Bearer ")
    }
}

/// What the upstream answers with.
pub struct Answer {
    status: u16,
    headers: Vec<(String, String)>,
    body: Body,
    gate: Option<Gate>,
}

enum Body {
    Bytes(Vec<u8>),
    Steps(mpsc::UnboundedReceiver<Vec<u8>>),
    Zeros(u64),
    Raw(Vec<u8>),
    Echo,
    Never,
    Reset,
}

impl Answer {
    /// A status with a short text.
    pub fn status(status: u16) -> Answer {
        Answer { status, headers: Vec::new(), body: Body::Bytes(format!("upstream {status}").into_bytes()), gate: None }
    }

    /// 401 with a challenge and [`REFUSAL`].
    pub fn unauthorized() -> Answer {
        Answer::status(401)
            .header("WWW-Authenticate", r#"Bearer realm="api", error="invalid_token""#)
            .header("Content-Type", "application/json")
            .body(REFUSAL)
    }

    /// 200 whose body is what the test sends to the other end, piece by piece, in chunks.
    pub fn steps() -> (mpsc::UnboundedSender<Vec<u8>>, Answer) {
        let (sender, receiver) = mpsc::unbounded_channel();
        (sender, Answer { body: Body::Steps(receiver), ..Answer::status(200) })
    }

    /// 200 and so many zeros, as fast as they are taken.
    pub fn zeros(count: u64) -> Answer {
        Answer { body: Body::Zeros(count), ..Answer::status(200) }
    }

    /// These bytes instead of a response; then the connection closes.
    pub fn raw(bytes: &str) -> Answer {
        Answer { body: Body::Raw(bytes_of(bytes)), ..Answer::status(200) }
    }

    /// Switches to WebSocket and sends back every byte that comes.
    pub fn websocket_echo() -> Answer {
        Answer { body: Body::Echo, ..Answer::status(101) }
    }

    /// No answer at all.
    pub fn never() -> Answer {
        Answer { body: Body::Never, ..Answer::status(200) }
    }

    /// The connection is reset.
    pub fn reset() -> Answer {
        Answer { body: Body::Reset, ..Answer::status(200) }
    }

    /// One more header field.
    pub fn header(mut self, name: &str, value: &str) -> Answer {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Another body.
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Answer {
        self.body = Body::Bytes(body.into());
        self
    }

    /// Goes out when the gate opens.
    pub fn behind(mut self, gate: &Gate) -> Answer {
        self.gate = Some(gate.clone());
        self
    }

    /// Another status, the rest as it is.
    pub fn with_status(mut self, status: u16) -> Answer {
        self.status = status;
        self
    }
}

type Script = Arc<dyn Fn(&Received) -> Answer + Send + Sync>;
type EarlyScript = Arc<dyn Fn(&Received) -> Option<Answer> + Send + Sync>;

/// A handle on a running upstream; clones are the same one.
#[derive(Clone)]
pub struct Upstream {
    shared: Arc<Shared>,
}

struct Shared {
    address: SocketAddr,
    connections: AtomicUsize,
    written: AtomicU64,
    state: Mutex<State>,
}

struct State {
    script: Script,
    early: EarlyScript,
    next: VecDeque<Answer>,
    read_bodies_behind: Option<Gate>,
    received: Vec<Received>,
}

impl Upstream {
    /// Starts a backend that answers 200 to everything.
    pub async fn start() -> Upstream {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let state = State {
            script: Arc::new(|_| Answer::status(200)),
            early: Arc::new(|_| None),
            next: VecDeque::new(),
            read_bodies_behind: None,
            received: Vec::new(),
        };
        let shared = Shared {
            address: listener.local_addr().expect("an address"),
            connections: AtomicUsize::new(0),
            written: AtomicU64::new(0),
            state: Mutex::new(state),
        };
        let upstream = Upstream { shared: Arc::new(shared) };
        tokio::spawn(upstream.clone().accept(listener));
        upstream
    }

    /// `http://127.0.0.1:<port>`
    pub fn url(&self) -> String {
        format!("http://{}", self.shared.address)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.shared.address
    }

    /// Answers by this script from now on.
    pub fn answer(&self, script: impl Fn(&Received) -> Answer + Send + Sync + 'static) {
        self.state().script = Arc::new(script);
    }

    /// Answers the next request with this, whatever the script says.
    pub fn next(&self, answer: Answer) {
        self.state().next.push_back(answer);
    }

    /// Answers by this script as soon as the head is there; `None` reads the body first.
    pub fn answer_early(&self, script: impl Fn(&Received) -> Option<Answer> + Send + Sync + 'static) {
        self.state().early = Arc::new(script);
    }

    /// 200 for a live access token of `provider`, else 401.
    pub fn accept_live_tokens(&self, provider: &Provider) {
        let provider = provider.clone();
        self.answer(move |received| match received.bearer().and_then(|token| provider.user_of(token)) {
            Some(user) => Answer::status(200).header("X-Seen-User", &user),
            None => Answer::unauthorized(),
        });
    }

    /// Reads no request body until the gate opens.
    pub fn read_bodies_behind(&self, gate: &Gate) {
        self.state().read_bodies_behind = Some(gate.clone());
    }

    /// All requests so far, in the order they were complete.
    pub fn received(&self) -> Vec<Received> {
        self.state().received.clone()
    }

    /// How many requests there were.
    pub fn hits(&self) -> usize {
        self.state().received.len()
    }

    /// The newest request.
    ///
    /// # Panics
    /// When there was none.
    pub fn last(&self) -> Received {
        self.state().received.last().expect("the upstream was asked").clone()
    }

    /// Forgets the requests so far.
    pub fn forget(&self) {
        self.state().received.clear();
    }

    /// How many connections were made.
    pub fn connections(&self) -> usize {
        self.shared.connections.load(Ordering::SeqCst)
    }

    /// How many bytes of [`Answer::zeros`] the gateway has taken.
    pub fn zeros_written(&self) -> u64 {
        self.shared.written.load(Ordering::SeqCst)
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().expect("no test panics while it holds the upstream")
    }

    async fn accept(self, listener: TcpListener) {
        while let Ok((stream, _)) = listener.accept().await {
            let number = self.shared.connections.fetch_add(1, Ordering::SeqCst);
            let upstream = self.clone();
            tokio::spawn(async move { upstream.serve(Connection::over(stream), number).await });
        }
    }

    async fn serve(self, mut connection: Connection, number: usize) {
        while let Ok(Some(head)) = connection.head().await {
            let mut received = Received {
                method: head.word(0).to_owned(),
                target: head.word(1).to_owned(),
                headers: head.headers.clone(),
                body: Vec::new(),
                trailers: Headers::default(),
                connection: number,
            };
            let framing = Framing::of_request(&head);
            let early = self.state().early.clone()(&received);
            if let Some(answer) = early {
                self.state().received.push(received.clone());
                if !self.send(&mut connection, &received, answer).await || connection.body(framing).await.is_err() {
                    return;
                }
                continue;
            }
            let gate = self.state().read_bodies_behind.clone();
            if let Some(gate) = gate {
                gate.pass().await;
            }
            if received.header("expect").eq_ignore_ascii_case("100-continue")
                && connection.send(b"HTTP/1.1 100 Continue\r\n\r\n").await.is_err()
            {
                return;
            }
            let Ok((body, trailers)) = connection.body(framing).await else {
                return;
            };
            received.body = body;
            received.trailers = trailers;
            let answer = {
                let mut state = self.state();
                state.received.push(received.clone());
                let script = state.script.clone();
                state.next.pop_front().unwrap_or_else(|| script(&received))
            };
            if !self.send(&mut connection, &received, answer).await {
                return;
            }
        }
    }

    /// Whether the connection can be used again.
    async fn send(&self, connection: &mut Connection, received: &Received, answer: Answer) -> bool {
        if let Some(gate) = &answer.gate {
            gate.pass().await;
        }
        let mut headers = Headers(answer.headers);
        headers.0.push((MARK.to_owned(), "yes".to_owned()));
        let first_line = format!("HTTP/1.1 {} Scripted", answer.status);
        match answer.body {
            Body::Bytes(body) => {
                headers.0.push(("Content-Length".to_owned(), body.len().to_string()));
                let body = if received.method == "HEAD" || answer.status == 304 { Vec::new() } else { body };
                connection.send(&message(&first_line, &headers, &body)).await.is_ok()
            }
            Body::Steps(mut steps) => {
                headers.0.push(("Transfer-Encoding".to_owned(), "chunked".to_owned()));
                let mut sent = connection.send(&message(&first_line, &headers, b"")).await.is_ok();
                while sent && let Some(step) = steps.recv().await {
                    sent = connection.send(&chunk(&step)).await.is_ok();
                }
                sent && connection.send(&chunk(b"")).await.is_ok()
            }
            Body::Zeros(count) => {
                headers.0.push(("Content-Length".to_owned(), count.to_string()));
                let mut sent = connection.send(&message(&first_line, &headers, b"")).await.is_ok();
                let mut left = count;
                while sent && left > 0 {
                    let part = left.min(64 * 1024);
                    sent = connection.send(&vec![0; usize::try_from(part).expect("small")]).await.is_ok();
                    self.shared.written.fetch_add(part, Ordering::SeqCst);
                    left -= part;
                }
                sent
            }
            Body::Raw(bytes) => {
                let _ = connection.send(&bytes).await;
                false
            }
            Body::Echo => {
                headers.0.push(("Connection".to_owned(), "Upgrade".to_owned()));
                headers.0.push(("Upgrade".to_owned(), "websocket".to_owned()));
                let accept = websocket_accept(received.header("sec-websocket-key"));
                headers.0.push(("Sec-WebSocket-Accept".to_owned(), accept));
                let switched = message("HTTP/1.1 101 Switching Protocols", &headers, b"");
                let mut open = connection.send(&switched).await.is_ok();
                while open {
                    let mut framing = Framing::UntilClose;
                    let came = connection.data(&mut framing, &mut Headers::default()).await;
                    open = match came {
                        Ok(Some(bytes)) => connection.send(&bytes).await.is_ok(),
                        Ok(None) | Err(_) => false,
                    };
                }
                false
            }
            Body::Never => std::future::pending().await,
            Body::Reset => {
                let _ = socket2::SockRef::from(&connection.stream).set_linger(Some(Duration::ZERO));
                false
            }
        }
    }
}

/// An address where nobody listens.
pub async fn deserted_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    listener.local_addr().expect("an address")
}

/// How a careless backend reads a target: the query goes, escapes are decoded twice, a backslash is a
/// slash, `;parameters` go, dot segments are resolved, case is folded.
pub fn lax_path(target: &str) -> String {
    let path = target.split(['?', '#']).next().unwrap_or("");
    let once = percent_encoding::percent_decode_str(path).decode_utf8_lossy();
    let twice = percent_encoding::percent_decode_str(&once).decode_utf8_lossy().replace('\\', "/");
    let mut segments: Vec<&str> = Vec::new();
    for segment in twice.split('/') {
        match segment.split(';').next().unwrap_or("").trim() {
            "" | "." => {}
            ".." => drop(segments.pop()),
            name => segments.push(name),
        }
    }
    format!("/{}", segments.join("/")).to_ascii_lowercase()
}

/// RFC 6455 §4.2.2, step 5.4.
pub fn websocket_accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()))
}

/// Whether `reply` is a scripted upstream's and was relayed.
pub fn is_relayed(reply: &Reply) -> bool {
    reply.headers.contains(MARK)
}
