//! libFuzzer's way into [`lifeboat_fuzz::proof`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lifeboat_fuzz::proof(bytes));
