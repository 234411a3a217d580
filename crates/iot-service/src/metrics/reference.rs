//! The tables of docs/metrics.md. They are written from what the code registers,
//! and a test of each service compares the two.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use prometheus::Registry;
use prometheus::proto::{MetricFamily, MetricType};

const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/metrics.md");
const UPDATE: &str = "UPDATE_METRICS";

/// For a test of `service`: its table has to be what is in `registry`. With
/// `UPDATE_METRICS` in the environment the table is written instead.
///
/// A label has the values that it is given before this is called. What stands in for
/// any value is a description in angle brackets, such as `<client id>`.
///
/// # Panics
/// When they differ, or a vector in `registry` has no children yet.
pub fn check(service: &str, registry: &Registry) {
    let text = std::fs::read_to_string(FILE).expect("reading docs/metrics.md");
    let current = with_table(&text, service, &table(&families(registry)));
    if std::env::var_os(UPDATE).is_some() {
        std::fs::write(FILE, current).expect("writing docs/metrics.md");
    } else {
        assert!(
            text == current,
            "docs/metrics.md is not what {service} registers; write it with: \
             {UPDATE}=1 cargo test --workspace --lib in_the_reference"
        );
    }
}

fn families(registry: &Registry) -> Vec<MetricFamily> {
    let families = registry.gather();
    assert!(
        families.len() >= collectors(registry),
        "gather() leaves out vectors without children: the test has to give each one"
    );
    families
}

/// How many collectors there are, which only `Debug` tells.
fn collectors(registry: &Registry) -> usize {
    let text = format!("{registry:?}");
    let count = text
        .split_once("RegistryCore (")
        .and_then(|(_, rest)| rest.split_once(' '))
        .and_then(|(count, _)| count.parse().ok());
    count.expect("Debug of a registry counts its collectors")
}

/// The text with another table between the marks of a service.
fn with_table(text: &str, service: &str, table: &str) -> String {
    let (begin, end) = (
        format!("<!-- {service}: begin -->\n"),
        format!("<!-- {service}: end -->"),
    );
    let marked = text
        .split_once(&begin)
        .and_then(|(before, rest)| Some((before, rest.split_once(&end)?.1)));
    let (before, after) = marked.expect("docs/metrics.md has marks for each service");
    format!("{before}{begin}{table}{end}{after}")
}

fn table(families: &[MetricFamily]) -> String {
    let mut table =
        String::from("| name | type | unit | labels | meaning |\n|---|---|---|---|---|\n");
    for family in families {
        let name = family.name();
        let meaning = family.help().trim_end_matches('.').replace('|', "\\|");
        let labels = labels(family);
        // Writing to a string does not fail.
        let _ = writeln!(
            table,
            "| `{name}` | {} | {} | {labels} | {meaning} |",
            kind(family.get_field_type()),
            unit(name)
        );
    }
    table
}

fn kind(kind: MetricType) -> &'static str {
    match kind {
        MetricType::COUNTER => "counter",
        MetricType::GAUGE => "gauge",
        MetricType::HISTOGRAM => "histogram",
        MetricType::SUMMARY => "summary",
        MetricType::UNTYPED => "untyped",
    }
}

/// The unit that the name ends in; without one the name says what is counted.
fn unit(name: &str) -> &'static str {
    let name = name.strip_suffix("_total").unwrap_or(name);
    match name.rsplit('_').next() {
        Some("seconds") => "seconds",
        Some("bytes") => "bytes",
        Some("second") => "per second",
        _ => "",
    }
}

fn labels(family: &MetricFamily) -> String {
    let mut labels: BTreeMap<&str, Vec<String>> = BTreeMap::new();
    for label in family
        .get_metric()
        .iter()
        .flat_map(|metric| metric.get_label())
    {
        let described = label
            .value()
            .strip_prefix('<')
            .and_then(|v| v.strip_suffix('>'));
        let value = described.map_or_else(|| format!("`{}`", label.value()), str::to_owned);
        let values = labels.entry(label.name()).or_default();
        if !values.contains(&value) {
            values.push(value);
        }
    }
    let labels = labels
        .into_iter()
        .map(|(name, values)| format!("`{name}`: {}", values.join(", ")));
    labels.collect::<Vec<_>>().join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::Registrar;

    fn registry() -> Registry {
        let registry = Registry::new();
        let registrar = Registrar(&registry);
        registrar.counter("a_bytes_total", "Bytes.").unwrap();
        let drops = registrar.counters("b_total", "Drops", &["reason"]).unwrap();
        for reason in ["full", "late"] {
            drops.with_label_values(&[reason]);
        }
        let ages = registrar.gauges("c_seconds", "Age", &["topic", "of"]);
        ages.unwrap().with_label_values(&["<Kafka topic>", "first"]);
        registry
    }

    #[test]
    fn a_table_says_what_is_registered() {
        assert_eq!(
            table(&registry().gather()),
            "| name | type | unit | labels | meaning |\n\
             |---|---|---|---|---|\n\
             | `a_bytes_total` | counter | bytes |  | Bytes |\n\
             | `b_total` | counter |  | `reason`: `full`, `late` | Drops |\n\
             | `c_seconds` | gauge | seconds | `of`: `first`; `topic`: Kafka topic | Age |\n"
        );
    }

    #[test]
    fn only_the_table_of_the_service_is_replaced() {
        let text =
            "# A\n<!-- a: begin -->\nold\n<!-- a: end -->\n<!-- b: begin -->\nb\n<!-- b: end -->\n";
        assert_eq!(with_table(text, "a", "new\n"), text.replace("old", "new"),);
    }

    #[test]
    #[should_panic(expected = "without children")]
    fn a_vector_without_children_is_not_overlooked() {
        let registry = registry();
        Registrar(&registry)
            .counters("d_total", "Never seen", &["kind"])
            .unwrap();
        families(&registry);
    }
}
