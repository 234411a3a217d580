//! Channels: what a client can subscribe to. Their names are paths of the REST API with their
//! filters: `readings?tenant=acme&building=b1&mode=all`, `devices`, `alerts?min_level=warning`,
//! `stats`.

use std::num::NonZeroU32;
use std::sync::Arc;

use iot_auth::Scope;
use iot_fold::{Alert, AlertStatus, DeviceKey, Level, Place};

use crate::access::scope;
use crate::parameters::{BadParameter, Parameters};

/// The longest name of a channel, in bytes.
pub const MAX_NAME: usize = 255;

/// The highest `max_rate`: more changes are gathered anyway.
const MAX_RATE: NonZeroU32 = NonZeroU32::MIN.saturating_add(99);

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
    /// What the client may see; `None` for everything. Only [`decide`](crate::access::decide) sets
    /// it.
    pub(crate) scope: Option<Arc<Scope>>,
}

/// Why a name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadChannel {
    /// There is no such path.
    #[error("unknown channel: it must begin with readings, devices, alerts or stats")]
    Unknown,
    /// It is longer than [`MAX_NAME`].
    #[error("the name of the channel has {0} bytes; at most {MAX_NAME} are allowed")]
    TooLong(usize),
    /// A parameter is wrong.
    #[error(transparent)]
    Parameter(#[from] BadParameter),
}

impl Channel {
    /// Reads a name.
    ///
    /// # Errors
    /// There is no such channel, or a parameter is not one of it.
    pub fn parse(name: &str) -> Result<Self, BadChannel> {
        if name.len() > MAX_NAME {
            return Err(BadChannel::TooLong(name.len()));
        }
        let (path, query) = name.split_once('?').unwrap_or((name, ""));
        let kind = Kind::parse(path).ok_or(BadChannel::Unknown)?;
        let mut parameters = Parameters::read(query)?;
        let filter = Filter::read(kind, &mut parameters)?;
        let modes = [("latest", Mode::Latest), ("all", Mode::All)];
        let mode = match kind {
            Kind::Readings => parameters.one_of("mode", &modes)?,
            _ => None,
        };
        let mode = mode.unwrap_or_default();
        let max_rate = match kind {
            Kind::Readings | Kind::Devices => parameters.number("max_rate", MAX_RATE)?,
            Kind::Alerts | Kind::Stats => None,
        };
        if mode == Mode::All && max_rate.is_some() {
            let reason = "max_rate has no meaning with mode=all, which sends every change";
            return Err(BadParameter::new("max_rate", reason.to_owned()).into());
        }
        parameters.finish()?;
        Ok(Self {
            name: name.into(),
            kind,
            filter,
            mode,
            max_rate,
        })
    }
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 4] = [Self::Readings, Self::Devices, Self::Alerts, Self::Stats];

    /// The path of their channels.
    #[must_use]
    pub fn path(self) -> &'static str {
        match self {
            Self::Readings => "readings",
            Self::Devices => "devices",
            Self::Alerts => "alerts",
            Self::Stats => "stats",
        }
    }

    fn parse(path: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.path() == path)
    }
}

impl Filter {
    /// Takes the parameters that channels of this kind have.
    ///
    /// # Errors
    /// One of them has no such value.
    pub(crate) fn read(kind: Kind, parameters: &mut Parameters<'_>) -> Result<Self, BadParameter> {
        if kind == Kind::Stats {
            return Ok(Self::default());
        }
        let mut filter = Self {
            tenant: parameters.text("tenant"),
            project: parameters.text("project"),
            building: parameters.text("building"),
            floor: parameters.text("floor"),
            room: parameters.text("room"),
            device: parameters.text("device"),
            ..Self::default()
        };
        if matches!(kind, Kind::Readings | Kind::Alerts) {
            filter.sensor = parameters.text("sensor");
        }
        if kind == Kind::Alerts {
            let levels = [("warning", Level::Warning), ("critical", Level::Critical)];
            filter.min_level = parameters.one_of("min_level", &levels)?;
            let states = [
                ("raised", AlertStatus::Raised),
                ("cleared", AlertStatus::Cleared),
            ];
            filter.state = parameters.one_of("state", &states)?;
        }
        Ok(filter)
    }

    /// The part of it that is in a scope.
    pub(crate) fn within(self, scope: &Arc<Scope>) -> Self {
        let scope = Some(scope.clone());
        Self { scope, ..self }
    }

    /// Whether a device at that place is asked for. Sensors and properties of alerts are not
    /// compared.
    pub(crate) fn takes_device(&self, key: &DeviceKey, place: Option<&Place>) -> bool {
        is(&self.tenant, &key.tenant)
            && is(&self.project, &key.project)
            && is(&self.device, &key.device)
            && self.takes_place(place)
            && self.is_in_scope(key, place)
    }

    /// Whether the client may see a device at that place.
    pub(crate) fn is_in_scope(&self, key: &DeviceKey, place: Option<&Place>) -> bool {
        let scope = self.scope.as_deref();
        scope.is_none_or(|scope| scope::contains(scope, key, place))
    }

    /// Whether the values of a sensor are asked for.
    pub(crate) fn takes_sensor(&self, sensor: &str) -> bool {
        is(&self.sensor, sensor)
    }

    /// Whether an alert is asked for.
    pub(crate) fn takes_alert(&self, alert: &Alert) -> bool {
        self.takes_device(&alert.key, alert.location.as_deref())
            && self.takes_sensor(&alert.sensor)
            && self.min_level.is_none_or(|level| alert.level >= level)
            && self.state.is_none_or(|state| alert.state == state)
    }

    fn takes_place(&self, place: Option<&Place>) -> bool {
        match place {
            Some(place) => {
                is(&self.building, &place.building)
                    && is(&self.floor, &place.floor)
                    && is(&self.room, &place.room)
            }
            None => self.building.is_none() && self.floor.is_none() && self.room.is_none(),
        }
    }
}

fn is(wanted: &Option<Arc<str>>, found: &str) -> bool {
    wanted.as_deref().is_none_or(|wanted| wanted == found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{alert, device};

    fn refused(name: &str) -> String {
        Channel::parse(name).unwrap_err().to_string()
    }

    #[test]
    fn a_name_says_what_is_asked_for() {
        let name = "readings?tenant=acme&building=b%201&sensor=temperature&max_rate=2";
        let channel = Channel::parse(name).unwrap();
        let filter = Filter {
            tenant: Some("acme".into()),
            building: Some("b 1".into()),
            sensor: Some("temperature".into()),
            ..Filter::default()
        };
        let expected = Channel {
            name: name.into(),
            kind: Kind::Readings,
            filter,
            mode: Mode::Latest,
            max_rate: NonZeroU32::new(2),
        };
        assert_eq!(channel, expected);
        assert_eq!(Channel::parse("readings?mode=all").unwrap().mode, Mode::All);
        let alerts = Channel::parse("alerts?min_level=critical&state=raised")
            .unwrap()
            .filter;
        let (level, state) = (Some(Level::Critical), Some(AlertStatus::Raised));
        assert_eq!((alerts.min_level, alerts.state), (level, state));
        for kind in Kind::ALL {
            assert_eq!(Channel::parse(kind.path()).unwrap().kind, kind);
        }
    }

    #[test]
    fn wrong_names_are_refused_with_the_reason() {
        for unknown in [
            "",
            "reading",
            "Readings",
            "/readings",
            "readings/",
            "?tenant=a",
        ] {
            assert_eq!(
                Channel::parse(unknown),
                Err(BadChannel::Unknown),
                "{unknown}"
            );
        }
        for (name, parameter) in [
            ("stats?tenant=a", "tenant"),
            ("devices?sensor=a", "sensor"),
            ("devices?mode=all", "mode"),
            ("alerts?max_rate=1", "max_rate"),
            ("readings?min_level=warning", "min_level"),
            ("devices?limit=1", "limit"),
        ] {
            assert_eq!(
                refused(name),
                format!("unknown parameter {parameter:?}"),
                "{name}"
            );
        }
        assert_eq!(
            refused("alerts?state=on"),
            "state must be raised or cleared, not \"on\""
        );
        assert_eq!(
            refused("devices?room=1&room=1"),
            "parameter \"room\" is given twice"
        );
        for rate in ["0", "101"] {
            assert_eq!(
                refused(&format!("readings?max_rate={rate}")),
                format!("max_rate must be a whole number of at most 100, not {rate:?}")
            );
        }
        assert!(Channel::parse("readings?max_rate=100").is_ok());
        assert!(refused("readings?mode=all&max_rate=1").starts_with("max_rate has no meaning"));
        let long = format!("readings?room={}", "x".repeat(242));
        assert_eq!(Channel::parse(&long), Err(BadChannel::TooLong(256)));
        assert!(Channel::parse(&long[..255]).is_ok());
    }

    #[test]
    fn a_filter_takes_devices_by_all_that_it_names() {
        // Of tenant acme, project office, building b1, floor 2, room Küche, with a temperature.
        let device = device("d1");
        let place = device.location.as_deref();
        let takes = |query: &str| {
            let channel = Channel::parse(&format!("readings?{query}")).unwrap();
            let mut sensors = device.readings.iter().map(|(sensor, _)| sensor);
            channel.filter.takes_device(&device.key, place)
                && sensors.any(|sensor| channel.filter.takes_sensor(sensor))
        };
        for query in [
            "",
            "tenant=acme&project=office&device=d1",
            "building=b1&floor=2&room=K%C3%BCche",
            "sensor=temperature",
        ] {
            assert!(takes(query), "{query}");
        }
        for query in [
            "tenant=acm",
            "tenant=",
            "project=other",
            "device=d2",
            "building=b1&floor=3",
            "room=kitchen",
            "sensor=co2",
        ] {
            assert!(!takes(query), "{query}");
        }
        let filter = Channel::parse("devices?building=b1").unwrap().filter;
        assert!(filter.takes_device(&device.key, place));
        assert!(!filter.takes_device(&device.key, None));
        assert!(Filter::default().takes_device(&device.key, None));
    }

    #[test]
    fn a_filter_takes_alerts_by_all_that_it_names() {
        // A critical one of the device above.
        let alert = alert("a1", "d1", Level::Critical, AlertStatus::Raised);
        let takes = |query: &str, alert: &Alert| {
            Channel::parse(&format!("alerts?{query}"))
                .unwrap()
                .filter
                .takes_alert(alert)
        };
        for query in [
            "",
            "min_level=warning",
            "min_level=critical",
            "state=raised",
            "floor=2",
        ] {
            assert!(takes(query, &alert), "{query}");
        }
        for query in [
            "state=cleared",
            "sensor=co2",
            "floor=1",
            "tenant=other",
            "device=d2",
        ] {
            assert!(!takes(query, &alert), "{query}");
        }
        let warning = Alert {
            level: Level::Warning,
            ..alert
        };
        assert!(takes("min_level=warning", &warning) && !takes("min_level=critical", &warning));
    }
}
