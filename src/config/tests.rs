//! Every kind of problem, as the reader of a report sees it.

use super::{Config, Report, Severity};
use crate::gateway::Attach;
use crate::policy::require::Requirement;
use crate::policy::{Auth, On401};
use crate::provider::backend::{BackendSettings, Call};
use crate::provider::{ClientAuth, Kind};
use crate::server::Listen;
use crate::server::tls::MinVersion;
use crate::upstream::balance::Balance;
use crate::upstream::{Protocol, ServerAddress, limits};
use http::{Method, StatusCode};
use secrecy::ExposeSecret;
use std::path::Path;
use std::time::Duration;

/// What makes a file start when it stands after a case.
const REST: &str = r#"
[providers.mocked]
kind = "mock"
[upstreams.app]
url = "http://127.0.0.1:3000"
[[routes]]
path = "/*"
upstream = "app"
"#;

const CANARY: &str = "canary-Zu7heiph4aiWohw4-and-then-some-more";

fn env(variable: &str) -> Option<String> {
    match variable {
        "SET" => Some(CANARY.to_owned()),
        "EMPTY" => Some(String::new()),
        "SHORT" => Some("canary-Zu7".to_owned()),
        "LINES" => Some("canary-Zu7\ninjected: yes".to_owned()),
        _ => None,
    }
}

fn parse(source: &str) -> Result<Config, Report> {
    Config::parse(source, "gateway.toml", &env)
}

fn refused(source: &str) -> Report {
    match parse(source) {
        Ok(_) => panic!("accepted:\n{source}"),
        Err(report) => report,
    }
}

/// The line, the message and the help of each problem, taken from the text that people read.
fn shown(report: &Report) -> Vec<(usize, String, String)> {
    let text = report.to_string();
    let mut problems: Vec<(usize, String, String)> = Vec::new();
    for line in text.lines() {
        if let Some(message) = line.strip_prefix("error: ").or_else(|| line.strip_prefix("warning: ")) {
            problems.push((0, message.to_owned(), String::new()));
        } else if let Some((_, place)) = line.split_once("--> gateway.toml:") {
            let line = place.split(':').next().and_then(|line| line.parse().ok());
            problems.last_mut().unwrap().0 = line.unwrap();
        } else if let Some((_, help)) = line.split_once("= help: ") {
            problems.last_mut().unwrap().2 = help.to_owned();
        }
    }
    assert_eq!(problems.len(), report.problems().len(), "{text}");
    problems
}

/// Each case is the head of a file that has this one problem: line, part of the message, part of the help.
#[track_caller]
fn assert_refused(cases: &[(&str, usize, &str, &str)]) {
    assert_refused_before(REST, cases);
}

/// As [`assert_refused`], with another rest of the file.
#[track_caller]
fn assert_refused_before(rest: &str, cases: &[(&str, usize, &str, &str)]) {
    for (case, line, message, help) in cases {
        let report = refused(&format!("{case}{rest}"));
        let problems = shown(&report);
        let [problem] = problems.as_slice() else {
            panic!("not one problem for\n{case}\n\n{report}");
        };
        assert_eq!(problem.0, *line, "{case}\n\n{report}");
        assert!(problem.1.contains(message), "{case}\n\n{report}");
        assert!(problem.2.contains(help) && !problem.2.is_empty(), "{case}\n\n{report}");
        assert!(report.to_string().contains('^'), "{case}\n\n{report}");
    }
}

#[test]
#[rustfmt::skip] // a table
fn unknown_keys() {
    assert_refused(&[
        ("[server]\nlistne = \"127.0.0.1:80\"", 2, "unknown key `listne` in `server`", "did you mean `listen`?"),
        ("[server]\nexternalUrl = \"http://x\"", 2, "unknown key `externalUrl`", "did you mean `external_url`?"),
        ("[sesion]\nstore = \"memory\"", 1, "unknown key `sesion`", "did you mean `session`?"),
        ("colour = 1", 1, "unknown key `colour`", "known keys: `server`, `defaults`, `session`"),
        ("[telemetry]\nlevel = \"info\"", 2, "unknown key `level` in `telemetry`", "known keys: `log`"),
        ("[upstreams.a.unauthorized]\nstauts = [401]\n[upstreams.a]\nurl = \"demo:\"", 2, "unknown key `stauts` in `upstreams.a.unauthorized`", "did you mean `status`?"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauht = false", 4, "unknown key `auht` in `routes`", "did you mean `auth`?"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { basic = { username = \"u\", password = \"p\", realm = \"r\" } }", 4, "unknown key `realm` in `routes.attach.basic`", "known keys: `username`, `password`"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nauthorization_endpoint = \"https://i.example/a\"", 6, "unknown key `authorization_endpoint` in `providers.p`", "known keys: `kind`, `issuer`"),
        ("[session]\nsecret = { evn = \"SET\", env = \"SET\" }", 2, "unknown key `evn` in `session.secret`", "did you mean `env`?"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn wrong_types() {
    assert_refused(&[
        ("server = 5", 1, "`server` has the wrong type: a whole number", "it must be a table"),
        ("[server]\nlisten = 8080", 2, "`server.listen` has the wrong type: a whole number", "it must be a string"),
        ("[server]\ntrusted_proxies = \"10.0.0.0/8\"", 2, "`server.trusted_proxies` has the wrong type: a string", "it must be a list"),
        ("[server]\ncase_insensitive_paths = \"yes\"", 2, "the wrong type: a string", "`true` or `false`"),
        ("[server]\nworkers = 1.5", 2, "the wrong type: a number with a fraction", "it must be a whole number"),
        ("[server]\ndrain_timeout = 30", 2, "`server.drain_timeout` has the wrong type: a whole number", "\"30s\""),
        ("[limits]\nreplay_body = 1024", 2, "`limits.replay_body` has the wrong type", "\"64KiB\""),
        ("[login]\nafter_login = 1979-05-27", 2, "the wrong type: a date", "a string"),
        ("[session]\nsecret = true", 2, "`session.secret` has the wrong type: a boolean", "{ env = \"NAME\" }"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = 1", 4, "`routes.auth` has the wrong type", "\"protected\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = [\"sub\"]", 4, "`routes.identity` has the wrong type: a list", "a table"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn durations_sizes_and_numbers() {
    assert_refused(&[
        ("[server]\ndrain_timeout = \"300x\"", 2, "`server.drain_timeout` is not a duration", "\"500ms\", \"30s\", \"5m\", \"24h\""),
        ("[server]\ndrain_timeout = \"-5s\"", 2, "is not a duration", "a whole number and a unit"),
        ("[server]\ndrain_timeout = \"\"", 2, "is not a duration", "a whole number and a unit"),
        ("[refresh]\ngrace = \"1h30m\"", 2, "`refresh.grace` is not a duration", "a whole number and a unit"),
        ("[refresh]\ntimeout = \"0s\"", 2, "`refresh.timeout` is zero", "it must be longer"),
        ("[session]\nabsolute_timeout = \"99999999999999999999h\"", 2, "is longer than ten years", "a whole number and a unit"),
        ("[session]\nabsolute_timeout = \"4000d\"", 2, "is longer than ten years", "a whole number and a unit"),
        ("[limits]\nreplay_body = \"64KB\"", 2, "`limits.replay_body` is not a size", "\"64KiB\""),
        ("[limits]\nreplay_memory = \"99999999999GiB\"", 2, "`limits.replay_memory` is too large", "\"64KiB\""),
        ("[limits]\nreplay_body = \"2MiB\"\nreplay_memory = \"1MiB\"", 2, "`limits.replay_body` is more than `limits.replay_memory`", "must fit"),
        ("[limits]\nheader_bytes = \"1KiB\"", 2, "`limits.header_bytes` is out of range", "at least \"8KiB\""),
        ("[limits]\nheader_count = 0", 2, "`limits.header_count` is out of range", "from 1 to"),
        ("[limits]\nidle_timeout = \"0s\"", 2, "`limits.idle_timeout` is zero", "longer"),
        ("[limits]\nbody_timeout = \"0s\"", 2, "`limits.body_timeout` is zero", "longer"),
        ("[limits]\nwrite_timeout = \"0s\"", 2, "`limits.write_timeout` is zero", "longer"),
        ("[limits]\nrequest_timeout = \"0s\"", 2, "`limits.request_timeout` is zero", "longer"),
        ("[limits]\nconnections = 0", 2, "`limits.connections` is out of range", "from 1 to"),
        ("[limits]\nwebsocket_idle_timeout = \"0s\"", 2, "`limits.websocket_idle_timeout`", ""),
        ("[limits]\nlogin_attempts = -1", 2, "`limits.login_attempts` is out of range", "from 1 to"),
        ("[session]\nmax_sessions = 99999999999999999999", 2, "`session.max_sessions` is out of range", "from 1 to"),
        ("[session]\nmax_sessions_per_user = 0", 2, "out of range", "from 1 to"),
        ("[server]\nworkers = 0", 2, "`server.workers` is out of range", "from 1 to 1024"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn the_server() {
    assert_refused(&[
        ("[server]\nlisten = \"localhost\"", 2, "`server.listen` is not an address to listen on", "\"127.0.0.1:8080\""),
        ("[server]\nlisten = \":8080\"", 2, "is not an address to listen on", "\"127.0.0.1:8080\""),
        ("[server]\nlisten = \"\"", 2, "`server.listen` is empty", "take the key out"),
        ("[server]\nlisten = []", 2, "`server.listen` is empty", "take the key out"),
        ("[server]\nlisten = \"unix:\"", 2, "names no socket", "unix:/run/latchgate.sock"),
        ("[server]\nlisten = [\"127.0.0.1:80\",\n \"127.0.0.1:80\"]", 2, "`server.listen` names an address twice", "take one of them out"),
        ("[server]\nadmin_listen = \"on\"", 2, "`server.admin_listen` is not an address", "\"off\""),
        ("[server]\nadmin_listen = \"127.0.0.1:8080\"", 2, "`server.admin_listen` is the address of `server.listen`", "a port of its own"),
        ("[server]\ntrusted_proxies = [\"10.0.0.0/8\", \"proxy\"]", 2, "is neither an address nor a block", "\"10.0.0.0/8\""),
        ("[server]\nproxy_protocol = true", 2, "nobody is in `server.trusted_proxies`", "load balancers"),
        ("[server]\nproxy_protocol = \"v2\"", 2, "`server.proxy_protocol` has the wrong type", "`true` or `false`"),
        ("[server]\nexternal_url = \"localhost:8080\"", 2, "`server.external_url` is neither http nor https", "a whole URL"),
        ("[server]\nexternal_url = \"example.com\"", 2, "is not a URL: relative URL without a base", "a whole URL"),
        ("[server]\nexternal_url = \"http://localhost/app\"", 2, "`server.external_url` is more than an origin", "scheme, host and port only"),
        ("[server]\nexternal_url = \"http://localhost/?a\"", 2, "is more than an origin", "scheme, host and port only"),
        ("[server]\nexternal_url = \"http://localhost\\\\x\"", 2, "a backslash", "a whole URL"),
    ]);
}

// CR-09 among them: with authorities that cannot be read nothing starts
#[test]
fn certificates_that_cannot_be_used() {
    let papers = Papers::new();
    let (fits, other) = (papers.pair("a", 4096), papers.pair("b", 4096));
    let (certificate, key) = fits.split_once('\n').unwrap();
    let (_, key_of_other) = other.split_once('\n').unwrap();
    let missing = papers.path("missing");
    let no_pem = papers.write("no.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n");
    let no_certificate = papers.write("x.pem", "-----BEGIN CERTIFICATE-----\nMIIB\n-----END CERTIFICATE-----\n");
    let empty = papers.write("empty.pem", "");
    let odd_key = papers.write("odd.key", "-----BEGIN PRIVATE KEY-----\nMIIB\n-----END PRIVATE KEY-----\n");
    let head = "[server]\nexternal_url = \"https://a.test\"\n[server.tls]\n";
    let cases = [
        (format!("{head}{certificate}"), 3, "`server.tls.private_key` is missing", "add `private_key = "),
        (format!("{head}{key}"), 3, "`server.tls.certificate` is missing", "add `certificate = "),
        (
            format!("{head}certificate = \"{missing}\"\n{key}"),
            4,
            "missing` cannot be read: No such file",
            "relative to the directory",
        ),
        (format!("{head}certificate = \"{no_pem}\"\n{key}"), 4, "no.pem` is not PEM", "BEGIN CERTIFICATE"),
        (
            format!("{head}certificate = \"{empty}\"\n{key}"),
            4,
            "empty.pem` has no certificate in it",
            "BEGIN CERTIFICATE",
        ),
        (
            format!("{head}certificate = \"{no_certificate}\"\n{key}"),
            4,
            "begins with a certificate that cannot be read",
            "BEGIN CERTIFICATE",
        ),
        (
            format!("{head}{certificate}\nprivate_key = \"{missing}\""),
            5,
            "missing` cannot be read: No such file",
            "relative to the directory",
        ),
        (
            format!("{head}{certificate}\nprivate_key = \"{empty}\""),
            5,
            "has no private key in it, or one that is encrypted",
            "PKCS #8",
        ),
        (
            format!("{head}{certificate}\nprivate_key = \"{odd_key}\""),
            5,
            "has a key of a kind that cannot be used",
            "PKCS #8",
        ),
        (
            format!("{head}{certificate}\n{key_of_other}"),
            5,
            "b.key` is not the key of the certificate",
            "made together",
        ),
        (
            format!("{head}{fits}\ncertificates = [{{ certificate = \"{missing}\", private_key = \"{missing}\" }}]"),
            6,
            "missing` cannot be read",
            "relative to",
        ),
        (
            format!("{head}{fits}\nclient_ca = \"{missing}\""),
            6,
            "missing` cannot be read: No such file",
            "relative to the directory",
        ),
        (
            format!("{head}{fits}\nclient_ca = \"{empty}\""),
            6,
            "empty.pem` has no certificate in it",
            "BEGIN CERTIFICATE",
        ),
        (
            format!("{head}{fits}\nclient_ca = \"{no_certificate}\""),
            6,
            "has a certificate in it that cannot be read",
            "BEGIN CERTIFICATE",
        ),
        (format!("{head}{fits}\nclient_auth = \"optional\""), 6, "`server.tls.client_ca` is not", "add `client_ca = "),
        (
            format!("{head}{fits}\nmin_version = \"1.1\""),
            6,
            "`server.tls.min_version` has a value that is not known",
            "`1.2`, `1.3`",
        ),
        (format!("{head}{fits}\nhandshake_timeout = \"0s\""), 6, "`server.tls.handshake_timeout` is zero", "longer"),
        (format!("[server.tls]\n{fits}"), 1, "`server.external_url` is http, and `server.tls` is there", "https"),
        (
            format!("[server]\nexternal_url = \"http://localhost\"\n[server.tls]\n{fits}"),
            2,
            "`server.external_url` is http",
            "https",
        ),
    ];
    for (case, line, message, help) in &cases {
        assert_refused_before(&rest_on_https(), &[(case, *line, message, help)]);
    }
}

#[test]
fn certificates_that_will_not_do_for_long() {
    let papers = Papers::new();
    let head = "[server]\nexternal_url = \"https://a.test\"\nadmin_listen = \"off\"\n";
    let rest = rest_on_https();
    let expired = parse(&format!("{head}[server.tls]\n{}{rest}", papers.pair("old", 2020))).unwrap().warnings;
    let unused = papers.pair("a", 4096);
    let unused = format!("{head}listen = \"unix:/run/a.sock\"\n[server.tls]\n{unused}{rest}");
    let unused = parse(&unused).unwrap().warnings;
    for (warnings, line, message) in [(expired, 5, "has expired"), (unused, 5, "`server.tls` has no effect")] {
        let told = shown(&warnings);
        assert!(told.iter().any(|it| it.0 == line && it.1.contains(message)), "{warnings}");
    }
}

/// A key in the place of its file's name is not shown.
#[test]
fn a_key_that_is_pasted_is_not_shown() {
    let key = format!("-----BEGIN PRIVATE KEY-----\\n{CANARY}\\n-----END PRIVATE KEY-----");
    let report =
        refused(&format!("[server.tls]\ncertificate = \"a.pem\"\nprivate_key = \"{key}\"\n{REST}")).to_string();
    assert!(report.contains("`server.tls.private_key` is not the name of a file"), "{report}");
    assert!(!report.contains(CANARY), "{report}");
}

#[test]
fn tls_is_read() {
    let papers = Papers::new();
    let (a, b) = (papers.pair("a", 4096), papers.pair("b", 4096).replace('\n', ", "));
    let ca = papers.path("a.pem");
    let config = |lines: &str| {
        let rest = rest_on_https();
        let text = format!("[server]\nexternal_url = \"https://a.test\"\n[server.tls]\n{a}\n{lines}\n{rest}");
        parse(&text).unwrap_or_else(|report| panic!("{report}")).server.tls.unwrap()
    };
    let least = config("");
    assert!(least.client_auth.is_none() && least.certificates.len() == 1);
    assert_eq!((least.min_version, least.handshake_timeout), (MinVersion::Tls12, Duration::from_secs(5)));
    assert!(config(&format!("client_ca = \"{ca}\"")).client_auth.unwrap().required);
    let most = config(&format!(
        "certificates = [{{ {b} }}]\nclient_ca = \"{ca}\"\nclient_auth = \"optional\"\nmin_version = \"1.3\"\nhandshake_timeout = \"2s\""
    ));
    assert!(!most.client_auth.unwrap().required);
    assert_eq!(most.certificates[1].private_key, Path::new(&papers.path("b.key")));
    assert_eq!((most.min_version, most.handshake_timeout), (MinVersion::Tls13, Duration::from_secs(2)));
}

fn rest_on_https() -> String {
    REST.replace("kind = \"mock\"", "kind = \"mock\"\nallow_in_production = true")
}

/// Certificates in a directory.
struct Papers(tempfile::TempDir);

impl Papers {
    fn new() -> Papers {
        Papers(tempfile::tempdir().unwrap())
    }

    /// Writes `name.pem`, which ends with this year, and `name.key`; the two lines that name them.
    fn pair(&self, name: &str, year: i32) -> String {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(["a.test".to_owned()]).unwrap();
        params.not_after = rcgen::date_time_ymd(year, 1, 1);
        let certificate = params.self_signed(&key).unwrap();
        let certificate = self.write(&format!("{name}.pem"), &certificate.pem());
        let key = self.write(&format!("{name}.key"), &key.serialize_pem());
        format!("certificate = \"{certificate}\"\nprivate_key = \"{key}\"")
    }

    fn write(&self, name: &str, text: &str) -> String {
        std::fs::write(self.path(name), text).unwrap();
        self.path(name)
    }

    fn path(&self, name: &str) -> String {
        self.0.path().join(name).display().to_string()
    }
}

#[test]
#[rustfmt::skip] // a table
fn the_login() {
    assert_refused(&[
        ("[login]\nprefix = \"auth\"", 2, "`login.prefix` is not a path prefix", "without a slash at the end"),
        ("[login]\nprefix = \"/auth/\"", 2, "is not a path prefix", "without a slash at the end"),
        ("[login]\nprefix = \"/\"", 2, "is not a path prefix", "without a slash at the end"),
        ("[login]\nprefix = \"/a/../b\"", 2, "is not a path prefix", "plain segments"),
        ("[login]\nprefix = \"/mock\"", 2, "is where the mock provider answers", "another prefix"),
        ("[login]\nafter_login = \"//evil.example\"", 2, "`login.after_login` is not a path", "begins with one `/`"),
        ("[login]\nafter_login = \"/\\\\evil.example\"", 2, "is not a path", "begins with one `/`"),
        ("[login]\nafter_logout = \"https://evil.example/\"", 2, "`login.after_logout` leads to another origin", "`login.allowed_return_origins`"),
        ("[login]\nallowed_return_origins = [\"*\"]", 2, "`login.allowed_return_origins` is not a URL", "a whole URL"),
        ("[login]\nallowed_return_origins = [\"https://a.example/path\"]", 2, "is more than an origin", "scheme, host and port only"),
        ("[login]\nuser_path = \"/me?x\"", 2, "`login.user_path` is not a path prefix", "plain segments"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn secrets_that_are_not_there() {
    assert_refused(&[
        ("[session]\nstore = \"cookie\"\nsecret = { env = \"SET\" }\n[limits]\nheader_bytes = \"12KiB\"", 5, "leaves no room for sessions in cookies", "at least \"16KiB\""),
        ("[session]\nsecret = \"\"", 2, "`session.secret` is empty", "give it a value"),
        ("[session]\nsecret = []", 2, "`session.secret` is empty", "give it a value"),
        ("[session]\nsecret = \"canary-Zu7\"", 2, "`session.secret` is shorter than 32 bytes", "openssl rand"),
        ("[session]\nsecret = { env = \"SHORT\" }", 2, "`session.secret` is shorter than 32 bytes", "openssl rand"),
        ("[session]\nsecret = [{ env = \"SET\" }, \"canary-Zu7\"]", 2, "is shorter than 32 bytes", "openssl rand"),
        ("[session]\nsecret = { env = \"UNSET\" }", 2, "the environment variable `UNSET`, which is not set", "set `UNSET`"),
        ("[session]\nsecret = { env = \"EMPTY\" }", 2, "the environment variable `EMPTY`, which is empty", "give `EMPTY` a value"),
        ("[session]\nsecret = { env = \"canary-Zu7\" }", 2, "is not the name of an environment variable", "never the secret itself"),
        ("[session]\nsecret = { file = \"no/such/file\" }", 2, "names a file that cannot be read: No such file", "relative to the directory"),
        ("[session]\nsecret = { file = \"/dev/null\" }", 2, "names a file that is empty", "write the secret into it"),
        ("[session]\nsecret = {}", 2, "`session.secret` needs either `env` or `file`", "{ env = \"NAME\" }"),
        ("[session]\nsecret = { env = \"SET\", file = \"Cargo.toml\" }", 2, "`session.secret` needs either `env` or `file`", "{ env = \"NAME\" }"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = { env = \"UNSET\" }", 5, "`providers.p.client_secret.env` names the environment variable `UNSET`", "set `UNSET`"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn providers() {
    assert_refused(&[
        ("[providers.p]\nissuer = \"https://i.example\"", 1, "`providers.p.kind` is missing", "add `kind = \"oidc\"`"),
        ("[providers.p]\nkind = \"openid\"", 2, "`providers.p.kind` has a value that is not known", "one of `oidc`, `oauth2`, `google`"),
        ("[providers.p]\nkind = \"oidcc\"", 2, "has a value that is not known", "did you mean `oidc`?"),
        ("[providers.Corp]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\n", 1, "`Corp` cannot be the name of a provider", "lower-case letters"),
        ("[providers.callback]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\n", 1, "`callback` cannot be the name of a provider: an endpoint", "another name than `login`"),
        ("[providers.\"latchgate.js\"]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\n", 1, "an endpoint is called like that", "another name"),
        ("[providers.p]\nkind = \"oidc\"\nclient_id = \"c\"\nclient_secret = \"s\"", 1, "`providers.p.issuer` is missing", "add `issuer = "),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_secret = \"s\"", 1, "`providers.p.client_id` is missing", "add `client_id = "),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"\"\nclient_secret = \"s\"", 4, "`providers.p.client_id` is empty", "give it a value"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"", 1, "`client_secret` is missing", "`client_auth = \"none\"`"),
        ("[providers.p]\nkind = \"oidc\"\nclient_id = \"c\"\nclient_secret = \"s\"\nissuer = \"http://i.example\"", 5, "`providers.p.issuer` is not https", "loopback"),
        ("[providers.p]\nkind = \"oidc\"\nclient_id = \"c\"\nclient_secret = \"s\"\nissuer = \"http://127.0.0.1.evil.example\"", 5, "is not https", "loopback"),
        ("[providers.p]\nkind = \"oidc\"\nclient_id = \"c\"\nclient_secret = \"s\"\nissuer = \"http://10.0.0.1\"", 5, "is not https", "loopback"),
        ("[providers.p]\nkind = \"oidc\"\nclient_id = \"c\"\nclient_secret = \"s\"\nissuer = \"https://i.example?tenant=1\"", 5, "has a query", "Discovery §3"),
        ("[providers.p]\nkind = \"oidc\"\nclient_id = \"c\"\nclient_secret = \"s\"\nissuer = \"https://i.example#x\"", 5, "has a fragment", "`#…`"),
        ("[providers.p]\nkind = \"oidc\"\nclient_id = \"c\"\nclient_secret = \"s\"\nissuer = \"https://u:canary-Zu7@i.example\"", 5, "has a user name or a password", "up to the `@`"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nclient_auth = \"none\"", 6, "a public client has no secret", "take one of them out"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nclient_auth = \"client_secret\"", 6, "`providers.p.client_auth` has a value that is not known", "`client_secret_basic`"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nscopes = [\"profile\"]", 6, "`scopes` lacks `openid`", "OIDC Core"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nscopes = \"openid\"", 6, "`providers.p.scopes` has the wrong type", "a list"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nscopes = [\"openid\", \"a b\"]", 6, "has an item that is not a scope", "one scope an item"),
        ("[providers.p]\nkind = \"oauth2\"\nclient_id = \"c\"\nclient_secret = \"s\"\nauthorization_endpoint = \"https://i.example/a\"\ntoken_endpoint = \"http://i.example/t\"\nuserinfo_endpoint = \"https://i.example/u\"", 6, "`providers.p.token_endpoint` is not https", "loopback"),
        ("[providers.p]\nkind = \"oauth2\"\nclient_id = \"c\"\nclient_secret = \"s\"\nauthorization_endpoint = \"https://i.example/a\"\ntoken_endpoint = \"https://i.example/t\"", 1, "`providers.p.userinfo_endpoint` is missing", "add `userinfo_endpoint"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn backends() {
    const P: &str = "[providers.p]\nkind = \"backend\"\nbase_url = \"http://h/api\"\n";
    let with = |lines: &str| format!("{P}preset = \"nuxt\"\n{lines}");
    let cases = [
        ("[providers.p]\nkind = \"backend\"\npreset = \"nuxt\"".to_owned(), 1, "`providers.p.base_url` is missing", "add `base_url = \"http://127.0.0.1:3000\"`"),
        (format!("{P}preset = \"nuxtt\""), 4, "`providers.p.preset` has a value that is not known", "did you mean `nuxt`?; one of `nuxt`, `sneat`, `vuexy`, `axios`, `custom`"),
        (format!("{P}preset = \"custom\""), 1, "`providers.p.login` is missing", "add `login = { url = \"/login\" }`"),
        (P.trim_end().to_owned(), 1, "`providers.p.login` is missing", "add `login = { url = \"/login\" }`"),
        (format!("{P}login = {{}}"), 4, "`providers.p.login.url` is missing", "add `url = \"/login\"`"),
        (with("base_ur = \"http://h\""), 5, "unknown key `base_ur` in `providers.p`", "did you mean `base_url`?"),
        (with("client_id = \"app\""), 5, "unknown key `client_id` in `providers.p`", "known keys: `kind`, `preset`, `base_url`, `login`, `refresh`, `logout`, `user`, `token_property`, `refresh_token_property`, `access_ttl`"),
        (with("login = { metod = \"POST\" }"), 5, "unknown key `metod` in `providers.p.login`", "did you mean `method`?"),
        (with("login = { method = \"GET\" }"), 5, "`providers.p.login.method` is `GET`, which would put the password into a URL, which logs keep", "POST, PUT or PATCH"),
        (with("login = { method = \"post\" }"), 5, "`providers.p.login.method` is not a method", "upper-case: `POST`"),
        (with("login = { url = \"login\" }"), 5, "`providers.p.login.url` is neither a path nor a URL", "a path below `base_url`"),
        (with("login = { url = \"//evil.test/login\" }"), 5, "`providers.p.login.url` is not a path", "a path below `base_url`"),
        (with("login = { url = \"/../login\" }"), 5, "`providers.p.login.url` is not a path", "a path below `base_url`"),
        (with("login = { url = \"http://u:canary-Zu7@h/login\" }"), 5, "has a user name or a password in it", "up to the `@`"),
        (with("login = { url = \"ftp://h/login\" }"), 5, "is neither http nor https", "a whole URL"),
        (with("login = { fields = { username = \"x\", password = \"x\" } }"), 5, "the user name and the password are called the same", "a name of its own"),
        (with("login = { fields = { user = \"x\" } }"), 5, "unknown key `user` in `providers.p.login.fields`", "known keys: `username`, `password`"),
        (with("login = { headers = { Content-Type = \"x\" } }"), 5, "`content-type` is written by the gateway", "take it out"),
        (with("login = { headers = { X-Key = { env = \"NOPE\" } } }"), 5, "names the environment variable `NOPE`, which is not set", "set `NOPE`"),
        (with("login = { headers = { X-Key = \"canary-Zu7\\u0007\" } }"), 5, "`providers.p.login.headers.X-Key` cannot be the value of a header", "visible ASCII"),
        (with("login = false"), 5, "`providers.p.login` has the wrong type", "a table"),
        (with("logout = true"), 5, "`providers.p.logout` has the wrong type: a boolean", "or `false` where there is no such endpoint"),
        (with("logout = { headers = { Authorization = \"canary-Zu7\" } }"), 5, "`authorization` is written by the gateway", "take it out"),
        (with("refresh = { token_in = \"query\" }"), 5, "`providers.p.refresh.token_in` has a value that is not known", "one of `body`, `header`"),
        (with("refresh = { token_in = \"header\", token_name = \"a b\" }"), 5, "`providers.p.refresh.token_name` is not the name of a header", "letters"),
        (with("refresh = { method = \"GET\" }"), 5, "`providers.p.refresh.method` is `GET`, which has no body that the refresh token could stand in", "token_in = \"header\""),
        (with("user = { method = \"DELETE\" }"), 5, "`providers.p.user.method` is `DELETE`", "GET or POST"),
        (with("user = { property = \"a..b\" }"), 5, "`providers.p.user.property` is not a JSON path", "tokens[0].value"),
        (with("user = { sub = \"a[x]\" }"), 5, "`providers.p.user.sub` is not a JSON path", "names with dots"),
        (with("token_property = \"\""), 5, "`providers.p.token_property` is empty", "give it a value"),
        (with("token_property = \"data.\""), 5, "`providers.p.token_property` is not a JSON path", "names with dots"),
        (with("refresh_token_property = \"token\""), 5, "cannot both stand at `token`", "a path of its own"),
        (with("access_ttl = \"0s\""), 5, "`providers.p.access_ttl` is zero", "longer"),
        ("[providers.p]\nkind = \"backend\"\npreset = \"nuxt\"\nbase_url = \"http://h/?a=1\"".to_owned(), 4, "`providers.p.base_url` has a query", "scheme, host and path"),
        ("[providers.p]\nkind = \"backend\"\npreset = \"nuxt\"\nbase_url = \"h:3000\"".to_owned(), 4, "`providers.p.base_url` is neither http nor https", "a whole URL"),
    ];
    let cases: Vec<_> = cases.iter().map(|(case, line, message, help)| (case.as_str(), *line, *message, *help)).collect();
    assert_refused(&cases);
}

// TS-13
#[test]
fn presets_of_backends_and_what_a_table_says_otherwise() {
    let read = |lines: &str| {
        let source = format!("[providers.p]\nkind = \"backend\"\nbase_url = \"http://h:3000/api/\"\n{lines}{REST}");
        let config = parse(&source).unwrap();
        let Kind::Backend(backend) = config.providers.into_iter().next().unwrap().kind else { panic!("a backend") };
        backend
    };
    let call = |call: &Call| format!("{} {}", call.method, call.url);
    let all = |backend: &BackendSettings| {
        let refresh =
            backend.refresh.as_ref().map(|it| format!("{} {:?} {}", call(&it.call), it.token_in, it.token_name));
        [
            call(&backend.login),
            refresh.unwrap_or_default(),
            backend.logout.as_ref().map(call).unwrap_or_default(),
            backend.user.as_ref().map(|user| call(&user.call)).unwrap_or_default(),
            format!("{} {}", backend.token_property, backend.refresh_token_property),
        ]
    };
    let refresh = "POST http://h:3000/api";
    for (preset, expected) in [
        ("nuxt", ["/login", "/refresh_tokens Body token", "DELETE /logout", "GET /me", "token refresh_token"]),
        ("sneat", ["/auth/login", "/auth/refresh-token Body refreshToken", "", "", "accessToken refreshToken"]),
        (
            "vuexy",
            ["/jwt/login", "/jwt/refresh-token Body refreshToken", "POST /jwt/logout", "", "accessToken refreshToken"],
        ),
        ("axios", ["/auth/login", "/auth/refresh Body refreshToken", "", "", "access_token refresh_token"]),
    ] {
        let [login, renewal, logout, user, properties] = expected;
        let at = |text: &str| text.replace(" /", " http://h:3000/api/");
        let expected =
            [format!("{refresh}{login}"), format!("{refresh}{renewal}"), at(logout), at(user), properties.to_owned()];
        assert_eq!(all(&read(&format!("preset = \"{preset}\""))), expected, "{preset}");
    }
    let backend = read(
        r#"
preset = "nuxt"
login = { url = "/v2/login?tenant=a", fields = { username = "email" }, headers = { X-Key = { env = "SET" } } }
refresh = { method = "GET", token_in = "header", token_name = "X-Refresh" }
logout = false
user = { url = "https://other.example/me", property = "data", sub = "user.id" }
token_property = "data.attributes.token"
access_ttl = "15m""#,
    );
    assert_eq!(
        all(&backend),
        [
            "POST http://h:3000/api/v2/login?tenant=a",
            "GET http://h:3000/api/refresh_tokens Header x-refresh",
            "",
            "GET https://other.example/me",
            "data.attributes.token refresh_token",
        ]
    );
    assert_eq!((backend.fields.username.as_str(), backend.fields.password.as_str()), ("email", "password"));
    assert!(backend.login.headers["x-key"] == CANARY && backend.login.headers["x-key"].is_sensitive());
    assert_eq!(backend.user.unwrap().property.as_deref(), Some("data"));
    assert_eq!(backend.subject.as_deref(), Some("user.id"));
    assert_eq!(backend.access_ttl, Some(Duration::from_secs(900)));
    let bare = read("refresh = false\nuser = false\nlogout = false\npreset = \"nuxt\"");
    assert!(bare.refresh.is_none() && bare.user.is_none() && bare.logout.is_none());
    let custom = read("login = { url = \"/in\" }");
    assert_eq!(all(&custom), ["POST http://h:3000/api/in", "", "", "", "access_token refresh_token"]);
}

#[test]
#[rustfmt::skip] // a table
fn upstreams() {
    assert_refused(&[
        ("[upstreams.u]\nconnect_timeout = \"1s\"", 1, "`upstreams.u.url` is missing", "add `url"),
        ("[upstreams.u]\nurl = \"demo:\"\nurls = [\"demo:\"]", 3, "has both `url` and `urls`", "keep one"),
        ("[upstreams.u]\nurls = []", 2, "`upstreams.u.urls` is empty", "give it a value"),
        ("[upstreams.u]\nurl = \"127.0.0.1:3000\"", 2, "`upstreams.u.url` is not the address of an upstream", "\"http://127.0.0.1:3000\""),
        ("[upstreams.u]\nurl = \"ftp://a.example\"", 2, "is not the address of an upstream", "unix:/run/app.sock"),
        ("[upstreams.u]\nurl = \"http://a.example/base\"", 2, "is more than scheme, host and port", "replace_prefix"),
        ("[upstreams.u]\nurl = \"http://u:canary-Zu7@a.example\"", 2, "has a user name or a password", "up to the `@`"),
        ("[upstreams.u]\nurl = \"http://a.example:99999\"", 2, "is not a URL: invalid port number", "a whole URL"),
        ("[upstreams.u]\nurl = \"unix:\"", 2, "names no socket", "unix:/run/app.sock"),
        ("[upstreams.u]\nurl = \"demo:\"\nresponse_timeout = \"0s\"", 3, "is zero", "longer"),
        ("[upstreams.u]\nurl = \"demo:\"\nprotocol = \"h2\"", 3, "`upstreams.u.protocol` has a value that is not known", "one of `auto`, `http1`, `http2`"),
        ("[upstreams.u]\nurl = \"demo:\"\nidle_timeout = \"0s\"", 3, "is zero", "longer"),
        ("[upstreams.u]\nurl = \"demo:\"\nconnection_max_age = \"0s\"", 3, "is zero", "longer"),
        ("[upstreams.u]\nurl = \"demo:\"\ndns_refresh = \"0s\"", 3, "is zero", "longer"),
        ("[upstreams.u]\nurl = \"demo:\"\nmax_idle_connections = -1", 3, "`upstreams.u.max_idle_connections` is out of range", "from 0 to"),
        ("[upstreams.u]\nurl = \"demo:\"\nunauthorized = { status = [200] }", 3, "`upstreams.u.unauthorized.status` is out of range", "from 400 to 599"),
        ("[upstreams.u]\nurl = \"demo:\"\nunauthorized = { status = [] }", 3, "is empty", "give it a value"),
        ("[upstreams.u]\nurl = \"demo:\"\nunauthorized = { location_prefix = \"signin\" }", 3, "`upstreams.u.unauthorized.location_prefix` is not a path", "one `/`"),
        ("[upstreams.u]\nurls = [{ weight = 2 }]", 2, "`upstreams.u.urls.url` is missing", "add `url = \"http://127.0.0.1:3000\"`"),
        ("[upstreams.u]\nurls = [{ url = \"demo:\", weight = 0 }]", 2, "`upstreams.u.urls.weight` is out of range", "from 1 to 100"),
        ("[upstreams.u]\nurls = [{ url = \"demo:\", wieght = 2 }]", 2, "unknown key `wieght` in `upstreams.u.urls`", "did you mean `weight`?"),
        ("[upstreams.u]\nurls = [{ url = \"http://u:canary-Zu7@a.example\" }]", 2, "has a user name or a password", "up to the `@`"),
        ("[upstreams.u]\nurl = \"demo:\"\nbalance = \"random\"", 3, "`upstreams.u.balance` has a value that is not known", "`least_requests`"),
        ("[upstreams.u]\nurl = \"demo:\"\nretries = 11", 3, "`upstreams.u.retries` is out of range", "from 0 to 10"),
        ("[upstreams.u]\nurl = \"demo:\"\nmax_requests = 0", 3, "`upstreams.u.max_requests` is out of range", "from 1 to"),
        ("[upstreams.u]\nurl = \"demo:\"\nmax_pending = 5", 3, "`max_pending` has nothing to wait for", "set `max_requests` or `max_connections`"),
        ("[upstreams.u]\nurl = \"demo:\"\nejection = { most = 101 }", 3, "`upstreams.u.ejection.most` is out of range", "from 0 to 100"),
        ("[upstreams.u]\nurl = \"demo:\"\nejection = { status = [404] }", 3, "`upstreams.u.ejection.status` is out of range", "from 500 to 599"),
        ("[upstreams.u]\nurl = \"demo:\"\nejection = { for = \"0s\" }", 3, "`upstreams.u.ejection.for` is zero", "longer"),
        ("[upstreams.u]\nurl = \"demo:\"\nhealth = { interval = \"1s\" }", 3, "`upstreams.u.health.path` is missing", "add `path = \"/healthz\"`"),
        ("[upstreams.u]\nurl = \"demo:\"\nhealth = { path = \"healthz\" }", 3, "`upstreams.u.health.path` is not a path", "one `/`"),
        ("[upstreams.u]\nurl = \"demo:\"\nhealth = { path = \"/\", unhealthy = 0 }", 3, "`upstreams.u.health.unhealthy` is out of range", "from 1 to 100"),
        ("[upstreams.u]\nurl = \"demo:\"\nhealth = { path = \"/\", status = [] }", 3, "`upstreams.u.health.status` is empty", "give it a value"),
        ("[upstreams.u]\nurl = \"demo:\"\nbreaker = { answers = 0 }", 3, "`upstreams.u.breaker.answers` is out of range", "from 1 to 1000"),
        ("[upstreams.u]\nurl = \"demo:\"\nbreaker = { pause = \"5\" }", 3, "`upstreams.u.breaker.pause` is not a duration", "\"30s\""),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn upstreams_with_tls() {
    let files = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(files.path().join(name), content).unwrap();
    let path = |name: &str| files.path().join(name).display().to_string();
    let (key, other) = (rcgen::KeyPair::generate().unwrap(), rcgen::KeyPair::generate().unwrap());
    write("client.pem", &rcgen::CertificateParams::default().self_signed(&key).unwrap().pem());
    write("client.key", &key.serialize_pem());
    write("other.key", &other.serialize_pem());
    write("text", CANARY);
    write("torn.key", &format!("-----BEGIN PRIVATE KEY-----\n{CANARY}\n-----END PRIVATE KEY-----\n"));
    let tls = |lines: &str| format!("[upstreams.u]\nurl = \"https://a.example\"\n[upstreams.u.tls]\n{lines}");
    let client = |certificate: &str, key: &str| {
        tls(&format!("client_certificate = '{}'\nclient_key = '{}'", path(certificate), path(key)))
    };

    let cases = [
        (tls(&format!("ca_file = '{}'", path("missing.pem"))), 4, "`upstreams.u.tls.ca_file` names a file that cannot be read: No such file", "a PEM file"),
        (tls(&format!("ca_file = '{}'", path("text"))), 4, "has no certificate in it", "a PEM file"),
        (tls(&format!("ca_file = '{}'", path("client.key"))), 4, "has no certificate in it", "a PEM file"),
        (client("client.pem", "missing.key"), 5, "`upstreams.u.tls.client_key` names a file that cannot be read", "a PEM file"),
        (client("client.pem", "client.pem"), 5, "has no private key in it", "a PEM file"),
        (client("client.pem", "torn.key"), 5, "names a file that is not PEM", "a PEM file"),
        (client("client.pem", "other.key"), 5, "`client_key` is not the key of the certificate", "the key of `client_certificate`"),
        (client("text", "client.key"), 4, "`upstreams.u.tls.client_certificate` has no certificate in it", "a PEM file"),
        (tls(&format!("client_certificate = '{}'", path("client.pem"))), 4, "go together", "add `client_key`"),
        (tls(&format!("client_key = '{}'", path("client.key"))), 4, "go together", "add `client_certificate`"),
        (tls("server_name = \"a b\""), 4, "`upstreams.u.tls.server_name` is not a name that a certificate can be for", "\"app.internal\""),
        ("[upstreams.u]\nurl = \"http://a.example\"\ntls = { server_name = \"b.example\" }".into(), 3, "`tls` is for upstreams that are reached by https", "https://"),
        (format!("[upstreams.u]\nurl = \"https://{}.example\"", "a".repeat(64)), 2, "is not a name that a certificate can be for", "`tls.server_name`"),
    ];
    for (case, line, message, help) in &cases {
        assert_refused(&[(case.as_str(), *line, *message, *help)]);
        assert!(!refused(case).to_string().contains("canary"), "{case}");
    }

    let config = parse(&format!("{}{REST}", client("client.pem", "client.key"))).unwrap_or_else(|report| panic!("{report}"));
    assert!(config.upstreams[0].connection.tls.client.is_some());
}

#[test]
#[rustfmt::skip] // a table
fn routes() {
    assert_refused(&[
        ("[[routes]]\nupstream = \"app\"", 1, "`routes.path` is missing", "add `path = \"/*\"`"),
        ("[[routes]]\nupstream = \"app\"\npath = \"a\"", 3, "`routes.path` is not a path", "\"/a/*\" is all below it"),
        ("[[routes]]\nupstream = \"app\"\npath = \"/auth/login\"", 3, "`/auth/login` is inside `login.prefix` (`/auth`)", "set `login.prefix` to something else, as in \"/_auth\""),
        ("[[routes]]\nupstream = \"app\"\npath = \"/auth/*\"", 3, "is inside `login.prefix`", "choose another path"),
        ("[[routes]]\nupstream = \"app\"\npath = \"/AUTH/x\"\n[server]\ncase_insensitive_paths = true", 3, "is inside `login.prefix`", "choose another path"),
        ("[[routes]]\nupstream = \"app\"\npath = \"/mock/*\"", 3, "is inside `/mock`", "choose another path"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"ap\"", 3, "names the upstream `ap`, which does not exist", "did you mean `app`?"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"backend\"", 3, "names the upstream `backend`, which does not exist", "one of `app`"),
        ("[[routes]]\npath = \"/a\"\n[upstreams.b]\nurl = \"demo:\"", 1, "`routes.upstream` is missing", "one of `b`, `app`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nprovider = \"mokced\"", 4, "names the provider `mokced`, which does not exist", "did you mean `mocked`?"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nhost = \"a.example:80\"", 4, "`routes.host` is not a host", "without port"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nmethods = []", 4, "`routes.methods` is empty", "take the key out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nmethods = [\"get\"]", 4, "`routes.methods` is not a method", "upper-case: `GET`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nmethods = [\"GET POST\"]", 4, "is not a method", "a method as in \"GET\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = \"requird\"", 4, "`routes.auth` has a value that is not known", "did you mean `required`? one of true, false, \"optional\", \"auto\", \"public\", \"skip\", \"guest\", \"required\", \"protected\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = \"true\"", 4, "`routes.auth` has a value that is not known", "one of true, false"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = \"no\"", 4, "`routes.auth` has a value that is not known", "one of true, false"),
        ("[defaults]\nauth = \"none\"", 2, "`defaults.auth` has a value that is not known", "one of true, false"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\non_401 = \"retry\"", 4, "`routes.on_401` has a value that is not known", "one of `refresh`, `login`, `relay`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = false\non_401 = \"refresh\"", 5, "`routes.on_401` cannot be \"refresh\"", "\"optional\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nlogin = \"page\"", 4, "`routes.login` has a value that is not known", "one of `auto`, `redirect`, `status`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nstrip_prefix = \"api\"", 4, "`routes.strip_prefix` is not a path prefix", "plain segments"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nstrip_prefix = \"/api\"", 4, "`routes.strip_prefix` is not how `/a` begins", "whole segments"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nreplace_prefix = \"v2\"", 4, "`routes.replace_prefix` is not a path prefix", "plain segments"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nmax_body = \"1MB\"", 4, "`routes.max_body` is not a size", "\"1MiB\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nresponse_timeout = \"0s\"", 4, "is zero", "longer"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nallow_encoded_slash = 1", 4, "has the wrong type", "`true` or `false`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\ncors = { allow_credentials = true }", 4, "`routes.cors.allow_origins` is missing", "add `allow_origins"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\ncors = { allow_origins = [\"*\"], allow_credentials = true }", 4, "cannot go with `*`", "name the origins"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\ncors = { allow_origins = [\"*\", \"https://a.example\"] }", 4, "has `*` beside others", "stands alone"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\ncors = { allow_origins = [\"a.example\"] }", 4, "`routes.cors.allow_origins` is not a URL", "a whole URL"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\ncors = { allow_origins = [] }", 4, "`routes.cors.allow_origins` is empty", "give it a value"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\ncors = { allow_origins = [\"null\"] }", 4, "is not a URL", "a whole URL"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn credentials() {
    assert_refused(&[
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = \"beaer\"", 4, "`routes.attach` has a value that is not known", "did you mean `bearer`?"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = true", 4, "`routes.attach` has the wrong type", "\"id_token\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = {}", 4, "`routes.attach` does not say one thing", "a table with `bearer`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { bearer = {}, basic = { username = \"u\", password = \"canary-Zu7\" } }", 4, "does not say one thing", "a table with `bearer`"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_auth = \"none\"\n[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = false\nattach = { client_credentials = { provider = \"p\" } }", 10, "`p` gives the gateway no tokens in its own name", "RFC 6749 §4.4"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { client_credentials = {} }", 4, "`routes.attach.client_credentials.provider` is missing", "\"corp\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { client_credentials = { provider = \"crop\" } }", 4, "names the provider `crop`, which does not exist", "one of `mocked`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { client_credentials = { provider = \"mocked\", scope = \"a b\" } }", 4, "is not a scope", "one scope an item"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = { scope = \"read write\" }", 4, "is not a scope", "one scope an item"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = false\non_401 = \"login\"\nattach = { client_credentials = { provider = \"mocked\" } }", 5, "cannot be \"login\"", "\"relay\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nxsrf = \"on\"", 4, "`routes.xsrf` has the wrong type", "`cookie` and `header`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nxsrf = { cookie = \"a b\" }", 4, "`routes.xsrf.cookie` is not the name of a cookie", "XSRF-TOKEN"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nxsrf = { cookie = \"__Host-latchgate\" }", 4, "is the name of a cookie of the gateway's own", "another name"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nxsrf = { cookie = \"__Host-XSRF\" }", 4, "a prefix that browsers take on https only", "without `__Host-`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nxsrf = { header = \"Authorization\" }", 4, "names `authorization`, which carries credentials", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { basic = \"u:canary-Zu7\" }", 4, "`routes.attach.basic` has the wrong type", "a table"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { basic = { username = \"u\" } }", 4, "`routes.attach.basic.password` is missing", "{ env = \"PASSWORD\" }"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { basic = { username = \"u:v\", password = \"p\" } }", 4, "cannot be a user name", "RFC 7617"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { bearer = { header = \"X Auth\" } }", 4, "is not the name of a header", "\"X-User\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { bearer = { header = \"Connection\" } }", 4, "`connection`, which belongs to one connection", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { bearer = { scheme = \"To ken\" } }", 4, "is not an authentication scheme", "the bare token"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { api_key = { value = \"canary-Zu7\" } }", 4, "needs either `header` or `query`", "X-API-Key"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { api_key = { header = \"X-Key\", query = \"key\", value = \"canary-Zu7\" } }", 4, "needs either `header` or `query`", "X-API-Key"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { api_key = { header = \"X-Key\" } }", 4, "`routes.attach.api_key.value` is missing", "{ env = \"API_KEY\" }"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { api_key = { header = \"Cookie\", value = \"canary-Zu7\" } }", 4, "names `cookie`, which is written by the gateway", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { api_key = { header = \"X-Key\", value = { env = \"LINES\" } } }", 4, "cannot be the value of a header", "visible ASCII"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = false\nattach = \"bearer\"", 5, "`routes.attach` needs a session", "\"optional\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = \"public\"\nattach = \"id_token\"", 5, "`routes.attach` needs a session", "\"optional\""),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn identity_and_requirements() {
    assert_refused(&[
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"X-User\" = \"\" }", 4, "`routes.identity.X-User` is empty", "give it a value"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"X-User\" = \"a..b\" }", 4, "is not the path of a claim", "with dots between"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"X User\" = \"sub\" }", 4, "`X User` is not the name of a header", "\"X-User\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"X-User\" = \"sub\", \"x_user\" = \"sub\" }", 4, "`x_user` is in `identity` twice", "make no difference"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"Transfer-Encoding\" = \"sub\" }", 4, "belongs to one connection", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"X-Forwarded-For\" = \"sub\" }", 4, "is written by the gateway", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"X_Forwarded_For\" = \"sub\" }", 4, "is written by the gateway", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"Latchgate-Reason\" = \"sub\" }", 4, "is the gateway's own", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"Host\" = \"sub\" }", 4, "is written by the gateway", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { bearer = { header = \"X-Auth\" } }\nidentity = { \"X-Auth\" = \"sub\" }", 5, "writes `x-auth`, which carries the credential", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nidentity = { \"Authorization\" = \"sub\" }", 4, "names `authorization`, which carries credentials", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = {}", 4, "`routes.require` is empty", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = { groups = [] }", 4, "`routes.require.groups` is empty", "take the key out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = { groups = [\"a\", \"\"] }", 4, "`routes.require.groups` is empty", "take the key out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = { email_domain = [\"@corp.com\"] }", 4, "`routes.require.email_domain` is not a domain", "\"corp.com\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = { email_domain = [\"*.corp.com\"] }", 4, "is not a domain", "\"corp.com\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = { claims = { role = [] } }", 4, "`routes.require.claims.role` is empty", "take the key out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = { claims = { level = 3 } }", 4, "`routes.require.claims.level` has the wrong type", "a string"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = \"optional\"\nrequire = { groups = [\"a\"] }", 5, "`routes.require` needs `auth = true`", "set `auth = true`"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn header_edits() {
    assert_refused(&[
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequest_headers = { add = { \"X-A\" = \"1\" } }", 4, "unknown key `add` in `routes.request_headers`", "known keys: `set`, `remove`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequest_headers = { set = { \"Upgrade\" = \"h2c\" } }", 4, "belongs to one connection", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequest_headers = { set = { \"Authorization\" = \"canary-Zu7\" } }", 4, "names `authorization`, which carries credentials", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequest_headers = { set = { \"X-A\" = \"a\\nb\" } }", 4, "cannot be the value of a header", "visible ASCII"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequest_headers = { remove = [\"Host\"] }", 4, "is written by the gateway", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequest_headers = { remove = [\"Authorization\"] }", 4, "changes `authorization`, which carries the credential", "`attach`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nresponse_headers = { set = { \"Set-Cookie\" = \"canary-Zu7=1\" } }", 4, "could overwrite the session cookie", "another header"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nresponse_headers = { remove = [\"Content-Length\"] }", 4, "says where the message ends", "another header"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn stores() {
    assert_refused(&[
        ("[session]\nstore = \"postgres\"", 2, "has a value that is not known", "one of `memory`, `file`, `redis`, `cookie`"),
        ("[session]\nstore = \"file\"", 1, "`session.secret` is missing", "openssl rand"),
        ("[session]\nstore = \"redis\"", 1, "`session.secret` is missing", "openssl rand"),
        ("[session]\nstore = \"cookie\"", 1, "`session.secret` is missing", "openssl rand"),
        ("[session.file]\npath = \"\"", 2, "`session.file.path` is empty", "give it a value"),
        ("[session.redis]\nurl = \"http://h/\"", 2, "`session.redis.url` cannot be used: a Redis URL begins with", "redis://"),
        ("[session.redis]\nurl = [\"redis://a/\", \"rediss://b/\"]", 2, "several Redis URLs name nodes of one cluster", "redis://"),
        ("[session.redis]\nkey_prefix = \"a{b\"", 2, "key prefix", "docs/configuration.md"),
        ("[session.redis]\nusername = \"u\"", 1, "a Redis user without a password", "docs/configuration.md"),
        ("[session.redis]\ntimeout = \"0s\"", 2, "`session.redis.timeout` is zero", ""),
        ("[session.redis]\nca_file = \"ca.pem\"", 2, "`session.redis.ca_file` is for TLS", "rediss://"),
        ("[session.redis]\nurl = \"rediss://h/\"\nclient_key = \"k.pem\"", 1, "go together", "add the other"),
    ]);
}

// TG-32
#[test]
#[rustfmt::skip] // a table
fn tg_32_tokens_and_assertions() {
    let assertion = |keys: &str| format!("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = {{ assertion = {{ {keys} }} }}\n[tokens]\nalgorithm = \"EdDSA\"");
    let no_audience = assertion("");
    let own_audience = assertion("audience = \"http://localhost:8080\"");
    let long = assertion("audience = \"a\", ttl = \"2h\"");
    let reserved = assertion("audience = \"a\", claims = { sub = \"email\" }");
    let header = assertion("audience = \"a\", header = \"Host\"");
    let scheme = assertion("audience = \"a\", scheme = \"a b\"");
    let too_large = format!("[tokens]\nclaims = {{ x = {{ value = \"{}\" }} }}", "x".repeat(1023));
    let wrong_key = |algorithm: &str| format!("[tokens]\nalgorithm = \"{algorithm}\"\nkey = {{ env = \"SET\" }}");
    let (es256, eddsa) = (wrong_key("ES256"), wrong_key("EdDSA"));
    assert_refused(&[
        ("[tokens]\nalgorithm = \"RS256\"", 2, "`tokens.algorithm` has a value that is not known", "one of `HS256`, `ES256`, `EdDSA`"),
        ("[tokens]\nalgorithm = \"none\"", 2, "`tokens.algorithm` has a value that is not known", "one of `HS256`"),
        ("[tokens]\nttl = \"0s\"", 2, "`tokens.ttl` is zero", "longer"),
        ("[tokens]\nttl = \"999ms\"", 2, "`tokens.ttl` is shorter than a second", "seconds"),
        ("[tokens]\nissuer = \"a b\"", 2, "`tokens.issuer` is neither a URL nor a name", "RFC 7519"),
        ("[tokens]\nissuer = \"1:b\"", 2, "`tokens.issuer` is neither a URL nor a name", "RFC 7519"),
        ("[tokens]\nupdate_claims = \"yes\"", 2, "wrong type", "`true` or `false`"),
        ("[tokens]\nkey = { env = \"SHORT\" }", 2, "`tokens.key` is shorter than 32 bytes", "openssl rand"),
        ("[tokens]\nkey = \"-----BEGIN PRIVATE KEY-----canary-Zu7\"", 2, "`tokens.key` is a PEM", "\"ES256\" or \"EdDSA\""),
        ("[tokens]\nkey = [{ env = \"SET\" }, { env = \"SET\" }]", 2, "`tokens.key` names a key twice", "take one"),
        (&es256, 3, "`tokens.key` is no private key for this algorithm", "ec_paramgen_curve:P-256"),
        (&eddsa, 3, "`tokens.key` is no private key for this algorithm", "openssl genpkey -algorithm ed25519"),
        ("[session]\nstore = \"redis\"\nsecret = { env = \"SET\" }\n[tokens]\nalgorithm = \"ES256\"", 4, "`tokens.key` is missing", "openssl genpkey -algorithm EC"),
        ("[session]\nstore = \"cookie\"\nsecret = { env = \"SET\" }\n[tokens]\nalgorithm = \"ES256\"", 4, "`tokens.key` is missing", "openssl genpkey -algorithm EC"),
        ("[tokens]\nclaims = { role = 7 }", 2, "`tokens.claims.role` has the wrong type", "{ value = … }"),
        ("[tokens]\nclaims = { role = \"a..b\" }", 2, "is not the path of a claim", "address.country"),
        ("[tokens]\nclaims = { role = {} }", 2, "`tokens.claims.role.value` is missing", "value ="),
        ("[tokens]\nclaims = { role = { value = { a = 1 } } }", 2, "wrong type", "a list of them"),
        (&too_large, 2, "`tokens.claims.x.value` is too large for a claim", "1024 bytes"),
        (&no_audience, 4, "`routes.attach.assertion.audience` is missing", "audience ="),
        (&own_audience, 4, "`routes.attach.assertion.audience` is `tokens.issuer`", "name the upstream"),
        (&long, 4, "`routes.attach.assertion.ttl` is longer than `tokens.ttl`", "shorter"),
        (&reserved, 4, "`sub` is a claim that the gateway writes", "another name than `iss`"),
        (&header, 4, "names `host`", "another header"),
        (&scheme, 4, "is not an authentication scheme", "one word"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = false\nattach = { assertion = { audience = \"a\" } }\n[tokens]\nalgorithm = \"EdDSA\"", 5, "`routes.attach` needs a session", "set `auth`"),
        ("[[routes]]\npath = \"/.well-known/latchgate/jwks.json\"\nupstream = \"app\"", 2, "where the gateway publishes its keys", "another path"),
        ("[login]\nuser_path = \"/.well-known/latchgate/jwks.json\"", 2, "where the gateway publishes its keys", "another path"),
    ]);
    for name in ["iss", "sub", "aud", "exp", "nbf", "iat", "jti", "sid", "act", "azp", "scope", "client_id", "cnf", "provider"] {
        let case = format!("[tokens]\nclaims = {{ {name} = \"email\" }}");
        assert_refused(&[(&case, 2, "is a claim that the gateway writes, or that means something else", "another name than")]);
    }
}

#[test]
fn assertions_choose_their_claims_or_take_those_of_tokens() {
    let route = |path: &str, keys: &str| {
        format!(
            "[[routes]]\npath = \"{path}\"\nupstream = \"app\"\nattach = {{ assertion = {{ audience = \"a\"{keys} }} }}\n"
        )
    };
    let plain = route("/plain", "");
    let own = route("/own", ", claims = { mail = \"email\" }, ttl = \"10s\", header = \"X-User\", scheme = \"\"");
    let tokens = "[tokens]\nalgorithm = \"EdDSA\"\nttl = \"1m\"\nclaims = { role = \"realm.role\", tags = { value = [\"a\", 1, true] } }\n";
    let config = parse(&format!("{tokens}{plain}{own}{REST}")).unwrap();
    assert!(config.warnings.is_empty(), "{}", config.warnings);
    let assertion_of = |route: usize| match &config.routes[route].attach {
        Attach::Assertion(assertion) => assertion,
        other => panic!("{other:?}"),
    };
    let (plain, own) = (assertion_of(0), assertion_of(1));
    assert_eq!((plain.claims.len(), plain.ttl), (2, Duration::from_secs(60)), "never longer than tokens live");
    assert_eq!((own.claims[0].name.as_str(), own.claims.len(), own.ttl), ("mail", 1, Duration::from_secs(10)));
    assert_eq!((own.header.as_str(), own.scheme.as_str()), ("x-user", ""));

    let unverifiable = parse(&format!("{}{REST}", route("/a", ""))).unwrap();
    assert!(unverifiable.warnings.to_string().contains("nobody can verify"), "{}", unverifiable.warnings);
    let shared = parse(&format!("[tokens]\nkey = {{ env = \"SET\" }}\n{}{REST}", route("/a", ""))).unwrap();
    assert!(shared.warnings.is_empty() && !format!("{shared:?}").contains(CANARY), "{}", shared.warnings);
}

/// SPEC names all of these; none may be silently ignored.
#[test]
#[rustfmt::skip] // a table
fn what_this_version_does_not_have() {
    assert_refused(&[
        ("[telemetry]\notlp_endpoint = \"http://h\"", 2, "`telemetry.otlp_endpoint` is not available in this version", "take it out"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nclient_auth = \"private_key_jwt\"", 6, "`client_auth = \"private_key_jwt\"` is not available in this version", "`client_secret_basic`"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nclient_auth = \"tls_client_auth\"", 6, "`client_auth = \"tls_client_auth\"` is not available in this version", "`client_secret_basic`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = \"dpop\"", 4, "`attach = \"dpop\"` is not available in this version", "one of `bearer`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { exchange = { audience = \"a\" } }", 4, "`routes.attach.exchange` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { connection = \"github\" }", 4, "`routes.attach.connection` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\naudience = \"a\"", 4, "`routes.audience` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nscope = \"a\"", 4, "`routes.scope` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = { acr = [\"mfa\"] }", 4, "`routes.require.acr` is not available in this version", "take it out"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn clients_with_a_credential_of_their_own() {
    let hash = "0b14d501a594442a01c6859541bcb3e8164d183d32937b851835442f69d5c94e";
    let other = "6cf615d5bcaac778352a8f1f3360d23f02f34ec182e259897fd6ce485d7870d4";
    let nothing = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    let bearer = |lines: &str| format!("[[routes]]\npath = \"/a\"\nupstream = \"app\"\naccept = [\"b\"]\n[bearer.b]\n{lines}");
    let keys = |lines: &str| format!("[[routes]]\npath = \"/a\"\nupstream = \"app\"\naccept = [\"k\"]\n[api_keys.k]\n{lines}");
    let key = |lines: &str| keys(&format!("header = \"X-K\"\nkeys = [{{ id = \"a\", {lines} }}]"));
    let jwt = "issuer = \"https://i.example\"\naudience = [\"api\"]\n";
    let asks = "introspection = { url = \"https://i.example/i\", client_id = \"c\", client_secret = \"s\" }\n";
    let both = bearer(jwt) + &format!("[api_keys.k]\nheader = \"X-K\"\nkeys = [{{ id = \"a\", sha256 = \"{hash}\" }}]\n");
    let route = |lines: &str| format!("{both}[[routes]]\npath = \"/b\"\nupstream = \"app\"\n{lines}");
    for (case, line, message, help) in [
        (bearer("issuer = \"https://i.example\""), 5, "`bearer.b.audience` is missing", "audience = [\"api\"]"),
        (bearer("issuer = \"https://i.example\"\naudience = []"), 7, "`bearer.b.audience` is empty", "give it a value"),
        (bearer("audience = \"api\""), 5, "`bearer.b.issuer` is missing", "https://login.example.com"),
        (bearer("issuer = \"http://i.example\"\naudience = \"api\""), 6, "`bearer.b.issuer` is not https", "loopback"),
        (bearer("issuer = \"anything\"\naudience = \"api\"\njwks_url = \"http://i.example/k\""), 8, "`bearer.b.jwks_url` is not https", "loopback"),
        (bearer(&format!("{jwt}algorithms = [\"HS256\"]")), 8, "`bearer.b.algorithms` has a value that is not known", "`RS256`"),
        (bearer(&format!("{jwt}algorithms = [\"none\"]")), 8, "`bearer.b.algorithms` has a value that is not known", "`EdDSA`"),
        (bearer(&format!("{jwt}{asks}jwks_url = \"https://i.example/k\"")), 9, "`jwks_url` is for tokens that are read here", "one of them"),
        (bearer(&format!("{asks}algorithms = [\"RS256\"]")), 7, "`algorithms` is for tokens that are read here", "one of them"),
        (bearer("introspection = { url = \"https://i.example/i\", client_id = \"c\" }"), 6, "client_secret` is missing", "INTROSPECTION_SECRET"),
        (bearer("introspection = { url = \"https://i.example/i\", client_id = \"c\", client_secret = \"s\", cache = \"2h\" }"), 6, "is longer than an hour", "withdrawn"),
        (bearer(&format!("{jwt}jwks_uri = \"https://i.example/k\"")), 8, "unknown key `jwks_uri` in `bearer.b`", "did you mean `jwks_url`?"),
        (keys(&format!("keys = [{{ id = \"a\", sha256 = \"{hash}\" }}]")), 5, "needs either `header` or `query`", "X-API-Key"),
        (keys(&format!("header = \"X-K\"\nquery = \"k\"\nkeys = [{{ id = \"a\", sha256 = \"{hash}\" }}]")), 7, "needs either `header` or `query`", "X-API-Key"),
        (keys(&format!("header = \"Authorization\"\nkeys = [{{ id = \"a\", sha256 = \"{hash}\" }}]")), 6, "is where bearer tokens stand", "X-API-Key"),
        (keys(&format!("header = \"Cookie\"\nkeys = [{{ id = \"a\", sha256 = \"{hash}\" }}]")), 6, "`cookie`, which is written by the gateway", "another header"),
        (keys("header = \"X-K\""), 5, "`api_keys.k.keys` is missing", "sha256"),
        (keys("header = \"X-K\"\nkeys = []"), 7, "`api_keys.k.keys` is empty", "give it a value"),
        (key("sha256 = \"canary-Zu7\""), 7, "is not a SHA-256", "64 hexadecimal digits"),
        (key(&format!("sha256 = \"{}\"", &hash[1..])), 7, "is not a SHA-256", "sha256sum"),
        (key(&format!("sha256 = \"{nothing}\"")), 7, "is the SHA-256 of nothing at all", "sha256sum"),
        (key(&format!("sha256 = \"{hash}\", claims = {{ sub = \"root\" }}")), 7, "`sub` of a key is the name of its table and its `id`", "take `sub` out"),
        (key(&format!("sha256 = \"{hash}\", expires = \"2027-01-01\"")), 7, "is not a point in time", "2027-01-01T00:00:00Z"),
        (key(&format!("sha256 = \"{hash}\", expires = 5")), 7, "has the wrong type", "2027-01-01T00:00:00Z"),
        (key(&format!("sha256 = \"{hash}\" }}, {{ id = \"a\", sha256 = \"{other}\"")), 7, "two keys with the same `id`", "each its own"),
        (key(&format!("sha256 = \"{hash}\" }}, {{ id = \"b\", sha256 = \"{}\"", hash.to_uppercase())), 7, "has the same key twice", "whose it is"),
        (format!("{}[api_keys.b]\nheader = \"X-K\"\nkeys = [{{ id = \"a\", sha256 = \"{hash}\" }}]", bearer(jwt)), 8, "another entry has this name", "another name"),
        (format!("[bearer.session]\n{jwt}[[routes]]\npath = \"/a\"\nupstream = \"app\"\naccept = [\"session\"]"), 1, "means a session", "another name"),
        (route("accept = [\"b\", \"kk\", \"k\"]").replacen("[api_keys.k]", "[api_keys.kkk]", 1).replacen("\"k\"]", "\"kkk\"]", 1), 14, "names `kk`, which does not exist", "did you mean `kkk`?"),
        (route("accept = [\"k\", \"b\", \"k\"]"), 14, "`routes.accept` names something twice", "take one of them out"),
        (route("accept = []"), 14, "`routes.accept` is empty", "give it a value"),
        (route("accept = [\"k\"]\nattach = \"id_token\""), 15, "`routes.attach` needs a session, and `accept` has none", "\"session\""),
        (route("accept = [\"k\"]\non_401 = \"login\""), 15, "`routes.on_401` needs a session, and `accept` has none", "is relayed"),
    ] {
        let report = refused(&format!("{case}{REST}"));
        let problems = shown(&report);
        let first = problems.iter().find(|problem| problem.1.contains(message));
        let problem = first.unwrap_or_else(|| panic!("not found for\n{case}\n\n{report}"));
        assert_eq!(problem.0, line, "{case}\n\n{report}");
        assert!(problem.2.contains(help), "{case}\n\n{report}");
        assert_eq!(report.problems().iter().filter(|problem| problem.severity() == Severity::Error).count(), 1, "{case}\n\n{report}");
        assert!(!report.to_string().contains("canary-Zu7") && !report.to_string().contains(hash), "{report}");
    }
    // Where nobody signs in there need be no provider.
    let entry = format!("[api_keys.k]\nheader = \"X-K\"\nkeys = [{{ id = \"a\", sha256 = \"{hash}\" }}]\n");
    let alone = format!("{entry}[upstreams.app]\nurl = \"demo:\"\n[[routes]]\npath = \"/*\"\naccept = [\"k\"]");
    let config = parse(&alone).unwrap_or_else(|report| panic!("{report}"));
    assert!(matches!(config.routes[0].attach, Attach::Never), "there is no token to attach");
    assert!(config.warnings.is_empty(), "{}", config.warnings);
    assert!(!format!("{config:?}").contains(hash));
}

#[test]
#[rustfmt::skip] // a table
fn how_a_login_looks() {
    let look = parse(&format!("[login]\nbrand = \"Example\"\ntheme = {{ on_accent = \"#7a1fa2\", text = \"rgb(0 0 0 / 90%)\" }}{REST}")).unwrap().login.look;
    assert_eq!((look.brand.as_str(), look.theme.as_str()), ("Example", "--text: rgb(0 0 0 / 90%); --on-accent: #7a1fa2;"));
    assert_refused(&[
        ("[login.theme]\naccent = \"red; } </style><script>\"", 2, "`login.theme.accent` is not a colour", "teal"),
        ("[login.theme]\nacent = \"red\"", 2, "unknown key `acent` in `login.theme`", "did you mean `accent`?"),
    ]);
}

#[test]
#[rustfmt::skip] // a table
fn who_may_act_as_others() {
    let claim = |path: &str, value: &str| Requirement::Claim { path: path.into(), any_of: vec![value.into()] };
    let config = parse(&format!("[impersonation]\nrequire = {{ role = [\"admin\"], groups = \"support\" }}{REST}")).unwrap();
    assert_eq!(config.impersonators, Some(vec![claim("groups", "support"), claim("role", "admin")]));
    assert_eq!(parse(REST).unwrap().impersonators, None);
    assert_refused(&[
        ("[impersonation]", 1, "`impersonation.require` is missing", "add `require"),
        ("[impersonation]\nrequire = {}", 2, "`impersonation.require` is empty", "who may act as others"),
        ("[impersonation]\nrequire = { role = [] }", 2, "`impersonation.require.role` is empty", "take the key out"),
    ]);
}

#[test]
fn tokens_of_ours() {
    let settings = parse(&format!("[tokens]\naliases = true\n[refresh]\nrotation = false\ngrace = \"5s\"{REST}"))
        .unwrap()
        .code_flow;
    assert!(settings.aliases && !settings.rotation);
    assert_eq!(settings.grace, Duration::from_secs(5));
    let settings = parse(REST).unwrap().code_flow;
    assert!(!settings.aliases && settings.rotation);
}

#[test]
fn routes_that_do_not_go_together() {
    let same = "[[routes]]\npath = \"/a/{id}\"\nmethods = [\"GET\", \"POST\"]\n";
    let again = "[[routes]]\npath = \"/a/{name}\"\nmethods = [\"POST\", \"GET\"]\n";
    let report = refused(&format!("{same}upstream = \"app\"\n{again}upstream = \"app\"{REST}"));
    let problems = shown(&report);
    assert_eq!(problems.len(), 1, "{report}");
    assert_eq!(problems[0].0, 6, "{report}");
    assert!(problems[0].1.contains("the host, the path and the methods of another"), "{report}");
    assert!(problems[0].2.contains("`host`, `path` or `methods`"), "{report}");
    assert!(report.to_string().contains("2 | path = \"/a/{id}\"\n  |        --------- set here first"), "{report}");
}

#[test]
#[rustfmt::skip] // a table
fn parts_that_are_missing_altogether() {
    let upstream = "[upstreams.app]\nurl = \"demo:\"\n";
    let mock = "[providers.demo]\nkind = \"mock\"\n";
    let route = "[[routes]]\npath = \"/*\"\n";
    for (source, line, message, help) in [
        (format!("{upstream}{mock}"), 4, "there are no routes", "add a `[[routes]]` table"),
        (format!("routes = []\n{upstream}{mock}"), 5, "there are no routes", "add a `[[routes]]` table"),
        (format!("{upstream}{route}"), 4, "there is no provider to sign in with", "`[providers.NAME]`"),
        (format!("{upstream}{route}auth = \"optional\""), 4, "there is no provider", "`[providers.NAME]`"),
        (format!("{mock}{route}"), 4, "there is no upstream", "`[upstreams.app]`"),
        (format!("{upstream}{mock}[routes]\npath = \"/*\""), 5, "`routes` has the wrong type", "`[[routes]]`"),
        (format!("{upstream}{mock}[providers.other]\nkind = \"mock\"\n{route}"), 5, "two mock providers", "more `users`"),
        (
            format!("{upstream}{mock}{route}[server]\nexternal_url = \"https://a.example\""),
            4,
            "lets anybody in as anybody",
            "`allow_in_production = true`",
        ),
        (format!("{upstream}{mock}users = []\n{route}"), 5, "`providers.demo.users` is empty", "give it a value"),
        (format!("{upstream}{mock}users = [{{ name = \"Ada\" }}]\n{route}"), 5, "users.sub` is missing", "sub = \"ada\""),
        (
            format!("{upstream}{mock}users = [{{ sub = \"a\" }},\n{{ sub = \"a\" }}]\n{route}"),
            6,
            "two personas with the same `sub`",
            "each its own",
        ),
        (format!("{upstream}{mock}users = [{{ sub = \"a\", n = nan }}]\n{route}"), 5, "is not a JSON number", "JSON"),
    ] {
        let report = refused(&source);
        let problems = shown(&report);
        assert_eq!(problems.len(), 1, "{source}\n\n{report}");
        assert_eq!(problems[0].0, line, "{source}\n\n{report}");
        assert!(problems[0].1.contains(message), "{source}\n\n{report}");
        assert!(problems[0].2.contains(help), "{source}\n\n{report}");
    }
}

#[test]
fn all_problems_come_at_once_in_file_order() {
    let report = refused(
        r#"
[server]
listen = "nowhere"
lissen = "127.0.0.1:8080"
[[routes]]
path = "/a"
auth = "maybe"
upstream = "nobody"
cors = { allow_origins = ["x", "y"] }
[session]
secret = "short"
[providers.corp]
kind = "oidc"
issuer = "http://i.example"
"#,
    );
    let lines: Vec<usize> = shown(&report).into_iter().map(|problem| problem.0).collect();
    assert_eq!(lines, [3, 4, 7, 8, 9, 9, 11, 12, 12, 14], "{report}");
}

#[test]
fn a_report_looks_like_this() {
    let source = "[server]\nlistne = \"127.0.0.1:80\" # the old port\n";
    let report = refused(&format!("{source}{REST}"));
    let expected = "\
error: unknown key `listne` in `server`
 --> gateway.toml:2:1
  |
2 | listne = \"************\"
  | ^^^^^^
  |
  = help: did you mean `listen`?";
    assert_eq!(report.to_string(), expected);
    assert_eq!(format!("{report:?}"), expected);
    assert!(report.render(true).contains("\u{1b}["));
    assert!(!report.render(false).contains('\u{1b}'));
}

#[test]
fn files_that_are_not_toml() {
    for (source, line, message) in [
        ("[server\nlisten = \"127.0.0.1:80\"", 1, "not valid TOML: unclosed table"),
        ("[server]\nlisten = 127.0.0.1:80", 2, "not valid TOML"),
        ("[server]\nlisten = \"a\"\nlisten = \"b\"", 3, "not valid TOML: duplicate key"),
        ("[server]\nlisten", 2, "not valid TOML: key with no value"),
        ("[server]\nlisten = \"", 2, "not valid TOML"),
        ("a = [", 1, "not valid TOML"),
        ("é = 1", 1, "not valid TOML"),
    ] {
        let report = refused(source);
        let problems = shown(&report);
        assert_eq!(problems[0].0, line, "{source}\n\n{report}");
        assert!(problems[0].1.contains(message), "{source}\n\n{report}");
    }
    let report = refused("a = \nb = 1\nc = ]\n");
    let lines: Vec<usize> = shown(&report).into_iter().map(|problem| problem.0).collect();
    assert_eq!(lines, [1, 3], "{report}");
}

#[test]
fn a_file_that_cannot_be_read() {
    let report = Config::load(Path::new("no/such/gateway.toml")).unwrap_err();
    assert_eq!(
        report.to_string(),
        "error: `no/such/gateway.toml` cannot be read: No such file or directory (os error 2)\n |\n = help: `--config` names another file"
    );
}

/// Each file has a problem in the very line where a secret stands.
#[test]
#[rustfmt::skip] // a table
fn no_report_shows_a_secret() {
    let oidc = "[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\n";
    let route = "[[routes]]\npath = \"/a\"\nupstream = \"app\"\n";
    let cases = [
        // in a file that parses
        "[session]\nsecret = \"canary-Zu7\"".to_owned(),
        "[session]\nsecret = '''\ncanary-Zu7'''".to_owned(),
        "[session]\nsecret = [\n \"canary-Zu7\",\n { env = \"SHORT\" } ]".to_owned(),
        "[session]\nsecret = { env = \"canary-Zu7\" }".to_owned(),
        "[session]\nsecret = { evn = \"canary-Zu7\" }".to_owned(),
        "[session]\nsecret = { value = \"canary-Zu7\" }".to_owned(),
        "[session]\nsecret = { header = \"canary-Zu7\" }".to_owned(),
        "[session]\nsecret.text = \"canary-Zu7\"".to_owned(),
        "[session]\nsecert = \"canary-Zu7\"".to_owned(),
        "[session]\nsecert = { x = [\"canary-Zu7\"] }".to_owned(),
        "[sesion]\nanything = \"canary-Zu7\"".to_owned(),
        "[session.redis]\nurl = \"redis://u:canary-Zu7@h/x/y\"".to_owned(),
        "session = { store = \"redis\", redis = { url = \"http://u:canary-Zu7@h/\" } }".to_owned(),
        "session = { store = \"redis\", redis = { url = \"redis://h/?password=canary-Zu7\" } }".to_owned(),
        "[server]\nlisten = 1 # was { password = \"canary-Zu7\" }".to_owned(),
        "[server]\nexternal_url = \"http://u:canary-Zu7@localhost/\"".to_owned(),
        "[server]\nexternal_url = \"http://u:canary-Zu7\\u0040localhost/\"".to_owned(),
        "[server]\nexternal_url = \"u:canary-Zu7@localhost\"".to_owned(),
        format!("{oidc}client_secret = [\"canary-Zu7\"]"),
        format!("{oidc}client_secrt = \"canary-Zu7\"\nclient_auth = \"none\""),
        format!("{oidc}client_secret = {{ file = \"x\" }}\ntoken = \"canary-Zu7\""),
        "[providers.p]\nclient_id = \"c\"\nclient_secret = \"s\"\nkind = \"oidc\"\nissuer = \"https://u:canary-Zu7@i.example/\"".to_owned(),
        "providers.p = { kind = \"github\", client_secret = \"canary-Zu7\" }".to_owned(),
        "bearer.b = { introspection = { url = \"https://i\", client_secret = \"canary-Zu7\" } }".to_owned(),
        "api_keys.ci = { keys = [{ id = \"a\", sha256 = \"canary-Zu7\" }] }".to_owned(),
        "[upstreams.u]\nurl = \"http://canary-Zu7@h/\"".to_owned(),
        "[upstreams.u]\nurls = [\"http://h/\", \"http://u:canary-Zu7@h/\"]".to_owned(),
        format!("{route}attach = {{ basic = {{ username = \"a:b\", password = \"canary-Zu7\" }} }}"),
        format!("{route}attach = {{ basic = \"u:canary-Zu7\" }}"),
        format!("{route}attach = {{ api_key = {{ value = \"canary-Zu7\" }} }}"),
        format!("{route}attach = {{ api_key = \"canary-Zu7\" }}"),
        format!("{route}attach = {{ api_key = {{ header = \"X-K\", key = \"canary-Zu7\" }} }}"),
        format!("{route}attach = {{ bearer = {{}}, api_key = {{ value = \"canary-Zu7\" }} }}"),
        format!("{route}attach = {{ api_key = {{ header = \"X-K\", value = {{ env = \"LINES\" }} }} }}"),
        format!("{route}request_headers = {{ set = {{ \"Authorization\" = \"canary-Zu7\" }} }}"),
        // in one that does not
        "[session]\nsecret = \"canary-Zu7".to_owned(),
        "[session]\nsecret = canary-Zu7".to_owned(),
        "[session]\nsecret \"canary-Zu7\"".to_owned(),
        "[session]\nsecret: \"canary-Zu7\"".to_owned(),
        "[session]\n\"secret\" = \"canary-Zu7\" x".to_owned(),
        "[session]\nsecrt = \"canary-Zu7".to_owned(),
        "[session]\nsecret = \"first\ncanary-Zu7\"".to_owned(),
        "[session]\nsecret = \"Zmlyc3Q=\ncanary-Zu7=\"".to_owned(),
        "[session]\nsecret = [\n \"first\"\n \"canary-Zu7\"\n]".to_owned(),
        "[session]\nsecret = [\n \"first]\n \"canary-Zu7\"\n]".to_owned(),
        "[session]\nsecret = [\n\n # old\n \"first\" \"canary-Zu7\"\n]".to_owned(),
        "[session]\nsecret = \"\"\"\nfirst\nx = canary-Zu7\n\"\" \"".to_owned(),
        "[session]\nsecret = { env = \"X\", \"canary-Zu7\" }".to_owned(),
        "[session]\nsecret = { env = X\" } canary-Zu7".to_owned(),
        "[session]\nsecret = { env = \"X\" } client_secret = \"canary-Zu7\"".to_owned(),
        "[session]\nredis.url = \"redis://u:canary-Zu7@h/".to_owned(),
        "[session]\nredis.url = \"redis://u:canary\"Zu7@h/\"".to_owned(),
        "[session]\nredis.url = redis://h/?password=canary-Zu7".to_owned(),
        "[server]\nlisten = u:canary-Zu7@h".to_owned(),
        "[server]\nlisten = # password = canary-Zu7".to_owned(),
        format!("{route}attach = {{ api_key = {{ header = \"X-K\", value = \"canary-Zu7\" }}"),
        format!("{route}attach = {{ basic = {{ username = \"u\", password = \"canary-Zu7\" "),
        format!("{route}attach = {{ api_key = \"canary-Zu7"),
        format!("{route}request_headers = {{ set = {{ \"X-K\" = \"canary-Zu7\""),
    ];
    for case in cases {
        // no shorter part of it either
        let report = refused(&format!("{case}{REST}"));
        for text in [report.to_string(), format!("{report:?}"), report.render(true)] {
            assert!(!text.contains("Zu7") && !text.contains("canary"), "{case}\n\n{text}");
        }
    }
}

#[test]
fn a_byte_order_mark_shifts_nothing() {
    let report = refused(&format!("\u{feff}[server]\nworkers = 0{REST}"));
    assert_eq!(shown(&report)[0].0, 2);
    assert!(report.to_string().contains("2 | workers = 0\n  |           ^\n"), "{report}");
}

proptest::proptest! {
    #[test]
    fn any_text_gets_an_answer(text in "[a-z0-9\\[\\]{}=\"'#,.:@/\\\\\r\n\téß\u{0}\u{feff} ]{0,120}") {
        for source in [text.clone(), format!("{REST}{text}")] {
            if let Err(report) = parse(&source) {
                assert!(report.to_string().contains("error: "));
            }
        }
    }
}

/// One slip of the finger anywhere in a file must not bring a secret to light.
#[test]
fn no_slip_of_the_finger_shows_a_secret() {
    let source = r#"[session]
secret = ["Zu7Zu7Zu7Zu7Zu7Zu7Zu7Zu7Zu7Zu7Zu7", { env = "SET" }]
[session.redis]
url = "redis://u:Zu7Zu7Zu7@h/"
[providers.p]
client_secret = "Zu7Zu7Zu7" # or password = "Zu7Zu7"
[[routes]]
attach = { basic = { username = "u", password = "Zu7Zu7Zu7" } }
[[routes]]
attach = { api_key = { header = "X-Key", value = 'Zu7Zu7Zu7' } }
"#;
    for at in 0..source.len() {
        let (before, behind) = source.split_at(at);
        let mut slips = vec![format!("{before}{}", &behind[1..])];
        slips.extend("\"'[]{}=#,.:@ \nx".chars().map(|char| format!("{before}{char}{behind}")));
        for slip in slips {
            let text = refused(&slip).to_string();
            assert!(!text.contains("Zu7"), "{slip}\n\n{text}");
        }
    }
}

#[test]
fn what_is_checked_prints_no_secret_either() {
    let source = r#"
[session]
secret = [{ env = "SET" }, "canary-Zu7heiph4aiWohw4-and-then-some-more"]
[[routes]]
path = "/basic"
attach = { basic = { username = "ü", password = { env = "SET" } } }
upstream = "app"
[[routes]]
path = "/key"
attach = { api_key = { query = "key", value = "canary-Zu7" } }
request_headers = { set = { "X-Shared" = "canary-Zu7" } }
upstream = "app"
"#;
    let config = parse(&format!("{source}{REST}")).unwrap();
    assert_eq!(config.session.secrets.len(), 2);
    assert!(config.session.secrets.iter().all(|secret| secret.expose_secret() == CANARY));
    let Attach::Basic(value) = &config.routes[0].attach else { panic!("{config:?}") };
    assert_eq!(value, "Basic w7w6Y2FuYXJ5LVp1N2hlaXBoNGFpV29odzQtYW5kLXRoZW4tc29tZS1tb3Jl");
    let debug = format!("{config:?}");
    assert!(!debug.contains("Zu7") && !debug.contains("w7w6Y2Fu"), "{debug}");
}

#[test]
fn a_secret_file_loses_one_line_break() {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "0123456789012345678901234567890 \r\n").unwrap();
    let source = format!("[session]\nsecret = {{ file = {:?} }}{REST}", file.path());
    let config = parse(&source).unwrap();
    assert_eq!(config.session.secrets[0].expose_secret(), "0123456789012345678901234567890 ");
}

#[test]
#[rustfmt::skip] // a table
fn warnings_do_not_stop_the_start() {
    let cases = [
        ("[server]\nadmin_listen = \"0.0.0.0:9901\"", 2, "can be reached from other machines"),
        ("[server]\nexternal_url = \"http://a.example\"", 2, "is plain http"),
        ("[server]\ntrusted_proxies = [\"0.0.0.0/0\"]", 2, "trusts everybody"),
        ("[server]\nlisten = \"unix:/run/a.sock\"\ntrusted_proxies = [\"10.0.0.1\"]\nproxy_protocol = true", 4, "`server.proxy_protocol` has no effect"),
        ("[session]\nidle_timeout = \"100h\"", 2, "never takes effect"),
        ("[[routes]]\npath = \"/api/user/me\"\nupstream = \"app\"", 2, "is `login.user_path`"),
        ("[[routes]]\npath = \"/a\"\nauth = false\nidentity = { \"X-A\" = \"sub\" }\nupstream = \"app\"", 4, "has no effect"),
        ("[bearer.b]\nissuer = \"https://i.example\"\naudience = \"api\"", 1, "no route accepts `b`"),
        (
            "[bearer.b]\nissuer = \"https://i.example\"\naudience = \"api\"\n[[routes]]\npath = \"/a\"\nupstream = \"app\"\nauth = false\naccept = [\"b\"]",
            8,
            "`routes.accept` decides nothing",
        ),
        (
            "[[routes]]\npath = \"/a\"\nmethods = [\"GET\", \"PUT\"]\nupstream = \"app\"\n[[routes]]\npath = \"/a\"\nmethods = [\"PUT\"]\nupstream = \"app\"",
            6,
            "this route can never match",
        ),
    ];
    for (case, line, message) in cases {
        let config = parse(&format!("{case}{REST}")).unwrap();
        let problems = shown(&config.warnings);
        assert_eq!(problems.len(), 1, "{}", config.warnings);
        assert_eq!(problems[0].0, line, "{}", config.warnings);
        assert!(problems[0].1.contains(message), "{}", config.warnings);
        assert_eq!(config.warnings.problems()[0].severity(), Severity::Warning);
        assert!(config.warnings.to_string().starts_with("warning: "));
    }
}

#[test]
fn loopback_providers_need_no_tls() {
    for host in ["localhost:4444", "127.0.0.1", "127.9.9.9:1", "[::1]:4444"] {
        let source = format!(
            "[providers.p]\nkind = \"oidc\"\nissuer = \"http://{host}/realm/\"\nclient_id = \"c\"\nclient_auth = \"none\"{REST}"
        );
        let config = parse(&source).unwrap();
        let Kind::Oidc { issuer } = &config.providers[0].kind else { panic!("{config:?}") };
        assert_eq!(*issuer, format!("http://{host}/realm/"), "kept as written");
    }
}

// Apps with a mock provider of their own at `/auth/mock` keep that address; its endpoints are below it.
#[test]
fn the_mock_may_be_called_mock() {
    let config = parse(&REST.replace("mocked", "mock")).unwrap();
    assert_eq!(config.providers[0].name, "mock");
}

// TG-37: that it is refused otherwise is among `parts_that_are_missing_altogether`
#[test]
fn the_mock_may_be_let_into_production() {
    let source = "[server]\nexternal_url = \"https://a.example\"\n[providers.m]\nkind = \"mock\"\nallow_in_production = true\n[upstreams.app]\nurl = \"demo:\"\n[[routes]]\npath = \"/*\"";
    let config = parse(source).unwrap();
    let Kind::Mock(mock) = &config.providers[0].kind else { panic!("{config:?}") };
    assert_eq!(mock.issuer, "https://a.example/mock");
    assert_eq!(mock.users[0]["sub"], "ada");
}

#[test]
fn every_spelling_of_auth() {
    for (written, expected) in [
        ("true", Auth::Required),
        ("\"required\"", Auth::Required),
        ("\"protected\"", Auth::Required),
        ("\"optional\"", Auth::Optional),
        ("\"auto\"", Auth::Optional),
        ("false", Auth::Anonymous),
        ("\"public\"", Auth::Public),
        ("\"skip\"", Auth::Public),
        ("\"guest\"", Auth::Guest),
    ] {
        for source in [
            format!("[[routes]]\npath = \"/a\"\nauth = {written}\nupstream = \"app\"{REST}"),
            format!("[defaults]\nauth = {written}\n[[routes]]\npath = \"/a\"\nupstream = \"app\"{REST}"),
        ] {
            let route = &parse(&source).unwrap().routes[0];
            assert_eq!(route.auth, expected, "{written}");
            let attaches = matches!(route.attach, Attach::Bearer { .. });
            assert_eq!(attaches, matches!(expected, Auth::Required | Auth::Optional), "{written}");
        }
    }
}

#[test]
fn defaults_are_safe() {
    let config = parse(REST).unwrap();
    assert_eq!(config.server.listen, [Listen::Tcp("127.0.0.1:8080".parse().unwrap())]);
    assert_eq!(config.server.external_url.as_str(), "http://localhost:8080/");
    assert_eq!(config.server.admin_listen, Some("127.0.0.1:9901".parse().unwrap()));
    assert!(config.server.trusted_proxies.is_empty());
    assert!(!config.server.case_insensitive_paths);
    assert_eq!(config.server.drain_timeout, Duration::from_secs(30));
    assert_eq!(config.limits.replay_body, 256 * 1024);
    assert_eq!(config.limits.replay_memory, 64 * 1024 * 1024);
    assert_eq!(config.limits.header_bytes, 32 * 1024);
    assert_eq!((config.limits.header_count, config.limits.header_timeout), (100, Duration::from_secs(10)));
    assert_eq!(
        (config.limits.idle_timeout, config.limits.body_timeout),
        (Duration::from_secs(75), Duration::from_secs(30))
    );
    assert_eq!((config.limits.write_timeout, config.limits.request_timeout), (Duration::from_secs(60), None));
    assert_eq!((config.limits.connections, config.limits.login_attempts), (20_000, 10));
    assert_eq!(config.limits.websocket_idle_timeout, Duration::from_secs(3600));
    assert_eq!(config.session.idle_timeout, Duration::from_secs(24 * 3600));
    assert_eq!(config.session.absolute_timeout, Duration::from_secs(72 * 3600));
    assert_eq!((config.session.max_sessions, config.session.max_sessions_per_user), (1_000_000, 100));
    assert!(config.session.secrets.is_empty());
    assert_eq!(config.login.prefix, "/auth");
    assert_eq!(config.login.user_path, "/api/user/me");
    assert!(config.login.allowed_return_origins.is_empty() && config.login.return_to_page);
    assert_eq!(config.refresh.early, Duration::from_secs(30));
    assert_eq!(config.refresh.timeout, Duration::from_secs(10));
    assert_eq!(config.refresh.grace, Duration::from_secs(60));
    assert_eq!(config.refresh.cooldown, Duration::from_secs(5));
    assert_eq!(config.providers[0].timeout, Duration::from_secs(10));
    assert_eq!(config.providers[0].client_auth, ClientAuth::None);
    assert_eq!(config.upstreams[0].connect_timeout, Duration::from_secs(3));
    let connection = &config.upstreams[0].connection;
    assert_eq!((connection.protocol, connection.connection_max_age), (Protocol::Auto, None));
    assert_eq!((connection.idle_timeout, connection.dns_refresh), (Duration::from_secs(30), Duration::from_secs(30)));
    assert_eq!(connection.max_idle_connections, 256);
    assert_eq!(config.upstreams[0].response_timeout, Duration::from_secs(60));
    assert_eq!(config.upstreams[0].unauthorized.status, [StatusCode::UNAUTHORIZED]);
    assert_eq!((config.upstreams[0].balance, config.upstreams[0].retries), (Balance::RoundRobin, 1));
    assert!(config.upstreams[0].checks.is_none() && config.upstreams[0].breaker.is_none());
    assert_eq!(config.upstreams[0].limits.max_connections.or(config.upstreams[0].limits.max_requests), None);
    assert_eq!(config.routes[0].auth, Auth::Required);
    assert!(config.warnings.is_empty(), "{}", config.warnings);
}

#[test]
fn everything_at_once_is_read() {
    let config = parse(
        r#"
[server]
listen = ["[::1]:80", "unix:/run/latchgate.sock"]
external_url = "https://App.Example.com:8443/"
admin_listen = "off"
trusted_proxies = ["10.1.2.3/8", "::1"]
drain_timeout = "0s"
workers = 3
case_insensitive_paths = true
[login]
prefix = "/_/auth"
after_login = "/home?x=1"
after_logout = "https://www.example.com/bye"
allowed_return_origins = ["https://www.example.com:443/"]
return_to_page = false
expose_access_token = false
[telemetry]
log = "json"
[refresh]
timeout = "2500ms"
[providers.corp]
kind = "oauth2"
authorization_endpoint = "https://i.example/a?tenant=1"
token_endpoint = "https://i.example/t"
userinfo_endpoint = "https://i.example/u"
revocation_endpoint = "https://i.example/r"
subject = "user.id"
client_id = "app"
client_secret = { env = "SET" }
client_auth = "client_secret_post"
[upstreams.zebra]
urls = ["http://a.example", { url = "https://[::1]:444", weight = 3 }, "unix:/run/app.sock", "demo:"]
balance = "sticky"
retries = 2
slow_start = "30s"
max_connections = 100
max_requests = 1000
max_pending = 50
pending_timeout = "2s"
health = { path = "/healthz?full", interval = "5s", timeout = "1s", healthy = 1, unhealthy = 4, status = [200, 204] }
ejection = { failures = 3, for = "1m", most = 25, status = [502, 503] }
breaker = { answers = 50, failures = 80, pause = "10s", status = [503] }
unauthorized = { status = [401, 419], location_prefix = "/signin" }
[upstreams.ant]
url = "http://127.0.0.1:3000"
[[routes]]
path = "/api/*"
host = "*.Example.com"
methods = ["GET", "PUT"]
upstream = "ant"
auth = "auto"
attach = { bearer = { header = "X-Auth", scheme = "" } }
on_401 = "refresh"
login = "status"
provider = "corp"
accept = ["session"]
capture = false
strip_prefix = "/api"
replace_prefix = "/"
request_headers = { set = { "X-A" = "1" }, remove = ["Cookie"] }
response_headers = { set = { "X-Frame-Options" = "DENY" }, remove = ["Server"] }
max_body = "1MiB"
response_timeout = "5m"
allow_encoded_slash = true
[[routes]]
path = "/admin/*"
upstream = "zebra"
identity = { "X-User" = "sub", "X-Country" = "address.country" }
require = { groups = ["admin"], email_domain = "Corp.COM", scope = ["x", "y"], claims = { role = "admin", "a.b" = ["c"] } }
cors = { allow_origins = ["https://app.example.com/"], allow_credentials = true, allow_methods = ["PATCH"], allow_headers = ["Content-Type"], expose_headers = ["X-B"], max_age = "1h" }
"#,
    )
    .unwrap();
    assert_eq!(config.server.listen[1], Listen::Unix("/run/latchgate.sock".into()));
    assert_eq!(config.server.external_url.as_str(), "https://app.example.com:8443/");
    assert_eq!(config.server.admin_listen, None);
    assert_eq!(config.server.trusted_proxies, ["10.0.0.0/8".parse().unwrap(), "::1/128".parse().unwrap()]);
    assert_eq!(config.server.workers, 3);
    assert_eq!(config.login.prefix, "/_/auth");
    assert_eq!(config.login.after_login, "/home?x=1");
    assert_eq!(config.login.after_logout, "https://www.example.com/bye");
    assert_eq!(config.login.allowed_return_origins, ["https://www.example.com"]);
    let corp = &config.providers[0];
    assert_eq!(corp.timeout, Duration::from_millis(2500));
    assert_eq!(corp.client_secret.as_ref().unwrap().expose_secret(), CANARY);
    assert!(corp.scopes.is_empty());
    assert!(matches!(&corp.kind, Kind::OAuth2 { subject: Some(subject), .. } if subject == "user.id"));
    assert_eq!(config.upstreams[0].name, "zebra", "in file order");
    assert_eq!(
        config.upstreams[0].servers.iter().map(|server| server.address.clone()).collect::<Vec<_>>(),
        [
            ServerAddress::Tcp { tls: false, host: "a.example".to_owned(), port: 80 },
            ServerAddress::Tcp { tls: true, host: "::1".to_owned(), port: 444 },
            ServerAddress::Unix("/run/app.sock".into()),
            ServerAddress::Demo,
        ]
    );
    assert_eq!(config.upstreams[0].unauthorized.location_prefix.as_deref(), Some("/signin"));
    let zebra = &config.upstreams[0];
    assert_eq!(zebra.servers.iter().map(|server| server.weight).collect::<Vec<_>>(), [1, 3, 1, 1]);
    assert_eq!((zebra.balance, zebra.retries), (Balance::Sticky, 2));
    assert_eq!(zebra.slow_start, Duration::from_secs(30));
    assert_eq!(
        zebra.limits,
        limits::Settings {
            max_connections: Some(100),
            max_requests: Some(1000),
            max_pending: 50,
            pending_timeout: Duration::from_secs(2),
        }
    );
    let checks = zebra.checks.as_ref().unwrap();
    assert_eq!((checks.path.to_string(), &checks.status[1]), ("/healthz?full".to_owned(), &StatusCode::NO_CONTENT));
    assert_eq!((checks.interval, checks.timeout), (Duration::from_secs(5), Duration::from_secs(1)));
    assert_eq!((checks.healthy, checks.unhealthy), (1, 4));
    assert_eq!((zebra.ejection.failures, zebra.ejection.pause, zebra.ejection.most), (3, Duration::from_secs(60), 25));
    assert_eq!(zebra.ejection.status, [StatusCode::BAD_GATEWAY, StatusCode::SERVICE_UNAVAILABLE]);
    let breaker = zebra.breaker.as_ref().unwrap();
    assert_eq!((breaker.answers, breaker.failures, breaker.pause), (50, 80, Duration::from_secs(10)));
    assert_eq!(breaker.status, [StatusCode::SERVICE_UNAVAILABLE]);
    let api = &config.routes[0];
    assert_eq!(api.pattern.methods.as_deref(), Some(&[Method::GET, Method::PUT][..]));
    assert!(matches!(&api.attach, Attach::Bearer { header, scheme } if header == "x-auth" && scheme.is_empty()));
    assert_eq!(api.on_401, Some(On401::Refresh));
    assert_eq!(api.provider.as_deref(), Some("corp"));
    assert_eq!((api.strip_prefix.as_deref(), api.replace_prefix.as_deref()), (Some("/api"), Some("/")));
    assert_eq!(api.request_headers.remove, ["cookie"]);
    assert_eq!(api.response_headers.set[0].1, "DENY");
    assert_eq!((api.max_body, api.response_timeout), (Some(1 << 20), Some(Duration::from_secs(300))));
    let admin = &config.routes[1];
    let claim = |path: &str, any_of: &[&str]| Requirement::Claim {
        path: path.to_owned(),
        any_of: any_of.iter().map(|text| (*text).to_owned()).collect(),
    };
    assert_eq!(
        admin.require,
        [
            claim("groups", &["admin"]),
            Requirement::Scope(vec!["x".to_owned(), "y".to_owned()]),
            Requirement::EmailDomain(vec!["corp.com".to_owned()]),
            claim("role", &["admin"]),
            claim("a.b", &["c"]),
        ]
    );
    assert_eq!(admin.identity[1].1, "address.country");
    let cors = admin.cors.as_ref().unwrap();
    assert_eq!(cors.allow_origins, ["https://app.example.com"]);
    assert_eq!((cors.allow_headers[0].as_str(), cors.max_age), ("content-type", Some(Duration::from_secs(3600))));
    assert!(config.warnings.is_empty(), "{}", config.warnings);
}

#[test]
fn the_default_file_needs_nothing_else() {
    let config = Config::load(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/gateway.toml"))).unwrap();
    assert!(config.warnings.is_empty(), "{}", config.warnings);
    let Kind::Mock(mock) = &config.providers[0].kind else { panic!("{config:?}") };
    assert_eq!(mock.users.len(), 3);
    assert_eq!(mock.issuer, "http://localhost:8080/mock");
    assert_eq!(config.upstreams[0].servers[0].address, ServerAddress::Demo);
    let defaults = parse(REST).unwrap();
    assert_eq!(config.server.listen, defaults.server.listen, "what the file shows is the default");
    assert_eq!(config.login.prefix, defaults.login.prefix);
    assert_eq!(
        config.routes_table(),
        "\
METHODS  HOST  PATH        AUTH      ATTACH  ON 401   UPSTREAM
*        *     /api/*      true      bearer  refresh  demo
*        *     /private/*  true      bearer  refresh  demo
*        *     /open/*     false     never   login    demo
*        *     /*          optional  bearer  login    demo
"
    );
}
