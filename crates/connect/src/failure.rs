//! Reasons why there is no connection, in the form in which sqlx receives them: messages of PostgreSQL's
//! protocol.

/// Type of a message that rejects the connection.
pub(crate) const ERROR_RESPONSE: u8 = b'E';

/// SQLSTATE with which PostgreSQL rejects a connection by `pg_hba.conf`.
const REJECTED_BY_HBA: &str = "28000";

/// SQLSTATE cannot_connect_now, after which pools retry.
const UNREACHABLE: &str = "57P03";

/// SQLSTATE sqlclient_unable_to_establish_sqlconnection.
const INSECURE: &str = "08001";

/// SQLSTATE config_file_error.
const MISCONFIGURED: &str = "F0000";

/// Reason why there is no connection.
pub(crate) struct Failure {
    code: &'static str,
    message: String,
    /// The server's own message.
    response: Option<Vec<u8>>,
}

impl Failure {
    /// The server cannot be reached at the moment.
    pub(crate) fn unreachable(message: String) -> Self {
        Self { code: UNREACHABLE, message, response: None }
    }

    /// The connection would be less secure than configured, or TLS failed.
    pub(crate) fn insecure(message: impl Into<String>) -> Self {
        Self { code: INSECURE, message: message.into(), response: None }
    }

    /// The files or settings of TLS are wrong. No mode falls back to plain text then.
    pub(crate) fn misconfigured(message: String) -> Self {
        Self { code: MISCONFIGURED, message, response: None }
    }

    /// The server rejected the connection with this message.
    pub(crate) fn rejected(response: Vec<u8>) -> Self {
        Self { code: "", message: String::new(), response: Some(response) }
    }

    /// The failure as an ErrorResponse of PostgreSQL's protocol.
    pub(crate) fn to_message(&self) -> Vec<u8> {
        if let Some(response) = &self.response {
            return response.clone();
        }
        let mut fields = Vec::new();
        for (kind, value) in [(b'S', "FATAL"), (b'V', "FATAL"), (b'C', self.code), (b'M', &self.message)] {
            fields.push(kind);
            fields.extend(value.bytes().filter(|byte| *byte != 0));
            fields.push(0);
        }
        fields.push(0);
        let length = u32::try_from(fields.len() + 4).unwrap_or(u32::MAX);
        [&[ERROR_RESPONSE], &length.to_be_bytes()[..], &fields].concat()
    }

    /// Whether `pg_hba.conf` rejected the connection.
    pub(crate) fn is_rejected_by_hba(&self) -> bool {
        let code = [b"C", REJECTED_BY_HBA.as_bytes(), b"\0"].concat();
        self.response.as_ref().is_some_and(|response| response.windows(code.len()).any(|part| part == code))
    }

    /// Whether the server itself, or a pooler, rejected the connection.
    pub(crate) fn is_from_server(&self) -> bool {
        self.response.is_some()
    }

    /// Whether TLS failed, or would be less secure than configured.
    pub(crate) fn is_insecure(&self) -> bool {
        self.code == INSECURE
    }
}
