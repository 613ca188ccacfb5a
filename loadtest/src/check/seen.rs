//! What one joined topic of one socket must see and has seen: a range of changes, and one bit for each
//! that is not yet followed by an unbroken row. It does not know what the changes are.

const WORD: usize = 64;

/// A joined topic of a socket. Changes are named by their place in the organisation.
#[derive(Debug)]
pub(crate) struct Subscription {
    org: usize,
    /// Whether changes reach the topic at all.
    reached: bool,
    /// What stands from here on, up to `until`, is required.
    from: usize,
    until: usize,
    /// Bits of places from `base * 64` on. What stands before was seen, once anything was dropped.
    base: usize,
    words: Vec<u64>,
    dropped: bool,
}

impl Subscription {
    /// A subscription of an organisation that is not joined yet: it requires nothing.
    pub(crate) fn new(org: usize, topic: &str) -> Self {
        let reached = is_reached(topic);
        Self { org, reached, from: usize::MAX, until: usize::MAX, base: 0, words: Vec::new(), dropped: false }
    }

    pub(crate) fn org(&self) -> usize {
        self.org
    }

    pub(crate) fn is_reached(&self) -> bool {
        self.reached
    }

    pub(crate) fn begin(&mut self, place: usize) {
        self.from = place;
    }

    /// False where it had ended or never begun.
    pub(crate) fn finish(&mut self, place: usize) -> bool {
        let was_open = self.until == usize::MAX && self.from != usize::MAX;
        if was_open {
            self.until = place;
        }
        was_open
    }

    pub(crate) fn requires(&self, place: usize) -> bool {
        (self.from..self.until).contains(&place)
    }

    /// The places before `end`, and not before `first`, that are required and may not have been seen.
    pub(crate) fn perhaps_missing(&self, first: usize, end: usize) -> impl Iterator<Item = usize> + use<> {
        let start = if self.dropped { self.from.max(self.base * WORD) } else { self.from };
        let end = if self.reached { end.min(self.until) } else { 0 };
        start.max(first)..end
    }

    pub(crate) fn has(&self, place: usize) -> bool {
        match (place / WORD).checked_sub(self.base) {
            Some(n) => self.words.get(n).is_some_and(|word| word >> (place % WORD) & 1 == 1),
            None => self.dropped,
        }
    }

    pub(crate) fn mark(&mut self, place: usize) {
        let word = place / WORD;
        if self.words.is_empty() && !self.dropped {
            self.base = word;
        }
        if word < self.base {
            self.words.splice(0..0, std::iter::repeat_n(0, self.base - word));
            self.base = word;
        }
        let n = word - self.base;
        if self.words.len() <= n {
            self.words.resize(n + 1, 0);
        }
        self.words[n] |= 1 << (place % WORD);
        self.shrink();
    }

    /// Drops what is complete: memory of a run of days is that of its last changes.
    fn shrink(&mut self) {
        /// Events may come out of their places by so many words.
        const KEPT: usize = 4;
        let is_done = |n: usize, word: u64| {
            let end = (self.base + n + 1) * WORD;
            // Places before `from` need not come at all.
            let optional = self.from.saturating_sub(end - WORD).min(WORD);
            let mask = if optional == WORD { 0 } else { u64::MAX << optional };
            word & mask == mask
        };
        let done = self.words.iter().enumerate().take_while(|(n, word)| is_done(*n, **word)).count();
        // The first word may lie behind `from`: what is between them has not been seen.
        let reaches_from = self.dropped || self.base * WORD <= self.from;
        if done > KEPT && reaches_from && self.from != usize::MAX {
            self.words.drain(..done - 1);
            self.base += done - 1;
            self.dropped = true;
        }
    }
}

/// Whether changes reach a topic: rows of calls, and what is published to topic calls.
pub(crate) fn is_reached(topic: &str) -> bool {
    matches!(topic, "calls" | "org")
}
