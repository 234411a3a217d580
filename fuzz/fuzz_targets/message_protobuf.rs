//! A device message in Protobuf is refused, or its JSON means the same.
#![no_main]

use iot_core::message::{parse, parse_protobuf, parse_protobuf_partial};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|payload: &[u8]| {
    if let Ok(message) = parse_protobuf(payload) {
        let mut written = Vec::new();
        message.write_json(&mut written);
        assert_eq!(parse(&written).as_ref(), Ok(&message));
    }
    let mut refused = Vec::new();
    let accepted = parse_protobuf_partial(payload, &mut refused);
    if accepted.is_ok() && !refused.is_empty() {
        assert!(parse_protobuf(payload).is_err());
    } else {
        assert_eq!(accepted.ok(), parse_protobuf(payload).ok());
    }
});
