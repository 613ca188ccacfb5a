//! Verification of a server's certificate, as strict as libpq's for each `sslmode`.
//!
//! rustls verifies chains and names. OpenSSL accepts some certificates that rustls rejects, and PostgreSQL's
//! own manual creates them: a self-signed certificate that is its own authority, a certificate of X.509
//! version 1, and one whose host name is its common name only. They are accepted if a trusted certificate
//! signed them directly.

use std::sync::Arc;

use anyhow::ensure;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{
    CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature,
    verify_tls13_signature_with_raw_key,
};
use rustls::pki_types::{CertificateDer, ServerName, SubjectPublicKeyInfoDer, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};

use super::certificate::Certificate;

/// Extent of the verification.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    /// Nothing: the connection is secret to those who only listen.
    Nothing,
    /// A trusted authority signed the certificate.
    Chain,
    /// A trusted authority signed the certificate, which has the name of the host.
    ChainAndName,
}

/// Verifier of one connection.
#[derive(Debug)]
pub(super) struct Verifier {
    check: Check,
    trusted: Vec<CertificateDer<'static>>,
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl Verifier {
    pub(super) fn new(
        check: Check,
        trusted: Vec<CertificateDer<'static>>,
        provider: &CryptoProvider,
    ) -> anyhow::Result<Self> {
        let mut roots = RootCertStore::empty();
        let (added, _) = roots.add_parsable_certificates(trusted.iter().cloned());
        ensure!(
            check == Check::Nothing || added > 0,
            "sslrootcert contains no certificate of an authority that can be read"
        );
        let algorithms = provider.signature_verification_algorithms;
        Ok(Self { check, trusted, roots: Arc::new(roots), algorithms })
    }

    fn verify_chain(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let certificate = read(end_entity)?;
        let is_trusted_itself = self.trusted.iter().any(|trusted| trusted.as_ref() == end_entity.as_ref());
        // webpki rejects all of these, so its rules for other certificates remain as they are.
        if is_trusted_itself || certificate.version == 1 || certificate.is_authority {
            verify_validity(&certificate, now)?;
            let is_signed = is_trusted_itself || self.is_signed_by_root(&certificate, now);
            return if is_signed { Ok(()) } else { Err(CertificateError::UnknownIssuer.into()) };
        }
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )
    }

    /// Verifies the handshake's signature, which proves that the server owns its certificate. If the
    /// certificate is not verified, it may be anyone's, and so may the signature.
    fn verify_signature(
        &self,
        verify: impl FnOnce() -> Result<HandshakeSignatureValid, Error>,
    ) -> Result<HandshakeSignatureValid, Error> {
        if self.check == Check::Nothing { Ok(HandshakeSignatureValid::assertion()) } else { verify() }
    }

    /// Whether one of the trusted certificates signed this one directly.
    fn is_signed_by_root(&self, certificate: &Certificate<'_>, now: UnixTime) -> bool {
        self.trusted.iter().filter_map(|root| Certificate::read(root)).any(|root| {
            let by_root = |algorithm: &&dyn rustls::pki_types::SignatureVerificationAlgorithm| {
                algorithm.signature_alg_id().as_ref() == certificate.signature_algorithm
                    && algorithm.public_key_alg_id().as_ref() == root.key_algorithm
                    && algorithm.verify_signature(root.key, certificate.signed, certificate.signature).is_ok()
            };
            root.subject == certificate.issuer
                && verify_validity(&root, now).is_ok()
                && self.algorithms.all.iter().any(by_root)
        })
    }
}

fn read<'a>(end_entity: &'a CertificateDer<'_>) -> Result<Certificate<'a>, Error> {
    Certificate::read(end_entity).ok_or_else(|| CertificateError::BadEncoding.into())
}

fn verify_validity(certificate: &Certificate<'_>, now: UnixTime) -> Result<(), Error> {
    let now = i64::try_from(now.as_secs()).unwrap_or(i64::MAX);
    if now < certificate.not_before {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > certificate.not_after {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

/// Verifies the host name. As in libpq, the common name counts only if the certificate has no alternative
/// names.
fn verify_name(end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let certificate = read(end_entity)?;
    if certificate.has_alternative_names {
        return verify_server_name(&ParsedCertificate::try_from(end_entity)?, name);
    }
    let host = name.to_str();
    let matches = certificate.common_name().is_some_and(|common| is_name_of(common, &host));
    if matches { Ok(()) } else { Err(CertificateError::NotValidForName.into()) }
}

/// Whether a common name, which may begin with a wildcard for one label, is that of the host.
fn is_name_of(common: &str, host: &str) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    match common.strip_prefix("*.") {
        Some(domain) => {
            host.split_once('.')
                .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(domain))
                && host.parse::<std::net::IpAddr>().is_err()
        }
        None => host.eq_ignore_ascii_case(common),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check != Check::Nothing {
            self.verify_chain(end_entity, intermediates, now)?;
        }
        if self.check == Check::ChainAndName {
            verify_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(|| verify_tls12_signature(message, certificate, signature, &self.algorithms))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.verify_signature(|| {
            let read = read(certificate)?;
            if read.version == 1 {
                let key = SubjectPublicKeyInfoDer::from(read.public_key_info);
                return verify_tls13_signature_with_raw_key(message, &key, signature, &self.algorithms);
            }
            verify_tls13_signature(message, certificate, signature, &self.algorithms)
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
