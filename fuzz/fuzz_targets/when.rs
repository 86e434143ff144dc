//! libFuzzer's way into [`lifeboat_fuzz::when`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lifeboat_fuzz::when(bytes));
