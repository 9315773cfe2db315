//! `[[routes]]`: each by itself, then all of them together.

use super::attach::{attach, bearer};
use super::clients::{Named, SESSION};
use super::headers::{REQUEST, RESPONSE, Use, check_credential_header, header_edits, identity, own};
use super::providers::{Known, scope};
use super::raw::{Field, Table, did_you_mean, quoted};
use super::report::Problem;
use super::values::{duration, header_name, method, origin, path_prefix, positive_duration, size};
use crate::endpoints::{self, JWKS_PATH};
use crate::gateway::{Accept, Attach, Cors, LoginAnswer, RouteSettings, Xsrf};
use crate::policy::require::Requirement;
use crate::policy::route::{HostPattern, PathPattern, RoutePattern, RouteTable};
use crate::policy::{Auth, On401, csrf};
use crate::session::{cookie, own_token};
use http::header::AUTHORIZATION;
use http::{HeaderName, Method};
use std::ops::Range;
use toml::de::DeValue;
use url::Host;

/// What the rest of the file says about routes.
pub(super) struct Context<'a> {
    /// `[defaults] auth`
    pub(super) auth: Auth,
    pub(super) login: &'a endpoints::Settings,
    pub(super) tokens: &'a own_token::Settings,
    /// Every `[upstreams.*]`, wrong ones included.
    pub(super) upstreams: &'a [String],
    pub(super) providers: &'a Known,
    /// Every `[bearer.*]` and `[api_keys.*]`, wrong ones included.
    pub(super) clients: &'a [Named],
    pub(super) case_insensitive_paths: bool,
    /// Whether browsers see https.
    pub(super) https: bool,
}

/// `auth`: `true`, `false` or a word.
pub(super) fn auth(field: &Field) -> Option<Auth> {
    const WORDS: &[(&str, Auth)] = &[
        ("optional", Auth::Optional),
        ("auto", Auth::Optional),
        ("public", Auth::Public),
        ("skip", Auth::Public),
        ("guest", Auth::Guest),
        ("required", Auth::Required),
        ("protected", Auth::Required),
    ];
    const SPELLINGS: &str =
        r#"one of true, false, "optional", "auto", "public", "skip", "guest", "required", "protected""#;
    match field.value() {
        DeValue::Boolean(true) => Some(Auth::Required),
        DeValue::Boolean(false) => Some(Auth::Anonymous),
        DeValue::String(text) => match WORDS.iter().find(|(word, _)| word == text) {
            Some((_, auth)) => Some(*auth),
            None => {
                let words: Vec<&str> = WORDS.iter().map(|(word, _)| *word).collect();
                let help = did_you_mean(text, &words).map(|help| format!("{help} {SPELLINGS}"));
                field.refuse("has a value that is not known", help.unwrap_or_else(|| SPELLINGS.to_owned()))
            }
        },
        _ => field.refuse_type(SPELLINGS),
    }
}

/// All routes without a problem of their own, in file order.
pub(super) fn read(document: &Table, context: &Context) -> Vec<RouteSettings> {
    let tables: Vec<Field> = match document.field("routes") {
        Some(field) if field.value().is_array() => field.items().collect(),
        Some(field) => {
            field.refuse_type::<()>("a list of tables: write `[[routes]]` above each");
            return Vec::new();
        }
        None => Vec::new(),
    };
    if tables.is_empty() {
        let message = "there are no routes: every request would be a 404";
        let help = "add a `[[routes]]` table with `path = \"/*\"`";
        document.check().report(Problem::error(document.span(), message).help(help));
    }
    let mut needs_provider = None;
    let mut needs_upstream = None;
    let mut routes = Vec::new();
    for table in &tables {
        let Some(Some(route)) = table.table(|table| route(table, context)) else {
            continue;
        };
        if matches!(route.settings.auth, Auth::Required | Auth::Optional | Auth::Guest)
            && route.settings.takes_sessions()
        {
            needs_provider.get_or_insert(route.span.clone());
        }
        needs_upstream.get_or_insert(route.span.clone());
        routes.push(route);
    }
    if let (Some(span), []) = (needs_provider, context.providers.names.as_slice()) {
        let message = "this route asks for a session, and there is no provider to sign in with";
        let help = "add a `[providers.NAME]` table, or set `auth` to `false` or \"public\"";
        document.check().report(Problem::error(span, message).help(help));
    }
    if let (Some(span), []) = (needs_upstream, context.upstreams) {
        let message = "there is no upstream to forward to";
        let help = "add `[upstreams.app]` with `url = \"http://127.0.0.1:3000\"`";
        document.check().report(Problem::error(span, message).help(help));
    }
    check_together(document, &routes, context);
    if routes.len() == tables.len() {
        check_all_accepted(document, &routes, context);
    }
    routes.into_iter().map(|route| route.settings).collect()
}

/// The text of `latchgate routes`: one line a route, aligned.
pub(super) fn overview(routes: &[RouteSettings]) -> String {
    let heading = ["METHODS", "HOST", "PATH", "AUTH", "ATTACH", "ON 401", "UPSTREAM"].map(str::to_owned);
    let lines: Vec<[String; 7]> = std::iter::once(heading).chain(routes.iter().map(columns)).collect();
    let widths: [usize; 7] =
        std::array::from_fn(|at| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for line in &lines {
        let cells: Vec<String> = line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
    }
    text
}

/// A checked route and where its path stands.
struct Route {
    settings: RouteSettings,
    span: Range<usize>,
}

fn route(table: &Table, context: &Context) -> Option<Route> {
    table.unavailable(&["audience", "scope"]);

    let path = table.require("path", r#""/*""#, path);
    if let Some(path) = &path {
        check_path(table, path, context);
    }
    let host = table.read("host", host);
    let methods = table.read("methods", |field| field.nonempty_list(method));

    let auth = match table.field("auth") {
        Some(field) => auth(&field),
        None => Some(context.auth),
    };
    let attach = table.read("attach", |field| attach(field, context.tokens, context.providers));
    let on_401 = table.read("on_401", on_401);
    let accept = match table.field("accept") {
        Some(field) => accept(&field, context),
        None => Some(vec![Accept::Session]),
    };
    let identity = table.read("identity", |field| field.table(identity)).unwrap_or_default();
    let require = table.read("require", |field| field.table(requirements)).unwrap_or_default();
    if let Some(auth) = auth {
        check_session_use(table, auth, attach.as_ref(), on_401);
        check_clients_use(table, auth, attach.as_ref(), on_401, accept.as_deref().unwrap_or(&[Accept::Session]));
    }

    let strip_prefix = table.read("strip_prefix", path_prefix);
    if let (Some(path), Some(prefix)) = (&path, &strip_prefix)
        && !is_below(&path.to_string(), prefix, context.case_insensitive_paths)
    {
        let message = format!("`routes.strip_prefix` is not how `{path}` begins");
        table.refuse("strip_prefix", message, "it is taken off at whole segments");
    }
    let request_headers = table.table("request_headers", |table| header_edits(table, REQUEST));
    let takes_sessions = accept.as_ref().is_none_or(|accept| accept.contains(&Accept::Session));
    let attach = match (attach, auth) {
        (Some(attach), _) => attach,
        (None, _) if !takes_sessions => Attach::Never,
        (None, Some(Auth::Required | Auth::Optional) | None) => bearer(),
        (None, Some(Auth::Anonymous | Auth::Public | Auth::Guest)) => Attach::Never,
    };
    check_credential_header(table, &attach, &identity, &request_headers);

    let upstream = upstream(table, context);
    let provider = table.read("provider", |field| reference(field, "provider", &context.providers.names));
    let capture = table.read("capture", Field::boolean).unwrap_or(false);
    if capture {
        check_capture(table, auth, methods.as_deref(), provider.as_deref(), context);
    }
    // A wrong password is no end of a session.
    let on_401 = on_401.or(capture.then_some(On401::Relay));
    let login = table.read("login", login_answer).unwrap_or(LoginAnswer::Auto);
    let cors = table.read("cors", |field| field.table(cors)?);
    let xsrf = table.read("xsrf", |field| xsrf(field, context.https)).flatten();
    let replace_prefix = table.read("replace_prefix", replace_prefix);
    let response_headers = table.table("response_headers", |table| header_edits(table, RESPONSE));
    let max_body = table.read("max_body", size);
    let response_timeout = table.read("response_timeout", positive_duration);
    let allow_encoded_slash = table.read("allow_encoded_slash", Field::boolean).unwrap_or(false);

    // every key has been read by now: what returns early from here on hides no problem
    let settings = RouteSettings {
        pattern: RoutePattern { host: host.unwrap_or(HostPattern::Any), path: path?, methods },
        auth: auth?,
        on_401,
        attach,
        upstream: upstream?,
        provider,
        capture,
        login,
        identity,
        accept: accept?,
        require,
        cors,
        xsrf,
        strip_prefix,
        replace_prefix,
        request_headers,
        response_headers,
        max_body,
        response_timeout,
        allow_encoded_slash,
    };
    Some(Route { settings, span: table.span_of("path") })
}

/// Every route is fine by itself; two of them may still not go together.
fn check_together(document: &Table, routes: &[Route], context: &Context) {
    let patterns: Vec<RoutePattern> = routes.iter().map(|route| route.settings.pattern.clone()).collect();
    match RouteTable::compile(&patterns, context.case_insensitive_paths) {
        Err(conflicts) => {
            for conflict in conflicts {
                let message = "this route has the host, the path and the methods of another";
                document.check().report(
                    Problem::error(routes[conflict.second].span.clone(), message)
                        .related(routes[conflict.first].span.clone(), "set here first")
                        .help("take one of them out, or tell them apart by `host`, `path` or `methods`"),
                );
            }
        }
        Ok(table) => {
            for (route, winner) in table.unreachable() {
                document.check().report(
                    Problem::warning(routes[route].span.clone(), "this route can never match")
                        .related(routes[winner].span.clone(), "this one takes all its requests")
                        .help("move it up, or take it out"),
                );
            }
        }
    }
}

fn check_path(table: &Table, path: &PathPattern, context: &Context) {
    let path = path.to_string();
    let prefix = &context.login.prefix;
    if is_below(&path, prefix, context.case_insensitive_paths) {
        let message = format!("`{path}` is inside `login.prefix` (`{prefix}`), where the gateway answers itself");
        table.refuse(
            "path",
            message,
            r#"choose another path, or set `login.prefix` to something else, as in "/_auth""#,
        );
    }
    if context.providers.mock && is_below(&path, "/mock", context.case_insensitive_paths) {
        let message = format!("`{path}` is inside `/mock`, where the mock provider answers");
        table.refuse("path", message, "choose another path");
    }
    if path == JWKS_PATH {
        table.refuse("path", format!("`{path}` is where the gateway publishes its keys"), "choose another path");
    }
    if path == context.login.user_path {
        let message = format!("`{path}` is `login.user_path`, where the gateway answers itself");
        table.warn("path", message, "choose another `login.user_path`, or take this route out");
    }
}

/// What a route says about sessions must fit its `auth`: nothing is silently ignored.
fn check_session_use(table: &Table, auth: Auth, attach: Option<&Attach>, on_401: Option<On401>) {
    let has_token = matches!(auth, Auth::Required | Auth::Optional);
    if attach.is_some_and(Attach::needs_session) && !has_token {
        table.refuse(
            "attach",
            "`routes.attach` needs a session, and this `auth` never uses one",
            "set `auth` to `true` or \"optional\", or attach a credential of the gateway's own",
        );
    }
    let is_machine = matches!(attach, Some(Attach::ClientCredentials(_)));
    if is_machine && on_401 == Some(On401::Login) {
        table.refuse(
            "on_401",
            "`routes.on_401` cannot be \"login\": the upstream refuses the gateway's token, and not the user's",
            "\"refresh\" or \"relay\"",
        );
    }
    if on_401 == Some(On401::Refresh) && !has_token && !is_machine {
        table.refuse(
            "on_401",
            "`routes.on_401` cannot be \"refresh\": this `auth` never uses a token",
            "set `auth` to `true` or \"optional\"",
        );
    }
    if table.has("require") && auth != Auth::Required {
        table.refuse(
            "require",
            "`routes.require` needs `auth = true`: without it, who is not signed in passes",
            "set `auth = true`",
        );
    }
    if table.has("identity") && !has_token {
        table.warn(
            "identity",
            "`routes.identity` has no effect: this `auth` never looks at a session",
            "set `auth` to `true` or \"optional\"",
        );
    }
}

/// The same for clients with a credential of their own.
fn check_clients_use(table: &Table, auth: Auth, attach: Option<&Attach>, on_401: Option<On401>, accept: &[Accept]) {
    let takes_sessions = accept.contains(&Accept::Session);
    if matches!(auth, Auth::Anonymous | Auth::Public | Auth::Guest) {
        if accept != [Accept::Session] {
            table.warn(
                "accept",
                "`routes.accept` decides nothing: this `auth` lets everybody in",
                "set `auth` to `true` or \"optional\"",
            );
        }
    } else if !takes_sessions && attach.is_some_and(Attach::needs_session) {
        table.refuse(
            "attach",
            "`routes.attach` needs a session, and `accept` has none",
            "add \"session\" to `accept`; a client's own `Authorization` goes through as it is",
        );
    }
    if !takes_sessions && matches!(on_401, Some(On401::Refresh | On401::Login)) {
        table.refuse(
            "on_401",
            "`routes.on_401` needs a session, and `accept` has none",
            "add \"session\" to `accept`, or take `on_401` out: a 401 is relayed",
        );
    }
}

/// A route that captures logins has somebody to capture them for, and lets people in who have no session yet.
fn check_capture(
    table: &Table,
    auth: Option<Auth>,
    methods: Option<&[Method]>,
    provider: Option<&str>,
    context: &Context,
) {
    let Known { names, backends, .. } = context.providers;
    match (provider, names.as_slice()) {
        (Some(name), _) if names.iter().any(|known| known == name) && !backends.iter().any(|known| known == name) => {
            let message = format!("`routes.capture` needs a provider of kind \"backend\", and `{name}` is none");
            table.refuse("provider", message, "name the provider whose login this is");
        }
        (None, [only]) if backends.contains(only) => {}
        // The provider that is missing, or that does not exist, is reported where it is named.
        (Some(_), _) => {}
        (None, _) => table.refuse(
            "capture",
            "`routes.capture` needs a `provider` of kind \"backend\"",
            "add `provider = …`: the backend whose login this is",
        ),
    }
    if auth == Some(Auth::Required) {
        table.refuse(
            "capture",
            "`routes.capture` cannot go with `auth = true`: who signs in here has no session yet",
            "set `auth = \"public\"`",
        );
    }
    if methods.is_some_and(|methods| methods.iter().all(csrf::is_safe)) {
        table.refuse(
            "methods",
            "`routes.capture` needs the method of the login among `routes.methods`",
            "add \"POST\"",
        );
    }
}

/// A client that no route lets in is most likely a mistake.
fn check_all_accepted(document: &Table, routes: &[Route], context: &Context) {
    for Named { name, span } in context.clients {
        let accepts_it = |route: &Route| route.settings.accept.contains(&Accept::Client(name.clone()));
        if !routes.iter().any(accepts_it) {
            let help = format!("add `accept = [\"session\", \"{name}\"]` to a route");
            let message = format!("no route accepts `{name}`");
            document.check().report(Problem::warning(span.clone(), message).help(help));
        }
    }
}

fn path(field: &Field) -> Option<PathPattern> {
    match PathPattern::parse(field.string()?) {
        Ok(path) => Some(path),
        Err(problem) => field.refuse(
            format!("is not a path: {problem}"),
            r#""/a" is exact, "/a/*" is all below it, "{id}" is one segment"#,
        ),
    }
}

fn host(field: &Field) -> Option<HostPattern> {
    match HostPattern::parse(field.string()?) {
        Ok(host) => Some(host),
        Err(problem) => field.refuse(
            format!("is not a host: {problem}"),
            r#"a name without port, as in "app.example.com" or "*.example.com""#,
        ),
    }
}

/// The named upstream, or the only one.
fn upstream(table: &Table, context: &Context) -> Option<String> {
    if let Some(field) = table.field("upstream") {
        return reference(&field, "upstream", context.upstreams);
    }
    match context.upstreams {
        [only] => Some(only.clone()),
        // reported once, for all routes
        [] => Some(String::new()),
        several => {
            let help = format!("add `upstream = …`: one of {}", quoted(several, ", "));
            table.refuse("upstream", "`routes.upstream` is missing, and there are several upstreams", &help);
            None
        }
    }
}

/// The name of a table that must exist.
pub(super) fn reference(field: &Field, kind: &str, names: &[String]) -> Option<String> {
    let name = field.string()?;
    if names.iter().any(|known| known == name) {
        return Some(name.to_owned());
    }
    let help = did_you_mean(name, names).unwrap_or_else(|| match names {
        [] => format!("add a `[{kind}s.{name}]` table"),
        names => format!("one of {}", quoted(names, ", ")),
    });
    field.refuse(format!("names the {kind} `{name}`, which does not exist"), help)
}

fn accept(field: &Field, context: &Context) -> Option<Vec<Accept>> {
    let mut accepted: Vec<Accept> = Vec::new();
    field.nonempty_list(|item| {
        let accept = match item.string()? {
            SESSION => Accept::Session,
            name if context.clients.iter().any(|named| named.name == name) => Accept::Client(name.to_owned()),
            name => {
                let names: Vec<&str> =
                    std::iter::once(SESSION).chain(context.clients.iter().map(|named| named.name.as_str())).collect();
                let help = did_you_mean(name, &names)
                    .unwrap_or_else(|| format!("add a `[bearer.{name}]` or an `[api_keys.{name}]` table"));
                return item.refuse(format!("names `{name}`, which does not exist"), help);
            }
        };
        if accepted.contains(&accept) {
            return item.refuse("names something twice", "take one of them out");
        }
        accepted.push(accept.clone());
        Some(accept)
    })
}

fn on_401(field: &Field) -> Option<On401> {
    field.choice(&[("refresh", On401::Refresh), ("login", On401::Login), ("relay", On401::Relay)], &[])
}

fn login_answer(field: &Field) -> Option<LoginAnswer> {
    let words = [("auto", LoginAnswer::Auto), ("redirect", LoginAnswer::Redirect), ("status", LoginAnswer::Status)];
    field.choice(&words, &[])
}

fn replace_prefix(field: &Field) -> Option<String> {
    match field.string()? {
        "/" => Some("/".to_owned()),
        _ => path_prefix(field),
    }
}

fn requirements(table: &Table) -> Vec<Requirement> {
    table.unavailable(&["acr"]);
    let words = |field: &Field| field.one_or_more(|item| Some(item.string()?.to_owned()));
    let claim = |path: &str, any_of| Requirement::Claim { path: path.to_owned(), any_of };
    let mut requirements = Vec::new();
    requirements.extend(table.read("groups", words).map(|any_of| claim("groups", any_of)));
    let scopes = table.read("scope", |field| field.one_or_more(scope));
    requirements.extend(scopes.map(Requirement::Scope));
    let domains = table.read("email_domain", |field| field.one_or_more(email_domain));
    requirements.extend(domains.map(Requirement::EmailDomain));
    table.table("claims", |claims| {
        for field in claims.all() {
            requirements.extend(words(&field).map(|any_of| claim(field.key(), any_of)));
        }
    });
    if table.is_empty() {
        table.refuse("groups", "`routes.require` is empty", "say what is required, or take it out");
    }
    requirements
}

/// `[impersonation]`: `require` as on a route, where every other key is the claim of that name.
pub(super) fn impersonators(table: &Table) -> Option<Vec<Requirement>> {
    table.require("require", r#"{ role = ["admin"] }"#, |field| {
        field.table(|table| {
            if table.is_empty() {
                let help = "say who may act as others, or take `[impersonation]` out";
                table.refuse("role", "`impersonation.require` is empty", help);
                return Vec::new();
            }
            let mut required = requirements(table);
            let words = |field: &Field| field.one_or_more(|item| Some(item.string()?.to_owned()));
            for field in table.all().filter(|field| !REQUIREMENTS.contains(&field.key())) {
                let claim = |any_of| Requirement::Claim { path: field.key().to_owned(), any_of };
                required.extend(words(&field).map(claim));
            }
            required
        })
    })
}

/// What `require` knows by name.
const REQUIREMENTS: [&str; 5] = ["acr", "claims", "email_domain", "groups", "scope"];

fn email_domain(field: &Field) -> Option<String> {
    let text = field.string()?;
    match Host::parse(text) {
        Ok(Host::Domain(domain)) if !text.contains(['%', '*']) && !text.ends_with('.') => Some(domain),
        _ => field.refuse("is not a domain", r#"what stands behind the `@`, as in "corp.com""#),
    }
}

fn cors(table: &Table) -> Option<Cors> {
    let allow_origins =
        table.require("allow_origins", r#"["https://app.example.com"]"#, |field| field.nonempty_list(cors_origin));
    let allow_credentials = table.read("allow_credentials", Field::boolean).unwrap_or(false);
    let allow_methods = table
        .read("allow_methods", |field| field.nonempty_list(method))
        .unwrap_or_else(|| vec![Method::GET, Method::HEAD, Method::POST]);
    let allow_headers = table.read("allow_headers", |field| field.list(header_name)).unwrap_or_default();
    let expose_headers = table.read("expose_headers", |field| field.list(header_name)).unwrap_or_default();
    let max_age = table.read("max_age", duration);
    let allow_origins = allow_origins?;
    if allow_origins.iter().any(|origin| origin == "*") {
        if allow_credentials {
            table.refuse(
                "allow_credentials",
                "`routes.cors.allow_credentials` cannot go with `*`: every site could act for your users",
                "name the origins in `allow_origins`",
            );
        }
        if allow_origins.len() > 1 {
            table.refuse("allow_origins", "`routes.cors.allow_origins` has `*` beside others", "`*` stands alone");
        }
    }
    Some(Cors { allow_origins, allow_credentials, allow_methods, allow_headers, expose_headers, max_age })
}

/// `true` for the names that axios and Angular use, or a table with others.
fn xsrf(field: &Field, https: bool) -> Option<Option<Xsrf>> {
    let defaults = || Xsrf { cookie: "XSRF-TOKEN".to_owned(), header: HeaderName::from_static("x-xsrf-token") };
    match field.value() {
        DeValue::Boolean(wanted) => Some(wanted.then(defaults)),
        DeValue::Table(_) => field.table(|table| {
            let cookie = table.read("cookie", |field| xsrf_cookie(field, https));
            let header = table
                .read("header", |field| header_name(field).and_then(|name| own(field, name, Use::ReadFromRequest)));
            Some(Some(Xsrf {
                cookie: cookie.unwrap_or(defaults().cookie),
                header: header.unwrap_or(defaults().header),
            }))
        })?,
        _ => field.refuse_type("true, false, or a table with `cookie` and `header`"),
    }
}

/// The name of a cookie (RFC 6265 §4.1.1) that browsers take and that is not ours.
fn xsrf_cookie(field: &Field, https: bool) -> Option<String> {
    let name = field.string()?;
    let is_token = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte));
    if !is_token {
        return field.refuse("is not the name of a cookie", r#"letters, digits, `-` and `_`, as in "XSRF-TOKEN""#);
    }
    if cookie::is_ours(name.as_bytes()) {
        return field.refuse("is the name of a cookie of the gateway's own", "another name");
    }
    let lower = name.to_ascii_lowercase();
    if !https && (lower.starts_with("__host-") || lower.starts_with("__secure-")) {
        return field
            .refuse("has a prefix that browsers take on https only", "a name without `__Host-` or `__Secure-`");
    }
    Some(name.to_owned())
}

fn cors_origin(field: &Field) -> Option<String> {
    match field.string()? {
        "*" => Some("*".to_owned()),
        _ => Some(origin(field)?.origin().ascii_serialization()),
    }
}

fn is_below(path: &str, prefix: &str, ignore_case: bool) -> bool {
    if ignore_case {
        return is_below(&path.to_lowercase(), &prefix.to_lowercase(), false);
    }
    path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

fn columns(route: &RouteSettings) -> [String; 7] {
    let methods = match &route.pattern.methods {
        None => "*".to_owned(),
        Some(methods) => methods.iter().map(Method::as_str).collect::<Vec<_>>().join(","),
    };
    let auth = match route.auth {
        Auth::Required => "true",
        Auth::Optional => "optional",
        Auth::Anonymous => "false",
        Auth::Public => "public",
        Auth::Guest => "guest",
    };
    let attach = match &route.attach {
        Attach::Bearer { header, .. } if *header == AUTHORIZATION => "bearer".to_owned(),
        Attach::Bearer { header, .. } => format!("bearer in {header}"),
        Attach::IdToken => "id_token".to_owned(),
        Attach::Assertion(assertion) => format!("assertion for {}", assertion.audience),
        Attach::Basic(_) => "basic".to_owned(),
        Attach::ClientCredentials(which) => format!("client_credentials of {}", which.provider),
        Attach::ApiKeyHeader(header, _) => format!("api_key in {header}"),
        Attach::ApiKeyQuery(name, _) => format!("api_key in ?{name}"),
        Attach::Never => "never".to_owned(),
    };
    let on_401 = match route.on_401() {
        On401::Refresh => "refresh",
        On401::Login => "login",
        On401::Relay => "relay",
    };
    [
        methods,
        route.pattern.host.to_string(),
        route.pattern.path.to_string(),
        auth.to_owned(),
        attach,
        on_401.to_owned(),
        route.upstream.clone(),
    ]
}
