//! Random filters, and a table with a column of each type that they compare.

/// A column: name, type, values that rows and filters have, and further spellings for filters.
pub(super) struct Kind {
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
    values: &'static [&'static str],
    spellings: &'static [&'static str],
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
const PATTERNS: &[&str] =
    &["%", "a%", "%b", "_", "__", "ä", "A%", "%a%", "a\\%", "\\", "\\\\", "a___", "%_%_%", "%\n%", "é", "% "];

/// Columns of the table.
pub(super) const KINDS: &[Kind] = &[
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

/// Random rows and filters.
pub(super) struct Random(pub(super) fastrand::Rng);

impl Random {
    fn of<'a>(&mut self, values: &[&'a str]) -> &'a str {
        values[self.0.usize(..values.len())]
    }

    /// A value for a row, as SQL.
    pub(super) fn sql(&mut self, kind: &Kind) -> String {
        if self.0.u8(..5) == 0 {
            return "null".to_owned();
        }
        format!("'{}'", self.of(kind.values).replace('\'', "''"))
    }

    /// A value for a filter, quoted.
    fn literal(&mut self, kind: &Kind) -> String {
        let other = !kind.spellings.is_empty() && self.0.u8(..3) == 0;
        quoted(self.of(if other { kind.spellings } else { kind.values }))
    }

    fn condition(&mut self) -> String {
        let kind = &KINDS[self.0.usize(..KINDS.len())];
        let not = if self.0.u8(..4) == 0 { "not." } else { "" };
        let is_text = matches!(kind.name, "t" | "v" | "c");
        let operation = match self.0.u8(..10) {
            0 => self.of(&["is.null", "is.not_null"]).to_owned(),
            _ if matches!(kind.name, "span" | "tags") => "is.null".to_owned(),
            1 if kind.name == "b" => self.of(&["is.true", "is.false", "is.unknown"]).to_owned(),
            1 | 2 if is_text => format!("{}.{}", self.of(&["like", "ilike"]), quoted(self.of(PATTERNS))),
            1 | 2 => {
                let values: Vec<String> = (0..self.0.usize(..4)).map(|_| self.literal(kind)).collect();
                format!("in.({})", values.join(","))
            }
            3..=5 => format!("{}.{}", self.of(&["eq", "neq"]), self.literal(kind)),
            _ if kind.name == "mood" => format!("eq.{}", self.literal(kind)),
            _ => format!("{}.{}", self.of(&["gt", "gte", "lt", "lte"]), self.literal(kind)),
        };
        format!("{}.{not}{operation}", kind.name)
    }

    /// The members of a group, in parentheses.
    pub(super) fn group(&mut self, depth: usize) -> String {
        let members: Vec<String> = (0..1 + self.0.usize(..3))
            .map(|_| {
                if depth > 0 && self.0.u8(..3) == 0 {
                    let name = self.of(&["and", "or", "not.and", "not.or"]);
                    format!("{name}{}", self.group(depth - 1))
                } else {
                    self.condition()
                }
            })
            .collect();
        format!("({})", members.join(","))
    }
}

fn quoted(value: &str) -> String {
    format!("\"{}\"", value.replace('\\', "\\\\").replace('"', "\\\""))
}
