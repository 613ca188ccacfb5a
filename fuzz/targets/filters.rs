//! libFuzzer's entry to the check of the same name. `tests/fuzz` runs the same check without libFuzzer.

#![no_main]

#[path = "../checks/filters.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|filter: &str| check::run(filter));
