//! hyper's client behind [`Http1`]: a task for each connection, and channels to it.

use super::super::connect::Io;
use super::super::{OnInformational, Switched, UpstreamError, retry};
use super::{Failure, Http1};
use crate::body::{Body, BodyError};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body::{Body as HttpBody, Frame, SizeHint};
use hyper::body::Incoming;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::ext::on_informational;
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

pub struct HyperConnection(SendRequest<Body>);

impl Http1 for HyperConnection {
    async fn new(io: Io) -> io::Result<HyperConnection> {
        let (sender, connection) = http1::Builder::new()
            .preserve_header_case(false)
            .handshake(TokioIo::new(io))
            .await
            .map_err(io::Error::other)?;
        // Its errors reach whoever waits for the response.
        tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(HyperConnection(sender))
    }

    fn is_closed(&mut self) -> bool {
        self.0.is_closed()
    }

    fn is_ready(&mut self) -> bool {
        self.0.is_ready()
    }

    async fn exchange<R>(
        mut self,
        mut request: Request<Body>,
        told: Option<&OnInformational>,
        put_back: R,
    ) -> Result<Response<Body>, Failure>
    where
        R: FnOnce(Self) + Send + Unpin + 'static,
    {
        if let Some(OnInformational(tell)) = told.cloned() {
            on_informational(&mut request, move |interim| tell(interim.status(), interim.headers()));
        }
        let spare = if retry::is_repeatable(&request) { retry::copy_if_whole(&request) } else { None };
        match self.0.try_send_request(request).await {
            Ok(response) if response.status() == StatusCode::SWITCHING_PROTOCOLS => switched(response).await,
            Ok(response) => Ok(response.map(|body| {
                if body.is_end_stream() {
                    put_back(self);
                    return Body::Empty;
                }
                Body::boxed(Returning { body, way_back: Some((put_back, self)) })
            })),
            Err(mut failure) => {
                let unsent = failure.take_message().map(Box::new);
                let repeatable = spare.filter(|_| is_closing(failure.error())).map(Box::new);
                Err(Failure { unsent, repeatable, ..Failure::from(broken(failure.into_error())) })
            }
        }
    }
}

async fn switched(mut response: Response<Incoming>) -> Result<Response<Body>, Failure> {
    match hyper::upgrade::on(&mut response).await {
        Ok(upgraded) => {
            let mut response = response.map(|_| Body::Empty);
            Switched::put(&mut response, Box::new(TokioIo::new(upgraded)));
            Ok(response)
        }
        Err(error) => Err(Failure::from(broken(error))),
    }
}

/// What the body of a request fails with is the only error of ours that hyper meets.
fn broken(error: hyper::Error) -> UpstreamError {
    if error.is_user() { UpstreamError::RequestBody(error.into()) } else { UpstreamError::Broken(error.into()) }
}

/// The server closed the connection without a word, as it may do at any time.
fn is_closing(error: &hyper::Error) -> bool {
    error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}

/// A response body that hands its connection back at its end.
struct Returning<R> {
    body: Incoming,
    way_back: Option<(R, HyperConnection)>,
}

impl<R: FnOnce(HyperConnection) + Unpin> HttpBody for Returning<R> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let polled = Pin::new(&mut this.body).poll_frame(cx);
        let ended = match &polled {
            Poll::Ready(None) => true,
            Poll::Ready(Some(Ok(_))) => this.body.is_end_stream(),
            Poll::Ready(Some(Err(_))) => {
                this.way_back = None;
                false
            }
            Poll::Pending => false,
        };
        if ended && let Some((put_back, connection)) = this.way_back.take() {
            put_back(connection);
        }
        polled.map_err(Into::into)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
