//! Explanations of errors of TLS, each with the next step.

use std::io;

use rustls::{AlertDescription, CertificateError, Error, PeerMisbehaved};

use super::{Roots, Security};

/// Explains an error of a handshake, or of the first exchange after it.
pub(crate) fn explain(error: &io::Error, security: &Security, host: &str) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    match inner {
        Some(Error::InvalidCertificate(problem)) => of_certificate(problem, security, host),
        Some(Error::AlertReceived(alert)) => of_alert(*alert, security),
        Some(Error::PeerIncompatible(_)) => {
            "the server has no version or cipher of TLS in common with Warden: allow TLS 1.2 or 1.3 there"
                .to_owned()
        }
        Some(Error::PeerMisbehaved(PeerMisbehaved::SelectedUnofferedApplicationProtocol)) | None
            if error.kind() == io::ErrorKind::UnexpectedEof =>
        {
            "the server closed the connection during the TLS handshake".to_owned()
        }
        Some(other) => format!("the TLS handshake failed: {other}"),
        None => format!("the TLS handshake failed: {error}"),
    }
}

fn of_certificate(problem: &CertificateError, security: &Security, host: &str) -> String {
    match problem {
        CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
            "the server's certificate has expired: renew it".to_owned()
        }
        CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
            "the server's certificate is not valid yet: check the clocks of both machines".to_owned()
        }
        CertificateError::UnknownIssuer | CertificateError::BadSignature => {
            let by = match &security.roots {
                Roots::System => {
                    "an authority of this system: set sslrootcert to the file of its authority".to_owned()
                }
                Roots::File(file) | Roots::Default(Some(file)) => {
                    format!(
                        "an authority in {}: set sslrootcert to the file of its authority",
                        file.display()
                    )
                }
                Roots::Default(None) => "a trusted authority: set sslrootcert".to_owned(),
            };
            format!("the server's certificate is not signed by {by}")
        }
        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => format!(
            "the server's certificate is not valid for the host name {host}: connect by a name of the certificate, or \
             use sslmode=verify-ca"
        ),
        other => {
            format!("the server's certificate is not valid ({other}): issue it again, with X.509 version 3")
        }
    }
}

fn of_alert(alert: AlertDescription, security: &Security) -> String {
    use AlertDescription as Alert;
    let regards_client = matches!(
        alert,
        Alert::UnknownCA
            | Alert::BadCertificate
            | Alert::CertificateExpired
            | Alert::CertificateRevoked
            | Alert::CertificateUnknown
            | Alert::CertificateRequired
            | Alert::UnsupportedCertificate
            | Alert::DecryptError
    );
    match (&security.client, regards_client) {
        (Some(client), true) => format!(
            "the server rejected the client certificate {} (alert {alert:?}): use one that the server's ssl_ca_file \
             signed",
            client.certificate.display()
        ),
        (None, true) => {
            format!("the server requires a client certificate (alert {alert:?}): set sslcert and sslkey")
        }
        (_, false) => format!("the server ended the TLS handshake (alert {alert:?}): its log has the reason"),
    }
}
