//! The settings of the consumer that decide about values and alerts.

use std::collections::BTreeMap;

use iot_service::config::HumanDuration;

use super::fold::{Rules, Threshold};
use crate::reading::Units;

#[derive(Debug, clap::Args)]
pub(crate) struct RuleArgs {
    /// Set after how long a device without messages is removed (retention.devices); 0s keeps
    /// all.
    #[arg(long, default_value = "0s")]
    retention: HumanDuration,
    /// Set the unit of a sensor in the consumer's section sensors; may be repeated.
    #[arg(long, value_name = "NAME=UNIT", value_parser = sensor_unit)]
    sensor: Vec<(String, String)>,
    /// Compare this sensor's threshold alerts with the log too; the thresholds must be the same for all
    /// devices; may be repeated.
    #[arg(long, value_name = "NAME:above=N,below=N,for=DURATION", value_parser = threshold)]
    threshold: Vec<(String, Threshold)>,
    /// Set how far inside a threshold a value clears an alert (detect.threshold.band).
    #[arg(long, default_value_t = 0.01, value_parser = band)]
    band: f64,
}

impl RuleArgs {
    /// The rules, without windows.
    ///
    /// # Errors
    /// A sensor has two thresholds.
    pub(crate) fn rules(&self) -> Result<Rules, String> {
        let mut thresholds = BTreeMap::new();
        for (sensor, threshold) in &self.threshold {
            let threshold = Threshold {
                band: self.band,
                ..*threshold
            };
            if thresholds.insert(sensor.clone(), threshold).is_some() {
                return Err(format!("is given twice for {sensor}"));
            }
        }
        Ok(Rules {
            sizes: Vec::new(),
            lateness: 0,
            retention: Some(millis(self.retention)).filter(|retention| *retention > 0),
            thresholds,
        })
    }

    /// Units of other than standard sensors, and units that replace standard ones.
    pub(crate) fn units(&self) -> Units {
        self.sensor.iter().cloned().collect()
    }
}

fn sensor_unit(text: &str) -> Result<(String, String), String> {
    // Split at the first sign: a unit may contain one.
    match text.split_once('=') {
        Some((name, unit)) if !name.is_empty() && !unit.is_empty() => {
            Ok((name.to_owned(), unit.to_owned()))
        }
        _ => Err("must be NAME=UNIT".into()),
    }
}

/// Parses `NAME:above=N,below=N,for=DURATION`; the band is that of all sensors.
fn threshold(text: &str) -> Result<(String, Threshold), String> {
    const FORM: &str = "must be NAME:above=N,below=N,for=DURATION";
    // Split at the last sign: a name may contain one.
    let (name, settings) = text.rsplit_once(':').ok_or(FORM)?;
    let mut threshold = Threshold {
        above: None,
        below: None,
        band: 0.0,
        lasting: 0,
    };
    for setting in settings.split(',') {
        let (key, value) = setting.split_once('=').ok_or(FORM)?;
        let number = || finite(value).ok_or_else(|| format!("{key} must be a number"));
        match key {
            "above" => threshold.above = Some(number()?),
            "below" => threshold.below = Some(number()?),
            "for" => threshold.lasting = millis(value.parse()?),
            _ => return Err(format!("{key:?} is not above, below or for")),
        }
    }
    if threshold.above.or(threshold.below).is_none() {
        return Err("must have above or below".into());
    }
    Ok((name.to_owned(), threshold))
}

fn band(text: &str) -> Result<f64, String> {
    let band = finite(text).filter(|band| *band >= 0.0);
    band.ok_or_else(|| "must be a number of at least 0".into())
}

fn finite(text: &str) -> Option<f64> {
    text.parse().ok().filter(|number: &f64| number.is_finite())
}

pub(super) fn millis(duration: HumanDuration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_parsed_or_refused_with_the_reason() {
        let expected = Threshold {
            above: Some(50.0),
            below: Some(-1.5),
            band: 0.0,
            lasting: 30_000,
        };
        let parsed = threshold("a:b:above=50,below=-1.5,for=30s");
        assert_eq!(parsed, Ok(("a:b".to_owned(), expected)));
        for (text, reason) in [
            ("temperature", "must be NAME:above=N"),
            ("temperature:50", "must be NAME:above=N"),
            ("temperature:above=hot", "above must be a number"),
            ("temperature:above=NaN", "above must be a number"),
            ("temperature:below=-inf", "below must be a number"),
            ("temperature:for=30s", "must have above or below"),
            ("temperature:above=50,for=soon", "is not a duration"),
            ("temperature:over=50", "\"over\" is not above, below or for"),
        ] {
            let error = threshold(text).unwrap_err();
            assert!(error.contains(reason), "{text}: {error}");
        }
    }
}
