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
/// When the state was begun: by a first step, by a reset, or in another log (milliseconds since the
/// epoch). State of earlier versions has none. It tells readers that what they know is gone.
pub(super) const BEGUN: &str = "begun";
/// Names the rules of the fold, with the offset up to which they were applied: `rules@offset`. The
/// version before leaves it alone, so it says nothing if it is of another offset.
const RULES: &str = "rules";
/// All fields but values.
pub(super) const HEAD: [&str; 6] = [SCHEMA_FIELD, OFFSET, TOPIC_ID, LEADER_EPOCH, BEGUN, RULES];
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

/// The field about the rules, and its value, of a step to this offset.
pub(super) fn rules_field(rules: &str, to: i64) -> (&'static str, String) {
    (RULES, format!("{rules}@{to}"))
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
    let rules = take(RULES).and_then(|value| {
        let (rules, at) = value.rsplit_once('@')?;
        (at.parse() == Ok(offset)).then(|| rules.to_owned())
    });
    let begun = take(BEGUN);
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
        begun,
        rules,
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
