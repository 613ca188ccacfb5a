//! The reason why a socket ended unexpectedly, with advice for handshakes that the gateway rejected.

use anyhow::anyhow;
use bench_support::handshake::Rejection;

/// The reason why a socket ended unexpectedly.
#[derive(Debug)]
pub(super) enum SocketFailure {
    /// The gateway has reached a limit or is overloaded: another attempt may succeed.
    Temporary(anyhow::Error),
    Final(anyhow::Error),
}

impl From<anyhow::Error> for SocketFailure {
    fn from(error: anyhow::Error) -> Self {
        Self::Final(error)
    }
}

impl SocketFailure {
    /// The failure of a handshake that the gateway rejected.
    pub(super) fn rejected(rejection: &Rejection) -> Self {
        let Rejection { status, body, .. } = rejection;
        let advice = match status {
            401 | 403 => "Compare --jwt-secret, --jwt-audience and --jwt-issuer with the gateway's settings",
            404 => "Compare the path of --url with the gateway's",
            429 if body.contains("per_address") => {
                "Use more source addresses (--bind) or a lower --connect-rate, or raise the gateway's limit per address"
            }
            429 if body.contains("_connections") => {
                "Use more gateways (repeat --url) or more organisations (--orgs), or raise the gateway's limit"
            }
            429 | 503 => {
                "The gateway has reached a limit or is not ready. Try again, or use a lower --connect-rate"
            }
            _ => "See the gateway's log",
        };
        let error = anyhow!("the gateway rejected the handshake: {rejection}. {advice}");
        if matches!(status, 429 | 503) { Self::Temporary(error) } else { Self::Final(error) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rejection(status: u16, body: &str) -> Rejection {
        Rejection { status, reason: String::new(), body: body.to_owned() }
    }

    #[test]
    fn a_rejection_names_the_option_to_check() {
        for (status, option) in [(401, "--jwt-secret"), (404, "path of --url")] {
            let SocketFailure::Final(error) = SocketFailure::rejected(&rejection(status, "")) else {
                panic!("{status}")
            };
            assert!(error.to_string().contains(option), "{error}");
        }
    }

    #[test]
    fn a_limit_is_a_temporary_failure() {
        let SocketFailure::Temporary(error) =
            SocketFailure::rejected(&rejection(429, "handshakes_per_address"))
        else {
            panic!("final")
        };
        assert!(error.to_string().contains("--bind"), "{error}");
    }
}
