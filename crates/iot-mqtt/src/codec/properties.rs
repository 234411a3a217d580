//! The properties of a PUBLISH (MQTT 5, section 3.3.2.3) and of a DISCONNECT (section
//! 3.14.2.2).
//!
//! A defect in the properties of a PUBLISH is the publisher's. The packet's own length is intact,
//! so the connection can continue. If it ended, the broker would deliver the message again,
//! without end. So the properties that can be read are kept, and the first defect is reported
//! with the message.

use std::borrow::Cow;

use bytes::{Buf, Bytes};
use rumqttc::v5::mqttbytes::v5::{Publish, PublishProperties};

use super::decode::variable_integer;
use crate::Explanation;

/// How much of a property's name a defect quotes, in characters.
const QUOTED: usize = 40;

/// A message whose properties are not valid MQTT.
#[derive(Debug, Clone, PartialEq)]
pub struct Defective {
    /// The message with its whole payload, which begins with property bytes if their length is
    /// wrong, and the properties that can be read. In their strings,
    /// sequences that are not UTF-8, and U+0000 in names, are replaced by U+FFFD.
    pub publish: Publish,
    /// The first defect, for people, such as `user property "Größe" is not UTF-8`.
    pub defect: String,
}

/// Reads the properties off the front of `body`, and what is wrong with them.
pub(super) fn read(body: &mut Bytes) -> (Option<PublishProperties>, Option<String>) {
    // Most messages have none.
    if body.first() == Some(&0) {
        body.advance(1);
        return (None, None);
    }
    let (length, size) = match variable_integer(body) {
        Ok(Some(found)) => found,
        Ok(None) => return (None, Some("the properties have no length".to_owned())),
        Err(reason) => return (None, Some(format!("the properties have {reason}"))),
    };
    if size + length > body.len() {
        let defect = format!("the properties are {length} bytes long, more than the packet has");
        return (None, Some(defect));
    }
    body.advance(size);
    let mut properties = PublishProperties::default();
    let mut reader = PropertyReader {
        left: body.split_to(length),
        defect: None,
    };
    while let Some(id) = reader.byte() {
        if reader.property(id, &mut properties).is_none() {
            // Where the next property begins is unknown.
            reader.note(|| format!("property {id:#04x} is unknown or incomplete"));
            break;
        }
    }
    (Some(properties), reader.defect)
}

/// The explanation among the properties of a DISCONNECT, as far as they can be read.
pub(super) fn explanation(body: &mut Bytes) -> Explanation {
    let mut explanation = Explanation::default();
    let Ok(Some((length, size))) = variable_integer(body) else {
        return explanation;
    };
    body.advance(size);
    let mut reader = PropertyReader {
        left: body.split_to(length.min(body.len())),
        defect: None,
    };
    while let Some(id) = reader.byte() {
        let read = match id {
            // Session Expiry Interval.
            0x11 => reader.left.try_get_u32().ok().map(drop),
            0x1C => reader
                .string("")
                .map(|server| explanation.server = Some(server)),
            0x1F => reader.string("").map(|text| explanation.text = Some(text)),
            0x26 => reader.string("").and(reader.string("")).map(drop),
            _ => None,
        };
        if read.is_none() {
            break;
        }
    }
    explanation
}

struct PropertyReader {
    left: Bytes,
    defect: Option<String>,
}

impl PropertyReader {
    /// `None` if the property is unknown, or reaches beyond the properties.
    fn property(&mut self, id: u8, properties: &mut PublishProperties) -> Option<()> {
        match id {
            0x01 => properties.payload_format_indicator = Some(self.byte()?),
            0x02 => properties.message_expiry_interval = Some(self.left.try_get_u32().ok()?),
            0x03 => properties.content_type = Some(self.string("content type")?),
            0x08 => properties.response_topic = Some(self.string("response topic")?),
            0x09 => properties.correlation_data = Some(self.binary()?),
            0x0B => {
                let (value, size) = variable_integer(&self.left).ok()??;
                self.left.advance(size);
                properties.subscription_identifiers.push(value);
            }
            0x23 => properties.topic_alias = Some(self.left.try_get_u16().ok()?),
            0x26 => {
                let name = self.name()?;
                let quoted: String = name.chars().take(QUOTED).collect();
                let value = self.string(&format!("user property {quoted:?}"))?;
                properties.user_properties.push((name, value));
            }
            _ => return None,
        }
        Some(())
    }

    fn byte(&mut self) -> Option<u8> {
        self.left.try_get_u8().ok()
    }

    fn binary(&mut self) -> Option<Bytes> {
        let length = usize::from(self.left.try_get_u16().ok()?);
        (length <= self.left.len()).then(|| self.left.split_to(length))
    }

    fn string(&mut self, what: &str) -> Option<String> {
        let bytes = self.binary()?;
        let text = String::from_utf8_lossy(&bytes);
        if let Cow::Owned(_) = text {
            self.note(|| format!("{what} is not UTF-8"));
        }
        Some(text.into_owned())
    }

    /// The name of a user property. U+0000 is not allowed (MQTT 5, section 1.5.4), and Kafka's
    /// client ends the name of a header there.
    fn name(&mut self) -> Option<String> {
        let name = self.string("the name of a user property")?;
        if !name.contains('\0') {
            return Some(name);
        }
        self.note(|| "the name of a user property contains U+0000".to_owned());
        Some(name.replace('\0', "\u{FFFD}"))
    }

    /// Keeps the first defect.
    fn note(&mut self, defect: impl FnOnce() -> String) {
        self.defect.get_or_insert_with(defect);
    }
}

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};

    use super::*;

    /// The properties in `bytes`, in front of the payload `rest`.
    fn read_all(bytes: &[u8]) -> (Option<PublishProperties>, Option<String>) {
        let mut body = BytesMut::new();
        body.put_u8(bytes.len() as u8);
        body.put_slice(bytes);
        body.put_slice(b"rest");
        let mut body = body.freeze();
        let read = read(&mut body);
        assert_eq!(
            &body[..],
            b"rest",
            "the payload is not part of the properties"
        );
        read
    }

    fn string(out: &mut Vec<u8>, bytes: &[u8]) {
        out.put_u16(bytes.len() as u16);
        out.put_slice(bytes);
    }

    fn user_property(name: &[u8], value: &[u8]) -> Vec<u8> {
        let mut out = vec![0x26];
        string(&mut out, name);
        string(&mut out, value);
        out
    }

    #[test]
    fn text_that_is_not_utf_8_is_replaced_and_reported() {
        let latin_1 = b"Gr\xf6\xdfe";
        let lossy = "Gr\u{FFFD}\u{FFFD}e".to_owned();
        let mut all = user_property(b"unit", latin_1);
        all.extend(user_property(latin_1, b"7"));
        for id in [0x03, 0x08] {
            all.push(id);
            string(&mut all, latin_1);
        }
        let (properties, defect) = read_all(&all);
        let properties = properties.unwrap();
        assert_eq!(defect.unwrap(), r#"user property "unit" is not UTF-8"#);
        let user = [
            ("unit".to_owned(), lossy.clone()),
            (lossy.clone(), "7".into()),
        ];
        assert_eq!(properties.user_properties, user);
        assert_eq!(properties.content_type, Some(lossy.clone()));
        assert_eq!(properties.response_topic, Some(lossy));
    }

    #[test]
    fn a_null_character_in_a_name_is_replaced_and_reported() {
        let (properties, defect) = read_all(&user_property(b"a\0b", b"1"));
        assert_eq!(
            defect.unwrap(),
            "the name of a user property contains U+0000"
        );
        let user = [("a\u{FFFD}b".to_owned(), "1".to_owned())];
        assert_eq!(properties.unwrap().user_properties, user);
    }

    #[test]
    fn an_unknown_property_ends_the_properties_and_is_reported() {
        let mut all = user_property(b"a", b"1");
        all.extend([0x7f, 1, 2, 3]);
        let (properties, defect) = read_all(&all);
        assert_eq!(defect.unwrap(), "property 0x7f is unknown or incomplete");
        assert_eq!(
            properties.unwrap().user_properties,
            [("a".into(), "1".into())]
        );
    }

    #[test]
    fn an_incomplete_property_is_reported() {
        for bytes in [
            &[0x26, 0, 9, b'a'][..],
            &[0x02, 0, 0],
            &[0x01],
            &[0x0B, 0xff],
            &[0x09, 0],
        ] {
            let (_, defect) = read_all(bytes);
            let expected = format!("property {:#04x} is unknown or incomplete", bytes[0]);
            assert_eq!(defect, Some(expected));
        }
    }

    #[test]
    fn properties_longer_than_the_packet_leave_the_rest_as_payload() {
        for (bytes, expected) in [
            (
                &[9, b'x'][..],
                "the properties are 9 bytes long, more than the packet has",
            ),
            (
                &[0xff, 0xff, 0xff, 0xff, 1],
                "the properties have a length of more than four bytes",
            ),
            (&[], "the properties have no length"),
        ] {
            let mut body = Bytes::copy_from_slice(bytes);
            assert_eq!(read(&mut body), (None, Some(expected.to_owned())));
            assert_eq!(&body[..], bytes);
        }
    }
}
