//! The end of a connection whose client is still sending. A socket that is closed with something unread in it resets the connection,
//! and the answer is lost on its way to a client that would have read it later.

use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

/// Says that nothing more will come, and reads what does, until the client has closed its side too: for a bounded time, and of a
/// bounded length.
pub async fn close<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) {
    // Whoever breaks off while nobody listens any more has nothing to lose.
    let _: Result<io::Result<()>, _> = timeout(LONGEST, async {
        stream.shutdown().await?;
        let mut scrap = vec![0; PIECE];
        let mut left = MOST;
        while left > 0 {
            match stream.read(&mut scrap).await? {
                0 => break,
                count => left = left.saturating_sub(count),
            }
        }
        Ok(())
    })
    .await;
}

/// As nginx has it (`lingering_timeout`).
const LONGEST: Duration = Duration::from_secs(5);
const MOST: usize = 16 << 20;
const PIECE: usize = 16 << 10;
