//! Patterns of `like` and `ilike`, as PostgreSQL matches them in the collation "C".
//!
//! Text between two `%` is searched for. Without a `_`, that takes time in the length of the text. With one,
//! it may take the product of both lengths, so there `FLOATING_CHARS_MAX` limits the pattern, and steps are
//! counted.

use std::borrow::Cow;
use std::cell::Cell;

use memchr::memmem;

/// Characters of a pattern that are in a text with `_` between two `%`.
pub(crate) const FLOATING_CHARS_MAX: usize = 64;

/// Steps of all patterns on one row of an event. A step compares about a byte. A pattern that is evaluated
/// when they are used up is unknown.
pub(crate) const PATTERN_STEPS_MAX: usize = 4 * 1024 * 1024;

/// A pattern in which `%` stands for any characters, `_` for one, and `\` precedes one that stands for
/// itself.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Pattern {
    /// The texts between the `%`. The first one is at the beginning, the last one at the end. They are in
    /// lower case if case does not matter.
    texts: Box<[PatternText]>,
    /// Whether the case of ASCII letters does not matter. Of others it does.
    ignores_case: bool,
}

/// Literals between which one character each may be any: `a_b` has two.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct PatternText(Vec<Box<str>>);

impl Pattern {
    pub(super) fn new(text: &str, ignores_case: bool) -> Self {
        let (mut texts, mut literals, mut literal) = (Vec::new(), Vec::new(), String::new());
        let fold = |c: char| if ignores_case { c.to_ascii_lowercase() } else { c };
        let mut chars = text.chars();
        while let Some(c) = chars.next() {
            match c {
                '%' | '_' => {
                    literals.push(std::mem::take(&mut literal).into());
                    if c == '%' {
                        texts.push(PatternText(std::mem::take(&mut literals)));
                    }
                }
                // At the end, it stands for itself: the query has it twice.
                '\\' => literal.push(fold(chars.next().unwrap_or('\\'))),
                c => literal.push(fold(c)),
            }
        }
        literals.push(literal.into());
        texts.push(PatternText(literals));
        let last = texts.len() - 1;
        let mut at = 0;
        // `%%` is `%`.
        texts.retain(|text| {
            at += 1;
            at == 1 || at == last + 1 || *text != PatternText(vec!["".into()])
        });
        Self { texts: texts.into(), ignores_case }
    }

    /// Characters in texts with `_` between two `%`.
    pub(super) fn floating_chars(&self) -> usize {
        let [_, floating @ .., _] = &*self.texts else { return 0 };
        let with_gaps = floating.iter().filter(|text| text.0.len() > 1);
        with_gaps
            .map(|text| text.0.iter().map(|literal| literal.chars().count() + 1).sum::<usize>() - 1)
            .sum()
    }

    /// Whether the whole text matches. Adds to `steps`, and returns none if they exceed
    /// [`PATTERN_STEPS_MAX`].
    pub(super) fn matches(&self, text: &str, steps: &Cell<usize>) -> Option<bool> {
        let text = if self.ignores_case {
            count(steps, text.len())?;
            Cow::Owned(text.to_ascii_lowercase())
        } else {
            Cow::Borrowed(text)
        };
        let [first, rest @ ..] = &*self.texts else { return Some(false) };
        let [floating @ .., last] = rest else { return Some(first.strip(&text, steps)? == Some("")) };
        let Some(text) = first.strip(&text, steps)? else { return Some(false) };
        let Some(mut text) = last.strip_end(text, steps)? else { return Some(false) };
        for literals in floating {
            match literals.find(text, steps)? {
                Some(rest) => text = rest,
                None => return Some(false),
            }
        }
        Some(true)
    }
}

/// Counts steps. Returns none if there are too many.
fn count(steps: &Cell<usize>, more: usize) -> Option<()> {
    steps.set(steps.get().saturating_add(more));
    (steps.get() <= PATTERN_STEPS_MAX).then_some(())
}

/// Result of a step: none if steps are used up, otherwise the text that remains after a match.
type Rest<'t> = Option<Option<&'t str>>;

impl PatternText {
    /// The text after this one, if it begins with it.
    fn strip<'t>(&self, text: &'t str, steps: &Cell<usize>) -> Rest<'t> {
        let mut rest = text;
        for (n, literal) in self.0.iter().enumerate() {
            if n > 0 {
                let mut chars = rest.chars();
                if chars.next().is_none() {
                    return Some(None);
                }
                rest = chars.as_str();
            }
            let Some(after) = rest.strip_prefix(&**literal) else {
                count(steps, 1)?;
                return Some(None);
            };
            count(steps, 1 + literal.len())?;
            rest = after;
        }
        Some(Some(rest))
    }

    /// The text before this one, if it ends with it.
    fn strip_end<'t>(&self, text: &'t str, steps: &Cell<usize>) -> Rest<'t> {
        let mut rest = text;
        for (n, literal) in self.0.iter().rev().enumerate() {
            if n > 0 {
                let mut chars = rest.chars();
                if chars.next_back().is_none() {
                    return Some(None);
                }
                rest = chars.as_str();
            }
            count(steps, 1 + literal.len())?;
            let Some(before) = rest.strip_suffix(&**literal) else { return Some(None) };
            rest = before;
        }
        Some(Some(rest))
    }

    /// The text after the first place where this one is.
    fn find<'t>(&self, text: &'t str, steps: &Cell<usize>) -> Rest<'t> {
        let [first, others @ ..] = &*self.0 else { return Some(Some(text)) };
        let finder = memmem::Finder::new(first.as_bytes());
        let mut at = 0;
        loop {
            let found = finder.find(&text.as_bytes()[at..]);
            // A search that finds nothing has read the whole text.
            count(steps, 1 + found.unwrap_or(text.len() - at))?;
            let Some(found) = found else { return Some(None) };
            at += found;
            if others.is_empty() {
                return Some(Some(&text[at + first.len()..]));
            }
            if let Some(rest) = self.strip(&text[at..], steps)? {
                return Some(Some(rest));
            }
            let Some(next) = text[at..].chars().next() else { return Some(None) };
            at += next.len_utf8();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(pattern: &str, text: &str, ignores_case: bool) -> Option<bool> {
        Pattern::new(pattern, ignores_case).matches(text, &Cell::default())
    }

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
            ("ab%ab", "ab", false),
            ("ab%ab", "abab", true),
            ("ab%b", "ab", false),
            ("%a_c%d", "xabcabed", true),
            ("%a_c%", "aaabc", true),
            ("%a_c%c", "abc", false),
            ("%_%", "", false),
            ("%_%_%", "ü", false),
            ("%_%_%", "üa", true),
            ("%üa_%", "üüüab", true),
            ("_", "ü", true),
            ("_", "", false),
            ("__", "ü", false),
            ("_%_", "a", false),
            ("_%_", "ab", true),
            ("\\%", "%", true),
            ("\\%", "x", false),
            ("\\_", "x", false),
            ("\\\\", "\\", true),
            ("a\\", "a\\", true),
            ("A", "a", false),
        ] {
            assert_eq!(matches(pattern, text, false), Some(expected), "{pattern} {text}");
        }
        for (pattern, text, expected) in [
            ("A%", "ab", true),
            ("%B_d%", "abCDe", true),
            ("ü", "Ü", false),
            ("\\A", "a", true),
            ("k", "\u{212a}", false),
        ] {
            assert_eq!(matches(pattern, text, true), Some(expected), "{pattern} {text}");
        }
    }

    /// Against the definition of `like`, on all short patterns and texts of a small alphabet.
    #[test]
    fn patterns_match_as_they_are_defined() {
        fn is_like(pattern: &[char], text: &[char]) -> bool {
            match pattern {
                [] => text.is_empty(),
                ['%', rest @ ..] => (0..=text.len()).any(|n| is_like(rest, &text[n..])),
                ['_', rest @ ..] => !text.is_empty() && is_like(rest, &text[1..]),
                [c, rest @ ..] => text.first() == Some(c) && is_like(rest, &text[1..]),
            }
        }
        let words = |alphabet: &[char], length: usize| {
            let mut words = vec![Vec::new()];
            let mut all = words.clone();
            for _ in 0..length {
                words = words
                    .iter()
                    .flat_map(|word| alphabet.iter().map(|c| [&word[..], &[*c]].concat()))
                    .collect();
                all.extend(words.clone());
            }
            all
        };
        let texts = words(&['a', 'ü'], 5);
        for pattern in words(&['a', 'ü', '%', '_'], 5) {
            for text in &texts {
                let (written, read) = (pattern.iter().collect::<String>(), text.iter().collect::<String>());
                assert_eq!(
                    matches(&written, &read, false),
                    Some(is_like(&pattern, text)),
                    "{written} {read}"
                );
            }
        }
    }

    /// Clients choose the pattern.
    #[test]
    fn a_hostile_pattern_takes_steps_in_the_length_of_the_text() {
        let text = "a".repeat(60_000) + "b";
        let steps_of = |pattern: &str| {
            let steps = Cell::default();
            assert_eq!(Pattern::new(pattern, true).matches(&text, &steps), Some(false), "{pattern}");
            steps.get()
        };
        for pattern in
            ["%a".repeat(2000), format!("%{}c%", "a".repeat(4000)), format!("{}%c", "_".repeat(4000))]
        {
            assert!(steps_of(&pattern) < 3 * text.len(), "{pattern}");
        }
        let floating = format!("%a_{}c%", "a".repeat(FLOATING_CHARS_MAX - 3));
        assert_eq!(Pattern::new(&floating, false).floating_chars(), FLOATING_CHARS_MAX);
        assert!(steps_of(&floating) < 6 * text.len());
        let worst = format!("%{}c%", "_a".repeat(FLOATING_CHARS_MAX / 2));
        assert!(steps_of(&worst) < 2 * PATTERN_STEPS_MAX);
        let steps = Cell::new(PATTERN_STEPS_MAX - text.len());
        assert_eq!(Pattern::new("%c%", false).matches(&text, &steps), None, "steps are used up");
        assert_eq!(Pattern::new("_%c%_a", false).floating_chars(), 0);
    }
}
