//! Which devices a client sees: the filter of its channels.

use std::collections::HashMap;
use std::iter::repeat;
use std::str::FromStr;
use std::sync::Arc;

use serde_json::Value;

use crate::verify_state::model::Place;

/// The parameters, as they come in the name of a device and then in its place.
const NAMES: [&str; 6] = ["tenant", "project", "device", "building", "floor", "room"];

/// The filter of a channel, such as `building=b1&floor=2`. The default takes every device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Filter {
    text: String,
    wanted: [Option<String>; NAMES.len()],
}

impl FromStr for Filter {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut filter = Self {
            text: text.to_owned(),
            ..Self::default()
        };
        for parameter in text.split('&') {
            let (name, value) = parameter
                .split_once('=')
                .ok_or_else(|| format!("{parameter:?} must be NAME=VALUE"))?;
            let place = NAMES.iter().position(|known| *known == name);
            let place = place
                .ok_or_else(|| format!("{name:?} is unknown; known are {}", NAMES.join(", ")))?;
            let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
            if value.is_empty() || !value.chars().all(is_plain) {
                return Err(format!(
                    "the {name} {value:?} must be of letters, digits, -, _ and ."
                ));
            }
            if filter.wanted[place].replace(value.to_owned()).is_some() {
                return Err(format!("{name} is given twice"));
            }
        }
        Ok(filter)
    }
}

impl Filter {
    /// The name of a channel with this filter.
    pub(super) fn channel(&self, path: &str) -> String {
        if self.text.is_empty() {
            return path.to_owned();
        }
        let sign = if path.contains('?') { '&' } else { '?' };
        format!("{path}{sign}{}", self.text)
    }

    /// Whether it takes a device, by its name and where it is.
    pub(super) fn takes(&self, device: &str, place: Option<&Place>) -> bool {
        let place = place.into_iter().flatten().map(String::as_str);
        self.takes_parts(device.splitn(3, '\0').chain(place))
    }

    /// Whether it takes an alert, by its JSON.
    pub(super) fn takes_alert(&self, alert: &Value) -> bool {
        let [of_device, of_place] = [&NAMES[..3], &NAMES[3..]];
        let of_device = of_device.iter().map(|name| &alert[*name]);
        let of_place = of_place.iter().map(|name| &alert["location"][*name]);
        let parts = of_device.chain(of_place);
        self.takes_parts(parts.map(|part| part.as_str().unwrap_or_default()))
    }

    fn takes_parts<'p>(&self, parts: impl Iterator<Item = &'p str>) -> bool {
        let parts = parts.map(Some).chain(repeat(None));
        let mut pairs = self.wanted.iter().zip(parts);
        pairs.all(|(wanted, part)| wanted.is_none() || wanted.as_deref() == part)
    }
}

/// Which of several filters take a device. Most devices stay where they are.
#[derive(Debug, Default)]
pub(super) struct Takers {
    known: HashMap<String, (Option<Place>, Arc<[usize]>)>,
}

impl Takers {
    /// The numbers of the filters that take a device.
    pub(super) fn of(
        &mut self,
        filters: &[Filter],
        device: &str,
        place: Option<&Place>,
    ) -> Arc<[usize]> {
        if let Some((at, takers)) = self.known.get(device)
            && at.as_ref() == place
        {
            return takers.clone();
        }
        let takers = filters.iter().enumerate();
        let takers = takers.filter(|(_, filter)| filter.takes(device, place));
        let takers: Arc<[usize]> = takers.map(|(number, _)| number).collect();
        let known = (place.cloned(), takers.clone());
        self.known.insert(device.to_owned(), known);
        takers
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn filter(text: &str) -> Filter {
        text.parse().unwrap()
    }

    #[test]
    fn a_filter_takes_what_the_channel_has() {
        let place = ["b1", "2", "r"].map(str::to_owned);
        let takes = |text: &str, place| filter(text).takes("acme\0plant\0d-1", place);
        assert!(takes("tenant=acme&device=d-1", None));
        assert!(takes("building=b1&floor=2", Some(&place)));
        assert!(!takes("building=b1&floor=1", Some(&place)));
        assert!(!takes("project=other", Some(&place)));
        assert!(!takes("room=r", None), "it has no place");
        assert!(Filter::default().takes("acme\0plant\0d-1", None));
        let alert = json!({"tenant": "acme", "location": {"floor": "2"}});
        assert!(filter("tenant=acme&floor=2").takes_alert(&alert));
        assert!(!filter("floor=1").takes_alert(&alert));
    }

    #[test]
    fn a_channel_is_named_with_its_filter() {
        let named = |filter: &Filter| {
            [
                filter.channel("readings?mode=all"),
                filter.channel("alerts"),
            ]
        };
        let all = ["readings?mode=all", "alerts"].map(str::to_owned);
        assert_eq!(named(&Filter::default()), all);
        let floor = ["readings?mode=all&floor=2", "alerts?floor=2"].map(str::to_owned);
        assert_eq!(named(&filter("floor=2")), floor);
    }

    #[test]
    fn invalid_filters_are_refused_with_the_reason() {
        for (text, reason) in [
            ("floor", "must be NAME=VALUE"),
            ("sensor=x", "\"sensor\" is unknown"),
            ("floor=", "must be of letters"),
            ("floor=a b", "must be of letters"),
            ("floor=1&floor=2", "floor is given twice"),
        ] {
            let error = text.parse::<Filter>().unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }

    #[test]
    fn takers_follow_a_device_to_another_place() {
        let filters = ["building=a", "building=b", "tenant=t"].map(filter);
        let place = |building: &str| [building, "", ""].map(str::to_owned);
        let mut takers = Takers::default();
        let mut of = |at: &str| takers.of(&filters, "t\0p\0d", Some(&place(at))).to_vec();
        assert_eq!(of("a"), [0, 2]);
        assert_eq!(of("a"), [0, 2]);
        assert_eq!(of("b"), [1, 2]);
    }
}
