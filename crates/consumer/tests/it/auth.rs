//! The command line of authentication; `iot-live` tests what clients get.

use std::fs;

use crate::process::consumer;

const EVERYWHERE: (&str, &str) = ("http.listen", "0.0.0.0:8080");

#[tokio::test]
async fn a_new_token_goes_into_a_file_that_the_check_accepts() {
    let new = [
        "token",
        "new",
        "--name",
        "grafana",
        "--tenant",
        "acme",
        "--expires",
        "90d",
    ];
    let made = consumer(&new).run().await;
    assert_eq!(made.code, Some(0), "{}", made.stderr);
    let token = made.stdout.trim();
    assert!(
        token.starts_with("iot_"),
        "only the token is on standard output"
    );
    let (_, entry) = made.stderr.split_once('\n').unwrap();
    assert!(!entry.contains(token), "the entry has its hash only");

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tokens.yaml");
    let check = || {
        consumer(&["check-config"])
            .settings(&[EVERYWHERE, ("auth.mode", "tokens_file")])
            .set("auth.tokens_file", path.display())
            .run()
    };
    fs::write(&path, format!("tokens:\n{entry}")).unwrap();
    let checked = check().await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    fs::write(&path, format!("tokens:\n{entry}{entry}")).unwrap();
    let checked = check().await;
    assert_eq!(checked.code, Some(2));
    assert!(
        checked.stderr.contains("that of another entry"),
        "{}",
        checked.stderr
    );
}

#[tokio::test]
async fn it_does_not_start_where_others_reach_it_without_a_decision() {
    for command in ["run", "check-config"] {
        let refused = consumer(&[command]).settings(&[EVERYWHERE]).run().await;
        assert_eq!(refused.code, Some(2), "{command}");
        let expected = "0.0.0.0:8080 can be reached by others: set auth.mode";
        assert!(refused.stderr.contains(expected), "{}", refused.stderr);
    }
    let settings = [EVERYWHERE, ("auth", "none")];
    let checked = consumer(&["check-config"]).settings(&settings).run().await;
    assert_eq!(checked.code, Some(0), "{}", checked.stderr);
    assert!(
        checked.stderr.starts_with("warning: auth.mode"),
        "{}",
        checked.stderr
    );
}
