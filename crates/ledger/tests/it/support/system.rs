//! The services as processes of a test's own: with a tenant, client id, group and ports
//! that no other test has.

use serde_json::Value;
use testkit::http::{self, Ops};
use testkit::port::free_address;
use testkit::process::{Process, Program, binary};
use testkit::stack::{kafka_brokers, mqtt_url, unique};
use testkit::wait_for;

/// One test's way through the system.
pub(crate) struct Way {
    pub(crate) tenant: String,
    pub(crate) project: String,
    pub(crate) mqtt_url: String,
    pub(crate) kafka_brokers: String,
    /// Further settings of the bridge and the simulator; they come last.
    pub(crate) settings: Vec<(&'static str, String)>,
}

/// A service, and where it answers.
pub(crate) struct Service {
    pub(crate) process: Process,
    ops: Ops,
    pub(crate) http: String,
}

impl Way {
    /// Over the stack's own brokers.
    pub(crate) fn new(test: &str) -> Self {
        Self {
            tenant: unique(test),
            project: "project".to_owned(),
            mqtt_url: mqtt_url(),
            kafka_brokers: kafka_brokers(),
            settings: Vec::new(),
        }
    }

    pub(crate) fn mqtt_topic(&self) -> String {
        format!("mtic/msg/client/realtime/{}/{}", self.tenant, self.project)
    }

    /// Where the bridge puts what was published to [`Self::mqtt_topic`].
    pub(crate) fn kafka_topic(&self) -> String {
        format!("{}.{}", self.tenant, self.project)
    }

    /// Always the same session: started again, it carries on.
    pub(crate) fn bridge(&self) -> Service {
        self.bridge_as(&self.tenant, "run")
    }

    /// A bridge whose session has this name: `run` it, or `drain` that session.
    pub(crate) fn bridge_as(&self, client_id: &str, command: &str) -> Service {
        let filter = format!("mtic/msg/client/realtime/{}/#", self.tenant);
        let settings = self.with_further(&[
            ("mqtt.brokers", &*self.mqtt_url),
            ("kafka.brokers", &self.kafka_brokers),
            ("mqtt.client_id", client_id),
            ("mqtt.filters", &filter),
        ]);
        Service::start("iot-bridge", &[command], &settings)
    }

    pub(crate) fn consumer(&self, topic: &str) -> Service {
        self.consumer_with(topic, &[])
    }

    pub(crate) fn consumer_with(&self, topic: &str, further: &[(&str, &str)]) -> Service {
        self.consumer_from(&[], topic, further)
    }

    /// With these arguments too.
    pub(crate) fn consumer_from(
        &self,
        args: &[&str],
        topic: &str,
        further: &[(&str, &str)],
    ) -> Service {
        let http = free_address().to_string();
        let settings = [
            ("kafka.brokers", &*self.kafka_brokers),
            ("kafka.topics", topic),
            ("kafka.group", &self.tenant),
            ("http.listen", &http),
        ];
        let settings = [&settings, further].concat();
        let args = [&["run"], args].concat();
        let mut consumer = Service::start("iot-consumer", &args, &settings);
        consumer.http = http;
        consumer
    }

    /// To Kafka, or to MQTT under this way's tenant and project.
    pub(crate) fn simulator(&self, sink: &str, topic: &str, args: &[&str]) -> Service {
        let settings = self.with_further(&[
            ("mqtt.brokers", &*self.mqtt_url),
            ("kafka.brokers", &self.kafka_brokers),
            ("kafka.topic", topic),
            ("kafka.partitions", "4"),
            ("fleet.tenants", &self.tenant),
            ("fleet.projects", &self.project),
            // Other simulators have the port of the API.
            ("http.listen", ""),
        ]);
        Service::start(
            "iot-simulator",
            &[&["run", "--sink", sink], args].concat(),
            &settings,
        )
    }

    fn with_further<'a>(&'a self, settings: &[(&'a str, &'a str)]) -> Vec<(&'a str, &'a str)> {
        let further = self.settings.iter().map(|(key, value)| (*key, &**value));
        settings.iter().copied().chain(further).collect()
    }
}

impl Service {
    fn start(name: &str, args: &[&str], settings: &[(&str, &str)]) -> Self {
        let ops = Ops(free_address());
        let program = Program::new(binary(name)).args(args).settings(settings);
        Self {
            process: program.set("ops.listen", ops.0).start(),
            ops,
            http: String::new(),
        }
    }

    pub(crate) async fn ready(&mut self) {
        self.process.while_running(self.ops.wait_ready()).await;
    }

    /// Waits until it says that it is not ready because of each of `components`.
    pub(crate) async fn not_ready_for(&mut self, components: &[&str]) {
        let components: Vec<_> = components.iter().map(|name| (*name, "")).collect();
        self.not_ready_because(&components).await;
    }

    /// Waits until it says that it is not ready because of each of these
    /// components, with a reason in which there is this text.
    pub(crate) async fn not_ready_because(&mut self, components: &[(&str, &str)]) {
        let said = wait_for("the reasons for not being ready", async || {
            let (status, report) = self.ops.readyz().await?;
            let named = components
                .iter()
                .all(|(name, text)| is_not_ready(&report, name, text));
            if status == 503 && named {
                Ok(())
            } else {
                Err(format!("{status} {report}"))
            }
        });
        self.process.while_running(said).await;
    }

    /// Sum of a metric over its labels.
    pub(crate) async fn metric(&self, name: &str) -> Result<f64, String> {
        let value = self.ops.metric(name).await;
        value.ok_or_else(|| format!("there is no metric {name}"))
    }

    /// Waits until the metric grew by `more`.
    pub(crate) async fn metric_grows(&mut self, name: &str, more: f64) {
        let now = self.metric(name).await.unwrap();
        self.metric_reaches(name, now + more).await;
    }

    /// Waits until the metric has reached `least`.
    pub(crate) async fn metric_reaches(&mut self, name: &str, least: f64) {
        let reached = self.ops.wait_metric_at_least(name, least);
        self.process.while_running(reached).await;
    }

    /// A path of the HTTP API, as JSON.
    pub(crate) async fn api(&self, path: &str) -> Result<Value, String> {
        let (status, body) = http::get(&format!("http://{}{path}", self.http)).await?;
        if status != 200 {
            return Err(format!("{status} {body}"));
        }
        serde_json::from_str(&body).map_err(|error| format!("{error}: {body}"))
    }
}

/// Whether the report has a reason for the component that contains this text; that it is
/// starting is no reason.
fn is_not_ready(readiness: &Value, component: &str, text: &str) -> bool {
    let reason = readiness["components"][component]["reason"].as_str();
    reason.is_some_and(|reason| !reason.is_empty() && reason != "starting" && reason.contains(text))
}
