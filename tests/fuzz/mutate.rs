//! Random changes of known inputs: bits, bytes, pieces moved, repeated and taken from another input, and the
//! characters that have a meaning somewhere.

use fastrand::Rng;

/// Longest input: beyond every limit of the targets.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Changes of one input, at most.
const CHANGES_MAX: usize = 12;
/// Inputs that are kept to change them further.
const KEPT_MAX: usize = 256;
/// One in so many is kept.
const KEPT_ONE_IN: usize = 32;

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

/// Inputs, and those that come of them.
pub(crate) struct Corpus {
    rng: Rng,
    seeds: Vec<Vec<u8>>,
    kept: Vec<Vec<u8>>,
    now: Vec<u8>,
}

impl Corpus {
    pub(crate) fn new(seed: u64, seeds: Vec<Vec<u8>>) -> Self {
        Self { rng: Rng::with_seed(seed), seeds, kept: Vec::new(), now: Vec::new() }
    }

    pub(crate) fn seeds(&self) -> &[Vec<u8>] {
        &self.seeds
    }

    /// The next input.
    pub(crate) fn next(&mut self) -> &[u8] {
        self.now = self.any();
        for _ in 0..self.rng.usize(1..=CHANGES_MAX) {
            self.change();
        }
        self.now.truncate(INPUT_BYTES_MAX);
        if self.rng.usize(..KEPT_ONE_IN) == 0 {
            if self.kept.len() < KEPT_MAX {
                self.kept.push(self.now.clone());
            } else {
                let at = self.rng.usize(..KEPT_MAX);
                self.kept[at].clone_from(&self.now);
            }
        }
        &self.now
    }

    /// Half of the time one of the seeds: without a guide, changes of changes soon are noise.
    fn any(&mut self) -> Vec<u8> {
        let from = if self.kept.is_empty() || self.rng.bool() { &self.seeds } else { &self.kept };
        from[self.rng.usize(..from.len())].clone()
    }

    fn change(&mut self) {
        let length = self.now.len();
        let at = self.rng.usize(..=length);
        match self.rng.u8(..7) {
            0 if at < length => self.now[at] ^= 1 << self.rng.u8(..8),
            1 if at < length => self.now[at] = self.rng.u8(..),
            2 if at < length => {
                let end = (at + self.rng.usize(1..=16)).min(length);
                self.now.drain(at..end);
            }
            3 => {
                let end = (at + self.rng.usize(1..=64)).min(length);
                let piece = self.now[at..end].repeat(self.rng.usize(1..4));
                self.now.splice(at..at, piece);
            }
            4 => {
                let other = self.any();
                let from = self.rng.usize(..=other.len());
                self.now.truncate(at);
                self.now.extend(&other[from..]);
            }
            _ => {
                let word = WORDS[self.rng.usize(..WORDS.len())];
                self.now.splice(at..at, word.iter().copied());
            }
        }
    }
}
