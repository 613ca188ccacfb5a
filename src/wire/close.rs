//! The table of close codes. Every session ends with one of them.
//!
//! Codes below 4000 come from RFC 6455. Codes from 4000 to 4999 are Warden's own; each resembles the HTTP
//! status with the same meaning. `phoenix` on npm reconnects after every code (until 1.8.8 not after 1000).
//! An application that wants to stop on a `Stop` code must do so in its `onClose`.

/// Whether a client should reconnect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Reconnect with backoff and the last cursor, and with a fresh token if the reason asks for one.
    Retry,
    /// Do not reconnect: the gateway would close the same client again for the same reason.
    Stop,
}

/// A reason for the end of a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode {
    /// The code in the Close frame.
    pub code: u16,
    /// The reason in the Close frame, for people and logs; at most 123 bytes.
    pub reason: &'static str,
    /// Whether the client should reconnect.
    pub retry: Retry,
}

macro_rules! close_codes {
    ($($(#[$doc:meta])* $name:ident = $code:literal, $reason:literal, $retry:ident;)*) => {
        impl CloseCode {
            $($(#[$doc])* pub const $name: Self =
                Self { code: $code, reason: $reason, retry: Retry::$retry };)*
        }
        /// All close codes, in the order of `docs/protocol.md`.
        pub const CLOSE_CODES: &[CloseCode] = &[$(CloseCode::$name),*];
    };
}

close_codes! {
    /// The client closed the socket.
    NORMAL = 1000, "goodbye", Stop;
    /// A frame violated RFC 6455.
    PROTOCOL_ERROR = 1002, "the frame breaks the WebSocket protocol", Stop;
    /// The client sent a binary frame; messages are JSON text.
    UNSUPPORTED = 1003, "binary frames are not understood: send JSON text", Stop;
    /// The client sent text that is not valid UTF-8.
    INVALID_UTF8 = 1007, "the text is not valid UTF-8", Stop;
    /// A message exceeded its limit.
    TOO_BIG = 1009, "the message is too long", Stop;
    /// The gateway failed, and has logged the error.
    INTERNAL = 1011, "internal error", Retry;
    /// The gateway is shutting down or being replaced.
    RESTART = 1012, "the gateway is restarting", Retry;
    /// The client sent something else than a Phoenix V2 message.
    MALFORMED = 4400, "not a message: send [join_ref, ref, topic, event, payload]", Stop;
    /// The token expired, and the client sent no fresh one.
    TOKEN_EXPIRED = 4401, "the token has expired: connect with a fresh one", Retry;
    /// The client refreshed with a token of another user or organisation.
    IDENTITY_CHANGED = 4403, "the new token is for another user or organisation", Stop;
    /// The organisation was deleted.
    ORG_GONE = 4404, "the organisation no longer exists", Stop;
    /// The client sent nothing for too long, not even a heartbeat.
    IDLE = 4408, "no heartbeat", Retry;
    /// A topic now needs a claim that the token lacks. Its joins are rejected after the reconnection.
    TOPIC_RESTRICTED = 4409, "a topic now needs a claim: reconnect and join again", Retry;
    /// The login, its user or its organisation was revoked after the token was issued.
    REVOKED = 4410, "the session was revoked: sign in again", Stop;
    /// The table of a join with a filter has changed, so the filter must be compiled again.
    TABLE_CHANGED = 4412, "the table of a filter has changed: reconnect and join again", Retry;
    /// The organisation is suspended.
    ORG_SUSPENDED = 4423, "the organisation is suspended", Stop;
    /// The client exceeded its rate limits, and continued after errors had said so.
    FLOOD = 4428, "too many messages: send fewer", Stop;
    /// The client reads more slowly than its events arrive, and its queue is full.
    SLOW = 4429, "too slow: too many unsent events, or for too long", Retry;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_may_be_sent() {
        for (n, close) in CLOSE_CODES.iter().enumerate() {
            assert!(close.reason.len() <= 123, "{close:?}");
            assert!(
                matches!(close.code, 1000 | 1002 | 1003 | 1007..=1014 | 4000..=4999),
                "RFC 6455 does not allow {close:?} in a frame"
            );
            assert!(CLOSE_CODES[..n].iter().all(|other| other.code != close.code), "{close:?}");
        }
    }

    #[test]
    fn every_code_is_documented() {
        let protocol = include_str!("../../docs/protocol.md");
        for close in CLOSE_CODES {
            let row = format!("| {} | {} | {:?} |", close.code, close.reason, close.retry);
            assert!(protocol.contains(&row), "docs/protocol.md lacks the row: {row}");
        }
    }
}
