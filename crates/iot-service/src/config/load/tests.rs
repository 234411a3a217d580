use serde::{Deserialize, Serialize};

use super::super::*;
use super::*;

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Example {
    kafka: Kafka,
    log: LogConfig,
    ops: Ops,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Kafka {
    brokers: Vec<String>,
    linger: HumanDuration,
    partitions: u16,
    idempotent: bool,
    password: Secret,
    username: String,
    properties: std::collections::BTreeMap<String, String>,
    /// Without an example of its items.
    rules: Vec<Rule>,
    tenants: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Rule {
    name: String,
    #[serde(default)]
    limit: f64,
}

impl Default for Kafka {
    fn default() -> Self {
        Self {
            brokers: vec!["localhost:9092".into()],
            linger: HumanDuration::from_millis(10),
            partitions: 10,
            idempotent: true,
            password: Secret::default(),
            username: String::new(),
            properties: Default::default(),
            rules: Vec::new(),
            tenants: Vec::new(),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
struct Ops(OpsConfig);

impl Default for Ops {
    fn default() -> Self {
        Self(OpsConfig {
            listen: "127.0.0.1:0".into(),
        })
    }
}

impl Settings for Example {
    const SERVICE: &'static str = "example";
    const EXAMPLE: &'static str = "";
    const ENV: &'static [(&'static str, &'static str)] = &[("KAFKA_BROKERS", "kafka.brokers")];
    const LIVE: &'static [&'static str] = &[];
    const ALIASES: Aliases = &[
        ("user", Alias::Of("kafka.username")),
        ("client.user", Alias::Of("kafka.username")),
        ("client.secret", Alias::Made("kafka.password", Clone::clone)),
        ("kafka.hosts", Alias::Of("kafka.brokers")),
        ("client.pool", Alias::Nothing("there is none")),
    ];

    fn validate(&self, problems: &mut Problems) {
        if self.kafka.partitions == 0 {
            problems.add("kafka.partitions", "must be at least 1");
        }
    }

    fn log(&self) -> &LogConfig {
        &self.log
    }

    fn ops(&self) -> &OpsConfig {
        &self.ops.0
    }
}

fn sources(
    yaml: &str,
    env: &[(&str, &str)],
    flags: &[(&str, &str)],
) -> (Sources, tempfile::NamedTempFile) {
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), yaml).unwrap();
    let own = |pairs: &[(&str, &str)]| {
        let pairs = pairs.iter();
        pairs.map(|(k, v)| (k.to_string(), v.to_string())).collect()
    };
    let sources = Sources {
        file: Some(file.path().into()),
        env: own(env),
        flags: own(flags),
    };
    (sources, file)
}

fn read(yaml: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Example, String> {
    let (sources, _file) = sources(yaml, env, flags);
    load(&sources).map_err(|problems| problems.to_string())
}

#[test]
fn later_layers_win() {
    let yaml = "kafka:\n  linger: 20ms\n  partitions: 3\n  brokers: [file:1]\n";
    let known = [
        ("KAFKA_BROKERS", "a:1, b:2"),
        ("IOT_KAFKA__PARTITIONS", "4"),
    ];
    let config = read(yaml, &known, &[("kafka.partitions", "5")]).unwrap();
    assert_eq!(config.kafka.linger, HumanDuration::from_millis(20));
    assert_eq!(config.kafka.brokers, ["a:1", "b:2"]);
    assert_eq!(config.kafka.partitions, 5);
    let named = [("IOT_KAFKA__BROKERS", "c:3"), ("KAFKA_BROKERS", "a:1")];
    assert_eq!(read("", &named, &[]).unwrap().kafka.brokers, ["c:3"]);
}

#[test]
fn empty_sections_and_variables_keep_the_default() {
    let config = read("kafka:\n  # linger: 20ms\n", &[("KAFKA_BROKERS", "")], &[]);
    assert_eq!(config, Ok(Example::default()));
}

#[test]
fn every_problem_is_reported_with_its_path_and_origin() {
    let yaml = "kafka:\n  linger: soon\n  lingr: 1s\n  rules: 7\nweather: fine\n";
    let env = [
        ("IOT_KAFKA__IDEMPOTENT", "maybe"),
        ("IOT_KAFKA__PARTITONS", "3"),
    ];
    let problems = read(yaml, &env, &[("kafka.partitions", "0")]).unwrap_err();
    for expected in [
        "kafka.linger: \"soon\" is not a duration",
        "kafka.lingr: unknown setting, did you mean \"linger\"?",
        "kafka.rules: invalid type: integer `7`, expected a sequence",
        "weather: unknown setting, known here: kafka, log, ops",
        "kafka.idempotent (IOT_KAFKA__IDEMPOTENT): invalid type: string \"maybe\"",
        "kafka.partitons (IOT_KAFKA__PARTITONS): unknown setting, did you mean \"partitions\"?",
        "kafka.partitions (command line): must be at least 1",
    ] {
        assert!(
            problems.contains(expected),
            "{expected} is not in:\n{problems}"
        );
    }
    assert_eq!(problems.lines().count(), 7, "{problems}");
}

#[test]
fn a_missing_or_malformed_file_is_reported() {
    let missing = Sources {
        file: Some("/nowhere/x.yaml".into()),
        ..Sources::default()
    };
    let problems = load::<Example>(&missing).unwrap_err().to_string();
    assert!(
        problems.starts_with("/nowhere/x.yaml: can't be read"),
        "{problems}"
    );
    let problems = read("kafka: [1", &[], &[]).unwrap_err();
    assert!(problems.contains("/"), "{problems}");
}

#[test]
fn keys_of_a_free_form_map_keep_their_dots() {
    let yaml = "kafka:\n  properties:\n    queue.buffering.max.ms: 5\n";
    let flags = [("kafka.properties.fetch.wait.max.ms", "10")];
    let properties = read(yaml, &[], &flags).unwrap().kafka.properties;
    assert_eq!(properties["queue.buffering.max.ms"], "5");
    assert_eq!(properties["fetch.wait.max.ms"], "10");
}

#[test]
fn service_variables_of_kubernetes_are_ignored() {
    let links = [
        ("IOT_BRIDGE_SERVICE_HOST", "10.0.0.1"),
        ("IOT_KAFKA", "tcp://10.0.0.1:80"),
        ("IOT_CONSUMER_PORT_9090_TCP", "tcp://10.0.0.1:9090"),
    ];
    assert_eq!(read("", &links, &[]), Ok(Example::default()));
}

#[test]
fn secret_properties_of_a_client_are_redacted() {
    let flags = [("kafka.properties.sasl.password", "hunter2")];
    let yaml = to_yaml(&read("", &[], &flags).unwrap());
    assert!(yaml.contains("sasl.password: \"[redacted]\""), "{yaml}");
}

#[test]
fn the_effective_config_reads_back_without_secrets() {
    let config = read(
        "",
        &[],
        &[("kafka.password", "hunter2"), ("kafka.linger", "1s")],
    )
    .unwrap();
    assert_eq!(config.kafka.password.expose(), "hunter2");
    let yaml = to_yaml(&config);
    assert!(!yaml.contains("hunter2"), "{yaml}");
    let again = read(&yaml, &[], &[]).unwrap();
    assert_eq!(again.kafka.linger, HumanDuration::from_secs(1));
}

#[test]
fn numbers_stay_as_written_where_text_is_wanted() {
    for text in [
        "0049170", "1e5", "3.10", "0x1F", "+49", "1_0", "true", "True", "1e999", ".5",
    ] {
        let yaml = format!(
            "kafka:\n  username: {text}\n  password: {text}\n  brokers: [{text}]\n  \
             properties: {{client.id: {text}}}\n"
        );
        let kafka = read(&yaml, &[], &[]).unwrap().kafka;
        assert_eq!((&*kafka.username, kafka.password.expose()), (text, text));
        assert_eq!(
            (&*kafka.brokers, &*kafka.properties["client.id"]),
            (&[text.to_owned()][..], text)
        );
        // Under other names, and from variables and flags.
        let yaml =
            format!("user: {text}\nclient: {{secret: {text}}}\nkafka: {{hosts: [{text}]}}\n");
        let kafka = read(&yaml, &[], &[]).unwrap().kafka;
        assert_eq!((&*kafka.username, kafka.password.expose()), (text, text));
        assert_eq!(kafka.brokers, [text]);
        let kafka = read(
            "",
            &[("IOT_KAFKA__USERNAME", text)],
            &[("kafka.brokers", text)],
        );
        let kafka = kafka.unwrap().kafka;
        assert_eq!(
            (&*kafka.username, &*kafka.brokers),
            (text, &[text.to_owned()][..])
        );
        // In a list without an example of its items.
        let found = read(&format!("kafka: {{rules: [{{name: {text}}}]}}\n"), &[], &[]);
        match found {
            Ok(example) => assert_eq!(example.kafka.rules[0].name, text),
            Err(problems) => assert!(problems.starts_with("kafka.rules[0].name: "), "{problems}"),
        }
    }
    for nothing in ["", "~", "null"] {
        let problems = read(&format!("kafka: {{username: {nothing}}}\n"), &[], &[]).unwrap_err();
        assert!(
            problems.starts_with("kafka.username: invalid type: null"),
            "{problems}"
        );
    }
}

#[test]
fn a_list_may_be_one_text_that_looks_like_a_number() {
    for yaml in ["kafka: {brokers: 0049}\n", "kafka: {hosts: 0049}\n"] {
        assert_eq!(read(yaml, &[], &[]).unwrap().kafka.brokers, ["0049"]);
    }
}

#[test]
fn numbers_where_it_is_not_known_that_texts_are_wanted_must_have_quotes() {
    for number in ["0049", "1.5", "true"] {
        let read = |text: String| read(&format!("kafka: {{tenants: [{text}]}}\n"), &[], &[]);
        let problems = read(number.into()).unwrap_err();
        assert!(
            problems.starts_with("kafka.tenants[0]: invalid type: ")
                && problems.ends_with("expected a string: put it in quotes"),
            "{problems}"
        );
        let tenants = read(format!("'{number}'")).unwrap().kafka.tenants;
        assert_eq!(tenants, [number]);
    }
}

#[test]
fn lists_in_variables_may_be_json() {
    let brokers = |text: &str| {
        let read = read("", &[("KAFKA_BROKERS", text)], &[])?;
        Ok::<_, String>(read.kafka.brokers)
    };
    for (text, expected) in [
        (r#"["a:1","b:2"]"#, &["a:1", "b:2"][..]),
        (r#" [ "a:1" , "b, c" ] "#, &["a:1", "b, c"]),
        ("[a, 3.10]", &["a", "3.10"]),
        ("[]", &[]),
        ("a:1, b:2,", &["a:1", "b:2"]),
        ("[::1]:9092,[::2]:9092", &["[::1]:9092", "[::2]:9092"]),
    ] {
        assert_eq!(brokers(text).unwrap(), expected, "{text}");
    }
    let problems = brokers(r#"["a:1","b:2]"#).unwrap_err();
    let expected = "kafka.brokers (KAFKA_BROKERS): is not a list such as";
    assert!(problems.starts_with(expected), "{problems}");
    let problems = brokers(r#"[{"a":1}]"#).unwrap_err();
    assert!(problems.starts_with("kafka.brokers[0]"), "{problems}");
    let rules = [("IOT_KAFKA__RULES", r#"[{"name": "x", "limit": 3}]"#)];
    let rules = read("", &rules, &[]).unwrap().kafka.rules;
    assert_eq!((&*rules[0].name, rules[0].limit), ("x", 3.0));
}

#[test]
fn aliases_at_the_root_and_misspelt_ones_are_recognised() {
    let user = |read: Result<Example, String>| read.map(|example| example.kafka.username);
    assert_eq!(user(read("user: me\n", &[], &[])), Ok("me".into()));
    assert_eq!(user(read("", &[("IOT_USER", "me")], &[])), Ok("me".into()));
    assert_eq!(user(read("", &[], &[("user", "me")])), Ok("me".into()));
    for (yaml, expected) in [
        ("usr: me\n", "usr: unknown setting, did you mean \"user\"?"),
        (
            "clinet: {user: me}\n",
            "clinet: unknown setting, did you mean \"client\"?",
        ),
        (
            "kafka: {host: [a]}\n",
            "kafka.host: unknown setting, did you mean \"hosts\"?",
        ),
        (
            "client: {usr: me}\n",
            "client.usr: unknown setting, known here: user, secret, pool; did you mean \"user\"?",
        ),
        (
            "user: a\nclient: {user: b}\n",
            "client.user: is another name of kafka.username, and both are given different values",
        ),
    ] {
        let problems = read(yaml, &[], &[]).unwrap_err();
        assert!(
            problems.contains(expected),
            "{expected} is not in:\n{problems}"
        );
    }
}
