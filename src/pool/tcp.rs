//! Connections by TCP to anything, with or without a sign of life that is written and read.

use std::borrow::Cow;
use std::io;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use super::connect::Manager;
use super::core::Returned;

/// What is written to a server, and what a well one answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ping {
    /// Written to the server.
    pub ask: Cow<'static, [u8]>,
    /// How its answer begins; nothing of the answer may follow this.
    pub answer: Cow<'static, [u8]>,
}

impl Ping {
    /// Redis, and what speaks like it: `PING` is answered by `PONG`, by one that lets in without a password.
    pub fn redis() -> Ping {
        Ping { ask: Cow::Borrowed(b"PING\r\n"), answer: Cow::Borrowed(b"+PONG\r\n") }
    }
}

/// Connections by TCP. A connection that the server closed, or that answered what nobody read, is not used again.
#[derive(Debug, Clone)]
pub struct Tcp {
    /// The server, as `host:port`.
    address: String,
    ping: Option<Ping>,
}

/// Why a server was not reached by TCP, or gave no sign of life.
#[derive(Debug, thiserror::Error)]
pub enum TcpError {
    /// No connection.
    #[error("cannot connect to {address}: {source}")]
    Connect {
        /// The server.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The connection failed.
    #[error("{address} gave no sign of life: {source}")]
    Ping {
        /// The server.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The server answered otherwise than one that is well.
    #[error("{address} answered {answer:?}, where one that is well answers {expected:?}")]
    Answer {
        /// The server.
        address: String,
        /// The beginning of its answer.
        answer: String,
        /// What was expected.
        expected: String,
    },
}

impl Tcp {
    /// Connections to `address`, as `host:port`. Without a ping a server counts as well when it lets in, and a connection as
    /// well until it is closed.
    pub fn new(address: &str, ping: Option<Ping>) -> Tcp {
        Tcp { address: address.to_owned(), ping }
    }

    fn ping_failed(&self, source: io::Error) -> TcpError {
        TcpError::Ping { address: self.address.clone(), source }
    }
}

impl Manager for Tcp {
    type Connection = TcpStream;
    type Error = TcpError;

    async fn connect(&self) -> Result<TcpStream, TcpError> {
        let failed = |source| TcpError::Connect { address: self.address.clone(), source };
        let stream = TcpStream::connect(&self.address).await.map_err(failed)?;
        // Short questions and answers: one must not wait for the next to fill a packet.
        stream.set_nodelay(true).map_err(failed)?;
        Ok(stream)
    }

    async fn is_valid(&self, connection: &mut TcpStream) -> Result<(), TcpError> {
        let closed = || self.ping_failed(io::ErrorKind::ConnectionAborted.into());
        let Some(Ping { ask, answer }) = &self.ping else {
            return if self.recycle(connection) == Returned::Good { Ok(()) } else { Err(closed()) };
        };
        connection.write_all(ask).await.map_err(|error| self.ping_failed(error))?;
        // Room for an error in place of the answer.
        let mut got = vec![0; answer.len() + 64];
        let mut filled = 0;
        while filled < answer.len() {
            match connection.read(&mut got[filled..]).await {
                Ok(0) => return Err(closed()),
                Ok(more) => filled += more,
                Err(error) => return Err(self.ping_failed(error)),
            }
            // An error may be shorter than the answer that is waited for: each piece is looked at as it comes.
            if !answer.starts_with(&got[..filled]) {
                let words = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim_end().to_owned();
                let (answer, expected) = (words(&got[..filled]), words(answer));
                return Err(TcpError::Answer { address: self.address.clone(), answer, expected });
            }
        }
        Ok(())
    }

    fn recycle(&self, connection: &mut TcpStream) -> Returned {
        match connection.try_read(&mut [0]) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Returned::Good,
            // Somebody did not wait for his answer.
            Ok(more) if more > 0 => Returned::Retired,
            Ok(_) | Err(_) => Returned::Broken,
        }
    }
}
