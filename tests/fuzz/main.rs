//! The checks of the fuzz targets (`fuzz/checks`) with a stable compiler. The inputs are the seeds and random
//! mutations of them. Unlike `make fuzz`, this has no coverage guidance and no sanitizer.
//!
//! `WARDEN_FUZZ_SECONDS` sets the time for all targets together (default 2). `WARDEN_SEED` repeats the
//! inputs.

mod mutate;

#[path = "../../fuzz/checks/address.rs"]
mod address;
#[path = "../../fuzz/checks/claims.rs"]
mod claims;
#[path = "../../fuzz/checks/cloudevents.rs"]
mod cloudevents;
#[path = "../../fuzz/checks/credential.rs"]
mod credential;
#[path = "../../fuzz/checks/cursor.rs"]
mod cursor;
#[path = "../../fuzz/checks/database_url.rs"]
mod database_url;
#[path = "../../fuzz/checks/filters.rs"]
mod filters;
#[path = "../../fuzz/checks/frames.rs"]
mod frames;
#[path = "../../fuzz/checks/issuers.rs"]
mod issuers;
#[path = "../../fuzz/checks/jwks.rs"]
mod jwks;
#[path = "../../fuzz/checks/message.rs"]
mod message;
#[path = "../../fuzz/checks/rows.rs"]
mod rows;
#[path = "../../fuzz/checks/topic.rs"]
mod topic;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use mutate::Corpus;

const SECONDS_DEFAULT: u64 = 2;

type Check = fn(&[u8]);

/// Fuzz targets by name.
const TARGETS: &[(&str, Check)] = &[
    ("address", address::run),
    ("claims", claims::run),
    ("cloudevents", cloudevents::run),
    ("credential", credential::run),
    ("cursor", cursor::run),
    ("database_url", |data| with_str(data, database_url::run)),
    ("filters", |data| with_str(data, filters::run)),
    ("frames", frames::run),
    ("issuers", |data| with_str(data, issuers::run)),
    ("jwks", jwks::run),
    ("message", |data| with_str(data, message::run)),
    ("rows", |data| with_str(data, rows::run)),
    ("topic", |data| with_str(data, topic::run)),
];

/// Runs a check of strings. libFuzzer also skips inputs that are not UTF-8.
fn with_str(data: &[u8], run: fn(&str)) {
    if let Ok(text) = std::str::from_utf8(data) {
        run(text);
    }
}

/// Seeds of a target, sorted by file name so that `WARDEN_SEED` gives the same inputs everywhere.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus-seeds").join(target);
    let mut paths: Vec<_> =
        fs::read_dir(dir).expect("a target has seeds").map(|entry| entry.expect("an entry").path()).collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("reads")).collect()
}

#[test]
fn no_mutated_seed_fails_a_check() {
    let number = |name| std::env::var(name).ok().and_then(|value| value.parse::<u64>().ok());
    let seed = number("WARDEN_SEED").unwrap_or_else(|| fastrand::u64(..));
    let seconds = number("WARDEN_FUZZ_SECONDS").unwrap_or(SECONDS_DEFAULT);
    println!("WARDEN_SEED={seed}");
    let targets = u32::try_from(TARGETS.len()).expect("few");
    for (name, run) in TARGETS {
        let mut corpus = Corpus::new(seed, seeds(name));
        let end = Instant::now() + Duration::from_secs(seconds) / targets;
        let mut count = 0_u64;
        // Every seed is checked once, and at least one mutation per seed, even on a slow machine.
        for input in corpus.seeds().to_vec() {
            check(name, *run, &input);
        }
        while count < corpus.seeds().len() as u64 || Instant::now() < end {
            check(name, *run, corpus.next());
            count += 1;
        }
        println!("{name}: {count} inputs");
    }
}

fn check(name: &str, run: Check, input: &[u8]) {
    if catch_unwind(AssertUnwindSafe(|| run(input))).is_err() {
        panic!("{name} fails on {:?} (bytes: {input:?})", String::from_utf8_lossy(input));
    }
}
