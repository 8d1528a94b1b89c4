//! Must fail: four bytes that are luck without coverage, and take a second with it.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    // One comparison at a time, so that each right byte is a new place.
    if data.first() == Some(&b'l') && data.get(1) == Some(&b'a') && data.get(2) == Some(&b's') {
        assert_ne!(data.get(3), Some(&b't'), "the canary was found, as it should be");
    }
});
