//! Parses YAML into a tree of JSON values. A scalar without quotes is text where text is wanted:
//! as a number, `0049170`, `1e5` and `3.10` would lose what was written.

use serde_json::{Map, Value};
use yaml_rust2::Yaml;
use yaml_rust2::parser::{Event, MarkedEventReceiver, Parser, Tag};
use yaml_rust2::scanner::{Marker, ScanError, TScalarStyle};

/// The prefix of YAML's own tags, such as `!!str`.
const CORE: &str = "tag:yaml.org,2002:";
/// More values than a configuration has. References to anchors multiply them.
const MOST_VALUES: usize = 1_000_000;

/// Decides whether the scalar with this path is text. An item of a list has the key `""` there.
pub(super) type IsText<'f> = &'f dyn Fn(&[&str]) -> bool;

/// Parses YAML whose root is a map; text without a document is an empty map.
///
/// # Errors
/// What is wrong, with line and column.
pub(super) fn parse(text: &str, is_text: IsText<'_>) -> Result<Value, String> {
    let mut builder = Builder::default();
    let parsed = Parser::new_from_str(text).load(&mut builder, true);
    parsed.map_err(|error| error.to_string())?;
    if let Some(error) = builder.error {
        return Err(error);
    }
    let mut documents = builder.documents.into_iter();
    match (documents.next(), documents.next()) {
        (None, _) => Ok(Value::Object(Map::new())),
        (Some(root @ Node::Map(_)), None) => Ok(root.resolve(&mut Vec::new(), is_text)),
        (Some(_), None) => Err("must be a map of settings".into()),
        (Some(_), Some(_)) => Err("must be one YAML document, not several".into()),
    }
}

/// A value whose type is not decided yet.
#[derive(Debug, Clone)]
enum Node {
    /// `null`, `~` or nothing.
    Null,
    /// Another scalar without quotes, and its value if no text is wanted.
    Plain(String, Value),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(String, Node)>),
}

impl Node {
    fn resolve<'n>(&'n self, path: &mut Vec<&'n str>, is_text: IsText<'_>) -> Value {
        match self {
            Self::Null => Value::Null,
            Self::Plain(text, _) if is_text(path) => Value::String(text.clone()),
            Self::Plain(_, value) => value.clone(),
            Self::Text(text) => Value::String(text.clone()),
            Self::List(items) => {
                path.push("");
                let items = items.iter().map(|item| item.resolve(path, is_text));
                let items = items.collect();
                path.pop();
                items
            }
            Self::Map(entries) => {
                let entries = entries.iter().map(|(key, node)| {
                    path.push(key);
                    let value = node.resolve(path, is_text);
                    path.pop();
                    (key.clone(), value)
                });
                Value::Object(entries.collect())
            }
        }
    }

    /// How many values there are.
    fn count(&self) -> usize {
        match self {
            Self::Null | Self::Plain(..) | Self::Text(_) => 1,
            Self::List(items) => 1 + items.iter().map(Self::count).sum::<usize>(),
            Self::Map(entries) => 1 + entries.iter().map(|(_, node)| node.count()).sum::<usize>(),
        }
    }
}

/// A list or map that is not complete yet.
#[derive(Debug)]
enum Open {
    List(Vec<Node>),
    /// The entries, and the key whose value comes next.
    Map(Vec<(String, Node)>, Option<String>),
}

/// Builds nodes from the parser's events.
#[derive(Debug, Default)]
struct Builder {
    documents: Vec<Node>,
    /// Incomplete lists and maps with their anchors (0 for none), the innermost last.
    open: Vec<(Open, usize)>,
    anchors: Vec<(usize, Node)>,
    values: usize,
    error: Option<String>,
}

impl MarkedEventReceiver for Builder {
    fn on_event(&mut self, event: Event, mark: Marker) {
        if self.error.is_none()
            && let Err(message) = self.take(event)
        {
            self.error = Some(ScanError::new_string(mark, message).to_string());
        }
    }
}

impl Builder {
    fn take(&mut self, event: Event) -> Result<(), String> {
        match event {
            Event::SequenceStart(anchor, _) => self.open.push((Open::List(Vec::new()), anchor)),
            Event::MappingStart(anchor, _) => {
                self.open.push((Open::Map(Vec::new(), None), anchor));
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let node = match self.open.pop() {
                    Some((Open::List(items), anchor)) => (Node::List(items), anchor),
                    Some((Open::Map(entries, _), anchor)) => (Node::Map(entries), anchor),
                    None => return Ok(()),
                };
                self.insert(node)?;
            }
            Event::Scalar(text, style, anchor, tag) => {
                self.insert((scalar(text, style, tag), anchor))?;
            }
            Event::Alias(anchor) => {
                let mut anchors = self.anchors.iter().rev();
                let found = anchors.find(|(known, _)| *known == anchor);
                let node = found.map(|(_, node)| node.clone());
                self.insert((node.ok_or("refers to an unknown anchor")?, 0))?;
            }
            _ => {}
        }
        Ok(())
    }

    fn insert(&mut self, (node, anchor): (Node, usize)) -> Result<(), String> {
        self.values += node.count();
        if self.values > MOST_VALUES {
            return Err("has too many values".into());
        }
        if anchor > 0 {
            self.anchors.push((anchor, node.clone()));
        }
        match self.open.last_mut() {
            None => self.documents.push(node),
            Some((Open::List(items), _)) => items.push(node),
            Some((Open::Map(entries, key), _)) => match (key.take(), node) {
                (Some(key), node) => {
                    if entries.iter().any(|(known, _)| *known == key) {
                        return Err(format!("{key:?} is given twice"));
                    }
                    entries.push((key, node));
                }
                (None, Node::Plain(text, _) | Node::Text(text)) => *key = Some(text),
                (None, _) => return Err("a key must be text".into()),
            },
        }
        Ok(())
    }
}

fn scalar(text: String, style: TScalarStyle, tag: Option<Tag>) -> Node {
    let is_text = |tag: &Tag| tag.handle != CORE || tag.suffix == "str";
    if style != TScalarStyle::Plain || tag.as_ref().is_some_and(is_text) {
        return Node::Text(text);
    }
    let value = match Yaml::from_str(&text) {
        Yaml::Null => return Node::Null,
        Yaml::Boolean(truth) => truth.into(),
        Yaml::Integer(number) => number.into(),
        // Also whole numbers that are too large for `Integer`.
        Yaml::Real(number) => match (number.parse::<u64>(), number.parse::<f64>()) {
            (Ok(number), _) => number.into(),
            (_, Ok(number)) => number.into(),
            // Infinity and NaN, which JSON does not have.
            _ => Value::Null,
        },
        _ => return Node::Text(text),
    };
    Node::Plain(text, value)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn typed(text: &str) -> Result<Value, String> {
        parse(text, &|_| false)
    }

    #[test]
    fn scalars_are_as_written_where_text_is_wanted() {
        let text = "user: 0049170\nrate: 1e5\nversion: 3.10\nhex: 0x1F\nyes: True\nlist: [007, x]\n\
                    none: ~\nsection:\n  key: 1.0\n  other: 1.0\n";
        let wanted = parse(text, &|path| path != ["section", "other"]).unwrap();
        let expected = json!({
            "user": "0049170", "rate": "1e5", "version": "3.10", "hex": "0x1F", "yes": "True",
            "list": ["007", "x"], "none": null, "section": {"key": "1.0", "other": 1.0},
        });
        assert_eq!(wanted, expected);
        let expected = json!({
            "user": 49170, "rate": 1e5, "version": 3.1, "hex": 31, "yes": true,
            "list": [7, "x"], "none": null, "section": {"key": 1.0, "other": 1.0},
        });
        assert_eq!(typed(text), Ok(expected));
    }

    #[test]
    fn other_parts_of_yaml_are_understood() {
        for (text, expected) in [
            ("", json!({})),
            ("# only a comment\n", json!({})),
            (
                "a: &x {b: 1}\nc: *x\n",
                json!({"a": {"b": 1}, "c": {"b": 1}}),
            ),
            (
                "a: 'it''s'\nb: \"1\"\nc: |\n  two\n  lines\n",
                json!({"a": "it's", "b": "1", "c": "two\nlines\n"}),
            ),
            (
                "a: !!str 7\nb: !!int \"7\"\n1: one\n",
                json!({"a": "7", "b": "7", "1": "one"}),
            ),
            (
                "a: 18446744073709551615\nb: -9223372036854775808\n",
                json!({"a": u64::MAX, "b": i64::MIN}),
            ),
            ("a: .inf\nb: 1e999\n", json!({"a": null, "b": null})),
            (
                r#"{"a": ["b", {"c": null}]}"#,
                json!({"a": ["b", {"c": null}]}),
            ),
        ] {
            assert_eq!(typed(text).as_ref(), Ok(&expected), "{text}");
        }
    }

    #[test]
    fn what_is_not_a_map_is_refused_with_its_place() {
        for (text, expected) in [
            ("a: [1\n", "line"),
            ("a: 1\nb: 2\na: 3\n", "\"a\" is given twice at byte"),
            ("[a]: 1\n", "a key must be text"),
            ("- a\n", "must be a map"),
            ("text\n", "must be a map"),
            ("a: 1\n---\nb: 2\n", "not several"),
        ] {
            let error = typed(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let mut text = "a0: &a0 [1, 1, 1, 1, 1, 1, 1, 1]\n".to_owned();
        for n in 1..9 {
            let refer = vec![format!("*a{}", n - 1); 8].join(", ");
            text.push_str(&format!("a{n}: &a{n} [{refer}]\n"));
        }
        assert!(typed(&text).unwrap_err().contains("too many"));
    }
}
