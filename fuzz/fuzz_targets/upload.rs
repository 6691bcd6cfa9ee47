#![no_main]

libfuzzer_sys::fuzz_target!(|octets: &[u8]| {
    petrel_fuzz::upload(octets);
});
