//! A TCP proxy that misbehaves on demand.

use socket2::SockRef;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Behaviour {
    Pass,
    /// Everything comes this much later.
    Delay(Duration),
    /// Accepts, reads, and says nothing; so do the connections there are.
    Stall,
    /// Passes so many more bytes of replies on each connection, then resets it.
    Cut(usize),
    /// Swallows the next reply, resets its connection, and then passes everything.
    CutOnce,
}

pub struct Proxy {
    pub port: u16,
    behaviour: Arc<watch::Sender<Behaviour>>,
    cuts: Arc<AtomicUsize>,
}

impl Proxy {
    pub async fn before(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let behaviour = Arc::new(watch::Sender::new(Behaviour::Pass));
        let cuts = Arc::new(AtomicUsize::new(0));
        let (shown, counted) = (Arc::clone(&behaviour), Arc::clone(&cuts));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let (behaviour, cuts) = (Arc::clone(&shown), Arc::clone(&counted));
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    // Closed without more ado, it is reset.
                    let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = pass(from_client, to_server, &behaviour, None) => {}
                        () = pass(from_server, to_client, &behaviour, Some(&cuts)) => {}
                    }
                });
            }
        });
        Proxy { port, behaviour, cuts }
    }

    /// How often [`Behaviour::CutOnce`] has struck.
    pub fn cuts(&self) -> usize {
        self.cuts.load(Ordering::Relaxed)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }
}

/// One direction; `cuts` is there for replies.
async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    behaviour: &watch::Sender<Behaviour>,
    cuts: Option<&AtomicUsize>,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let now = *behaviour.borrow();
        match now {
            Behaviour::Pass => {}
            Behaviour::Delay(delay) => tokio::time::sleep(delay).await,
            Behaviour::Stall => {
                let _ = behaviour.subscribe().wait_for(|now| *now != Behaviour::Stall).await;
            }
            Behaviour::Cut(after) if cuts.is_some() && passed + count >= after => {
                let _ = to.write_all(&buffer[..after.saturating_sub(passed).min(count)]).await;
                return;
            }
            Behaviour::CutOnce => {
                let is_next = |now: &mut Behaviour| std::mem::replace(now, Behaviour::Pass) == Behaviour::CutOnce;
                if let Some(cuts) = cuts
                    && behaviour.send_if_modified(is_next)
                {
                    cuts.fetch_add(1, Ordering::Relaxed);
                    return;
                }
            }
            Behaviour::Cut(_) => {}
        }
        passed = if matches!(now, Behaviour::Cut(_)) { passed + count } else { 0 };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
