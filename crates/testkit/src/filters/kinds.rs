//! Columns of each type that filters compare, with values for rows and filters.

/// A column.
#[derive(Debug)]
pub struct Kind {
    /// Name of the column.
    pub name: &'static str,
    /// Type of the column, with its collation.
    pub sql: &'static str,
    /// Values that rows and filters have.
    pub(super) values: &'static [&'static str],
    /// Further spellings of values, for filters.
    pub(super) spellings: &'static [&'static str],
}

const fn kind(
    name: &'static str,
    sql: &'static str,
    values: &'static [&'static str],
    spellings: &'static [&'static str],
) -> Kind {
    Kind { name, sql, values, spellings }
}

const WORDS: &[&str] = &[
    "", "a", "A", "B", "b", "ä", "Ä", "a b", "a%", "a_c", "\\", "\"", "é", "e\u{301}", "😀", "\u{ffff}",
    "zz", "a\nb", " ", "a ", "a\t", "(a,b)",
];
pub(super) const PATTERNS: &[&str] =
    &["%", "a%", "%b", "_", "__", "ä", "A%", "%a%", "a\\%", "\\", "\\\\", "a___", "%_%_%", "%\n%", "é", "% "];

/// The enum and the collation that the columns need.
pub const TYPES: &str = "
    create type mood as enum ('calm', 'Loud', 'a \"b\"');
    create collation no_case (provider = icu, locale = 'und-u-ks-level2', deterministic = false)";

/// The columns.
pub const KINDS: &[Kind] = &[
    kind("b", "boolean", &["true", "false"], &["t", "no", "1"]),
    kind("s", "smallint", &["-32768", "-1", "0", "7", "32767"], &[" 7", "+7", "007"]),
    kind("i", "integer", &["-2147483648", "-7", "0", "1", "10", "99999", "2147483647"], &[" 1 "]),
    kind("l", "bigint", &["-9223372036854775808", "0", "5", "9007199254740993", "9223372036854775807"], &[]),
    kind(
        "n",
        "numeric",
        &[
            "0",
            "0.00",
            "-0.5",
            "1.5",
            "1.50",
            "10",
            "9.99",
            "1e30",
            "-1e30",
            "123456789012345678901234567890.5",
            "1e-20",
            "NaN",
            "Infinity",
            "-Infinity",
        ],
        &["1.500", ".5", "nan", "15e-1", "+10"],
    ),
    kind("amount", "numeric", &["0.10", "-7", "1000000", "NaN"], &["0.1", "1e6"]),
    kind(
        "r",
        "real",
        &["0", "-0", "0.1", "-1.5", "1e30", "3.4e38", "1e-45", "16777217", "NaN", "Infinity", "-Infinity"],
        &["0.10000000149", "1.0e-1"],
    ),
    kind(
        "d",
        "double precision",
        &[
            "0",
            "-0",
            "0.1",
            "0.30000000000000004",
            "1e300",
            "-1e-300",
            "5e-324",
            "NaN",
            "Infinity",
            "-Infinity",
        ],
        &["0.3", "1e-1"],
    ),
    kind("ratio", "double precision", &["0", "-0", "1e300", "-0.1", "NaN", "-Infinity"], &["-1e-1"]),
    kind("t", "text collate \"und-x-icu\"", WORDS, &[]),
    kind("v", "varchar(8) collate no_case", WORDS, &["abcdefghijk"]),
    kind(
        "c",
        "char(4) collate \"und-x-icu\"",
        &["a", "a ", "ab", "A", "ä", "", "a b", "a%", "abcd"],
        &["a   ", "abcde"],
    ),
    kind(
        "u",
        "uuid",
        &[
            "00000000-0000-0000-0000-000000000000",
            "6f9619ff-8b86-4d01-b42d-00cf4fc964ff",
            "ffffffff-ffff-ffff-ffff-ffffffffffff",
        ],
        &["6F9619FF8B864D01B42D00CF4FC964FF"],
    ),
    kind(
        "day",
        "date",
        &[
            "2026-02-03",
            "2000-01-01",
            "1999-12-31",
            "2000-02-29",
            "0044-03-15 BC",
            "0001-01-01",
            "9999-12-31",
            "10000-01-01",
            "4713-01-01 BC",
            "5874897-12-31",
            "infinity",
            "-infinity",
        ],
        &["20260203", "February 3, 2026", "epoch"],
    ),
    kind(
        "ts",
        "timestamp",
        &[
            "2026-02-03 04:05:06.7",
            "2026-02-03 04:05:06.700001",
            "0044-03-15 12:00:00 BC",
            "infinity",
            "-infinity",
        ],
        &["2026-02-03T04:05:06.7", "2026-02-03"],
    ),
    kind(
        "tz",
        "timestamptz",
        &[
            "2026-02-03 04:05:06.7+02",
            "2026-02-03 02:05:06.7+00",
            "0044-03-15 12:00:00+00 BC",
            "infinity",
            "294276-12-31 23:59:59.999999+00",
            "-infinity",
        ],
        &["2026-02-03T02:05:06.7Z", "2026-02-03 02:05:06.7"],
    ),
    kind("clock", "time", &["00:00", "04:05:06.7", "04:05:06.700001", "24:00"], &["04:05", "4:05:06.7 AM"]),
    kind("mood", "mood", &["calm", "Loud", "a \"b\""], &[]),
    kind("span", "interval", &["1 day", "24:00:00"], &[]),
    kind("tags", "text[]", &["{}", "{a,NULL}"], &[]),
];

impl Kind {
    /// The type of values in conditions: without collation and length, as the gateway converts them.
    pub(super) fn value_type(&self) -> &'static str {
        match self.name {
            "t" => "text",
            "v" => "varchar",
            "c" => "bpchar",
            _ => self.sql,
        }
    }

    /// The column in a comparison: text is compared by its bytes, whatever its collation is.
    pub(super) fn compared(&self) -> String {
        if self.is_text() { format!("{} collate \"C\"", self.name) } else { self.name.to_owned() }
    }

    /// A value of the type, as SQL.
    pub(super) fn value(&self, text: &str) -> String {
        format!("{}::{}", literal(text), self.value_type())
    }

    pub(super) fn is_text(&self) -> bool {
        matches!(self.name, "t" | "v" | "c")
    }

    /// Whether conditions other than `is` apply to the type.
    pub(super) fn is_compared(&self) -> bool {
        !matches!(self.name, "span" | "tags")
    }

    /// Whether the gateway compares the order of values.
    pub(super) fn is_ordered(&self) -> bool {
        self.name != "mood"
    }
}

/// A string, as SQL.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}
