//! Handshakes that must be rejected. Each kind is a small generator; most take a valid handshake and break
//! one thing.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use fastrand::Rng;
use serde_json::{Value, json};
use uuid::Uuid;

use crate::tokens::{claims, header, hs256, now, token};

/// Behaviour of the sender after its last byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Then {
    /// Waits for the answer.
    Wait,
    /// Closes its sending side and waits.
    End,
    /// Sends single bytes slowly, from the start.
    Drip,
    /// Closes the connection at once.
    HangUp,
}

/// A kind of handshake, with its generator for an existing organisation.
pub(crate) struct Kind {
    pub(crate) name: &'static str,
    pub(crate) make: fn(&mut Rng, Uuid) -> Vec<u8>,
    pub(crate) then: Then,
}

const fn kind(name: &'static str, make: fn(&mut Rng, Uuid) -> Vec<u8>) -> Kind {
    Kind { name, make, then: Then::Wait }
}

const PATH: &str = "/socket/websocket?vsn=2.0.0";
const VALID_HEADERS: [&str; 5] = [
    "Host: gateway.example",
    "Connection: Upgrade",
    "Upgrade: websocket",
    "Sec-WebSocket-Version: 13",
    "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
];

fn request(target: &str, headers: &[String]) -> Vec<u8> {
    let all: Vec<_> =
        VALID_HEADERS.iter().map(|line| (*line).to_owned()).chain(headers.iter().cloned()).collect();
    format!("GET {target} HTTP/1.1\r\n{}\r\n\r\n", all.join("\r\n")).into_bytes()
}

fn bearer(token: &str) -> Vec<u8> {
    request(PATH, &[format!("Authorization: Bearer {token}")])
}

/// A valid handshake with one more header.
fn with(org: Uuid, line: &str) -> Vec<u8> {
    request(PATH, &[format!("Authorization: Bearer {}", token(org)), line.to_owned()])
}

/// A valid handshake in which one string is replaced.
fn with_replaced(org: Uuid, from: &str, to: &str) -> Vec<u8> {
    let request = String::from_utf8(bearer(&token(org))).expect("text");
    assert!(request.contains(from), "nothing to replace: {from}");
    request.replacen(from, to, 1).into_bytes()
}

fn with_claim(org: Uuid, name: &str, value: Value) -> Vec<u8> {
    let mut claims = claims(org);
    claims[name] = value;
    bearer(&hs256(&header(), &claims))
}

fn pick<T: Clone>(rng: &mut Rng, from: &[T]) -> T {
    from[rng.usize(..from.len())].clone()
}

fn bytes(rng: &mut Rng, count: usize) -> Vec<u8> {
    (0..count).map(|_| rng.u8(..)).collect()
}

fn mutated_token(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let mut token = token(org).into_bytes();
    const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_.=";
    for _ in 0..rng.usize(1..4) {
        let at = rng.usize(..token.len());
        let new = ALPHABET[rng.usize(..ALPHABET.len())];
        token[at] = if token[at] == new { b'~' } else { new };
    }
    bearer(&String::from_utf8(token).expect("text"))
}

fn mutated_request(rng: &mut Rng, _: Uuid) -> Vec<u8> {
    // The token is invalid, because a mutated request may still be well-formed.
    let mut request = bearer("eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl");
    for _ in 0..rng.usize(1..16) {
        let at = rng.usize(..request.len());
        match rng.u8(..3) {
            0 => request[at] = rng.u8(..),
            1 => drop(request.remove(at)),
            _ => request.insert(at, rng.u8(..)),
        }
    }
    request
}

fn in_url(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let name = pick(rng, &["token", "access_token", "%74oken", "apikey", "x", "jwt", "params%5Btoken%5D"]);
    let jwt = token(org);
    request(&format!("{PATH}&{name}={jwt}"), &[format!("Authorization: Bearer {jwt}")])
}

fn wrong_time(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let name = pick(rng, &["exp", "nbf"]);
    let exp = now() + 3600;
    let value =
        pick(rng, &[json!(exp.to_string()), json!(-1), json!(-0.5), json!(1e300), json!([exp]), json!(true)]);
    with_claim(org, name, value)
}

fn wrong_org(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let text = org.to_string();
    let id = pick(
        rng,
        &[json!(""), json!("null"), Value::Null, json!(7), json!([text]), json!(text.replace('-', ""))],
    );
    with_claim(org, "app_metadata", json!({"org_id": id}))
}

fn wrong_header(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let headers = [
        json!({"alg": "none"}),
        json!({"alg": "RS256"}),
        json!({"alg": "hs256"}),
        json!({"alg": "HS512"}),
        json!({"alg": "HS256", "crit": ["exp"]}),
        json!({"alg": "HS256", "typ": "logout+jwt"}),
        json!({"typ": "JWT"}),
    ];
    bearer(&hs256(&pick(rng, &headers), &claims(org)))
}

fn header_flood(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let mut headers = vec![format!("Authorization: Bearer {}", token(org))];
    headers.extend((0..rng.usize(64..2_000)).map(|n| format!("x-{n}: y")));
    request(PATH, &headers)
}

fn long_header(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let filler = "x".repeat(rng.usize(40_000..200_000));
    match rng.u8(..3) {
        0 => with(org, &format!("x-long: {filler}")),
        1 => with(org, &format!("{filler}: x")),
        _ => with_replaced(org, "vsn=2.0.0", &format!("vsn=2.0.0&x={filler}")),
    }
}

fn long_protocols(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let entry = pick(rng, &[",", " ", "a,", "\t ", "phoenix.,"]);
    with(org, &format!("Sec-WebSocket-Protocol: {}x", entry.repeat(rng.usize(10..2_000))))
}

fn other_origin(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let origins = [
        "https://evil.example",
        "null",
        "https://app.example.evil.example",
        "https://app.example:444",
        "http://app.example",
        "https://APP.example",
    ];
    with(org, &format!("Origin: {}", pick(rng, &origins)))
}

fn ambiguous(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let lines = [
        "Content-Length: 5",
        "Transfer-Encoding: chunked",
        "Content-Length: 5\r\nTransfer-Encoding: chunked",
        "Content-Length: 5\r\nContent-Length: 6",
        "Transfer-Encoding : chunked",
        "Host: other.example",
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==",
        "Sec-WebSocket-Version: 8",
    ];
    let mut bytes = with(org, pick(rng, &lines));
    bytes.extend(b"5\r\nGET /\r\n0\r\n\r\n");
    bytes
}

fn several_tokens(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let jwt = token(org);
    let entry = format!("base64url.bearer.phx.{}", STANDARD_NO_PAD.encode(&jwt));
    let lines = [
        format!("Authorization: Bearer {jwt}"),
        format!("Sec-WebSocket-Protocol: phoenix, {entry}"),
        format!("Sec-WebSocket-Protocol: {entry}"),
    ];
    with(org, &pick(rng, &lines))
}

fn not_http(rng: &mut Rng, _: Uuid) -> Vec<u8> {
    match rng.u8(..4) {
        0 => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        1 => [&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"[..], &bytes(rng, 500)].concat(),
        2 => b"\0\0\0\x08\x04\xd2\x16\x2f".to_vec(),
        _ => {
            let count = rng.usize(1..4_000);
            bytes(rng, count)
        }
    }
}

fn truncated(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let mut request = bearer(&token(org));
    request.truncate(rng.usize(..request.len()));
    request
}

fn truncated_token(rng: &mut Rng, org: Uuid) -> Vec<u8> {
    let token = token(org);
    bearer(&token[..rng.usize(..token.len())])
}

/// All kinds, in a fixed order.
pub(crate) const KINDS: &[Kind] = &[
    kind("no token", |_, _| request(PATH, &[])),
    kind("truncated token", truncated_token),
    kind("mutated token", mutated_token),
    kind("token of random bytes", |rng, _| {
        let part = |rng: &mut Rng| {
            let n = rng.usize(1..300);
            URL_SAFE_NO_PAD.encode(bytes(rng, n))
        };
        bearer(&format!("{}.{}.{}", part(rng), part(rng), part(rng)))
    }),
    kind("oversized token", |rng, org| {
        bearer(&format!("{}{}", token(org), "A".repeat(rng.usize(8_192..20_000))))
    }),
    kind("another algorithm, typ or crit", wrong_header),
    kind("time of a wrong type", wrong_time),
    kind("expired", |rng, org| with_claim(org, "exp", json!(now() - rng.u64(1..100_000)))),
    kind("another audience", |rng, org| {
        with_claim(org, "aud", pick(rng, &[json!("anon"), json!([]), json!(7)]))
    }),
    kind("malformed organisation id", wrong_org),
    kind("organisation that does not exist", |rng, _| bearer(&token(Uuid::from_u128(rng.u128(..))))),
    kind("several tokens", several_tokens),
    kind("token in the URL", in_url),
    kind("token in a cookie", |_, org| request(PATH, &[format!("Cookie: warden={}", token(org))])),
    kind("origin that is not allowed", other_origin),
    kind("header flood", header_flood),
    kind("oversized header", long_header),
    kind("very long subprotocol list", long_protocols),
    kind("ambiguous request (smuggling)", ambiguous),
    kind("no Host", |_, org| with_replaced(org, "Host: gateway.example\r\n", "")),
    kind("HTTP/1.0", |_, org| with_replaced(org, "HTTP/1.1", "HTTP/1.0")),
    kind("another WebSocket version", |rng, org| {
        with_replaced(org, "Version: 13", &format!("Version: {}", rng.u8(..13)))
    }),
    kind("invalid WebSocket key", |rng, org| {
        with_replaced(org, "dGhlIHNhbXBsZSBub25jZQ==", pick(rng, &["", "AA==", "****", "dGhl"]))
    }),
    kind("not HTTP", not_http),
    Kind { name: "mutated request", make: mutated_request, then: Then::End },
    Kind { name: "truncated request", make: truncated, then: Then::End },
    Kind { name: "hang-up", make: |_, _| request(PATH, &[]), then: Then::HangUp },
    Kind { name: "slow-loris", make: |_, org| bearer(&token(org)), then: Then::Drip },
];
