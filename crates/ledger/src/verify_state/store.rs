//! Reads the consumer's state from Redis, as bytes.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, bail};
use iot_core::partition::TopicPartition;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd, FromRedisValue, IntoConnectionInfo, cmd};
use tokio::time::timeout;

use super::layout::{ASIDE, OFFSET_FIELD, SCHEMA_FIELD, SCHEMAS, WINDOW, is_value, key_prefix};

/// Deadline of connecting and of one call.
const CALL: Duration = Duration::from_secs(10);
/// Number of fields or keys per call.
const PORTION: usize = 1_000;
/// How often a partition is read if its offset moves meanwhile.
const READS: usize = 5;

/// Checks the URL of a single server, with or without TLS; `host:port` means no TLS.
pub(super) fn valid_url(text: &str) -> Result<String, String> {
    let url = if text.contains("://") {
        text.to_owned()
    } else {
        format!("redis://{text}")
    };
    if !url.starts_with("redis://") && !url.starts_with("rediss://") {
        return Err("must start with redis:// or rediss://".into());
    }
    let info = url.as_str().into_connection_info();
    info.map(|_| url).map_err(|error| error.to_string())
}

/// Name and value.
type NamedValue = (Vec<u8>, Vec<u8>);

/// The consistent state of a partition at one point in time.
#[derive(Debug, Default)]
pub(super) struct Snapshot {
    /// Next offset to apply.
    pub(super) offset: i64,
    /// Live values by field, without what is about the partition.
    pub(super) live: BTreeMap<String, Vec<u8>>,
    /// Sealed windows by key, without the partition's prefix.
    pub(super) sealed: BTreeMap<String, Vec<u8>>,
    /// Whether state of an earlier log of the partition is kept, whose sealed windows may be
    /// among these.
    pub(super) has_earlier_log: bool,
    /// When reading ended, milliseconds since the Unix epoch.
    pub(super) read_at: i64,
}

/// A connection to the consumer's Redis.
pub(super) struct Store {
    connection: MultiplexedConnection,
    prefix: String,
}

impl Store {
    /// Connects to Redis; `prefix` is the consumer's `store.key_prefix`.
    ///
    /// # Errors
    /// Redis does not answer, or refuses the login.
    pub(super) async fn connect(url: &str, prefix: &str) -> anyhow::Result<Self> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CALL))
            .set_response_timeout(Some(CALL));
        let client = Client::open(url).context("opening Redis")?;
        let connect = client.get_multiplexed_async_connection_with_config(&config);
        let connection = timeout(CALL, connect).await;
        let connection = connection
            .with_context(|| format!("connecting to Redis: no answer within {CALL:?}"))?;
        Ok(Self {
            connection: connection.context("connecting to Redis")?,
            prefix: prefix.to_owned(),
        })
    }

    /// The stored offset of a partition, if it has state.
    ///
    /// # Errors
    /// Redis does not answer, or the stored offset is not a number.
    pub(super) async fn offset(&self, partition: &TopicPartition) -> anyhow::Result<Option<i64>> {
        let key = self.key(partition, "state");
        let offset: Option<String> = self.ask(cmd("HGET").arg(&key).arg(OFFSET_FIELD)).await?;
        let offset = offset.map(|offset| offset.parse());
        offset
            .transpose()
            .with_context(|| format!("the offset in {key}"))
    }

    /// The state of a partition, if it has state.
    ///
    /// # Errors
    /// Redis does not answer, the state has another schema, or the offset moved during
    /// every attempt.
    pub(super) async fn snapshot(&self, of: &TopicPartition) -> anyhow::Result<Option<Snapshot>> {
        for _ in 0..READS {
            let Some(offset) = self.offset(of).await? else {
                return Ok(None);
            };
            let live = self.live(of).await?;
            let mut keys = self.keys(of).await?;
            let (windows, aside) = (self.key(of, WINDOW), self.key(of, ASIDE));
            let has_earlier_log = keys.iter().any(|key| key.starts_with(aside.as_bytes()));
            keys.retain(|key| key.starts_with(windows.as_bytes()));
            let sealed = self.values(of, &keys).await?;
            let count: usize = self.ask(cmd("HLEN").arg(self.key(of, "state"))).await?;
            // Each step of the consumer moves the offset, so it shows a concurrent change.
            if self.offset(of).await? == Some(offset) && live.len() == count {
                let mut snapshot = snapshot(offset, live, sealed)?;
                snapshot.has_earlier_log = has_earlier_log;
                return Ok(Some(snapshot));
            }
        }
        bail!(
            "the state of {} {} changes while it is read; stop the consumer or its input",
            of.topic,
            of.partition
        )
    }

    async fn live(&self, of: &TopicPartition) -> anyhow::Result<BTreeMap<Vec<u8>, Vec<u8>>> {
        let (key, mut cursor, mut fields) = (self.key(of, "state"), 0_u64, BTreeMap::new());
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(&key).arg(cursor).arg("COUNT").arg(PORTION);
            let (next, found): (u64, Vec<NamedValue>) = self.ask(&scan).await?;
            fields.extend(found);
            if next == 0 {
                return Ok(fields);
            }
            cursor = next;
        }
    }

    /// The partition's keys. Scans all keys of the database, the only way to find them.
    async fn keys(&self, of: &TopicPartition) -> anyhow::Result<Vec<Vec<u8>>> {
        let (mut cursor, mut keys) = (0_u64, Vec::new());
        let pattern = format!("{}*", escaped(&self.key(of, "")));
        loop {
            let mut scan = cmd("SCAN");
            scan.arg(cursor).arg("MATCH").arg(&pattern);
            scan.arg("COUNT").arg(PORTION);
            let (next, found): (u64, Vec<Vec<u8>>) = self.ask(&scan).await?;
            keys.extend(found);
            if next == 0 {
                return Ok(keys);
            }
            cursor = next;
        }
    }

    /// The values of keys, by the keys without the partition's prefix.
    async fn values(
        &self,
        of: &TopicPartition,
        keys: &[Vec<u8>],
    ) -> anyhow::Result<BTreeMap<String, Vec<u8>>> {
        let begin = self.key(of, "");
        let mut sealed = BTreeMap::new();
        for keys in keys.chunks(PORTION) {
            let values: Vec<Option<Vec<u8>>> = self.ask(cmd("MGET").arg(keys)).await?;
            for (key, value) in keys.iter().zip(values) {
                // The key may have expired since the scan.
                let Some(value) = value else { continue };
                let end = key.get(begin.len()..).unwrap_or_default();
                sealed.insert(String::from_utf8_lossy(end).into_owned(), value);
            }
        }
        Ok(sealed)
    }

    fn key(&self, of: &TopicPartition, end: &str) -> String {
        key_prefix(&self.prefix, &of.topic, of.partition) + end
    }

    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> anyhow::Result<T> {
        let mut connection = self.connection.clone();
        let answer = timeout(CALL, command.query_async(&mut connection)).await;
        let answer =
            answer.with_context(|| format!("reading from Redis: no answer within {CALL:?}"))?;
        answer.context("reading from Redis")
    }
}

/// Escapes the special characters of Redis' patterns.
fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^') {
            out.push('\\');
        }
        out.push(character);
    }
    out
}

fn snapshot(
    offset: i64,
    fields: BTreeMap<Vec<u8>, Vec<u8>>,
    sealed: BTreeMap<String, Vec<u8>>,
) -> anyhow::Result<Snapshot> {
    let fields = fields.into_iter();
    // A device that was removed is empty until it is deleted.
    let mut live: BTreeMap<_, _> = fields
        .filter(|(_, value)| !value.is_empty())
        .map(|(name, value)| (String::from_utf8_lossy(&name).into_owned(), value))
        .collect();
    // What is about the partition is not compared with the log.
    let schema = live.remove(SCHEMA_FIELD).unwrap_or_default();
    let schema = String::from_utf8_lossy(&schema);
    if !SCHEMAS.contains(&&*schema) {
        bail!("the state has schema {schema:?}; this program reads {SCHEMAS:?}");
    }
    live.retain(|field, _| is_value(field));
    Ok(Snapshot {
        offset,
        live,
        sealed,
        has_earlier_log: false,
        read_at: jiff::Timestamp::now().as_millisecond(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_urls_of_single_servers_are_accepted() {
        for good in ["redis://127.0.0.1:6379", "rediss://u:p@redis.example/2"] {
            assert_eq!(valid_url(good), Ok(good.to_owned()));
        }
        let short = valid_url("127.0.0.1:6379");
        assert_eq!(short, Ok("redis://127.0.0.1:6379".into()));
        for bad in [
            "redis-cluster://a:1,b:2",
            "a:1,b:2",
            "memory://",
            "redis://",
        ] {
            assert!(valid_url(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn patterns_in_the_prefix_are_escaped() {
        assert_eq!(escaped("a*[b]?:{t:0}:"), r"a\*\[b\]\?:{t:0}:");
    }

    #[test]
    fn other_schemas_are_refused() {
        let fields = |schema: &str| {
            let fields = [
                ("schema", schema),
                ("offset", "3"),
                ("topic_id", "BwcHBwcHBwcHBwcHBwcHBw"),
                ("leader_epoch", "4"),
                ("d\0t\0p\0d", "v"),
                ("d\0t\0p\0gone", ""),
            ];
            let fields = fields.map(|(name, value)| (name.into(), value.into()));
            snapshot(3, fields.into_iter().collect(), BTreeMap::new())
        };
        for known in ["2", "3"] {
            assert_eq!(fields(known).unwrap().live.len(), 1, "schema {known}");
        }
        assert!(fields("4").is_err());
        assert!(fields("1").unwrap_err().to_string().contains("\"1\""));
    }
}
