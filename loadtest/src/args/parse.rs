//! Values of options that are neither numbers nor names. Each error shows how it is written.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};

/// Reads `500ms`, `30s`, `5m`, `1h`, or a plain number of seconds.
pub(crate) fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    const HELP: &str = "not a duration: write e.g. 500ms, 30s or 5m";
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let scale = match &text[digits.len()..] {
        "ms" => 0.001,
        "" | "s" => 1.0,
        "m" => 60.0,
        "h" => 3600.0,
        unit => bail!("unknown unit {unit}: use ms, s, m or h"),
    };
    let number: f64 = digits.parse().ok().context(HELP)?;
    Duration::try_from_secs_f64(number * scale).context(HELP)
}

/// Reads `50%` or `0.5`.
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
    fn durations() {
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(parse_duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("7").unwrap(), Duration::from_secs(7));
        for text in ["", "s", "-1s", "1d", "1e999s", "five"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn shares() {
        assert!((parse_share("50%").unwrap() - 0.5).abs() < 1e-9);
        assert!((parse_share("1").unwrap() - 1.0).abs() < 1e-9);
        for text in ["", "0", "101%", "-1", "half", "nan"] {
            assert!(parse_share(text).is_err(), "{text}");
        }
    }
}
