//! The gateway's socket endpoint, parsed from a URL. Its host is resolved once per run, because thousands of
//! look-ups would measure the resolver.

use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use tokio::net::lookup_host;

const EXAMPLE: &str = "write e.g. ws://127.0.0.1:4000/socket";

/// A socket endpoint of a gateway.
#[derive(Serialize, Deserialize, Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Host and port as written in the URL.
    pub authority: String,
    /// Path and query of the WebSocket.
    pub path: String,
    /// Resolved address.
    pub address: SocketAddr,
}

impl Endpoint {
    /// Parses and resolves a URL such as `ws://127.0.0.1:4000/socket`.
    pub async fn resolve(url: &str) -> anyhow::Result<Self> {
        // Checked first, so that no later error shows a credential from the query.
        ensure!(
            !url.contains('?'),
            "--url must have no query ({EXAMPLE}): the token is sent in a header, never in a URL"
        );
        let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
        let (authority, path) = rest.find('/').map_or((rest, ""), |slash| rest.split_at(slash));
        ensure!(
            !authority.contains('@'),
            "--url must have no user or password ({EXAMPLE}): tokens are signed with --jwt-secret"
        );
        match scheme {
            "ws" => {}
            "wss" => {
                bail!("--url {url}: TLS is not supported. Connect to the gateway behind its proxy, {EXAMPLE}")
            }
            _ => bail!("--url {url} must begin with ws:// ({EXAMPLE})"),
        }
        let (host, port) = host_and_port(authority);
        let port = port.with_context(|| format!("--url {url} has no valid port: {EXAMPLE}"))?;
        ensure!(!host.is_empty(), "--url {url} has no host: {EXAMPLE}");
        let is_graphic = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
        ensure!(is_graphic(authority) && is_graphic(path), "--url {url} is not a URL: {EXAMPLE}");
        let address = lookup_host((host, port))
            .await
            .with_context(|| format!("cannot resolve {host}: check --url"))?
            .next()
            .with_context(|| format!("{host} has no address: check --url"))?;
        let path = format!("{}/websocket?vsn=2.0.0", path.trim_end_matches('/'));
        Ok(Self { authority: authority.to_owned(), path, address })
    }
}

/// Splits `host`, `host:port` and `[ipv6]:port`. The port is `None` if it is not a number.
fn host_and_port(authority: &str) -> (&str, Option<u16>) {
    let port_at = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
    let (host, port) = match port_at {
        Some(colon) => (&authority[..colon], authority[colon + 1..].parse().ok()),
        None => (authority, Some(80)),
    };
    (host.trim_start_matches('[').trim_end_matches(']'), port)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urls_have_a_host_an_optional_port_and_a_path() {
        for (url, authority, path, address) in [
            ("ws://127.0.0.1:4000/socket", "127.0.0.1:4000", "/socket/websocket?vsn=2.0.0", "127.0.0.1:4000"),
            ("ws://127.0.0.1/a/b/", "127.0.0.1", "/a/b/websocket?vsn=2.0.0", "127.0.0.1:80"),
            ("ws://[::1]:5/socket", "[::1]:5", "/socket/websocket?vsn=2.0.0", "[::1]:5"),
        ] {
            let address = address.parse().unwrap();
            let expected = Endpoint { authority: authority.into(), path: path.into(), address };
            assert_eq!(Endpoint::resolve(url).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn errors_show_an_example_and_never_a_secret() {
        for url in [
            "127.0.0.1:4000",
            "http://127.0.0.1:4000/socket",
            "wss://127.0.0.1/socket",
            "ws:///socket",
            "ws://127.0.0.1:port/socket",
            "ws://127.0.0.1:4000/so cket",
            "ws://127.0.0.1:4000/socket?token=hush",
            "ws://user:hush@127.0.0.1:4000/socket",
        ] {
            let error = format!("{:#}", Endpoint::resolve(url).await.unwrap_err());
            assert!(
                error.contains("ws://127.0.0.1:4000/socket") && !error.contains("hush"),
                "{url}: {error}"
            );
        }
    }
}
