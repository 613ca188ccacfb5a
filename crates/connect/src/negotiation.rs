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

use crate::authentication::{ChannelBinding, authenticate};
use crate::failure::{ERROR_RESPONSE, Failure};
use crate::tls::{self, Security, SslMode};

/// Reason for plain text.
pub(crate) const NO_TLS: &str = "the server offers no TLS";

/// Request for TLS: its length, and the code 80877103.
const SSL_REQUEST: [u8; 8] = [0, 0, 0, 8, 0x04, 0xd2, 0x16, 0x2f];

/// Largest rejection that is read as a whole.
const ERROR_BYTES_MAX: usize = 64 * 1024;

/// A server, and how to reach it.
pub(crate) struct Target {
    /// Name in messages.
    pub(crate) name: String,
    /// Name that the server's certificate must have.
    pub(crate) host: String,
    /// Name or address to connect to.
    pub(crate) connect_to: String,
    pub(crate) port: u16,
    pub(crate) password: Option<String>,
    pub(crate) security: Security,
}

impl Target {
    /// The mode in force. Channel binding needs TLS.
    fn mode(&self) -> SslMode {
        match self.security.mode {
            SslMode::Allow | SslMode::Prefer if self.security.binding == ChannelBinding::Require => {
                SslMode::Require
            }
            mode => mode,
        }
    }
}

/// How a connection is encrypted, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Encryption {
    Tls { version: String, cipher: String, verified: &'static str, is_bound: bool },
    Plain(&'static str),
}

impl fmt::Display for Encryption {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tls { version, cipher, verified, is_bound } => {
                let bound = if *is_bound { ", channel bound to the password" } else { "" };
                write!(f, "{version} with {cipher}, {verified}{bound}")
            }
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

/// Connects and sends the startup packet, with or without TLS.
pub(crate) async fn negotiate(target: &Target, startup: &[u8]) -> Result<Negotiated, Failure> {
    match target.mode() {
        SslMode::Disable => in_plain_text(target, startup, "sslmode=disable").await,
        SslMode::Allow => match in_plain_text(target, startup, "sslmode=allow").await {
            // A pooler's rejection has other codes than PostgreSQL's.
            Err(rejected) if rejected.is_from_server() => match with_tls(target, startup).await {
                Ok(Attempt::Tls(negotiated)) => Ok(negotiated),
                Ok(Attempt::NotOffered(_)) => Err(rejected),
                Err(failure) => Err(failure),
            },
            result => result,
        },
        SslMode::Prefer => match with_tls(target, startup).await {
            Ok(Attempt::Tls(negotiated)) => Ok(negotiated),
            Ok(Attempt::NotOffered(tcp)) => begin(tcp, startup, Encryption::Plain(NO_TLS)).await,
            Err(failure) if failure.is_insecure() => {
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

/// Whether the mode is `prefer` and the server has no TLS. If the server cannot be reached, a connection
/// through the tunnel finds the reason.
pub(crate) async fn offers_no_tls(target: &Target) -> bool {
    if target.mode() != SslMode::Prefer {
        return false;
    }
    let asked = async {
        let mut tcp = connect(target).await.ok()?;
        tcp.write_all(&SSL_REQUEST).await.ok()?;
        tcp.read_u8().await.ok()
    };
    asked.await == Some(b'N')
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
    let version = state.protocol_version().map_or_else(String::new, |v| format!("{v:?}").replace('_', "."));
    let suite = state.negotiated_cipher_suite();
    let cipher = suite.map_or_else(String::new, |suite| format!("{:?}", suite.suite()));
    let channel = state.peer_certificates().and_then(|chain| tls::channel_of(chain.first()?));
    let mut stream = stream;
    let first = begin_over(&mut stream, startup, explain).await?;
    let (first, is_bound) = match <&[u8; 5]>::try_from(first.as_slice()) {
        Ok(header) => {
            let (binding, password) = (target.security.binding, target.password.as_deref());
            authenticate(&mut stream, header, binding, password, channel).await?
        }
        Err(_) => (first, false),
    };
    let encryption = Encryption::Tls { version, cipher, verified: session.verified, is_bound };
    Ok(Attempt::Tls(Negotiated { stream: Box::new(stream), first, encryption }))
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

async fn begin(mut tcp: TcpStream, startup: &[u8], encryption: Encryption) -> Result<Negotiated, Failure> {
    let first = begin_over(&mut tcp, startup, unreachable).await?;
    Ok(Negotiated { stream: Box::new(tcp), first, encryption })
}

/// Sends the startup packet, and reads the type and the length of the first message. A rejection is the
/// error.
async fn begin_over(
    stream: &mut impl Duplex,
    startup: &[u8],
    explain: impl Fn(&io::Error) -> Failure,
) -> Result<Vec<u8>, Failure> {
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
    if first[0] == ERROR_RESPONSE { Err(Failure::rejected(first)) } else { Ok(first) }
}
