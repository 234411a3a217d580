//! What a restart needs to know of the numbering.

use serde::{Deserialize, Serialize};

/// The state of a session's numbering: the value of a record in
/// `iot.bridge-sessions`, as JSON. The key is the session's client id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Checkpoint {
    /// Address of the MQTT broker that holds the session.
    pub(crate) broker: String,
    /// The epoch of the receive numbers; 0 if the broker's packet identifiers are
    /// not sequential.
    #[serde(rename = "session")]
    pub(crate) epoch: u64,
    /// Receive number of the next message.
    #[serde(rename = "number")]
    pub(crate) next_number: u64,
    /// Packet identifier of the next message.
    #[serde(rename = "packet_id")]
    pub(crate) next_packet_id: u16,
    /// Whether the broker has shown that it assigns packet identifiers
    /// sequentially.
    #[serde(rename = "counts_up", default)]
    pub(crate) sequential: bool,
    /// When the oldest unacknowledged message arrived, milliseconds since the
    /// Unix epoch: no record of an unacknowledged message is older.
    pub(crate) oldest_at: i64,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_format_is_stable() {
        let checkpoint = Checkpoint {
            broker: "mqtt://b:1883".into(),
            epoch: 7,
            next_number: 3,
            next_packet_id: 4,
            sequential: true,
            oldest_at: 5,
        };
        let json = r#"{"broker":"mqtt://b:1883","session":7,"number":3,"packet_id":4,"counts_up":true,"oldest_at":5}"#;
        assert_eq!(serde_json::to_string(&checkpoint).unwrap(), json);
        assert_eq!(
            serde_json::from_str::<Checkpoint>(json).unwrap(),
            checkpoint
        );
        // Written before `counts_up` existed.
        let older = json.replace(r#""counts_up":true,"#, "");
        let restored: Checkpoint = serde_json::from_str(&older).unwrap();
        assert!(!restored.sequential);
    }
}
