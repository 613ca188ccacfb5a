//! Frames of every kind, well-formed or not: each gets its answer or close code, and other sessions are
//! unaffected. `messages` has the Phoenix messages in them.

mod messages;

use futures_util::StreamExt as _;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt as _;
use tokio_tungstenite::tungstenite::Message;
use uuid::Uuid;

use crate::harness::{Client, TestGateway, within};

/// The gateway's limit for one message.
const MESSAGE_BYTES_MAX: usize = 64 * 1024;

const FIN_TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;

/// A client's frame. Its mask is zero, so the payload stays readable.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        len @ 0..=125 => bytes.push(0x80 | u8::try_from(len).expect("small")),
        len @ 126..=0xffff => {
            bytes.push(0x80 | 126);
            bytes.extend(u16::try_from(len).expect("small").to_be_bytes());
        }
        len => {
            bytes.push(0x80 | 127);
            bytes.extend((len as u64).to_be_bytes());
        }
    }
    bytes.extend([0; 4]);
    bytes.extend(payload);
    bytes
}

/// A text frame whose length is written in this number of bytes, although fewer suffice.
fn padded(length: usize, bytes: usize) -> Vec<u8> {
    let marker = if bytes == 2 { 126 } else { 127 };
    let length_bytes = &(length as u64).to_be_bytes()[8 - bytes..];
    [&[FIN_TEXT, 0x80 | marker], length_bytes, &[0; 4], &vec![b' '; length]].concat()
}

/// Receives the next protocol message.
async fn receive(client: &mut Client) -> Value {
    match within("a message", client.socket.next()).await {
        Some(Ok(Message::Text(text))) => serde_json::from_str(&text).expect("JSON"),
        other => panic!("instead of a message: {other:?}"),
    }
}

/// One well-behaved client of each of two organisations.
struct Witnesses {
    org: Uuid,
    others: [(Uuid, Client); 2],
}

impl Witnesses {
    async fn of(t: &TestGateway) -> Self {
        let (org, other) = (t.db.create_org().await, t.db.create_org().await);
        let mut others = [(org, t.connect(org).await), (other, t.connect(other).await)];
        for (_, client) in &mut others {
            client.join("calls").await;
        }
        Self { org, others }
    }

    /// Asserts that both clients still receive their events on their original sockets.
    async fn check(&mut self, t: &TestGateway, what: &str) {
        for (org, client) in &mut self.others {
            let call = t.db.insert_call(*org).await;
            let event = client.expect_only("calls", "call.created").await;
            assert_eq!(event.row_id(), call.to_string(), "after {what}");
        }
    }
}

#[tokio::test]
async fn invalid_frames_close_only_their_sender() {
    let t = TestGateway::start().await;
    let mut witnesses = Witnesses::of(&t).await;
    let good = r#"["1","2","calls","phx_join",{}]"#;
    let long_topic = json!(["1", "2", "x".repeat(129), "phx_join", {}]).to_string();
    let long_ref = json!(["1", "2".repeat(65), "calls", "phx_join", {}]).to_string();
    let texts: &[(&str, &str)] = &[
        ("no JSON", "hello"),
        ("an empty text", ""),
        ("half JSON", r#"["1","2","calls","phx_join",{}"#),
        ("JSON and more", r#"["1","2","calls","phx_join",{}] x"#),
        ("an object", r#"{"topic":"calls","event":"phx_join","payload":{},"ref":"1","join_ref":"1"}"#),
        ("a string", r#""calls""#),
        ("an empty array", "[]"),
        ("four elements", r#"["1","2","calls","phx_join"]"#),
        ("six elements", r#"["1","2","calls","phx_join",{},null]"#),
        ("numbers as references", r#"[1,2,"calls","phx_join",{}]"#),
        ("no topic", r#"["1","2",null,"phx_join",{}]"#),
        ("no event", r#"["1","2","calls",null,{}]"#),
        ("a topic beyond its limit", &long_topic),
        ("a reference beyond its limit", &long_ref),
    ];
    let mut cases: Vec<(&str, Vec<u8>, u16)> =
        texts.iter().map(|(name, text)| (*name, frame(FIN_TEXT, text.as_bytes()), 4400)).collect();
    let mut unmasked = frame(FIN_TEXT, good.as_bytes());
    unmasked[1] &= 0x7f;
    unmasked.drain(2..6);
    cases.extend([
        ("binary", frame(BINARY, good.as_bytes()), 1003),
        ("empty binary", frame(BINARY, b""), 1003),
        ("invalid UTF-8", frame(FIN_TEXT, b"[\"\xff\xfe\"]"), 1007),
        ("cut UTF-8", frame(FIN_TEXT, b"\xe2\x82"), 1007),
        ("a byte too long", frame(FIN_TEXT, &vec![b' '; MESSAGE_BYTES_MAX + 1]), 1009),
        ("a megabyte", frame(FIN_TEXT, &vec![b' '; 1 << 20]), 1009),
        ("a length of 2^62", [&[FIN_TEXT, 0xff, 0x40][..], &[0; 11]].concat(), 1009),
        ("too long in parts", [frame(0x01, &[b' '; 40_000]), frame(0x80, &[b' '; 40_000])].concat(), 1009),
        ("unmasked", unmasked, 1002),
        ("a reserved bit", frame(0xc1, good.as_bytes()), 1002),
        ("a reserved opcode", frame(0x83, good.as_bytes()), 1002),
        ("a fragmented ping", frame(0x09, b""), 1002),
        ("a ping of 126 bytes", frame(0x89, &[0; 126]), 1002),
        ("a continuation of nothing", frame(0x80, b"x"), 1002),
        ("a length of 5 in two bytes", padded(5, 2), 1002),
        ("a length of 65,535 in eight bytes", padded(65_535, 8), 1002),
        (
            "a second message within a fragmented one",
            [frame(0x01, b"["), frame(FIN_TEXT, b"[")].concat(),
            1002,
        ),
        (
            "UTF-8 that breaks off at the last fragment",
            [frame(0x01, b"[\xe2"), frame(0x80, b"]")].concat(),
            1007,
        ),
        ("a surrogate in UTF-8", frame(FIN_TEXT, b"[\"\xed\xa0\x80\"]"), 1007),
        ("overlong UTF-8", frame(FIN_TEXT, b"[\"\xc0\xaf\"]"), 1007),
        ("UTF-8 beyond U+10FFFF", frame(FIN_TEXT, b"[\"\xf4\x90\x80\x80\"]"), 1007),
        ("a close frame of one byte", frame(0x88, b"\x03"), 1002),
        ("a close frame of 126 bytes", frame(0x88, &[&b"\x03\xe8"[..], &[b'x'; 124]].concat()), 1002),
    ]);
    for (name, bytes, code) in cases {
        let mut client = t.connect(witnesses.org).await;
        client.join("calls").await;
        client.socket.get_mut().write_all(&bytes).await.expect(name);
        client.expect_close(code).await;
        // Nothing follows the Close, not even the events that the witnesses receive. The connection is not
        // reset either, because a reset overtakes the Close on some systems.
        let rest = within(name, client.socket.next()).await;
        assert!(rest.is_none(), "{name}: {rest:?}");
        witnesses.check(&t, name).await;
    }
    drop(witnesses);
    t.gateway.stop().await;
}

#[tokio::test]
async fn unusual_but_valid_frames_are_served() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;

    // The longest allowed message.
    let mut join = r#"["1","1","calls","phx_join",{}]"#.to_owned();
    join.push_str(&" ".repeat(MESSAGE_BYTES_MAX - join.len()));
    client.send(&join).await;
    assert_eq!(receive(&mut client).await[4]["status"], "ok");

    // A fragmented message with a ping between its fragments.
    let text = br#"[null,"2","phoenix","heartbeat",{}]"#;
    let bytes = [frame(0x01, &text[..9]), frame(0x89, b"are you there"), frame(0x80, &text[9..])].concat();
    client.socket.get_mut().write_all(&bytes).await.expect("writes");
    let pong = within("a pong", client.socket.next()).await.expect("a frame").expect("no error");
    assert_eq!(pong, Message::Pong("are you there".into()));
    let reply = receive(&mut client).await;
    assert_eq!(reply, json!([null, "2", "phoenix", "phx_reply", {"status": "ok", "response": {}}]));

    // A character that is split between fragments, with control frames between them.
    let text = "[null,\"é€𐍈\",\"phoenix\",\"heartbeat\",{}]".as_bytes();
    for at in 8..16 {
        let parts = [frame(0x01, &text[..at]), frame(0x8a, b""), frame(0x00, b""), frame(0x80, &text[at..])];
        client.socket.get_mut().write_all(&parts.concat()).await.expect("writes");
        assert_eq!(receive(&mut client).await[1], "é€𐍈", "{at}");
    }

    // JSON nested deeper than any stack could hold.
    let deep = format!("{}{}", "[".repeat(30_000), "]".repeat(30_000));
    for (event, topic) in
        [("phx_join", "recordings"), ("x", "calls"), ("x", "nowhere"), ("access_token", "calls")]
    {
        client.send(&format!(r#"["3","3","{topic}","{event}",{deep}]"#)).await;
        let reply = receive(&mut client).await;
        assert_eq!((&reply[1], &reply[4]["status"]), (&json!("3"), &json!("error")), "{reply}");
    }

    // A Close is answered with a Close.
    client.socket.close(None).await.expect("says goodbye");
    assert!(matches!(within("the end", client.socket.next()).await, None | Some(Ok(Message::Close(_)))));
    drop(client);
    t.gateway.stop().await;
}

/// A session has no parser between messages, so it must recognise message boundaries by itself.
#[tokio::test]
async fn a_message_may_arrive_in_parts_split_anywhere() {
    let t = TestGateway::start().await;
    let org = t.db.create_org().await;
    let mut client = t.connect(org).await;
    let text = br#"[null,"2","phoenix","heartbeat",{}]"#;
    let whole = frame(FIN_TEXT, text);
    let fragments = [frame(0x01, &text[..9]), frame(0x00, b""), frame(0x80, &text[9..])].concat();
    for message in [whole, fragments] {
        for at in 0..message.len() {
            // When the pong arrives, the bytes that followed the ping in the same segment have been read. A
            // ping cannot stand within a frame, so it is sent before it.
            let (first, last) = message.split_at(at);
            let begin = [&frame(0x89, b"ping")[..], first].concat();
            client.socket.get_mut().write_all(&begin).await.expect("writes");
            let pong = within("a pong", client.socket.next()).await.expect("a frame").expect("no error");
            assert_eq!(pong, Message::Pong("ping".into()), "after {at} bytes");
            client.socket.get_mut().write_all(last).await.expect("writes");
            assert_eq!(receive(&mut client).await[1], "2", "after {at} bytes");
        }
    }
    drop(client);
    t.gateway.stop().await;
}
