use std::sync::Arc;

use super::*;
use crate::channel::{Channel, Kind};
use crate::testing::{identity, only};

fn filter(query: &str) -> Filter {
    Channel::parse(&format!("devices?{query}")).unwrap().filter
}

#[test]
fn those_who_see_everything_get_what_they_ask_for() {
    let all = identity("all", Scope::ALL);
    for query in ["", "tenant=acme&project=p&building=b1", "device=d1"] {
        let asked = filter(query);
        // Unchanged, so that they share channels with each other.
        assert_eq!(decide(&all, asked.clone()), Ok(asked));
    }
}

#[test]
fn what_is_named_has_to_be_in_the_scope() {
    let scope = Scope {
        tenants: only(&["acme", "globex"]),
        projects: only(&["office"]),
        places: only(&["b1/2", "b3"]),
    };
    let viewer = identity("viewer", scope.clone());
    for query in [
        "",
        "tenant=acme",
        "tenant=globex&project=office",
        "building=b1",
        "building=b3&floor=9",
        "device=of-others",
        "floor=7",
    ] {
        let decided = decide(&viewer, filter(query)).unwrap();
        assert_eq!(decided, filter(query).within(&Arc::new(scope.clone())));
    }
    for query in [
        "tenant=initech",
        "tenant=",
        "tenant=Acme",
        "project=plant",
        "tenant=acme&project=plant",
        "building=b2",
        "building=b1%2F2",
        "tenant=initech&project=office&building=b1",
    ] {
        assert_eq!(decide(&viewer, filter(query)), Err(Denied), "{query}");
    }
}

#[test]
fn an_empty_scope_has_nothing() {
    let nothing = Scope {
        tenants: only(&[]),
        ..Scope::ALL
    };
    let nobody = identity("nobody", nothing);
    let decided = decide(&nobody, Filter::default()).unwrap();
    let device = crate::testing::device("d1");
    assert!(!decided.takes_device(&device.key, device.location.as_deref()));
    assert_eq!(decide(&nobody, filter("tenant=acme")), Err(Denied));
}

#[test]
fn statistics_are_decided_on_too() {
    let scope = Scope {
        tenants: only(&["acme"]),
        ..Scope::ALL
    };
    let stats = Channel::parse(Kind::Stats.path()).unwrap().filter;
    let decided = decide(&identity("viewer", scope.clone()), stats).unwrap();
    assert_eq!(decided.scope, Some(Arc::new(scope)));
}
