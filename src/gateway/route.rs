//! Routes: what a `[[routes]]` table says, and the same made ready for requests.

use super::accept::{Accept, Acceptance};
use super::headers::OwnedNames;
use crate::clients::Clients;
use crate::endpoints::Endpoint;
use crate::policy::path::NormalPath;
use crate::policy::require::Requirement;
use crate::policy::route::RoutePattern;
use crate::policy::{Auth, On401, csrf};
use crate::provider::Provider;
use crate::provider::backend::Call;
use crate::tokens::{ClientCredentials, assertion};
use crate::upstream::Upstream;
use http::uri::PathAndQuery;
use http::{HeaderName, HeaderValue, Method, header};
use std::sync::Arc;
use std::time::Duration;

/// One `[[routes]]` table, checked.
#[derive(Debug, Clone)]
pub struct RouteSettings {
    /// `host`, `path`, `methods`.
    pub pattern: RoutePattern,
    /// `auth`, else `[defaults] auth`, else `true`.
    pub auth: Auth,
    /// `on_401`, if it is said: see [`RouteSettings::on_401`].
    pub on_401: Option<On401>,
    /// `attach`, default bearer.
    pub attach: Attach,
    /// `upstream`; filled in when there is only one.
    pub upstream: String,
    /// `provider`: the one whose sessions count here, and that a login from here uses; None: any, and the only one or a page to choose.
    pub provider: Option<String>,
    /// `capture`, default false: a login here is the backend's own, and its tokens are taken out of the answer.
    pub capture: bool,
    /// `login`, default auto.
    pub login: LoginAnswer,
    /// `identity`: header ← claim path, in file order.
    pub identity: Vec<(HeaderName, String)>,
    /// `accept`, default `["session"]`; the names exist.
    pub accept: Vec<Accept>,
    /// `require`: what a signed-in user must have. Empty: nothing.
    pub require: Vec<Requirement>,
    /// `cors`.
    pub cors: Option<Cors>,
    /// `xsrf`.
    pub xsrf: Option<Xsrf>,
    /// `strip_prefix = "/api"`: taken off the path before it goes upstream.
    pub strip_prefix: Option<String>,
    /// `replace_prefix = "/v2"`: put in place of `strip_prefix`, or of what the route's path matches literally before `/*`.
    pub replace_prefix: Option<String>,
    /// `request_headers = { set = {..}, remove = [..] }`.
    pub request_headers: HeaderEdits,
    /// `response_headers = { set = {..}, remove = [..] }`.
    pub response_headers: HeaderEdits,
    /// `max_body`; more is 413.
    pub max_body: Option<u64>,
    /// `response_timeout`, else the upstream's.
    pub response_timeout: Option<Duration>,
    /// `allow_encoded_slash`, default false.
    pub allow_encoded_slash: bool,
}

/// `attach`: the credential a route puts in (SPEC §4).
#[derive(Debug, Clone)]
pub enum Attach {
    /// `"bearer"`: the access token as `Authorization: Bearer …`, or another header and scheme. An empty scheme means the bare token.
    Bearer {
        /// Default `Authorization`.
        header: HeaderName,
        /// Default `Bearer`.
        scheme: String,
    },
    /// `"id_token"`: the ID token as bearer.
    IdToken,
    /// `{ assertion = … }`: a short JWT signed by the gateway.
    Assertion(Arc<assertion::Settings>),
    /// `{ basic = … }`: the whole header value, marked sensitive.
    Basic(HeaderValue),
    /// `{ client_credentials = … }`: a token of the gateway's own as bearer.
    ClientCredentials(ClientCredentials),
    /// `{ api_key = { header, value } }`; the value is marked sensitive.
    ApiKeyHeader(HeaderName, HeaderValue),
    /// `{ api_key = { query, value } }`: name and value, still to be percent-encoded.
    ApiKeyQuery(String, secrecy::SecretString),
    /// `"never"`.
    Never,
}

/// `login`: the shape of a LOGIN outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LoginAnswer {
    /// Browsers are redirected, others get a 401.
    Auto,
    /// Always a redirect.
    Redirect,
    /// Always a 401.
    Status,
}

/// `request_headers`, `response_headers`.
#[derive(Debug, Clone, Default)]
pub struct HeaderEdits {
    /// Replaced or added, after `remove`.
    pub set: Vec<(HeaderName, HeaderValue)>,
    /// Taken out.
    pub remove: Vec<HeaderName>,
}

impl HeaderEdits {
    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.remove.is_empty()
    }

    /// Whether `name` is set or removed.
    #[must_use]
    pub fn speak_of(&self, name: &HeaderName) -> bool {
        self.remove.contains(name) || self.set.iter().any(|(set, _)| set == name)
    }
}

/// `cors`.
#[derive(Debug, Clone)]
pub struct Cors {
    /// Serialised origins, or `["*"]` alone.
    pub allow_origins: Vec<String>,
    /// With credentials; an error beside `*`.
    pub allow_credentials: bool,
    /// Default GET, HEAD, POST.
    pub allow_methods: Vec<Method>,
    /// Default none beyond the safelisted.
    pub allow_headers: Vec<HeaderName>,
    /// `expose_headers`.
    pub expose_headers: Vec<HeaderName>,
    /// `max_age`.
    pub max_age: Option<Duration>,
}

/// `xsrf`: the header of unsafe requests that repeats a cookie.
#[derive(Debug, Clone)]
pub struct Xsrf {
    /// `cookie`, default `XSRF-TOKEN`.
    pub cookie: String,
    /// `header`, default `X-XSRF-TOKEN`.
    pub header: HeaderName,
}

/// A route as the request path uses it.
pub struct Route {
    /// Its label in logs: the path as configured.
    pub name: Arc<str>,
    /// Who may pass.
    pub auth: Auth,
    /// What a 401 means.
    pub on_401: On401,
    /// Everything else the table says.
    pub settings: RouteSettings,
    /// Where requests go.
    pub target: Target,
    /// Header names a client may not use here.
    pub owned: OwnedNames,
    /// What lets a request in, where that is not a session alone.
    pub acceptance: Option<Acceptance>,
    /// The provider whose calls apps make through this route themselves, if it is a backend.
    pub backend: Option<Arc<Provider>>,
}

/// A call by which an app that knows of no gateway gets, renews or gives up its tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AppCall {
    /// A login on a route with `capture`: it goes to the backend, and the tokens in its answer stay here.
    Login,
    /// The backend's refresh: answered here.
    Refresh,
    /// The backend's logout: answered here.
    Logout,
}

/// Where a request goes.
pub enum Target {
    /// A backend.
    Upstream(Arc<Upstream>),
    /// One of ours.
    Endpoint(Endpoint),
}

impl Route {
    /// A configured route to `upstream`. `identity` names every identity header of every route, `backend` is the route's provider, if it
    /// is one.
    #[must_use]
    pub fn to_upstream(
        settings: RouteSettings,
        upstream: Arc<Upstream>,
        identity: &[HeaderName],
        clients: &Clients,
        backend: Option<Arc<Provider>>,
    ) -> Route {
        let attached = match &settings.attach {
            Attach::Bearer { header, .. } if header != header::AUTHORIZATION => Some(header),
            Attach::Assertion(assertion) if assertion.header != header::AUTHORIZATION => Some(&assertion.header),
            Attach::ApiKeyHeader(header, _) => Some(header),
            _ => None,
        };
        let acceptance = Acceptance::new(&settings.accept, clients);
        // A key that is still to be looked at goes later.
        let is_looked_at = |name: &&HeaderName| acceptance.as_ref().is_some_and(|accepts| accepts.reads(name));
        Route {
            name: settings.pattern.path.as_str().into(),
            auth: settings.auth,
            on_401: settings.on_401(),
            owned: OwnedNames::new(identity.iter().chain(attached).filter(|name| !is_looked_at(name))),
            target: Target::Upstream(upstream),
            acceptance,
            backend,
            settings,
        }
    }

    /// A route to one of our own endpoints: open to all, and it is told who is asking.
    #[must_use]
    pub fn to_endpoint(endpoint: Endpoint, pattern: RoutePattern) -> Route {
        Route {
            name: pattern.path.as_str().into(),
            auth: Auth::Optional,
            on_401: On401::Relay,
            owned: OwnedNames::new([].into_iter()),
            target: Target::Endpoint(endpoint),
            acceptance: None,
            backend: None,
            settings: RouteSettings::open(pattern),
        }
    }

    /// What is matched is what is forwarded, but for the prefix the route was told to change. None
    /// when the path does not have it: with case-insensitive routes it may be spelt another way.
    #[must_use]
    pub fn upstream_target(&self, path: &NormalPath) -> Option<PathAndQuery> {
        let prefix = match (&self.settings.strip_prefix, &self.settings.replace_prefix) {
            (None, None) => return Some(path.path_and_query().clone()),
            (Some(strip), _) => strip,
            (None, Some(_)) => self.settings.pattern.path.literal_prefix(),
        };
        let replacement = self.settings.replace_prefix.as_deref().unwrap_or("");
        Some(path.with_prefix_replaced(prefix, replacement)?.path_and_query().clone())
    }

    /// Which call of an app this is, by method and by the path that the backend would see.
    #[must_use]
    pub fn app_call(&self, method: &Method, path: &NormalPath) -> Option<AppCall> {
        let backend = self.backend.as_ref()?.backend()?;
        let is = |call: &Call| {
            call.method == *method
                && self.upstream_target(path).is_some_and(|target| is_same_endpoint(target.path(), call.url.path()))
        };
        if backend.refresh.as_ref().is_some_and(|refresh| is(&refresh.call)) {
            Some(AppCall::Refresh)
        } else if backend.logout.as_ref().is_some_and(is) {
            Some(AppCall::Logout)
        } else {
            let may_sign_in = !csrf::is_safe(method) || *method == backend.login.method;
            (self.settings.capture && may_sign_in).then_some(AppCall::Login)
        }
    }

    /// Whether a session makes a difference here: it lets the request in, or shows in what the
    /// upstream gets.
    #[must_use]
    pub fn relies_on_session(&self) -> bool {
        self.auth == Auth::Required || self.settings.attach.needs_session() || !self.settings.identity.is_empty()
    }

    /// Whether a login helps here.
    #[must_use]
    pub fn takes_sessions(&self) -> bool {
        self.settings.takes_sessions()
    }

    /// How long the upstream may take to answer; no time where there is none.
    #[must_use]
    pub fn response_timeout(&self) -> Duration {
        let of_upstream = self.upstream().map(|upstream| upstream.settings().response_timeout);
        self.settings.response_timeout.or(of_upstream).unwrap_or_default()
    }

    /// The upstream, if it is one.
    #[must_use]
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.target {
            Target::Upstream(upstream) => Some(upstream),
            Target::Endpoint(_) => None,
        }
    }
}

/// Whether a backend may take one path for the other: many overlook case, slashes at the end and `;parameters`, and what they would
/// answer are tokens.
fn is_same_endpoint(one: &str, other: &str) -> bool {
    let segments = |path: &str| -> Vec<String> {
        let plain = path.split('/').map(|segment| segment.split(';').next().unwrap_or_default());
        plain.filter(|segment| !segment.is_empty()).map(str::to_ascii_lowercase).collect()
    };
    segments(one) == segments(other)
}

impl RouteSettings {
    /// `on_401`, else what `auth` says; with a token of the gateway's own, or where no session lets anybody in, it is not
    /// the user who was refused.
    #[must_use]
    pub fn on_401(&self) -> On401 {
        self.on_401.unwrap_or(match self.attach {
            Attach::ClientCredentials(_) => On401::Refresh,
            _ if !self.takes_sessions() => On401::Relay,
            _ => self.auth.default_on_401(),
        })
    }

    /// Whether a session lets anybody in.
    #[must_use]
    pub fn takes_sessions(&self) -> bool {
        self.accept.contains(&Accept::Session)
    }

    fn open(pattern: RoutePattern) -> RouteSettings {
        RouteSettings {
            pattern,
            auth: Auth::Optional,
            on_401: Some(On401::Relay),
            attach: Attach::Never,
            upstream: String::new(),
            provider: None,
            capture: false,
            login: LoginAnswer::Auto,
            identity: Vec::new(),
            accept: vec![Accept::Session],
            require: Vec::new(),
            cors: None,
            xsrf: None,
            strip_prefix: None,
            replace_prefix: None,
            request_headers: HeaderEdits::default(),
            response_headers: HeaderEdits::default(),
            max_body: None,
            response_timeout: None,
            allow_encoded_slash: false,
        }
    }
}

impl Attach {
    /// Whether it is the session that provides this credential.
    #[must_use]
    pub fn needs_session(&self) -> bool {
        matches!(self, Attach::Bearer { .. } | Attach::IdToken | Attach::Assertion(_))
    }

    /// Whether everybody who passes gets this credential.
    #[must_use]
    pub fn is_the_gateway_s_own(&self) -> bool {
        !self.needs_session() && !matches!(self, Attach::Never)
    }
}
