//! Other names of settings: those that programs of the same kind have for them, so that
//! their files can be used as they are.

use serde_json::{Map, Value, json};

use super::Problems;
use super::load::{Override, join};
use super::tree::parse_yaml;

/// What another name of a setting means.
#[derive(Debug, Clone, Copy)]
pub enum Alias {
    /// The setting with this path.
    Of(&'static str),
    /// The setting with this path, with a value that is made of the one given.
    Made(&'static str, fn(&Value) -> Value),
    /// Nothing here: any value is accepted, and this is why.
    Nothing(&'static str),
}

/// Other names, as dotted paths, and what they mean.
pub type Aliases = &'static [(&'static str, Alias)];

/// A setting and the other name under which it was given.
pub(super) type Renamed = (&'static str, &'static str);

impl Alias {
    /// Path and value of the setting that is meant.
    fn setting(self, given: &Value) -> Option<(&'static str, Value)> {
        match self {
            Self::Of(path) => Some((path, given.clone())),
            Self::Made(path, make) => Some((path, make(given))),
            Self::Nothing(_) => None,
        }
    }
}

/// A file with all settings under their own names, and which had others. What is no YAML
/// is left as it is.
pub(super) fn rename_in_file(
    text: String,
    aliases: Aliases,
    problems: &mut Problems,
) -> (String, Vec<Renamed>) {
    let Ok(mut tree) = parse_yaml(&text) else {
        return (text, Vec::new());
    };
    let given: Vec<_> = aliases
        .iter()
        .filter_map(|(name, alias)| Some((*name, *alias, take(&mut tree, name)?)))
        .collect();
    if given.is_empty() {
        return (text, Vec::new());
    }
    let mut renamed = Vec::new();
    for (name, alias, value) in given {
        let Some((path, value)) = alias.setting(&value) else {
            continue;
        };
        renamed.push((path, name));
        if !put(&mut tree, path, value) {
            problems.add(name, contradiction(path));
        }
    }
    // Every JSON value is a YAML value.
    (tree.to_string(), renamed)
}

/// Variables, or flags, with the paths of settings in place of other names.
pub(super) fn rename(
    overrides: Vec<Override>,
    aliases: Aliases,
    problems: &mut Problems,
) -> Vec<Override> {
    let find = |path: &str| aliases.iter().find(|(name, _)| *name == path);
    let mut renamed = Vec::new();
    for given in &overrides {
        let Some((name, alias)) = find(&given.path) else {
            renamed.push(given.clone());
            continue;
        };
        let Some((path, value)) = alias.setting(&Value::from(&*given.value)) else {
            continue;
        };
        let value = value
            .as_str()
            .map_or_else(|| value.to_string(), str::to_owned);
        let mut others = overrides.iter().filter(|other| other.path == path);
        if others.any(|other| other.value != value) {
            problems.add(format!("{name} ({})", given.origin), contradiction(path));
        }
        renamed.push(Override {
            path: path.to_owned(),
            value,
            origin: given.origin.clone(),
        });
    }
    renamed
}

fn contradiction(path: &str) -> String {
    format!("is another name of {path}, and both are given with different values: leave one out")
}

/// Names that are given and mean nothing, and why.
pub(super) fn without_effect<'o>(
    text: &str,
    overrides: impl Iterator<Item = &'o str>,
    aliases: Aliases,
) -> Vec<(&'static str, &'static str)> {
    let mut tree = parse_yaml(text).unwrap_or_default();
    let overrides: Vec<_> = overrides.collect();
    let mut notes = Vec::new();
    for (name, alias) in aliases {
        let is_given = take(&mut tree, name).is_some() || overrides.contains(name);
        if let Alias::Nothing(reason) = alias
            && is_given
        {
            notes.push((*name, *reason));
        }
    }
    notes
}

/// Refuses what is left in sections that have other names only.
pub(super) fn refuse_rest(
    aliases: Aliases,
    defaults: &Value,
    given: &mut Value,
    problems: &mut Problems,
) {
    let sections = aliases.iter().filter_map(|(name, _)| name.rsplit_once('.'));
    let mut sections: Vec<_> = sections.map(|(section, _)| section).collect();
    sections.dedup();
    for section in sections {
        let pointer = format!("/{}", section.replace('.', "/"));
        if defaults.pointer(&pointer).is_some() {
            continue;
        }
        let names = aliases.iter().filter_map(|(name, _)| name.rsplit_once('.'));
        let known: Vec<_> = names
            .filter(|(of, _)| *of == section)
            .map(|(_, key)| key)
            .collect();
        let known = known.join(", ");
        match take(given, section) {
            None | Some(Value::Null) => {}
            Some(Value::Object(rest)) => {
                for key in rest.keys() {
                    let message = format!("unknown setting, known here: {known}");
                    problems.add(join(section, key), message);
                }
            }
            Some(_) => problems.add(section, format!("must be a section with: {known}")),
        }
    }
}

/// Takes a value out of a tree, and the sections that are empty then.
fn take(tree: &mut Value, path: &str) -> Option<Value> {
    let section = tree.as_object_mut()?;
    let Some((key, rest)) = path.split_once('.') else {
        return section.remove(path);
    };
    let below = section.get_mut(key)?;
    let taken = take(below, rest)?;
    if below.as_object().is_some_and(Map::is_empty) {
        section.remove(key);
    }
    Some(taken)
}

/// Puts a value into a tree; `false` if another one is there.
fn put(tree: &mut Value, path: &str, value: Value) -> bool {
    // What is no section here is refused later.
    let Some(section) = tree.as_object_mut() else {
        return true;
    };
    let Some((key, rest)) = path.split_once('.') else {
        return *section.entry(path).or_insert_with(|| value.clone()) == value;
    };
    let below = section.entry(key).or_insert_with(|| json!({}));
    if below.is_null() {
        *below = json!({});
    }
    put(below, rest, value)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALIASES: Aliases = &[
        ("producer.acks", Alias::Of("kafka.acks")),
        (
            "producer.retries",
            Alias::Made("kafka.tries", |given| {
                (given.as_i64().unwrap_or(0) + 1).into()
            }),
        ),
        ("producer.pool", Alias::Nothing("there is none")),
        ("kafka.pool", Alias::Nothing("there is none")),
    ];

    fn in_file(text: &str) -> (Value, Vec<Renamed>, String) {
        let mut problems = Problems::default();
        let (text, renamed) = rename_in_file(text.to_owned(), ALIASES, &mut problems);
        (parse_yaml(&text).unwrap(), renamed, problems.to_string())
    }

    #[test]
    fn values_go_where_they_belong_and_empty_sections_with_them() {
        let text = "producer: {acks: all, retries: 2, pool: 7}\nkafka:\nlog: {level: info}\n";
        let (tree, renamed, problems) = in_file(text);
        let expected = json!({"kafka": {"acks": "all", "tries": 3}, "log": {"level": "info"}});
        assert_eq!(tree, expected);
        let names = [
            ("kafka.acks", "producer.acks"),
            ("kafka.tries", "producer.retries"),
        ];
        assert_eq!((&renamed[..], &*problems), (&names[..], ""));
        let (tree, renamed, _) = in_file("kafka: {acks: all}\n");
        assert_eq!((tree, renamed), (json!({"kafka": {"acks": "all"}}), vec![]));
    }

    #[test]
    fn the_same_under_both_names_is_no_contradiction() {
        let (.., problems) = in_file("producer: {acks: all}\nkafka: {acks: all}\n");
        assert_eq!(problems, "");
        let (tree, _, problems) = in_file("producer: {acks: one}\nkafka: {acks: all}\n");
        assert!(
            problems.starts_with("producer.acks: is another name of kafka.acks, and both"),
            "{problems}"
        );
        assert_eq!(tree, json!({"kafka": {"acks": "all"}}));
    }

    #[test]
    fn what_is_left_in_a_section_of_other_names_is_unknown() {
        let defaults = json!({"kafka": {"acks": "all"}});
        let mut given = json!({"kafka": {"x": 1}, "producer": {"y": 1}});
        let mut problems = Problems::default();
        refuse_rest(ALIASES, &defaults, &mut given, &mut problems);
        let expected = "producer.y: unknown setting, known here: acks, retries, pool";
        assert_eq!(problems.to_string(), expected);
        assert_eq!(given, json!({"kafka": {"x": 1}}), "a section of its own");
    }

    #[test]
    fn what_is_no_section_is_not_dropped_in_silence() {
        for wrong in [json!("x"), json!(5), json!([1])] {
            let (mut given, mut problems) = (json!({"producer": wrong}), Problems::default());
            refuse_rest(ALIASES, &json!({"kafka": {}}), &mut given, &mut problems);
            let expected = "producer: must be a section with: acks, retries, pool";
            assert_eq!(problems.to_string(), expected);
        }
    }

    #[test]
    fn what_has_no_effect_is_told_wherever_it_is_given() {
        let told = |text, overrides: &[&'static str]| {
            without_effect(text, overrides.iter().copied(), ALIASES)
        };
        let note = |name| (name, "there is none");
        assert_eq!(told("producer: {pool: 7}\n", &[]), [note("producer.pool")]);
        assert_eq!(told("", &["kafka.pool", "other"]), [note("kafka.pool")]);
        assert_eq!(told("producer: {acks: all}\n", &["producer.acks"]), []);
    }
}
