//! Flags of the sizes of tokens, request heads and messages. A token must fit into both of the others.

use anyhow::ensure;
use clap::Args;

use super::Limits;
use crate::auth::TOKEN_SUBPROTOCOL_PREFIX;

/// Room in the head of a request beside its token: the other headers of a browser, with cookies.
const OTHER_HEADERS_BYTES: usize = 8 * 1024;

/// Room in a message beside a fresh token: references, topic and names.
const MESSAGE_FRAME_BYTES: usize = 1024;

#[derive(Args, Clone)]
#[command(next_help_heading = "Sizes")]
pub(super) struct SizeArgs {
    /// Bytes of a token; raise it if tokens list many groups
    #[arg(long, env = "WARDEN_TOKEN_BYTES", value_name = "BYTES", default_value_t = 8192,
          value_parser = clap::value_parser!(u32).range(1024..=65_536))]
    token_bytes: u32,
    /// Bytes of the head of a request [default: 32768, or what a token of WARDEN_TOKEN_BYTES needs]
    #[arg(long, env = "WARDEN_HEAD_BYTES", value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(8192..=262_144))]
    head_bytes: Option<u32>,
    /// Bytes of one message [default: 65536, or what a token of WARDEN_TOKEN_BYTES needs]
    #[arg(long, env = "WARDEN_MESSAGE_BYTES", value_name = "BYTES",
          value_parser = clap::value_parser!(u32).range(1024..=16_777_216))]
    message_bytes: Option<u32>,
}

impl SizeArgs {
    pub(super) fn apply(&self, limits: &mut Limits) -> anyhow::Result<()> {
        let token = usize::try_from(self.token_bytes)?;
        limits.token_bytes_max = token;
        let in_subprotocol = TOKEN_SUBPROTOCOL_PREFIX.len() + token.div_ceil(3) * 4;
        let head = (in_subprotocol + OTHER_HEADERS_BYTES, limits.serve.head_bytes_max);
        limits.serve.head_bytes_max = size("WARDEN_HEAD_BYTES", self.head_bytes, head, token)?;
        let message = (token + MESSAGE_FRAME_BYTES, limits.session.message_bytes_max);
        limits.session.message_bytes_max = size("WARDEN_MESSAGE_BYTES", self.message_bytes, message, token)?;
        Ok(())
    }
}

/// The configured size, or the default. Fails if the longest token does not fit.
fn size(
    variable: &str,
    configured: Option<u32>,
    (needed, default): (usize, usize),
    token: usize,
) -> anyhow::Result<usize> {
    let Some(configured) = configured else { return Ok(default.max(needed)) };
    let configured = usize::try_from(configured)?;
    ensure!(
        configured >= needed,
        "{variable} is {configured}, but a token of WARDEN_TOKEN_BYTES ({token}) needs {needed}: raise {variable} or \
         lower WARDEN_TOKEN_BYTES"
    );
    Ok(configured)
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        sizes: SizeArgs,
    }

    /// Limits of token, head and message.
    fn sizes(flags: &[&str]) -> Result<(usize, usize, usize), String> {
        let line = Line::try_parse_from([&["warden"], flags].concat()).map_err(|e| e.to_string())?;
        let mut limits = Limits::default();
        line.sizes.apply(&mut limits).map_err(|e| e.to_string())?;
        Ok((limits.token_bytes_max, limits.serve.head_bytes_max, limits.session.message_bytes_max))
    }

    #[test]
    fn head_and_message_grow_with_the_token() {
        let kib = 1024;
        assert_eq!(sizes(&[]), Ok((8 * kib, 32 * kib, 64 * kib)));
        assert_eq!(sizes(&["--token-bytes", "16384"]), Ok((16 * kib, 32 * kib, 64 * kib)));
        let (token, head, message) = sizes(&["--token-bytes", "65536"]).expect("is valid");
        assert_eq!((token, message), (64 * kib, 65 * kib));
        assert!(head > 64 * kib * 4 / 3 + OTHER_HEADERS_BYTES, "{head}");
        let all = ["--token-bytes", "32768", "--head-bytes", "262144", "--message-bytes", "1000000"];
        assert_eq!(sizes(&all), Ok((32 * kib, 256 * kib, 1_000_000)));
    }

    #[test]
    fn a_token_must_fit_into_head_and_message() {
        for (flag, variable) in
            [("--head-bytes", "WARDEN_HEAD_BYTES"), ("--message-bytes", "WARDEN_MESSAGE_BYTES")]
        {
            let error = sizes(&["--token-bytes", "65536", flag, "65536"]).expect_err(flag);
            assert!(error.contains(variable) && error.contains("WARDEN_TOKEN_BYTES"), "{error}");
        }
        assert!(sizes(&["--token-bytes", "1024", "--message-bytes", "2048"]).is_ok());
        for beyond in [["--token-bytes", "65537"], ["--token-bytes", "1"], ["--head-bytes", "262145"]] {
            assert!(sizes(&beyond).is_err(), "{beyond:?}");
        }
    }
}
