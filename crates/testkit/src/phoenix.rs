//! Phoenix Channels V2 over a WebSocket, with errors as values: for clients whose connections are meant to
//! break. [`Client`](crate::Client) adds expectations to it.

use std::net::{Ipv4Addr, SocketAddr};

use futures_util::{SinkExt as _, StreamExt as _};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpSocket, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{HeaderName, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async_with_config};

use crate::within;

/// The gateway's endpoint, with the protocol version that it speaks.
pub const PATH: &str = "/socket/websocket?vsn=2.0.0";

/// Reference of the heartbeats that [`send_heartbeat`] sends.
pub const HEARTBEAT_REF: &str = "h";

/// A WebSocket connection to a gateway.
pub type Socket<S = TcpStream> = WebSocketStream<S>;

/// A handshake that did not lead to a session.
#[derive(Debug)]
pub enum ConnectError {
    /// The gateway answered with another status than 101.
    Rejected {
        /// HTTP status.
        status: u16,
        /// JSON body; `Null` if the body was no JSON.
        body: Value,
    },
    /// No connection, or one that broke during the handshake.
    Failed(String),
}

impl ConnectError {
    /// HTTP status of a rejected handshake.
    #[must_use]
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Rejected { status, .. } => Some(*status),
            Self::Failed(_) => None,
        }
    }
}

/// Connects from the loopback address 127.0.`block`.`n`, because limits per address would stop one address.
///
/// # Errors
/// If the connection fails.
pub async fn stream_from(to: SocketAddr, block: u8, n: u8) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((Ipv4Addr::new(127, 0, block, n), 0)))?;
    let stream = socket.connect(to).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Opens a WebSocket on a connected stream, with these headers.
///
/// # Errors
/// [`ConnectError`], also if the stream breaks.
///
/// # Panics
/// If a header name, a header value or the path is not valid HTTP.
pub async fn upgrade<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    path_and_query: &str,
    headers: &[(&str, &str)],
    config: Option<WebSocketConfig>,
) -> Result<(Socket<S>, Response<Option<Vec<u8>>>), ConnectError> {
    let url = format!("ws://gateway.example{path_and_query}");
    let mut request: Request<()> = url.into_client_request().expect("a request");
    for (name, value) in headers {
        let name: HeaderName = name.parse().expect("a header name");
        request.headers_mut().append(name, value.parse().expect("a header value"));
    }
    match client_async_with_config(request, stream, config).await {
        Ok(opened) => Ok(opened),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            let body = serde_json::from_slice(body).unwrap_or(Value::Null);
            Err(ConnectError::Rejected { status: response.status().as_u16(), body })
        }
        Err(error) => Err(ConnectError::Failed(error.to_string())),
    }
}

/// Connects and opens a WebSocket with these headers.
///
/// # Errors
/// [`ConnectError`].
///
/// # Panics
/// If a header name, a header value or the path is not valid HTTP, or after [`DEADLINE`](crate::DEADLINE).
pub async fn handshake(
    addr: SocketAddr,
    path_and_query: &str,
    headers: &[(&str, &str)],
) -> Result<(Socket, Response<Option<Vec<u8>>>), ConnectError> {
    let stream = TcpStream::connect(addr).await.map_err(|e| ConnectError::Failed(e.to_string()))?;
    within("the handshake", upgrade(stream, path_and_query, headers, None)).await
}

/// Opens an authenticated socket on a connected stream.
///
/// # Errors
/// [`ConnectError`], also if the stream breaks.
pub async fn connect_over<S: AsyncRead + AsyncWrite + Unpin>(
    stream: S,
    token: &str,
    config: Option<WebSocketConfig>,
) -> Result<Socket<S>, ConnectError> {
    let bearer = format!("Bearer {token}");
    upgrade(stream, PATH, &[("authorization", &bearer)], config).await.map(|(socket, _)| socket)
}

/// Connects and opens an authenticated socket.
///
/// # Errors
/// [`ConnectError`].
pub async fn connect(addr: SocketAddr, token: &str) -> Result<Socket, ConnectError> {
    let stream = TcpStream::connect(addr).await.map_err(|e| ConnectError::Failed(e.to_string()))?;
    connect_over(stream, token, None).await
}

/// A message of the gateway: `[join_ref, ref, topic, event, payload]`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct PhoenixMessage {
    /// Reference of the join, or `null`.
    pub join_ref: Value,
    /// Reference of the push that this replies to, or `null`.
    pub reference: Value,
    /// The topic.
    pub topic: String,
    /// `phx_reply`, or the name of an event.
    pub event: String,
    /// The payload.
    pub payload: Value,
}

impl PhoenixMessage {
    /// Parses the text of a frame.
    ///
    /// # Errors
    /// If the text is not a JSON array of these five parts.
    pub fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// Whether this replies to a push with `ok`.
    #[must_use]
    pub fn is_ok_reply(&self) -> bool {
        self.event == "phx_reply" && self.payload["status"] == "ok"
    }

    /// Cursor of an event, or of the reply to a join.
    #[must_use]
    pub fn cursor(&self) -> Option<&str> {
        self.payload["cursor"].as_str().or(self.payload["response"]["cursor"].as_str())
    }
}

/// The next thing that a socket delivered.
#[derive(Clone, Debug, PartialEq)]
pub enum Received {
    /// A message of the protocol.
    Message(PhoenixMessage),
    /// A frame that is not a Phoenix message.
    Invalid(String),
    /// A Close frame with this code.
    Closed(u16),
    /// The end of the connection, with its reason.
    Ended(String),
}

/// Receives the next message or the end. Pings and pongs are skipped. Cancel safe.
pub async fn receive<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>) -> Received {
    loop {
        return match socket.next().await {
            Some(Ok(Message::Text(text))) => match PhoenixMessage::parse(&text) {
                Ok(message) => Received::Message(message),
                Err(_) => Received::Invalid(text.to_string()),
            },
            Some(Ok(Message::Close(Some(frame)))) => Received::Closed(frame.code.into()),
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
            Some(Ok(Message::Close(None))) => Received::Ended("a Close frame without a code".to_owned()),
            Some(Ok(other)) => Received::Invalid(format!("{other:?}")),
            Some(Err(error)) => Received::Ended(error.to_string()),
            None => Received::Ended("end of the connection".to_owned()),
        };
    }
}

/// Sends a push.
///
/// # Errors
/// If the connection broke.
pub async fn push<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut Socket<S>,
    reference: &str,
    topic: &str,
    event: &str,
    payload: &Value,
) -> Result<(), Error> {
    let join_ref = (event == "phx_join").then_some(reference);
    let text = json!([join_ref, reference, topic, event, payload]).to_string();
    socket.send(Message::text(text)).await
}

/// Sends the join of a topic; with a cursor, the join resumes after it.
///
/// # Errors
/// If the connection broke.
pub async fn send_join<S: AsyncRead + AsyncWrite + Unpin>(
    socket: &mut Socket<S>,
    reference: &str,
    topic: &str,
    since: Option<&str>,
) -> Result<(), Error> {
    let payload = since.map_or_else(|| json!({}), |since| json!({"since": since}));
    push(socket, reference, topic, "phx_join", &payload).await
}

/// Sends a heartbeat.
///
/// # Errors
/// If the connection broke.
pub async fn send_heartbeat<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut Socket<S>) -> Result<(), Error> {
    push(socket, HEARTBEAT_REF, "phoenix", "heartbeat", &json!({})).await
}
