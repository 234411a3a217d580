//! Aliases: other names of settings, as similar programs use them, so that their
//! configuration files work unchanged.

use serde_json::{Map, Value, json};

use super::Problems;
use super::load::{Override, join, list};
use super::tree::parse_yaml;

/// The meaning of an alias.
#[derive(Debug, Clone, Copy)]
pub enum Alias {
    /// The setting with this path.
    Of(&'static str),
    /// The setting with this path; the function converts the value given. Numbers come as text.
    Made(&'static str, fn(&Value) -> Value),
    /// The function chooses the setting from the value given, and returns both.
    Chosen(fn(&Value) -> (&'static str, Value)),
    /// No setting: any value is accepted and ignored, for this reason.
    Nothing(&'static str),
}

/// Aliases, as dotted paths, with their meaning.
pub type Aliases = &'static [(&'static str, Alias)];

/// The path of a setting, and the alias under which it was given.
pub(super) type Renamed = (&'static str, &'static str);

impl Alias {
    /// Path and value of the setting; `None` if the alias is ignored.
    fn setting(self, given: &Value) -> Option<(&'static str, Value)> {
        match self {
            Self::Of(path) => Some((path, given.clone())),
            Self::Made(path, make) => Some((path, make(given))),
            Self::Chosen(choose) => Some(choose(given)),
            Self::Nothing(_) => None,
        }
    }
}

/// What an alias stands for: a setting, or `Some(None)` if its value is converted. `None` if it
/// is no alias, or ignored.
pub(super) fn target(path: &str, aliases: Aliases) -> Option<Option<&'static str>> {
    let (_, alias) = aliases.iter().find(|(name, _)| *name == path)?;
    match alias {
        Alias::Of(setting) => Some(Some(setting)),
        Alias::Made(..) | Alias::Chosen(_) => Some(None),
        Alias::Nothing(_) => None,
    }
}

/// The keys of aliases, and of sections with aliases, directly in the section `path`.
pub(super) fn names_in(path: &str, aliases: Aliases) -> impl Iterator<Item = &'static str> {
    let in_section = move |name: &'static str| {
        let rest = match path {
            "" => name,
            path => name.strip_prefix(path)?.strip_prefix('.')?,
        };
        rest.split('.').next()
    };
    aliases.iter().filter_map(move |(name, _)| in_section(name))
}

/// The name that is most similar to a misspelt one, if any is similar.
pub(super) fn most_similar<'n>(key: &str, names: impl Iterator<Item = &'n str>) -> Option<&'n str> {
    let rated = names.map(|name| (strsim::jaro_winkler(key, name), name));
    let (likeness, name) = rated.max_by(|a, b| a.0.total_cmp(&b.0))?;
    (likeness > 0.7).then_some(name)
}

/// Replaces the aliases in the tree of a file, and returns which were replaced.
pub(super) fn rename_in_file(
    tree: &mut Value,
    aliases: Aliases,
    problems: &mut Problems,
) -> Vec<Renamed> {
    let given: Vec<_> = aliases
        .iter()
        .filter_map(|(name, alias)| {
            if is_section_of_its_own(tree, name, *alias) {
                return None;
            }
            Some((*name, *alias, take(tree, name)?))
        })
        .collect();
    let mut renamed = Vec::new();
    for (name, alias, value) in given {
        let Some((path, value)) = alias.setting(&value) else {
            continue;
        };
        renamed.push((path, name));
        if !put(tree, path, value) {
            problems.add(name, contradiction(path));
        }
    }
    renamed
}

/// Whether a name is that of a section here: one word may stand for a setting in the section of the
/// same name, as `auth: none` does for `auth.mode`.
fn is_section_of_its_own(tree: &Value, name: &str, alias: Alias) -> bool {
    let Alias::Of(path) = alias else {
        return false;
    };
    let below = path.strip_prefix(name);
    below.is_some_and(|rest| rest.starts_with('.'))
        && tree
            .get(name)
            .is_some_and(|value| value.is_object() || value.is_null())
}

/// Replaces the aliases in environment variables or flags.
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
        let as_setting = |other: &Override| match find(&other.path) {
            Some((_, alias)) => {
                let (path, value) = alias.setting(&Value::from(&*other.value))?;
                Some((path.to_owned(), value))
            }
            None => Some((other.path.clone(), Value::from(&*other.value))),
        };
        let others = overrides.iter().filter(|other| other.path != given.path);
        let mut others = others.filter_map(as_setting);
        if others.any(|(other, other_value)| other == path && !is_same(&other_value, &value)) {
            problems.add(format!("{name} ({})", given.origin), contradiction(path));
        }
        renamed.push(Override {
            path: path.to_owned(),
            value: written(&value),
            origin: given.origin.clone(),
        });
    }
    renamed
}

/// A value as text, which is how variables have it.
fn written(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

/// Whether two values of a setting mean the same: a list may be given as text.
fn is_same(one: &Value, other: &Value) -> bool {
    let is_list = |value: &Value| match value {
        Value::String(text) => text.trim().starts_with('[') && text.trim().ends_with(']'),
        other => other.is_array(),
    };
    if is_list(one) || is_list(other) {
        return items(one) == items(other);
    }
    written(one) == written(other)
}

/// The items of a list, or of a text that stands for one.
fn items(value: &Value) -> Vec<String> {
    let listed = match value {
        Value::Array(_) => value.clone(),
        // `conform` reports what is no list.
        other => list(&written(other), &json!([""])).unwrap_or_default(),
    };
    let items = listed.as_array().into_iter().flatten();
    items.map(written).collect()
}

fn contradiction(path: &str) -> String {
    format!("is another name of {path}, and both are given different values; remove one")
}

/// The ignored aliases that are given, with the reasons.
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

/// Refuses what [`rename_in_file`] left in sections that consist of aliases.
pub(super) fn refuse_rest(
    aliases: Aliases,
    defaults: &Value,
    given: &mut Value,
    problems: &mut Problems,
) {
    let sections_of = |(name, _): &(&'static str, Alias)| {
        let ends = name.match_indices('.').map(|(end, _)| end);
        ends.map(|end| &name[..end]).collect::<Vec<_>>()
    };
    let mut sections: Vec<_> = aliases.iter().flat_map(sections_of).collect();
    // Inner sections first.
    sections.sort_unstable_by(|a, b| b.cmp(a));
    sections.dedup();
    for section in sections {
        let pointer = format!("/{}", section.replace('.', "/"));
        if defaults.pointer(&pointer).is_some() {
            continue;
        }
        let mut known: Vec<_> = names_in(section, aliases).collect();
        known.dedup();
        let known = known.join(", ");
        match take(given, section) {
            None | Some(Value::Null) => {}
            Some(Value::Object(rest)) => {
                for key in rest.keys() {
                    let similar = most_similar(key, names_in(section, aliases));
                    let similar = similar.map(|name| format!("; did you mean {name:?}?"));
                    let similar = similar.unwrap_or_default();
                    let message = format!("unknown setting, known here: {known}{similar}");
                    problems.add(join(section, key), message);
                }
            }
            Some(_) => problems.add(section, format!("must be a section with: {known}")),
        }
    }
}

/// Removes a value from a tree, and the sections that become empty.
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
    // `conform` refuses values in the place of sections later.
    let Some(section) = tree.as_object_mut() else {
        return true;
    };
    let Some((key, rest)) = path.split_once('.') else {
        let known = section.entry(path).or_insert_with(|| value.clone());
        return is_same(known, &value);
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
        let mut tree = parse_yaml(text).unwrap();
        let renamed = rename_in_file(&mut tree, ALIASES, &mut problems);
        (tree, renamed, problems.to_string())
    }

    #[test]
    fn aliases_in_a_file_are_replaced() {
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
    fn only_different_values_under_both_names_are_a_problem() {
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
    fn unknown_keys_in_a_section_of_aliases_are_refused() {
        let defaults = json!({"kafka": {"acks": "all"}});
        let mut given = json!({"kafka": {"x": 1}, "producer": {"y": 1}});
        let mut problems = Problems::default();
        refuse_rest(ALIASES, &defaults, &mut given, &mut problems);
        let expected = "producer.y: unknown setting, known here: acks, retries, pool";
        assert_eq!(problems.to_string(), expected);
        assert_eq!(given, json!({"kafka": {"x": 1}}), "a section of its own");
    }

    #[test]
    fn a_value_in_place_of_a_section_is_refused() {
        for wrong in [json!("x"), json!(5), json!([1])] {
            let (mut given, mut problems) = (json!({"producer": wrong}), Problems::default());
            refuse_rest(ALIASES, &json!({"kafka": {}}), &mut given, &mut problems);
            let expected = "producer: must be a section with: acks, retries, pool";
            assert_eq!(problems.to_string(), expected);
        }
    }

    #[test]
    fn ignored_aliases_are_reported_from_every_source() {
        let notes = |text, overrides: &[&'static str]| {
            without_effect(text, overrides.iter().copied(), ALIASES)
        };
        let note = |name| (name, "there is none");
        assert_eq!(notes("producer: {pool: 7}\n", &[]), [note("producer.pool")]);
        assert_eq!(notes("", &["kafka.pool", "other"]), [note("kafka.pool")]);
        assert_eq!(notes("producer: {acks: all}\n", &["producer.acks"]), []);
    }

    #[test]
    fn misspelt_names_of_aliases_are_recognised() {
        assert_eq!(names_in("", ALIASES).next(), Some("producer"));
        let names: Vec<_> = names_in("kafka", ALIASES).collect();
        assert_eq!(names, ["pool"]);
        let mut given = json!({"producer": {"retrys": 1, "xyz": 1}});
        let mut problems = Problems::default();
        refuse_rest(ALIASES, &json!({}), &mut given, &mut problems);
        let known = "unknown setting, known here: acks, retries, pool";
        let expected =
            format!("producer.retrys: {known}; did you mean \"retries\"?\nproducer.xyz: {known}");
        assert_eq!(problems.to_string(), expected);
    }

    #[test]
    fn two_aliases_of_a_setting_may_not_contradict() {
        let aliases: Aliases = &[("a", Alias::Of("x.y")), ("b", Alias::Of("x.y"))];
        let mut problems = Problems::default();
        let mut tree = json!({"a": 1, "b": "1"});
        rename_in_file(&mut tree, aliases, &mut problems);
        assert_eq!((tree, problems.is_empty()), (json!({"x": {"y": 1}}), true));
        let mut tree = json!({"a": 1, "b": 2});
        rename_in_file(&mut tree, aliases, &mut problems);
        assert!(
            problems
                .to_string()
                .starts_with("b: is another name of x.y")
        );
        let given = |path: &str, value: &str| Override {
            path: path.into(),
            value: value.into(),
            origin: path.into(),
        };
        for (second, expected) in [("1", 0), ("2", 2)] {
            let mut problems = Problems::default();
            rename(
                vec![given("a", "1"), given("b", second)],
                aliases,
                &mut problems,
            );
            assert_eq!(problems.to_string().lines().count(), expected, "{problems}");
        }
        // A list may be given as text.
        for list in [json!(["x"]), json!([1]), json!(["x", "y z"])] {
            let text = items(&list).join(",");
            let mut tree = json!({"a": list, "b": text});
            let mut problems = Problems::default();
            rename_in_file(&mut tree, aliases, &mut problems);
            let written = [list.to_string(), text];
            let [a, b] = ["a", "b"].map(|name| given(name, &written[usize::from(name == "b")]));
            rename(vec![a.clone(), b], aliases, &mut problems);
            assert!(problems.is_empty(), "{problems}");
            rename(vec![a, given("b", "z")], aliases, &mut problems);
            assert_eq!(problems.to_string().lines().count(), 2, "{problems}");
        }
        // The later one of the same name wins.
        let mut problems = Problems::default();
        let twice = vec![given("a", "1"), given("a", "2")];
        assert_eq!(
            rename(twice, aliases, &mut problems).last().unwrap().value,
            "2"
        );
        assert!(problems.is_empty());
    }
}
