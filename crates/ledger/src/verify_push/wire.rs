//! The JSON of the push protocol (the Centrifuge client protocol, version 2), as far as a client
//! needs it that only subscribes, and the data of publications. Written from
//! docs/push.md; it shares no code with the server.

use std::collections::BTreeMap;
use std::fmt;

use iot_core::message::Quality;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};

/// What the ledger subscribes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Channel {
    Readings,
    Alerts,
}

impl Channel {
    pub(super) const ALL: [Self; 2] = [Self::Readings, Self::Alerts];

    /// The name without a filter.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Readings => "readings?mode=all",
            Self::Alerts => "alerts",
        }
    }

    /// The id of its subscribe request.
    pub(super) fn request(self) -> u32 {
        match self {
            Self::Readings => SUBSCRIBE,
            Self::Alerts => SUBSCRIBE + 1,
        }
    }
}

/// The id of the connect request.
pub(super) const CONNECT: u32 = 1;
const SUBSCRIBE: u32 = 2;

pub(super) fn connect() -> Value {
    json!({"id": CONNECT, "connect": {"name": "iot-ledger"}})
}

/// Up to where a client has seen a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Position {
    pub(super) epoch: String,
    pub(super) offset: u64,
}

/// A request for a channel by its `name`, which has the filter.
pub(super) fn subscribe(channel: Channel, name: &str, position: Option<&Position>) -> Value {
    let mut subscribe = json!({"channel": name});
    if let Some(Position { epoch, offset }) = position {
        subscribe["recover"] = json!(true);
        subscribe["epoch"] = json!(epoch);
        subscribe["offset"] = json!(offset);
    }
    json!({"id": channel.request(), "subscribe": subscribe})
}

/// One object of the server. Without any field it is a ping.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Reply {
    #[serde(default)]
    pub(super) id: u32,
    pub(super) error: Option<Refusal>,
    pub(super) connect: Option<Connected>,
    pub(super) subscribe: Option<Subscribed>,
    pub(super) push: Option<Push>,
}

impl Reply {
    pub(super) fn is_ping(&self) -> bool {
        let has_answer = self.connect.is_some() || self.subscribe.is_some();
        !has_answer && self.id == 0 && self.error.is_none() && self.push.is_none()
    }
}

/// Why a request is refused, or a subscription is ended.
#[derive(Debug, Deserialize)]
pub(super) struct Refusal {
    code: u32,
    #[serde(alias = "reason")]
    message: String,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.message)
    }
}

impl Refusal {
    /// Whether a client subscribes again after the server has ended its subscription.
    pub(super) fn resubscribes(&self) -> bool {
        self.code >= 2_500
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Connected {
    /// Seconds between pings.
    #[serde(default)]
    pub(super) ping: u64,
    /// Whether pings are answered.
    #[serde(default)]
    pub(super) pong: bool,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Subscribed {
    #[serde(default)]
    pub(super) epoch: String,
    #[serde(default)]
    pub(super) offset: u64,
    #[serde(default)]
    pub(super) recovered: bool,
    #[serde(default)]
    pub(super) publications: Vec<Publication>,
    pub(super) data: Option<Data>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Push {
    pub(super) channel: String,
    #[serde(rename = "pub")]
    pub(super) publication: Option<Publication>,
    pub(super) unsubscribe: Option<Refusal>,
}

#[derive(Debug, Default, Deserialize)]
pub(super) struct Publication {
    /// 0 for a page of a snapshot.
    #[serde(default)]
    pub(super) offset: u64,
    pub(super) data: Data,
}

/// The data of a snapshot or a publication, of both channels.
#[derive(Debug, Default, Deserialize)]
pub(super) struct Data {
    /// Further pages follow.
    #[serde(default)]
    pub(super) more: bool,
    /// Partitions that are not shown, and why.
    #[serde(default)]
    pub(super) partial: Vec<String>,
    /// Changes that were left out.
    #[serde(default)]
    pub(super) skipped: u64,
    #[serde(default)]
    pub(super) removed: Vec<Key>,
    #[serde(default)]
    pub(super) devices: Vec<Device>,
    #[serde(default)]
    pub(super) alerts: Vec<Value>,
    #[serde(default)]
    pub(super) gone: Vec<String>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Key {
    pub(super) tenant: String,
    pub(super) project: String,
    pub(super) device: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Device {
    #[serde(flatten)]
    pub(super) key: Key,
    pub(super) location: Option<Location>,
    pub(super) seq: Option<u64>,
    pub(super) timestamp: i64,
    #[serde(default)]
    pub(super) ahead: bool,
    pub(super) readings: BTreeMap<String, Reading>,
    /// `topic:partition`; with `offset` only in publications.
    pub(super) partition: Option<String>,
    pub(super) offset: Option<i64>,
}

#[derive(Debug, Deserialize)]
pub(super) struct Location {
    pub(super) building: String,
    pub(super) floor: String,
    pub(super) room: String,
}

#[derive(Debug, Deserialize)]
pub(super) struct Reading {
    pub(super) value: f64,
    pub(super) unit: Option<String>,
    #[serde(deserialize_with = "quality")]
    pub(super) quality: Quality,
    pub(super) timestamp: i64,
    #[serde(default)]
    pub(super) ahead: bool,
}

fn quality<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Quality, D::Error> {
    let name = String::deserialize(deserializer)?;
    Quality::from_name(&name)
        .ok_or_else(|| serde::de::Error::custom(format!("unknown quality {name:?}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(value: &Value) -> Reply {
        serde_json::from_value(value.clone()).unwrap()
    }

    #[test]
    fn an_empty_object_is_a_ping() {
        assert!(reply(&json!({})).is_ping());
        for other in [
            json!({"id": 3}),
            json!({"connect": {"client": "c"}}),
            json!({"error": {"code": 1, "message": "m"}}),
            json!({"push": {"channel": "alerts"}}),
        ] {
            assert!(!reply(&other).is_ping(), "{other}");
        }
    }

    #[test]
    fn a_position_asks_for_what_was_missed() {
        let position = Position {
            epoch: "e".into(),
            offset: 7,
        };
        let request = subscribe(
            Channel::Readings,
            "readings?mode=all&floor=1",
            Some(&position),
        );
        let expected = json!({"channel": "readings?mode=all&floor=1", "recover": true, "epoch": "e",
            "offset": 7});
        assert_eq!(request, json!({"id": 2, "subscribe": expected}));
        let request = subscribe(Channel::Alerts, "alerts", None);
        assert_eq!(
            request,
            json!({"id": 3, "subscribe": {"channel": "alerts"}})
        );
    }

    #[test]
    fn an_end_of_a_subscription_says_whether_to_come_back() {
        let push = json!({"push": {"channel": "alerts",
            "unsubscribe": {"code": 2500, "reason": "resync"}}});
        let end = reply(&push).push.unwrap().unsubscribe.unwrap();
        assert_eq!(
            (end.to_string().as_str(), end.resubscribes()),
            ("2500 resync", true)
        );
    }

    #[test]
    fn an_unknown_quality_is_an_error() {
        let reading = json!({"value": 1, "unit": null, "quality": "fine", "timestamp": 1});
        let error = serde_json::from_value::<Reading>(reading).unwrap_err();
        assert!(error.to_string().contains("\"fine\""), "{error}");
    }
}
