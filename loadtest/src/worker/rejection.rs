//! Advice for a handshake that the gateway rejected, and whether another attempt is useful.

use anyhow::anyhow;
use bench_support::handshake::Rejection;

use super::socket::SocketFailure;

/// The failure of a socket whose handshake was rejected.
pub(super) fn failure(rejection: &Rejection) -> SocketFailure {
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
    if matches!(status, 429 | 503) { SocketFailure::Temporary(error) } else { SocketFailure::Final(error) }
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
            let SocketFailure::Final(error) = failure(&rejection(status, "")) else { panic!("{status}") };
            assert!(error.to_string().contains(option), "{error}");
        }
    }

    #[test]
    fn a_limit_is_a_temporary_failure() {
        let SocketFailure::Temporary(error) = failure(&rejection(429, "handshakes_per_address")) else {
            panic!("final")
        };
        assert!(error.to_string().contains("--bind"), "{error}");
    }
}
