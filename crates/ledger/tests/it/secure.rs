//! `verify-kafka` of a Kafka that asks who is there.

use crate::support::{create_topic, run, stack, unique};

/// What the ledger says of an empty topic behind the listener with TLS and login.
async fn verify(password: &str) -> (Option<i32>, String) {
    let topic = unique("ledger");
    create_topic(&topic, 1).await;
    let (brokers, username) = (stack("KAFKA_SASL_TLS_BROKERS"), stack("KAFKA_USERNAME"));
    let certificate = stack("KAFKA_CERT_FILE");
    let verified = run(&[
        "verify-kafka",
        "--brokers",
        &brokers,
        "--security-protocol",
        "SASL_SSL",
        "--sasl-mechanism",
        "SCRAM-SHA-512",
        "--username",
        &username,
        "--password",
        password,
        "--ca-file",
        &certificate,
        "--topic",
        &topic,
        "--run",
        "nothing",
        "--messages",
        "1",
        "--timeout",
        "3s",
    ])
    .await;
    (verified.code, format!("{verified:?}"))
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn a_login_reads_and_a_wrong_one_does_not() {
    let (code, said) = verify(&stack("KAFKA_PASSWORD")).await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("0 of 1 messages arrived"), "{said}");
    let (code, said) = verify("wrong").await;
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("connecting to Kafka"), "{said}");
}

#[tokio::test]
#[ignore = "needs the stack"]
async fn settings_that_contradict_each_other_are_bad_arguments() {
    let refused = run(&["verify-kafka", "--run", "x", "--username", "me"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(format!("{refused:?}").contains("kafka.security.username: has no effect"));
}
