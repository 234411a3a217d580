//! Authentication from the settings to the answers. `iot-live` tests each route and frame, and
//! `iot-auth` each way in which a token can be wrong.

use std::collections::BTreeMap;
use std::fs;

use iot_auth::{AuthConfig, JwtConfig, Mode, ProxyConfig};
use serde_json::Value;
use testkit::wait_for;

use crate::process::consumer;
use crate::service::{Kafka, Service, config, message, now};

/// Of HS256 with [`SECRET`]: `{"sub":"ada","tenants":["acme"],"exp":...}`, valid until 2100 and until
/// 2020.
const VALID: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhZGEiLCJ0ZW5hbnRzIjpbImFjbWUiXSwiZXhwIjo0MTAyNDQ0ODAwfQ.HcRNbs1sxYZbVjE7hmc08cUoaS3QRNGb0_XwtURvTFU";
const EXPIRED: &str = "eyJhbGciOiJIUzI1NiIsInR5cCI6IkpXVCJ9.eyJzdWIiOiJhZGEiLCJ0ZW5hbnRzIjpbImFjbWUiXSwiZXhwIjoxNjAwMDAwMDAwfQ.VIAJXN9GQFQ6RTT333Pl5kY6vpCobA__0wb-GqV9v70";
const SECRET: &str = "only-for-this-test-0123456789abcdef";

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

/// A consumer that shows one device of acme and one of globex.
struct Shown {
    consumer: Service,
    _kafka: Kafka,
}

impl Shown {
    async fn new(auth: AuthConfig) -> Self {
        let kafka = Kafka::new(&["acme.plant", "globex.plant"]);
        for (topic, device) in [("acme.plant", "press"), ("globex.plant", "oven")] {
            kafka
                .send(topic, message(device, now(), "temperature", 21.0))
                .await;
        }
        let mut config = config(&kafka.brokers());
        config.auth = auth;
        let consumer = Service::start(config).await;
        consumer.wait_consumed(2).await;
        Self {
            consumer,
            _kafka: kafka,
        }
    }

    /// Status, and the devices that a request with these headers gets.
    async fn devices(&self, headers: &[(&str, &str)]) -> (u16, Vec<String>) {
        let url = format!("http://{}/api/v1/devices", self.consumer.http);
        let mut request = reqwest::Client::new().get(url);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let answer = request.send().await.unwrap();
        let (status, body) = (answer.status().as_u16(), answer.text().await.unwrap());
        let body: Value = serde_json::from_str(&body).unwrap_or_default();
        let devices = body["devices"].as_array().into_iter().flatten();
        let ids = devices.map(|device| device["device"].as_str().unwrap().to_owned());
        (status, ids.collect())
    }

    /// Waits until a request with these headers gets exactly these devices.
    async fn wait_devices(&self, headers: &[(&str, &str)], expected: &[&str]) {
        wait_for("the devices", async || match self.devices(headers).await {
            (200, devices) if devices == expected => Ok(()),
            other => Err(other),
        })
        .await;
    }

    async fn refusals(&self, reason: &str) -> Option<f64> {
        let name = format!("iot_auth_refusals_total{{reason=\"{reason}\"}}");
        self.consumer.metric(&name).await
    }
}

#[tokio::test]
async fn a_json_web_token_shows_its_tenants() {
    let shown = Shown::new(AuthConfig {
        mode: Mode::Jwt,
        jwt: JwtConfig {
            secret: SECRET.into(),
            ..JwtConfig::default()
        },
        ..AuthConfig::default()
    })
    .await;
    let bearer = |token: &str| format!("Bearer {token}");
    shown
        .wait_devices(&[("authorization", &bearer(VALID))], &["press"])
        .await;
    let changed = format!("{}A{}", &VALID[..50], &VALID[51..]);
    for refused in [&bearer(EXPIRED), &bearer(&changed), &bearer("x"), VALID] {
        let answer = shown.devices(&[("authorization", refused)]).await;
        assert_eq!(answer, (401, vec![]), "{refused}");
    }
    assert_eq!(shown.devices(&[]).await, (401, vec![]));
    assert_eq!(shown.refusals("expired").await, Some(1.0));
    assert_eq!(shown.refusals("missing").await, Some(1.0));
}

/// What oauth2-proxy sends with `--pass-user-headers`.
#[tokio::test]
async fn a_trusted_proxy_says_who_asks() {
    let auth = |trusted: &str| AuthConfig {
        mode: Mode::Proxy,
        proxy: ProxyConfig {
            trusted: vec![trusted.into()],
            tenants: BTreeMap::from([
                ("acme-staff".into(), vec!["acme".into()]),
                ("support".into(), vec!["*".into()]),
            ]),
            ..ProxyConfig::default()
        },
        ..AuthConfig::default()
    };
    let user = ("x-forwarded-user", "ada");
    let shown = Shown::new(auth("127.0.0.0/8")).await;
    shown
        .wait_devices(
            &[user, ("x-forwarded-groups", "support")],
            &["press", "oven"],
        )
        .await;
    shown
        .wait_devices(&[user, ("x-forwarded-groups", "x,acme-staff")], &["press"])
        .await;
    shown.wait_devices(&[user], &[]).await;
    let groups = ("x-forwarded-groups", "support");
    assert_eq!(shown.devices(&[groups]).await, (401, vec![]), "no user");

    let shown = Shown::new(auth("192.0.2.1")).await;
    assert_eq!(shown.devices(&[user, groups]).await, (401, vec![]));
    assert_eq!(shown.refusals("untrusted").await, Some(1.0));
}

#[tokio::test]
async fn without_auth_a_name_that_was_made_to_point_here_is_refused() {
    let shown = Shown::new(AuthConfig::default()).await;
    shown.wait_devices(&[], &["press", "oven"]).await;
    let rebound = shown.devices(&[("host", "evil.example")]).await;
    assert_eq!(rebound, (421, vec![]));
}
