//! libFuzzer's entry to the check of the same name. `tests/fuzz` runs the same check without libFuzzer.

#![no_main]

#[path = "../checks/cloudevents.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::run(data));
