//! Durations on the command line.

use std::time::Duration;

use anyhow::{Context as _, bail};

/// Parses `500ms`, `30s`, `5m`, `1h`, or a plain number of seconds.
pub fn parse_duration(text: &str) -> anyhow::Result<Duration> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_number_and_a_unit() {
        assert_eq!(parse_duration("500ms").unwrap(), Duration::from_millis(500));
        assert_eq!(parse_duration("30s").unwrap(), Duration::from_secs(30));
        assert_eq!(parse_duration("1.5m").unwrap(), Duration::from_secs(90));
        assert_eq!(parse_duration("7").unwrap(), Duration::from_secs(7));
        for text in ["", "s", "-1s", "1d", "1e999s", "five"] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }
}
