//! Finds the channels that a change concerns by hashing the values that filters have: as often as
//! there are shapes of filters, however many filters there are.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash, RandomState};

use iot_auth::Names;
use iot_fold::{DeviceKey, Place};

use crate::access::scope;
use crate::channel::Filter;

/// The set fields of a filter, as bits.
type Shape = u8;

const TENANT: Shape = 1;
const PROJECT: Shape = 1 << 1;
const BUILDING: Shape = 1 << 2;
const FLOOR: Shape = 1 << 3;
const ROOM: Shape = 1 << 4;
const DEVICE: Shape = 1 << 5;

/// Names a group of channels that are about the same devices.
pub(super) type GroupId = u32;

/// Groups by the devices that they are about.
#[derive(Debug, Default)]
pub(super) struct Index {
    hasher: RandomState,
    /// Few, in no order.
    shapes: Vec<(Shape, HashMap<u64, Vec<GroupId>>)>,
}

/// The values of the fields of a shape, in their order.
fn values<'v>(
    shape: Shape,
    key: &'v DeviceKey,
    place: Option<&'v Place>,
) -> Option<[Option<&'v str>; 6]> {
    let of_place = |bit: Shape, part: fn(&Place) -> &str| match (shape & bit, place) {
        (0, _) => Some(None),
        (_, None) => None,
        (_, Some(place)) => Some(Some(part(place))),
    };
    let of_key = |bit: Shape, part: &'v str| (shape & bit != 0).then_some(part);
    Some([
        of_key(TENANT, &key.tenant),
        of_key(PROJECT, &key.project),
        of_place(BUILDING, |place| &place.building)?,
        of_place(FLOOR, |place| &place.floor)?,
        of_place(ROOM, |place| &place.room)?,
        of_key(DEVICE, &key.device),
    ])
}

/// The values of the fields of devices that a filter may take, all of one shape. Of a filter with
/// a scope there is one for each tenant or else building in it.
fn wanted(filter: &Filter) -> Vec<[Option<&str>; 6]> {
    let one = [
        filter.tenant.as_deref(),
        filter.project.as_deref(),
        filter.building.as_deref(),
        filter.floor.as_deref(),
        filter.room.as_deref(),
        filter.device.as_deref(),
    ];
    let Some(of) = filter.scope.as_deref() else {
        return vec![one];
    };
    let each = |field: usize, name| {
        let mut wanted = one;
        wanted[field] = Some(name);
        wanted
    };
    if let (None, Names::Only(tenants)) = (&filter.tenant, &of.tenants) {
        tenants.iter().map(|name| each(0, &**name)).collect()
    } else if let (None, Some(buildings)) = (&filter.building, scope::buildings(of)) {
        buildings.into_iter().map(|name| each(2, name)).collect()
    } else {
        vec![one]
    }
}

fn shape(wanted: &[Option<&str>; 6]) -> Shape {
    let bits = wanted.iter().enumerate();
    bits.map(|(bit, value)| Shape::from(value.is_some()) << bit)
        .sum()
}

impl Filter {
    /// The part of it that selects devices.
    pub(super) fn of_devices(&self) -> Self {
        Self {
            sensor: None,
            min_level: None,
            state: None,
            ..self.clone()
        }
    }
}

impl Index {
    fn hash(&self, values: [Option<&str>; 6]) -> u64 {
        self.hasher.hash_one(HashedValues(values))
    }

    pub(super) fn add(&mut self, filter: &Filter, group: GroupId) {
        for wanted in wanted(filter) {
            let (shape, hash) = (shape(&wanted), self.hash(wanted));
            let at = self.shapes.iter().position(|(other, _)| *other == shape);
            let at = at.unwrap_or_else(|| {
                self.shapes.push((shape, HashMap::new()));
                self.shapes.len() - 1
            });
            let same = self.shapes[at].1.entry(hash).or_default();
            if !same.contains(&group) {
                same.push(group);
            }
        }
    }

    pub(super) fn remove(&mut self, filter: &Filter, group: GroupId) {
        for wanted in wanted(filter) {
            let (shape, hash) = (shape(&wanted), self.hash(wanted));
            self.shapes.retain_mut(|(other, groups)| {
                if *other == shape
                    && let Some(same) = groups.get_mut(&hash)
                {
                    same.retain(|other| *other != group);
                    if same.is_empty() {
                        groups.remove(&hash);
                    }
                }
                !groups.is_empty()
            });
        }
    }

    /// Appends the groups that may be about the device. Different values with the same hash are
    /// possible: the caller compares.
    pub(super) fn find(&self, key: &DeviceKey, place: Option<&Place>, found: &mut Vec<GroupId>) {
        for (shape, groups) in &self.shapes {
            if let Some(values) = values(*shape, key, place)
                && let Some(groups) = groups.get(&self.hash(values))
            {
                found.extend(groups);
            }
        }
    }
}

struct HashedValues<'v>([Option<&'v str>; 6]);

impl Hash for HashedValues<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        for value in self.0.into_iter().flatten() {
            value.hash(state);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use iot_auth::Scope;
    use proptest::prelude::*;

    use super::*;
    use crate::testing::only;

    fn scope() -> impl Strategy<Value = Option<Arc<Scope>>> {
        let some = |all: &'static [&'static str]| {
            let some = prop::sample::subsequence(all, 0..=all.len());
            prop_oneof![Just(Names::All), some.prop_map(|names| only(&names))]
        };
        let places = some(&["a", "a/b", "a/b/a", "b", "b/", ""]);
        let scope = (some(&["a", "b"]), some(&["a", ""]), places);
        let scope = scope.prop_map(|(tenants, projects, places)| Scope {
            tenants,
            projects,
            places,
        });
        prop::option::of(scope.prop_map(Arc::new))
    }

    fn filter() -> impl Strategy<Value = Filter> {
        let field = || prop::option::of(prop_oneof![Just("a"), Just("b"), Just("")]);
        (
            field(),
            field(),
            field(),
            field(),
            field(),
            field(),
            scope(),
        )
            .prop_map(
                |(tenant, project, building, floor, room, device, scope)| Filter {
                    tenant: tenant.map(Into::into),
                    project: project.map(Into::into),
                    building: building.map(Into::into),
                    floor: floor.map(Into::into),
                    room: room.map(Into::into),
                    device: device.map(Into::into),
                    scope,
                    ..Filter::default()
                },
            )
    }

    proptest! {
        #[test]
        fn finds_exactly_the_filters_that_take_a_device(
            filters in prop::collection::vec(filter(), 0..30),
            gone in prop::collection::vec(any::<bool>(), 30),
            of in prop::collection::vec(prop_oneof![Just("a"), Just("b"), Just("")], 6),
            placed in any::<bool>(),
        ) {
            let key = DeviceKey {
                tenant: of[0].into(), project: of[1].into(), device: of[2].into(),
            };
            let place = Place { building: of[3].into(), floor: of[4].into(), room: of[5].into() };
            let place = placed.then_some(&place);
            let mut index = Index::default();
            for (number, filter) in (0..).zip(&filters) {
                index.add(filter, number);
            }
            let mut expected = Vec::new();
            for (number, filter) in (0..).zip(&filters) {
                if gone[number as usize] {
                    index.remove(filter, number);
                    continue;
                }
                let is = |wanted: &Option<std::sync::Arc<str>>, found: Option<&str>| {
                    wanted.is_none() || wanted.as_deref() == found
                };
                let takes = is(&filter.tenant, Some(of[0])) && is(&filter.project, Some(of[1]))
                    && is(&filter.device, Some(of[2]))
                    && is(&filter.building, place.map(|place| &*place.building))
                    && is(&filter.floor, place.map(|place| &*place.floor))
                    && is(&filter.room, place.map(|place| &*place.room))
                    && filter.scope.as_deref().is_none_or(|of| scope::contains(of, &key, place));
                prop_assert_eq!(filter.takes_device(&key, place), takes);
                if takes {
                    expected.push(number);
                }
            }
            let mut found = Vec::new();
            index.find(&key, place, &mut found);
            // Filters with a scope are found by a part of it, and compared then.
            found.retain(|number| {
                let filter = &filters[*number as usize];
                filter.scope.is_none() || filter.takes_device(&key, place)
            });
            found.sort_unstable();
            prop_assert_eq!(found, expected);
        }
    }
}
