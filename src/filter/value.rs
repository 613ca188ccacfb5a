//! Values of columns as events contain them, with the comparison of their type in PostgreSQL.
//!
//! A type has an exact counterpart here if PostgreSQL prints every value in one form, and if equality and
//! order can be computed from that form. All other types have none, and are rejected by name.

use std::borrow::Cow;
use std::cmp::Ordering;

use super::moment;
use super::number::{self, Number};

/// Type of a column whose values compare here as they do in PostgreSQL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum ExactType {
    /// `boolean`
    Boolean,
    /// `smallint`, `integer`, `bigint`
    Integer,
    /// `numeric`
    Number,
    /// `real`
    Real,
    /// `double precision`
    Double,
    /// `text`, `character varying`
    Text,
    /// `character(n)`: spaces at the end do not count in comparisons
    PaddedText,
    /// `uuid`
    Uuid,
    /// `date`
    Date,
    /// `timestamp without time zone`
    Timestamp,
    /// `timestamp with time zone`
    TimestampTz,
    /// `time without time zone`
    Time,
    /// An enum. The order of its labels is in the catalog, so only equality is exact.
    Label,
}

/// Value of a column.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Value<'a> {
    Boolean(bool),
    Integer(i64),
    Number(Number),
    /// Bits of a floating-point number, in the order of PostgreSQL.
    Float(u64),
    Text(Cow<'a, str>),
    Uuid(u128),
    /// Days or microseconds, by the type of the column.
    Moment(i64),
}

/// Content of a column in an event.
#[derive(Clone, Debug)]
pub(super) enum Cell<'a> {
    /// The event does not contain the column, or not in the form of its type.
    Missing,
    Null,
    Value(Value<'a>),
}

impl ExactType {
    /// The counterpart of a type, by its name in `pg_catalog`. Types of extensions and of the application
    /// have a schema in their name.
    pub(super) fn of(kind: &str, is_enum: bool) -> Option<Self> {
        Some(match kind {
            _ if is_enum => Self::Label,
            "boolean" => Self::Boolean,
            "smallint" | "integer" | "bigint" => Self::Integer,
            "numeric" => Self::Number,
            "real" => Self::Real,
            "double precision" => Self::Double,
            "text" | "character varying" => Self::Text,
            "bpchar" | "character" => Self::PaddedText,
            "uuid" => Self::Uuid,
            "date" => Self::Date,
            "timestamp without time zone" => Self::Timestamp,
            "timestamp with time zone" => Self::TimestampTz,
            "time without time zone" => Self::Time,
            _ => return None,
        })
    }

    /// Whether the order of values is exact too.
    pub(super) fn is_ordered(self) -> bool {
        self != Self::Label
    }

    /// Whether a value may be spelled by a word whose meaning depends on the time, such as `today`.
    pub(super) fn has_words_for_now(self) -> bool {
        matches!(self, Self::Date | Self::Timestamp | Self::TimestampTz | Self::Time)
    }

    /// Reads the JSON of a column, as an event contains it.
    pub(super) fn decode<'a>(self, json: &'a str) -> Cell<'a> {
        if json == "null" {
            return Cell::Null;
        }
        // A watch may send numbers as strings, and infinities always are strings.
        let text = match json.as_bytes().first() {
            Some(b'"') => match string(json) {
                Some(text) => text,
                None => return Cell::Missing,
            },
            _ if matches!(self, Self::Boolean | Self::Integer | Self::Number | Self::Real | Self::Double) => {
                Cow::Borrowed(json)
            }
            _ => return Cell::Missing,
        };
        self.parse(text).map_or(Cell::Missing, Cell::Value)
    }

    /// Reads the text of a value, as PostgreSQL prints it in an event.
    pub(super) fn parse(self, text: Cow<'_, str>) -> Option<Value<'_>> {
        Some(match self {
            Self::Boolean => match &*text {
                "true" => Value::Boolean(true),
                "false" => Value::Boolean(false),
                _ => return None,
            },
            Self::Integer => Value::Integer(text.parse().ok().filter(|_| !text.starts_with('+'))?),
            Self::Number => Value::Number(Number::parse(&text)?),
            Self::Real => Value::Float(float_order(f64::from(text.parse::<f32>().ok()?))),
            Self::Double => Value::Float(float_order(text.parse::<f64>().ok()?)),
            Self::Text | Self::Label => Value::Text(text),
            // `like` needs the spaces at the end, so comparisons ignore them.
            Self::PaddedText => Value::Text(text),
            Self::Uuid => Value::Uuid(uuid::Uuid::try_parse(&text).ok()?.as_u128()),
            Self::Date => Value::Moment(moment::date(&text)?),
            Self::Timestamp => Value::Moment(moment::timestamp(&text, false)?),
            Self::TimestampTz => Value::Moment(moment::timestamp(&text, true)?),
            Self::Time => Value::Moment(moment::time(&text)?),
        })
    }

    /// The value of a filter that is spelled as PostgreSQL prints it. None if PostgreSQL must convert it, or
    /// reject it. `kind` is the name of the type.
    pub(super) fn plain(self, kind: &str, text: &str) -> Option<Value<'static>> {
        let is_decimal = || {
            let digits = text.strip_prefix('-').unwrap_or(text);
            let (integer, fraction) = digits.split_once('.').unwrap_or((digits, "0"));
            [integer, fraction]
                .iter()
                .all(|part| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit()))
        };
        let is_zero = || !text.bytes().any(|b| matches!(b, b'1'..=b'9'));
        let is_plain = match self {
            Self::Text | Self::PaddedText => true,
            Self::Boolean => matches!(text, "true" | "false"),
            Self::Integer => {
                is_decimal()
                    && match kind {
                        "smallint" => text.parse::<i16>().is_ok(),
                        "integer" => text.parse::<i32>().is_ok(),
                        _ => text.parse::<i64>().is_ok(),
                    }
            }
            Self::Number => is_decimal(),
            // PostgreSQL rejects numbers that round to zero or infinity.
            Self::Real => {
                is_decimal() && text.parse::<f32>().is_ok_and(|n| n.is_finite() && (n != 0.0 || is_zero()))
            }
            Self::Double => {
                is_decimal() && text.parse::<f64>().is_ok_and(|n| n.is_finite() && (n != 0.0 || is_zero()))
            }
            Self::Uuid => {
                let is_spelled = |(n, b): (usize, u8)| match n {
                    8 | 13 | 18 | 23 => b == b'-',
                    _ => matches!(b, b'0'..=b'9' | b'a'..=b'f'),
                };
                text.len() == 36 && text.bytes().enumerate().all(is_spelled)
            }
            Self::Date => moment::is_plain_date(text),
            Self::Timestamp => moment::is_plain_timestamp(text, false),
            Self::TimestampTz => moment::is_plain_timestamp(text, true),
            Self::Time => moment::is_plain_time(text),
            Self::Label => false,
        };
        self.literal(text.to_owned()).filter(|_| is_plain)
    }

    /// Whether a value of a filter may have too many digits as PostgreSQL prints it.
    pub(super) fn has_too_many_digits(self, text: &str) -> bool {
        self == Self::Number && number::has_too_many_digits(text)
    }

    /// The value of a filter from the JSON into which PostgreSQL converted it.
    pub(super) fn converted(self, json: &str) -> Option<Value<'static>> {
        let text = string(json).map_or_else(|| json.to_owned(), Cow::into_owned);
        self.literal(text)
    }

    fn literal(self, text: String) -> Option<Value<'static>> {
        Some(match self {
            Self::Text | Self::Label => Value::Text(Cow::Owned(text)),
            Self::PaddedText => Value::Text(Cow::Owned(unpadded(&text).to_owned())),
            _ => match self.parse(Cow::Borrowed(&text))? {
                Value::Text(_) => return None,
                Value::Boolean(value) => Value::Boolean(value),
                Value::Integer(value) => Value::Integer(value),
                Value::Number(value) => Value::Number(value),
                Value::Float(value) => Value::Float(value),
                Value::Uuid(value) => Value::Uuid(value),
                Value::Moment(value) => Value::Moment(value),
            },
        })
    }

    /// The value as comparisons see it.
    pub(super) fn comparable<'v>(self, value: &'v Value<'_>) -> Cow<'v, Value<'v>> {
        match value {
            Value::Text(text) if self == Self::PaddedText => {
                Cow::Owned(Value::Text(Cow::Borrowed(unpadded(text))))
            }
            other => Cow::Borrowed(other),
        }
    }

    /// Whether the value of a row equals one of a filter.
    #[inline]
    pub(super) fn equals(self, row: &Value<'_>, literal: &Value<'static>) -> bool {
        match (row, literal) {
            // The most frequent comparison.
            (Value::Text(row), Value::Text(literal)) if self != Self::PaddedText => row == literal,
            _ => self.comparable(row).as_ref() == literal,
        }
    }

    /// Compares the value of a row with one of a filter.
    #[inline]
    pub(super) fn compare(self, row: &Value<'_>, literal: &Value<'static>) -> Ordering {
        match (row, literal) {
            (Value::Integer(row), Value::Integer(literal)) => row.cmp(literal),
            _ => self.comparable(row).as_ref().cmp(literal),
        }
    }
}

fn unpadded(text: &str) -> &str {
    text.trim_end_matches(' ')
}

/// Content of a JSON string. None if this is no string.
pub(super) fn string(json: &str) -> Option<Cow<'_, str>> {
    let inner = json.strip_prefix('"')?.strip_suffix('"')?;
    if !inner.contains('\\') {
        return Some(Cow::Borrowed(inner));
    }
    serde_json::from_str(json).ok().map(Cow::Owned)
}

/// A number whose order is that of PostgreSQL: -0 equals 0, and NaN is the largest value and equals itself.
fn float_order(value: f64) -> u64 {
    const SIGN: u64 = 1 << 63;
    if value.is_nan() {
        return u64::MAX;
    }
    let bits = (value + 0.0).to_bits();
    if bits & SIGN == 0 { bits | SIGN } else { !bits }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn value(kind: ExactType, json: &str) -> Value<'_> {
        match kind.decode(json) {
            Cell::Value(value) => value,
            other => panic!("{json}: {other:?}"),
        }
    }

    #[test]
    fn floats_have_the_order_of_postgresql() {
        let ascending = ["\"-Infinity\"", "-1.5", "-1e-320", "0", "5e-324", "1", "\"Infinity\"", "\"NaN\""];
        let values: Vec<_> = ascending.iter().map(|json| value(ExactType::Double, json)).collect();
        assert!(values.is_sorted_by(|a, b| a < b), "{values:?}");
        assert_eq!(value(ExactType::Double, "-0"), value(ExactType::Double, "0"));
        // A real is not the double of the same spelling.
        assert_eq!(value(ExactType::Real, "0.1"), value(ExactType::Real, "0.10000000149011612"));
        assert_ne!(value(ExactType::Double, "0.1"), value(ExactType::Double, "0.10000000149011612"));
    }

    #[test]
    fn spaces_at_the_end_of_padded_text_do_not_count() {
        let kind = ExactType::PaddedText;
        let literal = kind.plain("character", "ab ").expect("a value");
        assert_eq!(kind.compare(&value(kind, "\"ab   \""), &literal), Ordering::Equal);
        assert_eq!(kind.compare(&value(kind, "\"ab\\tc\""), &literal), Ordering::Greater);
        assert_eq!(ExactType::Text.compare(&value(kind, "\"ab   \""), &literal), Ordering::Greater);
    }

    #[test]
    fn a_value_of_another_form_is_missing() {
        use ExactType::{Boolean, Date, Integer, Number, Text, Timestamp, TimestampTz, Uuid};
        for (kind, json) in [
            (Boolean, "\"yes\""),
            (Integer, "1.0"),
            (Integer, "\"+1\""),
            (Integer, "9223372036854775808"),
            (Number, "\"one\""),
            (Text, "7"),
            (Text, "{}"),
            (Uuid, "\"7\""),
            (Date, "\"2026-01-01T00:00:00\""),
            (Timestamp, "\"2026-01-01T00:00:00+00:00\""),
            (TimestampTz, "\"2026-01-01T00:00:00\""),
            (TimestampTz, "\"2026-01-01T00:00:00+01:00\""),
        ] {
            assert!(matches!(kind.decode(json), Cell::Missing), "{kind:?} {json}");
        }
        assert!(matches!(Text.decode("null"), Cell::Null));
        assert_eq!(value(Text, r#""a\"\n""#), Value::Text("a\"\n".into()));
    }

    #[test]
    fn only_plain_spellings_need_no_conversion() {
        for (kind, text) in [
            ("text", " a"),
            ("boolean", "true"),
            ("smallint", "-32768"),
            ("integer", "2147483647"),
            ("bigint", "-9223372036854775808"),
            ("bigint", "007"),
            ("numeric", "-123456789012345678901234567890.50"),
            ("real", "0.1"),
            ("real", "0.000"),
            ("double precision", "-100.25"),
            ("date", "2026-01-01"),
            ("timestamp without time zone", "2026-01-01T00:00:00.5"),
            ("timestamp with time zone", "2026-01-01T00:00:00+00:00"),
            ("time without time zone", "23:59:59"),
        ] {
            let exact = ExactType::of(kind, false).expect("exact");
            assert!(exact.plain(kind, text).is_some(), "{kind} {text}");
        }
        let tiny = format!("0.{}1", "0".repeat(400));
        for (kind, text) in [
            ("boolean", "t"),
            ("integer", " 7"),
            ("integer", "+7"),
            ("smallint", "32768"),
            ("integer", "2147483648"),
            ("bigint", "9223372036854775808"),
            ("integer", "1.0"),
            ("integer", "-"),
            ("integer", ""),
            ("numeric", "1e1"),
            ("numeric", ".5"),
            ("numeric", "NaN"),
            ("real", "1e1"),
            ("real", &"9".repeat(40)),
            ("double precision", &tiny),
            ("double precision", "Infinity"),
            ("date", "2026-02-29"),
            ("date", "today"),
            ("timestamp without time zone", "2026-01-01"),
            ("timestamp with time zone", "2026-01-01T00:00:00"),
            ("time without time zone", "24:00:00"),
            ("uuid", "6F9619FF-8b86-4d01-b42d-00cf4fc964ff"),
            ("uuid", "6f9619ff8b864d01b42d00cf4fc964ff"),
        ] {
            let exact = ExactType::of(kind, false).expect("exact");
            assert_eq!(exact.plain(kind, text), None, "{kind} {text}");
        }
        assert_eq!(ExactType::Label.plain("mood", "calm"), None);
    }
}
