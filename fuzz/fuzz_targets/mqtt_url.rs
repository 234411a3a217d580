//! The address of a broker is refused, or the same after it is printed.
#![no_main]

use iot_mqtt::MqttUrl;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(url) = text.parse::<MqttUrl>() {
        assert_eq!(url.to_string().parse(), Ok(url));
    }
});
