//! Waiting for a condition instead of sleeping and hoping.

use std::fmt::Debug;
use std::time::{Duration, Instant};

/// How long a test waits for anything. Generous, because builds and other tests
/// share the machine: only a test that fails waits this long.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Between two checks of a condition.
const PAUSE: Duration = Duration::from_millis(20);

/// What a check of [`wait_for`] returns: whether the condition holds.
///
/// Implemented for `bool`, for `Option` (`Some` holds) and for `Result` (`Ok` holds;
/// the last `Err` is in the message of the panic).
pub trait Check {
    /// What the caller gets once the condition holds.
    type Value;

    /// The value, or what to report if it never holds.
    ///
    /// # Errors
    /// The condition does not hold yet.
    fn outcome(self) -> Result<Self::Value, String>;
}

impl Check for bool {
    type Value = ();

    fn outcome(self) -> Result<(), String> {
        self.then_some(()).outcome()
    }
}

impl<T> Check for Option<T> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<T, E: Debug> Check for Result<T, E> {
    type Value = T;

    fn outcome(self) -> Result<T, String> {
        self.map_err(|error| format!("; last seen: {error:?}"))
    }
}

/// Checks a condition until it holds.
///
/// # Panics
/// When it does not hold within [`DEADLINE`]; the message names `what`.
pub async fn wait_for<C: Check>(what: &str, mut check: impl AsyncFnMut() -> C) -> C::Value {
    let begun = Instant::now();
    loop {
        match check().await.outcome() {
            Ok(value) => return value,
            Err(last) => fail_after_deadline(begun, what, &last),
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// [`wait_for`] outside a runtime: blocks the thread.
///
/// # Panics
/// Like [`wait_for`].
pub fn wait_for_sync<C: Check>(what: &str, mut check: impl FnMut() -> C) -> C::Value {
    let begun = Instant::now();
    loop {
        match check().outcome() {
            Ok(value) => return value,
            Err(last) => fail_after_deadline(begun, what, &last),
        }
        std::thread::sleep(PAUSE);
    }
}

fn fail_after_deadline(begun: Instant, what: &str, last: &str) {
    let waited = begun.elapsed();
    assert!(
        waited < DEADLINE,
        "waited {} s for {what}{last}",
        waited.as_secs()
    );
}

/// Awaits something that ends by itself.
///
/// # Panics
/// When it takes longer than [`DEADLINE`]; the message names `what`.
pub async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(DEADLINE, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {} s for {what}", DEADLINE.as_secs()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_of_check_gives_its_value() {
        let mut checks = 0;
        let mut third = || {
            checks += 1;
            checks % 3 == 0
        };
        wait_for_sync("a bool", &mut third);
        assert_eq!(wait_for_sync("an option", || third().then_some(7)), 7);
        let result = || if third() { Ok(8) } else { Err("not yet") };
        assert_eq!(wait_for_sync("a result", result), 8);
        assert_eq!(checks, 9);
    }

    #[test]
    fn a_failure_names_what_was_awaited_and_the_last_error() {
        let error = Err::<(), _>("503").outcome().unwrap_err();
        let long_ago = Instant::now().checked_sub(DEADLINE).unwrap();
        let failed =
            std::panic::catch_unwind(|| fail_after_deadline(long_ago, "readiness", &error));
        let message = failed.unwrap_err().downcast::<String>().unwrap();
        assert_eq!(*message, r#"waited 90 s for readiness; last seen: "503""#);
    }
}
