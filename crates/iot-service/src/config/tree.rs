//! YAML files other than a service's configuration, such as mappings and lists.

use std::path::Path;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::Problems;
use super::load::join;
use super::yaml;

/// Reads a YAML file whose root is a map, as [`parse_yaml_as`] does.
///
/// # Errors
/// The file can't be read, or is not YAML.
pub fn read_yaml_as(path: &Path, is_text: impl Fn(&[&str]) -> bool) -> Result<Value, Problems> {
    let problem = |message: String| {
        let mut problems = Problems::default();
        problems.add(path.display().to_string(), message);
        problems
    };
    let text = std::fs::read_to_string(path)
        .map_err(|error| problem(format!("can't be read: {error}")))?;
    parse_yaml_as(&text, is_text).map_err(problem)
}

/// Parses YAML whose root is a map.
///
/// # Errors
/// The parser's message, if `text` is not YAML.
pub fn parse_yaml(text: &str) -> Result<Value, String> {
    parse_yaml_as(text, |_| false)
}

/// Parses YAML whose root is a map. Numbers and booleans stay as written where `is_text` holds
/// for their path, such as `["topics", "", "name"]`: an item of a list has the key `""`.
///
/// # Errors
/// The parser's message, if `text` is not YAML.
pub fn parse_yaml_as(text: &str, is_text: impl Fn(&[&str]) -> bool) -> Result<Value, String> {
    yaml::parse(text, &is_text)
}

/// Deserialises `value`. On failure it adds a problem under `path`, the path of the
/// value in its file, and returns `None`.
pub fn extract<T: DeserializeOwned>(
    value: &Value,
    path: &str,
    problems: &mut Problems,
) -> Option<T> {
    match serde_path_to_error::deserialize(value) {
        Ok(extracted) => Some(extracted),
        Err(error) => {
            let below = error.path().to_string();
            let path = match (path, below.as_str()) {
                (path, ".") => path.to_string(),
                (path, below) => join(path, below),
            };
            problems.add(path, error.inner().to_string());
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde::Deserialize;

    use super::*;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Entry {
        name: String,
        #[serde(default)]
        limits: BTreeMap<String, u32>,
    }

    #[test]
    fn problems_are_reported_with_their_path() {
        let text = "good: {name: a, limits: {max.bytes: 1}}\n\
                    type: {name: a, limits: {max.bytes: many}}\n\
                    key: {name: a, limts: {}}\n";
        let tree = parse_yaml(text).unwrap();
        let mut problems = Problems::default();
        let good: Option<Entry> = extract(&tree["good"], "good", &mut problems);
        assert_eq!(good.unwrap().limits["max.bytes"], 1);
        for path in ["type", "key"] {
            assert_eq!(extract::<Entry>(&tree[path], path, &mut problems), None);
        }
        let problems = problems.to_string();
        assert!(
            problems.contains("type.limits.max.bytes: invalid type"),
            "{problems}"
        );
        assert!(problems.contains("key.limts: unknown field"), "{problems}");
    }

    #[test]
    fn a_missing_file_is_reported_by_name() {
        let problems = read_yaml_as(Path::new("/nowhere/topics.yaml"), |_| false).unwrap_err();
        assert!(
            problems
                .to_string()
                .starts_with("/nowhere/topics.yaml: can't be read")
        );
    }
}
