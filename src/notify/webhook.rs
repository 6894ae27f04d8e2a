//! The webhook: one POST of the notice's JSON, over HTTP/1.1, plain or with TLS and the system's certificates. Only a 2xx is
//! an answer; redirects are not followed. The URL may hold a secret: never in a message, but for its host.

use std::sync::Arc;

use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::{Request, Uri, header};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto::ring};

/// What is wrong with a webhook's URL, if anything; for the configuration.
pub fn url_problem(url: &str) -> Option<String> {
    Target::of(url).err()
}

struct Target {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    path: String,
}

impl Target {
    fn of(url: &str) -> Result<Target, String> {
        let uri = url.parse::<Uri>().map_err(|error| format!("is not a URL: {error}"))?;
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err("must begin with http:// or https://".to_owned()),
        };
        let authority = uri.authority().filter(|authority| !authority.host().is_empty()).ok_or("names no host")?;
        if authority.as_str().contains('@') {
            return Err("must not hold a user or a password: put a token into its path or query".to_owned());
        }
        let port = match authority.as_str().len() > authority.host().len() {
            true => authority.port_u16().filter(|port| *port > 0).ok_or("has no valid port")?,
            false if tls => 443,
            false => 80,
        };
        let host = authority.host().trim_start_matches('[').trim_end_matches(']').to_owned();
        let path = uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
        Ok(Target { tls, host, port, authority: authority.to_string(), path })
    }
}

/// Posts `body` once.
pub(super) async fn post(url: &str, body: Vec<u8>) -> Result<(), String> {
    let target = Target::of(url).map_err(|problem| format!("the webhook {problem}"))?;
    let Target { host, port, .. } = &target;
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("{host}:{port} {what}: {error}");
    let stream =
        TcpStream::connect((host.as_str(), *port)).await.map_err(|error| failed("cannot be reached", &error))?;
    let status = match target.tls {
        false => exchange(stream, &target, body).await,
        true => {
            let name = ServerName::try_from(host.clone()).map_err(|error| failed("has no name for TLS", &error))?;
            // The certificates are read from disk: not on this thread.
            let config = tokio::task::spawn_blocking(trust).await.map_err(|error| error.to_string())??;
            let connector = TlsConnector::from(Arc::new(config));
            let stream = connector.connect(name, stream).await.map_err(|error| failed("refuses TLS", &error))?;
            exchange(stream, &target, body).await
        }
    };
    match status.map_err(|error| failed("did not answer", &error))? {
        200..=299 => Ok(()),
        status => Err(format!("{host}:{port} answered {status}")),
    }
}

async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    target: &Target,
    body: Vec<u8>,
) -> Result<u16, String> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
    let request = Request::post(&target.path)
        .header(header::HOST, &target.authority)
        .header(header::USER_AGENT, concat!("guardiand/", env!("CARGO_PKG_VERSION")))
        .header(header::CONTENT_TYPE, "application/json")
        .body(Full::new(Bytes::from(body)))
        .map_err(|error| error.to_string())?;
    // Both in this task: dropped at its deadline, nothing of it stays behind.
    let answer = sender.send_request(request);
    tokio::pin!(connection, answer);
    let answered = tokio::select! {
        answered = &mut answer => answered,
        // The answer may have come with the end of the connection.
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => return Err(error.to_string()),
        },
    };
    answered.map(|answer| answer.status().as_u16()).map_err(|error| error.to_string())
}

fn trust() -> Result<ClientConfig, String> {
    let mut roots = RootCertStore::empty();
    let found = rustls_native_certs::load_native_certs();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("this system has no certificates to trust (ca-certificates): TLS cannot be used".to_owned());
    }
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()));
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_is_taken_apart_and_what_cannot_be_posted_to_is_said() {
        let parts = |url: &str| Target::of(url).map(|it| (it.tls, it.host, it.port, it.path));
        for (url, expected) in [
            ("http://a.example/x?y=1", (false, "a.example", 80, "/x?y=1")),
            ("https://a.example", (true, "a.example", 443, "/")),
            ("http://[::1]:8080/", (false, "::1", 8080, "/")),
            ("http://127.0.0.1:9/", (false, "127.0.0.1", 9, "/")),
        ] {
            let (tls, host, port, path) = expected;
            assert_eq!(parts(url), Ok((tls, host.to_owned(), port, path.to_owned())), "{url}");
        }
        for url in ["ftp://a/", "/path", "http://", "https://u:p@a/", "http://a:0/", "http://a:99999/", "http://a b/"] {
            assert!(url_problem(url).is_some(), "{url}");
        }
    }
}
