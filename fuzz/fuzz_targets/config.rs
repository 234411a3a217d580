//! Configuration files are parsed or refused, and durations and sizes mean the same after they
//! are printed.
#![no_main]

use iot_service::config::{ByteSize, HumanDuration, parse_yaml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let _ = parse_yaml(text);
    if let Ok(duration) = text.parse::<HumanDuration>() {
        assert_eq!(duration.to_string().parse(), Ok(duration));
    }
    if let Ok(size) = text.parse::<ByteSize>() {
        assert_eq!(size.to_string().parse(), Ok(size));
    }
});
