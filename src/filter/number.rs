//! Decimal numbers of any size, in the order of PostgreSQL's `numeric`.

use std::cmp::Ordering;

/// Digits that a value of a filter may have as PostgreSQL prints it. A `numeric` has up to 147,455.
pub(crate) const DIGITS_MAX: usize = 400;

/// Whether the text of a `numeric` may have more than [`DIGITS_MAX`] digits as PostgreSQL prints it.
pub(super) fn has_too_many_digits(text: &str) -> bool {
    let text = text.trim();
    let is_hexadecimal =
        text.trim_start_matches(['+', '-']).get(..2).is_some_and(|s| s.eq_ignore_ascii_case("0x"));
    let (mantissa, exponent) = match text.split_once(['e', 'E']) {
        Some((mantissa, exponent)) if !is_hexadecimal => (mantissa, exponent),
        _ => (text, "0"),
    };
    let digits: String = exponent.chars().filter(char::is_ascii_digit).collect();
    let exponent = if digits.is_empty() { Ok(0) } else { digits.parse::<usize>() };
    // A hexadecimal digit has up to 1.21 decimal ones.
    let digits = if is_hexadecimal { mantissa.len() * 5 / 4 } else { mantissa.len() };
    exponent.map_or(true, |exponent| exponent.saturating_add(digits) > DIGITS_MAX)
}

/// A decimal number. Equal numbers have one form, whatever their number of decimal places.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Number {
    NegativeInfinity,
    Negative(Reversed),
    /// Zero, or above.
    Positive(Digits),
    Infinity,
    /// The largest value, which equals itself.
    Nan,
}

/// Digits of a number above zero, or none for zero.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Digits {
    /// Number of digits before the point.
    integer_digits: usize,
    /// All digits, without zeros at the beginning of the integer part and the end of the fraction.
    digits: Box<str>,
}

/// Digits of a negative number: the larger they are, the smaller is the number.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Reversed(Digits);

impl Ord for Reversed {
    fn cmp(&self, other: &Self) -> Ordering {
        other.0.cmp(&self.0)
    }
}

impl PartialOrd for Reversed {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Number {
    /// Parses a number as PostgreSQL prints it: without an exponent.
    pub(super) fn parse(text: &str) -> Option<Self> {
        match text {
            "NaN" => return Some(Self::Nan),
            "Infinity" => return Some(Self::Infinity),
            "-Infinity" => return Some(Self::NegativeInfinity),
            _ => {}
        }
        let (is_negative, digits) = text.strip_prefix('-').map_or((false, text), |rest| (true, rest));
        let (integer, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
        let is_number = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
        if !is_number(integer) || !is_number(fraction) {
            return None;
        }
        let (integer, fraction) = (integer.trim_start_matches('0'), fraction.trim_end_matches('0'));
        let digits = Digits { integer_digits: integer.len(), digits: [integer, fraction].concat().into() };
        Some(if is_negative && !digits.digits.is_empty() {
            Self::Negative(Reversed(digits))
        } else {
            Self::Positive(digits)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_the_order_of_postgresql() {
        let long = format!("1{}", "0".repeat(300));
        let ascending = [
            "-Infinity",
            "-100",
            "-99.5",
            "-10",
            "-9",
            "-1.01",
            "-1",
            "-0.5",
            "-0.05",
            "0",
            "0.001",
            "0.01",
            "0.1",
            "0.11",
            "0.5",
            "1",
            "1.000001",
            "1.5",
            "9.99",
            "10",
            "10.1",
            "123456789012345678901234567890",
            &long,
            "Infinity",
            "NaN",
        ];
        let numbers: Vec<_> = ascending.iter().map(|text| Number::parse(text).expect(text)).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "{numbers:?}");
    }

    #[test]
    fn numbers_that_expand_are_recognised() {
        let digits = "9".repeat(DIGITS_MAX);
        for (text, expected) in [
            ("1", false),
            (&*digits, false),
            ("1e399", false),
            (" -1.5E-390 ", false),
            ("NaN", false),
            ("1e", false),
            (&*format!("{digits}9"), true),
            ("1e400", true),
            ("1e-7600", true),
            ("1E+7_600", true),
            ("1e99999999999999999999999", true),
            (&*format!("0x{}", "e".repeat(DIGITS_MAX)), true),
            ("0xe99999", false),
        ] {
            assert_eq!(has_too_many_digits(text), expected, "{text}");
        }
    }

    #[test]
    fn decimal_places_do_not_matter() {
        for (a, b) in
            [("1.50", "1.5"), ("0.00", "0"), ("-0", "0"), ("007", "7"), ("-0.0", "0.000"), ("10.0", "10")]
        {
            assert_eq!(Number::parse(a), Number::parse(b), "{a} {b}");
        }
        for text in ["", "-", ".", "1.", ".5", "1e5", "+1", "1 ", "--1", "infinity", "1_000", "0x1"] {
            assert_eq!(Number::parse(text), None, "{text:?}");
        }
    }
}
