//! A TCP proxy between the pool and its server, which loses, delays or half-closes what goes through it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

/// What it does to connections, those that stand included.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Way {
    Open,
    /// Bytes are read, and go nowhere, ever: connections that lost some pass nothing any more.
    Drops,
    /// Each piece is kept back for so long.
    Delays(Duration),
    /// The server's side is ended, and the caller's is left open.
    HalfCloses,
}

pub struct Proxy {
    address: SocketAddr,
    way: watch::Sender<Way>,
    accepted: Arc<AtomicUsize>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Proxy {
    pub async fn to(port: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (way, seen) = watch::channel(Way::Open);
        let accepted = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&accepted);
        let accepting = tokio::spawn(async move {
            while let Ok((caller, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                tokio::spawn(pass(caller, port, seen.clone()));
            }
        });
        Proxy { address, way, accepted, accepting }
    }

    pub fn port(&self) -> u16 {
        self.address.port()
    }

    pub fn set(&self, way: Way) {
        self.way.send_replace(way);
    }

    /// Connections since the start.
    pub fn accepted(&self) -> usize {
        self.accepted.load(Ordering::SeqCst)
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn pass(caller: TcpStream, port: u16, way: watch::Receiver<Way>) {
    let Ok(server) = TcpStream::connect(("127.0.0.1", port)).await else { return };
    let (from_caller, to_caller) = caller.into_split();
    let (from_server, to_server) = server.into_split();
    // What the server says may be half-closed; the caller's words are lost or late like the server's.
    tokio::spawn(carry(from_caller, to_server, way.clone(), false));
    tokio::spawn(carry(from_server, to_caller, way, true));
}

async fn carry(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, mut way: watch::Receiver<Way>, is_servers: bool) {
    let mut bytes = vec![0; 16 << 10];
    let mut is_lost = false;
    loop {
        let now = *way.borrow_and_update();
        if now == Way::HalfCloses && is_servers {
            let _ = to.shutdown().await;
            return;
        }
        let count = tokio::select! {
            count = from.read(&mut bytes) => count.unwrap_or(0),
            changed = way.changed() => if changed.is_ok() { continue } else { return },
        };
        if count == 0 {
            return;
        }
        let now = *way.borrow();
        is_lost |= now == Way::Drops;
        if let Way::Delays(time) = now {
            tokio::time::sleep(time).await;
        }
        if !is_lost && to.write_all(&bytes[..count]).await.is_err() {
            return;
        }
    }
}
