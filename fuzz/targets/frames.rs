//! libFuzzer's way into the check of the same name; `tests/fuzz` is the other one.

#![no_main]

#[path = "../checks/frames.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|data: &[u8]| check::run(data));
