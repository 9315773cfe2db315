//! `gateway.toml`: read, checked, and handed out as everyone's `Settings`.
//!
//! | file | knows |
//! |---|---|
//! | `raw` | the parsed document: where a value stands, which keys nobody asked for |
//! | `values` | one kind of value each: durations, URLs, secrets, headers |
//! | `sections`, `providers`, `clients`, `upstreams`, `routes` | the tables of the file |
//! | `tls` | certificates, which are read to see that they can be used |
//! | `own_tokens` | the gateway's own tokens and assertions |
//! | `presets` | the providers that everybody knows |
//! | `attach`, `headers` | what a route puts into a request |
//! | `report`, `mask` | how a problem is shown, and what is never shown |
//!
//! Nothing is silently ignored: a key is honoured, or refused as unknown, or refused as one that
//! this version does not have yet.

mod attach;
mod backend;
mod clients;
mod headers;
mod mask;
mod own_tokens;
mod presets;
mod providers;
mod raw;
mod report;
mod routes;
mod sections;
#[cfg(test)]
mod tests;
mod tls;
mod upstreams;
mod values;

pub use report::{Problem, Report, Severity};

use crate::policy::Auth;
use crate::{endpoints, gateway, provider, server, session, telemetry, tokens, upstream};
use raw::{Check, Table};
use routes::Context;
use std::path::Path;
use toml::de::DeTable;

/// The whole file, checked: what is here can be started.
#[derive(Debug, Clone)]
pub struct Config {
    /// `[server]`
    pub server: server::Settings,
    /// `[limits]`
    pub limits: gateway::Limits,
    /// `[session]`
    pub session: session::Settings,
    /// `[login]`
    pub login: endpoints::Settings,
    /// `[refresh]`
    pub refresh: tokens::Settings,
    /// `[tokens]`
    pub tokens: session::own_token::Settings,
    /// `tokens.aliases`, and what `[refresh]` says of refresh tokens that are ours
    pub code_flow: endpoints::code_flow::Settings,
    /// `[impersonation]`
    pub impersonators: endpoints::impersonation::Impersonators,
    /// `[telemetry]`
    pub telemetry: telemetry::Settings,
    /// `[providers.*]`, in file order
    pub providers: Vec<provider::Settings>,
    /// `[bearer.*]` and `[api_keys.*]`
    pub clients: crate::clients::Settings,
    /// `[upstreams.*]`, in file order
    pub upstreams: Vec<upstream::Settings>,
    /// `[[routes]]`, in file order
    pub routes: Vec<gateway::RouteSettings>,
    /// What `check` tells although the gateway starts.
    pub warnings: Report,
}

impl Config {
    /// Reads the file at `path`; `{ env = "NAME" }` is taken from the environment of the process.
    ///
    /// # Errors
    /// Every problem of the file, or the one that it cannot be read.
    pub fn load(path: &Path) -> Result<Config, Report> {
        let file_name = path.display().to_string();
        let source = std::fs::read_to_string(path).map_err(|error| {
            let problem = Problem::of_file(format!("`{file_name}` cannot be read: {error}"));
            Report::new(&file_name, String::new(), vec![problem.help("`--config` names another file")])
        })?;
        Config::parse(&source, &file_name, &|variable| std::env::var(variable).ok())
    }

    /// Checks `source`. `file_name` is what reports call it; `env` answers `{ env = "NAME" }`.
    /// Files that secrets are read from are relative to the directory of the process.
    ///
    /// # Errors
    /// Every problem of the file.
    pub fn parse(source: &str, file_name: &str, env: &dyn Fn(&str) -> Option<String>) -> Result<Config, Report> {
        let (document, syntax_errors) = DeTable::parse_recoverable(source);
        if !syntax_errors.is_empty() {
            let problems = syntax_problems(source, &syntax_errors);
            return Err(Report::new(file_name, mask::mask_unparsed(source), problems));
        }
        let document = document.get_ref();
        let check = Check::new(env);
        let config = Table::read_document(document, source.len(), &check, Config::read);
        let (problems, hidden) = check.into_findings();
        let report = Report::new(file_name, mask::mask(source, document, &hidden), problems);
        if report.problems().iter().any(|problem| problem.severity() == Severity::Error) {
            return Err(report);
        }
        Ok(Config { warnings: report, ..config })
    }

    /// The text of `latchgate routes`: what each route does, in file order, in aligned columns.
    #[must_use]
    pub fn routes_table(&self) -> String {
        routes::overview(&self.routes)
    }

    /// Defaults stand in for whatever has a problem: the result counts only if there is none.
    fn read(document: &Table) -> Config {
        let server = document.table("server", sections::server);
        let auth = document.table("defaults", |table| table.read("auth", routes::auth)).unwrap_or(Auth::Required);
        let session = document.table("session", sections::session);
        let login = document.table("login", |table| sections::login(table, &session.store));
        let (refresh, rotation) =
            document.table("refresh", |table| (sections::refresh(table), sections::rotation(table)));
        let impersonators = document.read("impersonation", |field| field.table(routes::impersonators)).flatten();
        let limits = document.table("limits", |table| sections::limits(table, &session.store));
        let (tokens, aliases) = document.table("tokens", |table| {
            (own_tokens::read(table, &session.store, &server.external_url), own_tokens::aliases(table))
        });
        let code_flow = endpoints::code_flow::Settings { aliases, rotation, grace: refresh.grace };
        let telemetry = document.table("telemetry", sections::telemetry);
        let (providers, known_providers) =
            document.table("providers", |table| providers::read(table, &server.external_url, refresh.timeout));
        let (clients, client_names) = clients::read(document);
        let (upstreams, upstream_names) = document.table("upstreams", upstreams::read);
        let context = Context {
            auth,
            login: &login,
            tokens: &tokens,
            upstreams: &upstream_names,
            providers: &known_providers,
            clients: &client_names,
            case_insensitive_paths: server.case_insensitive_paths,
            https: server.external_url.scheme() == "https",
        };
        let routes = routes::read(document, &context);
        let warnings = Report::default();
        Config {
            server,
            limits,
            session,
            login,
            refresh,
            tokens,
            code_flow,
            impersonators,
            telemetry,
            providers,
            clients,
            upstreams,
            routes,
            warnings,
        }
    }
}

/// One problem a line: after the first, the parser guesses.
fn syntax_problems(source: &str, errors: &[toml::de::Error]) -> Vec<Problem> {
    let mut lines = Vec::new();
    let mut problems = Vec::new();
    for error in errors {
        let span = error.span().unwrap_or(source.len()..source.len());
        let line = source.bytes().take(span.start).filter(|byte| *byte == b'\n').count();
        if !lines.contains(&line) {
            lines.push(line);
            problems.push(Problem::error(span, format!("not valid TOML: {}", error.message())));
        }
    }
    problems
}
