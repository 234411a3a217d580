//! A device message in Protobuf is refused, or its JSON means the same.
#![no_main]

use iot_core::message::{parse, parse_protobuf};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(message) = parse_protobuf(payload) {
        let mut written = Vec::new();
        message.write_json(&mut written);
        assert_eq!(parse(&written).as_ref(), Ok(&message));
    }
});
