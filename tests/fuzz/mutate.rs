//! Random mutations of known inputs: flipped bits, changed bytes, removed and repeated pieces, splices of two
//! inputs, and inserted words that some parser gives a meaning.

use fastrand::Rng;

/// Longest input, in bytes. It exceeds every limit of the targets.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Most mutations of one input.
const MUTATIONS_MAX: usize = 12;
/// Mutated inputs that are kept for further mutation.
const KEPT_MAX: usize = 256;
/// One mutated input in this number is kept.
const KEPT_ONE_IN: usize = 32;

/// Strings that some parser gives a meaning.
const WORDS: &[&[u8]] = &[
    b"\n",
    b"\0",
    b"\r\n",
    b"\"",
    b"\\",
    b"{",
    b"}",
    b"[",
    b"]",
    b",",
    b":",
    b";",
    b"=",
    b"&",
    b"%",
    b"%00",
    b"%74",
    b".",
    b"-",
    b"null",
    b"true",
    b"-1",
    b"0",
    b"1e999",
    b"18446744073709551616",
    b"\\u0000",
    b"\xff",
    b"\xc0\x80",
    b"\xf0\x9f\x98\x80",
    b"token",
    b"access_token",
    b"apikey",
    b"phoenix",
    b"base64url.bearer.phx.",
    b"Bearer ",
    b"warden=",
    b"for=",
    b"unknown",
    b"::1",
    b"10.0.0.1",
    b"alg",
    b"none",
    b"crit",
    b"exp",
    b"org_id",
    b"app_metadata",
    b"kid",
    b"keys",
    b"call:",
    b"phx_join",
];

/// Seeds of a target and the inputs derived from them.
pub(crate) struct Corpus {
    rng: Rng,
    seeds: Vec<Vec<u8>>,
    kept: Vec<Vec<u8>>,
    current: Vec<u8>,
}

impl Corpus {
    pub(crate) fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        Self { rng: Rng::with_seed(seed), seeds, kept: Vec::new(), current: Vec::new() }
    }

    pub(crate) fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }

    /// Returns the next mutated input.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.current = self.pick();
        for _ in 0..self.rng.usize(1..=MUTATIONS_MAX) {
            self.mutate();
        }
        self.current.truncate(INPUT_BYTES_MAX);
        if self.rng.usize(..KEPT_ONE_IN) == 0 {
            if self.kept.len() < KEPT_MAX {
                self.kept.push(self.current.clone());
            } else {
                let at = self.rng.usize(..KEPT_MAX);
                self.kept[at].clone_from(&self.current);
            }
        }
        &self.current
    }

    /// Picks a seed in at least half of the cases, because unguided mutations of mutations soon become noise.
    fn pick(&mut self) -> Vec<u8> {
        let from = if self.kept.is_empty() || self.rng.bool() { &self.seeds } else { &self.kept };
        from[self.rng.usize(..from.len())].clone()
    }

    fn mutate(&mut self) {
        let length = self.current.len();
        let at = self.rng.usize(..=length);
        match self.rng.u8(..7) {
            0 if at < length => self.current[at] ^= 1 << self.rng.u8(..8),
            1 if at < length => self.current[at] = self.rng.u8(..),
            2 if at < length => {
                let end = (at + self.rng.usize(1..=16)).min(length);
                self.current.drain(at..end);
            }
            3 => {
                let end = (at + self.rng.usize(1..=64)).min(length);
                let piece = self.current[at..end].repeat(self.rng.usize(1..4));
                self.current.splice(at..at, piece);
            }
            4 => {
                let other = self.pick();
                let from = self.rng.usize(..=other.len());
                self.current.truncate(at);
                self.current.extend(&other[from..]);
            }
            _ => {
                let word = WORDS[self.rng.usize(..WORDS.len())];
                self.current.splice(at..at, word.iter().copied());
            }
        }
    }
}
