//! libFuzzer's entry to the check of the same name. `tests/fuzz` runs the same check without libFuzzer.

#![no_main]

#[path = "../checks/issuers.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|text: &str| check::run(text));
