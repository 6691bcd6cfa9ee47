#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    petrel_fuzz::crl(bytes);
});
