//! libFuzzer's way into the check of the same name; `tests/fuzz` is the other one.

#![no_main]

#[path = "../checks/message.rs"]
mod check;

libfuzzer_sys::fuzz_target!(|text: &str| check::run(text));
