//! An authentication gateway: it stands between browsers or API clients and backends that nobody
//! wants to change. It signs people in, keeps their tokens, attaches the right credential to each
//! request, renews a token when the upstream says 401, and sends the request again.
//!
//! # The napkin
//!
//! Every arrow points down; modules on one row do not know each other. The `mod` list below has the
//! same rows, and `tests/layering.rs` keeps it true.
//!
//! ```text
//!  app                             wires everything, once
//!  config                          gateway.toml: knows everyone's Settings; nobody knows config
//!  server                          sockets, TLS, HTTP versions, limits, drain, the admin listener
//!  gateway                         THE REQUEST PATH
//!  endpoints                       /auth/* and /mock/*
//!  tokens     clients              is the token fit to be sent, the one refresh flight; who comes with a credential of their own
//!  provider   session   upstream   the identity provider, who is signed in, the backend
//!  reply                           everything we answer ourselves
//!  facts                           what we know of this request
//!  attempts                        how often somebody may be wrong
//!  policy                          pure: paths, routes, admit(), prepare(), recover()
//!  background  body  clock  fault  telemetry  tls
//! ```
//!
//! # The request path
//!
//! A request goes down [`gateway::stack`], line by line: observe → intake → authenticate →
//! authorize → capture → recover ⟲ attach → forward. What one step has found out is the type that the next one
//! takes. Whether a request may pass, and what a 401 means, are pure functions:
//! [`policy::admit`], [`policy::prepare`] and [`policy::recover`], each under its table.
//!
//! # Where do I …
//!
//! | … | look at |
//! |---|---|
//! | add a key to `gateway.toml` | its reader in `config`, its field in the owner's `Settings`, its row in `docs/configuration.md` |
//! | change who may pass | the table of [`policy::admit`] |
//! | change what a 401 leads to | the table of [`policy::recover`], then `gateway/recover.rs` |
//! | accept another credential of API clients | [`clients::Verification`], `config/clients.rs`, `gateway/accept.rs` |
//! | add a credential to attach | [`gateway::Attach`], `config/attach.rs`, `gateway/attach.rs` |
//! | add an endpoint | [`endpoints::Endpoint`], `Endpoints::patterns` and a file in `endpoints` |
//! | add a kind of provider | [`provider::Kind`], `config/providers.rs` |
//! | add a preset of a provider | `config/presets.rs`; what it does as no other in `provider/dialect.rs`; `docs/providers.md` |
//! | add a preset of apps that sign in at their backend | a row of `PRESETS` in `config/backend.rs`; `docs/providers.md`, `docs/frontends.md` |
//! | answer something of our own | [`reply::Refusal`]: whose fault, status, code, sentence |
//! | see what is shared by all workers | `Shared` in `app.rs`; one worker's own things are [`gateway::Parts`] |
#![forbid(unsafe_code)]

pub mod app;

pub mod config;

pub mod server;

pub mod gateway;

pub mod endpoints;

pub mod clients;
pub mod tokens;

pub mod provider;
pub mod session;
pub mod upstream;

pub mod reply;

pub mod attempts;
pub mod facts;

pub mod policy;

pub mod background;
pub mod body;
pub mod clock;
pub mod fault;
pub mod telemetry;
pub mod tls;
