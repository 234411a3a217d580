//! The parameters of a query, as channels and the REST API have them. Each reader takes what it
//! knows; what is left is refused by name.

use std::borrow::Cow;
use std::fmt::Display;
use std::str::FromStr;
use std::sync::Arc;

/// The most parameters in a query: several times what any channel has.
const MOST: usize = 32;

/// Why a query is refused: a text that names the parameter.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct BadParameter {
    /// The name of the parameter, if it is about one.
    pub(crate) name: Option<String>,
    reason: String,
}

impl BadParameter {
    /// The text names the parameter.
    pub(crate) fn new(name: &str, reason: String) -> Self {
        let name = Some(name.to_owned());
        Self { name, reason }
    }
}

/// The parameters of a query that nobody has taken yet, decoded.
#[derive(Debug)]
pub(crate) struct Parameters<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

impl<'q> Parameters<'q> {
    /// Reads a query such as `floor=2&room=a+b`.
    ///
    /// # Errors
    /// A parameter is given twice, or is not UTF-8; or there are more than 32.
    pub(crate) fn read(query: &'q str) -> Result<Self, BadParameter> {
        let mut all: Vec<(Cow<'q, str>, Cow<'q, str>)> = Vec::new();
        for part in query.split('&').filter(|part| !part.is_empty()) {
            if all.len() == MOST {
                let reason = format!("a query has more than {MOST} parameters");
                return Err(BadParameter { name: None, reason });
            }
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let broken = |name| BadParameter {
                name,
                reason: format!("parameter {part:?} is not UTF-8"),
            };
            let name = decode(name).ok_or_else(|| broken(None))?;
            let value = decode(value).ok_or_else(|| broken(Some(name.clone().into_owned())))?;
            if all.iter().any(|(known, _)| *known == name) {
                let reason = format!("parameter {name:?} is given twice");
                return Err(BadParameter::new(&name, reason));
            }
            all.push((name, value));
        }
        Ok(Self(all))
    }

    /// Takes a parameter.
    pub(crate) fn take(&mut self, name: &str) -> Option<Cow<'q, str>> {
        let at = self.0.iter().position(|(known, _)| known == name)?;
        Some(self.0.swap_remove(at).1)
    }

    /// Takes a text.
    pub(crate) fn text(&mut self, name: &str) -> Option<Arc<str>> {
        self.take(name).map(Arc::from)
    }

    /// Takes a text that has to be there.
    ///
    /// # Errors
    /// It is not.
    pub(crate) fn required(&mut self, name: &str) -> Result<Arc<str>, BadParameter> {
        let missing = || BadParameter::new(name, format!("parameter {name:?} is missing"));
        self.text(name).ok_or_else(missing)
    }

    /// Takes one of few values.
    ///
    /// # Errors
    /// It is none of them; the text lists them.
    pub(crate) fn one_of<T: Copy>(
        &mut self,
        name: &str,
        values: &[(&str, T)],
    ) -> Result<Option<T>, BadParameter> {
        let Some(given) = self.take(name) else {
            return Ok(None);
        };
        let found = values.iter().find(|(value, _)| *value == given);
        let names: Vec<_> = values.iter().map(|(value, _)| *value).collect();
        let expected = names.join(" or ");
        let wrong = || BadParameter::new(name, format!("{name} must be {expected}, not {given:?}"));
        found.map(|(_, value)| Some(*value)).ok_or_else(wrong)
    }

    /// Takes a number of at most `most`.
    ///
    /// # Errors
    /// It is no number, or a greater one.
    pub(crate) fn number<T>(&mut self, name: &str, most: T) -> Result<Option<T>, BadParameter>
    where
        T: FromStr + PartialOrd + Display,
    {
        let Some(given) = self.take(name) else {
            return Ok(None);
        };
        let number = given.parse().ok().filter(|number| *number <= most);
        let wrong = || {
            let reason = format!("{name} must be a whole number of at most {most}, not {given:?}");
            BadParameter::new(name, reason)
        };
        number.map(Some).ok_or_else(wrong)
    }

    /// Checks that none is left.
    ///
    /// # Errors
    /// One is: it means nothing here.
    pub(crate) fn finish(self) -> Result<(), BadParameter> {
        match self.0.first() {
            None => Ok(()),
            Some((name, _)) => {
                let reason = format!("unknown parameter {name:?}");
                Err(BadParameter::new(name, reason))
            }
        }
    }
}

/// Whether a query has a parameter, whatever is wrong with it.
pub(crate) fn is_given(query: &str, name: &str) -> bool {
    let names = query
        .split('&')
        .map(|part| part.split_once('=').map_or(part, |(name, _)| name));
    names
        .filter_map(decode)
        .any(|given| given.eq_ignore_ascii_case(name))
}

/// Decodes a name or value of a query as browsers do (WHATWG URL, 5.1): a `%` without two digits
/// stands for itself. `None` if the result is not UTF-8.
fn decode(text: &str) -> Option<Cow<'_, str>> {
    if !text.contains(['%', '+']) {
        return Some(Cow::Borrowed(text));
    }
    let mut bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    while let Some((&byte, rest)) = bytes.split_first() {
        bytes = rest;
        out.push(match (byte, rest) {
            (b'+', _) => b' ',
            (b'%', [high, low, after @ ..]) => match (digit(*high), digit(*low)) {
                (Some(high), Some(low)) => {
                    bytes = after;
                    high << 4 | low
                }
                _ => b'%',
            },
            _ => byte,
        });
    }
    String::from_utf8(out).ok().map(Cow::Owned)
}

fn digit(byte: u8) -> Option<u8> {
    char::from(byte)
        .to_digit(16)
        .and_then(|digit| u8::try_from(digit).ok())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn values_are_decoded_as_in_a_url() {
        for (written, meant) in [
            ("room=a+b", "a b"),
            ("room=a%20b", "a b"),
            ("room=K%C3%BCche", "Küche"),
            ("room=Küche", "Küche"),
            ("room=.", "."),
            ("room=..", ".."),
            ("room=50%25", "50%"),
            ("room=50%", "50%"),
            ("room=%zz%4", "%zz%4"),
            ("room=a=b", "a=b"),
            ("room=a%26b", "a&b"),
            ("room=", ""),
            ("room", ""),
        ] {
            let mut parameters = Parameters::read(written).unwrap();
            assert_eq!(parameters.take("room").as_deref(), Some(meant), "{written}");
            assert_eq!(parameters.finish(), Ok(()));
        }
    }

    #[test]
    fn refusals_name_the_parameter() {
        let refused = |query: &str| Parameters::read(query).unwrap_err().to_string();
        assert_eq!(
            refused("room=1&floor=2&ro%6Fm=1"),
            "parameter \"room\" is given twice"
        );
        let many = |count: u32| (0..count).map(|n| format!("p{n}&")).collect::<String>();
        assert!(Parameters::read(&many(32)).is_ok());
        assert_eq!(refused(&many(33)), "a query has more than 32 parameters");
        assert_eq!(refused("room=%FF"), "parameter \"room=%FF\" is not UTF-8");
        let read = |query| Parameters::read(query).unwrap();
        let unknown = read("colour=red").finish().unwrap_err().to_string();
        assert_eq!(unknown, "unknown parameter \"colour\"");
        let number = read("limit=11")
            .number("limit", 10_u32)
            .unwrap_err()
            .to_string();
        assert_eq!(
            number,
            "limit must be a whole number of at most 10, not \"11\""
        );
        let one_of = read("mode=x").one_of("mode", &[("latest", 1), ("all", 2)]);
        assert_eq!(
            one_of.unwrap_err().to_string(),
            "mode must be latest or all, not \"x\""
        );
        let missing = read("").required("tenant").unwrap_err().to_string();
        assert_eq!(missing, "parameter \"tenant\" is missing");
    }

    proptest! {
        #[test]
        fn any_value_survives(value in any::<String>()) {
            let encoded: String = value.bytes().map(|byte| format!("%{byte:02x}")).collect();
            let query = format!("device={encoded}");
            let mut parameters = Parameters::read(&query).unwrap();
            let read = parameters.take("device").map(Cow::into_owned);
            prop_assert_eq!(read, Some(value));
        }

        #[test]
        fn any_query_is_read_or_refused(query in any::<String>()) {
            if let Ok(parameters) = Parameters::read(&query) {
                let _ = parameters.finish();
            }
        }
    }
}
