//! Counts of sent input and its answers by kind, and the faults found.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

/// Faults that are printed; all are counted.
const FAULTS_MAX: usize = 20;

#[derive(Default)]
struct Counted {
    sent: u64,
    answers: BTreeMap<String, u64>,
}

#[derive(Default)]
struct All {
    kinds: BTreeMap<&'static str, Counted>,
    faults: Vec<String>,
    fault_count: u64,
}

/// Shared counters of a wave.
#[derive(Default)]
pub(crate) struct Tally(Mutex<All>);

impl Tally {
    fn with<T>(&self, change: impl FnOnce(&mut All) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn sent(&self, kind: &'static str, count: u64) {
        self.with(|all| all.kinds.entry(kind).or_default().sent += count);
    }

    pub(crate) fn answered(&self, kind: &'static str, answer: &str) {
        self.with(|all| {
            *all.kinds.entry(kind).or_default().answers.entry(answer.to_owned()).or_default() += 1;
        });
    }

    pub(crate) fn fault(&self, fault: String) {
        self.with(|all| {
            all.fault_count += 1;
            if all.faults.len() < FAULTS_MAX {
                all.faults.push(fault);
            }
        });
    }

    pub(crate) fn total(&self) -> u64 {
        self.with(|all| all.kinds.values().map(|counted| counted.sent).sum())
    }

    /// Number of inputs of any kind with this answer.
    pub(crate) fn answers(&self, answer: &str) -> u64 {
        self.with(|all| all.kinds.values().filter_map(|counted| counted.answers.get(answer)).sum())
    }

    /// Prints the table, and panics if there was a fault.
    pub(crate) fn report(&self, title: &str) {
        self.with(|all| {
            println!("\n| {title} | sent | answered |\n|---|---:|---|");
            for (kind, counted) in &all.kinds {
                let answers: Vec<_> =
                    counted.answers.iter().map(|(answer, count)| format!("{answer}: {count}")).collect();
                println!("| {kind} | {} | {} |", counted.sent, answers.join(", "));
            }
            assert!(all.fault_count == 0, "{} faults: {:#?}", all.fault_count, all.faults);
        });
    }
}
