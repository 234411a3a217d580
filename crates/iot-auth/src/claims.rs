//! From what a token, or a proxy, says of a client to what it may see.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::config::{ClaimsConfig, RolesConfig};
use crate::identity::{Names, Role, Scope};
use crate::refusal::{Reason, Refusal};

/// The claims of a token.
pub(crate) type Claims = Map<String, Value>;

/// Stands for all names.
const ALL: &str = "*";

/// The names of a list in which `*` stands for all.
pub(crate) fn names<'n>(given: impl IntoIterator<Item = &'n str>) -> Names {
    let names: BTreeSet<Arc<str>> = given.into_iter().map(Arc::from).collect();
    if names.contains(ALL) {
        return Names::All;
    }
    Names::Only(names)
}

/// The highest of the roles with these names; a viewer's if none of them is known.
pub(crate) fn role<'n>(given: impl Iterator<Item = &'n str> + Clone, roles: &RolesConfig) -> Role {
    let has = |names: &[String]| {
        given
            .clone()
            .any(|role| names.iter().any(|name| name == role))
    };
    if has(&roles.admin) {
        Role::Admin
    } else if has(&roles.operator) {
        Role::Operator
    } else {
        Role::Viewer
    }
}

/// What the bearer may see. Without a claim for tenants that is nothing: a token that knows
/// nothing of this platform opens nothing. Projects and places narrow it down further if given.
pub(crate) fn scope(claims: &Claims, config: &ClaimsConfig) -> Result<Scope, Refusal> {
    let part = |path, absent| {
        let given = list(claims, path)?;
        Ok(given.map_or(absent, names))
    };
    Ok(Scope {
        tenants: part(&config.tenants, Names::Only(BTreeSet::new()))?,
        projects: part(&config.projects, Names::All)?,
        places: part(&config.places, Names::All)?,
    })
}

/// What the bearer may do.
pub(crate) fn role_of(
    claims: &Claims,
    config: &ClaimsConfig,
    roles: &RolesConfig,
) -> Result<Role, Refusal> {
    let given = list(claims, &config.role)?.unwrap_or_default();
    Ok(role(given.iter().copied(), roles))
}

/// The name of the bearer.
pub(crate) fn name(claims: &Claims, config: &ClaimsConfig) -> Result<Arc<str>, Refusal> {
    match find(claims, &config.name) {
        Some(Value::String(name)) if !name.is_empty() => Ok(name.as_str().into()),
        _ => Err(wrong(&config.name, "a text")),
    }
}

/// A claim that is a text or a list of texts; `None` if it is absent.
fn list<'c>(claims: &'c Claims, path: &str) -> Result<Option<Vec<&'c str>>, Refusal> {
    match find(claims, path) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(one)) => Ok(Some(vec![one])),
        Some(Value::Array(items)) => {
            let texts: Option<Vec<_>> = items.iter().map(Value::as_str).collect();
            texts
                .map(Some)
                .ok_or_else(|| wrong(path, "a list of texts"))
        }
        Some(_) => Err(wrong(path, "a text or a list of texts")),
    }
}

/// A claim by its name, or the place within one to which a JSON pointer leads (RFC 6901).
fn find<'c>(claims: &'c Claims, path: &str) -> Option<&'c Value> {
    let Some(pointer) = path.strip_prefix('/') else {
        return claims.get(path);
    };
    let (first, rest) = pointer.split_once('/').unwrap_or((pointer, ""));
    let claim = claims.get(&first.replace("~1", "/").replace("~0", "~"))?;
    if rest.is_empty() {
        return Some(claim);
    }
    claim.pointer(&format!("/{rest}"))
}

fn wrong(claim: &str, expected: &str) -> Refusal {
    let detail = format!("claim {claim} is not {expected}");
    Refusal::new(Reason::Claims, detail)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn claims(value: Value) -> Claims {
        match value {
            Value::Object(claims) => claims,
            other => panic!("{other} is no object"),
        }
    }

    fn only(given: &[&str]) -> Names {
        names(given.iter().copied())
    }

    #[test]
    fn absent_claims_see_nothing() {
        let scope = scope(&claims(json!({})), &ClaimsConfig::default()).unwrap();
        let expected = Scope {
            tenants: only(&[]),
            projects: Names::All,
            places: Names::All,
        };
        assert_eq!(scope, expected);
        let given = claims(json!({"tenants": null}));
        assert_eq!(super::scope(&given, &ClaimsConfig::default()), Ok(expected));
    }

    #[test]
    fn claims_are_texts_or_lists_of_them() {
        let given = claims(json!({"tenants": "acme", "projects": ["a", "b"], "places": []}));
        let scope = scope(&given, &ClaimsConfig::default()).unwrap();
        assert_eq!(scope.tenants, only(&["acme"]));
        assert_eq!(scope.projects, only(&["a", "b"]));
        assert_eq!(scope.places, only(&[]), "an empty list is no wildcard");
    }

    #[test]
    fn a_star_is_everything() {
        for tenants in [json!("*"), json!(["acme", "*"])] {
            let given = claims(json!({ "tenants": tenants }));
            let scope = scope(&given, &ClaimsConfig::default()).unwrap();
            assert_eq!(scope.tenants, Names::All);
        }
    }

    #[test]
    fn claims_of_another_shape_are_refused() {
        for wrong in [
            json!(7),
            json!(true),
            json!({"acme": true}),
            json!(["acme", 7]),
        ] {
            for claim in ["tenants", "projects", "places"] {
                let given = claims(json!({ claim: wrong.clone() }));
                let refusal = scope(&given, &ClaimsConfig::default()).unwrap_err();
                assert_eq!(refusal.reason(), Reason::Claims, "{claim}: {wrong}");
            }
        }
    }

    #[test]
    fn claims_are_found_by_name_or_pointer() {
        let given = claims(json!({
            "https://example.com/tenants": ["acme"],
            "realm_access": {"roles": ["x", "iot-admins"]},
            "a/b": {"c~d": "found"},
        }));
        let config = ClaimsConfig {
            tenants: "https://example.com/tenants".into(),
            role: "/realm_access/roles".into(),
            name: "/a~1b/c~0d".into(),
            ..ClaimsConfig::default()
        };
        let roles = RolesConfig {
            admin: vec!["iot-admins".into()],
            ..RolesConfig::default()
        };
        assert_eq!(scope(&given, &config).unwrap().tenants, only(&["acme"]));
        assert_eq!(role_of(&given, &config, &roles), Ok(Role::Admin));
        assert_eq!(name(&given, &config).as_deref(), Ok("found"));
    }

    #[test]
    fn unknown_roles_are_viewers() {
        let roles = RolesConfig::default();
        let of = |value: Value| {
            let given = claims(json!({ "role": value }));
            role_of(&given, &ClaimsConfig::default(), &roles).unwrap()
        };
        assert_eq!(of(json!("ADMIN")), Role::Viewer);
        assert_eq!(of(json!([])), Role::Viewer);
        assert_eq!(of(json!(["operator", "viewer"])), Role::Operator);
        assert_eq!(of(json!(["operator", "admin"])), Role::Admin);
    }

    #[test]
    fn a_bearer_has_a_name() {
        for given in [json!({}), json!({"sub": ""}), json!({"sub": 7})] {
            let refusal = name(&claims(given), &ClaimsConfig::default()).unwrap_err();
            assert_eq!(refusal.reason(), Reason::Claims);
        }
    }
}
