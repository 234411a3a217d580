//! Any configuration file gives settings or problems.
#![no_main]

use iot_service::config::{LogConfig, Problems, extract, parse_yaml};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    if let Ok(value) = parse_yaml(text) {
        let mut problems = Problems::default();
        let settings = extract::<LogConfig>(&value, "log", &mut problems);
        assert_eq!(settings.is_some(), problems.is_empty());
    }
});
