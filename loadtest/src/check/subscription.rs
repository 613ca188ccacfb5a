//! One joined topic of one socket: the changes that it must receive, and those that it has received. Both are
//! positions in the ledger; this file does not know the changes themselves.

use crate::filters::{FILTERED_TOPIC, Filter, Moved, RowChange};

const WORD_BITS: usize = 64;

/// A joined topic of a socket.
#[derive(Debug)]
pub(crate) struct Subscription {
    org: usize,
    /// Whether the topic receives changes at all.
    reached: bool,
    /// The filter of the join.
    filter: Option<Filter>,
    /// Required positions: from `from` up to, but not including, `until`.
    from: usize,
    until: usize,
    /// One bit per position from `base * 64` on: whether the change has arrived.
    words: Vec<u64>,
    base: usize,
    /// Whether words were dropped. All positions before `base * 64` have then arrived, if they were required.
    dropped: bool,
}

impl Subscription {
    /// A subscription before its join is answered. It requires nothing yet.
    pub(crate) fn new(org: usize, topic: &str, filter: Option<Filter>) -> Self {
        Self {
            org,
            reached: is_reached(topic),
            filter: filter.filter(|_| topic == FILTERED_TOPIC),
            from: usize::MAX,
            until: usize::MAX,
            words: Vec::new(),
            base: 0,
            dropped: false,
        }
    }

    pub(crate) fn filter(&self) -> Option<Filter> {
        self.filter
    }

    /// Meaning of a change for this subscription: nothing, or an event with this field `filter`.
    pub(crate) fn meaning(&self, row: RowChange) -> Option<Option<Moved>> {
        self.filter.map_or(Some(None), |filter| filter.meaning(row))
    }

    pub(crate) fn org(&self) -> usize {
        self.org
    }

    pub(crate) fn is_reached(&self) -> bool {
        self.reached
    }

    /// Requires all changes from a position on.
    pub(crate) fn begin(&mut self, position: usize) {
        self.from = position;
    }

    /// Requires no change from a position on. False if it had already ended, or never begun.
    pub(crate) fn finish(&mut self, position: usize) -> bool {
        let was_open = self.until == usize::MAX && self.from != usize::MAX;
        if was_open {
            self.until = position;
        }
        was_open
    }

    pub(crate) fn requires(&self, position: usize) -> bool {
        (self.from..self.until).contains(&position)
    }

    /// Required positions from `first` up to `end` that may be missing. Positions whose words were dropped
    /// have arrived.
    pub(crate) fn possibly_missing(&self, first: usize, end: usize) -> impl Iterator<Item = usize> + use<> {
        let start = if self.dropped { self.from.max(self.base * WORD_BITS) } else { self.from };
        let end = if self.reached { end.min(self.until) } else { 0 };
        start.max(first)..end
    }

    pub(crate) fn has(&self, position: usize) -> bool {
        match (position / WORD_BITS).checked_sub(self.base) {
            Some(n) => self.words.get(n).is_some_and(|word| word >> (position % WORD_BITS) & 1 == 1),
            None => self.dropped,
        }
    }

    pub(crate) fn mark(&mut self, position: usize) {
        let word = position / WORD_BITS;
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
        self.words[n] |= 1 << (position % WORD_BITS);
        self.drop_complete_words();
    }

    /// Drops complete words, so that a run of days needs memory for its last changes only.
    fn drop_complete_words(&mut self) {
        /// Words that are kept at least, because events may arrive out of order.
        const KEPT: usize = 4;
        let is_complete = |n: usize, word: u64| {
            let end = (self.base + n + 1) * WORD_BITS;
            // Positions before `from` are optional, so their bits do not matter.
            let optional = self.from.saturating_sub(end - WORD_BITS).min(WORD_BITS);
            let mask = if optional == WORD_BITS { 0 } else { u64::MAX << optional };
            word & mask == mask
        };
        let complete = self.words.iter().enumerate().take_while(|(n, word)| is_complete(*n, **word)).count();
        // If the first word is beyond `from`, the positions between them have not arrived.
        let reaches_from = self.dropped || self.base * WORD_BITS <= self.from;
        if complete > KEPT && reaches_from && self.from != usize::MAX {
            self.words.drain(..complete - 1);
            self.base += complete - 1;
            self.dropped = true;
        }
    }
}

/// Whether a topic receives changes: rows of `calls`, and events that are published to topic `calls`.
pub(crate) fn is_reached(topic: &str) -> bool {
    matches!(topic, "calls" | "org")
}
