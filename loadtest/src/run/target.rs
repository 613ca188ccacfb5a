//! The gateways' URLs, read and resolved once: thousands of look-ups would measure the resolver.

use anyhow::{Context as _, bail, ensure};
use tokio::net::lookup_host;

use crate::message::Gateway;

const EXAMPLE: &str = "write e.g. ws://127.0.0.1:4000/socket";

pub(crate) async fn resolve_all(urls: &[String]) -> anyhow::Result<Vec<Gateway>> {
    let mut gateways = Vec::new();
    for url in urls {
        gateways.push(resolve(url).await?);
    }
    ensure!(!gateways.is_empty(), "--url is empty: {EXAMPLE}");
    Ok(gateways)
}

async fn resolve(url: &str) -> anyhow::Result<Gateway> {
    // A credential in it must not be shown.
    ensure!(
        !url.contains('?'),
        "--url must have no query ({EXAMPLE}): tokens go into a header, never into a URL"
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
            bail!("--url {url}: TLS is not built in; connect to the gateway behind the proxy, {EXAMPLE}")
        }
        _ => bail!("--url {url} must begin with ws:// ({EXAMPLE})"),
    }
    let port_at = authority.rfind(':').filter(|colon| !authority[*colon..].contains(']'));
    let (host, port) = match port_at {
        Some(colon) => (&authority[..colon], authority[colon + 1..].parse::<u16>().ok()),
        None => (authority, Some(80)),
    };
    let port = port.with_context(|| format!("--url {url} has no good port: {EXAMPLE}"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    ensure!(!host.is_empty(), "--url {url} names no host: {EXAMPLE}");
    let clean = |text: &str| text.bytes().all(|byte| byte.is_ascii_graphic());
    ensure!(clean(authority) && clean(path), "--url {url} is no URL: {EXAMPLE}");
    let address = lookup_host((host, port))
        .await
        .with_context(|| format!("cannot resolve {host}: check --url"))?
        .next()
        .with_context(|| format!("{host} has no address: check --url"))?;
    let path = format!("{}/websocket?vsn=2.0.0", path.trim_end_matches('/'));
    Ok(Gateway { authority: authority.to_owned(), path, address })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn urls_are_read_as_clients_read_them() {
        for (url, authority, path, address) in [
            ("ws://127.0.0.1:4000/socket", "127.0.0.1:4000", "/socket/websocket?vsn=2.0.0", "127.0.0.1:4000"),
            ("ws://127.0.0.1/a/b/", "127.0.0.1", "/a/b/websocket?vsn=2.0.0", "127.0.0.1:80"),
            ("ws://[::1]:5/socket", "[::1]:5", "/socket/websocket?vsn=2.0.0", "[::1]:5"),
        ] {
            let address = address.parse().unwrap();
            let expected = Gateway { authority: authority.into(), path: path.into(), address };
            assert_eq!(resolve(url).await.unwrap(), expected);
        }
    }

    #[tokio::test]
    async fn a_bad_url_teaches_and_gives_no_secret_away() {
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
            let error = format!("{:#}", resolve(url).await.unwrap_err());
            assert!(
                error.contains("ws://127.0.0.1:4000/socket") && !error.contains("hush"),
                "{url}: {error}"
            );
        }
    }
}
