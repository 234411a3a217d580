//! State in Redis: one hash a partition for everything live, its offset among
//! it, and one key for the windows of a device that were sealed together, which
//! Redis removes when their time is over. docs/state.md lists the keys.

mod copy;
mod fields;
mod link;
mod pool;
#[cfg(test)]
mod tests;

use std::collections::HashMap;

use iot_core::partition::TopicPartition;
use iot_fold::{SCHEMA, SCHEMA_BEFORE, Sealed};
use redis::{Cmd, ErrorKind, FromRedisValue, RedisError, Script, ServerErrorKind, Value, cmd};

use super::url::Servers;
use super::{
    ApplyError, Conflict, KEPT_ASIDE, LoadError, Replaced, Step, Stored, Trouble, Unavailable, now,
};
use crate::config::{StoreConfig, millis};
use copy::Copies;
use fields::{BEGUN, HEAD, OFFSET, SCHEMA_FIELD, log_fields, rules_field, stored};
use link::Connector;
use pool::{Pool, is_replica};

/// Fields read at once: about a millisecond of Redis' one thread.
const SCAN: usize = 1_000;
/// Windows read at once.
const READ: usize = 500;
/// A partition that is written to while it is read is read again this often.
const READS: usize = 5;
/// After so many attempts it is read from a copy: a small partition seldom needs one.
const READS_BEFORE_COPY: usize = 2;
/// Most values in one step, below the end of Lua's `unpack` at about 8,000
/// arguments. The pipeline ends a step at 3,000 and one message more.
pub(super) const MOST_LIVE: usize = 3_500;
/// What comes before the changes of a step, and their bytes; bytes of a number.
const HEAD_ARGS: usize = 18;
const HEAD_BYTES: usize = 520;
const NUMBER_BYTES: usize = 20;

/// Name and value.
type Field = (Vec<u8>, Vec<u8>);

/// Redis, however many servers it has.
#[derive(Debug)]
pub(crate) struct Redis {
    pool: Pool,
    prefix: String,
    /// Longest time that a window is kept, in milliseconds.
    longest: i64,
    script: Script,
    copies: Copies,
    /// Names the rules of the fold, stored with each step.
    rules: String,
}

impl Redis {
    /// Connects to nothing yet.
    pub(super) fn new(servers: Servers, config: &StoreConfig, longest: i64) -> Self {
        Self {
            prefix: config.key_prefix.clone(),
            longest,
            pool: Pool::new(Connector::new(servers, config.clone()), config.connections),
            script: Script::new(include_str!("apply.lua")),
            copies: Copies::default(),
            rules: String::new(),
        }
    }

    pub(super) fn set_rules(&mut self, rules: String) {
        self.rules = rules;
    }

    pub(super) async fn ping(&self) -> Result<(), Unavailable> {
        // Any connection will do.
        let nowhere = TopicPartition::new("", 0);
        self.ask::<Value>(&nowhere, &cmd("PING")).await?;
        let mut info = cmd("INFO");
        info.arg("memory");
        // A cluster answers for each node, and a user may lack the right to ask.
        if let Ok(info) = self.ask::<String>(&nowhere, &info).await
            && let Some(policy) = evicts(&info)
        {
            tracing::warn!(
                policy,
                "Redis may throw live state away when its memory is full: set \
                 maxmemory-policy noeviction"
            );
        }
        Ok(())
    }

    /// Reads in portions, so that Redis serves others in between. What was read is
    /// as of one moment if the offset is the same before and after, because each
    /// step that changes values moves it, and if there are as many fields as Redis counts: a cursor
    /// that another server continues after a fail-over may leave some out. What is written to all the
    /// time is read from a copy.
    pub(super) async fn load(&self, partition: &TopicPartition) -> Result<Stored, LoadError> {
        let key = self.state_key(partition);
        for attempt in 0..READS {
            let read = self.read(partition, &key).await;
            if let Some(fields) = read.map_err(Unavailable::from)? {
                return stored(fields);
            }
            if attempt + 1 >= READS_BEFORE_COPY {
                let read = self.read_copy(partition).await;
                if let Some(fields) = read.map_err(Unavailable::from)? {
                    return stored(fields);
                }
            }
        }
        Err(LoadError::Unavailable(Unavailable {
            trouble: Trouble::Busy,
            message: "somebody else keeps writing to the partition's state".into(),
        }))
    }

    /// All but the values: offset and log.
    pub(super) async fn head(&self, partition: &TopicPartition) -> Result<Stored, LoadError> {
        let mut get = cmd("HMGET");
        get.arg(self.state_key(partition)).arg(&HEAD);
        let values = self.ask::<Vec<Option<Vec<u8>>>>(partition, &get).await;
        let values = values.map_err(Unavailable::from)?;
        let fields = HEAD.iter().zip(values);
        let fields = fields.filter_map(|(name, value)| Some((name.as_bytes().to_vec(), value?)));
        stored(fields.collect())
    }

    /// All fields of a state, or nothing if it changed meanwhile.
    async fn read(
        &self,
        partition: &TopicPartition,
        key: &str,
    ) -> Result<Option<HashMap<Vec<u8>, Vec<u8>>>, RedisError> {
        let (mut fields, mut cursor) = (HashMap::new(), 0_u64);
        let before: Option<Vec<u8>> = self.offset(partition, key).await?;
        loop {
            let mut scan = cmd("HSCAN");
            scan.arg(key).arg(cursor).arg("COUNT").arg(SCAN);
            let found: (u64, Vec<Field>) = self.ask(partition, &scan).await?;
            fields.extend(found.1);
            cursor = found.0;
            if cursor == 0 {
                break;
            }
        }
        let mut count = cmd("HLEN");
        count.arg(key);
        let count: usize = self.ask(partition, &count).await?;
        let after = self.offset(partition, key).await?;
        let same = before == after && fields.get(OFFSET.as_bytes()) == after.as_ref();
        Ok((same && fields.len() == count).then_some(fields))
    }

    async fn offset(
        &self,
        partition: &TopicPartition,
        key: &str,
    ) -> Result<Option<Vec<u8>>, RedisError> {
        let mut get = cmd("HGET");
        get.arg(key).arg(OFFSET);
        self.ask(partition, &get).await
    }

    pub(super) async fn apply(&self, step: &Step<'_>, now: i64) -> Result<(), ApplyError> {
        let answer = self.run(step, now).await.map_err(Unavailable::from)?;
        applied(&answer, step.from)
    }

    pub(super) async fn set_aside(&self, replaced: &Replaced<'_>) -> Result<(), ApplyError> {
        let prefix = self.key_prefix(replaced.partition);
        let aside = format!("{prefix}aside\0{}", replaced.before.topic_name());
        let mut call = cmd("EVAL");
        call.arg(include_str!("set_aside.lua")).arg(2);
        call.arg(self.state_key(replaced.partition)).arg(aside);
        call.arg(replaced.from).arg(millis(KEPT_ASIDE));
        for (_, value) in log_fields(replaced.before) {
            call.arg(value);
        }
        call.arg(SCHEMA_FIELD).arg(SCHEMA);
        call.arg(OFFSET).arg(replaced.to).arg(BEGUN).arg(now());
        for (name, value) in log_fields(replaced.log) {
            call.arg(name).arg(value);
        }
        let answer = self.ask::<Vec<Value>>(replaced.partition, &call).await;
        applied(&answer.map_err(Unavailable::from)?, Some(replaced.from))
    }

    /// Runs the script by its hash, and with its text where Redis doesn't know it:
    /// after a restart, a fail-over, or on another node of a cluster.
    async fn run(&self, step: &Step<'_>, now: i64) -> Result<Vec<Value>, RedisError> {
        let known = self.script.get_hash();
        let short = self.script_call("EVALSHA", known, step, now);
        match self.ask(step.partition, &short).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                let text = include_str!("apply.lua");
                let long = self.script_call("EVAL", text, step, now);
                self.ask(step.partition, &long).await
            }
            answer => answer,
        }
    }

    /// The bytes of a step as they go to Redis.
    pub(super) fn encode(&self, step: &Step<'_>, now: i64) -> Vec<u8> {
        let call = self.script_call("EVALSHA", self.script.get_hash(), step, now);
        call.get_packed_command()
    }

    fn script_call(&self, command: &str, script: &str, step: &Step<'_>, now: i64) -> Cmd {
        let (devices, removed) = (&step.changes.live, &step.changes.removed);
        debug_assert!(
            devices.len() + removed.len() <= MOST_LIVE,
            "the pipeline ends steps earlier"
        );
        let prefix = self.key_prefix(step.partition);
        // What is over already would be removed at once.
        let kept = |sealed: &&Sealed| sealed.expires > now;
        let windows = step.changes.windows.iter().filter(kept).map(|sealed| {
            let lifetime = sealed.expires.saturating_sub(now).min(self.longest);
            let key = format!("{prefix}{}", sealed.store_key());
            (key, sealed.encode(), lifetime)
        });
        let windows: Vec<_> = windows.collect();
        // Rather too much: room that is short by a byte would be doubled.
        let live = devices.iter().map(|(key, value)| key.len() + value.len());
        let sealed = windows
            .iter()
            .map(|(key, value, _)| key.len() + value.len());
        let gone = removed.iter().map(String::len);
        let bytes = live
            .chain(sealed)
            .chain(gone)
            .map(|bytes| bytes + 2 * NUMBER_BYTES);
        let bytes = HEAD_BYTES + bytes.sum::<usize>();
        let mut call = Cmd::with_capacity(HEAD_ARGS + 3 * step.changes.len(), bytes);
        call.arg(command).arg(script).arg(1 + windows.len());
        call.arg(self.state_key(step.partition));
        for (key, ..) in &windows {
            call.arg(key);
        }
        call.arg(step.from.map_or(String::new(), |from| from.to_string()));
        call.arg(step.to).arg(SCHEMA).arg(SCHEMA_BEFORE);
        call.arg(windows.len()).arg(removed.len());
        for (_, value, lifetime) in &windows {
            call.arg(value.as_slice()).arg(lifetime);
        }
        for key in removed {
            call.arg(key).arg("");
        }
        for (name, value) in log_fields(step.log) {
            call.arg(name).arg(value);
        }
        if !self.rules.is_empty() {
            let (name, value) = rules_field(&self.rules, step.to);
            call.arg(name).arg(value);
        }
        if step.from.is_none() {
            call.arg(BEGUN).arg(now);
        }
        for (key, value) in devices {
            call.arg(key).arg(value.as_slice());
        }
        call
    }

    pub(super) async fn reset(
        &self,
        partition: &TopicPartition,
        offset: i64,
    ) -> Result<(), Unavailable> {
        // Both or none: Redis does nothing else in between, and neither can fail once
        // the other has been done.
        let script = "redis.call('DEL', KEYS[1]) \
                      return redis.call('HSET', KEYS[1], 'schema', ARGV[1], 'offset', ARGV[2], \
                      'begun', ARGV[3])";
        let mut reset = cmd("EVAL");
        reset.arg(script).arg(1).arg(self.state_key(partition));
        reset.arg(SCHEMA).arg(offset).arg(now());
        self.ask::<Value>(partition, &reset).await?;
        Ok(())
    }

    pub(super) async fn windows(
        &self,
        partition: &TopicPartition,
        keys: &[String],
    ) -> Result<Vec<Vec<u8>>, Unavailable> {
        let prefix = self.key_prefix(partition);
        let mut found = Vec::new();
        for keys in keys.chunks(READ) {
            let mut get = cmd("MGET");
            for key in keys {
                get.arg(format!("{prefix}{key}"));
            }
            let values: Vec<Option<Vec<u8>>> = self.ask(partition, &get).await?;
            found.extend(values.into_iter().flatten());
        }
        Ok(found)
    }

    /// Sends a command and waits for its answer, both with a deadline.
    async fn ask<T: FromRedisValue>(
        &self,
        partition: &TopicPartition,
        cmd: &Cmd,
    ) -> Result<T, RedisError> {
        let answer = self.pool.ask(partition, cmd).await?;
        Ok(T::from_redis_value(answer)?)
    }

    /// The braces put all keys of a partition on one node of a cluster.
    fn key_prefix(&self, partition: &TopicPartition) -> String {
        let (topic, partition) = partition.parts();
        format!("{}:{{{topic}:{partition}}}:", self.prefix)
    }

    fn state_key(&self, partition: &TopicPartition) -> String {
        self.key_prefix(partition) + "state"
    }
}

/// What a script's answer means.
fn applied(answer: &[Value], expected: Option<i64>) -> Result<(), ApplyError> {
    match answer {
        [Value::Int(1)] => Ok(()),
        [Value::Int(0), stored] => Err(ApplyError::Conflict(Conflict {
            stored: String::from_redis_value_ref(stored)
                .ok()
                .and_then(|offset| offset.parse().ok()),
            expected,
        })),
        other => Err(ApplyError::Unavailable(Unavailable {
            trouble: Trouble::Refused,
            message: format!("Redis answered {other:?} to a step"),
        })),
    }
}

/// The policy by which a Redis with a limit removes keys that never expire.
fn evicts(info: &str) -> Option<&str> {
    let field = |name: &str| {
        let mut lines = info.lines();
        lines.find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))
    };
    let policy = field("maxmemory_policy")?;
    (policy.starts_with("allkeys") && field("maxmemory") != Some("0")).then_some(policy)
}

impl From<RedisError> for Unavailable {
    fn from(error: RedisError) -> Self {
        let detail = error.detail().unwrap_or_default();
        let trouble = match (error.kind(), error.code()) {
            (ErrorKind::Io, _) if error.is_timeout() => Trouble::Timeout,
            (
                ErrorKind::Io
                | ErrorKind::ClusterConnectionNotFound
                | ErrorKind::MasterNameNotFoundBySentinel,
                _,
            ) => Trouble::Unreachable,
            (ErrorKind::AuthenticationFailed, _) => Trouble::Denied,
            // Before version 7 an error of a script has no code of its own.
            (_, Some("OOM")) => Trouble::Full,
            _ if detail.contains("OOM command not allowed") => Trouble::Full,
            _ if is_replica(&error) => Trouble::Busy,
            (_, Some("NOAUTH" | "WRONGPASS" | "NOPERM")) => Trouble::Denied,
            // Redis' limits for a client without a login come before that.
            _ if detail.contains("unauthenticated") => Trouble::Denied,
            (
                _,
                Some(
                    "LOADING" | "BUSY" | "CLUSTERDOWN" | "TRYAGAIN" | "MASTERDOWN" | "NOREPLICAS"
                    | "MOVED" | "ASK",
                ),
            ) => Trouble::Busy,
            _ => Trouble::Refused,
        };
        let advice = match trouble {
            Trouble::Full => " (give Redis more memory: maxmemory)",
            Trouble::Denied => " (store.username, store.password)",
            _ => "",
        };
        Self {
            trouble,
            message: format!("Redis: {error}{advice}"),
        }
    }
}
