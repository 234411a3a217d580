use super::*;
use proptest::prelude::*;

const GIVEN: &str = "mtic/msg/client/realtime/tenant123/project456";

fn topic(names: &str) -> String {
    format!("mtic/msg/client/realtime/{names}")
}

fn reason(names: &str) -> &'static str {
    RouteRules::default()
        .route(&topic(names))
        .expect_err(names)
        .reason()
}

#[test]
fn routes_by_tenant_and_project() {
    let route = RouteRules::default().route(GIVEN).unwrap();
    assert_eq!(
        route,
        Route {
            topic: "tenant123.project456".into(),
            tenant: "tenant123".into(),
            project: "project456".into(),
            key: Some("project456".into()),
        }
    );
}

#[test]
fn parts_after_the_project_are_ignored() {
    let route = RouteRules::default()
        .route(&format!("{GIVEN}/a/b"))
        .unwrap();
    assert_eq!(route.topic, "tenant123.project456");
}

#[test]
fn empty_parts_are_counted() {
    assert_eq!(reason("/project"), "invalid_tenant");
    let error = RouteRules::default()
        .route("/a/b/c/d")
        .expect_err("five parts");
    assert_eq!(
        error,
        RouteError::TooFewParts {
            found: 5,
            needed: 6
        }
    );
    assert!(RouteRules::default().route("/a/b/c/d/e").is_ok());
}

#[test]
fn positions_can_be_changed() {
    let rules = RouteRules {
        tenant_part: 1,
        project_part: 0,
        ..RouteRules::default()
    };
    assert_eq!(rules.route("plant/acme").unwrap().topic, "acme.plant");
}

#[test]
fn keys_can_be_changed() {
    for (key, expected) in [
        (RouteKey::Project, Some("project456")),
        (RouteKey::MqttTopic, Some(GIVEN)),
        (RouteKey::None, None),
    ] {
        let rules = RouteRules {
            key,
            ..RouteRules::default()
        };
        assert_eq!(rules.route(GIVEN).unwrap().key.as_deref(), expected);
    }
}

#[test]
fn too_few_parts_are_refused() {
    assert_eq!(reason("tenant123"), "too_few_parts");
    let empty = RouteRules::default().route("").expect_err("empty");
    assert_eq!(empty.reason(), "too_few_parts");
}

#[test]
fn names_are_letters_digits_dash_and_underscore() {
    for bad in ["", "a.b", "a b", "ä", "a\u{0}", "a+", "$a", "a:b", "."] {
        assert_eq!(reason(&format!("{bad}/p")), "invalid_tenant", "{bad:?}");
        assert_eq!(reason(&format!("t/{bad}")), "invalid_project", "{bad:?}");
    }
    assert!(RouteRules::default().route(&topic("aZ_0-9/-_")).is_ok());
}

#[test]
fn a_topic_has_at_most_249_bytes() {
    let longest = format!("t/{}", "p".repeat(247));
    let route = RouteRules::default().route(&topic(&longest)).unwrap();
    assert_eq!(route.topic.len(), MAX_TOPIC_LENGTH);
    assert_eq!(reason(&format!("{longest}p")), "topic_too_long");
}

#[test]
fn reserved_topics_are_refused() {
    assert_eq!(reason("iot/dead-letter"), "reserved_topic");
    assert_eq!(reason("__consumer/offsets"), "reserved_topic");
    let fixed = RouteRules {
        topic: "{tenant}-{project}".into(),
        ..RouteRules::default()
    };
    for names in ["device/aggregates", "alert/events"] {
        let error = fixed.route(&topic(names)).expect_err(names);
        assert_eq!(error.reason(), "reserved_topic");
    }
}

#[test]
fn names_similar_to_reserved_topics_are_allowed() {
    for names in ["iot2/x", "_x/y", "device-aggregates/x", "IOT/x"] {
        assert!(
            RouteRules::default().route(&topic(names)).is_ok(),
            "{names}"
        );
    }
}

#[test]
fn topics_that_differ_in_dot_and_underscore_collide() {
    assert_eq!(collision_key("a_b.c"), collision_key("a.b_c"));
    assert_ne!(collision_key("a-b.c"), collision_key("a.b-c"));
}

#[test]
fn errors_truncate_long_names() {
    let error = RouteRules::default()
        .route(&topic(&format!("{}/p", "ü".repeat(10_000))))
        .expect_err("not ASCII");
    assert!(error.to_string().len() < 300);
}

#[test]
fn valid_rules_have_no_problems() {
    let templates = [
        "{tenant}.{project}",
        "in.{project}.of.{tenant}",
        "all",
        "{tenant}",
    ];
    for template in templates {
        let rules = RouteRules {
            topic: template.into(),
            ..RouteRules::default()
        };
        assert_eq!(rules.validate(), [], "{template}");
    }
}

#[test]
fn all_problems_are_reported_with_their_field() {
    let rules = RouteRules {
        tenant_part: 70_000,
        project_part: 70_000,
        topic: "{tenant}/{project}".into(),
        key: RouteKey::None,
        empty: EmptyPayload::Tombstone,
    };
    let fields: Vec<_> = rules
        .validate()
        .into_iter()
        .map(|(field, _)| field)
        .collect();
    assert_eq!(
        fields,
        [
            "tenant_part",
            "project_part",
            "project_part",
            "topic",
            "empty"
        ]
    );
}

#[test]
fn ambiguous_and_invalid_templates_are_problems() {
    let long = format!("{{tenant}}.{}", "x".repeat(248));
    for template in [
        "",
        ".",
        "..",
        "{tenant}{project}",
        "{tenant}-{project}",
        "{tenant}.{tenant}",
        "{tenant}.{device}",
        "{tenant}.{project",
        "a b",
        "iot.{tenant}.{project}",
        "__{tenant}",
        "alert-events",
        &long,
    ] {
        assert!(check_template(template).is_err(), "{template:?}");
    }
}

#[test]
fn topics_outside_the_template_have_no_names() {
    let rules = RouteRules::default();
    for other in [
        "plain",
        "a.b.c",
        ".b",
        "a.",
        "iot.dead-letter",
        "__x.y",
        "a b.c",
    ] {
        assert_eq!(rules.names_in(other), None, "{other}");
    }
}

#[test]
fn every_reason_is_listed() {
    for names in [
        "t",
        ".t/p",
        "t/.p",
        "iot/x",
        &format!("t/{}", "p".repeat(250)),
    ] {
        assert!(RouteError::REASONS.contains(&reason(names)));
    }
}

proptest! {
    #[test]
    fn any_mqtt_topic_gives_a_valid_kafka_topic_or_an_error(mqtt in ".{0,300}", names in "[a-z./_-]{0,20}") {
        for candidate in [mqtt, topic(&names)] {
            if let Ok(route) = RouteRules::default().route(&candidate) {
                prop_assert!(check_topic(&route.topic).is_ok());
                prop_assert!(is_name(&route.tenant) && is_name(&route.project));
            }
        }
    }

    #[test]
    fn names_are_recovered_from_the_kafka_topic(
        tenant in "[a-z_-]{1,4}", project in "[a-z_-]{1,4}", template in 0..5usize,
    ) {
        let template = ["{tenant}.{project}", "in.{project}-.-{tenant}.x", "all", "{tenant}", "p-{project}"][template];
        let rules = RouteRules { topic: template.into(), ..RouteRules::default() };
        // Some names give a reserved topic.
        if let Ok(route) = rules.route(&topic(&format!("{tenant}/{project}"))) {
            let expected = (
                template.contains(TENANT).then_some(tenant.as_str()),
                template.contains(PROJECT).then_some(project.as_str()),
            );
            prop_assert_eq!(rules.names_in(&route.topic), Some(expected));
            prop_assert_eq!(rules.kafka_topic(&tenant, &project), Ok(route.topic));
        }
    }

    #[test]
    fn different_pairs_never_share_a_topic(
        a in "[ab_-]{1,4}", b in "[ab_-]{1,4}", c in "[ab_-]{1,4}", d in "[ab_-]{1,4}",
    ) {
        let route = |t: &str, p: &str| RouteRules::default().route(&topic(&format!("{t}/{p}")));
        if let (Ok(one), Ok(other)) = (route(&a, &b), route(&c, &d)) {
            prop_assert_eq!(one.topic == other.topic, (a, b) == (c, d));
        }
    }
}

#[test]
fn an_empty_payload_is_a_tombstone_only_if_asked_for_and_with_a_key() {
    let [empty, tombstone] = [EmptyPayload::Empty, EmptyPayload::Tombstone];
    for (rule, payload, has_key, value) in [
        (empty, &b""[..], true, Some(&b""[..])),
        (tombstone, b"", true, None),
        (tombstone, b"", false, Some(b"")),
        (tombstone, b"0", true, Some(b"0")),
    ] {
        assert_eq!(rule.value(payload, has_key), value, "{rule:?} {payload:?}");
    }
}
