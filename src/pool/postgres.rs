//! Connections to PostgreSQL.

mod tls;

use std::error::Error as _;
use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::AbortHandle;
use tokio_postgres::config::SslMode;
use tokio_postgres::{Client, Config, NoTls};
use tokio_rustls::rustls::ClientConfig;

use self::tls::Tls;
use super::connect::Manager;
use super::core::Returned;
use super::trust;

/// A connection that is dropped says goodbye; one whose server does not listen is cut after this.
const GOODBYE: Duration = Duration::from_secs(1);

/// Connections to a PostgreSQL server.
///
/// What is left in the middle of a transaction that was begun by hand comes to the next caller like that: begin transactions
/// by [`Client::transaction`], which rolls back what is dropped, or mark the guard as retired.
#[derive(Clone)]
pub struct Postgres {
    config: Config,
    /// `None` for `sslmode=disable`.
    tls: Option<Tls>,
}

/// Why a PostgreSQL server was not reached, or gave no sign of life.
#[derive(Debug, thiserror::Error)]
pub enum PostgresError {
    /// Not the address of a server. What was written is not repeated: a password may be in it.
    #[error("this is no PostgreSQL address: write postgres://user:password@host:port/database?sslmode=require")]
    Address,
    /// The certificates to trust could not be found.
    #[error("cannot use TLS: {0}; or write sslmode=disable where the way to the server is safe")]
    Tls(String),
    /// No connection.
    #[error("cannot connect to PostgreSQL: {}", causes(.0))]
    Connect(#[source] tokio_postgres::Error),
    /// No sign of life.
    #[error("PostgreSQL gave no sign of life: {}", causes(.0))]
    Ping(#[source] tokio_postgres::Error),
}

impl PostgresError {
    /// What the server itself called it, such as `28P01` for a wrong password
    /// (<https://www.postgresql.org/docs/current/errcodes-appendix.html>).
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            PostgresError::Connect(error) | PostgresError::Ping(error) => Some(error.code()?.code()),
            PostgresError::Address | PostgresError::Tls(_) => None,
        }
    }
}

/// An error and what caused it, in one line: the crate's own words are `db error`.
fn causes(error: &tokio_postgres::Error) -> String {
    let mut words = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        words.push_str(&format!(": {error}"));
        cause = error.source();
    }
    words
}

impl Postgres {
    /// Connections to the server at `address`, a URL or the `key=value` form of libpq. TLS is used where the server offers it
    /// (always with `sslmode=require`, never with `sslmode=disable`), and then the server's certificate must be valid for its
    /// name and trusted by this system.
    ///
    /// # Errors
    /// [`PostgresError::Address`]; [`PostgresError::Tls`] where this system trusts nobody.
    pub fn new(address: &str) -> Result<Postgres, PostgresError> {
        let config: Config = address.parse().map_err(|_| PostgresError::Address)?;
        let tls = match config.get_ssl_mode() {
            SslMode::Disable => None,
            _ => Some(Tls::new(trust::of_this_system().map_err(PostgresError::Tls)?)),
        };
        Ok(Postgres { config, tls })
    }

    /// The same, with other certificates to trust than this system's, or a client's certificate.
    ///
    /// # Errors
    /// [`PostgresError::Address`].
    pub fn with_tls(address: &str, tls: Arc<ClientConfig>) -> Result<Postgres, PostgresError> {
        let config: Config = address.parse().map_err(|_| PostgresError::Address)?;
        let tls = (config.get_ssl_mode() != SslMode::Disable).then(|| Tls::new(tls));
        Ok(Postgres { config, tls })
    }
}

impl std::fmt::Debug for Postgres {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // `Config` hides the password, and would show all else that was written.
        let Postgres { config, tls } = self;
        f.debug_struct("Postgres").field("hosts", &config.get_hosts()).field("tls", &tls.is_some()).finish()
    }
}

impl Manager for Postgres {
    type Connection = PostgresConnection;
    type Error = PostgresError;

    async fn connect(&self) -> Result<PostgresConnection, PostgresError> {
        let runtime = Handle::current();
        // The task ends with the connection, and its error is what every call is told.
        let (client, task) = match self.tls.clone() {
            Some(tls) => {
                let (client, way) = self.config.connect(tls).await.map_err(PostgresError::Connect)?;
                (client, runtime.spawn(async move { drop(way.await) }))
            }
            None => {
                let (client, way) = self.config.connect(NoTls).await.map_err(PostgresError::Connect)?;
                (client, runtime.spawn(async move { drop(way.await) }))
            }
        };
        Ok(PostgresConnection { client, task: task.abort_handle(), runtime })
    }

    async fn is_valid(&self, connection: &mut PostgresConnection) -> Result<(), PostgresError> {
        // An empty query is answered inside a transaction that failed as well.
        connection.client.simple_query("").await.map(drop).map_err(PostgresError::Ping)
    }

    fn recycle(&self, connection: &mut PostgresConnection) -> Returned {
        if connection.client.is_closed() { Returned::Broken } else { Returned::Good }
    }
}

/// A connection to PostgreSQL: a [`Client`], whose way is closed with it.
pub struct PostgresConnection {
    client: Client,
    task: AbortHandle,
    runtime: Handle,
}

impl Deref for PostgresConnection {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}

impl DerefMut for PostgresConnection {
    fn deref_mut(&mut self) -> &mut Client {
        &mut self.client
    }
}

impl Drop for PostgresConnection {
    fn drop(&mut self) {
        // With an answer outstanding the task would wait for a server that hangs for as long as it hangs.
        let task = self.task.clone();
        if !task.is_finished() {
            drop(self.runtime.spawn(async move {
                tokio::time::sleep(GOODBYE).await;
                task.abort();
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_in_no_words() {
        let secret = "hunter2";
        for address in ["postgres://u:hunter2@h:x/d", "host=h hunter2=hunter2", "host=h port=hunter2"] {
            let error = Postgres::new(address).unwrap_err();
            assert!(!format!("{error} {error:?}").contains(secret), "{error:?}");
        }
        let manager = Postgres::new("postgres://u:hunter2@h/d?sslmode=disable").unwrap();
        assert!(!format!("{manager:?}").contains(secret), "{manager:?}");
    }
}
