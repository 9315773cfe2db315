//! HTTP/1.1 towards upstreams, behind one trait: our own client, and hyper's, which the tests compare it with.

#[cfg(any(test, feature = "hyper-upstream"))]
pub mod hyper;
#[cfg(any(test, not(feature = "hyper-upstream")))]
pub mod own;

use super::connect::Io;
use super::{OnInformational, UpstreamError};
use crate::body::Body;
use http::{Request, Response};
use std::io;

/// What carries the exchanges.
#[cfg(not(feature = "hyper-upstream"))]
pub type Connection = own::OwnConnection;
/// What carries the exchanges.
#[cfg(feature = "hyper-upstream")]
pub type Connection = hyper::HyperConnection;

/// One connection, which carries one exchange at a time.
pub trait Http1: Sized + Send + 'static {
    /// On a connection that nothing was sent on.
    fn new(io: Io) -> impl Future<Output = io::Result<Self>> + Send;

    /// The server has closed it, or sent what nobody asked for: it is of no use any more.
    fn is_closed(&mut self) -> bool;

    /// It takes a request now.
    fn is_ready(&mut self) -> bool;

    /// Sends `request`, whose target is in origin form, and waits for the response head. After the end of the response the connection
    /// goes to `put_back`, if it can be used again. A 101 carries a [`super::Switched`], other 1xx answers are told.
    ///
    /// # Errors
    /// When there is no head.
    fn exchange<R>(
        self,
        request: Request<Body>,
        told: Option<&OnInformational>,
        put_back: R,
    ) -> impl Future<Output = Result<Response<Body>, Failure>> + Send
    where
        R: FnOnce(Self) + Send + Unpin + 'static;
}

/// Why there is no response head.
#[derive(Debug)]
pub struct Failure {
    /// What happened.
    pub error: UpstreamError,
    /// The request, when not a byte of it was sent.
    pub unsent: Option<Box<Request<Body>>>,
    /// The request, when the server closed the connection without a word, as it may do with one that it has kept, and when it may be
    /// sent twice.
    pub repeatable: Option<Box<Request<Body>>>,
    /// The client had not sent all of its body, and was waited for: the server owed no answer.
    pub awaits_client: bool,
}

impl From<UpstreamError> for Failure {
    fn from(error: UpstreamError) -> Failure {
        Failure { error, unsent: None, repeatable: None, awaits_client: false }
    }
}
