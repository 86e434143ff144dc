//! libFuzzer's way into [`lifeboat_fuzz::mysql_packets`].

#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lifeboat_fuzz::mysql_packets(bytes));
