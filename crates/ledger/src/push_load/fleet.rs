//! The fleet whose messages are published: devices with one sensor on numbered floors.

use std::fmt::Write as _;

/// The header of Kafka records that names Centrifugo's channels (its default).
pub(super) const CHANNELS: &str = "centrifugo-channels";

/// What the records hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Style {
    /// Messages of devices, for the consumer.
    Device,
    /// What the consumer pushes of such a message, for Centrifugo's Kafka consumer.
    Publication,
}

/// A message of a device.
#[derive(Debug, Clone, Copy)]
pub(super) struct Message {
    pub(super) device: u32,
    pub(super) floor: u32,
    pub(super) seq: u64,
    /// Milliseconds since the epoch.
    pub(super) time: i64,
}

impl Message {
    /// The device's id.
    pub(super) fn key(self) -> String {
        format!("device-{}", self.device)
    }

    /// The name of the floor, which is Centrifugo's channel.
    pub(super) fn floor(self) -> String {
        format!("floor-{}", self.floor)
    }

    /// Replaces `out` by the record's value.
    pub(super) fn write(self, style: Style, out: &mut String) {
        let Self {
            device, seq, time, ..
        } = self;
        let floor = self.floor();
        let value = 15.0 + f64::from(device % 100) / 10.0 + (seq % 50) as f64 / 100.0;
        let location = format!(
            r#""location":{{"building":"building-1","floor":"{floor}","room":"room-{}"}}"#,
            device % 10
        );
        out.clear();
        // Writing to a String cannot fail.
        let _ = match style {
            Style::Device => write!(
                out,
                r#"{{"device_id":"device-{device}","tenant":"acme","project":"plant","seq":{seq},"timestamp":{time},{location},"readings":[{{"sensor":"temperature","value":{value:.2},"unit":"celsius","quality":"good"}}]}}"#
            ),
            Style::Publication => write!(
                out,
                r#"{{"devices":[{{"partition":"push-bench:{}","offset":{seq},"tenant":"acme","project":"plant","device":"device-{device}",{location},"seq":{seq},"timestamp":{time},"readings":{{"temperature":{{"value":{value:.2},"unit":"celsius","quality":"good","timestamp":{time}}}}}}}]}}"#,
                device % 10
            ),
        };
    }
}

/// The order in which devices send, once each: random, so that the messages of a floor do not
/// come at even distances, but the same in each run.
pub(super) fn order(devices: u32) -> Vec<u32> {
    let mut order: Vec<u32> = (0..devices).collect();
    let mut state = 0x2545_f491_4f6c_dd1d_u64;
    for last in (1..order.len()).rev() {
        // xorshift64 (Marsaglia 2003).
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        order.swap(last, (state % (last as u64 + 1)) as usize);
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_device_sends_once_in_a_round() {
        let mut all = order(1_000);
        assert_ne!(all, (0..1_000).collect::<Vec<_>>());
        all.sort_unstable();
        assert_eq!(all, (0..1_000).collect::<Vec<_>>());
    }

    #[test]
    fn both_styles_are_json_of_the_same_message() {
        let message = Message {
            device: 42,
            floor: 7,
            seq: 3,
            time: 1_700_000_000_000,
        };
        let mut out = String::new();
        message.write(Style::Device, &mut out);
        let device: serde_json::Value = serde_json::from_str(&out).unwrap();
        message.write(Style::Publication, &mut out);
        let pushed: serde_json::Value = serde_json::from_str(&out).unwrap();
        let pushed = &pushed["devices"][0];
        assert_eq!(device["device_id"], pushed["device"]);
        for field in ["tenant", "project", "location", "seq", "timestamp"] {
            assert_eq!(device[field], pushed[field], "{field}");
        }
        let reading = &pushed["readings"]["temperature"];
        assert_eq!(device["readings"][0]["value"], reading["value"]);
        assert_eq!(pushed["location"]["floor"], message.floor());
    }
}
