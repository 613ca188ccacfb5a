//! The check of `Host` on the admin listener, which does not authenticate.
//!
//! A page of an attacker can point its own name at this machine (DNS rebinding), and then reads the answers
//! as those of its own origin. Its requests carry that name as `Host`. No such name is an IP address, so
//! addresses are always allowed: Prometheus and the probes of Kubernetes use the address of the pod.

use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::HOST;
use axum::http::uri::Authority;
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};

use super::error::Rejection;

/// Name of this machine, which browsers resolve without DNS.
const LOCALHOST: &str = "localhost";

/// Paths that show nothing beyond the state of the node, for probes under any name.
const OPEN_PATHS: [&str; 2] = ["/livez", "/readyz"];

/// Names under which the admin listener may be used, beside `localhost` and addresses.
#[derive(Clone, Debug, Default)]
pub struct AdminHosts(Arc<[String]>);

impl AdminHosts {
    /// Parses a list of names.
    ///
    /// # Errors
    /// If an entry is not the name of a host. The number is its position.
    pub fn parse(names: &[String]) -> Result<Self, usize> {
        let is_name_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let names = names.iter().map(|name| name.trim()).filter(|name| !name.is_empty());
        let parse = |(n, name): (usize, &str)| match name.chars().all(is_name_char) {
            true => Ok(name.trim_end_matches('.').to_ascii_lowercase()),
            false => Err(n + 1),
        };
        names.enumerate().map(parse).collect::<Result<Vec<_>, _>>().map(|names| Self(names.into()))
    }

    /// Whether the request is for an allowed host. It has exactly one `Host`, and an absolute target names an
    /// allowed one too.
    pub(super) fn allow<B>(&self, request: &Request<B>) -> bool {
        let mut hosts = request.headers().get_all(HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else { return false };
        let authority = host.to_str().ok().and_then(|host| Authority::from_str(host).ok());
        authority.is_some_and(|authority| self.allow_authority(&authority))
            && request.uri().authority().is_none_or(|authority| self.allow_authority(authority))
    }

    fn allow_authority(&self, authority: &Authority) -> bool {
        if authority.as_str().contains('@') {
            return false;
        }
        let host = authority.host();
        let address = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
        let name = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        address.parse::<IpAddr>().is_ok() || name == LOCALHOST || self.0.contains(&name)
    }
}

/// Rejects a request for another host, except to a probe.
pub(super) async fn check(State(hosts): State<AdminHosts>, request: Request, next: Next) -> Response {
    if hosts.allow(&request) || OPEN_PATHS.contains(&request.uri().path()) {
        next.run(request).await
    } else {
        Rejection::AdminHost.into_response()
    }
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    fn is_allowed(target: &str, hosts: &[&str]) -> bool {
        let names = AdminHosts::parse(&["Warden.monitoring.svc".to_owned(), " node-1. ".to_owned()]);
        let request = hosts.iter().fold(Request::get(target), |request, host| request.header(HOST, *host));
        names.expect("names").allow(&request.body(Body::empty()).expect("a request"))
    }

    #[test]
    fn only_localhost_addresses_and_listed_names_are_allowed() {
        for host in [
            "localhost",
            "LocalHost:4001",
            "localhost.:4001",
            "127.0.0.1",
            "127.0.0.1:4001",
            "10.1.2.3:4001",
            "[::1]:4001",
            "[2001:db8::1]",
            "warden.monitoring.svc:4001",
            "node-1",
        ] {
            assert!(is_allowed("/metrics", &[host]), "{host}");
        }
        for host in [
            "",
            "evil.example",
            "evil.example:4001",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "evil.example@127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f000001",
            "xwarden.monitoring.svc",
            "monitoring.svc",
            "[::1",
            "localhost evil.example",
        ] {
            assert!(!is_allowed("/metrics", &[host]), "{host}");
        }
        assert!(!is_allowed("/metrics", &[]) && !is_allowed("/metrics", &["localhost", "localhost"]));
        assert!(!is_allowed("http://evil.example/metrics", &["localhost"]));
        assert!(is_allowed("http://localhost:4001/metrics", &["localhost"]));
        for wrong in ["http://x", "x:1", "*", "a/b", "user@x"] {
            assert_eq!(AdminHosts::parse(&["x".to_owned(), wrong.to_owned()]).err(), Some(2), "{wrong}");
        }
    }
}
