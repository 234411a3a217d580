//! Tenant and project of a message.

use iot_core::message::quoted;
use iot_core::route::{MAX_TOPIC_LENGTH, is_name};

use crate::refusal::Refusal;

/// Tenant and project of a message without them.
const DEFAULT: &str = "default";

/// Tenant and project in the name of a bridged topic, `<tenant>.<project>`; `None` for any
/// other topic.
pub(crate) fn topic_identity(topic: &str) -> Option<(&str, &str)> {
    let (tenant, project) = topic.split_once('.')?;
    (is_name(tenant) && is_name(project)).then_some((tenant, project))
}

/// Tenant and project of a message whose payload names `tenant` and `project`: those of a bridged
/// topic, which the payload must not contradict; on other topics those of the payload, otherwise
/// `default`.
///
/// # Errors
/// A contradiction, or a name that is too long or not `[a-zA-Z0-9_-]+`.
pub(crate) fn identify<'m>(
    topic_identity: Option<(&'m str, &'m str)>,
    tenant: Option<&'m str>,
    project: Option<&'m str>,
) -> Result<(&'m str, &'m str), Refusal> {
    match topic_identity {
        Some(identity) => {
            for (field, given, expected) in [
                ("tenant", tenant, identity.0),
                ("project", project, identity.1),
            ] {
                if let Some(given) = given
                    && given != expected
                {
                    return Err(Refusal::ContradictsTopic {
                        field,
                        expected: expected.to_owned(),
                        found: quoted(given),
                    });
                }
            }
            Ok(identity)
        }
        None => {
            let names = (tenant.unwrap_or(DEFAULT), project.unwrap_or(DEFAULT));
            for (field, name) in [("tenant", names.0), ("project", names.1)] {
                if !is_valid(name) {
                    let found = quoted(name);
                    return Err(Refusal::InvalidTenantOrProject { field, found });
                }
            }
            Ok(names)
        }
    }
}

/// Whether a tenant or project from a payload is a name of at most [`MAX_TOPIC_LENGTH`] bytes.
fn is_valid(name: &str) -> bool {
    is_name(name) && name.len() <= MAX_TOPIC_LENGTH
}

#[cfg(test)]
mod tests {
    use iot_core::message::parse;

    use super::*;

    fn identified(topic: &str, names: &str) -> Result<(String, String), &'static str> {
        let json = format!(
            r#"{{"device_id":"d"{names},"timestamp":1,"readings":[{{"sensor":"s","value":1}}]}}"#
        );
        let message = parse(json.as_bytes()).unwrap();
        let (tenant, project) = (message.tenant.as_deref(), message.project.as_deref());
        let found = identify(topic_identity(topic), tenant, project);
        let found = found.map_err(|refusal| refusal.reason());
        found.map(|(t, p)| (t.to_owned(), p.to_owned()))
    }

    fn named(tenant: &str, project: &str) -> Result<(String, String), &'static str> {
        Ok((tenant.to_owned(), project.to_owned()))
    }

    #[test]
    fn a_bridged_topic_decides() {
        assert_eq!(identified("acme.plant", ""), named("acme", "plant"));
        let agrees = r#","tenant":"acme","project":"plant""#;
        assert_eq!(identified("acme.plant", agrees), named("acme", "plant"));
        for other in [
            r#","tenant":"evil""#,
            r#","tenant":"acme","project":"other""#,
        ] {
            assert_eq!(identified("acme.plant", other), Err("contradicts_topic"));
        }
    }

    #[test]
    fn a_refusal_names_the_field_and_both_names() {
        let json = r#"{"device_id":"d","project":"other","timestamp":1,
            "readings":[{"sensor":"s","value":1}]}"#;
        let message = parse(json.as_bytes()).unwrap();
        let (tenant, project) = (message.tenant.as_deref(), message.project.as_deref());
        let refusal = identify(topic_identity("acme.plant"), tenant, project).unwrap_err();
        assert_eq!(
            refusal.to_string(),
            r#"project must be plant as in the name of the topic, not "other""#
        );
    }

    #[test]
    fn elsewhere_the_payload_decides() {
        assert_eq!(identified("device-data", ""), named("default", "default"));
        let given = r#","tenant":"acme","project":"plant""#;
        assert_eq!(identified("device-data", given), named("acme", "plant"));
        assert_eq!(
            identified("a.b.c", r#","tenant":"acme""#),
            named("acme", "default")
        );
        let long = |name: &str, length| format!(r#","{name}":"{}""#, "x".repeat(length));
        let longest = long("project", 249);
        assert!(identified("device-data", &longest).is_ok());
        for bad in [
            r#","tenant":"a.b""#,
            r#","project":"""#,
            &long("tenant", 250),
            &long("project", 250),
        ] {
            assert_eq!(
                identified("device-data", bad),
                Err("invalid_tenant_or_project")
            );
        }
    }
}
