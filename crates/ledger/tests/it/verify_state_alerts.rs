//! `verify-state` compares alerts of thresholds with a minimum duration.

use serde_json::json;

use crate::support::produce;
use crate::verify_state::{BEGIN, Verified};

/// A temperature every 10 s: beyond 50 for 20 s, for 40 s, and at the end for 10 s.
fn records() -> Vec<Vec<u8>> {
    let values = [20, 60, 61, 60, 20, 55, 56, 57, 58, 59, 20, 20, 70, 71];
    let records = (0..).zip(values).map(|(number, value)| {
        let message = json!({
            "device_id": "d",
            "seq": number,
            "timestamp": BEGIN + number * 10_000,
            "readings": [{"sensor": "temperature", "value": value}],
        });
        message.to_string().into_bytes()
    });
    records.collect()
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn alerts_with_a_minimum_duration_match_the_consumer() {
    let verified = Verified::new("duration", 1).await;
    let file = tempfile::NamedTempFile::new().unwrap();
    let rule = "thresholds:\n- {sensor: temperature, for: 30s}\n";
    std::fs::write(file.path(), rule).unwrap();
    let config = file.path().to_str().unwrap();
    let records = records();
    // Stopped while a value waits, and started again.
    for part in [&records[..3], &records[3..7], &records[7..]] {
        produce(&verified.topic, part).await;
        let mut consumer = verified.consumer_from(&["--config", config]).await;
        let compare = |lasting: &str| format!("temperature:above=50,for={lasting}");
        let (same, other) = (compare("30s"), compare("10s"));
        let exact = verified
            .verify(&["--wait", "60s", "--threshold", &same])
            .await;
        assert_eq!(exact.code, Some(0), "{exact:?}");
        assert_eq!(consumer.process.stop().await, Some(0));
        // Its alerts would have begun earlier.
        let differs = verified.verify(&["--threshold", &other]).await;
        assert_eq!(differs.code, Some(1), "{differs:?}");
    }
}
