//! Channels: what a client can subscribe to. Their names are paths of the REST API with their
//! filters: `readings?tenant=acme&building=b1&mode=all`, `devices`, `alerts?min_level=warning`,
//! `stats`.

use std::num::NonZeroU32;
use std::sync::Arc;

use iot_fold::{AlertStatus, Level};

/// A channel, as its name says.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Channel {
    /// As the client wrote it: answers name it the same way. Two spellings are two channels.
    pub name: Arc<str>,
    /// What it carries.
    pub kind: Kind,
    /// Of which devices.
    pub filter: Filter,
    /// How readings are delivered.
    pub mode: Mode,
    /// The most publications a second; `None` for the default interval.
    pub max_rate: Option<NonZeroU32>,
}

/// What a channel carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    /// Values that changed.
    Readings,
    /// Whole devices, whenever one of their values changed.
    Devices,
    /// Alerts, whenever they change.
    Alerts,
    /// The service at a glance, once a second.
    Stats,
}

/// How readings are delivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// The newest value of each sensor, conflated.
    #[default]
    Latest,
    /// Every change, in order for each device.
    All,
}

/// Which devices, or alerts of which devices, are asked for. `None` is any.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Filter {
    /// The tenant.
    pub tenant: Option<Arc<str>>,
    /// The tenant's project.
    pub project: Option<Arc<str>>,
    /// The building.
    pub building: Option<Arc<str>>,
    /// The floor.
    pub floor: Option<Arc<str>>,
    /// The room.
    pub room: Option<Arc<str>>,
    /// The device.
    pub device: Option<Arc<str>>,
    /// The sensor.
    pub sensor: Option<Arc<str>>,
    /// Only alerts: at least this severe.
    pub min_level: Option<Level>,
    /// Only alerts: in this state.
    pub state: Option<AlertStatus>,
}
