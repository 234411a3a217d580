//! A device message in JSON is refused, or means the same after it is written again.
#![no_main]

use iot_core::message::{parse, parse_partial};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(message) = parse(payload) {
        let mut written = Vec::new();
        message.write_json(&mut written);
        assert_eq!(parse(&written).as_ref(), Ok(&message));
    }
    let mut refused = Vec::new();
    let accepted = parse_partial(payload, &mut refused);
    if accepted.is_ok() && !refused.is_empty() {
        assert!(parse(payload).is_err());
    } else {
        assert_eq!(accepted.ok(), parse(payload).ok());
    }
});
