//! Reasons for which a request has no usable credential.

/// Reason for which a request has no usable credential. The message never repeats what the client sent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The URL contains a credential, or something that looks like one.
    #[error(
        "the URL contains a credential ({0}), and URLs end up in logs: send the token in the Authorization header or \
         as phoenix's authToken"
    )]
    InUrl(String),
    /// The request has no token.
    #[error("no token: send `Authorization: Bearer <token>`, or phoenix's authToken")]
    Missing,
    /// The request has more than one token.
    #[error("more than one token: send exactly one")]
    Several,
    /// A header or subprotocol entry cannot be read.
    #[error("{0}")]
    Malformed(&'static str),
    /// The client offers subprotocols, but not the one that the gateway supports. A browser would then fail
    /// the connection.
    #[error("none of the offered subprotocols is supported: offer `phoenix`")]
    Subprotocol,
}
