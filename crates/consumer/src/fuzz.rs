//! What fuzz targets need of the inside.

use iot_core::message::RefusedReading;
use iot_fold::Catalogue;

use crate::config::{MappingsConfig, Ready};
use crate::mapping::{Around, Beside, Mappings};

/// Reads a payload with each built-in mapping.
///
/// # Panics
/// What is accepted as a whole is not accepted without its defective readings too, or not as the
/// same message.
pub fn read_with_mappings(payload: &[u8]) {
    for (ready, mqtt) in [
        (Ready::Zigbee2mqtt, "zigbee2mqtt/lamp"),
        (
            Ready::Chirpstack,
            "application/1/device/0102030405060708/event/up",
        ),
        (Ready::Tasmota, "tele/plug/SENSOR"),
    ] {
        let mappings = Mappings::new(
            &MappingsConfig {
                ready: vec![ready],
                ..MappingsConfig::default()
            },
            &Catalogue::new([]),
        );
        let around = Around {
            topic: "device-data",
            mqtt: Some(mqtt),
            is_retained: false,
            recorded: Some(1_750_000_000_000),
        };
        let mapping = mappings.find(&around).expect("it is for this topic");
        let mut beside = Beside::default();
        let mut refused = Vec::<RefusedReading>::new();
        let partial = mapping.message(payload, &around, Some(&mut refused), &mut beside);
        if let Ok(whole) = mapping.message(payload, &around, None, &mut Beside::default()) {
            assert_eq!(partial.as_ref(), Ok(&whole));
        }
    }
}
