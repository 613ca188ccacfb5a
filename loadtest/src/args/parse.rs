//! Parsers of option values. Each error shows an example.

use anyhow::{Context as _, ensure};

/// Parses `50%` or `0.5`.
pub(super) fn parse_share(text: &str) -> anyhow::Result<f64> {
    const HELP: &str = "not a share: write e.g. 50% or 0.5";
    let (digits, scale) = text.strip_suffix('%').map_or((text, 1.0), |digits| (digits, 0.01));
    let share = digits.parse::<f64>().ok().context(HELP)? * scale;
    ensure!(share > 0.0 && share <= 1.0, "a share is above 0 and at most 100%: write e.g. 50% or 0.5");
    Ok(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_fraction_or_a_percentage() {
        assert!((parse_share("50%").unwrap() - 0.5).abs() < 1e-9);
        assert!((parse_share("1").unwrap() - 1.0).abs() < 1e-9);
        for text in ["", "0", "101%", "-1", "half", "nan"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }
}
