//! A real TCP server that answers `PING` with `PONG`, and can be stopped, hung, slowed, and made to cut its connections.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_linger;

/// How it answers.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Manner {
    Prompt,
    /// After a while.
    Slow(Duration),
    /// Not before this is over: like a stopped process, which answers all that came meanwhile when it goes on.
    Hung,
    /// Not at all, ever: like a way that loses packets, until new connections are made.
    Lost,
    /// With an error: like a server that starts up.
    Useless,
}

pub struct Server {
    address: SocketAddr,
    state: Arc<State>,
    listening: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

struct State {
    manner: Mutex<Manner>,
    changed: Condvar,
    connections: Mutex<BTreeMap<usize, TcpStream>>,
    accepted: Mutex<Vec<Instant>>,
    most: AtomicUsize,
}

impl Server {
    pub fn start() -> Server {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let state = State {
            manner: Mutex::new(Manner::Prompt),
            changed: Condvar::new(),
            connections: Mutex::default(),
            accepted: Mutex::default(),
            most: AtomicUsize::new(0),
        };
        let mut server = Server { address: listener.local_addr().unwrap(), state: Arc::new(state), listening: None };
        server.listen(listener);
        server
    }

    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Listens again, where it listened before.
    pub fn restart(&mut self) {
        // The standard library binds with SO_REUSEADDR, so the connections that were cut do not stand in the way.
        self.listen(TcpListener::bind(self.address).unwrap());
    }

    fn listen(&mut self, listener: TcpListener) {
        let (stopped, state) = (Arc::new(AtomicBool::new(false)), Arc::clone(&self.state));
        let flag = Arc::clone(&stopped);
        let accepting = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if flag.load(Ordering::SeqCst) {
                    return;
                }
                state.accept(connection.unwrap());
            }
        });
        self.listening = Some((stopped, accepting));
    }

    /// Ends, as a process does: nobody listens, and every connection is closed.
    pub fn stop(&mut self) {
        let (stopped, accepting) = self.listening.take().unwrap();
        stopped.store(true, Ordering::SeqCst);
        // Wakes who accepts.
        drop(TcpStream::connect(self.address).unwrap());
        accepting.join().unwrap();
        for connection in self.state.connections.lock().unwrap().values() {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    /// Resets every connection, and listens on.
    pub fn reset(&self) {
        for (_, connection) in std::mem::take(&mut *self.state.connections.lock().unwrap()) {
            set_socket_linger(&connection, Some(Duration::ZERO)).unwrap();
            let _ = connection.shutdown(Shutdown::Read);
        }
    }

    pub fn behave(&self, manner: Manner) {
        *self.state.manner.lock().unwrap() = manner;
        self.state.changed.notify_all();
    }

    pub fn accepted_since(&self, instant: Instant) -> usize {
        self.state.accepted.lock().unwrap().iter().filter(|at| **at >= instant).count()
    }

    /// The most connections at once.
    pub fn most(&self) -> usize {
        self.state.most.load(Ordering::SeqCst)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.behave(Manner::Prompt);
        if self.listening.is_some() {
            self.stop();
        }
    }
}

impl State {
    fn accept(self: &Arc<Self>, connection: TcpStream) {
        let mut accepted = self.accepted.lock().unwrap();
        let number = accepted.len();
        accepted.push(Instant::now());
        drop(accepted);
        let mut connections = self.connections.lock().unwrap();
        connections.insert(number, connection.try_clone().unwrap());
        self.most.fetch_max(connections.len(), Ordering::SeqCst);
        drop(connections);
        let state = Arc::clone(self);
        std::thread::spawn(move || {
            let _ = state.serve(connection);
            state.connections.lock().unwrap().remove(&number);
        });
    }

    fn serve(&self, mut connection: TcpStream) -> std::io::Result<()> {
        let mut asked = [0; 6];
        let mut is_lost = false;
        loop {
            connection.read_exact(&mut asked)?;
            assert_eq!(&asked, b"PING\r\n");
            let mut manner = self.manner.lock().unwrap();
            while *manner == Manner::Hung {
                manner = self.changed.wait(manner).unwrap();
            }
            let manner = *manner;
            is_lost |= manner == Manner::Lost;
            match manner {
                _ if is_lost => {}
                Manner::Useless => connection.write_all(b"-LOADING\r\n")?,
                Manner::Slow(time) => {
                    std::thread::sleep(time);
                    connection.write_all(b"+PONG\r\n")?;
                }
                Manner::Prompt | Manner::Hung | Manner::Lost => connection.write_all(b"+PONG\r\n")?,
            }
        }
    }
}
