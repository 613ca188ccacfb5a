//! A client that speaks Phoenix V2 by itself, so that a mistake in the gateway's codec can't hide in a
//! client that shares it.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::http::{Request, Response};
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

use super::within;

pub type Socket = WebSocketStream<TcpStream>;

/// A handshake with these headers; the refusal's status and body where there is one.
pub async fn handshake(
    addr: SocketAddr,
    path_and_query: &str,
    headers: &[(&str, &str)],
) -> Result<(Socket, Response<Option<Vec<u8>>>), (u16, Value)> {
    let mut request: Request<()> =
        format!("ws://{addr}{path_and_query}").into_client_request().expect("a request");
    for (name, value) in headers {
        let name: tokio_tungstenite::tungstenite::http::HeaderName = name.parse().expect("a header name");
        request.headers_mut().append(name, value.parse().expect("a header value"));
    }
    let stream = TcpStream::connect(addr).await.expect("connects");
    match within("the handshake", client_async(request, stream)).await {
        Ok(ok) => Ok(ok),
        Err(Error::Http(response)) => {
            let body = response.body().as_deref().unwrap_or_default();
            Err((response.status().as_u16(), serde_json::from_slice(body).unwrap_or(Value::Null)))
        }
        Err(error) => panic!("the handshake failed: {error}"),
    }
}

/// An authenticated socket, for tests that send frames by hand.
pub async fn connect_raw(addr: SocketAddr, token: &str) -> Socket {
    let bearer = format!("Bearer {token}");
    match handshake(addr, "/socket/websocket?vsn=2.0.0", &[("authorization", &bearer)]).await {
        Ok((socket, _)) => socket,
        Err(refusal) => panic!("refused: {refusal:?}"),
    }
}

/// A reply to a push.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    pub reference: Value,
    pub topic: String,
    pub status: String,
    pub response: Value,
}

impl Reply {
    fn of(reference: Value, topic: String, payload: &Value) -> Self {
        let status = payload["status"].as_str().expect("a status").to_owned();
        Self { reference, topic, status, response: payload["response"].clone() }
    }
}

/// An event on a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    pub topic: String,
    pub name: String,
    pub payload: Value,
}

impl Event {
    /// A field of the row.
    pub fn data(&self, field: &str) -> &Value {
        &self.payload["data"][field]
    }

    /// The row's id.
    pub fn row_id(&self) -> &str {
        self.data("id").as_str().expect("a row has an id")
    }

    /// The event's cursor.
    pub fn cursor(&self) -> &str {
        self.payload["cursor"].as_str().expect("an event has a cursor")
    }
}

/// A client of a gateway.
pub struct Client {
    pub socket: Socket,
    next_ref: u64,
    events: VecDeque<Event>,
}

impl Client {
    pub async fn connect(addr: SocketAddr, token: &str) -> Self {
        Self::of(connect_raw(addr, token).await)
    }

    /// On a socket that was opened by hand.
    pub fn of(socket: Socket) -> Self {
        Self { socket, next_ref: 1, events: VecDeque::new() }
    }

    /// Joins a topic; panics where it is refused. Returns the response.
    pub async fn join(&mut self, topic: &str) -> Value {
        self.join_with(topic, json!({})).await
    }

    /// Joins with a payload.
    pub async fn join_with(&mut self, topic: &str, payload: Value) -> Value {
        let reply = self.push(topic, "phx_join", payload).await;
        assert_eq!(reply.status, "ok", "{reply:?}");
        reply.response
    }

    /// Pushes and awaits the reply. Events that come first are kept for later.
    pub async fn push(&mut self, topic: &str, event: &str, payload: Value) -> Reply {
        let reference = self.next_ref.to_string();
        self.next_ref += 1;
        let join_ref = if event == "phx_join" { Value::from(reference.clone()) } else { Value::Null };
        let message = json!([join_ref, reference, topic, event, payload]);
        self.send(&message.to_string()).await;
        loop {
            let (reference_, topic, name, payload) = self.next_message().await;
            if name == "phx_reply" && reference_ == reference.as_str() {
                return Reply::of(reference_, topic, &payload);
            }
            self.events.push_back(Event { topic, name, payload });
        }
    }

    /// The next reply, for pushes that were sent by hand. Events that come first are kept for later.
    pub async fn next_reply(&mut self) -> Reply {
        loop {
            let (reference, topic, name, payload) = self.next_message().await;
            if name == "phx_reply" {
                return Reply::of(reference, topic, &payload);
            }
            self.events.push_back(Event { topic, name, payload });
        }
    }

    /// Sends a text frame.
    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("sends");
    }

    async fn next_message(&mut self) -> (Value, String, String, Value) {
        let message = within("a message", self.socket.next()).await;
        match message {
            Some(Ok(Message::Text(text))) => {
                let (_, reference, topic, name, payload): (Value, Value, String, String, Value) =
                    serde_json::from_str(&text).expect("a Phoenix message");
                (reference, topic, name, payload)
            }
            other => panic!("instead of a message: {other:?}"),
        }
    }

    /// The next event on any joined topic.
    pub async fn next_event(&mut self) -> Event {
        if let Some(event) = self.events.pop_front() {
            return event;
        }
        let (_, topic, name, payload) = self.next_message().await;
        Event { topic, name, payload }
    }

    /// The next event must be this one.
    pub async fn expect_event(&mut self, topic: &str, name: &str) -> Event {
        let event = self.next_event().await;
        assert_eq!((event.topic.as_str(), event.name.as_str()), (topic, name), "{event:?}");
        event
    }

    /// Nothing came before this event: shows by what comes that something else did not.
    pub async fn expect_only(&mut self, topic: &str, name: &str) -> Event {
        self.expect_event(topic, name).await
    }

    /// The session must end with this code. What comes before is passed over.
    pub async fn expect_close(&mut self, code: u16) {
        loop {
            match within("a close", self.socket.next()).await {
                Some(Ok(Message::Close(Some(frame)))) => {
                    assert_eq!(u16::from(frame.code), code, "{frame:?}");
                    return;
                }
                Some(Ok(_)) => {}
                other => panic!("instead of a close with {code}: {other:?}"),
            }
        }
    }
}
