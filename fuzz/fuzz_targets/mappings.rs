//! Third-party payloads are refused, or mean the same with and without defective readings.
#![no_main]

use iot_consumer::fuzz::read_with_mappings;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| read_with_mappings(payload));
