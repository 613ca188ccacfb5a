//! Rules for JSON that must reach PostgreSQL unchanged: no object with the same key twice, no character that
//! PostgreSQL cannot store, no number beyond its range, and no deep nesting.

use std::cell::Cell;
use std::collections::HashSet;
use std::fmt;

use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};

/// Deepest nesting of an event.
pub const DEPTH_MAX: usize = 100;

/// Most digits of a number, and its largest exponent.
pub const NUMBER_DIGITS_MAX: usize = 400;

/// Most keys of all objects in an event. More keys do not fit into the data of an event.
pub const KEYS_MAX: usize = 10_000;

/// Rule that a JSON value breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Broken {
    #[error("an object has the same key twice")]
    Duplicate,
    #[error("it is nested more than {DEPTH_MAX} levels deep")]
    Deep,
    #[error("its objects have more than {KEYS_MAX} keys")]
    Keys,
    #[error("a string contains the character U+0000, which PostgreSQL cannot store")]
    Nul,
    #[error("a number has more than {NUMBER_DIGITS_MAX} digits, or is beyond the range of a double")]
    Number,
    #[error("a string contains half of a surrogate pair, or the value is not JSON")]
    Invalid,
}

/// Checks a JSON value against every rule.
pub(super) fn check(json: &str) -> Result<(), Broken> {
    if !has_short_numbers(json) {
        return Err(Broken::Number);
    }
    let (broken, keys) = (Cell::new(None), Cell::new(0));
    let mut deserializer = serde_json::Deserializer::from_str(json);
    let walked = Walk { depth: 0, broken: &broken, keys: &keys }.deserialize(&mut deserializer);
    walked.and_then(|()| deserializer.end()).map_err(|error| {
        let is_number = error.to_string().starts_with("number out of range");
        broken.get().unwrap_or(if is_number { Broken::Number } else { Broken::Invalid })
    })
}

/// Whether every number is written with few digits and a small exponent. PostgreSQL would write `1e9999` with
/// all its digits.
fn has_short_numbers(json: &str) -> bool {
    let bytes = json.as_bytes();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => at = after_string(bytes, at),
            b'-' | b'0'..=b'9' => {
                let rest = &bytes[at..];
                let is_part = |byte: &u8| matches!(byte, b'-' | b'+' | b'.' | b'e' | b'E' | b'0'..=b'9');
                let length = rest.iter().position(|byte| !is_part(byte)).unwrap_or(rest.len());
                if !is_short_number(&json[at..at + length]) {
                    return false;
                }
                at += length;
            }
            _ => at += 1,
        }
    }
    true
}

/// Position behind the string that begins at `at`.
fn after_string(bytes: &[u8], mut at: usize) -> usize {
    at += 1;
    while let Some(&byte) = bytes.get(at) {
        match byte {
            b'"' => return at + 1,
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
    at
}

fn is_short_number(number: &str) -> bool {
    let (digits, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let exponent = exponent.trim_start_matches(['+', '-']).trim_start_matches('0');
    let is_small = exponent.is_empty() || exponent.parse().is_ok_and(|e: usize| e <= NUMBER_DIGITS_MAX);
    digits.len() <= NUMBER_DIGITS_MAX && is_small
}

/// Visits a value and everything in it.
#[derive(Clone, Copy)]
struct Walk<'a> {
    depth: usize,
    /// The rule that was broken, because an error of serde has only a text.
    broken: &'a Cell<Option<Broken>>,
    /// Keys so far. They are in memory until their object ends.
    keys: &'a Cell<usize>,
}

impl Walk<'_> {
    fn fail<E: serde::de::Error>(self, broken: Broken) -> E {
        self.broken.set(Some(broken));
        E::custom(broken)
    }

    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == DEPTH_MAX {
            return Err(self.fail(Broken::Deep));
        }
        Ok(Self { depth: self.depth + 1, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Walk<'_> {
    type Value = ();

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Walk<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<(), E> {
        if text.contains('\0') { Err(self.fail(Broken::Nul)) } else { Ok(()) }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let inner = self.deeper()?;
        while seq.next_element_seed(inner)?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let inner = self.deeper::<A::Error>()?;
        let mut keys = HashSet::new();
        while let Some(key) = map.next_key::<String>()? {
            self.visit_str::<A::Error>(&key)?;
            self.keys.set(self.keys.get() + 1);
            if self.keys.get() > KEYS_MAX {
                return Err(A::Error::custom(self.fail::<A::Error>(Broken::Keys)));
            }
            if !keys.insert(key) {
                return Err(A::Error::custom(self.fail::<A::Error>(Broken::Duplicate)));
            }
            map.next_value_seed(inner)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_rule_is_named() {
        let keys = |count: usize| {
            let keys: Vec<_> = (0..count / 2).map(|n| format!("\"{n}\":{{\"a\":1}}")).collect();
            format!("{{{}}}", keys.join(","))
        };
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        for good in [
            r#"{"a": {"b": [1, "2", null, true, -0.5e-3]}, "b": "é\u00e9 \ud83d\ude00"}"#.to_owned(),
            r#"{"a": 1, "A": 1, "digits": "999", "text": "1e9999 \" \\"}"#.to_owned(),
            nested(DEPTH_MAX),
            keys(KEYS_MAX),
            "9".repeat(300),
            "1e308".to_owned(),
            "0.1000000000000000055511151231257827".to_owned(),
        ] {
            assert_eq!(check(&good), Ok(()), "{good}");
        }
        for (bad, broken) in [
            (r#"{"a": 1, "a": 1}"#.to_owned(), Broken::Duplicate),
            (r#"[{"a": {"b": 1, "\u0062": 2}}]"#.to_owned(), Broken::Duplicate),
            (nested(DEPTH_MAX + 1), Broken::Deep),
            (nested(100_000), Broken::Deep),
            (format!("{}1{}", r#"{"a":"#.repeat(500), "}".repeat(500)), Broken::Deep),
            (keys(KEYS_MAX + 2), Broken::Keys),
            (r#"["a\u0000"]"#.to_owned(), Broken::Nul),
            (r#"{"\u0000": 1}"#.to_owned(), Broken::Nul),
            ("1e400".to_owned(), Broken::Number),
            ("[-1e-99999999999999999999]".to_owned(), Broken::Number),
            ("1e309".to_owned(), Broken::Number),
            ("9".repeat(401), Broken::Number),
            (format!("0.{}1", "0".repeat(20_000)), Broken::Number),
            (r#""\ud800""#.to_owned(), Broken::Invalid),
            (r#""\udc00\ud800""#.to_owned(), Broken::Invalid),
            ("[1] 2".to_owned(), Broken::Invalid),
            ("NaN".to_owned(), Broken::Invalid),
        ] {
            assert_eq!(check(&bad), Err(broken), "{}", &bad[..bad.len().min(60)]);
        }
    }
}
