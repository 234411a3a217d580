//! Waits for a consumer that is still reading.

use std::time::Duration;

use anyhow::bail;
use iot_core::partition::TopicPartition;
use iot_service::Backoff;
use tokio::time::{Instant, sleep};

use super::store::Store;
use crate::committed::Committed;
use crate::log::{Log, Read};

/// Waits until all current records of the log are stored.
///
/// # Errors
/// They are not stored by the deadline, or Kafka or Redis does not answer.
pub(super) async fn until_stored(
    log: &Log,
    store: &Store,
    committed: &Committed,
    partition: &TopicPartition,
    deadline: Instant,
) -> anyhow::Result<()> {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(1));
    let (mut before, mut checked) = (None, None);
    loop {
        let stored = store.offset(partition).await?;
        if stored.unwrap_or(0) >= log.end {
            return Ok(());
        }
        // The offset does not move. Maybe only markers and aborted records are left, which
        // do not move it.
        if let Some(offset) = stored
            && before == stored
            && checked != stored
        {
            if nothing_from(log, committed, partition, offset).await? {
                return Ok(());
            }
            checked = stored;
        }
        if Instant::now() >= deadline {
            let (topic, number) = partition.parts();
            let stored = stored.map_or("nothing".to_owned(), |offset| offset.to_string());
            bail!(
                "{topic} {number}: stored offset {stored} has not reached the end of the log, {}",
                log.end
            );
        }
        before = stored;
        sleep(backoff.next_delay()).await;
    }
}

/// Whether there are no committed records from an offset to the end of the log.
async fn nothing_from(
    log: &Log,
    committed: &Committed,
    partition: &TopicPartition,
    offset: i64,
) -> anyhow::Result<bool> {
    let offset = offset.max(log.begin);
    match log.read_from(offset).next().await? {
        Read::End => Ok(true),
        Read::Records(_) | Read::Transaction => {
            let next = committed
                .read(partition, offset)?
                .recv()
                .await
                .transpose()?;
            Ok(next.is_none_or(|record| record.offset >= log.end))
        }
    }
}
