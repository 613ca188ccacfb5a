//! A client with expectations: each function panics if the gateway does something else.

use std::collections::VecDeque;
use std::net::SocketAddr;

use futures_util::SinkExt as _;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;

use crate::phoenix::{self, PhoenixMessage, Received, Socket};
use crate::within;

/// A reply to a push.
#[derive(Clone, Debug, PartialEq)]
pub struct Reply {
    /// Reference of the push.
    pub reference: Value,
    /// Topic of the push.
    pub topic: String,
    /// `ok` or `error`.
    pub status: String,
    /// Response of the gateway.
    pub response: Value,
}

impl Reply {
    fn of(message: &PhoenixMessage) -> Self {
        Self {
            reference: message.reference.clone(),
            topic: message.topic.clone(),
            status: message.payload["status"].as_str().expect("a reply has a status").to_owned(),
            response: message.payload["response"].clone(),
        }
    }
}

/// An event on a topic.
#[derive(Clone, Debug, PartialEq)]
pub struct Event {
    /// The topic.
    pub topic: String,
    /// Name of the event.
    pub name: String,
    /// Payload: `id`, `at`, `cursor`, `data` and perhaps `old`.
    pub payload: Value,
}

impl Event {
    fn of(message: PhoenixMessage) -> Self {
        Self { topic: message.topic, name: message.event, payload: message.payload }
    }

    /// A column of the row.
    #[must_use]
    pub fn data(&self, field: &str) -> &Value {
        &self.payload["data"][field]
    }

    /// Id of the row.
    ///
    /// # Panics
    /// If the row has none.
    #[must_use]
    pub fn row_id(&self) -> &str {
        self.data("id").as_str().expect("a row has an id")
    }

    /// Cursor of the event.
    ///
    /// # Panics
    /// If the event has none.
    #[must_use]
    pub fn cursor(&self) -> &str {
        self.payload["cursor"].as_str().expect("an event has a cursor")
    }
}

/// A client of a gateway, over TCP or another stream.
#[derive(Debug)]
pub struct Client<S = TcpStream> {
    /// The WebSocket, for tests that send or read frames by hand.
    pub socket: Socket<S>,
    next_ref: u64,
    /// Events that arrived before a reply that was awaited.
    events: VecDeque<Event>,
}

impl Client {
    /// Connects with a token.
    ///
    /// # Panics
    /// If the gateway rejects the handshake.
    pub async fn connect(addr: SocketAddr, token: &str) -> Self {
        match within("the handshake", phoenix::connect(addr, token)).await {
            Ok(socket) => Self::new(socket),
            Err(error) => panic!("no session: {error:?}"),
        }
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    /// A client on a socket that was opened by hand.
    #[must_use]
    pub fn new(socket: Socket<S>) -> Self {
        Self { socket, next_ref: 1, events: VecDeque::new() }
    }

    /// Joins a topic and returns the response.
    ///
    /// # Panics
    /// If the gateway rejects the join.
    pub async fn join(&mut self, topic: &str) -> Value {
        self.join_with(topic, json!({})).await
    }

    /// Joins a topic with a payload and returns the response.
    ///
    /// # Panics
    /// If the gateway rejects the join.
    pub async fn join_with(&mut self, topic: &str, payload: Value) -> Value {
        let reply = self.push(topic, "phx_join", payload).await;
        assert_eq!(reply.status, "ok", "{reply:?}");
        reply.response
    }

    /// Pushes and awaits the reply. Events that arrive before it are kept for later.
    ///
    /// # Panics
    /// If no reply arrives.
    pub async fn push(&mut self, topic: &str, event: &str, payload: Value) -> Reply {
        match self.try_push(topic, event, payload).await {
            Ok(reply) => reply,
            Err(code) => panic!("instead of a reply: closed with {code}"),
        }
    }

    /// Pushes and awaits the reply, like [`Self::push`].
    ///
    /// # Errors
    /// If the gateway closes the session first: the code.
    ///
    /// # Panics
    /// If the connection broke, or nothing arrives.
    pub async fn try_push(&mut self, topic: &str, event: &str, payload: Value) -> Result<Reply, u16> {
        let reference = self.next_ref.to_string();
        self.next_ref += 1;
        phoenix::push(&mut self.socket, &reference, topic, event, &payload).await.expect("sends");
        loop {
            let message = match within("a reply", phoenix::receive(&mut self.socket)).await {
                Received::Message(message) => message,
                Received::Closed(code) => return Err(code),
                other => panic!("instead of a reply: {other:?}"),
            };
            if message.event == "phx_reply" && message.reference == reference.as_str() {
                return Ok(Reply::of(&message));
            }
            self.events.push_back(Event::of(message));
        }
    }

    /// Awaits the next reply, for pushes that were sent by hand. Events that arrive before it are kept for
    /// later.
    ///
    /// # Panics
    /// If no reply arrives.
    pub async fn next_reply(&mut self) -> Reply {
        loop {
            let message = self.next_message().await;
            if message.event == "phx_reply" {
                return Reply::of(&message);
            }
            self.events.push_back(Event::of(message));
        }
    }

    /// Sends a text frame.
    ///
    /// # Panics
    /// If the connection broke.
    pub async fn send(&mut self, text: &str) {
        self.socket.send(Message::text(text)).await.expect("sends");
    }

    async fn next_message(&mut self) -> PhoenixMessage {
        match within("a message", phoenix::receive(&mut self.socket)).await {
            Received::Message(message) => message,
            other => panic!("instead of a message: {other:?}"),
        }
    }

    /// Takes the events that arrived before a reply that was awaited.
    pub fn take_kept_events(&mut self) -> Vec<Event> {
        self.events.drain(..).collect()
    }

    /// Awaits the next event on any joined topic.
    ///
    /// # Panics
    /// If the session ends first.
    pub async fn next_event(&mut self) -> Event {
        match self.events.pop_front() {
            Some(event) => event,
            None => Event::of(self.next_message().await),
        }
    }

    /// Awaits the next event, which must be this one.
    ///
    /// # Panics
    /// If the next event is another one.
    pub async fn expect_event(&mut self, topic: &str, name: &str) -> Event {
        let event = self.next_event().await;
        assert_eq!((event.topic.as_str(), event.name.as_str()), (topic, name), "{event:?}");
        event
    }

    /// Awaits this event and asserts that no other event arrived before it. A test shows in this way that an
    /// unwanted event was not delivered: it publishes a marker afterwards and expects only the marker.
    ///
    /// # Panics
    /// If the next event is another one.
    pub async fn expect_only(&mut self, topic: &str, name: &str) -> Event {
        self.expect_event(topic, name).await
    }

    /// Asserts that the gateway has sent nothing so far: the reply to a heartbeat must arrive first, and the
    /// gateway sends frames in order.
    ///
    /// # Panics
    /// If an event arrived.
    pub async fn expect_silence(&mut self) {
        let reply = self.push("phoenix", "heartbeat", json!({})).await;
        assert_eq!(reply.status, "ok", "{reply:?}");
        assert!(self.events.is_empty(), "instead of silence: {:?}", self.events);
    }

    /// Awaits the end of the session, which must have this code. Messages that precede it are skipped.
    ///
    /// # Panics
    /// If the session ends with another code, or without one.
    pub async fn expect_close(&mut self, code: u16) {
        loop {
            match within("a close", phoenix::receive(&mut self.socket)).await {
                Received::Closed(actual) => {
                    assert_eq!(actual, code);
                    return;
                }
                Received::Message(_) => {}
                other => panic!("instead of a close with {code}: {other:?}"),
            }
        }
    }
}
