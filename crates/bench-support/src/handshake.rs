//! The WebSocket upgrade: a client's request, the parsing of the answer, and a server's accept key. It does
//! no I/O. No error quotes the token, which only the request contains.

use std::fmt;

use anyhow::{anyhow, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha1::{Digest as _, Sha1};

/// The key of RFC 6455's example. All sockets use it, because its answer proves as well as any other that the
/// server understood the request.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
/// Appended to a key before it is hashed (RFC 6455, 1.3).
const KEY_SUFFIX: &str = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const HEADERS_MAX: usize = 32;
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Characters of a rejection's body that are shown.
const BODY_CHARS_MAX: usize = 300;

/// The head of an upgrade request. Each of `headers` is a complete line without its line break.
pub fn request(authority: &str, path: &str, headers: &[&str]) -> String {
    let headers: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n{headers}\r\n"
    )
}

/// The value of `Sec-WebSocket-Accept` that answers a key.
pub fn accept_key(key: &str) -> String {
    STANDARD.encode(Sha1::digest(format!("{key}{KEY_SUFFIX}")))
}

/// A server's answer to an upgrade request.
#[derive(Debug)]
pub enum Answer {
    /// More bytes must be read.
    Incomplete,
    /// The connection is upgraded.
    Upgraded {
        /// Length of the answer; frames follow.
        head_bytes: usize,
    },
    /// The server rejected the upgrade.
    Rejected(Rejection),
}

/// An HTTP answer other than 101.
#[derive(Debug)]
pub struct Rejection {
    /// Status code.
    pub status: u16,
    /// Reason phrase.
    pub reason: String,
    /// The beginning of the body.
    pub body: String,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.status, self.reason, self.body)
    }
}

/// Parses the answer that `bytes` begin with. `ended` means that no more bytes will arrive.
pub fn parse_answer(bytes: &[u8], ended: bool) -> anyhow::Result<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let status = response
        .parse(bytes)
        .map_err(|error| anyhow!("the answer to the handshake is not HTTP ({error}): check the URL"))?;
    let httparse::Status::Complete(head_bytes) = status else {
        ensure!(
            bytes.len() < HEAD_BYTES_MAX,
            "the answer to the handshake is longer than {HEAD_BYTES_MAX} bytes"
        );
        ensure!(!ended, "the server cut the connection during the handshake");
        return Ok(Answer::Incomplete);
    };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    if response.code == Some(101) {
        ensure!(header("sec-websocket-accept") == Some(ACCEPT), "the 101 has a wrong Sec-WebSocket-Accept");
        return Ok(Answer::Upgraded { head_bytes });
    }
    let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let body = bytes.get(head_bytes..).unwrap_or_default();
    if body.len() < length && !ended && bytes.len() < HEAD_BYTES_MAX {
        return Ok(Answer::Incomplete);
    }
    Ok(Answer::Rejected(Rejection {
        status: response.code.unwrap_or(0),
        reason: response.reason.unwrap_or_default().to_owned(),
        body: String::from_utf8_lossy(body).trim().chars().take(BODY_CHARS_MAX).collect(),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn an_upgrade_is_accepted_once_its_head_is_complete() {
        let incomplete = parse_answer(&UPGRADED.as_bytes()[..60], false).unwrap();
        assert!(matches!(incomplete, Answer::Incomplete));
        let with_frame = format!("{UPGRADED}\u{1}\u{2}");
        let Answer::Upgraded { head_bytes } = parse_answer(with_frame.as_bytes(), false).unwrap() else {
            panic!("not upgraded")
        };
        assert_eq!(head_bytes, UPGRADED.len());
    }

    #[test]
    fn a_wrong_accept_key_and_other_protocols_are_errors() {
        let wrong_key = UPGRADED.replace("s3pPL", "AAAAA");
        for (text, expected) in
            [(wrong_key.as_str(), "Sec-WebSocket-Accept"), ("SSH-2.0-OpenSSH\r\n\r\n", "check the URL")]
        {
            let error = parse_answer(text.as_bytes(), false).unwrap_err();
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(parse_answer(b"", true).is_err());
    }

    #[test]
    fn a_rejection_is_complete_with_its_body_or_with_the_connections_end() {
        let text = b"HTTP/1.1 401 x\r\ncontent-length: 5\r\n\r\n{}";
        assert!(matches!(parse_answer(text, false).unwrap(), Answer::Incomplete));
        let Answer::Rejected(rejection) = parse_answer(text, true).unwrap() else { panic!("not rejected") };
        assert_eq!(rejection.to_string(), "401 x {}");
    }

    #[test]
    fn the_accept_key_is_that_of_the_standards_example() {
        assert_eq!(accept_key(KEY), ACCEPT);
    }
}
