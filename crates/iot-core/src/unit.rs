//! Units of measurement, by the names that devices use, and conversion between
//! units of the same quantity.

/// `(value + shift) * factor` converts a value to the standard unit of its quantity.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Unit {
    /// Standard unit of the quantity.
    standard: &'static str,
    shift: f64,
    factor: f64,
}

/// Names, standard unit, shift and factor. Names are case-sensitive: `mA` and `MA`
/// differ. Factors are those of the SI Brochure; those of psi, mmHg and inHg are from NIST SP 811, B.8.
/// Single characters that Unicode has for compatibility (such as U+2103, degree Celsius) are
/// names too.
const UNITS: &[(&[&str], &str, f64, f64)] = &[
    (
        &["celsius", "°C", "degC", "C", "Cel", "\u{2103}"],
        "celsius",
        0.0,
        1.0,
    ),
    (
        &["fahrenheit", "°F", "degF", "F", "[degF]", "\u{2109}"],
        "celsius",
        -32.0,
        5.0 / 9.0,
    ),
    (&["kelvin", "K", "\u{212a}"], "celsius", -273.15, 1.0),
    (
        &["hectopascal", "hPa", "millibar", "mbar", "\u{3371}"],
        "hectopascal",
        0.0,
        1.0,
    ),
    (&["pascal", "Pa", "\u{33a9}"], "hectopascal", 0.0, 0.01),
    (&["kilopascal", "kPa", "\u{33aa}"], "hectopascal", 0.0, 10.0),
    (&["bar", "\u{3374}"], "hectopascal", 0.0, 1_000.0),
    (&["psi"], "hectopascal", 0.0, 68.947_572_931_683_6),
    (&["mmHg"], "hectopascal", 0.0, 1.333_224),
    (&["inHg"], "hectopascal", 0.0, 33.863_89),
    (&["ampere", "A", "amp"], "ampere", 0.0, 1.0),
    (&["milliampere", "mA", "\u{3383}"], "ampere", 0.0, 0.001),
    (
        &["percent", "%", "%RH", "\u{ff05}", "\u{fe6a}"],
        "percent",
        0.0,
        1.0,
    ),
    (&["ratio", "1"], "percent", 0.0, 100.0),
];

/// Units of energy. What meters report in them is a total. Case does not matter: `kWh`, `KWH`.
const ENERGY: &[&str] = &[
    "Wh", "kWh", "MWh", "GWh", "VAh", "kVAh", "varh", "kvarh", "Wmin",
];

/// Whether a unit is one of energy.
#[must_use]
pub fn is_energy(name: &str) -> bool {
    ENERGY.iter().any(|unit| unit.eq_ignore_ascii_case(name))
}

fn find(name: &str) -> Option<Unit> {
    let known = UNITS.iter().find(|(names, ..)| names.contains(&name))?;
    let (_, standard, shift, factor) = *known;
    Some(Unit {
        standard,
        shift,
        factor,
    })
}

/// Converts a value between two units of the same quantity. `None` if a unit is
/// unknown or the quantities differ; equal names return the value unchanged, even
/// unknown ones.
#[must_use]
pub fn convert(value: f64, from: &str, to: &str) -> Option<f64> {
    if from == to {
        return Some(value);
    }
    let (from, to) = (find(from)?, find(to)?);
    let standard = (value + from.shift) * from.factor;
    (from.standard == to.standard).then(|| standard / to.factor - to.shift)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_converted() {
        for (value, from, to, expected) in [
            (212.0, "degF", "celsius", 100.0),
            (-40.0, "fahrenheit", "celsius", -40.0),
            (0.0, "K", "celsius", -273.15),
            (21.5, "°C", "celsius", 21.5),
            (101_325.0, "Pa", "hectopascal", 1_013.25),
            (101.325, "kPa", "hectopascal", 1_013.25),
            (1.5, "bar", "hectopascal", 1_500.0),
            (14.5, "psi", "hectopascal", 999.739_807_509_412_2),
            (750.0, "mmHg", "hectopascal", 999.918),
            (30.0, "inHg", "hectopascal", 1_015.916_7),
            (2_500.0, "mA", "ampere", 2.5),
            (0.6, "ratio", "percent", 60.0),
            (50.0, "celsius", "fahrenheit", 122.0),
        ] {
            let found = convert(value, from, to).expect(from);
            assert!((found - expected).abs() < 1e-9, "{value} {from}: {found}");
        }
    }

    #[test]
    fn compatibility_characters_are_the_same_units() {
        for (character, same, standard) in [
            ("℃", "°C", "celsius"),
            ("℉", "°F", "celsius"),
            ("\u{212a}", "K", "celsius"),
            ("㍱", "hPa", "hectopascal"),
            ("㎩", "Pa", "hectopascal"),
            ("㎪", "kPa", "hectopascal"),
            ("㍴", "bar", "hectopascal"),
            ("㎃", "mA", "ampere"),
            ("％", "%", "percent"),
            ("﹪", "%", "percent"),
        ] {
            let found = convert(2.5, character, standard);
            assert_eq!(found, convert(2.5, same, standard), "{character}");
            assert!(found.is_some(), "{character}");
        }
    }

    #[test]
    fn units_of_different_quantities_are_not_converted() {
        assert_eq!(convert(1.0, "bar", "celsius"), None);
        assert_eq!(convert(1.0, "furlong", "celsius"), None);
        assert_eq!(convert(1.0, "ma", "ampere"), None);
        assert_eq!(convert(1.0, "furlong", "furlong"), Some(1.0));
    }

    #[test]
    fn unit_names_are_unique() {
        let mut names: Vec<_> = UNITS.iter().flat_map(|(names, ..)| *names).collect();
        let count = names.len();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), count);
    }

    proptest! {
        #[test]
        fn conversion_is_reversible(value in -1e6_f64..1e6, a in 0..UNITS.len(), b in 0..UNITS.len()) {
            let (a, b) = (UNITS[a].0[0], UNITS[b].0[0]);
            if let Some(there) = convert(value, a, b) {
                let back = convert(there, b, a).unwrap();
                prop_assert!((back - value).abs() < 1e-6, "{value} {a} is {there} {b} is {back}");
            }
        }
    }
}
