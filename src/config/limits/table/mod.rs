//! Every limit with its name, value, unit and meaning: the source of `docs/limits.md`.
//!
//! Each file lists the limits of one part of the system. The structs of limits are destructured there, so a
//! new field does not compile until it has a row.

mod admission;
mod control;
mod database;
mod delivery;
mod memory;
mod publish;
mod reading;
mod session;
mod tenancy;

use std::fmt::{self, Write as _};
use std::time::Duration;

use super::Limits;
use crate::rate::Rate;

/// One limit.
#[derive(Clone, Debug)]
pub struct Limit {
    /// Name in the code: the path of a field of [`Limits`], or of a constant.
    pub name: &'static str,
    /// Value with its unit.
    pub value: Value,
    /// Environment variable that changes it, if one does.
    pub variable: Option<&'static str>,
    /// Meaning, and the effect of exceeding it.
    pub description: &'static str,
    /// Declaration in a migration, for a limit that the database enforces.
    pub declaration: Option<&'static str>,
}

/// Value of a limit. Its unit is part of its type, except for a count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Value {
    /// A number of things, which the description names.
    Count(u64),
    /// A number of bytes.
    Bytes(u64),
    /// A number of bits.
    Bits(u64),
    /// A time.
    Time(Duration),
    /// A token bucket of things.
    Rate(Rate),
    /// A token bucket of bytes.
    ByteRate(Rate),
}

/// Limits of one part of the system.
#[derive(Clone, Debug)]
pub struct Section {
    /// Heading.
    pub title: &'static str,
    /// Limits in this part.
    pub limits: Vec<Limit>,
}

impl Limits {
    /// All limits of a gateway and of its commands, by part of the system.
    #[must_use]
    pub fn table(&self) -> Vec<Section> {
        vec![
            memory::section(self),
            admission::section(self),
            publish::section(self),
            session::section(self),
            delivery::section(self),
            reading::section(self),
            database::section(self),
            control::section(self),
            tenancy::section(),
        ]
    }
}

impl Limit {
    fn new(name: &'static str, value: Value, description: &'static str) -> Self {
        Self { name, value, variable: None, description, declaration: None }
    }

    /// Names the variable that changes the limit.
    fn set_by(self, variable: &'static str) -> Self {
        Self { variable: Some(variable), ..self }
    }

    /// Names the declaration in a migration. A test finds it there.
    fn declared_as(self, declaration: &'static str) -> Self {
        Self { declaration: Some(declaration), ..self }
    }
}

impl Value {
    fn count(n: usize) -> Self {
        Self::Count(n as u64)
    }

    fn bytes(n: usize) -> Self {
        Self::Bytes(n as u64)
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => f.write_str(&grouped(*n)),
            Self::Bytes(n) => f.write_str(&byte_size(*n)),
            Self::Bits(n) => write!(f, "{} bits", grouped(*n)),
            Self::Time(time) => f.write_str(&period(*time)),
            Self::Rate(rate) => {
                let (rate, burst) = (rate.per_second.get().into(), rate.burst.get().into());
                write!(f, "{} per second, burst {}", grouped(rate), grouped(burst))
            }
            Self::ByteRate(rate) => {
                let (rate, burst) = (rate.per_second.get().into(), rate.burst.get().into());
                write!(f, "{} per second, burst {}", byte_size(rate), byte_size(burst))
            }
        }
    }
}

/// Decimal digits in groups of three.
fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// The largest binary unit that divides the number.
fn byte_size(n: u64) -> String {
    let units = [(30, "GiB"), (20, "MiB"), (10, "KiB")];
    let unit = units.into_iter().find(|(shift, _)| n > 0 && n.trailing_zeros() >= *shift);
    unit.map_or_else(|| format!("{} bytes", grouped(n)), |(shift, unit)| format!("{} {unit}", n >> shift))
}

/// The largest unit that divides the time. Days begin at three, because one day is usually given in hours.
fn period(time: Duration) -> String {
    const DAY: u128 = 86_400_000;
    let millis = time.as_millis();
    if millis >= 3 * DAY && millis.is_multiple_of(DAY) {
        return format!("{} days", millis / DAY);
    }
    let units = [(3_600_000, "h"), (60_000, "min"), (1_000, "s"), (1, "ms")];
    let unit = units.into_iter().find(|(unit, _)| millis > 0 && millis.is_multiple_of(*unit));
    unit.map_or_else(|| format!("{time:?}"), |(unit, name)| format!("{} {name}", millis / unit))
}

/// The page `docs/limits.md`.
#[must_use]
pub fn page() -> String {
    let mut page = String::from(
        "# Limits\n\n\
         Every queue, map, message and wait of Warden has a limit. This page is generated from the code \
         (`make docs-limits`); a test fails if they differ. Values are the defaults.\n\n\
         A name is that of a field of `config::Limits`, of a constant in the code, or of a constant in a SQL function. \
         A limit that a flag or variable changes names its variable. \"Burst\" is the size of a token bucket: after a \
         pause that many are allowed at once. What a client sees when it exceeds a limit is in \
         [security.md](security.md) and [protocol.md](protocol.md).\n",
    );
    let defaults = Limits::default();
    for Section { title, limits } in defaults.table() {
        // Writing to a String does not fail.
        let _ = write!(page, "\n## {title}\n\n| limit | default | variable | meaning |\n|---|---|---|---|\n");
        for Limit { name, value, variable, description, .. } in limits {
            let variable = variable.map(|name| format!("`{name}`")).unwrap_or_default();
            let _ = writeln!(page, "| `{name}` | {value} | {variable} | {description} |");
        }
        if title == memory::TITLE {
            page.push_str(&memory::parts(&defaults));
        }
    }
    page
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use std::fs;
    use std::path::{Path, PathBuf};

    use super::*;

    fn root() -> &'static Path {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    }

    #[test]
    fn the_page_is_up_to_date() {
        let path = root().join("docs/limits.md");
        if std::env::var_os("WARDEN_WRITE_DOCS").is_some() {
            fs::write(&path, page()).expect("writes");
        }
        let stored = fs::read_to_string(&path).unwrap_or_default();
        assert!(stored == page(), "docs/limits.md differs from the code: run `make docs-limits`");
    }

    #[test]
    fn names_are_unique_and_describe_themselves() {
        let mut names = HashSet::new();
        for limit in Limits::default().table().into_iter().flat_map(|section| section.limits) {
            assert!(names.insert(limit.name), "{} is listed twice", limit.name);
            assert!(limit.description.ends_with('.'), "{}: no sentence", limit.name);
            assert!(!limit.description.contains('|'), "{}: breaks the table", limit.name);
        }
    }

    #[test]
    fn limits_of_the_database_are_those_of_the_migrations() {
        fn read(dir: PathBuf, into: &mut String) {
            for entry in fs::read_dir(dir).expect("reads") {
                let path = entry.expect("an entry").path();
                if path.is_dir() {
                    read(path, into);
                } else {
                    into.push_str(&fs::read_to_string(path).expect("reads"));
                }
            }
        }
        let mut migrations = String::new();
        read(root().join("migrations"), &mut migrations);
        for limit in Limits::default().table().into_iter().flat_map(|section| section.limits) {
            if let Some(declaration) = limit.declaration {
                assert!(migrations.contains(declaration), "{}: no migration has {declaration:?}", limit.name);
            }
        }
    }

    #[test]
    fn values_have_their_usual_units() {
        let shown = |value: Value| value.to_string();
        assert_eq!(shown(Value::Count(250_000)), "250,000");
        assert_eq!(shown(Value::Bytes(65_536)), "64 KiB");
        assert_eq!(shown(Value::Bytes(500)), "500 bytes");
        assert_eq!(shown(Value::Bytes(8 << 30)), "8 GiB");
        assert_eq!(shown(Value::Time(Duration::from_millis(250))), "250 ms");
        assert_eq!(shown(Value::Time(Duration::from_secs(60))), "1 min");
        assert_eq!(shown(Value::Time(Duration::from_hours(24))), "24 h");
        assert_eq!(shown(Value::Time(Duration::from_hours(7 * 24))), "7 days");
        assert_eq!(shown(Value::Time(Duration::from_micros(100))), "100µs");
        assert_eq!(shown(Value::Rate(Rate::new(2000, 10_000))), "2,000 per second, burst 10,000");
    }
}
