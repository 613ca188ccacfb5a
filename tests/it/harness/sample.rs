//! The share of a long list that one run of the suite tries. `WARDEN_FULL=1`, which `make full` sets, tries
//! all of it.

/// A random share of a list. Each run of the suite draws another one, and `WARDEN_SEED` repeats it.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    offset: usize,
    one_in: usize,
}

impl Sample {
    /// Every n-th item, from a random one on.
    pub fn one_in(one_in: usize) -> Self {
        let one_in = if is_full() { 1 } else { one_in };
        let seed = std::env::var("WARDEN_SEED").ok().and_then(|seed| seed.parse().ok());
        let seed = seed.unwrap_or_else(|| fastrand::u64(..));
        eprintln!("WARDEN_SEED={seed}");
        let offset = usize::try_from(seed % u64::try_from(one_in).expect("small")).expect("small");
        Self { offset, one_in }
    }

    /// Whether the sample has the item at this index.
    pub fn contains(self, index: usize) -> bool {
        index % self.one_in == self.offset
    }
}

/// Whether this run tries everything.
pub fn is_full() -> bool {
    std::env::var_os("WARDEN_FULL").is_some()
}
