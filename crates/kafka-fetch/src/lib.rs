//! Fetches the records of Kafka's partitions from their leaders, by explicit offset.
//!
//! This is the fetching part of a Kafka client, for programs that keep the offsets themselves,
//! with the state that they build from the records. It knows no consumer groups, commits
//! nothing, and decides nothing about an offset that is not in the log.
//!
//! ```no_run
//! use std::sync::Arc;
//!
//! use iot_core::partition::TopicPartition;
//! use kafka_fetch::{Fetcher, Settings, SubscriptionError};
//!
//! # async fn example() -> Result<(), SubscriptionError> {
//! let fetcher = Fetcher::start(Settings::new(["localhost:9092"]));
//! let partition = TopicPartition::new("device-data", 0);
//! let mut subscription = fetcher.subscribe(partition, 0, Arc::new(()));
//! loop {
//!     let batch = subscription.next().await?;
//!     for record in batch.records() {
//!         println!("{}: {:?}", record.offset(), record.value());
//!     }
//!     println!("the next offset is {}", batch.next_offset());
//! }
//! # }
//! ```
//!
//! # How it works
//!
//! - `fetcher` takes subscriptions. Each has two ends: the [`Subscription`] that the program
//!   reads from, and a cursor that goes from task to task.
//! - `leaders` is a task that looks up which broker leads the partitions of cursors, and
//!   passes them on to the brokers' tasks.
//! - `broker` is a task for each broker: one connection, with one request in flight for all
//!   its cursors together. After any error it gives the cursors back to `leaders`, which looks
//!   up the leaders again, with a backoff of up to a second. A broker that does not answer a
//!   look-up within a second is not waited for alone: the next one is asked too. Once a minute it does so without
//!   an error.
//! - `logs` is a task that asks leaders where their logs start and end.
//! - `directory` finds leaders in the metadata of the first broker that answers.
//! - `connection` is TCP, TLS and the login; `protocol` has the six requests, one in each
//!   file.
//! - `records` verifies and decompresses the batches in the task of the program that reads
//!   them. All records of a batch share one buffer; a record costs no allocation.
//!
//! # What is guaranteed
//!
//! - Records come in order, from the offset that was asked for, each of them once, whatever
//!   fails meanwhile: after an error fetching continues where the last whole batch ended.
//! - Only committed records (`read_committed`): those of aborted transactions are left out.
//! - Every checksum is verified. A batch that is corrupt, or in a message format before 2
//!   (Kafka 0.11), ends the subscription with an error; nothing is skipped.
//! - Backpressure: up to two fetches wait for a subscriber besides the one that it reads. While
//!   two wait, nothing more is fetched for it, nothing is dropped, and other partitions continue.
//! - A subscription reads one log: it ends with an error if the topic was deleted and created
//!   again, or the log truncated, as far as brokers tell ([`Subscription::topic_id`],
//!   [`SubscriptionError::Truncated`]). Each batch has the id of its topic and the epoch of the
//!   leader that appended it.
//! - Each answer to a fetch is reported with the times of sending and arrival, also without records
//!   ([`Observer::answered`]).
//! - A leader is left that is older than another one that is known by its epoch (KIP-320).
//! - Several subscriptions of one partition are independent. A Fetch request can have a
//!   partition only once, so those at different offsets take turns, and those at the same
//!   offset share a fetch.
//!
//! # Limits
//!
//! Nothing that a broker sends is trusted.
//!
//! | what | limit | beyond |
//! |---|---|---|
//! | response | 256 MiB | the connection is closed |
//! | lengths in a response | what is left of it | the connection is closed |
//! | batch, decompressed | 128 MiB | the subscription fails |
//! | lengths in a batch | what is left of it | the subscription fails |
//! | fetches and decompressed batches in memory, of all subscriptions | [`Settings::budget`] | batches wait to be decompressed, one at least is; at most one fetch waits for each subscriber |
//! | fetches that wait for a subscriber | 2, each of [`Settings::max_partition_bytes`] or one larger batch | not fetched |
//! | connecting, TLS and login | 5 s | another attempt |
//! | pause within a response, besides [`Settings::max_wait`] | 5 s | the connection is closed |
//! | delay that a broker asks for (`throttle_time_ms`) | 30 s | limited to 30 s |
//!
//! Kafka 2.3 or newer, or what speaks its protocol: Fetch 11 to 13, Metadata 7 to 10,
//! ListOffsets 5.

mod broker;
mod budget;
mod clock;
mod connection;
mod directory;
mod error;
mod fetcher;
mod leaders;
mod logs;
mod observer;
mod protocol;
mod records;
#[cfg(test)]
mod scripted;
mod settings;
mod start;
mod subscription;

pub use budget::{Budget, Held};
pub use clock::Stamp;
pub use connection::ConnectionError;
pub use error::{FetchError, SubscriptionError};
pub use fetcher::Fetcher;
pub use logs::LogState;
pub use observer::{Answer, LogEnd, Observer, Replica};
pub use protocol::ApiKey;
pub use protocol::error::ErrorCode;
pub use protocol::metadata::{InvalidTopicId, TopicId};
pub use protocol::primitives::Malformed;
#[cfg(fuzzing)]
pub use records::decode_batches;
pub use records::{Batch, CorruptBatch, Record};
pub use settings::{BoxError, Sasl, SaslMechanism, Security, SecuritySource, Settings};
pub use start::Start;
pub use subscription::Subscription;
