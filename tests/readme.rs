//! What the documents show is true: every block of configuration loads, what is called a default is
//! one, every key is mentioned, every command that is shown with its output prints it, and every
//! file that is linked exists.
#![allow(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]

use latchgate::config::Config;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

#[test]
fn every_configuration_loads() {
    let mut count = 0;
    for (place, text) in examples().into_iter().chain(blocks("toml")) {
        let text = completed(&text);
        match parse(&text) {
            Ok(config) => assert!(config.warnings.is_empty(), "{place}:\n{}", config.warnings),
            Err(report) => panic!("{place}:\n{report}"),
        }
        count += 1;
    }
    assert!(count > 7, "only {count} were found");
}

#[test]
fn examples_are_whole() {
    for (place, text) in examples() {
        assert_eq!(completed(&text), text, "{place} leaves something out");
    }
}

#[test]
fn what_is_called_a_default_is_one() {
    let nothing = format!("{:?}", parse(&completed("")).unwrap());
    let defaults = blocks("toml defaults");
    assert!(defaults.len() > 8, "only {} were found", defaults.len());
    for (place, text) in defaults {
        let config = parse(&completed(&text)).unwrap_or_else(|report| panic!("{place}:\n{report}"));
        assert_eq!(format!("{config:?}"), nothing, "{place}");
    }
}

#[test]
fn what_is_said_to_be_missing_is_refused_as_such() {
    for (place, text) in blocks("toml refused") {
        for line in text.lines() {
            let report = parse(line).map(drop).expect_err(line);
            let is_said = report.problems().iter().any(|it| it.message().contains("is not available in this version"));
            assert!(is_said, "{place}: {line}\n{report}");
        }
    }
}

#[test]
fn every_endpoint_is_in_the_table() {
    let (readme, source) = (read("README.md"), read("src/endpoints/mod.rs"));
    let paths = source.split("format!(\"{prefix}/").skip(1).filter_map(|rest| rest.split('"').next());
    let mut count = 0;
    for path in paths.filter(|path| !path.starts_with(['*', '{'])) {
        assert!(readme.contains(&format!("`/auth/{path}")), "/auth/{path} is not in README.md");
        count += 1;
    }
    assert!(count > 12, "only {count} were found");
}

/// An unknown key makes the parser say which ones it knows.
#[test]
fn every_key_is_mentioned() {
    let page = read("docs/configuration.md");
    let unknown = "an_unknown_key = 1";
    for table in [
        "[server]",
        "[server.tls]",
        "[[server.tls.certificates]]",
        "[defaults]",
        "[session]",
        "[session.file]",
        "[session.redis]",
        "[login]",
        "[login.theme]",
        "[refresh]",
        "[limits]",
        "[tokens]",
        "[impersonation]",
        "[telemetry]",
        "[providers.x]\nkind = \"oidc\"",
        "[providers.x]\nkind = \"oauth2\"",
        "[providers.x]\nkind = \"mock\"",
        "[providers.x]\nkind = \"google\"",
        "[providers.x]\nkind = \"github\"",
        "[providers.x]\nkind = \"auth0\"",
        "[providers.x]\nkind = \"microsoft\"",
        "[providers.x]\nkind = \"gitlab\"",
        "[providers.x]\nkind = \"keycloak\"",
        "[providers.x]\nkind = \"okta\"",
        "[providers.x]\nkind = \"discord\"",
        "[providers.x]\nkind = \"backend\"\nbase_url = \"http://x\"\nlogin = { url = \"/login\" }",
        "[providers.x]\nkind = \"backend\"\nbase_url = \"http://x\"\n[providers.x.login]\nurl = \"/login\"",
        "[providers.x]\nkind = \"backend\"\nbase_url = \"http://x\"\npreset = \"nuxt\"\n[providers.x.login.fields]",
        "[providers.x]\nkind = \"backend\"\nbase_url = \"http://x\"\npreset = \"nuxt\"\n[providers.x.refresh]",
        "[providers.x]\nkind = \"backend\"\nbase_url = \"http://x\"\npreset = \"nuxt\"\n[providers.x.logout]",
        "[providers.x]\nkind = \"backend\"\nbase_url = \"http://x\"\npreset = \"nuxt\"\n[providers.x.user]",
        "[bearer.x]",
        "[bearer.x.introspection]",
        "[api_keys.x]",
        "[[api_keys.x.keys]]",
        "[upstreams.x]",
        "[upstreams.x.tls]",
        "[upstreams.x.unauthorized]",
        "[upstreams.x.health]",
        "[upstreams.x.ejection]",
        "[upstreams.x.breaker]",
        "[[routes]]",
        "[[routes]]\n[routes.cors]",
        "[[routes]]\n[routes.require]",
        "[[routes]]\n[routes.request_headers]",
        "[[routes]]\n[routes.response_headers]",
        "[[routes]]\n[routes.attach.bearer]",
        "[[routes]]\n[routes.attach.assertion]",
        "[[routes]]\n[routes.attach.basic]",
        "[[routes]]\n[routes.attach.api_key]",
        "[[routes]]\n[routes.attach.client_credentials]",
        "[[routes]]\n[routes.xsrf]",
    ] {
        let report = parse(&format!("{table}\n{unknown}\n")).map(drop).unwrap_err().to_string();
        let (_, told) = report.split_once("unknown key `an_unknown_key`").unwrap();
        let (_, known) = told.split_once("known keys: ").unwrap();
        for key in known.lines().next().unwrap().split(", ").map(|key| key.trim_matches('`')) {
            let mut words = page.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
            assert!(words.any(|word| word == key), "`{key}` of {table} is not in docs/configuration.md");
        }
    }
}

#[test]
fn commands_print_what_is_shown() {
    let gateway = Gateway::start();
    let mut count = 0;
    for (place, text) in blocks("console") {
        for session in text.split("$ ").skip(1) {
            let (command, shown) = session.split_once('\n').unwrap_or((session, ""));
            if shown.trim().is_empty() {
                continue;
            }
            let printed = match command.strip_prefix("curl ") {
                Some(arguments) => gateway.curl(arguments),
                None => shell(command),
            };
            assert_eq!(printed.trim(), shown.trim(), "{place}: $ {command}");
            count += 1;
        }
    }
    assert!(count >= 4, "only {count} were found");
}

#[test]
fn links_and_paths_lead_somewhere() {
    for (name, text) in documents() {
        let directory = root().join(&name).parent().unwrap().to_owned();
        let links = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
        for link in links.filter(|link| !link.contains("://") && !link.starts_with('#')) {
            let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
            assert!(directory.join(path).exists(), "{name}: {link}");
            let anchors = fs::read_to_string(directory.join(path)).unwrap_or_default();
            let is_heading = |line: &str| line.starts_with('#') && anchor_of(line) == anchor;
            assert!(anchor.is_empty() || anchors.lines().any(is_heading), "{name}: {link}");
        }
        for path in text.split('`').filter(|word| PLACES.iter().any(|place| word.starts_with(place))) {
            assert!(path.contains(' ') || root().join(path).exists(), "{name}: `{path}`");
        }
    }
}

/// Where paths in documents begin.
const PLACES: [&str; 4] = ["src/", "tests/", "docs/", "examples/"];

fn documents() -> Vec<(String, String)> {
    let of = |directory: &str| {
        let files = fs::read_dir(root().join(directory)).unwrap().map(|entry| entry.unwrap().file_name());
        let names = files.map(|name| format!("{directory}{}", name.to_str().unwrap()));
        names.filter(|name| name.ends_with(".md")).map(|name| (name.clone(), read(&name))).collect::<Vec<_>>()
    };
    [of(""), of("docs/")].concat()
}

fn examples() -> Vec<(String, String)> {
    let files = fs::read_dir(root().join("examples")).unwrap().map(|entry| entry.unwrap().path());
    let configurations = files.filter(|path| path.extension().is_some_and(|it| it == "toml"));
    configurations.map(|path| (path.display().to_string(), fs::read_to_string(path).unwrap())).collect()
}

/// Fenced blocks with this info string, and where they stand.
fn blocks(info: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for (name, text) in documents() {
        let mut lines = text.lines().enumerate();
        while let Some((number, line)) = lines.next() {
            let Some(opened) = line.trim_start().strip_prefix("```") else { continue };
            let indent = line.len() - line.trim_start().len();
            let inside = lines.by_ref().take_while(|(_, line)| line.trim() != "```");
            let body: Vec<&str> = inside.map(|(_, line)| line.get(indent..).unwrap_or_default()).collect();
            if opened == info {
                found.push((format!("{name}:{}", number + 1), body.join("\n") + "\n"));
            }
        }
    }
    found
}

/// A fragment with what it leaves out: a provider, an upstream, a route.
fn completed(text: &str) -> String {
    let begins = |header: &str| text.lines().any(|line| line.starts_with(header));
    let mut whole = text.to_owned();
    if !begins("[providers.") || (text.contains("provider = \"corp\"") && !begins("[providers.corp]")) {
        whole += "[providers.corp]\nkind = \"oidc\"\nissuer = \"https://login.example.com\"\n";
        whole += "client_id = \"app\"\nclient_secret = { env = \"OIDC_SECRET\" }\n";
    }
    if !begins("[upstreams.") {
        whole += "[upstreams.app]\nurl = \"http://127.0.0.1:3000\"\n";
    }
    if !begins("[[routes]]") {
        whole += "[[routes]]\npath = \"/*\"\n";
    }
    whole
}

fn parse(text: &str) -> Result<Config, latchgate::config::Report> {
    let text = text.replace("/etc/latchgate", CERTIFICATES.to_str().unwrap());
    Config::parse(&text, "block.toml", &|variable| Some(format!("{variable}-{}", "x".repeat(32))))
}

/// What documents call `/etc/latchgate`: the certificate of `tls.crt` and `clients.pem` belongs to `tls.key`.
static CERTIFICATES: LazyLock<PathBuf> = LazyLock::new(|| {
    let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join("certificates");
    fs::create_dir_all(&directory).unwrap();
    let key = rcgen::KeyPair::generate().unwrap();
    let params = rcgen::CertificateParams::new(["app.example.com".to_owned()]).unwrap();
    let certificate = params.self_signed(&key).unwrap();
    for file in ["tls.crt", "api.crt", "clients.pem", "internal-ca.pem"] {
        fs::write(directory.join(file), certificate.pem()).unwrap();
    }
    for file in ["tls.key", "api.key"] {
        fs::write(directory.join(file), key.serialize_pem()).unwrap();
    }
    directory
});

/// As GitHub makes one of a heading.
fn anchor_of(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// What a command prints in the repository's root; `latchgate` is the binary under test.
fn shell(command: &str) -> String {
    let binary = PathBuf::from(env!("CARGO_BIN_EXE_latchgate"));
    let path = std::env::var("PATH").unwrap_or_default();
    let output = Command::new("sh")
        .args(["-c", &format!("{{ {command}; }} 2>&1")])
        .env("PATH", format!("{}:{path}", binary.parent().unwrap().display()))
        .current_dir(root())
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// The repository's own `gateway.toml`, on a free port.
struct Gateway {
    process: Child,
    address: SocketAddr,
}

impl Gateway {
    fn start() -> Gateway {
        let file = tempfile::NamedTempFile::new().unwrap();
        let text = read("gateway.toml");
        let moved = text.replace("127.0.0.1:8080", "127.0.0.1:0").replace("127.0.0.1:9901", "127.0.0.1:0");
        fs::write(file.path(), moved).unwrap();
        let mut process = Command::new(env!("CARGO_BIN_EXE_latchgate"))
            .arg("--config")
            .arg(file.path())
            .env("LATCHGATE_LOG", "latchgate=info,latchgate::access=off")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(process.stderr.take().unwrap()).read_line(&mut line).unwrap();
        let listening = line.split_once("listen=[").and_then(|(_, rest)| rest.split(']').next());
        let address = listening.and_then(|text| text.parse().ok()).unwrap_or_else(|| panic!("not up: {line}"));
        Gateway { process, address }
    }

    /// `curl [-H 'Name: value'] http://localhost:8080/path`: the body of the answer.
    fn curl(&self, arguments: &str) -> String {
        let (headers, url) = arguments.rsplit_once(' ').unwrap_or(("", arguments));
        let header = headers.strip_prefix("-H ").unwrap_or("Accept: */*").trim_matches('\'');
        let path = url.trim_matches('\'').strip_prefix("http://localhost:8080").expect(arguments);
        let mut connection = TcpStream::connect(self.address).unwrap();
        connection.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost:8080\r\nConnection: close\r\n{header}\r\n\r\n");
        connection.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        connection.read_to_string(&mut answer).unwrap();
        answer.split_once("\r\n\r\n").unwrap().1.to_owned()
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}
