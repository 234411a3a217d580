//! Ordered shutdown: steps with a deadline each, logged with their duration. The
//! service stops being ready first; the ops listener closes last, so that the
//! shutdown can be observed.

use std::time::Duration;

use tokio::time::Instant;

use crate::health::Health;

/// A shutdown in progress.
#[derive(Debug)]
pub struct Steps {
    started: Instant,
}

impl Steps {
    /// Starts the shutdown: the service stops being ready.
    pub fn begin(health: &Health) -> Self {
        tracing::info!("stopping");
        health.stopping();
        Self {
            started: Instant::now(),
        }
    }

    /// Runs one step. `None` means that its deadline passed; the shutdown continues
    /// without its result.
    pub async fn step<T>(
        &self,
        name: &str,
        deadline: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let started = Instant::now();
        let done = tokio::time::timeout(deadline, work).await.ok();
        let took_ms = started.elapsed().as_millis() as u64;
        match done {
            Some(_) => tracing::info!(step = name, took_ms, "shutdown step done"),
            None => tracing::warn!(
                step = name,
                took_ms,
                "shutdown step abandoned at its deadline"
            ),
        }
        done
    }
}

impl Drop for Steps {
    fn drop(&mut self) {
        let took_ms = self.started.elapsed().as_millis() as u64;
        tracing::info!(took_ms, "stopped");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_step_that_hangs_is_abandoned() {
        let steps = Steps::begin(&Health::default());
        let (long, short) = (Duration::from_secs(60), Duration::from_millis(10));
        assert_eq!(steps.step("flush", long, async { 7 }).await, Some(7));
        assert_eq!(
            steps
                .step("hang", short, std::future::pending::<()>())
                .await,
            None
        );
    }
}
