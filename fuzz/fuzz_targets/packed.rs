//! libFuzzer's way into [`lifeboat_fuzz::packed`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lifeboat_fuzz::packed(bytes));
