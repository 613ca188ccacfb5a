//! Dates and times as events contain them, as numbers in the same order.

/// Microseconds of a day.
const DAY: i64 = 86_400_000_000;
/// Days from 1970 to 2000. PostgreSQL counts from 2000, so its whole range fits into 64 bits.
const EPOCH: i64 = 10_957;

/// Days since 2000 of a date such as `2026-02-03` or `0044-03-15 BC`. Infinities are the ends of the range.
pub(super) fn date(text: &str) -> Option<i64> {
    infinity(text).or_else(|| {
        let (text, is_before_christ) = without_era(text);
        days(text, is_before_christ)
    })
}

/// Whether a text is a date of these centuries as an event contains it. PostgreSQL then reads it as [`date`]
/// does.
pub(super) fn is_plain_date(text: &str) -> bool {
    let parts = (text.get(..4), text.get(5..7), text.get(8..).filter(|day| day.len() == 2));
    let (Some(year), Some(month), Some(day)) = parts else { return false };
    let (Some(year), Some(month), Some(day)) = (number(year), two(month), two(day)) else { return false };
    let is_leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    let days = match month {
        2 if is_leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    };
    year > 0 && (1..=days).contains(&day) && date(text).is_some()
}

/// Whether a text is a time of a day as an event contains it, as for [`is_plain_date`].
pub(super) fn is_plain_time(text: &str) -> bool {
    let clock = text.get(..8).unwrap_or_default().as_bytes();
    let is_in_range = matches!(clock, [b'0'..=b'1', _, b':', b'0'..=b'5', _, b':', b'0'..=b'5', _])
        || matches!(clock, [b'2', b'0'..=b'3', b':', b'0'..=b'5', _, b':', b'0'..=b'5', _]);
    let is_whole =
        text.get(8..).is_some_and(|rest| rest.is_empty() || rest.starts_with('.') && rest.len() > 1);
    is_in_range && is_whole && time(text).is_some()
}

/// As [`is_plain_date`], for [`timestamp`].
pub(super) fn is_plain_timestamp(text: &str, has_zone: bool) -> bool {
    let Some((day, clock)) = text.split_once('T') else { return false };
    let clock = if has_zone { clock.strip_suffix("+00:00") } else { Some(clock) };
    is_plain_date(day) && clock.is_some_and(is_plain_time)
}

/// Microseconds since 2000 of a time such as `2026-02-03T04:05:06.7`, with `+00:00` if it has a time zone.
pub(super) fn timestamp(text: &str, has_zone: bool) -> Option<i64> {
    infinity(text).or_else(|| {
        let (text, is_before_christ) = without_era(text);
        let (day, clock) = text.split_once('T')?;
        let clock = if has_zone { clock.strip_suffix("+00:00")? } else { clock };
        days(day, is_before_christ)?.checked_mul(DAY)?.checked_add(time(clock)?)
    })
}

/// Microseconds since midnight of a time such as `04:05:06.7`, up to `24:00:00`.
pub(super) fn time(text: &str) -> Option<i64> {
    let (clock, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let mut parts = clock.split(':');
    let (hours, minutes, seconds) = (two(parts.next()?)?, two(parts.next()?)?, two(parts.next()?)?);
    if parts.next().is_some() || fraction.len() > 6 {
        return None;
    }
    let micros = number(fraction)? * 10_i64.pow(6 - u32::try_from(fraction.len()).ok()?);
    Some((hours * 3600 + minutes * 60 + seconds) * 1_000_000 + micros)
}

fn infinity(text: &str) -> Option<i64> {
    match text {
        "infinity" => Some(i64::MAX),
        "-infinity" => Some(i64::MIN),
        _ => None,
    }
}

fn without_era(text: &str) -> (&str, bool) {
    text.strip_suffix(" BC").map_or((text, false), |text| (text, true))
}

fn number(text: &str) -> Option<i64> {
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok())?
}

fn two(text: &str) -> Option<i64> {
    number(text).filter(|_| text.len() == 2)
}

/// Days since 2000 in the Gregorian calendar, which PostgreSQL uses for all times.
fn days(text: &str, is_before_christ: bool) -> Option<i64> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, two(parts.next()?)?, two(parts.next()?)?);
    if parts.next().is_some() || year.len() < 4 || !(1..=12).contains(&month) || !(1..=31).contains(&day) {
        return None;
    }
    let year = number(year).filter(|year| (1..10_000_000).contains(year))?;
    // There is no year 0: the year before 1 is 1 BC.
    let year = if is_before_christ { 1 - year } else { year };
    // Years begin in March, so that a leap day is the last day of its year.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    Some(era * 146_097 + day_of_era - 719_468 - EPOCH)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_from_2000() {
        for (text, days) in [
            ("2000-01-01", 0),
            ("1999-12-31", -1),
            ("2000-03-01", 60),
            ("1900-03-01", -36_465),
            ("1970-01-01", -EPOCH),
            ("0001-01-01", -730_119),
            ("0001-12-31 BC", -730_120),
            ("4713-01-01 BC", -2_451_507),
            ("5874897-12-31", 2_145_031_948),
        ] {
            assert_eq!(date(text), Some(days), "{text}");
        }
        assert_eq!(timestamp("2000-01-02T00:00:00.5", false), Some(DAY + 500_000));
        assert_eq!(timestamp("294276-12-31T23:59:59.999999+00:00", true), Some(9_223_371_331_199_999_999));
        assert_eq!(time("24:00:00"), Some(DAY));
        assert!(timestamp("infinity", true) > timestamp("294276-12-31T23:59:59.999999+00:00", true));
        assert_eq!(date("-infinity"), Some(i64::MIN));
    }

    #[test]
    fn plain_forms_are_those_that_postgresql_accepts() {
        for (text, expected) in [
            ("2026-02-28", true),
            ("2024-02-29", true),
            ("2000-02-29", true),
            ("2026-02-29", false),
            ("1900-02-29", false),
            ("2026-04-31", false),
            ("0000-01-01", false),
            ("10000-01-01", false),
            ("2026-01-1", false),
            ("2026/01/01", false),
            ("2026-01-01 BC", false),
            ("infinity", false),
            ("ü026-01-01", false),
        ] {
            assert_eq!(is_plain_date(text), expected, "{text}");
        }
        for (text, expected) in [
            ("00:00:00", true),
            ("23:59:59.999999", true),
            ("24:00:00", false),
            ("12:60:00", false),
            ("12:00:60", false),
            ("12:00:00.", false),
            ("12:00:00.1234567", false),
            ("12:00:00+01", false),
            ("12:00", false),
            ("2a:00:00", false),
            ("12:00:0ü", false),
        ] {
            assert_eq!(is_plain_time(text), expected, "{text}");
        }
        assert!(
            is_plain_timestamp("2026-01-02T03:04:05.6", false)
                && is_plain_timestamp("2026-01-02T03:04:05+00:00", true)
        );
        assert!(
            !is_plain_timestamp("2026-01-02T03:04:05+01:00", true)
                && !is_plain_timestamp("2026-01-02 03:04:05", false)
        );
    }

    #[test]
    fn other_forms_are_rejected() {
        for text in
            ["", "2026", "2026-1-01", "2026-13-01", "26-01-01", "03.02.2026", "2026-01-01 AD", "0000-01-01"]
        {
            assert_eq!(date(text), None, "{text}");
        }
        for text in ["2026-01-01 00:00:00", "2026-01-01T00:00:00+00:00", "2026-01-01", "2026-01-01T00:00"] {
            assert_eq!(timestamp(text, false), None, "{text}");
        }
        for text in ["1:00:00", "01:00", "01:00:00.", "01:00:00.1234567", "01:00:00-07", "noon"] {
            assert_eq!(time(text), None, "{text}");
        }
    }
}
