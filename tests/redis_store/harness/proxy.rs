//! A TCP proxy that misbehaves on demand.

use socket2::SockRef;
use std::sync::Arc;
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
}

pub struct Proxy {
    pub port: u16,
    behaviour: Arc<watch::Sender<Behaviour>>,
}

impl Proxy {
    pub async fn before(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let behaviour = Arc::new(watch::Sender::new(Behaviour::Pass));
        let shown = Arc::clone(&behaviour);
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let behaviour = shown.subscribe();
                tokio::spawn(async move {
                    let Ok(server) = TcpStream::connect(("127.0.0.1", server)).await else { return };
                    let _ = (client.set_nodelay(true), server.set_nodelay(true));
                    // Closed without more ado, it is reset.
                    let _ = SockRef::from(&client).set_linger(Some(Duration::ZERO));
                    let (from_client, to_client) = client.into_split();
                    let (from_server, to_server) = server.into_split();
                    tokio::select! {
                        () = pass(from_client, to_server, behaviour.clone(), false) => {}
                        () = pass(from_server, to_client, behaviour, true) => {}
                    }
                });
            }
        });
        Proxy { port, behaviour }
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub fn set(&self, behaviour: Behaviour) {
        self.behaviour.send_replace(behaviour);
    }
}

async fn pass(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut behaviour: watch::Receiver<Behaviour>,
    replies: bool,
) {
    let mut buffer = vec![0; 16 * 1024];
    let mut passed = 0;
    loop {
        let Ok(count @ 1..) = from.read(&mut buffer).await else { return };
        let now = *behaviour.borrow_and_update();
        match now {
            Behaviour::Pass => {}
            Behaviour::Delay(delay) => tokio::time::sleep(delay).await,
            Behaviour::Stall => {
                let _ = behaviour.wait_for(|now| *now != Behaviour::Stall).await;
            }
            Behaviour::Cut(after) if replies && passed + count >= after => {
                let _ = to.write_all(&buffer[..after.saturating_sub(passed).min(count)]).await;
                return;
            }
            Behaviour::Cut(_) => {}
        }
        passed = if matches!(now, Behaviour::Cut(_)) { passed + count } else { 0 };
        if to.write_all(&buffer[..count]).await.is_err() {
            return;
        }
    }
}
