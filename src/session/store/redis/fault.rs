//! Why a server did not do what it was asked.

use super::settings::Address;
use crate::session::store::StoreError;
use redis::{ErrorKind, RedisError, ServerErrorKind};

/// See the module.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fault {
    /// Too many requests are under way.
    Busy,
    /// It has just failed; nobody asks for a moment.
    BackingOff,
    /// No answer in time.
    TimedOut,
    /// No connection, or it broke.
    Unreachable,
    /// No TLS with it.
    Tls,
    /// It does not know us.
    Credentials,
    /// It knows us, and we may not.
    Forbidden,
    /// It is, or has become, a replica.
    NotPrimary,
    /// `maxmemory` is reached and nothing may be evicted.
    Full,
    /// It refuses writes, since it cannot save them.
    NotSaving,
    /// It starts, or its cluster is not complete.
    NotReady,
    /// It has never seen this script.
    NoScript,
    /// The slot is that server's.
    Moved(Option<Address>),
    /// This key may be there, for this once.
    Ask(Option<Address>),
    /// It has no RESP3.
    NoResp3,
    /// It answered what nobody expects.
    Protocol,
}

impl Fault {
    /// The label for logs and metrics.
    pub(super) fn reason(&self) -> &'static str {
        match self {
            Fault::Busy => "busy",
            Fault::BackingOff => "backing_off",
            Fault::TimedOut => "timeout",
            Fault::Unreachable => "unreachable",
            Fault::Tls => "tls",
            Fault::Credentials => "credentials",
            Fault::Forbidden => "forbidden",
            Fault::NotPrimary | Fault::Moved(_) | Fault::Ask(_) => "not_primary",
            Fault::Full => "store_full",
            Fault::NotSaving => "not_saving",
            Fault::NotReady => "not_ready",
            Fault::NoScript | Fault::Protocol | Fault::NoResp3 => "protocol",
        }
    }

    /// Whether the server has said it: then it is there.
    pub(super) fn is_an_answer(&self) -> bool {
        !matches!(
            self,
            Fault::Busy | Fault::BackingOff | Fault::TimedOut | Fault::Unreachable | Fault::Tls | Fault::Credentials
        )
    }
}

impl From<&RedisError> for Fault {
    fn from(error: &RedisError) -> Fault {
        match error.kind() {
            ErrorKind::AuthenticationFailed => Fault::Credentials,
            ErrorKind::RESP3NotSupported => Fault::NoResp3,
            ErrorKind::Server(ServerErrorKind::NoScript) => Fault::NoScript,
            ErrorKind::Server(ServerErrorKind::ReadOnly) => Fault::NotPrimary,
            ErrorKind::Server(ServerErrorKind::NoPerm) => Fault::Forbidden,
            ErrorKind::Server(ServerErrorKind::Moved) => Fault::Moved(target_of(error)),
            ErrorKind::Server(ServerErrorKind::Ask) => Fault::Ask(target_of(error)),
            ErrorKind::Server(
                ServerErrorKind::BusyLoading
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown,
            ) => Fault::NotReady,
            _ => match error.code() {
                Some("OOM") => Fault::Full,
                Some("NOAUTH" | "WRONGPASS") => Fault::Credentials,
                Some("MISCONF" | "NOREPLICAS") => Fault::NotSaving,
                Some("BUSY") => Fault::NotReady,
                _ if error.is_unrecoverable_error() || error.is_io_error() => Fault::Unreachable,
                _ => Fault::Protocol,
            },
        }
    }
}

impl From<Fault> for StoreError {
    fn from(fault: Fault) -> StoreError {
        StoreError { reason: fault.reason() }
    }
}

/// A redirection without a host means the same host, which a node cannot know of itself; the next discovery finds it.
fn target_of(error: &RedisError) -> Option<Address> {
    Address::parse(error.redirect_node()?.0, None)
}
