//! A device message in JSON is refused, or means the same after it is written again.
#![no_main]

use iot_core::message::parse;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(message) = parse(payload) {
        let mut written = Vec::new();
        message.write_json(&mut written);
        assert_eq!(parse(&written).as_ref(), Ok(&message));
    }
});
