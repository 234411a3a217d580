//! The fields of a partition's hash. Those of values have a NUL in their names; the others are
//! about the partition, and this version leaves alone what it does not know of them.

use std::collections::HashMap;
use std::str::FromStr;

use iot_fold::{SCHEMA, SCHEMA_BEFORE};

use crate::store::{LoadError, LogId, Stored};

pub(super) const OFFSET: &str = "offset";
pub(super) const SCHEMA_FIELD: &str = "schema";
/// As Kafka's tools write it; empty for unknown.
const TOPIC_ID: &str = "topic_id";
/// Empty for unknown.
const LEADER_EPOCH: &str = "leader_epoch";
/// What the names of values contain, and no other name does.
const NUL: u8 = 0;

/// The fields about the log, and their values.
pub(super) fn log_fields(log: LogId) -> [(&'static str, String); 2] {
    let text = |value: Option<String>| value.unwrap_or_default();
    [
        (TOPIC_ID, text(log.topic_id.map(|id| id.to_string()))),
        (
            LEADER_EPOCH,
            text(log.leader_epoch.map(|epoch| epoch.to_string())),
        ),
    ]
}

/// Reads all fields of a hash.
///
/// # Errors
/// Another version or another program wrote them.
pub(super) fn stored(mut fields: HashMap<Vec<u8>, Vec<u8>>) -> Result<Stored, LoadError> {
    let unusable = |reason: String| Err(LoadError::Unusable(reason));
    if fields.is_empty() {
        return Ok(Stored::default());
    }
    let mut take = |name: &str| {
        let value = fields.remove(name.as_bytes());
        value.and_then(|value| String::from_utf8(value).ok())
    };
    match take(SCHEMA_FIELD).as_deref() {
        Some(SCHEMA | SCHEMA_BEFORE) => {}
        Some(other) => return unusable(format!("its schema is {other}, this version's {SCHEMA}")),
        None => return unusable("it has no schema".into()),
    }
    let Some(offset) = take(OFFSET).and_then(|offset| offset.parse().ok()) else {
        return unusable("it has no offset".into());
    };
    let log = LogId {
        topic_id: known(TOPIC_ID, take(TOPIC_ID))?,
        leader_epoch: known(LEADER_EPOCH, take(LEADER_EPOCH))?,
    };
    let mut entries = Vec::with_capacity(fields.len());
    for (field, value) in fields {
        // What a step has removed is empty until it is deleted.
        if !field.contains(&NUL) || value.is_empty() {
            continue;
        }
        match String::from_utf8(field) {
            Ok(field) => entries.push((field, value)),
            Err(_) => return unusable("the name of a value is not UTF-8".into()),
        }
    }
    Ok(Stored {
        offset: Some(offset),
        log,
        entries,
    })
}

/// A value that may be missing or empty.
fn known<T: FromStr>(name: &str, value: Option<String>) -> Result<Option<T>, LoadError> {
    let value = value.filter(|value| !value.is_empty());
    let parsed = value.map(|value| value.parse());
    let invalid = |_| LoadError::Unusable(format!("its {name} is invalid"));
    parsed.transpose().map_err(invalid)
}
