//! One connection: TCP, TLS or a unix socket below, many requests at a time above.
//!
//! Replies come in the order of the requests. A request whose caller went away keeps its place in that order, and its
//! reply is dropped; a connection that broke answers nobody any more. So no reply reaches another request.

use super::fault::Fault;
use super::script::Script;
use super::settings::{Address, Mode, RedisProblem, RedisSettings, TlsSettings, problem};
use crate::background::Background;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Cmd, ErrorKind, ProtocolVersion, PushInfo, RedisConnectionInfo, RedisError, Value};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{ClientConfig, RootCertStore};
use secrecy::{ExposeSecret, SecretString};
use socket2::{SockRef, TcpKeepalive};
use std::collections::HashMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

/// Opens connections.
pub(super) struct Dialer {
    pub(super) settings: RedisSettings,
    tls: Option<TlsConnector>,
    background: Background,
    troubles: Mutex<HashMap<String, &'static str>>,
}

/// What a connection is for.
pub(super) enum Purpose<'a> {
    /// Requests to a primary.
    Requests,
    /// What a primary has to say of itself, by RESP3.
    Pushes(Box<dyn Fn(PushInfo) + Send + Sync>),
    /// Where a cluster's primaries are; any node will do.
    Topology,
    /// Where the primary is; with the sentinels' own user and password.
    Sentinel(Option<&'a str>, Option<&'a SecretString>),
}

/// Closed when dropped.
pub(super) struct Connection {
    requests: MultiplexedConnection,
    broken: CancellationToken,
    _driver: AbortOnDropHandle<()>,
}

/// One thing to ask.
pub(super) enum Question<'a> {
    /// As it is.
    Command(Cmd),
    /// By its name, or in full when the server has not seen it.
    Script(&'static Script, &'a [&'a str], &'a [&'a [u8]]),
}

impl Dialer {
    /// # Errors
    /// When a PEM file cannot be used.
    pub(super) fn new(settings: RedisSettings, background: Background) -> Result<Dialer, RedisProblem> {
        settings.check()?;
        let tls = settings.tls.as_ref().map(tls_config).transpose()?.map(|config| TlsConnector::from(Arc::new(config)));
        Ok(Dialer { settings, tls, background, troubles: Mutex::default() })
    }

    /// A connection that is ready. What stands in its way is logged, once until it changes.
    pub(super) async fn dial(&self, address: &Address, purpose: Purpose<'_>) -> Result<Connection, Fault> {
        let result = match timeout(self.settings.connect_timeout, self.prepare(address, purpose)).await {
            Ok(result) => result,
            Err(_) => Err((Fault::TimedOut, String::new())),
        };
        match result {
            Ok(connection) => {
                self.well(&address.to_string());
                Ok(connection)
            }
            Err((fault, detail)) => {
                self.trouble(&address.to_string(), fault.reason(), &detail);
                Err(fault)
            }
        }
    }

    /// Logs that something is wrong with `what`, unless that was the last that was said of it.
    pub(super) fn trouble(&self, what: &str, reason: &'static str, detail: &str) {
        let mut troubles = self.troubles.lock().unwrap_or_else(PoisonError::into_inner);
        if troubles.insert(what.to_owned(), reason) != Some(reason) {
            tracing::warn!(redis = what, reason, detail, "Redis cannot be used");
        }
    }

    /// Logs that it is right again, if it was not.
    pub(super) fn well(&self, what: &str) {
        if self.troubles.lock().unwrap_or_else(PoisonError::into_inner).remove(what).is_some() {
            tracing::info!(redis = what, "Redis can be used again");
        }
    }

    pub(super) fn background(&self) -> &Background {
        &self.background
    }

    async fn prepare(&self, address: &Address, purpose: Purpose<'_>) -> Result<Connection, (Fault, String)> {
        match address {
            Address::Unix(path) => {
                let stream = UnixStream::connect(path).await.map_err(unreachable)?;
                self.greet(stream, purpose).await
            }
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                stream.set_nodelay(true).map_err(unreachable)?;
                // Keeps an idle connection known to what stands between, and finds out when the other side is gone.
                let keepalive = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 3);
                SockRef::from(&stream).set_tcp_keepalive(&keepalive).map_err(unreachable)?;
                let Some(tls) = &self.tls else { return self.greet(stream, purpose).await };
                let name = ServerName::try_from(host.clone()).map_err(|error| (Fault::Tls, error.to_string()))?;
                let stream = tls.connect(name, stream).await.map_err(|error| (Fault::Tls, error.to_string()))?;
                self.greet(stream, purpose).await
            }
        }
    }

    async fn greet<S>(&self, stream: S, purpose: Purpose<'_>) -> Result<Connection, (Fault, String)>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let ours = (self.settings.username.as_deref(), self.settings.password.as_ref());
        let (username, password) =
            if let Purpose::Sentinel(username, password) = &purpose { (*username, *password) } else { ours };
        let is_cluster = matches!(self.settings.mode, Mode::Cluster(_));
        let for_data = !is_cluster && !matches!(purpose, Purpose::Sentinel(..));
        let database = if for_data { self.settings.database } else { 0 };
        let mut info = RedisConnectionInfo::default().set_db(i64::from(database)).set_skip_set_lib_name();
        if let Some(username) = username {
            info = info.set_username(username);
        }
        if let Some(password) = password {
            info = info.set_password(password.expose_secret());
        }
        let needs_primary = matches!(purpose, Purpose::Requests | Purpose::Pushes(_));
        // Time limits are ours.
        let mut config = AsyncConnectionConfig::new().set_response_timeout(None);
        if let Purpose::Pushes(deliver) = purpose {
            info = info.set_protocol(ProtocolVersion::RESP3);
            config = config.set_push_sender(move |push| {
                deliver(push);
                Ok::<(), ()>(())
            });
        }
        let refused = |error: RedisError| (Fault::from(&error), error.to_string());
        let (requests, driver) =
            MultiplexedConnection::new_with_config(&info, stream, config).await.map_err(refused)?;
        let broken = CancellationToken::new();
        let noticed = broken.clone();
        let driver = self.background.run_forever(async move {
            driver.await;
            noticed.cancel();
        });
        let connection = Connection { requests, broken, _driver: AbortOnDropHandle::new(driver) };
        if needs_primary {
            connection.check_primary().await.map_err(|fault| (fault, String::new()))?;
        }
        Ok(connection)
    }
}

impl Connection {
    /// Asks, and waits for the answer however long it takes. `asking`: with leave of a node that gives the slot away.
    pub(super) async fn ask(&self, question: &Question<'_>, asking: bool) -> Result<Value, RedisError> {
        match question {
            Question::Command(command) => self.send(command, asking).await,
            Question::Script(script, keys, arguments) => {
                let by_name = self.send(&call("EVALSHA", &script.sha1, keys, arguments), asking).await;
                match by_name.as_ref().map_err(Fault::from) {
                    Err(Fault::NoScript) => self.send(&call("EVAL", &script.code, keys, arguments), asking).await,
                    _ => by_name,
                }
            }
        }
    }

    /// Whether this is, still, a primary. Who may not ask that asks whether it is there at all.
    pub(super) async fn check_primary(&self) -> Result<(), Fault> {
        match self.send(&redis::cmd("ROLE"), false).await {
            Ok(Value::Array(role)) => match role.first() {
                Some(Value::BulkString(role)) if role == b"master" => Ok(()),
                _ => Err(Fault::NotPrimary),
            },
            Ok(_) => Err(Fault::Protocol),
            Err(error) => match Fault::from(&error) {
                Fault::Forbidden | Fault::Protocol => match self.send(&redis::cmd("PING"), false).await {
                    Ok(_) => Ok(()),
                    Err(error) => Err(Fault::from(&error)),
                },
                fault => Err(fault),
            },
        }
    }

    pub(super) fn is_broken(&self) -> bool {
        self.broken.is_cancelled()
    }

    /// Resolves when nobody answers here any more.
    pub(super) async fn broken(&self) {
        self.broken.cancelled().await;
    }

    async fn send(&self, command: &Cmd, asking: bool) -> Result<Value, RedisError> {
        let mut requests = self.requests.clone();
        if !asking {
            return command.query_async(&mut requests).await;
        }
        let mut both = redis::pipe();
        both.cmd("ASKING").ignore().add_command(command.clone());
        let mut answers: Vec<Value> = both.query_async(&mut requests).await?;
        answers.pop().ok_or_else(|| RedisError::from((ErrorKind::UnexpectedReturnType, "no answer")))
    }
}

fn call(command: &str, script: &str, keys: &[&str], arguments: &[&[u8]]) -> Cmd {
    let mut call = redis::cmd(command);
    call.arg(script).arg(keys.len()).arg(keys).arg(arguments);
    call
}

fn unreachable(error: io::Error) -> (Fault, String) {
    (Fault::Unreachable, error.to_string())
}

fn tls_config(settings: &TlsSettings) -> Result<ClientConfig, RedisProblem> {
    let mut config = match &settings.ca_file {
        None => crate::tls::client_config(),
        Some(path) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates(path)? {
                roots.add(certificate).map_err(|error| unusable(path, &error))?;
            }
            let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
            ClientConfig::builder_with_provider(provider)
                .with_safe_default_protocol_versions()
                .map_err(|error| problem(&error.to_string()))?
                .with_root_certificates(roots)
                .with_no_client_auth()
        }
    };
    if let Some((certificate, key)) = &settings.client {
        let chain = certificates(certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(|error| unusable(key, &error))?;
        let certified = CertifiedKey::from_der(chain, key, config.crypto_provider());
        let certified = certified.map_err(|error| unusable(certificate, &error))?;
        config.client_auth_cert_resolver = Arc::new(SingleCertAndKey::from(certified));
    }
    Ok(config)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, RedisProblem> {
    let certificates: Result<Vec<_>, _> =
        CertificateDer::pem_file_iter(path).map_err(|error| unusable(path, &error))?.collect();
    match certificates {
        Ok(certificates) if certificates.is_empty() => {
            Err(problem(&format!("{}: no certificate in it", path.display())))
        }
        Ok(certificates) => Ok(certificates),
        Err(error) => Err(unusable(path, &error)),
    }
}

fn unusable(path: &Path, error: &dyn std::error::Error) -> RedisProblem {
    problem(&format!("{}: {error}", path.display()))
}

const KEEPALIVE: Duration = Duration::from_secs(15);
