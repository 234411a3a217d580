//! Devices and alerts of tests.

use std::sync::Arc;

use iot_auth::{Identity, Names, Role, Scope};
use iot_core::message::Quality;
use iot_fold::detect::{DetectRules, Detection};
use iot_fold::{
    Alert, AlertKind, AlertStatus, Catalogue, Device, DeviceKey, FoldRules, Level, LimitRules,
    Place, Value, WindowRules,
};

/// A device in `acme/office`, in room Küche on floor 2 of b1, with temperature and humidity.
pub(crate) fn device(id: &str) -> Device {
    let reading = |value| Value {
        value,
        unit: None,
        quality: Quality::Good,
        timestamp: 1_000,
        is_ahead: false,
    };
    let readings = [
        ("humidity".into(), reading(40.0)),
        ("temperature".into(), reading(21.5)),
    ];
    Device {
        key: key(id),
        location: Some(place()),
        seq: Some(7),
        timestamp: 1_000,
        is_ahead: false,
        readings: readings.into_iter().collect(),
    }
}

/// An alert of its temperature.
pub(crate) fn alert(id: &str, device: &str, level: Level, state: AlertStatus) -> Alert {
    Alert {
        id: id.into(),
        key: key(device),
        location: Some(place()),
        sensor: "temperature".into(),
        kind: AlertKind::Threshold,
        level,
        state,
        value: 51.0,
        limit: 50.0,
        message: String::new(),
        reason: None,
        timestamp: 1_000,
        raised_at: 1_000,
        count: 1,
    }
}

pub(crate) fn key(device: &str) -> DeviceKey {
    DeviceKey {
        tenant: "acme".into(),
        project: "office".into(),
        device: device.into(),
    }
}

fn place() -> Arc<Place> {
    Arc::new(Place {
        building: "b1".into(),
        floor: "2".into(),
        room: "Küche".into(),
    })
}

/// These names only.
pub(crate) fn only(names: &[&str]) -> Names {
    Names::Only(names.iter().map(|name| Arc::from(*name)).collect())
}

/// A viewer.
pub(crate) fn identity(name: &str, scope: Scope) -> Identity {
    Identity {
        name: name.into(),
        role: Role::Viewer,
        scope: Arc::new(scope),
        expires: None,
    }
}

/// How folds are done: a temperature of 55 is a warning, one of 180 is critical.
pub(crate) fn rules() -> FoldRules {
    FoldRules {
        windows: WindowRules::new(vec![60_000], 1_000, 15),
        detect: DetectRules::new(Detection::default()),
        limits: LimitRules::new(&Catalogue::new([]), &[]),
        silence: Some(300),
        retention: Some(400),
        devices: 1_000,
        sensors: 8,
    }
}
