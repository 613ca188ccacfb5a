//! The cases of the [Autobahn test suite](https://github.com/crossbario/autobahn-testsuite) that apply to a
//! server of Phoenix messages, under their numbers, with the answers of docs/protocol.md.
//!
//! The suite expects an echo of each message. Here a message is a heartbeat, and the echo is its reply. If
//! the text matters, it is the reference, because a reply repeats it. Longer messages have spaces in the
//! payload. Messages that cannot be a heartbeat (empty, binary, or with a control character) have other
//! answers.
//!
//! - `protocol`: groups 1 to 5, framing, pings, reserved bits, opcodes and fragments.
//! - `utf8`: group 6.
//! - `closing`: group 7.
//! - `sizes`: groups 9 and 10, with the largest message in place of megabytes.
//!
//! Group 8 does not exist. Groups 12 and 13 test compression, which the gateway does not offer; see
//! `threats::no_websocket_extension_is_negotiated`.

mod closing;
mod protocol;
mod sizes;
mod utf8;

use std::collections::BTreeSet;
use std::net::SocketAddr;

use futures_util::{StreamExt as _, stream};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio_tungstenite::tungstenite::Message;
use warden::rate::Rate;

use crate::harness::{Client, TestDb, TestGateway, token, within};

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xa;

/// A valid code that the client's library rejects.
const UNKNOWN_TO_CLIENT: u16 = 1014;
/// The gateway's limit for one message, in bytes.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Cases that run at the same time.
const AT_ONCE: usize = 8;

/// A step of a case.
enum Step {
    /// Sends bytes at once.
    Send(Vec<u8>),
    /// Expects the reply to the heartbeat with this reference.
    Reply(String),
    /// Expects a pong with this payload.
    Pong(Vec<u8>),
}

/// The end of a case.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ending {
    /// The session is served as before.
    Served,
    /// The gateway sends a Close with this code (none: without a code), and nothing after it.
    Closed(Option<u16>),
}

/// One case of the suite.
struct Case {
    number: String,
    steps: Vec<Step>,
    ending: Ending,
}

/// Steps of a case.
#[derive(Default)]
struct Steps(Vec<Step>);

impl Steps {
    fn send(self, bytes: impl AsRef<[u8]>) -> Self {
        self.chopped(bytes, usize::MAX)
    }

    /// Sends the bytes in pieces of this length.
    fn chopped(mut self, bytes: impl AsRef<[u8]>, length: usize) -> Self {
        self.0.extend(bytes.as_ref().chunks(length).map(|piece| Step::Send(piece.to_vec())));
        self
    }

    fn reply(mut self, reference: &str) -> Self {
        self.0.push(Step::Reply(reference.to_owned()));
        self
    }

    fn pong(mut self, payload: impl AsRef<[u8]>) -> Self {
        self.0.push(Step::Pong(payload.as_ref().to_vec()));
        self
    }

    fn served(self, number: &str) -> Case {
        Case { number: number.to_owned(), steps: self.0, ending: Ending::Served }
    }

    fn closed(self, number: &str, code: impl Into<Option<u16>>) -> Case {
        Case { number: number.to_owned(), steps: self.0, ending: Ending::Closed(code.into()) }
    }
}

/// A masked frame. Its mask changes every byte, so a server that does not unmask reads something else.
fn frame(first: u8, payload: impl AsRef<[u8]>) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let payload = payload.as_ref();
    let mut bytes = vec![first];
    match payload.len() {
        length @ 0..=125 => bytes.push(0x80 | u8::try_from(length).expect("small")),
        length @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(length).expect("small").to_be_bytes());
        }
        length => {
            bytes.push(0x80 | 127);
            bytes.extend((length as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    bytes
}

fn text(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | TEXT, payload)
}

fn ping(payload: impl AsRef<[u8]>) -> Vec<u8> {
    frame(FIN | PING, payload)
}

/// A message in fragments.
fn fragments<'a>(opcode: u8, parts: impl IntoIterator<Item = &'a [u8]>) -> Vec<Vec<u8>> {
    let parts: Vec<&[u8]> = parts.into_iter().collect();
    let last = parts.len() - 1;
    let first_byte = |n| if n == 0 { opcode } else { CONTINUATION } | if n == last { FIN } else { 0 };
    parts.iter().enumerate().map(|(n, part)| frame(first_byte(n), part)).collect()
}

/// The heartbeat whose reference is these bytes, which need not be valid UTF-8.
fn heartbeat(reference: impl AsRef<[u8]>) -> Vec<u8> {
    [&b"[null,\""[..], reference.as_ref(), b"\",\"phoenix\",\"heartbeat\",{}]"].concat()
}

/// A heartbeat of this length, but at least of the length of the shortest. Its reference is `x`.
fn heartbeat_of(length: usize) -> Vec<u8> {
    let mut message = heartbeat("x");
    let missing = length.saturating_sub(message.len());
    let at = message.len() - 2;
    message.splice(at..at, vec![b' '; missing]);
    message
}

/// All cases, in the order of the suite.
fn cases() -> Vec<Case> {
    [protocol::cases(), utf8::cases(), closing::cases(), sizes::cases()].into_iter().flatten().collect()
}

/// Runs a case on a session of its own. Returns what went wrong.
async fn run(case: &Case, addr: SocketAddr, token: &str) -> Result<(), String> {
    let mut client = Client::connect(addr, token).await;
    client.socket.get_ref().set_nodelay(true).expect("sets");
    let last = [Step::Send(text(heartbeat("last"))), Step::Reply("last".into())];
    let goodbye = [Step::Send(frame(FIN | CLOSE, 1000_u16.to_be_bytes()))];
    let (after, code): (Vec<Step>, _) = match case.ending {
        Ending::Served => (last.into_iter().chain(goodbye).collect(), Some(1000)),
        Ending::Closed(code) => (Vec::new(), code),
    };
    for (n, step) in case.steps.iter().chain(&after).enumerate() {
        let expected = match step {
            Step::Send(bytes) => {
                // The gateway may have closed the connection, which the end of the case shows.
                let _ = client.socket.get_mut().write_all(bytes).await;
                tokio::task::yield_now().await;
                continue;
            }
            Step::Reply(reference) => {
                let payload = json!({"status": "ok", "response": {}});
                Received::Message(json!([null, reference, "phoenix", "phx_reply", payload]))
            }
            Step::Pong(payload) => Received::Pong(payload.clone()),
        };
        let received = receive(&mut client).await;
        if received != expected {
            return Err(format!("step {n}: {received:?} instead of {expected:?}"));
        }
    }
    if code == Some(UNKNOWN_TO_CLIENT) {
        return expect_bytes(&mut client, &[FIN | CLOSE, 2, 0x03, 0xf6]).await;
    }
    for expected in [Received::Close(code), Received::End] {
        let received = receive(&mut client).await;
        if received != expected {
            return Err(format!("at the end: {received:?} instead of {expected:?}"));
        }
    }
    Ok(())
}

/// Expects exactly these bytes, and the end of the connection.
async fn expect_bytes(client: &mut Client, expected: &[u8]) -> Result<(), String> {
    let mut received = Vec::new();
    let end = within("the end", client.socket.get_mut().read_to_end(&mut received)).await;
    match end {
        Ok(_) if received == expected => Ok(()),
        _ => Err(format!("at the end: {received:x?} and {end:?} instead of {expected:x?}")),
    }
}

/// A frame that a client receives, or the end of the connection.
#[derive(Debug, PartialEq)]
enum Received {
    Message(Value),
    Pong(Vec<u8>),
    Close(Option<u16>),
    /// The end of the connection, without a reset.
    End,
    Other(String),
}

async fn receive(client: &mut Client) -> Received {
    match within("an answer", client.socket.next()).await {
        Some(Ok(Message::Text(text))) => Received::Message(serde_json::from_str(&text).expect("JSON")),
        Some(Ok(Message::Pong(payload))) => Received::Pong(payload.to_vec()),
        Some(Ok(Message::Close(frame))) => Received::Close(frame.map(|frame| frame.code.into())),
        None => Received::End,
        other => Received::Other(format!("{other:?}")),
    }
}

#[tokio::test]
async fn every_case_has_its_documented_answer() {
    let t = TestGateway::start_with(TestDb::create().await, |config| {
        // The suite sends more at once than the default limits allow.
        config.limits.session.messages = Rate::new(100_000, 100_000);
        config.limits.session.received_bytes = Rate::new(1 << 30, 1 << 30);
        config.limits.admission.handshakes_per_address = Rate::new(10_000, 10_000);
        config.limits.admission.connection_rate_per_address = Rate::new(10_000, 10_000);
    })
    .await;
    let org = t.db.create_org().await;
    let (addr, token) = (t.gateway.public_addr(), token(org, &json!({})));
    let cases = cases();
    let numbers: BTreeSet<_> = cases.iter().map(|case| &case.number).collect();
    assert_eq!(numbers.len(), cases.len(), "two cases have the same number");
    let failures: Vec<String> = stream::iter(&cases)
        .map(|case| async {
            run(case, addr, &token).await.err().map(|error| format!("{}: {error}", case.number))
        })
        .buffered(AT_ONCE)
        .filter_map(std::future::ready)
        .collect()
        .await;
    println!("{} cases", cases.len());
    assert!(failures.is_empty(), "{} of {} cases:\n{}", failures.len(), cases.len(), failures.join("\n"));
    t.gateway.stop().await;
}
