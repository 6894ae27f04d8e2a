//! Connections by HTTP/1.1, which are well when a GET of one path is answered with success.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;

use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1::{self, SendRequest};
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::connect::Manager;
use super::core::Returned;
use super::trust;

/// More of an answer to a sign of life is not read, and the connection not used again.
const ANSWER_MAX: usize = 64 * 1024;

/// Connections by HTTP/1.1 to one server, such as `http://qdrant:6333/readyz`. It is well when a GET of the path is answered
/// with a status of success.
#[derive(Debug, Clone)]
pub struct Http {
    host: String,
    port: u16,
    /// As the header `Host` has it.
    authority: String,
    path: String,
    tls: Option<Arc<ClientConfig>>,
}

/// Why a server was not reached by HTTP, or gave no sign of life.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Not an address. What was written is not repeated: a secret may be in it.
    #[error("this is no address for HTTP: {0}; write http://host:port/path")]
    Address(&'static str),
    /// The certificates to trust could not be found.
    #[error("cannot use TLS: {0}")]
    Tls(String),
    /// No connection.
    #[error("cannot connect to {server}: {source}")]
    Connect {
        /// The server, as `host:port`.
        server: String,
        /// Why.
        source: std::io::Error,
    },
    /// HTTP failed.
    #[error("{server} did not answer: {source}")]
    Exchange {
        /// The server.
        server: String,
        /// Why.
        source: hyper::Error,
    },
    /// The server answered otherwise than one that is well.
    #[error("{server} answered {status}, where one that is well answers 200 to 299")]
    Status {
        /// The server.
        server: String,
        /// Its answer.
        status: StatusCode,
    },
    /// The server's answer was too long, or was cut off.
    #[error("{server} answered more than {ANSWER_MAX} bytes, or not all of its answer")]
    Answer {
        /// The server.
        server: String,
    },
}

impl Http {
    /// Connections to the server of `url`, and the path that tells whether it is well.
    ///
    /// # Errors
    /// [`HttpError::Address`]; [`HttpError::Tls`] for `https` where this system trusts nobody.
    pub fn new(url: &str) -> Result<Http, HttpError> {
        let uri: Uri = url.parse().map_err(|_| HttpError::Address("it is not a URL"))?;
        let (tls, port) = match uri.scheme_str() {
            Some("http") => (None, 80),
            Some("https") => (Some(trust::of_this_system().map_err(HttpError::Tls)?), 443),
            _ => return Err(HttpError::Address("it does not begin with http:// or https://")),
        };
        let authority = uri.authority().ok_or(HttpError::Address("it names no host"))?;
        if authority.as_str().contains('@') {
            return Err(HttpError::Address("a user and a password in it are not sent"));
        }
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        let port = match authority.as_str().len() > authority.host().len() {
            true => authority.port_u16().filter(|port| *port > 0).ok_or(HttpError::Address("its port is no port"))?,
            false => port,
        };
        Ok(Http { host, port, authority: authority.to_string(), path, tls })
    }

    fn server(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    async fn handshake(
        &self,
        way: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    ) -> Result<HttpConnection, HttpError> {
        let failed = |source| HttpError::Exchange { server: self.server(), source };
        let (sender, connection) = http1::handshake(TokioIo::new(way)).await.map_err(failed)?;
        let task = tokio::spawn(async move { drop(connection.await) });
        Ok(HttpConnection { sender, task: task.abort_handle() })
    }
}

impl Manager for Http {
    type Connection = HttpConnection;
    type Error = HttpError;

    async fn connect(&self) -> Result<HttpConnection, HttpError> {
        let failed = |source| HttpError::Connect { server: self.server(), source };
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let Some(tls) = &self.tls else { return self.handshake(stream).await };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| failed(std::io::Error::other(error)))?;
        let stream = TlsConnector::from(Arc::clone(tls)).connect(name, stream).await.map_err(failed)?;
        self.handshake(stream).await
    }

    async fn is_valid(&self, connection: &mut HttpConnection) -> Result<(), HttpError> {
        let failed = |source| HttpError::Exchange { server: self.server(), source };
        let request = Request::get(&self.path)
            .header(header::HOST, &self.authority)
            .header(header::USER_AGENT, concat!("guardiand/", env!("CARGO_PKG_VERSION")))
            .body(Full::default())
            .map_err(|_| HttpError::Address("its path cannot be asked for"))?;
        connection.ready().await.map_err(failed)?;
        let answer = connection.send_request(request).await.map_err(failed)?;
        let status = answer.status();
        // What is not read stays on the way, before the next answer.
        let read = Limited::new(answer.into_body(), ANSWER_MAX).collect().await;
        read.map_err(|_| HttpError::Answer { server: self.server() })?;
        if status.is_success() { Ok(()) } else { Err(HttpError::Status { server: self.server(), status }) }
    }

    fn recycle(&self, connection: &mut HttpConnection) -> Returned {
        match (connection.is_closed(), connection.is_ready()) {
            (true, _) => Returned::Broken,
            // An answer is outstanding, or was not read to its end.
            (false, false) => Returned::Retired,
            (false, true) => Returned::Good,
        }
    }
}

/// A connection by HTTP/1.1: what sends requests on it. Dropped, it is closed.
pub struct HttpConnection {
    sender: SendRequest<Full<Bytes>>,
    task: AbortHandle,
}

impl Deref for HttpConnection {
    type Target = SendRequest<Full<Bytes>>;

    fn deref(&self) -> &SendRequest<Full<Bytes>> {
        &self.sender
    }
}

impl DerefMut for HttpConnection {
    fn deref_mut(&mut self) -> &mut SendRequest<Full<Bytes>> {
        &mut self.sender
    }
}

impl Drop for HttpConnection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_what_cannot_be_asked_is_said_without_repeating_it() {
        for (url, host, port, path) in [
            ("http://a.example:6333/readyz", "a.example", 6333, "/readyz"),
            ("http://a.example", "a.example", 80, "/"),
            ("http://[::1]:9/x?y=1", "::1", 9, "/x?y=1"),
        ] {
            let http = Http::new(url).unwrap();
            assert_eq!((http.host.as_str(), http.port, http.path.as_str()), (host, port, path), "{url}");
        }
        for url in ["http://u:hunter2@h/", "ftp://hunter2/", "hunter2", "http:///hunter2", "http://h:hunter2/"] {
            let error = Http::new(url).unwrap_err();
            assert!(matches!(error, HttpError::Address(_)), "{url}: {error:?}");
            assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
        }
    }
}
