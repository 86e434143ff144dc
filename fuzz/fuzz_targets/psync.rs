//! libFuzzer's way into [`lifeboat_fuzz::psync`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lifeboat_fuzz::psync(bytes));
