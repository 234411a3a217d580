//! What is in a scope.

use std::collections::BTreeSet;
use std::sync::Arc;

use iot_auth::{Names, Scope};
use iot_fold::{DeviceKey, Place};
use sha1::{Digest, Sha1};

/// Whether a device at that place is in the scope.
pub(crate) fn contains(scope: &Scope, key: &DeviceKey, place: Option<&Place>) -> bool {
    scope.tenants.contains(&key.tenant)
        && scope.projects.contains(&key.project)
        && match &scope.places {
            Names::All => true,
            Names::Only(places) => {
                place.is_some_and(|place| places.iter().any(|name| is_in(place, name)))
            }
        }
}

/// Whether anything in a building can be in the scope.
pub(crate) fn has_building(scope: &Scope, building: &str) -> bool {
    buildings(scope).is_none_or(|all| all.contains(building))
}

/// The buildings of which something is in the scope; `None` for all.
pub(crate) fn buildings(scope: &Scope) -> Option<BTreeSet<&str>> {
    match &scope.places {
        Names::All => None,
        Names::Only(places) => Some(places.iter().map(|name| parts(name).0).collect()),
    }
}

/// What positions belong to for those with this scope. Positions of another scope are not
/// continued: a client whose scope has changed gets a snapshot. `log` is what positions of
/// unrestricted clients belong to.
pub(crate) fn epoch(log: &Arc<str>, scope: Option<&Scope>) -> Arc<str> {
    let Some(scope) = scope else {
        return log.clone();
    };
    let mut digest = Sha1::new();
    for names in [&scope.tenants, &scope.projects, &scope.places] {
        match names {
            Names::All => digest.update([0]),
            Names::Only(names) => {
                digest.update([1]);
                digest.update(names.len().to_be_bytes());
                for name in names {
                    digest.update(name.len().to_be_bytes());
                    digest.update(&**name);
                }
            }
        }
    }
    let digest = digest.finalize();
    let short: String = digest[..6]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("{log}/{short}").into()
}

/// Building, floor and room that a name has. A building or floor with a slash in its name has no
/// name in a scope, so that no device gets into a scope by what it calls its building.
fn parts(name: &str) -> (&str, Option<&str>, Option<&str>) {
    let mut parts = name.splitn(3, '/');
    (parts.next().unwrap_or_default(), parts.next(), parts.next())
}

fn is_in(place: &Place, name: &str) -> bool {
    let (building, floor, room) = parts(name);
    *place.building == *building
        && floor.is_none_or(|floor| *place.floor == *floor)
        && room.is_none_or(|room| *place.room == *room)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{key, only};

    fn place(building: &str, floor: &str, room: &str) -> Place {
        Place {
            building: building.into(),
            floor: floor.into(),
            room: room.into(),
        }
    }

    fn places(names: &[&str]) -> Scope {
        Scope {
            places: only(names),
            ..Scope::ALL
        }
    }

    #[test]
    fn a_place_contains_what_is_inside_of_it() {
        let sees = |name: &str, place: &Place| contains(&places(&[name]), &key("d1"), Some(place));
        let there = place("b1", "2", "Küche");
        for name in ["b1", "b1/2", "b1/2/Küche"] {
            assert!(sees(name, &there), "{name}");
        }
        for name in ["b", "b2", "b1/", "b1/3", "b1/2/", "b1/2/K", "2", ""] {
            assert!(!sees(name, &there), "{name}");
        }
        // Rooms may have slashes; buildings that imitate a floor of another one are not that.
        assert!(sees("b1/2/a/b", &place("b1", "2", "a/b")));
        assert!(!sees("b1/2", &place("b1/2", "", "")));
    }

    #[test]
    fn devices_without_a_place_are_for_those_who_see_all_places() {
        assert!(contains(&Scope::ALL, &key("d1"), None));
        assert!(!contains(&places(&["b1", ""]), &key("d1"), None));
    }

    #[test]
    fn tenant_project_and_place_all_have_to_match() {
        let scope = |tenant: &str, project: &str, place: &str| Scope {
            tenants: only(&[tenant]),
            projects: only(&[project]),
            places: only(&[place]),
        };
        let there = place("b1", "2", "Küche");
        let sees = |scope: &Scope| contains(scope, &key("d1"), Some(&there));
        assert!(sees(&scope("acme", "office", "b1")));
        assert!(!sees(&scope("globex", "office", "b1")));
        assert!(!sees(&scope("acme", "plant", "b1")));
        assert!(!sees(&scope("acme", "office", "b2")));
        let nothing = Scope {
            tenants: only(&[]),
            ..Scope::ALL
        };
        assert!(!sees(&nothing));
    }

    #[test]
    fn positions_of_different_scopes_differ() {
        let log: Arc<str> = "k3".into();
        assert_eq!(epoch(&log, None), log);
        let of = |scope: Scope| epoch(&log, Some(&scope));
        let tenants = |names: &[&str]| Scope {
            tenants: only(names),
            ..Scope::ALL
        };
        assert_eq!(of(tenants(&["a", "b"])), of(tenants(&["b", "a"])));
        let all = [
            of(tenants(&[])),
            of(tenants(&["a"])),
            of(tenants(&["a", "b"])),
            of(tenants(&["ab"])),
            of(places(&["a"])),
        ];
        let different: BTreeSet<_> = all.iter().collect();
        assert_eq!(different.len(), all.len());
    }
}
