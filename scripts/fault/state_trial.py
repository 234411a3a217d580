"""One fault of the consumer being tried: its parts, what is waited for, and the count at the end."""

import dataclasses
import time

from lib.process import wait_for
from lib.stack import stack

from . import common
from .state_rig import Consumer, Fleet, Redis, Transactions, verify
from .state_verdict import Row, Sent

# What the consumer counts.
CONFLICTS = "iot_store_conflicts_total"
REBUILDS = "iot_store_rebuilds_total"
REPLACED = "iot_store_logs_replaced_total"
LOST = "kafka_consumer_lost_records_total"
LAG = "kafka_consumer_lag_messages"
LATE = "iot_readings_late_total"
PAUSE = 0.03


@dataclasses.dataclass
class Form:
    """How hard. Times are in seconds."""

    rate: int
    devices: int
    partitions: int
    kills: int
    # Of Redis; of consumers in a group, each time it has grown.
    few_kills: int
    # How large the groups become.
    groups: tuple
    # How long something is away.
    down: float
    # The shorter of two lengths of windows, and how late values may be for them.
    window: int
    lateness: int


SHORT = Form(rate=1_000, devices=100, partitions=4, kills=3, few_kills=1, groups=(2,), down=1, window=1, lateness=1)
LONG = Form(rate=20_000, devices=2_000, partitions=4, kills=20, few_kills=3, groups=(2, 3), down=10, window=5,
            lateness=2)

# The shortest that Kafka allows: so long nobody reads what a killed consumer had.
SESSION = 6
# So many windows are kept that none expires while it is waited for.
KEEP = 1_000
# How far a message may be ahead of its record, in seconds; the simulator's never are.
MAX_FUTURE = 1


class Trial(common.Trial):
    """One fault being tried, on a topic, a group and a Redis of its own."""

    def __init__(self, rig, form, scenario):
        super().__init__(rig, form, Row(fault=scenario.name, done=scenario.title))
        self.name = f"{scenario.name}-{int(time.time() * 1000) % 10**7}"
        self.partitions = form.partitions
        self.redis, self.servers, self.fleets, self.producers = None, [], [], []
        # What others than the fleets have sent, and what was deleted before it was read.
        self.others, self.deleted, self.lost = 0, 0, 0

    # -- the parts

    def server(self, *arguments, **options):
        redis = Redis(self.rig, self.name, *arguments, **options)
        self.servers.append(redis)
        return redis

    def durable(self):
        # One file that only grows, so that its end is what was written last.
        return self.server("--appendonly", "yes", "--appendfsync", "everysec", "--auto-aof-rewrite-percentage", "0")

    def consumer(self, name="0", url=None, static=False, session=SESSION, files=None, more=None, **how):
        """A member of the group; a `static` one has its partitions again as soon as it is back.
        Without a length of the session, in seconds, it is the default. `files` limits its open files;
        `more` are further settings, and the rest is how it is run."""
        self.redis = self.redis or self.durable()
        settings = {
            "kafka.brokers": self.rig.brokers,
            "kafka.topics": self.name,
            "kafka.group": self.name,
            "store.url": url or self.redis.url,
            "windows.sizes": self.sizes(),
            "windows.allowed_lateness": f"{self.form.lateness}s",
            "windows.keep": KEEP,
            "validate.max_future": f"{MAX_FUTURE}s",
            "dead_letter.topic": self.letters(),
        }
        if session:
            settings["kafka.session_timeout"] = f"{session}s"
        if static:
            settings["kafka.group_instance_id"] = name
        consumer = Consumer(self.rig, f"{self.name}-{name}", settings | (more or {}), files, **how)
        self.services.append(consumer)
        return consumer

    def sizes(self):
        return f"{self.form.window}s,1m"

    def letters(self):
        return f"iot.dead-letter.{self.name}"

    def fleet(self, topic=None):
        """A load; what it sends to another topic does not count."""
        name = f"{self.name}-fleet-{len(self.producers)}"
        fleet = Fleet(self.rig, name, topic or self.name, self.form.rate, self.form.devices, self.partitions)
        self.producers.append(fleet)
        if not topic:
            self.fleets.append(fleet)
        wait_for("the simulator to send", lambda: fleet.confirmed() > 0)
        return fleet

    def transactions(self):
        producer = Transactions(self.rig, self.name)
        self.producers.append(producer)
        return producer

    # -- where everything is

    def ends(self):
        return self.rig.ends(self.name, self.partitions)

    def stored(self):
        return self.redis.offsets(self.name, self.partitions)

    def total(self):
        return sum(self.stored().values())

    def flows(self, seconds=1.0):
        """Waits until so many seconds' worth more is stored."""
        goal = self.total() + max(1, int(self.form.rate * seconds))
        self.wait("the consumer to go on", lambda: self.total() >= goal)

    def wait(self, what, condition):
        """Until it holds, while every consumer that was not killed goes on running."""

        def check():
            time.sleep(PAUSE)
            for consumer in self.living():
                consumer.running()
            return condition()

        return wait_for(what, check)

    def living(self):
        return [consumer for consumer in self.services if not consumer.away]

    def until_sealing(self):
        """Until windows are being sealed: all devices say something new when their time is over."""
        time.sleep((self.form.lateness - time.time()) % self.form.window + 2 * PAUSE)

    def shared(self, members):
        """Waits until these have all partitions, each at least one."""

        def check():
            owned = [member.owned() for member in members]
            return all(owned) and sum(owned) == self.partitions

        self.wait("the partitions to be shared", check)

    def recovery(self, since=None):
        """Waits until all consumers are ready and nothing that is older than a second waits
        in the log, and takes the time since the fault ended."""
        since = since or time.monotonic()
        ends = []

        def recovered():
            ends.append((time.monotonic(), self.ends()))
            stored, now = self.stored(), time.monotonic()
            recent = [end for at, end in ends if end and now - at < 1]
            return any(reached(stored, end) for end in recent) and self.ready()

        self.wait("the consumer to catch up", recovered)
        self.row.recovered(time.monotonic() - since)

    def ready(self):
        return all(consumer.readiness()[0] == 200 for consumer in self.living())

    # -- the end

    def settle(self):
        """Lets the loads run out, waits until all is stored, stops the consumers and counts."""
        figures = [fleet.finish() for fleet in self.fleets]
        self.wait("everything to be stored", lambda: reached(self.stored(), self.ends()))
        for consumer in self.living():
            code = consumer.stop()
            self.must(code == 0, f"the consumer ended with {code} on SIGTERM")
        report, exact = self.verify()
        sent = Sent(
            confirmed=sum(figure["messages"] for figure in figures) + self.others,
            repeats=sum(figure["possible_duplicates"] for figure in figures),
            deleted=self.deleted,
            lost=self.lost,
        )
        self.row.count(sent, report, exact)

    def verify(self):
        return verify(self.rig, [
            "--topic", self.name, "--dead-letter-topic", self.letters(), "--redis", self.redis.url,
            "--size", self.sizes(), "--lateness", f"{self.form.lateness}s", "--keep", str(KEEP),
            "--max-future", f"{MAX_FUTURE}s"])

    def abandon(self):
        """Leaves nothing running, whatever happened."""
        for one in [*self.services, *self.producers, *self.servers]:
            if one.process and one.process.poll() is None:
                one.process.kill()
                one.process.wait()
        stack("up")


def reached(stored, ends):
    """Whether all is stored that was in the log when it ended there."""
    return bool(ends) and all(stored.get(number, 0) >= end for number, end in ends.items())
