//! The one table of close codes. Every session ends with one of them.
//!
//! Codes below 4000 are those of RFC 6455; 4000 to 4999 are Warden's, chosen near the HTTP status
//! that means the same. `phoenix` on npm reconnects after every code (up to 1.8.8 not after 1000): an
//! application that wants to stop on a `Stop` code does so in its `onClose`.

/// Whether a client should connect again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Retry {
    /// Yes, with backoff and its last cursor; with a fresh token where the reason says so.
    Retry,
    /// No: the same client would be closed again for the same reason.
    Stop,
}

/// Why a session ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloseCode {
    /// The code in the Close frame.
    pub code: u16,
    /// The reason in the Close frame: at most 123 bytes, for people and logs.
    pub reason: &'static str,
    /// What the client should do.
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
    /// The client said goodbye, or hung up.
    NORMAL = 1000, "goodbye", Stop;
    /// A frame broke RFC 6455.
    PROTOCOL_ERROR = 1002, "the frame breaks the WebSocket protocol", Stop;
    /// A binary frame: messages are JSON text.
    UNSUPPORTED = 1003, "binary frames are not understood: send JSON text", Stop;
    /// Text that is no UTF-8.
    INVALID_UTF8 = 1007, "the text is not valid UTF-8", Stop;
    /// A message above the limit.
    TOO_BIG = 1009, "the message is too long", Stop;
    /// The gateway failed; its log says why.
    INTERNAL = 1011, "internal error", Retry;
    /// The gateway is shutting down or being replaced.
    RESTART = 1012, "the gateway is restarting", Retry;
    /// Not a Phoenix V2 message.
    MALFORMED = 4400, "not a message: send [join_ref, ref, topic, event, payload]", Stop;
    /// The token's time ran out and none came to replace it.
    TOKEN_EXPIRED = 4401, "the token has expired: connect with a fresh one", Retry;
    /// A refresh with the token of somebody else.
    IDENTITY_CHANGED = 4403, "the new token is for another user or organisation", Stop;
    /// The organisation was deleted.
    ORG_GONE = 4404, "the organisation no longer exists", Stop;
    /// Nothing heard, not even a heartbeat.
    IDLE = 4408, "no heartbeat", Retry;
    /// The session, its user or its organisation was revoked after its token was made.
    REVOKED = 4410, "the session was revoked: sign in again", Stop;
    /// The organisation is suspended.
    ORG_SUSPENDED = 4423, "the organisation is suspended", Stop;
    /// More messages or bytes than a client may send, and it went on after it was told.
    FLOOD = 4428, "too many messages: send fewer", Stop;
    /// The client reads more slowly than its events come, and its queue is full.
    SLOW = 4429, "too slow: the queue of unsent events is full", Retry;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_sendable_and_unique() {
        for (n, close) in CLOSE_CODES.iter().enumerate() {
            assert!(close.reason.len() <= 123, "{close:?}");
            assert!(
                matches!(close.code, 1000 | 1002 | 1003 | 1007..=1014 | 4000..=4999),
                "{close:?} must not be sent"
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
