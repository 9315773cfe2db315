//! Every kind of problem, as the reader of a report sees it.

use super::{Config, Report, Severity};
use crate::gateway::{Attach, Requirement};
use crate::policy::{Auth, On401};
use crate::provider::{ClientAuth, Kind};
use crate::server::Listen;
use crate::upstream::ServerAddress;
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
    for (case, line, message, help) in cases {
        let report = refused(&format!("{case}{REST}"));
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
        ("[limits]\nconnections = 0", 2, "`limits.connections` is out of range", "from 1 to"),
        ("[limits]\nlogin_attempts = -1", 2, "`limits.login_attempts` is out of range", "from 1 to"),
        ("[session]\nmax_sessions = 99999999999999999999", 2, "`session.max_sessions` is out of range", "from 1 to"),
        ("[session]\nmax_sessions_per_user = 0", 2, "out of range", "from 1 to"),
        ("[server]\nworkers = 0", 2, "`server.workers` is out of range", "from 1 to 1024"),
    ]);
}

#[test]
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
        ("[server]\nexternal_url = \"localhost:8080\"", 2, "`server.external_url` is neither http nor https", "a whole URL"),
        ("[server]\nexternal_url = \"example.com\"", 2, "is not a URL: relative URL without a base", "a whole URL"),
        ("[server]\nexternal_url = \"http://localhost/app\"", 2, "`server.external_url` is more than an origin", "scheme, host and port only"),
        ("[server]\nexternal_url = \"http://localhost/?a\"", 2, "is more than an origin", "scheme, host and port only"),
        ("[server]\nexternal_url = \"http://localhost\\\\x\"", 2, "a backslash", "a whole URL"),
    ]);
}

#[test]
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
fn secrets_that_are_not_there() {
    assert_refused(&[
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
fn providers() {
    assert_refused(&[
        ("[providers.p]\nissuer = \"https://i.example\"", 1, "`providers.p.kind` is missing", "add `kind = \"oidc\"`"),
        ("[providers.p]\nkind = \"openid\"", 2, "`providers.p.kind` has a value that is not known", "one of `oidc`, `oauth2`, `mock`"),
        ("[providers.p]\nkind = \"oidcc\"", 2, "has a value that is not known", "did you mean `oidc`?"),
        ("[providers.Corp]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\n", 1, "`Corp` cannot be the name of a provider", "lower-case letters"),
        ("[providers.callback]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\n", 1, "`callback` cannot be the name of a provider: an endpoint", "another name than `login`"),
        ("[providers.\"latchgate.js\"]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\n", 1, "an endpoint is called like that", "another name"),
        ("[providers.mock]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_auth = \"none\"", 1, "`mock` cannot be", "another name"),
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
        ("[upstreams.u]\nurl = \"demo:\"\nunauthorized = { status = [200] }", 3, "`upstreams.u.unauthorized.status` is out of range", "from 400 to 599"),
        ("[upstreams.u]\nurl = \"demo:\"\nunauthorized = { status = [] }", 3, "is empty", "give it a value"),
        ("[upstreams.u]\nurl = \"demo:\"\nunauthorized = { location_prefix = \"signin\" }", 3, "`upstreams.u.unauthorized.location_prefix` is not a path", "one `/`"),
    ]);
}

#[test]
fn routes() {
    assert_refused(&[
        ("[[routes]]\nupstream = \"app\"", 1, "`routes.path` is missing", "add `path = \"/*\"`"),
        ("[[routes]]\nupstream = \"app\"\npath = \"a\"", 3, "`routes.path` is not a path", "\"/a/*\" is all below it"),
        ("[[routes]]\nupstream = \"app\"\npath = \"/auth/login\"", 3, "`/auth/login` is inside `login.prefix` (`/auth`)", "another `login.prefix`"),
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
fn credentials() {
    assert_refused(&[
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = \"beaer\"", 4, "`routes.attach` has a value that is not known", "did you mean `bearer`?"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = true", 4, "`routes.attach` has the wrong type", "\"id_token\""),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = {}", 4, "`routes.attach` does not say one thing", "a table with `bearer`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { bearer = {}, basic = { username = \"u\", password = \"canary-Zu7\" } }", 4, "does not say one thing", "a table with `bearer`"),
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

/// SPEC names all of these; none may be silently ignored.
#[test]
fn what_this_version_does_not_have() {
    assert_refused(&[
        ("[server.tls]\ncertificate = \"c.pem\"", 1, "`server.tls` is not available in this version", "take it out"),
        ("[session]\nstore = \"redis\"", 2, "`store = \"redis\"` is not available in this version", "one of `memory`"),
        ("[session]\nstore = \"file\"", 2, "`store = \"file\"` is not available in this version", "one of `memory`"),
        ("[session]\nstore = \"cookie\"", 2, "`store = \"cookie\"` is not available in this version", "one of `memory`"),
        ("[session.file]\npath = \"x.db\"", 1, "`session.file` is not available in this version", "take it out"),
        ("[session.redis]\nurl = \"redis://:canary-Zu7@h/\"", 1, "`session.redis` is not available in this version", "take it out"),
        ("[login]\nexpose_access_token = true", 2, "`login.expose_access_token` is not available in this version", "take it out"),
        ("[telemetry]\notlp_endpoint = \"http://h\"", 2, "`telemetry.otlp_endpoint` is not available in this version", "take it out"),
        ("[providers.p]\nkind = \"backend\"\nbase_url = \"http://x\"", 2, "`kind = \"backend\"` is not available in this version", "one of `oidc`, `oauth2`, `mock`"),
        ("[providers.p]\nkind = \"google\"\nbase_url = \"http://x\"", 2, "`kind = \"google\"` is not available in this version", "one of `oidc`, `oauth2`, `mock`"),
        ("[providers.p]\nkind = \"github\"\nbase_url = \"http://x\"", 2, "`kind = \"github\"` is not available in this version", "one of `oidc`, `oauth2`, `mock`"),
        ("[providers.p]\nkind = \"auth0\"\nbase_url = \"http://x\"", 2, "`kind = \"auth0\"` is not available in this version", "one of `oidc`, `oauth2`, `mock`"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nclient_auth = \"private_key_jwt\"", 6, "`client_auth = \"private_key_jwt\"` is not available in this version", "`client_secret_basic`"),
        ("[providers.p]\nkind = \"oidc\"\nissuer = \"https://i.example\"\nclient_id = \"c\"\nclient_secret = \"s\"\nclient_auth = \"tls_client_auth\"", 6, "`client_auth = \"tls_client_auth\"` is not available in this version", "`client_secret_basic`"),
        ("[bearer.b]\nissuer = \"https://i.example\"", 1, "`bearer` is not available in this version", "take it out"),
        ("[api_keys.ci]\nheader = \"X\"", 1, "`api_keys` is not available in this version", "take it out"),
        ("[tokens]\nttl = \"1h\"", 1, "`tokens` is not available in this version", "take it out"),
        ("[impersonation]\nrequire = { role = [\"admin\"] }", 1, "`impersonation` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = \"dpop\"", 4, "`attach = \"dpop\"` is not available in this version", "one of `bearer`"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { client_credentials = { provider = \"p\" } }", 4, "`routes.attach.client_credentials` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { exchange = { audience = \"a\" } }", 4, "`routes.attach.exchange` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { connection = \"github\" }", 4, "`routes.attach.connection` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nattach = { assertion = { audience = \"a\" } }", 4, "`routes.attach.assertion` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\naudience = \"a\"", 4, "`routes.audience` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nscope = \"a\"", 4, "`routes.scope` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\naccept = [\"session\", \"ci\"]", 4, "`routes.accept` other than `session` is not available in this version", "leave `accept` out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\ncapture = true", 4, "`routes.capture` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nxsrf = { cookie = \"c\", header = \"h\" }", 4, "`routes.xsrf` is not available in this version", "take it out"),
        ("[[routes]]\npath = \"/a\"\nupstream = \"app\"\nrequire = { acr = [\"mfa\"] }", 4, "`routes.require.acr` is not available in this version", "take it out"),
    ]);
}

