//! What single steps of a request cost, and that some of them do not grow: `cargo bench --bench micro [-- find]`.
//!
//! Nanoseconds here are for comparing two states of one function. What a request costs altogether is in
//! `benches/compare`, and what guards it in `benches/instructions`.

use divan::{Bencher, black_box};
use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderName, HeaderValue, Method};
use latchgate::background::Background;
use latchgate::clock::Clock;
use latchgate::facts::RequestId;
use latchgate::policy::path::NormalPath;
use latchgate::policy::route::{Found, HostPattern, PathPattern, RoutePattern, RouteTable};
use latchgate::policy::{Client, Reason};
use latchgate::reply::{self, Asker, Refusal};
use latchgate::session::cookie::{self, Cookies, Name};
use latchgate::session::opened::Opened;
use latchgate::session::store::MemoryStore;
use latchgate::session::{self, Identity, Opening, SessionId, Sessions, Settings, StoreSettings, TokenSet};
use std::sync::Arc;
use std::time::Duration;

/// As in the gateway.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    divan::main();
}

#[divan::bench(args = ["/api/v1/items/42?page=1", "/a//b/%7Euser/%e2%82%ac", "/a;v=1/b%40c"])]
fn normal_path(bencher: Bencher<'_, '_>, target: &str) {
    let target: PathAndQuery = target.parse().expect("a target");
    bencher.bench(|| NormalPath::from_target(black_box(&target)));
}

#[divan::bench(args = [10, 10_000])]
fn find_route(bencher: Bencher<'_, '_>, routes: usize) {
    let patterns: Vec<RoutePattern> = (0..routes)
        .map(|number| RoutePattern {
            host: HostPattern::Any,
            path: PathPattern::parse(&format!("/api/r{number}/{{id}}/*")).expect("a pattern"),
            methods: None,
        })
        .collect();
    let table = RouteTable::compile(&patterns, false).expect("no two are alike");
    let path = NormalPath::from_target(&PathAndQuery::from_static("/api/r7/42/items")).expect("a path");
    assert!(matches!(table.find("app.example.com", &Method::GET, &path), Found::Route(7)));
    bencher.bench(|| table.find(black_box("app.example.com"), &Method::GET, black_box(&path)));
}

#[divan::bench]
fn read_session_cookie(bencher: Bencher<'_, '_>) {
    let (cookies, lines) = (Cookies::new(true), [cookie_line(&SessionId::random().expect("random bytes"))]);
    bencher.bench(|| cookies.values(black_box(&lines), Name::Session).filter_map(SessionId::parse).count());
}

#[divan::bench]
fn strip_our_cookies(bencher: Bencher<'_, '_>) {
    let headers = request_headers(&SessionId::random().expect("random bytes"));
    bencher.with_inputs(|| headers.clone()).bench_refs(cookie::strip_ours);
}

#[divan::bench]
fn kind_of_client(bencher: Bencher<'_, '_>) {
    let headers = request_headers(&SessionId::random().expect("random bytes"));
    bencher.bench(|| Client::of(&Method::GET, black_box(&headers)));
}

#[divan::bench]
fn request_id_and_trace_parent(bencher: Bencher<'_, '_>) {
    let headers = HeaderMap::new();
    bencher.bench(|| RequestId::of(black_box(&headers)).as_trace_parent());
}

/// A session of 64 that take turns, from the `Cookie` line on.
#[divan::bench(args = [64, 100_000])]
fn find_session(bencher: Bencher<'_, '_>, count: usize) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    let (clock, cookies) = (Clock::system(), Cookies::new(true));
    let sessions = sessions(&clock, count);
    let mut lines = Vec::new();
    for number in 0..count {
        let opened = runtime.block_on(sessions.open(opening(number, &clock), clock.now())).expect("a session");
        lines.push([cookie_line(opened.id())]);
    }
    // An odd stride: every session has its turn, and no two in a row are neighbours.
    let (mut next, now) = (0, clock.now());
    bencher.bench_local(|| {
        next = (next + 7_919) % count;
        let presented = sessions.presented(&cookies, black_box(&lines[next]));
        let found = sessions.peek(&presented, now);
        assert!(matches!(found, Some(session::Found::Live(_))));
    });
}

#[divan::bench(args = [Client::Script, Client::Page])]
fn refuse(bencher: Bencher<'_, '_>, client: Client) {
    let id = RequestId::of(&HeaderMap::new());
    bencher.bench(|| reply::refuse(Asker { id: &id, client }, black_box(&Refusal::Login(Reason::Unauthorized))));
}

fn sessions(clock: &Clock, count: usize) -> Sessions {
    let cache_memory = 1 << 30;
    let settings = Settings {
        store: StoreSettings::Memory,
        idle_timeout: Duration::from_secs(24 * 3600),
        absolute_timeout: Duration::from_secs(72 * 3600),
        max_sessions: count,
        cache_memory,
        max_sessions_per_user: 100,
        secrets: vec!["a secret of more than 32 bytes, for nothing".into()],
    };
    let (store, opened) = (Arc::new(MemoryStore::new(count)), Opened::new(cache_memory));
    let background = Background::on_current_runtime();
    Sessions::new(settings, store, opened, background, clock.clone()).expect("random bytes")
}

fn opening(number: usize, clock: &Clock) -> Opening {
    let (subject, token) = (format!("user-{number}"), format!("{number:a>900}"));
    Opening {
        provider: "bench".into(),
        identity: Identity {
            issuer: "https://id.example.com".into(),
            subject,
            sid: None,
            claims: serde_json::Map::new(),
        },
        tokens: TokenSet::new(token.into(), 1, clock.mono()).expect("letters and digits"),
        transient: false,
        began: clock.mono(),
    }
}

/// What `fetch()` on a page sends.
fn request_headers(session: &SessionId) -> HeaderMap {
    let pairs = [
        ("host", "app.example.com"),
        ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
        ("accept", "*/*"),
        ("accept-language", "en-GB,en;q=0.5"),
        ("accept-encoding", "gzip, deflate, br, zstd"),
        ("referer", "https://app.example.com/items"),
        ("sec-fetch-site", "same-origin"),
        ("sec-fetch-mode", "cors"),
    ];
    let fixed = pairs.map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)));
    fixed.into_iter().chain([(http::header::COOKIE, cookie_line(session))]).collect()
}

fn cookie_line(session: &SessionId) -> HeaderValue {
    let line = format!("theme=dark; __Host-latchgate={}", session.to_cookie_value());
    HeaderValue::try_from(line).expect("visible characters")
}
