//! A response body that is read off its connection, and hands it back at its end.

use super::decode::{Decoded, Decoder};
use super::request::{Upload, UploadError};
use super::{Malformed, OwnConnection, arena};
use crate::body::{Body, BodyError};
use bytes::{Bytes, BytesMut};
use http_body::{Body as HttpBody, Frame, SizeHint};
use std::mem;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

/// The rest of a response. Dropped before its end, it takes the connection with it.
pub struct ResponseBody<R> {
    /// None at the end.
    source: Option<Source<R>>,
    /// What arrived with the head.
    first: Bytes,
    /// What was already seen behind the last piece.
    next: Option<Result<Frame<Bytes>, BodyError>>,
    /// Why there is no more. It is told one poll later: a server that hears of it at once leaves out what it has not flushed, and the
    /// client would see no answer where there was the beginning of one.
    broken: Option<BodyError>,
}

/// Where a response body comes from.
pub struct Source<R> {
    pub connection: OwnConnection,
    pub put_back: R,
    pub decoder: Decoder,
    /// Not yet decoded.
    pub received: BytesMut,
    /// What of the request is not sent yet: the server answered early.
    pub upload: Option<Box<Upload>>,
    /// Both sides go on with the connection.
    pub reusable: bool,
}

impl<R: FnOnce(OwnConnection) + Send + Unpin + 'static> ResponseBody<R> {
    /// The body, which is a plain piece, with the connection already on its way back, when all of it arrived with the head.
    ///
    /// # Errors
    /// When what arrived is no such body.
    pub fn begin(source: Source<R>) -> Result<Body, Malformed> {
        let mut body = ResponseBody { source: None, first: Bytes::new(), next: None, broken: None };
        let source = body.source.insert(source);
        match source.decoder.decode(&mut source.received)? {
            Decoded::End => body.end(),
            Decoded::Data(piece) => body.first = piece,
            Decoded::Trailers(trailers) => body.next = Some(Ok(Frame::trailers(trailers))),
            Decoded::NeedsMore => {}
        }
        body.look_ahead();
        if body.source.is_none() && body.next.is_none() {
            return Ok(Body::from(body.first));
        }
        Ok(Body::boxed(body))
    }
}

impl<R: FnOnce(OwnConnection)> ResponseBody<R> {
    fn poll_piece(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(source) = &mut self.source else { return Poll::Ready(None) };
        match ready!(source.poll_decode(cx)) {
            Ok(Decoded::Data(piece)) => Poll::Ready(Some(Ok(Frame::data(piece)))),
            Ok(Decoded::Trailers(trailers)) => Poll::Ready(Some(Ok(Frame::trailers(trailers)))),
            Ok(Decoded::End | Decoded::NeedsMore) => {
                self.end();
                Poll::Ready(None)
            }
            Err(error) => Poll::Ready(Some(Err(error))),
        }
    }

    /// Takes the end together with the last piece when it has arrived: whoever waits for either has it sooner.
    fn look_ahead(&mut self) {
        if let Some(source) = &mut self.source {
            if source.decoder.is_between_pieces() && self.next.is_none() {
                self.next = source.decode_ahead();
            }
            if source.decoder.is_at_end() {
                self.end();
            }
        }
    }

    /// The connection is of use again when both sides have said all, and nothing else.
    fn end(&mut self) {
        if let Some(source) = self.source.take()
            && source.reusable
            && source.upload.is_none()
            && source.received.is_empty()
        {
            (source.put_back)(source.connection);
        }
    }
}

impl<R> Source<R> {
    /// Never [`Decoded::NeedsMore`].
    fn poll_decode(&mut self, cx: &mut Context<'_>) -> Poll<Result<Decoded, BodyError>> {
        self.drive_upload(cx)?;
        loop {
            match self.decoder.decode(&mut self.received)? {
                Decoded::NeedsMore => {}
                decoded => return Poll::Ready(Ok(decoded)),
            }
            if self.received.is_empty() {
                // A body that comes slowly keeps no buffer.
                self.received = BytesMut::new();
            }
            if ready!(arena::poll_read(&mut self.connection.io, cx, &mut self.received))? == 0 {
                self.reusable = false;
                self.decoder.close()?;
                return Poll::Ready(Ok(Decoded::End));
            }
        }
    }

    /// What is already here behind a piece, as far as it is no content.
    fn decode_ahead(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        match self.decoder.decode(&mut self.received) {
            Ok(Decoded::Data(piece)) => Some(Ok(Frame::data(piece))),
            Ok(Decoded::Trailers(trailers)) => Some(Ok(Frame::trailers(trailers))),
            Ok(Decoded::NeedsMore | Decoded::End) => None,
            Err(error) => Some(Err(error.into())),
        }
    }

    /// A server that closes has heard enough. A client that breaks off its request has no use for the answer to it.
    fn drive_upload(&mut self, cx: &mut Context<'_>) -> Result<(), BodyError> {
        let Some(upload) = &mut self.upload else { return Ok(()) };
        match upload.poll(&mut self.connection.io, cx) {
            Poll::Pending => return Ok(()),
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(UploadError::Connection)) => self.reusable = false,
            Poll::Ready(Err(UploadError::Body(error))) => return Err(error),
        }
        self.upload = None;
        Ok(())
    }
}

impl<R: FnOnce(OwnConnection) + Unpin> HttpBody for ResponseBody<R> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if !this.first.is_empty() {
            return Poll::Ready(Some(Ok(Frame::data(mem::take(&mut this.first)))));
        }
        let piece = match (this.broken.take(), this.next.take()) {
            (Some(error), _) => return Poll::Ready(Some(Err(error))),
            (None, Some(seen)) => seen,
            (None, None) => match ready!(this.poll_piece(cx)) {
                Some(piece) => piece,
                None => return Poll::Ready(None),
            },
        };
        match piece {
            Ok(frame) => {
                this.look_ahead();
                Poll::Ready(Some(Ok(frame)))
            }
            Err(error) => {
                this.source = None;
                this.broken = Some(error);
                cx.waker().wake_by_ref();
                Poll::Pending
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.source.is_none() && self.first.is_empty() && self.next.is_none() && self.broken.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        let ahead = self.first.len() as u64;
        match &self.source {
            // What was seen ahead is of chunks, whose size is not known.
            _ if self.next.is_some() => SizeHint::default(),
            Some(source) => {
                source.decoder.left().map_or_else(SizeHint::default, |left| SizeHint::with_exact(ahead + left))
            }
            None => SizeHint::with_exact(ahead),
        }
    }
}
