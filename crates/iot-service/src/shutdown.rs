//! Ordered shutdown: a list of steps, each with a deadline and logged with the
//! time it took. Readiness goes first; the ops listener goes last, so that the
//! whole drain can be watched.

use std::time::Duration;

use tokio::time::Instant;

use crate::health::Health;

/// A shutdown under way.
#[derive(Debug)]
pub struct Steps {
    begun: Instant,
}

impl Steps {
    /// Begins the shutdown: the service stops being ready.
    pub fn begin(health: &Health) -> Self {
        tracing::info!("stopping");
        health.stopping();
        Self {
            begun: Instant::now(),
        }
    }

    /// Does one step. `None` when it was not done by its deadline; the
    /// shutdown then goes on without it.
    pub async fn step<T>(
        &self,
        name: &str,
        deadline: Duration,
        work: impl Future<Output = T>,
    ) -> Option<T> {
        let begun = Instant::now();
        let done = tokio::time::timeout(deadline, work).await.ok();
        let took_ms = begun.elapsed().as_millis() as u64;
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
        tracing::info!(took_ms = self.begun.elapsed().as_millis() as u64, "stopped");
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
