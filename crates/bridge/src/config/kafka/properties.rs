//! Properties of librdkafka that users of the bridge may not set, or only without a delivery
//! guarantee.

use iot_kafka::librdkafka::Reserved;

/// Properties that can't be set, and why.
pub(super) const RESERVED: Reserved = Reserved {
    names: NAMES,
    prefixes: &[],
};

const NAMES: &[(&str, &str)] = &[
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("acks", "use kafka.acks"),
    ("request.required.acks", "use kafka.acks"),
    ("enable.idempotence", "use kafka.idempotence"),
    ("linger.ms", "use kafka.linger"),
    ("queue.buffering.max.ms", "use kafka.linger"),
    ("batch.size", "use kafka.batch_size"),
    ("compression.type", "use kafka.compression"),
    ("compression.codec", "use kafka.compression"),
    ("request.timeout.ms", "use kafka.request_timeout"),
    ("socket.timeout.ms", "use kafka.request_timeout"),
    ("message.max.bytes", "use kafka.max_message_bytes"),
    ("queue.buffering.max.messages", "use in_flight.messages"),
    ("queue.buffering.max.kbytes", "use in_flight.bytes"),
    ("allow.auto.create.topics", "use topics.create"),
    (
        "topic.metadata.propagation.max.ms",
        "the bridge creates topics before it writes to them",
    ),
    ("log_level", "use log.level"),
    ("log.queue", "the bridge logs through it"),
    ("enabled_events", "the bridge depends on all of them"),
    (
        "statistics.interval.ms",
        "the bridge does not read librdkafka's statistics",
    ),
    (
        "topic.blacklist",
        "route.topic decides which topics are written to",
    ),
    (
        "delivery.report.only.error",
        "no message would be acknowledged without the report of its delivery",
    ),
    (
        "transactional.id",
        "the bridge does not write in transactions",
    ),
    (
        "transaction.timeout.ms",
        "the bridge does not write in transactions",
    ),
];

const EXPIRES: &str = "a record that expires in librdkafka is sent again after later ones";
const ONE_POISONS_ALL: &str = "one rejected record would end the producer";

/// Properties that break the guarantee, whatever their value, and why.
pub(super) const WEAK: &[(&str, &str)] = &[
    ("message.timeout.ms", EXPIRES),
    ("delivery.timeout.ms", EXPIRES),
    ("retries", EXPIRES),
    ("message.send.max.retries", EXPIRES),
    ("enable.gapless.guarantee", ONE_POISONS_ALL),
    (
        "queuing.strategy",
        "records must be sent in the order they arrived in",
    ),
];
