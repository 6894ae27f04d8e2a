#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| {
    guardian::format::fuzz::page_map(bytes);
});
