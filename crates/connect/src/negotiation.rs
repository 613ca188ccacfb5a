//! Decides between TLS and plain text, in libpq's order, and up to the server's first message.
//!
//! The server decides by `pg_hba.conf` whether it accepts the choice, so its first message belongs to the
//! negotiation: if it rejects the connection, the modes `allow` and `prefer` try the other choice.

use std::fmt;
use std::io;

use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use crate::tls::{self, Security, SslMode};

/// Request for TLS: its length, and the code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Type of a message that rejects the connection.
const ERROR_RESPONSE: u8 = b'E';

/// Largest rejection that is read as a whole.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// SQLSTATE with which PostgreSQL rejects a connection by `pg_hba.conf`.
const REJECTED_BY_HBA: &str = "28000";

/// SQLSTATE cannot_connect_now, after which pools retry.
const UNREACHABLE: &str = "57P03";

/// SQLSTATE sqlclient_unable_to_establish_sqlconnection.
const INSECURE: &str = "08001";

/// SQLSTATE config_file_error.
const MISCONFIGURED: &str = "F0000";

/// A server, and how to reach it.
pub(crate) struct Target {
    /// Name in messages.
    pub(crate) name: String,
    /// Name that the server's certificate must have.
    pub(crate) host: String,
    /// Name or address to connect to.
    pub(crate) connect_to: String,
    pub(crate) port: u16,
    pub(crate) security: Security,
}

/// How a connection is encrypted, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    Tls { version: String, cipher: String, verified: &'static str },
    Plain(&'static str),
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls { version, cipher, verified } => write!(f, "{version} with {cipher}, {verified}"),
            Self::Plain(reason) => write!(f, "none ({reason})"),
        }
    }
}

/// Both directions of a connection.
pub(crate) trait Duplex: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Duplex for T {}

/// A connection on which the server has begun to answer.
pub(crate) struct Negotiated {
    pub(crate) stream: Box<dyn Duplex>,
    /// Beginning of the server's first message.
    pub(crate) first: Vec<u8>,
    pub(crate) encryption: Encryption,
}

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
    fn insecure(message: impl Into<String>) -> Self {
        Self { code: INSECURE, message: message.into(), response: None }
    }

    /// The files or settings of TLS are wrong. No mode falls back to plain text then.
    fn misconfigured(message: String) -> Self {
        Self { code: MISCONFIGURED, message, response: None }
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
    fn is_rejected_by_hba(&self) -> bool {
        let code = [b"C", REJECTED_BY_HBA.as_bytes(), b"\0"].concat();
        self.response.as_ref().is_some_and(|response| response.windows(code.len()).any(|part| part == code))
    }
}

/// Connects and sends the startup packet, with or without TLS.
pub(crate) async fn negotiate(target: &Target, startup: &[u8]) -> Result<Negotiated, Failure> {
    match target.security.mode {
        SslMode::Disable => in_plain_text(target, startup, "sslmode=disable").await,
        SslMode::Allow => match in_plain_text(target, startup, "sslmode=allow").await {
            // A pooler's rejection has other codes than PostgreSQL's.
            Err(rejected) if rejected.response.is_some() => match with_tls(target, startup).await {
                Ok(Attempt::Tls(negotiated)) => Ok(negotiated),
                Ok(Attempt::NotOffered(_)) => Err(rejected),
                Err(failure) => Err(failure),
            },
            result => result,
        },
        SslMode::Prefer => match with_tls(target, startup).await {
            Ok(Attempt::Tls(negotiated)) => Ok(negotiated),
            Ok(Attempt::NotOffered(tcp)) => {
                begin(tcp, startup, Encryption::Plain("the server offers no TLS")).await
            }
            Err(failure) if failure.code == INSECURE => {
                in_plain_text(target, startup, "TLS failed").await.map_err(|_| failure)
            }
            Err(rejected) if rejected.is_rejected_by_hba() => {
                in_plain_text(target, startup, "the server rejects TLS").await.map_err(|_| rejected)
            }
            Err(failure) => Err(failure),
        },
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => {
            match with_tls(target, startup).await? {
                Attempt::Tls(negotiated) => Ok(negotiated),
                Attempt::NotOffered(_) => Err(Failure::insecure(
                    "the server offers no TLS, which sslmode requires: turn on ssl in the server's configuration, or use \
                 sslmode=prefer if the network is trusted",
                )),
            }
        }
    }
}

/// Result of asking for TLS.
enum Attempt {
    Tls(Negotiated),
    /// The server has no TLS. The connection can be used in plain text.
    NotOffered(TcpStream),
}

async fn in_plain_text(target: &Target, startup: &[u8], reason: &'static str) -> Result<Negotiated, Failure> {
    begin(connect(target).await?, startup, Encryption::Plain(reason)).await
}

async fn with_tls(target: &Target, startup: &[u8]) -> Result<Attempt, Failure> {
    let session = tls::session(&target.security, &target.host)
        .await
        .map_err(|error| Failure::misconfigured(format!("{error:#}")))?;
    let mut tcp = connect(target).await?;
    if !target.security.is_direct {
        tcp.write_all(&SSL_REQUEST).await.map_err(|error| unreachable(&error))?;
        match tcp.read_u8().await.map_err(|error| unreachable(&error))? {
            b'S' => {}
            b'N' => return Ok(Attempt::NotOffered(tcp)),
            _ => {
                return Err(Failure::insecure(
                    "the answer to a request for TLS is not PostgreSQL's: check host and port",
                ));
            }
        }
    }
    let explain = |error: &io::Error| Failure::insecure(tls::explain(error, &target.security, &target.host));
    let connector = TlsConnector::from(session.config);
    let name: ServerName<'static> = session.server_name;
    let stream = connector.connect(name, tcp).await.map_err(|error| explain(&error))?;
    let state = stream.get_ref().1;
    let encryption = Encryption::Tls {
        version: state.protocol_version().map_or_else(String::new, |v| format!("{v:?}").replace('_', ".")),
        cipher: state
            .negotiated_cipher_suite()
            .map_or_else(String::new, |suite| format!("{:?}", suite.suite())),
        verified: session.verified,
    };
    begin_over(stream, startup, encryption, explain).await.map(Attempt::Tls)
}

async fn connect(target: &Target) -> Result<TcpStream, Failure> {
    let tcp = TcpStream::connect((target.connect_to.as_str(), target.port))
        .await
        .map_err(|error| unreachable(&error))?;
    // A query is one small write.
    tcp.set_nodelay(true).map_err(|error| unreachable(&error))?;
    Ok(tcp)
}

fn unreachable(error: &io::Error) -> Failure {
    Failure::unreachable(match error.kind() {
        io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        io::ErrorKind::UnexpectedEof => "the server closed the connection".to_owned(),
        _ => error.to_string(),
    })
}

async fn begin(stream: TcpStream, startup: &[u8], encryption: Encryption) -> Result<Negotiated, Failure> {
    begin_over(stream, startup, encryption, unreachable).await
}

/// Sends the startup packet, and reads the type and length of the first message, or the whole rejection.
async fn begin_over(
    mut stream: impl Duplex + 'static,
    startup: &[u8],
    encryption: Encryption,
    explain: impl Fn(&io::Error) -> Failure,
) -> Result<Negotiated, Failure> {
    let begun = async {
        stream.write_all(startup).await?;
        stream.flush().await?;
        let mut first = vec![0; 5];
        stream.read_exact(&mut first).await?;
        if first[0] == ERROR_RESPONSE {
            let length =
                usize::try_from(u32::from_be_bytes([first[1], first[2], first[3], first[4]])).unwrap_or(0);
            let length = length.clamp(4, ERROR_BYTES_MAX) + 1;
            first.resize(length, 0);
            stream.read_exact(&mut first[5..]).await?;
        }
        Ok(first)
    };
    let first = begun.await.map_err(|error| explain(&error))?;
    if first[0] == ERROR_RESPONSE {
        return Err(Failure { code: "", message: String::new(), response: Some(first) });
    }
    Ok(Negotiated { stream: Box::new(stream), first, encryption })
}
