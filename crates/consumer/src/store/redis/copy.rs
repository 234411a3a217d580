//! Reading state that is written to meanwhile: from a copy, which Redis makes in one step.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use iot_core::partition::TopicPartition;
use redis::{ErrorKind, RedisError, cmd};
use tokio::sync::Semaphore;

use super::Redis;
use crate::config::millis;
use crate::store::{Trouble, Unavailable, now};

/// How long a copy is kept if its reader does not delete it. Reading takes a second for a million
/// devices.
const KEPT: Duration = Duration::from_secs(60);
/// Copies of this process at the same time: each takes as much memory as the state.
const AT_ONCE: usize = 2;

/// What is known of copies.
#[derive(Debug)]
pub(super) struct Copies {
    turns: Semaphore,
    /// Redis is older than 6.2, or the user may not run COPY.
    impossible: AtomicBool,
    number: AtomicU64,
}

impl Default for Copies {
    fn default() -> Self {
        Self {
            turns: Semaphore::new(AT_ONCE),
            impossible: AtomicBool::new(false),
            number: AtomicU64::new(0),
        }
    }
}

impl Redis {
    /// All fields of the state as of one moment; nothing if there is no state, or if this Redis
    /// can't copy it now.
    pub(super) async fn read_copy(
        &self,
        partition: &TopicPartition,
    ) -> Result<Option<HashMap<Vec<u8>, Vec<u8>>>, RedisError> {
        let copies = &self.copies;
        if copies.impossible.load(Ordering::Relaxed) {
            return Ok(None);
        }
        // It is never closed.
        let _turn = copies.turns.acquire().await.ok();
        let number = copies.number.fetch_add(1, Ordering::Relaxed);
        let name = format!("copy\0{}-{}-{number}", std::process::id(), now());
        let copy = self.key_prefix(partition) + &name;
        let mut make = cmd("EVAL");
        make.arg(include_str!("copy.lua")).arg(2);
        make.arg(self.state_key(partition)).arg(&copy);
        make.arg(millis(KEPT));
        match self.ask::<i64>(partition, &make).await {
            Ok(1) => {}
            Ok(_) => return Ok(None),
            Err(error) => return self.not_copied(error),
        }
        let read = self.read(partition, &copy).await;
        let mut delete = cmd("UNLINK");
        delete.arg(&copy);
        // Otherwise it expires.
        let _ = self.ask::<i64>(partition, &delete).await;
        read
    }

    fn not_copied<T>(&self, error: RedisError) -> Result<Option<T>, RedisError> {
        if is_impossible(&error) {
            if !self.copies.impossible.swap(true, Ordering::Relaxed) {
                tracing::warn!(
                    %error,
                    "cannot copy state in Redis; reading it while it is written to, which may \
                     take several attempts: use Redis 6.2 or newer, and allow +copy and +unlink"
                );
            }
            return Ok(None);
        }
        // There is no room for a copy; it can be read without one.
        if Unavailable::from(error.clone()).trouble == Trouble::Full {
            return Ok(None);
        }
        Err(error)
    }
}

/// Whether Redis has no such command, or the user no right to it. Before version 7 an error of a
/// script has no code of its own.
fn is_impossible(error: &RedisError) -> bool {
    let detail = error.detail().unwrap_or_default();
    matches!(error.kind(), ErrorKind::Server(_) | ErrorKind::Extension)
        && (error.code() == Some("NOPERM")
            || [
                "Unknown Redis command",
                "can't run this command",
                "no permissions",
            ]
            .iter()
            .any(|text| detail.contains(text)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_that_cannot_copy_are_recognised_by_their_answers() {
        let error = |line: &str| {
            let answer = redis::parse_redis_value(format!("-{line}\r\n").as_bytes());
            answer.and_then(redis::Value::extract_error).unwrap_err()
        };
        for line in [
            "ERR Error running script (call to f_4ca2): @user_script:9: @user_script: 9: Unknown \
             Redis command called from Lua script",
            "ERR Unknown Redis command called from script script: 4ca2, on @user_script:9.",
            "ERR Error running script (call to f_4ca2): @user_script:9: @user_script: 9: The user \
             executing the script can't run this command or subcommand",
            "NOPERM ACL failure in script: User iot has no permissions to run the 'copy' command \
             script: 4ca2, on @user_script:9.",
        ] {
            assert!(is_impossible(&error(line)), "{line}");
        }
        for line in [
            "OOM command not allowed when used memory > 'maxmemory'.",
            "BUSY Redis is busy running a script.",
            "READONLY You can't write against a read only replica.",
        ] {
            assert!(!is_impossible(&error(line)), "{line}");
        }
    }
}
