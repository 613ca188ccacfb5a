//! The upgrade of a connection: the request's text, the answer's judgement, and words for a refusal. It
//! does no I/O. No word quotes the token, which is in the request alone.

use anyhow::{anyhow, bail, ensure};

use crate::message::Gateway;

/// The key of RFC 6455's example, and the answer to it: one key does for all, and its answer shows as
/// well as any other that the server understood.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";
const HEADERS_MAX: usize = 32;
const HEAD_BYTES_MAX: usize = 16 * 1024;
/// Of a refusal's body, what is shown.
const REFUSAL_CHARS_MAX: usize = 300;

/// The request for an upgrade.
pub(crate) fn request(gateway: &Gateway, token: &str) -> String {
    let Gateway { authority, path, .. } = gateway;
    format!(
        "GET {path} HTTP/1.1\r\nHost: {authority}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\nAuthorization: Bearer {token}\r\n\r\n"
    )
}

/// What an answer says.
#[derive(Debug)]
pub(crate) enum Answer {
    /// More must be read.
    Incomplete,
    /// The upgrade is done, and this many bytes were the answer's.
    Upgraded(usize),
    /// Not now: try again.
    Later(anyhow::Error),
    Refused(anyhow::Error),
}

/// Reads the answer. `ended` tells that nothing more will come.
pub(crate) fn answer(bytes: &[u8], ended: bool) -> Answer {
    match read(bytes, ended) {
        Ok(answer) => answer,
        Err(error) => Answer::Refused(error),
    }
}

fn read(bytes: &[u8], ended: bool) -> anyhow::Result<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; HEADERS_MAX];
    let mut response = httparse::Response::new(&mut headers);
    let status = response
        .parse(bytes)
        .map_err(|error| anyhow!("the handshake's answer is no HTTP ({error}). Is --url the gateway's?"))?;
    let httparse::Status::Complete(head) = status else {
        ensure!(bytes.len() < HEAD_BYTES_MAX, "the handshake's answer has no end");
        ensure!(!ended, "the gateway cut the connection during the handshake");
        return Ok(Answer::Incomplete);
    };
    let header = |name: &str| {
        let found = response.headers.iter().find(|header| header.name.eq_ignore_ascii_case(name))?;
        std::str::from_utf8(found.value).ok().map(str::trim)
    };
    if response.code == Some(101) {
        ensure!(header("sec-websocket-accept") == Some(ACCEPT), "the 101 has a wrong Sec-WebSocket-Accept");
        return Ok(Answer::Upgraded(head));
    }
    let length: usize = header("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
    let body = bytes.get(head..).unwrap_or_default();
    if body.len() < length && !ended && bytes.len() < HEAD_BYTES_MAX {
        return Ok(Answer::Incomplete);
    }
    refusal(response.code.unwrap_or(0), response.reason.unwrap_or_default(), body)
}

fn refusal(status: u16, reason: &str, body: &[u8]) -> anyhow::Result<Answer> {
    let body: String = String::from_utf8_lossy(body).trim().chars().take(REFUSAL_CHARS_MAX).collect();
    let advice = match status {
        401 | 403 => ". Compare --jwt-secret, --jwt-audience and --jwt-issuer with the gateway's",
        404 => ". Compare the path of --url with the gateway's",
        429 if body.contains("per_address") => {
            ". Give more addresses with --bind, a lower --connect-rate, or raise the gateway's limit per address"
        }
        429 if body.contains("_connections") => {
            ". Spread the sockets over more gateways (--url repeated), organisations (--orgs), or raise the gateway's limit"
        }
        429 | 503 => ". It is at a limit, or not ready: try again, or a lower --connect-rate",
        _ => "",
    };
    let error = anyhow!("the gateway refused the handshake: {status} {reason} {body}{advice}");
    if matches!(status, 429 | 503) {
        return Ok(Answer::Later(error));
    }
    bail!(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADED: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
        sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

    #[test]
    fn an_upgrade_is_seen_when_its_head_is_whole() {
        assert!(matches!(answer(&UPGRADED.as_bytes()[..60], false), Answer::Incomplete));
        let with_frame = format!("{UPGRADED}\u{1}\u{2}");
        let Answer::Upgraded(head) = answer(with_frame.as_bytes(), false) else { panic!("not upgraded") };
        assert_eq!(head, UPGRADED.len());
    }

    #[test]
    fn what_is_no_upgrade_is_refused_with_advice() {
        let wrong_key = UPGRADED.replace("s3pPL", "AAAAA");
        let cases = [
            (wrong_key.as_str(), "Sec-WebSocket-Accept"),
            ("SSH-2.0-OpenSSH\r\n\r\n", "Is --url the gateway's?"),
            ("HTTP/1.1 401 Unauthorized\r\ncontent-length: 2\r\n\r\n{}", "--jwt-secret"),
            ("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n", "path of --url"),
        ];
        for (text, expected) in cases {
            let Answer::Refused(error) = answer(text.as_bytes(), false) else { panic!("{text}") };
            assert!(error.to_string().contains(expected), "{error}");
        }
        assert!(matches!(
            answer(b"HTTP/1.1 401 x\r\ncontent-length: 5\r\n\r\n{}", false),
            Answer::Incomplete
        ));
        assert!(matches!(answer(b"HTTP/1.1 401 x\r\ncontent-length: 5\r\n\r\n{}", true), Answer::Refused(_)));
        assert!(matches!(answer(b"", true), Answer::Refused(_)));
    }

    #[test]
    fn a_limit_means_later() {
        let text = "HTTP/1.1 429 Too Many Requests\r\ncontent-length: 22\r\n\r\nhandshakes_per_address";
        let Answer::Later(error) = answer(text.as_bytes(), false) else { panic!("refused") };
        assert!(error.to_string().contains("--bind"), "{error}");
    }
}
