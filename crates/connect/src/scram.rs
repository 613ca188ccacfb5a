//! SCRAM-SHA-256-PLUS (RFC 5802, RFC 7677): the calculations of a client.
//!
//! The proofs include the hash of the certificate with which the server ended TLS (`tls-server-end-point` of
//! RFC 5929). So a server in between, with a certificate of its own, cannot pass them on.

use std::num::NonZeroU32;

use anyhow::{Context as _, bail, ensure};
use aws_lc_rs::{constant_time, digest, hmac, pbkdf2};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// Mechanism of SASL that binds the password to the connection.
pub(crate) const MECHANISM: &str = "SCRAM-SHA-256-PLUS";

/// Beginning of the first message: the kind of channel binding, and no other identity.
const HEADER: &str = "p=tls-server-end-point,,";

/// Most iterations of the hash. PostgreSQL's default is 4,096. A server must not occupy a thread for longer.
const ITERATIONS_MAX: u32 = 1_000_000;

const NONCE_BYTES: usize = 18;

/// A client that has sent its first message.
pub(crate) struct Client {
    password: String,
    channel: Vec<u8>,
    nonce: String,
}

/// A client that has sent its proof.
pub(crate) struct Proven {
    /// The client's last message.
    pub(crate) message: String,
    expected: hmac::Tag,
}

impl Client {
    /// Begins with this password, and the hash of the server's certificate.
    pub(crate) fn new(password: &str, channel: Vec<u8>) -> anyhow::Result<Self> {
        let mut nonce = [0; NONCE_BYTES];
        aws_lc_rs::rand::fill(&mut nonce).ok().context("the system has no random numbers")?;
        Ok(Self::with_nonce(password, channel, STANDARD.encode(nonce)))
    }

    fn with_nonce(password: &str, channel: Vec<u8>, nonce: String) -> Self {
        // As in PostgreSQL, a password that cannot be normalised is used as it is.
        let password = stringprep::saslprep(password).map_or_else(|_| password.to_owned(), Into::into);
        Self { password, channel, nonce }
    }

    /// The client's first message. PostgreSQL takes the user from the startup packet.
    pub(crate) fn first(&self) -> String {
        format!("{HEADER}{}", self.first_bare())
    }

    fn first_bare(&self) -> String {
        format!("n=,r={}", self.nonce)
    }

    /// Answers the server's first message with the proof. This takes milliseconds.
    pub(crate) fn prove(&self, server_first: &str) -> anyhow::Result<Proven> {
        let field = |name: &str| server_first.split(',').find_map(|part| part.strip_prefix(name));
        let nonce = field("r=").filter(|nonce| nonce.len() > self.nonce.len());
        let nonce = nonce.filter(|nonce| nonce.starts_with(&self.nonce));
        let nonce = nonce.context("the server's nonce does not continue the client's")?;
        let salt = field("s=").and_then(|salt| STANDARD.decode(salt).ok()).context("the salt is invalid")?;
        let iterations = field("i=").and_then(|count| count.parse::<NonZeroU32>().ok());
        let iterations = iterations.context("the number of iterations is invalid")?;
        ensure!(
            iterations.get() <= ITERATIONS_MAX,
            "the server asks for {iterations} iterations, and at most {ITERATIONS_MAX} are allowed: set \
             scram_iterations to less, and the password again"
        );
        let channel = STANDARD.encode([HEADER.as_bytes(), &self.channel].concat());
        let without_proof = format!("c={channel},r={nonce}");
        let signed = format!("{},{server_first},{without_proof}", self.first_bare());

        let mut salted = [0; digest::SHA256_OUTPUT_LEN];
        let algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
        pbkdf2::derive(algorithm, iterations, &salt, self.password.as_bytes(), &mut salted);
        let client_key = sign(&salted, b"Client Key");
        let stored_key = digest::digest(&digest::SHA256, client_key.as_ref());
        let signature = sign(stored_key.as_ref(), signed.as_bytes());
        let proof: Vec<u8> = client_key.as_ref().iter().zip(signature.as_ref()).map(|(a, b)| a ^ b).collect();
        let expected = sign(sign(&salted, b"Server Key").as_ref(), signed.as_bytes());
        Ok(Proven { message: format!("{without_proof},p={}", STANDARD.encode(proof)), expected })
    }
}

impl Proven {
    /// Verifies the server's last message, which proves that it knows the password, too.
    pub(crate) fn verify(&self, server_final: &str) -> anyhow::Result<()> {
        let signature = server_final.split(',').find_map(|part| part.strip_prefix("v="));
        let signature = signature.and_then(|signature| STANDARD.decode(signature).ok());
        let is_right = signature.is_some_and(|signature| {
            constant_time::verify_slices_are_equal(&signature, self.expected.as_ref()).is_ok()
        });
        if !is_right {
            bail!(
                "the server does not know the password: check host and port, another server may answer there"
            );
        }
        Ok(())
    }
}

fn sign(key: &[u8], text: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER_FIRST: &str =
        "r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096";

    fn client() -> Client {
        Client::with_nonce("pencil", vec![1, 2, 3], "rOprNGfwEbeRWgbNEkqO".to_owned())
    }

    #[test]
    fn a_server_that_does_not_know_the_password_is_rejected() {
        let client = client();
        assert_eq!(client.first(), "p=tls-server-end-point,,n=,r=rOprNGfwEbeRWgbNEkqO");
        let proven = client.prove(SERVER_FIRST).expect("a proof");
        let good = format!("v={}", STANDARD.encode(proven.expected.as_ref()));
        proven.verify(&good).expect("the server's signature");
        let short = format!("v={}", STANDARD.encode(&proven.expected.as_ref()[..8]));
        for bad in ["", "v=", "v=AAAA", "e=other-error", "v=%", short.as_str()] {
            assert!(proven.verify(bad).is_err(), "{bad}");
        }
        let other = Client::with_nonce("pencil", vec![1, 2, 4], client.nonce.clone());
        let other = other.prove(SERVER_FIRST).expect("a proof");
        assert!(other.message != proven.message && other.verify(&good).is_err(), "the channel is not bound");
    }

    #[test]
    fn invalid_messages_of_the_server_are_rejected() {
        for message in [
            "",
            "r=other,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqO,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=*,i=4096",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=0",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=-1",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4294967295",
            "r=rOprNGfwEbeRWgbNEkqOx,s=W22ZaJ0SNY7soEsUEjb6gQ==",
        ] {
            assert!(client().prove(message).is_err(), "{message}");
        }
    }
}
