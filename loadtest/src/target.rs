//! Where the sockets connect to, and as whom: the URL, the TCP connection, and words for a refusal.
//! It does not speak the protocol; client.rs does.

use std::io::ErrorKind;
use std::net::{IpAddr, SocketAddr};

use anyhow::{Context as _, anyhow, bail, ensure};
use tokio::net::{TcpSocket, TcpStream, lookup_host};
use tokio_tungstenite::tungstenite::ClientRequestBuilder;
use tokio_tungstenite::tungstenite::error::Error as WsError;
use tokio_tungstenite::tungstenite::http::Uri;
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::{WebSocketStream, client_async_with_config};
use uuid::Uuid;

use crate::wire::Signer;

/// Allocated at once for each socket by tungstenite, so it decides how many sockets fit. Larger
/// messages are still read, in pieces.
const READ_BUFFER_BYTES: usize = 2 * 1024;
/// Frames of the client are short; this only bounds what piles up if the gateway stops reading.
const WRITE_BUFFER_BYTES_MAX: usize = 16 * 1024;
/// An event holds a row of at most 64 KiB and its old columns; with framing and escapes far less
/// than this.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// Of a refusal's body, what is shown.
const REFUSAL_CHARS_MAX: usize = 300;

/// Where to connect, and as whom.
pub(crate) struct Target {
    uri: Uri,
    address: SocketAddr,
    bind: Vec<IpAddr>,
    pub(crate) topics: Vec<String>,
    signer: Signer,
}

impl Target {
    /// Resolves the host once, because thousands of look-ups would measure the resolver.
    pub(crate) async fn resolve(
        url: &str,
        bind: &[IpAddr],
        topics: &[String],
        signer: Signer,
    ) -> anyhow::Result<Self> {
        const EXAMPLE: &str = "write e.g. ws://127.0.0.1:4000/socket";
        ensure!(
            !url.contains('?'),
            "--url must have no query ({EXAMPLE}): tokens go into a header, never into a URL"
        );
        let uri: Uri = format!("{}/websocket?vsn=2.0.0", url.trim_end_matches('/'))
            .parse()
            .with_context(|| format!("--url {url} is no URL: {EXAMPLE}"))?;
        match uri.scheme_str() {
            Some("ws") => {}
            Some("wss") => {
                bail!("--url {url}: TLS is not built in; connect to the gateway behind the proxy, {EXAMPLE}")
            }
            _ => bail!("--url {url} must begin with ws:// ({EXAMPLE})"),
        }
        let host = uri.host().with_context(|| format!("--url {url} names no host: {EXAMPLE}"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let address = lookup_host((host, uri.port_u16().unwrap_or(80)))
            .await
            .with_context(|| format!("cannot resolve {host}: check --url"))?
            .find(|address| bind.first().is_none_or(|from| from.is_ipv4() == address.is_ipv4()))
            .with_context(|| format!("{host} has no address of the kind of --bind"))?;
        Ok(Self { uri, address, bind: bind.to_vec(), topics: topics.to_vec(), signer })
    }

    /// Opens a WebSocket for a new user of an organisation.
    pub(crate) async fn shake_hands(
        &self,
        index: usize,
        org: Uuid,
    ) -> anyhow::Result<WebSocketStream<TcpStream>> {
        let token = self.signer.token(org)?;
        let request = ClientRequestBuilder::new(self.uri.clone())
            .with_header("Authorization", format!("Bearer {token}"));
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER_BYTES)
            .write_buffer_size(0)
            .max_write_buffer_size(WRITE_BUFFER_BYTES_MAX)
            .max_message_size(Some(MESSAGE_BYTES_MAX));
        let tcp = self.connect(index).await?;
        let (stream, _) = client_async_with_config(request, tcp, Some(config)).await.map_err(refusal)?;
        Ok(stream)
    }

    async fn connect(&self, index: usize) -> anyhow::Result<TcpStream> {
        let socket = if self.address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }
            .context("cannot open a socket: raise `ulimit -n`")?;
        if let Some(from) = self.bind.get(index % self.bind.len().max(1)) {
            socket
                .bind(SocketAddr::new(*from, 0))
                .with_context(|| format!("cannot connect from {from}: check --bind"))?;
        }
        let stream = socket.connect(self.address).await.map_err(|error| match error.kind() {
            ErrorKind::AddrNotAvailable => {
                anyhow!("no free port is left on this side: give several source addresses with --bind")
            }
            _ => anyhow!(
                "cannot connect to {}: {error}. Is the gateway running there? See --url",
                self.address
            ),
        })?;
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

/// Says in words why a handshake failed. The token is in the request alone, so it can't appear.
fn refusal(error: WsError) -> anyhow::Error {
    match error {
        WsError::Http(response) => {
            let status = response.status();
            let body = response.body().as_deref().unwrap_or_default();
            let body: String = String::from_utf8_lossy(body).trim().chars().take(REFUSAL_CHARS_MAX).collect();
            let advice = match status.as_u16() {
                401 | 403 => ". Compare --jwt-secret, --jwt-audience and --jwt-issuer with the gateway's",
                404 => ". Compare the path of --url with the gateway's",
                429 | 503 => ". It is at a limit, or not ready: try again, or a lower --connect-rate",
                _ => "",
            };
            anyhow!("the gateway refused the handshake: {status} {body}{advice}")
        }
        error => anyhow!("the handshake failed: {error}. Is --url the gateway's?"),
    }
}
