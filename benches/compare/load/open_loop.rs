//! Requests at an even rate, whatever the answers do: latency below saturation.
//!
//! Latency counts from when a request was due, not from when its connection was free to send it; a server that stands
//! still for a moment is charged for everybody who would have come meanwhile. It runs in the backend's process, which
//! between two requests asks for events without sleeping: the kernel's timers are too coarse to be measured with.

use crate::Failure;
use crate::http;
use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::task::{spawn_local, yield_now};
use tokio::time::Instant;

/// Where the backend is asked for it.
pub const PATH: &str = "/open-loop";

/// Milliseconds of the 99th percentile: `rate` requests a second for `path` at `port`, on 64 connections.
pub fn p99(backend: SocketAddr, port: u16, path: &str, rate: f64, duration: Duration) -> Result<f64, Failure> {
    let query = url::form_urlencoded::Serializer::new(String::new())
        .append_pair("port", &port.to_string())
        .append_pair("path", path)
        .append_pair("rate", &rate.to_string())
        .append_pair("seconds", &duration.as_secs_f64().to_string())
        .finish();
    Ok(http::body(&http::get(backend, &format!("{PATH}?{query}"), &[])?)?.parse()?)
}

/// The backend's side of it.
pub async fn run(query: &str) -> Result<String, Failure> {
    let parameter = |wanted: &str| {
        let mut pairs = url::form_urlencoded::parse(query.as_bytes());
        pairs.find_map(|(name, value)| (name == wanted).then(|| value.into_owned())).ok_or("a parameter is missing")
    };
    let server: SocketAddr = ([127, 0, 0, 1], parameter("port")?.parse()?).into();
    let (rate, seconds) = (parameter("rate")?.parse::<f64>()?, parameter("seconds")?.parse::<f64>()?);
    let request: Rc<str> = request(server, &parameter("path")?).into();
    let latencies = Rc::new(RefCell::new(Vec::with_capacity((rate * seconds) as usize)));
    let mut connections = Vec::new();
    let mut askers = Vec::new();
    for _ in 0..CONNECTIONS {
        let stream = TcpStream::connect(server).await?;
        stream.set_nodelay(true)?;
        let (due, receiver) = mpsc::unbounded_channel();
        connections.push(due);
        let (request, latencies) = (Rc::clone(&request), Rc::clone(&latencies));
        askers.push(spawn_local(async move {
            ask(stream, receiver, &request, &latencies).await.map_err(|e| e.to_string())
        }));
    }
    let (begun, total) = (Instant::now(), (rate * seconds) as usize);
    for number in 0..total {
        let due = begun + Duration::from_secs_f64(number as f64 / rate);
        while Instant::now() < due {
            yield_now().await;
        }
        // A connection that broke says so itself, below.
        let _ = connections[number % CONNECTIONS].send(due);
    }
    drop(connections);
    for asker in askers {
        asker.await??;
    }
    let latencies = crate::statistics::Samples::new(latencies.take());
    Ok(latencies.quantile(0.99).to_string())
}

/// One request after the other, each when it is due or, later, when the one before it has its answer.
async fn ask(
    mut stream: TcpStream,
    mut due: mpsc::UnboundedReceiver<Instant>,
    request: &str,
    latencies: &RefCell<Vec<f64>>,
) -> Result<(), Failure> {
    let mut buffer = Vec::with_capacity(8 * 1024);
    while let Some(due) = due.recv().await {
        stream.write_all(request.as_bytes()).await?;
        buffer.clear();
        // The answer is small and canned: it ends as it always does.
        while !buffer.ends_with(END_OF_ANSWER) {
            if stream.read_buf(&mut buffer).await? == 0 {
                return Err("a connection ended early".into());
            }
        }
        if !buffer.starts_with(b"HTTP/1.1 200 ") {
            return Err("not a 200".into());
        }
        latencies.borrow_mut().push((Instant::now() - due).as_secs_f64() * 1e3);
    }
    Ok(())
}

fn request(server: SocketAddr, path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: {server}\r\n\
         User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n\
         Accept: */*\r\nAccept-Language: en-GB,en;q=0.5\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
         Referer: http://{server}/items\r\nSec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\n\
         Cookie: theme=dark\r\n\r\n"
    )
}

/// As wrk has them elsewhere.
const CONNECTIONS: usize = 64;
const END_OF_ANSWER: &[u8] = b"x\"}";
