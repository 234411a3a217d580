//! Properties of librdkafka that users of the consumer may not set.

use iot_kafka::librdkafka::Reserved;

/// Properties that can't be set, and why. Records are fetched by another client that knows no
/// properties, so those of encryption and login would take effect for one client only.
pub(super) const RESERVED: Reserved = Reserved {
    names: NAMES,
    prefixes: &[
        ("ssl.", SECURITY),
        ("sasl.", SECURITY),
        ("enable.ssl.", SECURITY),
        ("enable.sasl.", SECURITY),
    ],
};

const SECURITY: &str = "use kafka.security";
const NO_QUEUE: &str = "records do not pass through librdkafka's queue: see fetch.max.bytes";

const NAMES: &[(&str, &str)] = &[
    ("bootstrap.servers", "use kafka.brokers"),
    ("metadata.broker.list", "use kafka.brokers"),
    ("group.id", "use kafka.group"),
    ("group.instance.id", "use kafka.group_instance_id"),
    ("session.timeout.ms", "use kafka.session_timeout"),
    (
        "enable.auto.commit",
        "offsets are committed with the stored state only",
    ),
    (
        "enable.auto.offset.store",
        "offsets are committed with the stored state only",
    ),
    ("auto.offset.reset", "use kafka.from"),
    ("partition.assignment.strategy", "it is cooperative-sticky"),
    ("group.protocol", "it is classic"),
    ("isolation.level", "it is read_committed"),
    ("topic.blacklist", "it excludes reserved topics"),
    (
        "statistics.interval.ms",
        "readiness depends on the statistics",
    ),
    ("check.crcs", "checksums are always checked"),
    ("fetch.queue.backoff.ms", NO_QUEUE),
    ("queued.min.messages", NO_QUEUE),
    ("queued.max.messages.kbytes", NO_QUEUE),
    ("fetch.error.backoff.ms", NO_QUEUE),
];
