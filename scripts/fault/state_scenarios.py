"""The faults of the consumer: each a load, what happens to it, and how that is proved to have happened."""

import contextlib
import os
import socket
import time

from lib.process import wait_for
from lib.stack import stack

from .common import Faults
from .state_trial import CONFLICTS, LAG, LATE, LOST, MAX_FUTURE, REBUILDS, REPLACED, SESSION, reached

# So often a fault is tried that must fall into a moment.
TRIES = 10

ALL = Faults()
fault = ALL.add


# ------------------------------------------------------------- the processes


@fault("consumer-killed", "consumer killed with SIGKILL under load, again and again")
def consumer_killed(trial):
    consumer = trial.consumer(static=True)
    trial.fleet()
    for _ in range(trial.form.kills):
        trial.flows()
        consumer.kill()
        consumer.start()
        trial.recovery()
        # A process has counted for itself only.
        trial.must(consumer.metric("kafka_consumer_active_partitions") > 0, "nothing is read")
        trial.must(not consumer.metric(REBUILDS), "the state was built again")
    trial.note(f"kills: {trial.form.kills}")


@fault("group-killed", "consumers join their group, and are killed with SIGKILL in turn")
def group_killed(trial):
    members = [trial.consumer("0")]
    trial.fleet()
    kills = 0
    for size in trial.form.groups:
        trial.flows()
        members += [trial.consumer(str(number)) for number in range(len(members), size)]
        trial.shared(members)
        for member in members[-trial.form.few_kills:]:
            trial.flows()
            member.kill()
            killed = time.monotonic()
            trial.shared(trial.living())
            trial.recovery(killed)
            member.start()
            trial.shared(members)
            kills += 1
    sizes = " and ".join(map(str, trial.form.groups))
    trial.note(f"kills: {kills}, in groups of {sizes}; a dead member is missed after {SESSION} s")


@fault("consumer-stopped", "one of two consumers stopped (SIGSTOP) until its partitions moved, then woken")
def consumer_stopped(trial):
    sleeper, other = members = [trial.consumer("0"), trial.consumer("1")]
    trial.fleet()
    trial.shared(members)
    trial.flows()
    sleeper.sleep()
    trial.shared([other])
    trial.flows()
    sleeper.wake()
    woken = time.monotonic()
    trial.wait("the sleeper's writes to be refused", lambda: sleeper.metric(CONFLICTS) > 0)
    trial.shared(members)
    trial.recovery(woken)
    trial.note(f"steps of it that were refused: {sleeper.metric(CONFLICTS):g}")


@fault("descriptors-used-up", "256 open files, and twice as many idle connections to the consumer's listeners")
def descriptors_used_up(trial):
    consumer = trial.consumer(files=256)
    trial.fleet()
    trial.flows()
    idle = []
    for port in (consumer.ops, consumer.http):
        for _ in range(256):
            # Closed at once if there is no room.
            with contextlib.suppress(OSError):
                idle.append(socket.create_connection(("127.0.0.1", port), 5))
    trial.must(len(idle) > 256, f"only {len(idle)} connections could be made")
    trial.flows(2)
    trial.until_sealing()
    trial.recovery()
    trial.must(not consumer.said("Too many open files"), "its log says that it had too many open files")
    for connection in idle:
        connection.close()
    trial.note(f"{len(idle)} connections; readiness answers, and records are stored")


# --------------------------------------------------------------------- Redis


@fault("redis-killed", "Redis killed with SIGKILL and started again without its last second of writes")
def redis_killed(trial):
    consumer = trial.consumer()
    redis = trial.redis
    trial.fleet()
    again = 0
    for _ in range(trial.form.few_kills):
        trial.flows(2)
        kept = redis.log_file().stat().st_size
        trial.flows()
        place, before = consumer.log_end(), trial.stored()
        redis.kill()
        # As after a power cut: the end of the file is missing, wherever that is.
        os.truncate(redis.log_file(), kept)
        redis.start()
        trial.recovery()
        after = consumer.loaded(place)
        back = sum(before[number] - offset for number, offset in after.items())
        trial.must(back > 0, f"the stored offsets did not go back: {before}, then {after}")
        again += back
    trial.must(consumer.metric(CONFLICTS) > 0, "no step was refused")
    trial.note(f"kills: {trial.form.few_kills}; {again:,} records folded again")


@fault("redis-flushed", "FLUSHALL under load")
def redis_flushed(trial):
    consumer = trial.consumer()
    trial.fleet()
    trial.flows(trial.form.down + 1)
    place, before = consumer.log_end(), trial.total()
    trial.redis.cli("FLUSHALL")
    trial.recovery()
    trial.must(consumer.metric(REBUILDS) == trial.partitions, "not every partition was built again")
    trial.must(set(consumer.loaded(place).values()) == {0}, "it was not built again from the earliest record")
    trial.note(f"{before:,} records folded again")


@fault("redis-failover", "a replica that lacks writes takes over (Sentinel)")
def redis_failover(trial):
    login = ("--masteruser", "replica", "--masterauth", "replica")
    master = trial.redis = trial.server()
    master.cli("ACL", "SETUSER", "replica", "on", ">replica", "+psync", "+replconf", "+ping")
    replica = trial.server("--replicaof", "127.0.0.1", str(master.port), *login)
    sentinel = trial.server(sentinel_of=master.port)
    trial.wait("the replica to be known", lambda: "num-slaves\n1" in sentinel.cli("SENTINEL", "MASTER", "main"))
    trial.wait("the replica to be in step", lambda: "state=online" in master.cli("INFO", "replication"))
    consumer = trial.consumer(url=f"redis-sentinel://127.0.0.1:{sentinel.port}/main")
    trial.fleet()
    trial.flows(2)
    master.cli("ACL", "SETUSER", "replica", "off")
    master.cli("CLIENT", "KILL", "TYPE", "replica")
    trial.flows()
    place, before = consumer.log_end(), trial.stored()
    behind = replica.offsets(trial.name, trial.partitions)
    master.kill()
    trial.redis = replica
    trial.recovery()
    missing = sum(before.values()) - sum(behind.values())
    trial.must(missing > 0, "the replica had everything")
    trial.must(replica.cli("ROLE").startswith("master"), "the replica did not take over")
    trial.must(consumer.metric(CONFLICTS) > 0, "no step was refused")
    trial.must(consumer.loaded(place), "nothing was loaded from the replica")
    trial.note(f"it lacked {missing:,} records, which were folded again")


@fault("redis-full", "Redis out of memory (noeviction), then given more")
def redis_full(trial):
    consumer = trial.consumer()
    redis = trial.redis
    trial.fleet()
    trial.flows(2)
    redis.cli("CONFIG", "SET", "maxmemory", str(redis.info("used_memory") + 50_000))
    refused = 'iot_store_errors_total{kind="full"}'
    trial.wait("Redis to be full", lambda: consumer.metric(refused) > 0 and consumer.readiness()[0] == 503)
    stood = trial.stored()
    time.sleep(trial.form.down)
    redis.cli("CONFIG", "SET", "maxmemory", "0")
    trial.must(sum(stood.values()) < sum(trial.ends().values()), "nothing waited")
    trial.recovery()
    trial.note(f"full for {trial.form.down:g} s, {consumer.metric(refused):g} writes refused")


@fault("redis-half-way", "Redis refuses the last write of a step, whose first ones it has done")
def redis_half_way(trial):
    consumer = trial.consumer()
    trial.fleet()
    trial.flows(2)
    for _ in range(TRIES):
        windows = refuse_half_way(trial, consumer)
        if windows:
            break
    trial.must(windows, "no window was written before a step was refused")
    trial.note(f"{windows:,} windows were written before the values that they go with")


def refuse_half_way(trial, consumer):
    """How many windows were written of steps that were refused then."""
    redis = trial.redis
    trial.until_sealing()
    # The script writes sealed windows with SET, and then everything else with HSET.
    said = redis.cli(lines="MULTI\nACL SETUSER default -hset\nDBSIZE\nEXEC\n")
    trial.wait("the steps to be refused", lambda: consumer.readiness()[0] == 503)
    stood = trial.stored()
    time.sleep(trial.form.down)
    trial.must(trial.stored() == stood, "offsets moved")
    windows = int(redis.cli("DBSIZE")) - int(said.split()[-1])
    redis.cli("ACL", "SETUSER", "default", "+hset")
    trial.recovery()
    return windows


# --------------------------------------------------------------------- Kafka


@fault("kafka-restarted", "Kafka killed with SIGKILL and started again")
def kafka_restarted(trial):
    trial.consumer()
    fleet = trial.fleet()
    trial.flows()
    trial.rig.kill("kafka")
    sent = fleet.confirmed()
    time.sleep(trial.form.down)
    stack("start", "kafka")
    trial.recovery()
    trial.must(fleet.confirmed() > sent, "nothing was sent after it")
    trial.note(f"down for {trial.form.down:g} s")


@fault("partitions-added", "two partitions added under load")
def partitions_added(trial):
    consumer = trial.consumer()
    trial.fleet()
    trial.flows()
    began = time.monotonic()
    trial.rig.topics("--alter", "--topic", trial.name, "--partitions", str(trial.partitions + 2))
    trial.partitions += 2
    trial.wait("the new partitions to be read",
               lambda: consumer.owned() == trial.partitions and len(trial.stored()) == trial.partitions)
    trial.wait("the new partitions to be used", lambda: all(trial.stored().values()))
    trial.recovery(began)
    trial.note("the consumer asks for new ones every 10 s")


@fault("log-truncated", "records deleted that the stopped consumer had not read")
def log_truncated(trial):
    consumer = trial.consumer()
    fleet = trial.fleet()
    trial.flows(2)
    trial.must(consumer.stop() == 0, "the consumer did not stop in order")
    sent = fleet.confirmed()
    wait_for("the load to go on", lambda: fleet.confirmed() > sent + 2 * trial.form.rate)
    stored, ends = trial.stored(), trial.ends()
    trial.rig.forget(trial.name, ends)
    trial.deleted = sum(ends.values())
    trial.lost = trial.deleted - sum(stored.values())
    place = consumer.log_end()
    consumer.start()
    trial.recovery()
    trial.must(consumer.metric(LOST) == trial.lost > 0, f"{consumer.metric(LOST):g} lost were counted, of {trial.lost}")
    said = consumer.said("records were deleted before they were read", place)
    trial.must(len(said) == trial.partitions, f"its log names {len(said)} partitions")
    # Windows that no deleted record can be in, and that are sealed.
    trial.flows(MAX_FUTURE + 2 * trial.form.window + trial.form.lateness)
    trial.note(f"reported: {trial.lost:,} in metric and log; compared is what came after them")


@fault("topic-recreated", "topic deleted and created again, under the running consumer and while it is stopped")
def topic_recreated(trial):
    consumer = trial.consumer()
    trial.fleet()
    trial.flows(2)
    for running in (True, False):
        # What is in the deleted log is in no state that is compared.
        trial.deleted += trial.fleets[-1].finish()["messages"]
        trial.wait("everything to be stored", lambda: reached(trial.stored(), trial.ends()))
        if not running:
            trial.must(consumer.stop() == 0, "the consumer did not stop in order")
        trial.rig.delete(trial.name)
        # Creates the topic again.
        trial.fleet()
        if not running:
            consumer.start()
        began = time.monotonic()
        trial.wait("the new topic to be noticed", lambda: consumer.metric(REPLACED) == trial.partitions)
        trial.recovery(began)
        trial.must(not consumer.metric(LOST), "records were counted as lost")
        trial.must(not consumer.metric(REBUILDS), "the state was built again for another reason")
        trial.flows(trial.form.window + trial.form.lateness + 1)
    trial.note(f"{trial.deleted:,} messages went with the topics")


@fault("clock-back", "times of messages and of their records jump back, and forth again")
def clock_back(trial):
    # What is replayed must find its devices in their partition.
    trial.partitions = 1
    consumer = trial.consumer()
    recorded = f"{trial.name}-recorded"
    past = trial.fleet(topic=recorded)
    wait_for("a recording", lambda: past.confirmed() >= 2 * trial.form.rate)
    trial.others = past.finish()["messages"]
    before = trial.fleet()
    # Until the windows of the recording are sealed.
    trial.flows(trial.form.window + trial.form.lateness + 1)
    before.finish()
    trial.rig.replay(recorded, trial.name)
    trial.fleet()
    trial.recovery()
    trial.flows()
    late = consumer.metric(LATE)
    trial.must(late > 0, "nothing came late")
    trial.note(f"{trial.others:,} messages from the past, {late:,.0f} readings counted as late")


@fault("transaction-aborted", "transactions beside the load, one of them aborted when its producer was killed with SIGKILL")
def transaction_aborted(trial):
    consumer = trial.consumer()
    fleet = trial.fleet()
    trial.flows()
    producer = trial.transactions()
    rate = trial.form.rate // 10
    producer.start(100 * rate, rate, transaction_ms=60_000)
    wait_for("records in a transaction", lambda: sum(trial.ends().values()) > fleet.confirmed() + rate)
    producer.kill()
    # What waits behind the transaction is lag, and said.
    trial.wait("the open transaction to be reported",
               lambda: consumer.metric(LAG) > rate and "transaction that has been open" in consumer.readiness()[1])
    # The next one of that name ends what the first one left open, and commits its own.
    producer.start(2 * rate, rate, transaction_ms=300)
    producer.finish()
    trial.recovery()
    # What follows the last marker: no offset moves past one.
    trial.flows()
    fleet.finish()
    trial.others = 2 * rate
    aborted = trial.rig.count(trial.name, "read_uncommitted") - trial.rig.count(trial.name, "read_committed")
    trial.must(aborted > 0, "nothing was aborted")
    trial.note(f"{trial.others:,} records committed, {aborted:,} aborted")
