//! Ids that publishers put into payloads (`dedupe.field`): of messages with the
//! same id only the first is written.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::time::Duration;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, Visitor};
use tokio::time::Instant;
use twox_hash::XxHash3_128;

use crate::config::DedupeConfig;

/// Hashes of the ids seen within `dedupe.window`, at most `dedupe.max_ids`.
#[derive(Debug)]
pub(crate) struct PayloadIds {
    field: String,
    window: Duration,
    max: usize,
    seen: HashSet<u128>,
    /// When each was seen, oldest first.
    ages: VecDeque<(Instant, u128)>,
}

impl PayloadIds {
    /// `None` if no field is configured.
    pub(crate) fn new(config: &DedupeConfig) -> Option<Self> {
        (!config.field.is_empty()).then(|| Self {
            field: config.field.clone(),
            window: *config.window,
            max: config.max_ids,
            seen: HashSet::new(),
            ages: VecDeque::new(),
        })
    }

    /// Whether a message with the same id was seen within the window, for the
    /// same Kafka topic; `topic` is a number for it. If not, it counts as seen
    /// from `now` on. A payload without an id is never a duplicate.
    pub(crate) fn is_duplicate(&mut self, topic: u64, payload: &[u8], now: Instant) -> bool {
        let Some(id) = id(&self.field, payload) else {
            return false;
        };
        let id = XxHash3_128::oneshot_with_seed(topic, &id);
        self.evict(now);
        if !self.seen.insert(id) {
            return true;
        }
        self.ages.push_back((now, id));
        false
    }

    fn evict(&mut self, now: Instant) {
        while let Some((at, id)) = self.ages.front() {
            if now - *at < self.window && self.ages.len() < self.max {
                return;
            }
            self.seen.remove(id);
            self.ages.pop_front();
        }
    }
}

/// The value of a field of a JSON object, if it is a string or an integer. The
/// first byte tells these apart.
fn id(field: &str, payload: &[u8]) -> Option<Vec<u8>> {
    let mut json = serde_json::Deserializer::from_slice(payload);
    let found = Field(field).deserialize(&mut json).ok()??;
    json.end().ok()?;
    match found {
        serde_json::Value::String(text) => Some([b"s", text.as_bytes()].concat()),
        serde_json::Value::Number(number) if !number.is_f64() => {
            Some(format!("n{number}").into_bytes())
        }
        _ => None,
    }
}

/// Deserializes one field and skips the others.
struct Field<'a>(&'a str);

impl<'de> DeserializeSeed<'de> for Field<'_> {
    type Value = Option<serde_json::Value>;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<Self::Value, D::Error> {
        json.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Field<'_> {
    type Value = Option<serde_json::Value>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut found = None;
        while let Some(name) = map.next_key::<std::borrow::Cow<'de, str>>()? {
            if name == self.0 {
                found = Some(map.next_value()?);
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(found)
    }
}

#[cfg(test)]
mod tests {
    use iot_service::config::HumanDuration;

    use super::*;

    fn ids(max_ids: usize) -> PayloadIds {
        let config = DedupeConfig {
            field: "messageId".into(),
            window: HumanDuration::from_secs(10),
            max_ids,
            ..DedupeConfig::default()
        };
        PayloadIds::new(&config).unwrap()
    }

    #[test]
    fn an_id_is_a_duplicate_within_the_window_and_its_topic() {
        let (mut ids, now) = (ids(100), Instant::now());
        let (topic, other) = (0, 1);
        let payload = br#"{"v":{"messageId":"b"},"messageId":"a"}"#;
        assert!(!ids.is_duplicate(topic, payload, now));
        assert!(ids.is_duplicate(topic, br#"{"messageId":"\u0061"}"#, now));
        assert!(!ids.is_duplicate(other, payload, now));
        assert!(!ids.is_duplicate(topic, br#"{"messageId":"b"}"#, now));
        let later = now + Duration::from_secs(10);
        assert!(!ids.is_duplicate(topic, payload, later), "evicted by then");
        assert!(ids.is_duplicate(topic, payload, later));
    }

    #[test]
    fn payloads_without_an_id_are_never_duplicates() {
        let (mut ids, now) = (ids(100), Instant::now());
        for payload in [
            &b"{}"[..],
            br#"{"messageId":null}"#,
            br#"{"messageId":1.5}"#,
            br#"{"messageId":"a""#,
            br#"{"messageId":"a"}x"#,
            br#"["messageId"]"#,
            &[0xff, 0],
        ] {
            for _ in 0..2 {
                assert!(!ids.is_duplicate(0, payload, now), "{payload:?}");
            }
        }
        assert!(!ids.is_duplicate(0, br#"{"messageId":7}"#, now));
        assert!(ids.is_duplicate(0, br#"{"messageId":7}"#, now));
        let text = br#"{"messageId":"7"}"#;
        assert!(!ids.is_duplicate(0, text, now), "a string is not a number");
    }

    #[test]
    fn memory_is_bounded() {
        let (mut ids, now) = (ids(3), Instant::now());
        let payload = |id: u32| format!(r#"{{"messageId":{id}}}"#).into_bytes();
        for id in 0..1_000 {
            assert!(!ids.is_duplicate(0, &payload(id), now));
            assert!(ids.seen.len() <= 3 && ids.ages.len() <= 3);
        }
        assert!(ids.is_duplicate(0, &payload(999), now));
    }
}
