//! libFuzzer's way into [`lifeboat_fuzz::rdb`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lifeboat_fuzz::rdb(bytes));
