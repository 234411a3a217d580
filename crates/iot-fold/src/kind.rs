//! The kinds of alerts: their numbers, labels and texts.
//!
//! A kind that is found in the readings of a sensor also has a detector with its settings
//! (a file in `detect/`), its place among the others (`detect/mod.rs`), the bytes of what
//! it has learnt (`layout/device.rs`), and a section in the consumer's `config/detect.rs`.

use serde::{Deserialize, Serialize};

/// What an alert is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum AlertKind {
    /// Beyond the limit of its sensor.
    Threshold = 0,
    /// Far from what the previous readings predict.
    Spike = 1,
    /// The same value again and again.
    Stuck = 2,
    /// Away from its usual level, little by little.
    Drift = 3,
    /// A switch that changes too often.
    Toggling = 4,
    /// Of a device, not of a sensor: it sends no messages any more.
    Silence = 5,
}

/// What the text of an alert mentions.
pub(crate) struct Mentioned<'a> {
    pub(crate) is_active: bool,
    pub(crate) sensor: &'a str,
    pub(crate) unit: Option<&'a str>,
    pub(crate) value: f64,
    pub(crate) limit: f64,
    /// On which side of the limit.
    pub(crate) above: bool,
}

impl AlertKind {
    /// All kinds. The number of a kind is its index here, in [`Folded`](crate::Folded),
    /// and in stored bytes, where it must never change.
    pub const ALL: [Self; 6] = [
        Self::Threshold,
        Self::Spike,
        Self::Stuck,
        Self::Drift,
        Self::Toggling,
        Self::Silence,
    ];

    /// Its name in ids, labels and settings.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Self::Threshold => "threshold",
            Self::Spike => "spike",
            Self::Stuck => "stuck",
            Self::Drift => "drift",
            Self::Toggling => "toggling",
            Self::Silence => "silence",
        }
    }

    /// Whether an alert of this kind is about a device and not about one of its sensors.
    #[must_use]
    pub fn is_of_device(self) -> bool {
        self == Self::Silence
    }

    /// The text for people.
    pub(crate) fn message(self, about: &Mentioned<'_>) -> String {
        let Mentioned {
            is_active, sensor, ..
        } = *about;
        let side = if about.above { "above" } else { "below" };
        let rounded = |value: f64| (value * 100.0).round() / 100.0;
        let (value, limit) = (rounded(about.value), rounded(about.limit));
        let unit = about.unit.map(|unit| format!(" {unit}"));
        let unit = unit.unwrap_or_default();
        match self {
            Self::Threshold if is_active => format!("{sensor} {value}{unit} is {side} {limit}"),
            Self::Threshold => format!("{sensor} {value}{unit} is no longer {side} {limit}"),
            Self::Spike if is_active => {
                let extreme = if about.above { "most" } else { "least" };
                format!("{sensor} {value}{unit} is {side} {limit}, the {extreme} that is expected")
            }
            Self::Spike => format!("{sensor} {value}{unit} is as expected again"),
            Self::Stuck if is_active => {
                format!("{sensor} stays at {value}{unit} for {limit} readings or more")
            }
            Self::Stuck => format!("{sensor} {value}{unit} moves again"),
            Self::Drift if is_active => {
                format!("{sensor} {value}{unit} drifts {side} {limit}, its usual level")
            }
            Self::Drift => format!("{sensor} {value}{unit} is at its usual level again"),
            Self::Toggling if is_active => {
                format!("{sensor} changes too often: {limit} times or more in few readings")
            }
            Self::Toggling => format!("{sensor} no longer changes too often"),
            Self::Silence if is_active => {
                format!("nothing heard for {value} s, which is more than {limit} s")
            }
            Self::Silence => format!("heard again after {value} s"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_labels_agree_everywhere() {
        for (number, kind) in AlertKind::ALL.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            let json = serde_json::to_string(&kind).unwrap();
            assert_eq!(json, format!("{:?}", kind.label()));
        }
    }

    #[test]
    fn texts_name_the_side_of_the_limit() {
        let spike = |value, limit| {
            AlertKind::Spike.message(&Mentioned {
                is_active: true,
                sensor: "humidity",
                unit: Some("percent"),
                value,
                limit,
                above: value > limit,
            })
        };
        assert_eq!(
            spike(90.5, 70.126),
            "humidity 90.5 percent is above 70.13, the most that is expected"
        );
        assert_eq!(
            spike(9.0, 44.0),
            "humidity 9 percent is below 44, the least that is expected"
        );
    }
}
