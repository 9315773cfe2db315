//! Where bytes are read to. A response takes as much of a block as it has bytes, and a connection that waits takes nothing.

use super::super::super::connect::Io;
use bytes::BytesMut;
use std::cell::RefCell;
use std::io;
use std::pin::pin;
use std::task::{Context, Poll, ready};
use tokio::io::AsyncReadExt;

thread_local! {
    /// The rest of the block of this thread.
    static BLOCK: RefCell<BytesMut> = RefCell::default();
}

/// Reads behind what `into` has, and answers how much: 0 at the end of the connection.
pub fn poll_read(io: &mut Io, cx: &mut Context<'_>, into: &mut BytesMut) -> Poll<io::Result<usize>> {
    if !into.is_empty() {
        into.reserve(MORE);
        return pin!(io.read_buf(into)).poll(cx);
    }
    BLOCK.with_borrow_mut(|block| {
        if block.capacity() < LEAST {
            block.reserve(WHOLE);
        }
        let read = ready!(pin!(io.read_buf(block)).poll(cx))?;
        *into = block.split();
        Poll::Ready(Ok(read))
    })
}

/// A whole block is in use while a piece of it is: by a client that reads slowly, at worst.
const WHOLE: usize = 64 * 1024;
/// What there must be room for.
const LEAST: usize = 16 * 1024;
/// Heads and lines that come in pieces.
const MORE: usize = 4 * 1024;
