//! The request path. It reads top to bottom in [`stack`]; each step is one file.
//!
//! What one step has found out is the type the next one takes: an upstream cannot be reached with
//! anything that has not been through `authorize`.

mod accept;
mod attach;
mod authenticate;
mod authorize;
mod capture;
mod challenge;
mod cors;
mod forward;
mod headers;
mod informational;
mod intake;
mod limits;
mod observe;
mod query;
mod recover;
mod replay;
mod route;
mod survey;
mod trailers;
mod tunnel;
mod verdict;
mod websocket;
mod xsrf;

pub use accept::Accept;
pub use informational::Informational;
pub use intake::Peer;
pub use limits::Limits;
pub use replay::Budget;
pub use route::{AppCall, Attach, Cors, HeaderEdits, LoginAnswer, Route, RouteSettings, Target, Xsrf};
pub use tunnel::{InUse, Tunnels};

use crate::body::{Body, Pace};
use crate::clients::{self, ApiClient, Clients};
use crate::clock::Clock;
use crate::endpoints::Endpoints;
use crate::facts::{Facts, RequestId};
use crate::policy::route::RouteTable;
use crate::policy::{Client, Standing};
use crate::reply::{self, Asker, Refusal};
use crate::session::cookie::Cookies;
use crate::session::own_token::OwnTokens;
use crate::session::{Session, Sessions, TokenSet};
use crate::tokens::Tokens;
use crate::tokens::assertion::Assertions;
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use hyper::body::Incoming;
use hyper::upgrade::OnUpgrade;
use std::convert::Infallible;
use std::sync::Arc;
use survey::RequestSurvey;
use tower::layer::layer_fn;
use tower::{Service, ServiceBuilder};
use verdict::{Boxed, Verdict};

/// What the steps work with. One for each worker, so that counting references stays on one core.
pub struct Parts {
    /// Configured routes, by [`RouteTable`] index.
    pub routes: Vec<Arc<Route>>,
    /// Which of them a request takes.
    pub table: RouteTable,
    /// Our own endpoints, which no route can shadow.
    pub endpoint_routes: Vec<Arc<Route>>,
    /// Which of those a request takes.
    pub endpoint_table: RouteTable,
    /// Answers for our own endpoints.
    pub endpoints: Arc<Endpoints>,
    /// Whether any route has `capture`: only then there are stand-ins to look for.
    pub captures: bool,
    /// Who is signed in.
    pub sessions: Sessions,
    /// Their tokens.
    pub tokens: Arc<Tokens>,
    /// Tokens of ours that stand for a session cookie.
    pub own_tokens: Arc<OwnTokens>,
    /// What upstreams are told of who is asking.
    pub assertions: Arc<Assertions>,
    /// Who comes with a credential of their own.
    pub clients: Arc<Clients>,
    /// Names of our cookies.
    pub cookies: Cookies,
    /// What browsers see.
    pub external_url: url::Url,
    /// Whose forwarded headers count.
    pub trusted_proxies: Vec<ipnet::IpNet>,
    /// Bounds.
    pub limits: Limits,
    /// What all kept bodies may take.
    pub replay_budget: Arc<Budget>,
    /// What has become of upgrades.
    pub tunnels: Tunnels,
    /// The time.
    pub clock: Clock,
}

/// The request path, in request order.
#[must_use]
pub fn stack(parts: &Arc<Parts>) -> Gateway {
    ServiceBuilder::new()
        // 1. An id, one log line; a panic below becomes 500.
        .layer(layer_fn(|inner| observe::Observe::new(parts, inner)))
        // 2. What is true of this request; what a client may not claim is gone; its route.
        .layer(layer_fn(|inner| intake::Intake::new(parts, inner)))
        // 3. Who is asking.
        .layer(layer_fn(|inner| authenticate::Authenticate::new(parts, inner)))
        // 4. Whether they may: pass, challenge, refuse.
        .layer(layer_fn(|inner| authorize::Authorize::new(parts, inner)))
        // 5. Calls of apps that think they hold the tokens. Above recovery, whose calls are never an app's.
        .layer(layer_fn(|inner| capture::Capture::new(parts, inner)))
        // 6. A token that is fit to be sent; on 401 another one, and the request once more.
        .layer(layer_fn(|inner| recover::Recover::new(parts, inner)))
        // 7. The route's credential and identity headers. Below recovery, so that a replay gets the new ones.
        .layer(layer_fn(|inner| attach::AttachCredential::new(parts, inner)))
        // 8. One of our endpoints, an upstream, a tunnel.
        .service(forward::Forward::new(parts))
}

/// [`stack`]'s result.
pub type Gateway = observe::Observe<
    intake::Intake<
        authenticate::Authenticate<
            authorize::Authorize<capture::Capture<recover::Recover<attach::AttachCredential<forward::Forward>>>>,
        >,
    >,
>;

/// As it comes from the connection.
pub struct Arrival {
    /// Unread.
    pub request: Request<Incoming>,
    /// The other end of the connection.
    pub peer: Arc<Peer>,
    /// What the client can be told before its answer; None where the protocol leaves no way.
    pub informational: Option<Arc<Informational>>,
    /// How its body may come in; None when it has none.
    pub pace: Option<Pace>,
}

/// With an id, and with the shape that answers of ours will take.
pub struct Numbered {
    arrival: Arrival,
    survey: RequestSurvey,
    id: RequestId,
    client: Client,
}

/// What stays the same through all attempts.
pub struct Exchange {
    /// What is true of the request.
    pub facts: Facts,
    /// The route it takes.
    pub route: Arc<Route>,
    /// The client's `Cookie` lines; ours are in no other place any more.
    pub cookies: Vec<HeaderValue>,
    /// It came over HTTP/2.
    pub over_http2: bool,
    /// What the client can be told before its answer.
    pub informational: Option<Arc<Informational>>,
    /// The client's side of a WebSocket to be.
    pub upgrade: Option<OnUpgrade>,
    /// What keeps the client's connection while that one is open.
    pub in_use: Option<InUse>,
    /// An app handles its tokens, or what it thinks they are.
    pub app_call: Option<AppCall>,
    /// It came with a stand-in, in its headers, where there is none any more, or in its query.
    pub shows_stand_in: bool,
}

impl Exchange {
    fn refuse(&self, refusal: &Refusal) -> Response<Body> {
        reply::refuse(Asker { id: &self.facts.id, client: self.facts.client }, refusal)
    }

    /// Whether it makes a difference who is asking.
    fn depends_on_session(&self) -> bool {
        self.route.auth.depends_on_session() || self.app_call.is_some()
    }
}

/// What goes out, and is built anew for a replay.
pub struct Message {
    /// As the client sent it.
    pub method: Method,
    /// Without what a client may not claim.
    pub headers: HeaderMap,
    /// Whole, or still coming.
    pub body: Body,
}

/// After intake: known, but not whose it is.
pub struct Known {
    exchange: Arc<Exchange>,
    message: Message,
}

/// After authentication.
pub struct Identified {
    known: Known,
    credential: Credential,
}

/// Who is asking.
pub enum Credential {
    /// Nobody we know.
    Absent,
    /// Somebody we knew.
    Ended,
    /// Nobody can say: the store cannot be asked.
    Unverifiable,
    /// Somebody who is signed in, by the cookie that a browser sends whoever makes it do so.
    Cookie(Arc<Session>),
    /// Somebody who is signed in, by a token that no other site can make a browser send.
    Token(Arc<Session>),
    /// A client of the API with a credential of its own.
    Client(Arc<ApiClient>),
    /// A credential of a client's own that lets nobody in, and what to answer.
    Rejected(Box<Refusal>),
}

impl Credential {
    fn standing(&self) -> Standing {
        match self {
            Credential::Absent => Standing::Absent,
            Credential::Ended => Standing::Ended,
            Credential::Unverifiable => Standing::Unverifiable,
            Credential::Cookie(_) | Credential::Token(_) | Credential::Client(_) => Standing::Valid,
            Credential::Rejected(_) => Standing::Rejected,
        }
    }

    /// Whether it is a client's `Authorization: Bearer` that counts.
    fn is_a_bearer_token(&self) -> bool {
        matches!(self, Credential::Client(client) if client.shown == clients::Shown::BearerToken)
    }
}

/// After authorization: it may pass.
pub struct Permitted {
    exchange: Arc<Exchange>,
    message: Message,
    session: Option<Arc<Session>>,
    /// Who has come with a credential of their own; then there is no session.
    client: Option<Arc<ApiClient>>,
    shown: Option<ShownByApp>,
}

/// What a request shows that is a call of an app's.
enum ShownByApp {
    /// Who is signed in.
    Session(Arc<Session>),
    /// That somebody was: the cookie of a session that has ended, or a stand-in.
    Remains,
    /// Nothing, as far as its headers go.
    Nothing,
}

/// One attempt, with the session whose credential it carries.
pub struct Attempted {
    exchange: Arc<Exchange>,
    message: Message,
    session: Option<Arc<Session>>,
    client: Option<Arc<ApiClient>>,
    token: TokenChoice,
}

/// Which token goes along.
#[derive(Clone)]
enum TokenChoice {
    /// The session's, where the route's credential is one.
    Send,
    /// It is known to be expired: the request goes without.
    Withhold,
    /// One of the gateway's own.
    Machine(Arc<TokenSet>),
}

/// With everything in place; only forwarding is left.
pub struct Complete {
    exchange: Arc<Exchange>,
    message: Message,
    session: Option<Arc<Session>>,
    client: Option<Arc<ApiClient>>,
    /// Where the upstream is to find it; None: not below the prefix that the route takes off.
    target: Option<http::uri::PathAndQuery>,
}

/// Every step of the path: it fails by answering.
trait Step<In>: Service<In, Response = Response<Body>, Error = Infallible> {}

impl<In, S> Step<In> for S where S: Service<In, Response = Response<Body>, Error = Infallible> {}
