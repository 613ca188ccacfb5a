//! Times in a token: seconds since 1970, perhaps with a fraction (`NumericDate` of RFC 7519, section 2).

use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;

/// First second that is rejected: the beginning of the year 10000. Later times overflow clocks.
const SECONDS_END: f64 = 253_402_300_800.0;

/// Converts the JSON of a claim. Returns None if it is not a number, is negative, or is too large.
///
/// JSON has one kind of number, so `1700000000`, `1700000000.5` and `1.7e9` are all valid.
pub(super) fn parse(claim: &RawValue) -> Option<SystemTime> {
    // Strings, lists and literals of JSON are not numbers for Rust either, except that it knows names for
    // infinity. A valid JSON value never has one of these names.
    let seconds: f64 = claim.get().parse().ok()?;
    if !(0.0..SECONDS_END).contains(&seconds) {
        return None;
    }
    Some(SystemTime::UNIX_EPOCH + Duration::try_from_secs_f64(seconds).ok()?)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use proptest::prelude::*;

    use super::*;

    fn seconds(json: &str) -> Option<Duration> {
        let claim = serde_json::from_str::<Box<RawValue>>(json).expect("JSON");
        parse(&claim).map(|time| time.duration_since(UNIX_EPOCH).expect("after 1970"))
    }

    #[test]
    fn whole_and_fractional_seconds_are_times() {
        for (json, expected) in [
            ("0", 0.0),
            ("-0", 0.0),
            ("0.5", 0.5),
            ("1700000000", 1_700_000_000.0),
            ("1700000000.0", 1_700_000_000.0),
            ("1700000000.25", 1_700_000_000.25),
            ("1.7e9", 1_700_000_000.0),
            ("17E+8", 1_700_000_000.0),
            ("1700000000000e-3", 1_700_000_000.0),
            ("253402300799", 253_402_300_799.0),
        ] {
            assert_eq!(seconds(json), Some(Duration::from_secs_f64(expected)), "{json}");
        }
    }

    #[test]
    fn other_values_are_not_times() {
        for json in [
            "-1",
            "-0.001",
            "253402300800",
            "18446744073709551616",
            "1e300",
            "1e400",
            "-1e400",
            "123456789012345678901234567890",
            "null",
            "true",
            "\"1700000000\"",
            "\"inf\"",
            "[1700000000]",
            "{}",
        ] {
            assert_eq!(seconds(json), None, "{json}");
        }
        for invalid in ["NaN", "Infinity", "inf", "0x10", "1_000", "+1", ".5", "1."] {
            assert!(serde_json::from_str::<Box<RawValue>>(invalid).is_err(), "{invalid}");
        }
    }

    proptest! {
        #[test]
        fn a_fraction_is_kept(whole in 0..253_402_300_799_u64, micros in 0..1_000_000_u32) {
            let time = seconds(&format!("{whole}.{micros:06}")).expect("a time");
            let expected = Duration::from_secs(whole) + Duration::from_micros(micros.into());
            // A 64-bit float holds the year 9999 to within 31 microseconds.
            prop_assert!(time.abs_diff(expected) < Duration::from_micros(31), "{:?}", time);
        }
    }
}
