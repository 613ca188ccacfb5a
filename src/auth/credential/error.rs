//! Why no token can be taken from a request.

/// Why no token can be taken from a request.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CredentialError {
    /// The URL carries a credential, or what looks like one.
    #[error(
        "the URL carries a credential ({0}): URLs end in logs. Send the token in the Authorization header or as phoenix's authToken"
    )]
    InUrl(String),
    /// None.
    #[error("no token: send `Authorization: Bearer <token>`, or phoenix's authToken")]
    Missing,
    /// More than one.
    #[error("more than one token: send exactly one")]
    Several,
    /// A header or subprotocol entry that can't be read.
    #[error("{0}")]
    Malformed(&'static str),
    /// Subprotocols without one that the gateway speaks: a browser would fail the connection.
    #[error("none of the offered subprotocols is spoken here: offer `phoenix`")]
    Subprotocol,
}
