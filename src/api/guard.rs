//! What every request must pass: a method that only reads, and a Host that is ours.
//!
//! A page in somebody's browser can make a name of its own resolve to 127.0.0.1 and so read a loopback server (DNS
//! rebinding). The browser then still sends that name as Host: so unknown names are refused.

use std::net::{IpAddr, SocketAddr};

use axum::extract::{Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use super::http::problem;

/// Names that HTTP answers to.
#[derive(Debug, Clone)]
pub struct Hosts {
    names: std::sync::Arc<[String]>,
    /// Bound to every address: then any address is ours. An address cannot be rebound, only a name can.
    any_address: bool,
}

impl Hosts {
    /// Always: localhost, 127.0.0.1, `[::1]` and the bound address; `further` from the configuration.
    pub fn new(bound: SocketAddr, further: &[String]) -> Hosts {
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), "[::1]".to_owned()];
        names.push(match bound.ip() {
            IpAddr::V4(ip) => ip.to_string(),
            IpAddr::V6(ip) => format!("[{ip}]"),
        });
        names.extend(further.iter().map(|name| name.to_ascii_lowercase()));
        Hosts { names: names.into(), any_address: bound.ip().is_unspecified() }
    }

    fn allows(&self, host: &str) -> bool {
        let name = without_port(host).to_ascii_lowercase();
        let address = || name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>().is_ok();
        self.names.contains(&name) || (self.any_address && address())
    }
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !inside_brackets(name) => name,
        _ => host,
    }
}

/// In `[::1]` the last colon is the address's own.
fn inside_brackets(name: &str) -> bool {
    name.starts_with('[') && !name.ends_with(']')
}

const HEADERS: [(HeaderName, &str); 6] = [
    (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    (header::X_FRAME_OPTIONS, "DENY"),
    (header::REFERRER_POLICY, "no-referrer"),
    (header::CACHE_CONTROL, "no-store"),
    (
        header::CONTENT_SECURITY_POLICY,
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (HeaderName::from_static("cross-origin-resource-policy"), "same-origin"),
];

/// The middleware.
pub(super) async fn guard(State(hosts): State<Hosts>, request: Request, next: Next) -> Response {
    let mut response = match refusal(&hosts, &request) {
        Some(refusal) => refusal,
        None => next.run(request).await,
    };
    for (name, value) in HEADERS {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}

fn refusal(hosts: &Hosts, request: &Request) -> Option<Response> {
    // HTTP/1.1 may carry the host in the request line instead.
    let header = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
    let host = header.or_else(|| request.uri().authority().map(|authority| authority.as_str()));
    if !host.is_some_and(|host| hosts.allows(host)) {
        let words = "this Host is not one of ours: add it to `http_hosts` in [guardian]";
        return Some(problem(StatusCode::MISDIRECTED_REQUEST, words));
    }
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let words = "HTTP is read-only: actions go through the control socket (see `guardiand --help`)";
        let allow = [(header::ALLOW, "GET, HEAD")];
        return Some((allow, problem(StatusCode::METHOD_NOT_ALLOWED, words)).into_response());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_names_are_answered() {
        let hosts = Hosts::new("192.0.2.7:9617".parse().unwrap(), &["Guard.Example".to_owned()]);
        for host in
            ["localhost", "LOCALHOST:9617", "127.0.0.1:1", "[::1]:9617", "[::1]", "192.0.2.7:9617", "guard.example"]
        {
            assert!(hosts.allows(host), "{host}");
        }
        for host in ["", "evil.example", "localhost.evil.example", "127.0.0.1.evil.example:9617", "10.0.0.1", "[::2]"] {
            assert!(!hosts.allows(host), "{host}");
        }
        let everywhere = Hosts::new("0.0.0.0:9617".parse().unwrap(), &[]);
        assert!(everywhere.allows("10.0.0.1:9617") && everywhere.allows("[fe80::1]:9617"));
        assert!(!everywhere.allows("evil.example:9617"));
    }
}
