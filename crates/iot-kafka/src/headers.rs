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
