//! Loads the layers of the configuration, merges and checks them.

use serde_json::{Map, Value, json};
use serde_path_to_error::Segment;

use super::alias::{self, Aliases};
use super::yaml;
use super::{Problems, Settings, Sources, validate_common};

/// Well-known environment variables of every service.
const ENV: &[(&str, &str)] = &[("LOG_LEVEL", "log.level"), ("LOG_FORMAT", "log.format")];

/// Loads the settings from all layers.
///
/// # Errors
/// All problems: an unreadable file, unknown settings (with the most similar
/// known one), values of the wrong type, and those of [`Settings::validate`].
pub fn load<S: Settings>(sources: &Sources) -> Result<S, Problems> {
    Ok(load_given(sources)?.0)
}

/// Loads the settings and also returns the merged layers as a tree of raw values.
pub(crate) fn load_given<S: Settings>(sources: &Sources) -> Result<(S, Value), Problems> {
    let mut problems = Problems::default();
    let defaults = tree(&S::default());
    let overrides = overrides::<S>(sources, &defaults, &mut problems);
    let text = match &sources.file {
        None => String::new(),
        Some(path) => std::fs::read_to_string(path).unwrap_or_else(|error| {
            problems.add(
                path.display().to_string(),
                format!("can't be read: {error}"),
            );
            String::new()
        }),
    };
    let is_text = |path: &[&str]| is_text(path, &defaults, S::ALIASES);
    let mut given = yaml::parse(&text, &is_text).unwrap_or_else(|message| {
        let file = sources.file.as_ref().map(|path| path.display().to_string());
        problems.add(file.unwrap_or_else(|| "config".into()), message);
        json!({})
    });
    let renamed = alias::rename_in_file(&mut given, S::ALIASES, &mut problems);
    for Override { path, value, .. } in &overrides {
        overlay(&mut given, &nest(path, value, &defaults));
    }
    alias::refuse_rest(S::ALIASES, &defaults, &mut given, &mut problems);
    conform(&defaults, &mut given, ("", S::ALIASES), &mut problems);
    let settings: S = deserialise(&mut given, &defaults, &mut problems);
    validate_common(&settings, &mut problems);
    settings.validate(&mut problems);
    name_origins(&mut problems, &overrides, &renamed);
    problems.or((settings, given))
}

/// Asserts that the commented example of a service contains exactly its settings,
/// with their default values.
///
/// # Panics
/// The example differs from the settings.
pub fn assert_example<S: Settings>() {
    let defaults = tree(&S::default());
    let is_text = |path: &[&str]| is_text(path, &defaults, &[]);
    let mut given = yaml::parse(S::EXAMPLE, &is_text).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(
        paths(&given),
        paths(&defaults),
        "settings in the example and in the code"
    );
    let mut problems = Problems::default();
    let settings: S = deserialise(&mut given, &defaults, &mut problems);
    assert!(problems.is_empty(), "{problems}");
    assert_eq!(
        tree(&settings),
        defaults,
        "values in the example and in the code"
    );
}

/// The given aliases that are ignored, with the reasons.
pub(crate) fn without_effect<S: Settings>(sources: &Sources) -> Vec<(&'static str, &'static str)> {
    let file = sources.file.as_ref();
    // `load` has already reported a file that can't be read.
    let text = file.and_then(|path| std::fs::read_to_string(path).ok());
    let named = named(sources, &Value::Null, S::ALIASES);
    let given = named.iter().map(|o| &*o.path);
    let given = given.chain(sources.flags.iter().map(|(path, _)| &**path));
    alias::without_effect(&text.unwrap_or_default(), given, S::ALIASES)
}

/// A setting from the environment or the command line.
#[derive(Debug, Clone)]
pub(super) struct Override {
    pub(super) path: String,
    pub(super) value: String,
    /// The variable or flag, as the user wrote it.
    pub(super) origin: String,
}

/// Well-known variables, then `IOT_...` variables, then flags; later ones win.
fn overrides<S: Settings>(
    sources: &Sources,
    defaults: &Value,
    problems: &mut Problems,
) -> Vec<Override> {
    let known = sources.env.iter().filter_map(|(name, value)| {
        let (_, path) = ENV.iter().chain(S::ENV).find(|(known, _)| known == name)?;
        // Compose files pass unset variables as empty ones.
        (!value.is_empty()).then(|| Override {
            path: (*path).to_string(),
            value: value.clone(),
            origin: name.clone(),
        })
    });
    let flags = sources.flags.iter().map(|(path, value)| Override {
        path: path.clone(),
        value: value.clone(),
        origin: "command line".into(),
    });
    let named = named(sources, defaults, S::ALIASES);
    let named = alias::rename(named, S::ALIASES, problems);
    let flags = alias::rename(flags.collect(), S::ALIASES, problems);
    known.chain(named).chain(flags).collect()
}

/// The settings given as `IOT_SECTION__KEY`.
fn named(sources: &Sources, defaults: &Value, aliases: Aliases) -> Vec<Override> {
    let named = sources.env.iter().filter_map(|(name, value)| {
        let path = name.strip_prefix("IOT_")?.to_lowercase().replace("__", ".");
        // Kubernetes sets variables such as IOT_BRIDGE_SERVICE_HOST in every pod.
        let is_setting = || !defaults.get(&path).is_none_or(Value::is_object);
        let is_alias = || aliases.iter().any(|(name, _)| *name == path);
        if !path.contains('.') && !is_setting() && !is_alias() {
            return None;
        }
        Some(Override {
            path,
            value: value.clone(),
            origin: name.clone(),
        })
    });
    named.collect()
}

/// Whether text is wanted at a path of the file: its setting has a text by default, or is a list
/// of texts, or it is a key of a free-form map.
fn is_text(path: &[&str], defaults: &Value, aliases: Aliases) -> bool {
    let mut default = defaults;
    for key in path {
        if is_free_form(default) {
            return true;
        }
        let inner = match default.as_array() {
            Some(items) if key.is_empty() => items.first(),
            _ => default.get(key),
        };
        let Some(inner) = inner else {
            return is_text_of_alias(path, defaults, aliases);
        };
        default = inner;
    }
    // A list may be given as one text.
    default.is_string() || is_of_texts(default)
}

/// The same for a path that is no setting.
fn is_text_of_alias(path: &[&str], defaults: &Value, aliases: Aliases) -> bool {
    let items = path.iter().position(|key| key.is_empty());
    let (name, items) = path.split_at(items.unwrap_or(path.len()));
    match alias::target(&name.join("."), aliases) {
        Some(Some(setting)) => {
            let setting: Vec<_> = setting.split('.').chain(items.iter().copied()).collect();
            is_text(&setting, defaults, &[])
        }
        // What converts a value also converts that of a variable, which is text.
        Some(None) => true,
        None => false,
    }
}

fn is_of_texts(default: &Value) -> bool {
    let items = default.as_array();
    items.is_some_and(|items| items.first().is_some_and(Value::is_string))
}

/// Turns the path `a.b.c` into nested sections. In a free-form map the rest of the
/// path is one key, because names of Kafka properties contain dots.
fn nest(path: &str, value: &str, defaults: &Value) -> Value {
    if is_free_form(defaults) {
        return json!({ path: value });
    }
    match path.split_once('.') {
        Some((section, rest)) => json!({ section: nest(rest, value, &defaults[section]) }),
        None => json!({ path: value }),
    }
}

fn is_free_form(default: &Value) -> bool {
    default.as_object().is_some_and(Map::is_empty)
}

/// Refuses unknown settings, fills empty sections, and converts strings to the type
/// of the default.
fn conform(
    default: &Value,
    given: &mut Value,
    (path, aliases): (&str, Aliases),
    problems: &mut Problems,
) {
    if is_free_form(default) {
        for value in given.as_object_mut().into_iter().flat_map(Map::values_mut) {
            stringify(value);
        }
        return;
    }
    match (default, &mut *given) {
        (Value::Object(_), Value::Null) => *given = json!({}),
        (Value::Object(known), Value::Object(section)) => {
            section.retain(|key, value| {
                let inner = join(path, key);
                let Some(default) = known.get(key) else {
                    let known = known.keys().map(String::as_str);
                    let aliases = alias::names_in(path, aliases);
                    problems.add(inner, unknown(key, known, aliases));
                    return false;
                };
                conform(default, value, (&inner, aliases), problems);
                true
            });
        }
        (Value::Array(_), Value::String(text)) => match list(text, default) {
            Ok(items) => *given = items,
            Err(error) => {
                problems.add(
                    path,
                    format!("is not a list such as [\"a\", \"b\"]: {error}"),
                );
                *given = default.clone();
            }
        },
        (Value::String(_), _) => stringify(given),
        (Value::Number(_) | Value::Bool(_), Value::String(text)) => {
            if let Ok(scalar @ (Value::Number(_) | Value::Bool(_))) = serde_json::from_str(text) {
                *given = scalar;
            }
        }
        _ => {}
    }
}

/// A list in a variable or flag: `a,b`, or in brackets as in JSON or YAML.
pub(super) fn list(text: &str, default: &Value) -> Result<Value, String> {
    let text = text.trim();
    if text.starts_with('[') && text.ends_with(']') {
        let mut list = yaml::parse(&format!("list: {text}"), &|_| is_of_texts(default))?;
        return Ok(list["list"].take());
    }
    let items = text.split(',').map(str::trim);
    Ok(items.filter(|item| !item.is_empty()).collect())
}

fn stringify(value: &mut Value) {
    if let Value::Number(_) | Value::Bool(_) = value {
        *value = Value::String(value.to_string());
    }
}

/// The message about an unknown setting, which may be a misspelt setting or alias.
fn unknown<'n>(
    key: &str,
    known: impl Iterator<Item = &'n str> + Clone,
    aliases: impl Iterator<Item = &'static str>,
) -> String {
    let aliases = aliases.map(|name| -> &'n str { name });
    match alias::most_similar(key, known.clone().chain(aliases)) {
        Some(name) => format!("unknown setting, did you mean {name:?}?"),
        None => {
            let names: Vec<_> = known.collect();
            format!("unknown setting, known here: {}", names.join(", "))
        }
    }
}

/// Deserialises the settings. Each value of the wrong type is replaced by its default
/// and deserialised again, so that all of them are reported.
fn deserialise<S: Settings>(given: &mut Value, defaults: &Value, problems: &mut Problems) -> S {
    loop {
        let error = match complete(given, defaults) {
            Ok(settings) => return settings,
            Err(error) => error,
        };
        let keys = error.path().iter().map_while(|segment| match segment {
            Segment::Map { key } => Some(key.clone()),
            _ => None,
        });
        let path = keys.collect::<Vec<_>>();
        problems.add(error.path().to_string(), message(error.inner()));
        if !reset(given, defaults, &path) {
            return S::default();
        }
    }
}

/// What is wrong with a value.
fn message(error: &serde_json::Error) -> String {
    let message = error.to_string();
    // As in a list that is empty by default, where it is not known that texts are wanted.
    let scalars = ["integer", "floating point", "boolean"];
    let is_scalar = |scalar: &&str| message.starts_with(&format!("invalid type: {scalar}"));
    if scalars.iter().any(is_scalar) && message.ends_with("expected a string") {
        return format!("{message}: put it in quotes");
    }
    message
}

/// Merges the given values over the service's own defaults, because services have
/// different defaults in shared sections.
pub(super) fn complete<S: Settings>(
    given: &Value,
    defaults: &Value,
) -> Result<S, serde_path_to_error::Error<serde_json::Error>> {
    let mut whole = defaults.clone();
    overlay(&mut whole, given);
    serde_path_to_error::deserialize(&whole)
}

fn overlay(under: &mut Value, over: &Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                overlay(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over.clone(),
    }
}

/// Removes the value at `path`, so that its default applies; `false` if there is
/// nothing to remove.
fn reset(given: &mut Value, defaults: &Value, path: &[String]) -> bool {
    let Some((key, rest)) = path.split_first() else {
        return false;
    };
    let (Some(section), Some(default)) = (given.as_object_mut(), defaults.get(key)) else {
        return false;
    };
    let Some(value) = section.get_mut(key) else {
        return false;
    };
    (!rest.is_empty() && reset(value, default, rest)) || section.remove(key).is_some()
}

/// Adds to each problem the variable, flag or alias from which the value came.
fn name_origins(problems: &mut Problems, overrides: &[Override], renamed: &[alias::Renamed]) {
    for problem in &mut problems.0 {
        let given = overrides.iter().rfind(|o| o.path == problem.path);
        let other = renamed.iter().find(|(path, _)| *path == problem.path);
        let other = other.map(|(_, name)| *name);
        if let Some(origin) = given.map(|o| &*o.origin).or(other) {
            problem.path = format!("{} ({origin})", problem.path);
        }
    }
}

/// The settings as a tree, with secrets redacted.
pub(super) fn tree<S: Settings>(settings: &S) -> Value {
    serde_json::to_value(settings)
        .unwrap_or_else(|error| unreachable!("settings serialise without errors: {error}"))
}

pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_string()
    } else {
        format!("{path}.{key}")
    }
}

/// The dotted paths of all values of a tree.
fn paths(tree: &Value) -> Vec<String> {
    fn walk(value: &Value, path: &str, out: &mut Vec<String>) {
        match value.as_object() {
            Some(section) if !section.is_empty() => {
                for (key, value) in section {
                    walk(value, &join(path, key), out);
                }
            }
            _ => out.push(path.to_string()),
        }
    }
    let mut out = Vec::new();
    walk(tree, "", &mut out);
    out
}

/// Whether a client property is secret, by its name: free-form maps have no
/// [`Secret`](super::Secret).
fn is_secret(key: &str) -> bool {
    let words = ["password", "secret", "jaas", ".pem"];
    words.iter().any(|word| key.contains(word)) && !key.ends_with("_file")
}

/// The settings as YAML, with secrets redacted.
pub(crate) fn to_yaml<S: Settings>(settings: &S) -> String {
    fn write(section: &Map<String, Value>, indent: usize, out: &mut String) {
        for (key, value) in section {
            match value.as_object() {
                Some(inner) if !inner.is_empty() => {
                    out.push_str(&format!("{:indent$}{key}:\n", ""));
                    write(inner, indent + 2, out);
                }
                _ if is_secret(key) && value != "" => {
                    out.push_str(&format!("{:indent$}{key}: \"[redacted]\"\n", ""));
                }
                // Every JSON value is a YAML value.
                _ => out.push_str(&format!("{:indent$}{key}: {value}\n", "")),
            }
        }
    }
    let mut out = String::new();
    if let Value::Object(root) = tree(settings) {
        write(&root, 0, &mut out);
    }
    out
}

#[cfg(test)]
mod tests;
