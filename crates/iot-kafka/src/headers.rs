//! Headers of records that any producer may have written.
//!
//! A header may be repeated, its value may be null, and its name is not UTF-8 if the
//! producer's is not a string. rdkafka's own access panics at such a name, so records are
//! read through this module.

use std::borrow::Cow;
use std::ffi::CStr;
use std::ptr;

use rdkafka::bindings;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::types::RDKafkaRespErr;

/// The headers of a record in their order: name and value, which may be null. Bytes of a
/// name that are not UTF-8 are replaced by U+FFFD.
pub fn iter<'m>(
    message: &'m BorrowedMessage<'_>,
) -> impl Iterator<Item = (Cow<'m, str>, Option<&'m [u8]>)> {
    let all = native(message);
    (0..).map_while(move |index| header(message, all?, index))
}

/// The value of the first header of that name; `None` if there is none or it is null.
#[must_use]
pub fn first<'m>(message: &'m BorrowedMessage<'_>, name: &str) -> Option<&'m [u8]> {
    let (_, value) = iter(message).find(|(found, _)| found == name)?;
    value
}

/// The value of the first header of that name in a copy as text; `None` if there is none, it
/// is null, or it is not UTF-8.
#[must_use]
pub fn text<'h>(headers: &'h OwnedHeaders, name: &str) -> Option<&'h str> {
    let found = headers.iter().find(|header| header.key == name)?;
    std::str::from_utf8(found.value?).ok()
}

/// A copy of the headers, whose names are all UTF-8.
#[must_use]
pub fn copy(message: &BorrowedMessage<'_>) -> OwnedHeaders {
    let add = |all: OwnedHeaders, (key, value): (Cow<'_, str>, Option<&[u8]>)| {
        let key = &*key;
        all.insert(Header { key, value })
    };
    iter(message).fold(OwnedHeaders::new(), add)
}

/// A copy of a record, whose header names are all UTF-8.
#[must_use]
pub fn detach(message: &BorrowedMessage<'_>) -> OwnedMessage {
    OwnedMessage::new(
        message.payload().map(<[u8]>::to_vec),
        message.key().map(<[u8]>::to_vec),
        message.topic().to_owned(),
        message.timestamp(),
        message.partition(),
        message.offset(),
        Some(copy(message)),
    )
}

/// The headers of a copy that [`detach`] made: their names are UTF-8.
pub fn owned(message: &OwnedMessage) -> impl Iterator<Item = Header<'_, &[u8]>> {
    #[expect(clippy::disallowed_methods, reason = "no other copies are made")]
    let headers = message.headers();
    headers.into_iter().flat_map(Headers::iter)
}

/// Headers of a record, in its memory.
type Native = *mut bindings::rd_kafka_headers_t;

#[allow(unsafe_code)]
fn native(message: &BorrowedMessage<'_>) -> Option<Native> {
    let mut all = ptr::null_mut();
    // SAFETY: the pointer to the message is valid for as long as the message; the headers
    // belong to it.
    let error = unsafe { bindings::rd_kafka_message_headers(message.ptr(), &raw mut all) };
    (error == RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(all)
}

/// The header at an index; `None` behind the last. `all` are those of the message.
#[allow(unsafe_code)]
fn header<'m>(
    _message: &'m BorrowedMessage<'_>,
    all: Native,
    index: usize,
) -> Option<(Cow<'m, str>, Option<&'m [u8]>)> {
    let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
    // SAFETY: the headers live as long as the message. On success librdkafka sets the name to
    // a string that ends with NUL, and the value to `size` bytes or to null; both are in the
    // message's memory, which nothing changes.
    unsafe {
        let error = bindings::rd_kafka_header_get_all(
            all,
            index,
            &raw mut name,
            &raw mut value,
            &raw mut size,
        );
        if error != RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR {
            return None;
        }
        let value =
            (!value.is_null()).then(|| std::slice::from_raw_parts(value.cast::<u8>(), size));
        Some((CStr::from_ptr(name).to_string_lossy(), value))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rdkafka::ClientConfig;
    use rdkafka::consumer::{BaseConsumer, Consumer};
    use rdkafka::mocking::MockCluster;
    use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer};
    use rdkafka::{Offset, TopicPartitionList};

    use super::*;

    /// Adds a header whose name is not UTF-8, as producers in other languages can.
    #[allow(unsafe_code)]
    fn add(headers: &OwnedHeaders, name: &[u8], value: &[u8]) {
        let native: Native = ptr::from_ref(headers.as_borrowed()).cast_mut().cast();
        let (name_length, length) = (name.len() as isize, value.len() as isize);
        // SAFETY: the reference is librdkafka's pointer to the headers; it copies both texts.
        let error = unsafe {
            bindings::rd_kafka_header_add(
                native,
                name.as_ptr().cast(),
                name_length,
                value.as_ptr().cast(),
                length,
            )
        };
        assert_eq!(error, RDKafkaRespErr::RD_KAFKA_RESP_ERR_NO_ERROR);
    }

    /// A record in a cluster, and a consumer of it, which has to be dropped first.
    fn sent(
        headers: Option<OwnedHeaders>,
    ) -> (MockCluster<'static, DefaultProducerContext>, BaseConsumer) {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic("t", 1, 1).unwrap();
        let mut client = ClientConfig::new();
        client.set("bootstrap.servers", cluster.bootstrap_servers());
        client.set("group.id", "none");
        client.set("enable.auto.commit", "false");
        let producer: BaseProducer = client.create().unwrap();
        let mut record = BaseRecord::<(), str>::to("t").partition(0).payload("x");
        record.headers = headers;
        producer.send(record).map_err(|(error, _)| error).unwrap();
        producer.flush(Duration::from_secs(30)).unwrap();
        let consumer: BaseConsumer = client.create().unwrap();
        let mut assignment = TopicPartitionList::new();
        assignment
            .add_partition_offset("t", 0, Offset::Beginning)
            .unwrap();
        consumer.assign(&assignment).unwrap();
        (cluster, consumer)
    }

    #[test]
    fn null_repeated_and_malformed_headers_are_read() {
        let header = |key, value| Header { key, value };
        let headers = OwnedHeaders::new()
            .insert(header("a", Some("1")))
            .insert(header("null", None))
            .insert(header("a", Some("2")));
        add(&headers, b"n\xff", b"\xfe");
        let (_cluster, consumer) = sent(Some(headers));
        let message = consumer.poll(Duration::from_secs(30)).unwrap().unwrap();
        let all: Vec<_> = iter(&message).collect();
        let all: Vec<_> = all.iter().map(|(name, value)| (&**name, *value)).collect();
        let expected: [(&str, Option<&[u8]>); 4] = [
            ("a", Some(b"1")),
            ("null", None),
            ("a", Some(b"2")),
            ("n\u{fffd}", Some(b"\xfe")),
        ];
        assert_eq!(all, expected);
        assert_eq!(first(&message, "a"), Some(&b"1"[..]));
        assert_eq!(first(&message, "null"), None);
        assert_eq!(first(&message, "b"), None);
        let headers = super::copy(&message);
        assert_eq!(text(&headers, "a"), Some("1"));
        assert_eq!(text(&headers, "n\u{fffd}"), None, "the value is not UTF-8");
        let copy = detach(&message);
        let names: Vec<&str> = owned(&copy).map(|header| header.key).collect();
        assert_eq!(names, ["a", "null", "a", "n\u{fffd}"]);
        assert_eq!((copy.payload(), copy.offset()), (Some(&b"x"[..]), 0));
    }

    #[test]
    fn a_record_without_headers_has_none() {
        let (_cluster, consumer) = sent(None);
        let message = consumer.poll(Duration::from_secs(30)).unwrap().unwrap();
        assert_eq!(iter(&message).count(), 0);
        assert_eq!(copy(&message).count(), 0);
    }
}
