//! Hostile frames of insiders, who have valid tokens: some get an error reply, others close the session. Each
//! kind is a small generator. No frame may be answered with `ok` or reach another session.

use fastrand::Rng;
use serde_json::json;
use uuid::Uuid;
use warden_testkit::frames::{BINARY, CLOSE, FIN, PING, PONG, RESERVED_BIT, TEXT, masked};

use crate::tokens::{claims, header, hs256, token};

/// Expected effect of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// An error reply with the frame's reference.
    Error,
    /// A pong, or none, because a later pong may answer several pings.
    Pong,
    /// No answer.
    Nothing,
    /// A close with one of these codes.
    Close(&'static [u16]),
}

/// The sender, and the organisation that it tries to reach.
pub(crate) struct Sender {
    pub(crate) org: Uuid,
    pub(crate) victim: Uuid,
}

/// A kind of frame. `make` receives the reference that the answer must carry.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) expect: Expect,
    pub(crate) make: fn(&mut Rng, &Sender, &str) -> Vec<Vec<u8>>,
}

/// The gateway's limit for one message.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// More frames than the gateway accepts from one socket at once, rejected ones included.
const FLOOD: usize = 400;

fn text(rng: &mut Rng, text: &str) -> Vec<Vec<u8>> {
    vec![masked(rng, FIN | TEXT, text.as_bytes())]
}

fn message(
    rng: &mut Rng,
    reference: &str,
    topic: &str,
    event: &str,
    payload: &serde_json::Value,
) -> Vec<Vec<u8>> {
    text(rng, &json!([reference, reference, topic, event, payload]).to_string())
}

fn word(rng: &mut Rng, max: usize) -> String {
    // No topic contains capital letters, and no event has such a name.
    std::iter::once('H').chain((1..rng.usize(1..max)).map(|_| rng.alphanumeric())).collect()
}

fn foreign_topic(rng: &mut Rng, sender: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let victim = sender.victim;
    let topics = [
        format!("org:{victim}"),
        format!("calls:{victim}"),
        format!("{victim}"),
        format!("{victim}:calls"),
        format!("realtime:{victim}"),
        "calls/../org".to_owned(),
        "call:*".to_owned(),
        "*".to_owned(),
    ];
    let topic = &topics[rng.usize(..topics.len())];
    message(rng, reference, topic, "phx_join", &json!({"org_id": victim}))
}

fn server_message(rng: &mut Rng, sender: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let event = ["broadcast", "call.created", "phx_reply", "phx_close", "warden.resync"][rng.usize(..5)];
    let payload = json!({"mark": crate::MARK, "org_id": sender.victim, "data": {"org_id": sender.victim}});
    message(rng, reference, "calls", event, &payload)
}

fn forged_token(rng: &mut Rng, sender: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let mut jwt = token(sender.victim).into_bytes();
    let at = rng.usize(..jwt.len());
    jwt[at] = if jwt[at] == b'x' { b'y' } else { b'x' };
    let jwt = String::from_utf8(jwt).expect("text");
    message(rng, reference, "calls", "access_token", &json!({"access_token": jwt}))
}

fn deeply_nested(rng: &mut Rng, _: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let depth = rng.usize(100..2_000);
    let (open, close) = ("[".repeat(depth), "]".repeat(depth));
    text(rng, &format!(r#"["{reference}","{reference}","calls","phx_join",{open}{close}]"#))
}

/// A fragmented message. Some fragments are empty, with pings and pongs between them.
fn fragmented(rng: &mut Rng, _: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let whole = json!([reference, reference, word(rng, 60), "phx_join", {}]).to_string();
    let mut rest = whole.as_bytes();
    let mut frames = Vec::new();
    let mut opcode = TEXT;
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rng.usize(..rest.len().min(16) + 1));
        frames.push(masked(rng, opcode, piece));
        if rng.u8(..8) == 0 {
            let control = FIN | if rng.bool() { PING } else { PONG };
            frames.push(masked(rng, control, b"between"));
        }
        (rest, opcode) = (others, 0);
    }
    frames.push(masked(rng, FIN, b""));
    frames
}

fn mutated(rng: &mut Rng, _: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let topic = word(rng, 30);
    let mut bytes = message(rng, reference, &topic, "phx_join", &json!({"since": "x"})).concat();
    for _ in 0..rng.usize(1..6) {
        let at = rng.usize(..bytes.len());
        bytes[at] ^= 1 << rng.u8(..8);
    }
    vec![bytes]
}

fn truncated(rng: &mut Rng, _: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let mut bytes = message(rng, reference, "calls", "phx_join", &json!({})).concat();
    bytes.truncate(rng.usize(1..bytes.len()));
    vec![bytes]
}

fn malformed(rng: &mut Rng, _: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let garbage = word(rng, 100);
    let long = "x".repeat(129);
    let texts = [
        garbage,
        String::new(),
        "[]".into(),
        format!(r#"["{reference}","calls","phx_join",{{}}]"#),
        format!(r#"["1","{reference}","calls","phx_join",{{}}"#),
        format!(r#"["1","{reference}","{long}","phx_join",{{}}]"#),
        r#"{"topic":"calls","event":"phx_join","payload":{},"ref":"1"}"#.into(),
        "[1,2,3,4,5]".into(),
    ];
    let n = rng.usize(..texts.len());
    text(rng, &texts[n])
}

fn unmasked(rng: &mut Rng, _: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let payload = json!([reference, reference, "calls", "phx_join", {}]).to_string();
    let first = FIN | [TEXT, PING, BINARY][rng.usize(..3)];
    let length = u8::try_from(payload.len()).expect("short");
    vec![[&[first, length], payload.as_bytes()].concat()]
}

fn invalid_utf8(rng: &mut Rng, _: &Sender, _: &str) -> Vec<Vec<u8>> {
    let invalid: [&[u8]; 6] =
        [b"\xff", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xe2\x82", b"[\"\xfe\"]"];
    let payload = invalid[rng.usize(..invalid.len())];
    vec![masked(rng, FIN | TEXT, payload)]
}

fn huge_length(rng: &mut Rng, _: &Sender, _: &str) -> Vec<Vec<u8>> {
    let length = rng.u64(MESSAGE_BYTES_MAX as u64 + 1..1 << 62);
    vec![[&[FIN | TEXT, 0xff][..], &length.to_be_bytes(), &[1, 2, 3, 4, 5, 6]].concat()]
}

fn fragmented_above_limit(rng: &mut Rng, _: &Sender, _: &str) -> Vec<Vec<u8>> {
    let parts = rng.usize(2..8);
    let part = vec![b' '; MESSAGE_BYTES_MAX / parts + 2];
    (0..parts).map(|n| masked(rng, if n == 0 { TEXT } else { 0 }, &part)).collect()
}

/// A small frame that a peer with permessage-deflate would inflate to a megabyte.
fn compressed(rng: &mut Rng, _: &Sender, _: &str) -> Vec<Vec<u8>> {
    let mut deflated = vec![0xec, 0xc1, 0x01, 0x0d];
    deflated.extend([0; 1000]);
    vec![masked(rng, FIN | RESERVED_BIT | TEXT, &deflated)]
}

fn invalid_control(rng: &mut Rng, _: &Sender, _: &str) -> Vec<Vec<u8>> {
    let (first, payload): (u8, &[u8]) = match rng.u8(..5) {
        0 => (PING, b""),
        1 => (FIN | PING, &[0; 126]),
        2 => (FIN, b"a continuation without a message"),
        3 => (FIN | CLOSE, b"x"),
        _ => (FIN | [0x3, 0x7, 0xb, 0xf][rng.usize(..4)], b""),
    };
    vec![masked(rng, first, payload)]
}

fn another_user(rng: &mut Rng, sender: &Sender, reference: &str) -> Vec<Vec<u8>> {
    let org = if rng.bool() { sender.victim } else { sender.org };
    let jwt = hs256(&header(), &claims(org));
    message(rng, reference, "calls", "access_token", &json!({"access_token": jwt}))
}

/// Frames of one kind, more than the limit of one socket.
fn flood(rng: &mut Rng, first: u8, payload: &str) -> Vec<Vec<u8>> {
    (0..FLOOD).map(|_| masked(rng, first, payload.as_bytes())).collect()
}

const fn kind(name: &'static str, expect: Expect, make: fn(&mut Rng, &Sender, &str) -> Vec<Vec<u8>>) -> Kind {
    Kind { name, expect, make }
}

/// Kinds after which the session stays open.
pub(crate) const ANSWERED: &[Kind] = &[
    kind("topic that does not exist", Expect::Error, |rng, _, r| {
        let topic = word(rng, 120);
        message(rng, r, &topic, "phx_join", &json!({}))
    }),
    kind("another organisation's topic", Expect::Error, foreign_topic),
    kind("event or reply that only the server sends", Expect::Error, server_message),
    kind("forged token", Expect::Error, forged_token),
    kind("since that is not a string", Expect::Error, |rng, _, r| {
        message(rng, r, "calls", "phx_join", &json!({"since": [1]}))
    }),
    kind("deeply nested payload", Expect::Error, deeply_nested),
    kind("fragmented message", Expect::Error, fragmented),
    kind("ping", Expect::Pong, |rng, _, r| vec![masked(rng, FIN | PING, r.as_bytes())]),
    kind("unsolicited pong", Expect::Nothing, |rng, _, _| vec![masked(rng, FIN | PONG, b"x")]),
];

/// Kinds that close the session.
pub(crate) const ENDING: &[Kind] = &[
    kind("malformed message", Expect::Close(&[4400]), malformed),
    kind("binary frame", Expect::Close(&[1003]), |rng, _, _| {
        let bytes: Vec<u8> = (0..rng.usize(..200)).map(|_| rng.u8(..)).collect();
        vec![masked(rng, FIN | BINARY, &bytes)]
    }),
    kind("invalid UTF-8", Expect::Close(&[1007]), invalid_utf8),
    kind("unmasked frame", Expect::Close(&[1002]), unmasked),
    kind("invalid control frame", Expect::Close(&[1002]), invalid_control),
    kind("compression bomb", Expect::Close(&[1002]), compressed),
    kind("huge declared length", Expect::Close(&[1009]), huge_length),
    kind("message above the limit", Expect::Close(&[1009]), |rng, _, _| {
        let payload = vec![b' '; MESSAGE_BYTES_MAX + rng.usize(1..5_000)];
        vec![masked(rng, FIN | TEXT, &payload)]
    }),
    kind("fragmented message above the limit", Expect::Close(&[1009]), fragmented_above_limit),
    kind("another user's valid token", Expect::Close(&[4403]), another_user),
    kind("truncated frame, then end of stream", Expect::Close(&[1000]), truncated),
    kind("mutated frame", Expect::Close(&[1000, 1002, 1003, 1007, 1009, 4400]), mutated),
];

/// Floods. With default limits the gateway closes the session before a flood ends.
pub(crate) const FLOODS: &[Kind] = &[
    kind("flood of pings", Expect::Close(&[4428]), |rng, _, _| flood(rng, FIN | PING, "flood")),
    kind("flood of pongs", Expect::Close(&[4428]), |rng, _, _| flood(rng, FIN | PONG, "flood")),
    kind("flood of joins", Expect::Close(&[4428]), |rng, _, _| {
        flood(rng, FIN | TEXT, r#"["f","f","nowhere","phx_join",{}]"#)
    }),
];
