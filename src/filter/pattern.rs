//! Patterns of `like` and `ilike`, as PostgreSQL matches them in the collation "C".

/// A pattern in which `%` stands for any characters, `_` for one, and `\` precedes one that stands for
/// itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pattern {
    /// In lower case if case does not matter.
    parts: Box<[Part]>,
    /// Whether the case of ASCII letters does not matter. Of others it does.
    ignores_case: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Part {
    Any,
    One,
    Exactly(char),
}

impl Pattern {
    pub(super) fn new(text: &str, ignores_case: bool) -> Self {
        let mut parts = Vec::new();
        let mut chars = text.chars();
        let fold = |c: char| if ignores_case { c.to_ascii_lowercase() } else { c };
        while let Some(c) = chars.next() {
            parts.push(match c {
                '%' if parts.last() == Some(&Part::Any) => continue,
                '%' => Part::Any,
                '_' => Part::One,
                // At the end, it stands for itself: the query has it twice.
                '\\' => Part::Exactly(fold(chars.next().unwrap_or('\\'))),
                c => Part::Exactly(fold(c)),
            });
        }
        Self { parts: parts.into(), ignores_case }
    }

    /// Whether the whole text matches. It takes time in the product of both lengths at most.
    pub(super) fn matches(&self, text: &str) -> bool {
        let (mut at, mut rest) = (0, text.chars());
        // The last `%`, and the text that it has not taken yet.
        let mut retry: Option<(usize, std::str::Chars<'_>)> = None;
        loop {
            if self.parts.get(at) == Some(&Part::Any) {
                at += 1;
                if at == self.parts.len() {
                    return true;
                }
                retry = Some((at, rest.clone()));
                continue;
            }
            let mut next = rest.clone();
            let is_match = match (next.next(), self.parts.get(at)) {
                (None, None) => return true,
                (None, Some(_)) => return false,
                (Some(_), Some(Part::One)) => true,
                (Some(c), Some(Part::Exactly(expected))) => {
                    *expected == if self.ignores_case { c.to_ascii_lowercase() } else { c }
                }
                (Some(_), _) => false,
            };
            if is_match {
                (at, rest) = (at + 1, next);
                continue;
            }
            let Some((start, from)) = &mut retry else { return false };
            from.next();
            (at, rest) = (*start, from.clone());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_match_the_whole_text() {
        for (pattern, text, expected) in [
            ("", "", true),
            ("", "a", false),
            ("a", "a", true),
            ("a", "ab", false),
            ("%", "", true),
            ("%%", "abc", true),
            ("a%c", "abbc", true),
            ("a%c", "abcd", false),
            ("%b%", "abc", true),
            ("%ab", "aab", true),
            ("%a_c%d", "xabcabed", true),
            ("_", "ü", true),
            ("_", "", false),
            ("__", "ü", false),
            ("\\%", "%", true),
            ("\\%", "x", false),
            ("\\\\", "\\", true),
            ("a\\", "a\\", true),
            ("A", "a", false),
        ] {
            assert_eq!(Pattern::new(pattern, false).matches(text), expected, "{pattern} {text}");
        }
        for (pattern, text, expected) in
            [("A%", "ab", true), ("ü", "Ü", false), ("\\A", "a", true), ("k", "\u{212a}", false)]
        {
            assert_eq!(Pattern::new(pattern, true).matches(text), expected, "{pattern} {text}");
        }
    }

    /// The number of steps must not grow exponentially, because clients choose the pattern.
    #[test]
    fn a_hostile_pattern_takes_bounded_time() {
        let pattern = Pattern::new(&"%a".repeat(200), false);
        assert!(!pattern.matches(&("a".repeat(199) + &"b".repeat(5000))));
    }
}
