//! Authentication with channel binding, which sqlx does not have. The tunnel does it in sqlx's place, and
//! sqlx then receives the server's confirmation.

use std::io;

use anyhow::{Context as _, bail, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::failure::{ERROR_RESPONSE, Failure};
use crate::scram::{self, Client};

/// Type of a request for authentication, or of its confirmation.
const AUTHENTICATION: u8 = b'R';

/// Kinds of requests.
const SASL: u32 = 10;
const SASL_CONTINUE: u32 = 11;
const SASL_FINAL: u32 = 12;

/// Type of the client's messages.
const RESPONSE: u8 = b'p';

/// Largest message of the server.
const MESSAGE_BYTES_MAX: u32 = 16 * 1024;

/// libpq's `channel_binding`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ChannelBinding {
    Disable,
    /// If the server offers it.
    Prefer,
    Require,
}

/// Authenticates with channel binding if the server offers it. `header` is the type and the length of the
/// server's first message, and `channel` the hash of its certificate.
///
/// Returns the bytes that sqlx must receive before the rest of the stream, and whether the channel is bound.
pub(crate) async fn authenticate(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    header: &[u8; 5],
    binding: ChannelBinding,
    password: Option<&str>,
    channel: Option<Vec<u8>>,
) -> Result<(Vec<u8>, bool), Failure> {
    if binding == ChannelBinding::Disable || header[0] != AUTHENTICATION {
        return Ok((header.to_vec(), false));
    }
    let message = read(stream, header).await.map_err(|error| broken(&error))?;
    let (is_sasl, rest) = message
        .split_first_chunk()
        .map_or((false, &[][..]), |(code, rest)| (u32::from_be_bytes(*code) == SASL, rest));
    let is_offered = is_sasl && rest.split(|byte| *byte == 0).any(|name| name == scram::MECHANISM.as_bytes());
    match (password, channel) {
        (Some(password), Some(channel)) if is_offered => {
            exchange(stream, password, channel).await?;
            Ok((Vec::new(), true))
        }
        (password, _) if binding == ChannelBinding::Require => {
            Err(Failure::insecure(if password.is_none() {
                "channel_binding=require needs a password: set one, or use channel_binding=prefer"
            } else if is_offered {
                "channel_binding=require: the server's certificate has a signature without a hash (Ed25519), to which \
             nothing can be bound: use another certificate, or channel_binding=prefer"
            } else {
                "channel_binding=require: the server, or a pooler or proxy before it, does not offer SCRAM-SHA-256-PLUS: \
             set scram-sha-256 in pg_hba.conf, or use channel_binding=prefer with sslmode=verify-full"
            }))
        }
        _ => Ok(([header.as_slice(), &message].concat(), false)),
    }
}

/// Exchanges proofs that both sides know the password. The server's confirmation is the next message.
async fn exchange(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    password: &str,
    channel: Vec<u8>,
) -> Result<(), Failure> {
    let failed = |error: anyhow::Error| {
        Failure::insecure(format!("authentication with channel binding failed: {error:#}"))
    };
    let client = Client::new(password, channel).map_err(failed)?;
    let first = client.first();
    let length = u32::try_from(first.len()).unwrap_or(u32::MAX).to_be_bytes();
    let initial = [scram::MECHANISM.as_bytes(), &[0], &length, first.as_bytes()].concat();
    let server_first = answer(stream, &initial, SASL_CONTINUE).await?;
    // The hash is repeated thousands of times.
    let proven = tokio::task::spawn_blocking(move || client.prove(&server_first));
    let proven =
        proven.await.context("the calculation was stopped").and_then(|proven| proven).map_err(failed)?;
    let server_final = answer(stream, proven.message.as_bytes(), SASL_FINAL).await?;
    proven.verify(&server_final).map_err(failed)
}

/// Sends a message, and returns the data of the server's answer of this kind.
async fn answer(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    data: &[u8],
    kind: u32,
) -> Result<String, Failure> {
    let sent = async {
        let length = u32::try_from(data.len() + 4).unwrap_or(u32::MAX);
        stream.write_all(&[&[RESPONSE], &length.to_be_bytes()[..], data].concat()).await?;
        stream.flush().await?;
        let mut header = [0; 5];
        stream.read_exact(&mut header).await?;
        let message = read(stream, &header).await?;
        Ok((header, message))
    };
    let (header, message) = sent.await.map_err(|error| broken(&error))?;
    if header[0] == ERROR_RESPONSE {
        return Err(Failure::rejected([header.as_slice(), &message].concat()));
    }
    data_of(header[0], &message, kind)
        .map_err(|error| Failure::insecure(format!("authentication with channel binding failed: {error}")))
}

fn data_of(tag: u8, message: &[u8], kind: u32) -> anyhow::Result<String> {
    let Some((code, data)) = message.split_first_chunk() else { bail!("a message of the server is cut off") };
    ensure!(
        tag == AUTHENTICATION && u32::from_be_bytes(*code) == kind,
        "the server sent another message than the protocol demands"
    );
    Ok(String::from_utf8(data.to_vec())?)
}

/// Reads the rest of a message.
async fn read(stream: &mut (impl AsyncRead + Unpin), header: &[u8; 5]) -> io::Result<Vec<u8>> {
    let length = u32::from_be_bytes([header[1], header[2], header[3], header[4]]);
    let rest = length.checked_sub(4).filter(|rest| *rest <= MESSAGE_BYTES_MAX);
    let rest = rest.and_then(|rest| usize::try_from(rest).ok()).ok_or(io::ErrorKind::InvalidData)?;
    let mut message = vec![0; rest];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

fn broken(error: &io::Error) -> Failure {
    Failure::unreachable(format!("the server ended the authentication: {error}"))
}
