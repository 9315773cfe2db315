//! Where Redis is and how to get in: `[session.redis]`, checked.

use percent_encoding::percent_decode_str;
use secrecy::SecretString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// `[session.redis]`, checked. The addresses come from [`RedisSettings::from_urls`]; everything else has a default.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// Who is asked.
    pub mode: Mode,
    /// `rediss://`: TLS to every node and every sentinel. None is plain text.
    pub tls: Option<TlsSettings>,
    /// The ACL user; None is `default`.
    pub username: Option<String>,
    /// Its password.
    pub password: Option<SecretString>,
    /// `SELECT`; a cluster has only 0.
    pub database: u32,
    /// What the name of every key begins with, default `latchgate:`.
    pub key_prefix: String,
    /// How long one round trip may take, connecting included, default 500 ms.
    pub timeout: Duration,
    /// How long a new connection may take to be ready, default 1 s. Longer than `timeout`, so that a slow
    /// handshake succeeds for the next request.
    pub connect_timeout: Duration,
}

/// Who is asked.
#[derive(Debug, Clone)]
pub enum Mode {
    /// One server, or a name that leads to the primary.
    Single(Address),
    /// The primary that Sentinel names.
    Sentinel {
        /// The sentinels, at least one.
        nodes: Vec<Address>,
        /// The name of the primary's group.
        master: String,
        /// The ACL user at the sentinels, which know other users than the servers.
        username: Option<String>,
        /// Its password.
        password: Option<SecretString>,
    },
    /// A cluster: some of its nodes; the others are learnt from these.
    Cluster(Vec<Address>),
}

/// Where a server listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Address {
    /// A host name or an IP address (IPv6 without brackets), and a port.
    Tcp(String, u16),
    /// A unix socket.
    Unix(PathBuf),
}

/// What TLS is to believe and to show.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TlsSettings {
    /// PEM; None: the roots of this machine.
    pub ca_file: Option<PathBuf>,
    /// PEM files of the client's certificate chain and its key.
    pub client: Option<(PathBuf, PathBuf)>,
}

/// Why these settings cannot be used. Never says a password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisProblem(pub(super) String);

impl RedisSettings {
    /// Reads one of these, or several `redis://` or `rediss://` that name nodes of one cluster (as does one
    /// with `cluster`):
    ///
    /// ```text
    /// redis://[user:password@]host[:6379][/db]                        rediss:// for TLS
    /// redis-sentinel://[user:password@]host[:26379],…/master[/db]     rediss-sentinel:// for TLS
    /// unix:/path/to/socket[?db=1]
    /// ```
    /// User and password are percent-encoded; `valkey` is another spelling of `redis`.
    ///
    /// # Errors
    /// Anything else, in words.
    pub fn from_urls(urls: &[impl AsRef<str>], cluster: bool) -> Result<RedisSettings, RedisProblem> {
        let mut parsed = urls.iter().map(|url| Url::parse(url.as_ref())).collect::<Result<Vec<Url>, _>>()?.into_iter();
        let first = parsed.next().ok_or_else(|| problem("no Redis URL"))?;
        let mut addresses = first.addresses;
        let cluster = cluster || urls.len() > 1;
        for url in parsed {
            let same_login = (url.username.is_none() && url.password.is_none())
                || (url.username == first.username && exposed(&url.password) == exposed(&first.password));
            if url.tls != first.tls || url.master.is_some() || first.master.is_some() || !same_login {
                return Err(problem("several Redis URLs name nodes of one cluster: same scheme, same user"));
            }
            addresses.extend(url.addresses);
        }
        let mode = match first.master {
            Some(_) if cluster => return Err(problem("a Redis cluster has no sentinels")),
            Some(master) => Mode::Sentinel { nodes: addresses, master, username: None, password: None },
            None if cluster => Mode::Cluster(addresses),
            None if addresses.len() == 1 => Mode::Single(addresses.remove(0)),
            None => return Err(problem("several hosts in one Redis URL are for redis-sentinel://")),
        };
        let settings = RedisSettings {
            mode,
            tls: first.tls.then(TlsSettings::default),
            username: first.username,
            password: first.password,
            database: first.database,
            key_prefix: "latchgate:".into(),
            timeout: Duration::from_millis(500),
            connect_timeout: Duration::from_secs(1),
        };
        settings.check()?;
        Ok(settings)
    }

    /// Whether it makes sense as a whole, after fields were set one by one.
    ///
    /// # Errors
    /// What does not, in words.
    pub fn check(&self) -> Result<(), RedisProblem> {
        // A brace would move the hash tag of a cluster; the rest mean something in the pattern of a SCAN.
        let is_plain = |c: char| c.is_ascii_alphanumeric() || ":._-/".contains(c);
        if self.key_prefix.is_empty() || self.key_prefix.len() > 64 || !self.key_prefix.chars().all(is_plain) {
            return Err(problem("the Redis key prefix is 1 to 64 of letters, digits and : . _ - /"));
        }
        if self.username.is_some() && self.password.is_none() {
            return Err(problem("a Redis user without a password"));
        }
        if matches!(self.mode, Mode::Cluster(_)) && self.database != 0 {
            return Err(problem("a Redis cluster has only database 0"));
        }
        if self.timeout.is_zero() || self.connect_timeout.is_zero() {
            return Err(problem("a Redis timeout of zero"));
        }
        Ok(())
    }
}

impl Address {
    /// `host:port`, with IPv6 in brackets or bare, as cluster nodes name each other.
    pub(super) fn parse(text: &str, default_port: Option<u16>) -> Option<Address> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, _)) if host.contains(':') && !host.ends_with(']') && default_port.is_some() => (text, None),
            Some((host, port)) if !port.ends_with(']') => (host, Some(port.parse().ok()?)),
            _ => (text, None),
        };
        let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let is_host = !host.is_empty() && host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_:".contains(c));
        is_host.then_some(())?;
        Some(Address::Tcp(host.to_ascii_lowercase(), port.or(default_port)?))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Address::Tcp(host, port) if host.contains(':') => write!(f, "[{host}]:{port}"),
            Address::Tcp(host, port) => write!(f, "{host}:{port}"),
            Address::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

impl fmt::Display for RedisProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RedisProblem {}

struct Url {
    tls: bool,
    master: Option<String>,
    addresses: Vec<Address>,
    username: Option<String>,
    password: Option<SecretString>,
    database: u32,
}

impl Url {
    fn parse(text: &str) -> Result<Url, RedisProblem> {
        if let Some(rest) = text.strip_prefix("unix:") {
            return Url::parse_unix(rest);
        }
        let (scheme, rest) = text.split_once("://").ok_or_else(|| problem(SCHEMES))?;
        let (tls, sentinel) = match scheme {
            "redis" | "valkey" => (false, false),
            "rediss" | "valkeys" => (true, false),
            "redis-sentinel" | "valkey-sentinel" => (false, true),
            "rediss-sentinel" | "valkeys-sentinel" => (true, true),
            _ => return Err(problem(SCHEMES)),
        };
        let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
        let (login, hosts) = match authority.rsplit_once('@') {
            Some((login, hosts)) => (Some(login), hosts),
            None => (None, authority),
        };
        let default_port = if sentinel { 26379 } else { 6379 };
        let addresses: Option<Vec<Address>> =
            hosts.split(',').map(|host| Address::parse(host, Some(default_port))).collect();
        let addresses = addresses.ok_or_else(|| problem("the host of a Redis URL is no host and port"))?;
        let (username, password) = login.map(login_of).transpose()?.unwrap_or_default();
        let mut path = path.split('/');
        let master = if sentinel {
            let name = path.next().filter(|name| !name.is_empty());
            Some(name.ok_or_else(|| problem("redis-sentinel://host/NAME needs the name of the primary"))?.to_owned())
        } else {
            None
        };
        let database = path.next().filter(|text| !text.is_empty()).map_or(Ok(0), database)?;
        if path.next().is_some() {
            return Err(problem("a Redis URL ends after the database number"));
        }
        Ok(Url { tls, master, addresses, username, password, database })
    }

    fn parse_unix(rest: &str) -> Result<Url, RedisProblem> {
        let (path, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = path.strip_prefix("//").unwrap_or(path);
        if !Path::new(path).is_absolute() {
            return Err(problem("unix: is followed by an absolute path"));
        }
        let database = match query.split_once('=') {
            None if query.is_empty() => 0,
            Some(("db", number)) => database(number)?,
            _ => return Err(problem("a unix: URL may say ?db=N and no more; user and password are settings")),
        };
        let addresses = vec![Address::Unix(path.into())];
        Ok(Url { tls: false, master: None, addresses, username: None, password: None, database })
    }
}

fn login_of(text: &str) -> Result<(Option<String>, Option<SecretString>), RedisProblem> {
    let decoded = |text: &str| {
        let text = percent_decode_str(text).decode_utf8().map(Into::into);
        text.map_err(|_| problem("user or password of a Redis URL is no UTF-8"))
    };
    let (username, password) = text.split_once(':').unwrap_or((text, ""));
    let username: String = decoded(username)?;
    let password: String = decoded(password)?;
    Ok(((!username.is_empty()).then_some(username), (!password.is_empty()).then(|| password.into())))
}

fn database(text: &str) -> Result<u32, RedisProblem> {
    text.parse().map_err(|_| problem("the database of a Redis URL is a number"))
}

fn exposed(password: &Option<SecretString>) -> Option<&str> {
    password.as_ref().map(secrecy::ExposeSecret::expose_secret)
}

pub(super) fn problem(message: &str) -> RedisProblem {
    RedisProblem(message.into())
}

const SCHEMES: &str = "a Redis URL begins with redis://, rediss://, redis-sentinel://, rediss-sentinel:// or unix:";

#[cfg(test)]
mod tests {
    use super::*;

    fn tcp(host: &str, port: u16) -> Address {
        Address::Tcp(host.into(), port)
    }

    #[test]
    fn every_form_is_read() {
        let settings = RedisSettings::from_urls(&["redis://ada:p%40ss@Cache.example:7000/3"], false).unwrap();
        assert!(matches!(settings.mode, Mode::Single(address) if address == tcp("cache.example", 7000)));
        assert_eq!((settings.username.as_deref(), exposed(&settings.password)), (Some("ada"), Some("p@ss")));
        assert_eq!((settings.database, settings.tls), (3, None));

        let settings = RedisSettings::from_urls(&["rediss://:secret@[::1]"], false).unwrap();
        assert!(matches!(settings.mode, Mode::Single(address) if address == tcp("::1", 6379)));
        assert_eq!((settings.username.as_deref(), exposed(&settings.password)), (None, Some("secret")));
        assert!(settings.tls.is_some());

        let settings = RedisSettings::from_urls(&["unix:/run/redis.sock?db=2"], false).unwrap();
        assert!(matches!(settings.mode, Mode::Single(Address::Unix(path)) if path == Path::new("/run/redis.sock")));
        assert_eq!(settings.database, 2);

        let settings = RedisSettings::from_urls(&["redis-sentinel://a,b:26380/mymaster/1"], false).unwrap();
        let Mode::Sentinel { nodes, master, .. } = settings.mode else { panic!("{:?}", settings.mode) };
        assert_eq!((nodes, master.as_str()), (vec![tcp("a", 26379), tcp("b", 26380)], "mymaster"));
        assert_eq!(settings.database, 1);

        let settings = RedisSettings::from_urls(&["redis://a", "redis://b:1"], false).unwrap();
        assert!(matches!(settings.mode, Mode::Cluster(nodes) if nodes == [tcp("a", 6379), tcp("b", 1)]));
        let settings = RedisSettings::from_urls(&["redis://a"], true).unwrap();
        assert!(matches!(settings.mode, Mode::Cluster(nodes) if nodes == [tcp("a", 6379)]));
    }

    #[test]
    fn st_09_what_is_wrong_is_said_without_the_password() {
        let cases: [(&[&str], &str); 10] = [
            (&[], "no Redis URL"),
            (&["http://user:hunter2@host"], "begins with"),
            (&["redis://user:hunter2@host:port"], "no host and port"),
            (&["redis://user:hunter2@"], "no host and port"),
            (&["redis://user:hunter2@host/db"], "is a number"),
            (&["redis://user:hunter2@host/1/2"], "ends after"),
            (&["redis-sentinel://user:hunter2@host"], "name of the primary"),
            (&["redis://user:hunter2@a,b"], "redis-sentinel://"),
            (&["redis://user:hunter2@a", "redis://other:hunter2@b"], "same user"),
            (&["unix:redis.sock?password=hunter2"], "absolute path"),
        ];
        for (urls, words) in cases {
            let problem = RedisSettings::from_urls(urls, false).unwrap_err().to_string();
            assert!(problem.contains(words), "{urls:?}: {problem}");
            assert!(!problem.contains("hunter2"), "{problem}");
        }
        let settings = RedisSettings::from_urls(&["redis://user:hunter2@host"], false).unwrap();
        assert!(!format!("{settings:?}").contains("hunter2"));
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        let settings = RedisSettings::from_urls(&["redis://host"], false).unwrap();
        let broken: [fn(&mut RedisSettings); 5] = [
            |settings| settings.key_prefix = "a{b}:".into(),
            |settings| settings.key_prefix = String::new(),
            |settings| settings.username = Some("ada".into()),
            |settings| settings.timeout = Duration::ZERO,
            |settings| {
                settings.mode = Mode::Cluster(vec![tcp("a", 1)]);
                settings.database = 1;
            },
        ];
        for spoil in broken {
            let mut settings = settings.clone();
            spoil(&mut settings);
            assert!(settings.check().is_err(), "{settings:?}");
        }
    }
}
