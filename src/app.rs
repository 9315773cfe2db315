//! The only file that wires. Top to bottom: what all workers share, the sockets, a thread for each
//! worker, and the way to stop it all.

use crate::attempts::Attempts;
use crate::background::Background;
use crate::clients::Clients;
use crate::clock::Clock;
use crate::config::Config;
use crate::endpoints::{Endpoints, LoginAttempts};
use crate::gateway::{self, Budget, Parts, Route, Tunnels};
use crate::policy::route::RouteTable;
use crate::provider::mock::MockProvider;
use crate::provider::{HttpClient, Kind, Provider};
use crate::server::tls::{Terminator, Unusable};
use crate::server::{self, Bound, Door, Listen, Sockets};
use crate::session::carried::chunks_within;
use crate::session::cookie::Cookies;
use crate::session::opened::Opened;
use crate::session::own_token::OwnTokens;
use crate::session::seal::{NoRandomness, Sealer};
use crate::session::store::redis::RedisStore;
use crate::session::store::{Bounds, CookieStore, FileSettings, FileStore, MemoryStore, SessionStore};
use crate::session::{Sessions, StoreSettings};
use crate::tls;
use crate::tokens::Tokens;
use crate::tokens::assertion::Assertions;
use crate::upstream::demo::DemoUpstream;
use crate::upstream::{ServerAddress, ServerSettings, Upstream, UpstreamState};
use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{Semaphore, watch};

/// A gateway at work. Dropping it does not stop it; [`Running::shut_down`] does.
pub struct Running {
    addresses: Vec<SocketAddr>,
    admin_address: Option<SocketAddr>,
    stop: watch::Sender<bool>,
    workers: Vec<JoinHandle<bool>>,
    background: Background,
    sessions: Sessions,
    terminator: Option<Arc<Terminator>>,
    drain_timeout: Duration,
}

/// How a shutdown went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Drained {
    /// Everything that was under way has finished.
    Complete,
    /// `server.drain_timeout` cut something off.
    CutOff,
}

/// Why a gateway with a good configuration did not start.
#[derive(Debug)]
pub enum StartError {
    /// Somebody else listens there, or it is not ours to take.
    Bind(String, io::Error),
    /// The sessions cannot be kept where they should be.
    Store(String),
    /// A file of `[server.tls]` has changed since it was checked.
    Tls(Unusable),
    /// No random bytes, no threads.
    System(String),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StartError::Bind(place, error) => write!(f, "cannot listen on {place}: {error}"),
            StartError::Store(what) => write!(f, "cannot keep sessions: {what}"),
            StartError::Tls(problem) => write!(f, "cannot serve TLS: {problem}"),
            StartError::System(what) => f.write_str(what),
        }
    }
}

impl std::error::Error for StartError {}

/// Starts everything: workers on threads of their own, work that must finish on the runtime of the
/// caller.
///
/// # Errors
/// When a port is taken, or the system has no threads or randomness to give. Nothing is left
/// running then.
pub async fn start(config: Config, clock: Clock) -> Result<Running, StartError> {
    let background = Background::on_current_runtime();
    prepare_cryptography(&config);
    let shared = Shared::new(&config, &clock, &background)?;
    let Sockets { of_worker, addresses } = server::bind(&config.server.listen, config.server.workers)
        .map_err(|(place, error)| StartError::Bind(describe(&place), error))?;
    let (stop, stopped) = watch::channel(false);
    let admin_address = match config.server.admin_listen {
        Some(address) => {
            let failed = |error| StartError::Bind(format!("{address} (server.admin_listen)"), error);
            let listener = server::admin::bind(address).await.map_err(failed)?;
            let address = listener.local_addr().map_err(failed)?;
            let (sessions, upstreams) = (shared.sessions.clone(), shared.upstreams.clone());
            background.run_forever(server::admin::serve(listener, sessions, upstreams, stopped.clone()));
            Some(address)
        }
        None => None,
    };
    for (settings, state) in config.upstreams.iter().zip(&shared.upstreams) {
        state.start_checks(settings, &shared.tls, &background);
    }
    background.run_forever(sweep(Arc::clone(&shared.endpoints), clock.clone()));
    let sessions = shared.sessions.clone();
    background.run_forever(async move { sessions.watch_held().await });
    if let Some(terminator) = &shared.terminator {
        background.run_forever(Arc::clone(terminator).watch());
    }
    let config = Arc::new(config);
    let workers = of_worker
        .into_iter()
        .enumerate()
        .map(|(number, sockets)| spawn_worker(number, sockets, &config, &shared, &clock, stopped.clone()))
        .collect::<io::Result<Vec<_>>>()
        .map_err(|error| StartError::System(format!("cannot start a worker thread: {error}")))?;
    let drain_timeout = config.server.drain_timeout;
    let sessions = shared.sessions.clone();
    let terminator = shared.terminator.clone();
    Ok(Running { addresses, admin_address, stop, workers, background, sessions, terminator, drain_timeout })
}

impl Running {
    /// Where it listens, in file order; without unix sockets.
    #[must_use]
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Where the admin listener is.
    #[must_use]
    pub fn admin_address(&self) -> Option<SocketAddr> {
        self.admin_address
    }

    /// Reads the certificates of `[server.tls]` again, as changed files are read by themselves. Those that cannot be used
    /// are reported, and the old ones stay.
    pub fn reload_certificates(&self) {
        if let Some(terminator) = &self.terminator {
            terminator.reload();
        }
    }

    /// Takes no more connections, lets requests finish, then what they started: refreshes, code
    /// exchanges, revocations.
    pub async fn shut_down(self) -> Drained {
        self.stop.send_replace(true);
        let workers = self.workers;
        let all_drained = tokio::task::spawn_blocking(move || {
            // Every worker is waited for, whatever became of the one before.
            let drained: Vec<bool> = workers.into_iter().map(|worker| worker.join().unwrap_or(false)).collect();
            drained.into_iter().all(|drained| drained)
        });
        let requests = all_drained.await.unwrap_or(false);
        let tasks = tokio::time::timeout(self.drain_timeout.max(LEAST_FOR_TASKS), self.background.finished()).await;
        self.sessions.store().close().await;
        if requests && tasks.is_ok() { Drained::Complete } else { Drained::CutOff }
    }
}

/// What the first handshakes would wait for on a worker, done beside the start: the seeding of aws-lc's random generator takes tens of
/// milliseconds, the root certificates of this machine a few. Whoever needs them before they are there waits as they would have.
fn prepare_cryptography(config: &Config) {
    let by_native_roots = config.upstreams.iter().any(|upstream| {
        let has_tls = |server: &ServerSettings| matches!(server.address, ServerAddress::Tcp { tls: true, .. });
        upstream.servers.iter().any(has_tls) && upstream.connection.tls.roots.is_none()
    });
    tokio::task::spawn_blocking(move || {
        // What it cannot give, it cannot give whoever asks next either, and they say so.
        let _ = aws_lc_rs::rand::fill(&mut [0]);
        if by_native_roots {
            tls::read_native_roots();
        }
    });
}

/// What there is once, whatever the number of workers.
struct Shared {
    cookies: Cookies,
    sessions: Sessions,
    tokens: Arc<Tokens>,
    own_tokens: Arc<OwnTokens>,
    assertions: Arc<Assertions>,
    clients: Arc<Clients>,
    endpoints: Arc<Endpoints>,
    replay_budget: Arc<Budget>,
    /// In file order.
    upstreams: Vec<Arc<UpstreamState>>,
    demo: Arc<DemoUpstream>,
    tls: Arc<rustls::ClientConfig>,
    terminator: Option<Arc<Terminator>>,
    places: Arc<server::Places>,
}

impl Shared {
    fn new(config: &Config, clock: &Clock, background: &Background) -> Result<Arc<Shared>, StartError> {
        let secrets = &config.session.secrets;
        let external_url = config.server.external_url.clone();
        let cookies = Cookies::new(external_url.scheme() == "https");
        let sessions = sessions(config, clock, background)?;
        let own_tokens = Arc::new(OwnTokens::new(config.tokens.clone(), secrets).map_err(no_randomness)?);
        let assertions = Assertions::new(config.tokens.issuer.clone(), Arc::clone(own_tokens.keys()));
        let tls = tls::client_config();
        let terminator = config.server.tls.clone().map(|settings| Terminator::new(settings, clock.clone())).transpose();
        let terminator = terminator.map_err(StartError::Tls)?.map(Arc::new);
        let network = HttpClient::network(tls.clone());
        let clients =
            Clients::new(&config.clients, &network, config.refresh.timeout, clock.clone(), background.clone());
        let (providers, mock) = providers(config, clock, network);
        let by_name: HashMap<Arc<str>, Arc<Provider>> =
            providers.iter().map(|provider| (provider.name().into(), Arc::clone(provider))).collect();
        let tokens =
            Arc::new(Tokens::new(config.refresh.clone(), sessions.clone(), by_name, clock.clone(), background.clone()));
        let endpoints = Arc::new(Endpoints {
            settings: config.login.clone(),
            external_url,
            providers,
            mock,
            cookies: cookies.clone(),
            sessions: sessions.clone(),
            tokens: Arc::clone(&tokens),
            own_tokens: Arc::clone(&own_tokens),
            code_flow: config.code_flow.clone(),
            impersonators: config.impersonators.clone(),
            code_attempts: Attempts::new(CODE_GUESSES, CODE_GUESSES_WITHIN),
            sealer: Arc::new(Sealer::new(secrets).map_err(no_randomness)?),
            logout_turns: Arc::new(Semaphore::new(LOGOUTS_AT_ONCE)),
            login_attempts: Arc::new(LoginAttempts::new(config.limits.login_attempts)),
            background: background.clone(),
            clock: clock.clone(),
        });
        Ok(Arc::new(Shared {
            cookies,
            sessions,
            tokens,
            own_tokens,
            assertions: Arc::new(assertions),
            clients,
            endpoints,
            replay_budget: Arc::new(Budget::new(config.limits.replay_memory)),
            upstreams: config.upstreams.iter().map(|it| Arc::new(UpstreamState::new(it, clock))).collect(),
            demo: Arc::new(DemoUpstream::new(clock.clone())),
            tls: Arc::new(tls),
            terminator,
            places: Arc::default(),
        }))
    }
}

/// All sessions, where `session.store` says. A file is opened and checked here; Redis may come later.
fn sessions(config: &Config, clock: &Clock, background: &Background) -> Result<Sessions, StartError> {
    let settings = config.session.clone();
    let opened = Opened::new(settings.cache_memory);
    let most_sessions = settings.max_sessions;
    let store: Arc<dyn SessionStore> = match &settings.store {
        StoreSettings::Memory => Arc::new(MemoryStore::new(most_sessions)),
        StoreSettings::File(path) => {
            let failed = |problem| StartError::Store(format!("{}: {problem}", path.display()));
            let settings = FileSettings { path: path.clone(), most_sessions };
            Arc::new(FileStore::open(&settings, clock.clone()).map_err(failed)?)
        }
        StoreSettings::Redis(settings) => {
            let failed = |problem| StartError::Store(format!("session.redis: {problem}"));
            RedisStore::new(settings.clone(), Arc::clone(&opened), background.clone(), clock.clone()).map_err(failed)?
        }
        StoreSettings::Cookie => {
            let bounds = Bounds {
                sessions: most_sessions.max(LEAST_CARRIED),
                bytes: settings.cache_memory.max(LEAST_FOR_CARRIED),
                longest_life: settings.absolute_timeout,
            };
            let most_chunks = chunks_within(config.limits.header_bytes);
            let store = Arc::new(CookieStore::new(bounds));
            return Sessions::in_cookies(settings, store, most_chunks, opened, background.clone(), clock.clone())
                .map_err(no_randomness);
        }
    };
    Sessions::new(settings, store, opened, background.clone(), clock.clone()).map_err(no_randomness)
}

fn no_randomness(error: NoRandomness) -> StartError {
    StartError::System(error.to_string())
}

/// The mock provider answers in this process; nothing but the way to it differs.
fn providers(config: &Config, clock: &Clock, network: HttpClient) -> (Vec<Arc<Provider>>, Option<Arc<MockProvider>>) {
    let mut mock = None;
    let providers = config
        .providers
        .iter()
        .map(|settings| {
            let http = match &settings.kind {
                Kind::Mock(mock_settings) => {
                    let provider = Arc::new(MockProvider::new(mock_settings.clone(), clock.clone()));
                    mock = Some(Arc::clone(&provider));
                    HttpClient::in_process(move |request| std::future::ready(provider.handle(request)))
                }
                Kind::Oidc { .. } | Kind::OAuth2 { .. } | Kind::Backend(_) => network.clone(),
            };
            Arc::new(Provider::new(settings.clone(), http, clock.clone()))
        })
        .collect();
    (providers, mock)
}

fn spawn_worker(
    number: usize,
    sockets: Vec<Bound>,
    config: &Arc<Config>,
    shared: &Arc<Shared>,
    clock: &Clock,
    stop: watch::Receiver<bool>,
) -> io::Result<JoinHandle<bool>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (config, shared, clock) = (Arc::clone(config), Arc::clone(shared), clock.clone());
    std::thread::Builder::new().name(format!("worker-{number}")).spawn(move || {
        runtime.block_on(async move {
            let tunnels = Tunnels::new(stop.clone(), config.limits.websocket_idle_timeout);
            let door = Door {
                gateway: gateway::stack(&Arc::new(parts(&config, &shared, &clock, &tunnels))),
                tunnels,
                trusted_proxies: config.server.trusted_proxies.clone(),
                proxy_protocol: config.server.proxy_protocol,
                tls: shared.terminator.clone(),
                limits: config.limits.clone(),
                places: Arc::clone(&shared.places),
                logout_path: format!("{}/logout", config.login.prefix),
                stop,
            };
            match server::serve(sockets, door, config.server.drain_timeout).await {
                Ok(drained) => drained,
                Err(error) => {
                    tracing::error!(%error, "a worker cannot listen");
                    false
                }
            }
        })
    })
}

/// One worker's own: upstream connections and everything that is counted per request.
fn parts(config: &Config, shared: &Shared, clock: &Clock, tunnels: &Tunnels) -> Parts {
    let upstreams: HashMap<&str, Arc<Upstream>> = config
        .upstreams
        .iter()
        .zip(&shared.upstreams)
        .map(|(settings, state)| {
            let upstream = Upstream::new(settings.clone(), state, &shared.demo, &shared.tls, clock);
            (settings.name.as_str(), Arc::new(upstream))
        })
        .collect();
    let identity: Vec<_> =
        config.routes.iter().flat_map(|route| &route.identity).map(|(name, _)| name.clone()).collect();
    let routes: Vec<Arc<Route>> = config
        .routes
        .iter()
        .map(|settings| {
            let upstream = Arc::clone(&upstreams[settings.upstream.as_str()]);
            let backend = shared.endpoints.backend_of_route(settings.provider.as_deref());
            Arc::new(Route::to_upstream(settings.clone(), upstream, &identity, &shared.clients, backend))
        })
        .collect();
    let patterns: Vec<_> = config.routes.iter().map(|route| route.pattern.clone()).collect();
    let endpoints = shared.endpoints.patterns().expect("the configuration was checked");
    let endpoint_patterns: Vec<_> = endpoints.iter().map(|(pattern, _)| pattern.clone()).collect();
    Parts {
        routes,
        table: RouteTable::compile(&patterns, config.server.case_insensitive_paths)
            .expect("the configuration was checked"),
        endpoint_routes: endpoints
            .into_iter()
            .map(|(pattern, endpoint)| Arc::new(Route::to_endpoint(endpoint, pattern)))
            .collect(),
        endpoint_table: RouteTable::compile(&endpoint_patterns, false).expect("no endpoint has two meanings"),
        endpoints: Arc::clone(&shared.endpoints),
        captures: config.routes.iter().any(|route| route.capture),
        sessions: shared.sessions.clone(),
        tokens: Arc::clone(&shared.tokens),
        own_tokens: Arc::clone(&shared.own_tokens),
        assertions: Arc::clone(&shared.assertions),
        clients: Arc::clone(&shared.clients),
        cookies: shared.cookies.clone(),
        external_url: config.server.external_url.clone(),
        trusted_proxies: config.server.trusted_proxies.clone(),
        limits: config.limits.clone(),
        replay_budget: Arc::clone(&shared.replay_budget),
        tunnels: tunnels.clone(),
        clock: clock.clone(),
    }
}

/// Drops what is over, so that memory follows use.
async fn sweep(endpoints: Arc<Endpoints>, clock: Clock) {
    loop {
        tokio::time::sleep(SWEEP_EVERY).await;
        let over = endpoints.sessions.sweep(clock.now()).await;
        endpoints.revoke_over(over);
    }
}

fn describe(place: &Listen) -> String {
    match place {
        Listen::Tcp(address) => address.to_string(),
        Listen::Unix(path) => format!("unix:{}", path.display()),
    }
}

/// Logouts of providers that are looked at at the same time: more of them wait, and requests do not.
const LOGOUTS_AT_ONCE: usize = 16;
/// At a code, by one client: 256 random bits need no such bound, the store behind them does.
const CODE_GUESSES: u32 = 60;
const CODE_GUESSES_WITHIN: Duration = Duration::from_secs(300);
/// Requests at the same time, of which none must make the store forget what another one needs.
const LEAST_CARRIED: usize = 1000;
const LEAST_FOR_CARRIED: u64 = 8 << 20;
const SWEEP_EVERY: Duration = Duration::from_secs(30);
/// Tokens that were bought must be stored, even if requests are cut off at once.
const LEAST_FOR_TASKS: Duration = Duration::from_secs(5);
