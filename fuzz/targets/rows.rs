//! libFuzzer's entry to the check of the same name. `tests/fuzz` runs the same check without libFuzzer.

#![no_main]

#[path = "../checks/rows.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|query: &str| check::run(query));
