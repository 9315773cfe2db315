//! Clients of an API that come with a credential of their own (SPEC §9, §11): bearer tokens that somebody else's authorization server
//! has issued (RFC 6750), and API keys.
//!
//! What is found out, and kept, is only *who it is*. What they may do is asked of every request anew, by the route it takes.
//!
//! | file | is about |
//! |---|---|
//! | `jwt` | access tokens that can be read here (RFC 9068), and the keys they are signed with |
//! | `introspection` | access tokens that only their issuer can read (RFC 7662) |
//! | `api_keys` | keys of which the configuration has the SHA-256 |

mod api_keys;
mod introspection;
mod jwt;

pub use api_keys::{ApiKeySettings, Carrier, KeyHash, KeySettings};
pub use introspection::IntrospectionSettings;
pub use jwt::JwtSettings;

use crate::background::Background;
use crate::clock::{Clock, Mono, Now};
use crate::provider::HttpClient;
use crate::provider::verify::SKEW;
use api_keys::ApiKeys;
use aws_lc_rs::digest::{SHA256, digest};
use introspection::Introspection;
use jwt::JwtIssuer;
use quick_cache::Weighter;
use quick_cache::sync::Cache;
use secrecy::{ExposeSecret, SecretString};
use serde_json::{Map, Value};
use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

/// `[bearer.*]` and `[api_keys.*]`, checked. Their names are different.
#[derive(Debug, Clone, Default)]
pub struct Settings {
    /// `[bearer.*]`, in file order.
    pub bearer: Vec<BearerSettings>,
    /// `[api_keys.*]`, in file order.
    pub api_keys: Vec<ApiKeySettings>,
}

/// One `[bearer.NAME]` table.
#[derive(Debug, Clone)]
pub struct BearerSettings {
    /// The table's name.
    pub name: String,
    /// `issuer`, compared byte for byte; None only beside `introspection`.
    pub issuer: Option<String>,
    /// `audience`: the token must be for one of these. Empty only beside `introspection`.
    pub audience: Vec<String>,
    /// Who can say what the token is worth.
    pub verification: Verification,
}

/// How a bearer token is checked.
#[derive(Debug, Clone)]
pub enum Verification {
    /// It is a JWT.
    Jwt(JwtSettings),
    /// `introspection`: its issuer is asked.
    Introspection(IntrospectionSettings),
}

/// Who has shown a credential.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ApiClient {
    /// What it has shown.
    pub shown: Shown,
    /// What the token says, or the key's `claims`. `sub` of a key is `NAME:id`.
    pub claims: Map<String, Value>,
    /// `scope`, space-separated (RFC 6749 §3.3).
    pub scope: Option<String>,
}

/// What kind of credential that was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// `Authorization: Bearer`.
    BearerToken,
    /// An API key.
    ApiKey,
}

/// Whose credential it is, or why it lets nobody in.
pub type Judgement = Result<Arc<ApiClient>, Rejection>;

/// Why a credential lets nobody in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rejection {
    /// The token is worth nothing here.
    InvalidToken {
        /// Label.
        reason: &'static str,
    },
    /// No such key, or not any more.
    InvalidApiKey,
    /// This address has guessed too often.
    TooManyAttempts {
        /// When it may try again.
        retry_after: Duration,
    },
    /// Whoever could say what the token is worth cannot be asked.
    Unavailable {
        /// Label.
        reason: &'static str,
        /// When to try again.
        retry_after: Duration,
    },
}

/// One `[bearer.*]` or `[api_keys.*]`, as [`Clients::find`] knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// Bearer tokens.
    Bearer(BearerEntry),
    /// API keys.
    ApiKeys(ApiKeyEntry),
}

/// One `[bearer.*]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BearerEntry(usize);

/// One `[api_keys.*]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ApiKeyEntry(usize);

/// Knows the clients of all entries.
pub struct Clients {
    bearer: Vec<Bearer>,
    api_keys: Vec<ApiKeys>,
    guesses: api_keys::Guesses,
    verdicts: Cache<VerdictKey, Verdict, Bytes>,
    background: Background,
    clock: Clock,
}

impl Clients {
    /// Does no I/O. `timeout` is for one call to an issuer.
    #[must_use]
    pub fn new(
        settings: &Settings,
        http: &HttpClient,
        timeout: Duration,
        clock: Clock,
        background: Background,
    ) -> Arc<Clients> {
        let way_out = |settings: &BearerSettings| Bearer::new(settings, http, timeout, &clock);
        Arc::new(Clients {
            bearer: settings.bearer.iter().map(way_out).collect(),
            api_keys: settings.api_keys.iter().map(ApiKeys::new).collect(),
            guesses: api_keys::Guesses::new(),
            verdicts: Cache::with_weighter(USUAL_VERDICTS, MOST_BYTES, Bytes),
            background,
            clock,
        })
    }

    /// The entry of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<Entry> {
        let bearer = self.bearer.iter().position(|bearer| bearer.name() == name);
        let api_keys = self.api_keys.iter().position(|keys| keys.name() == name);
        bearer.map(|at| Entry::Bearer(BearerEntry(at))).or(api_keys.map(|at| Entry::ApiKeys(ApiKeyEntry(at))))
    }

    /// The name of an entry.
    #[must_use]
    pub fn name(&self, entry: Entry) -> &str {
        match entry {
            Entry::Bearer(BearerEntry(at)) => self.bearer[at].name(),
            Entry::ApiKeys(ApiKeyEntry(at)) => self.api_keys[at].name(),
        }
    }

    /// Where the keys of an entry are carried.
    #[must_use]
    pub fn carrier(&self, ApiKeyEntry(at): ApiKeyEntry) -> &Carrier {
        self.api_keys[at].carrier()
    }

    /// Which of several entries judges `token`: the one whose issuer and audience the token names, else whose issuer, else the first
    /// that asks, else the first. What the token says here is not believed by it.
    ///
    /// # Panics
    /// When `among` is empty.
    #[must_use]
    pub fn choose(&self, among: &[BearerEntry], token: &str) -> BearerEntry {
        if let [only] = among {
            return *only;
        }
        let claims = jwt::unverified_claims(token).unwrap_or_default();
        let first = |suits: &dyn Fn(&Bearer) -> bool| among.iter().find(|BearerEntry(at)| suits(&self.bearer[*at]));
        let issues = |bearer: &Bearer| {
            bearer.issuer.as_ref().is_some_and(|issuer| claims.get("iss") == Some(&Value::from(issuer.as_str())))
        };
        *first(&|bearer| issues(bearer) && is_for_one_of(&bearer.audience, &claims))
            .or_else(|| first(&issues))
            .or_else(|| first(&|bearer| matches!(bearer.way, Way::Introspection(_))))
            .unwrap_or(&among[0])
    }

    /// What is known of `token` without asking anybody. None: [`Clients::judge`] has to find out.
    #[must_use]
    pub fn recall(&self, entry: BearerEntry, token: &str, now: Now) -> Option<Judgement> {
        let key = VerdictKey::of(entry, token);
        if let Some(verdict) = self.verdicts.get(&key) {
            if now.mono < verdict.until {
                return Some(verdict.judgement);
            }
            self.verdicts.remove_if(&key, |verdict| verdict.until <= now.mono);
        }
        let reason = self.bearer[entry.0].refuse_at_sight(token, now)?;
        Some(Err(Rejection::InvalidToken { reason }))
    }

    /// Finds out whose `token` is. All who ask about the same one at the same time share one call, which ends whoever stops waiting.
    pub async fn judge(self: &Arc<Self>, entry: BearerEntry, token: SecretString) -> Judgement {
        let clients = Arc::clone(self);
        let judging = self.background.run(async move {
            let bearer = &clients.bearer[entry.0];
            let finding_out =
                async { Ok::<_, Infallible>(bearer.verdict(token.expose_secret(), &clients.clock).await) };
            let key = VerdictKey::of(entry, token.expose_secret());
            match clients.verdicts.get_or_insert_async(&key, finding_out).await {
                Ok(verdict) => verdict.judgement,
                Err(never) => match never {},
            }
        });
        // Only a panic keeps it from its end.
        let broken = Rejection::Unavailable { reason: "verification_broke", retry_after: OUTAGE_COUNTS_FOR };
        judging.await.unwrap_or(Err(broken))
    }

    /// Whose `key` is. `address` has so many guesses.
    pub fn judge_key(&self, entry: ApiKeyEntry, key: &[u8], address: Option<IpAddr>, now: Now) -> Judgement {
        self.guesses.limited(address, now.mono, || self.api_keys[entry.0].owner(key, now))
    }
}

/// One `[bearer.*]` at work.
struct Bearer {
    name: String,
    issuer: Option<String>,
    audience: Vec<String>,
    way: Way,
}

enum Way {
    Jwt(JwtIssuer),
    Introspection(Introspection),
}

/// A token that counts.
#[derive(Debug)]
struct Accepted {
    claims: Map<String, Value>,
    /// `exp`, in seconds since 1970; None: it does not say.
    expires: Option<u64>,
}

impl Bearer {
    fn new(settings: &BearerSettings, http: &HttpClient, timeout: Duration, clock: &Clock) -> Bearer {
        let way = match &settings.verification {
            Verification::Jwt(jwt) => Way::Jwt(JwtIssuer::new(settings, jwt, http.clone(), timeout)),
            Verification::Introspection(endpoint) => {
                Way::Introspection(Introspection::new(settings, endpoint, http.clone(), timeout, clock.clone()))
            }
        };
        Bearer {
            name: settings.name.clone(),
            issuer: settings.issuer.clone(),
            audience: settings.audience.clone(),
            way,
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    /// Why it is not worth a call.
    fn refuse_at_sight(&self, token: &str, now: Now) -> Option<&'static str> {
        match &self.way {
            Way::Jwt(issuer) => issuer.read(token, now).err().map(|error| error.reason()),
            Way::Introspection(_) => (token.len() > MOST_TOKEN_BYTES).then_some("token_too_large"),
        }
    }

    async fn verdict(&self, token: &str, clock: &Clock) -> Verdict {
        let (found, counts_for) = match &self.way {
            Way::Jwt(issuer) => (issuer.verify(token, clock.now()).await, LONGEST_WITHOUT_A_LOOK),
            Way::Introspection(introspection) => (introspection.ask(token).await, introspection.cache),
        };
        let now = clock.now();
        let (judgement, counts_for, bytes) = match found {
            Ok(accepted) => {
                let left = accepted.expires.map_or(counts_for, |expires| left_of(expires, now));
                let bytes = accepted.claims.iter().map(|(name, value)| name.len() + value.to_string().len() + 64).sum();
                (Ok(Arc::new(accepted.into_client())), counts_for.min(left), bytes)
            }
            Err(rejection @ Rejection::Unavailable { .. }) => (Err(rejection), OUTAGE_COUNTS_FOR, 0),
            Err(rejection) => (Err(rejection), REFUSAL_COUNTS_FOR, 0),
        };
        Verdict { judgement, until: now.mono.after(counts_for), bytes }
    }
}

impl Accepted {
    fn into_client(self) -> ApiClient {
        ApiClient { shown: Shown::BearerToken, scope: scope_of(&self.claims), claims: self.claims }
    }
}

/// `scope` (RFC 9068 §2.2.3), or what some issuers call `scp`: a string with spaces, or a list.
fn scope_of(claims: &Map<String, Value>) -> Option<String> {
    match claims.get("scope").or_else(|| claims.get("scp"))? {
        Value::String(scope) => Some(scope.clone()),
        Value::Array(scopes) => Some(scopes.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(" ")),
        _ => None,
    }
}

/// Whether a token's `aud` names one of `ours`; others may stand beside it (RFC 9068 §4).
fn is_for_one_of(ours: &[String], claims: &Map<String, Value>) -> bool {
    let is_ours = |audience: &str| ours.iter().any(|our| our == audience);
    match claims.get("aud") {
        Some(Value::String(audience)) => is_ours(audience),
        Some(Value::Array(audiences)) => audiences.iter().filter_map(Value::as_str).any(is_ours),
        _ => false,
    }
}

/// Why a genuine token is no bearer token for an API, if it is none: it was made for another purpose, or to be used only with a proof
/// that nobody asks for here.
fn is_something_else(claims: &Map<String, Value>) -> Option<&'static str> {
    // RFC 7800 §3.1: whoever is to hold it must prove it; as a bearer token it would be worth more than its issuer meant.
    if claims.contains_key("cnf") {
        return Some("token_cnf");
    }
    // OIDC Core §3.1.3.6, Back-Channel Logout §2.4.
    if ["at_hash", "c_hash", "events"].iter().any(|name| claims.contains_key(*name)) {
        return Some("token_not_for_access");
    }
    // As issuers that do not set the header's `typ` tell their tokens apart.
    let says_so = |name: &&str| {
        let says = claims.get(*name).and_then(Value::as_str).unwrap_or_default();
        NOT_FOR_ACCESS.iter().any(|other| says.eq_ignore_ascii_case(other))
    };
    ["typ", "token_use", "token_type"].iter().any(says_so).then_some("token_not_for_access")
}

fn left_of(expires: u64, now: Now) -> Duration {
    Duration::from_secs(expires.saturating_add(SKEW).saturating_sub(now.unix))
}

/// The token is not kept, only what tells it from others: whoever reads this memory cannot use it.
#[derive(Clone, PartialEq, Eq, Hash)]
struct VerdictKey {
    entry: BearerEntry,
    token: [u8; 32],
}

impl VerdictKey {
    fn of(entry: BearerEntry, token: &str) -> VerdictKey {
        let mut hash = [0; 32];
        hash.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        VerdictKey { entry, token: hash }
    }
}

#[derive(Clone)]
struct Verdict {
    judgement: Judgement,
    until: Mono,
    bytes: usize,
}

/// About what a verdict takes.
#[derive(Clone)]
struct Bytes;

impl Weighter<VerdictKey, Verdict> for Bytes {
    fn weight(&self, _: &VerdictKey, verdict: &Verdict) -> u64 {
        verdict.bytes as u64 + 256
    }
}

/// `offline` is what Keycloak calls a refresh token that outlives its session.
const NOT_FOR_ACCESS: [&str; 7] = ["refresh_token", "refresh", "offline", "id_token", "id", "logout", "dpop"];
/// More than any header that upstreams take.
const MOST_TOKEN_BYTES: usize = 8 << 10;
/// So long a key that was withdrawn may still count.
const LONGEST_WITHOUT_A_LOOK: Duration = Duration::from_secs(300);
const REFUSAL_COUNTS_FOR: Duration = Duration::from_secs(5);
/// Enough for all who wait for the same answer.
const OUTAGE_COUNTS_FOR: Duration = Duration::from_secs(1);
const USUAL_VERDICTS: usize = 16_384;
const MOST_BYTES: u64 = 32 << 20;
