"""The faults: each a load, what happens to it, and what must hold."""

import dataclasses
import subprocess
import time

from lib.process import wait_for
from lib.stack import stack

from . import common
from .proxy import packet
from .rig import PREFIX, Bridge, Load
from .verdict import Row

# What the settings file of a bridge that can keep tenants apart names.
ISOLATION = "isolation:"


@dataclasses.dataclass
class Form:
    """How hard. Times are in seconds."""

    rate: int
    kills: int
    # How long a broker, or the network to it, is away.
    down: float
    # The same, where that has to be noticed or waited out.
    long_down: float
    stalled_after: int
    # Whether to wait the minute that a session is kept at least.
    patient: bool


SHORT = Form(rate=300, kills=3, down=3, long_down=6, stalled_after=2, patient=False)
LONG = Form(rate=5000, kills=20, down=15, long_down=60, stalled_after=10, patient=True)


@dataclasses.dataclass
class Scenario(common.Scenario):
    # Whether order must be kept.
    ordered: bool = True


ALL = common.Faults(Scenario)
fault = ALL.add


class Trial(common.Trial):
    """One fault being tried."""

    def __init__(self, rig, form, scenario):
        super().__init__(rig, form, Row(fault=scenario.title, regressions_allowed=0 if scenario.ordered else None))
        # Names of its own: nothing of another trial is in its session or topics.
        self.tenant = scenario.name.replace("-", "_") + f"_{int(time.time() * 1000) % 10**7}"
        self.topic = f"{self.tenant}.p"
        self.dead_letters = f"iot.dead-letter.{self.tenant}"
        self.loads = []
        # Whether the broker forgot the session while the bridge was away.
        self.session_lost = False

    # -- the parts

    def bridge(self, suffix="", **settings):
        settings = {key.replace("__", "."): value for key, value in settings.items()}
        usual = {
            "mqtt.filters": f"{PREFIX}/{self.tenant}/#",
            "dead_letter.topic": self.dead_letters,
            "kafka.stalled_after": f"{self.form.stalled_after}s",
        }
        bridge = Bridge(self.rig, f"iot-bridge-{self.tenant}{suffix}", usual | settings)
        self.services.append(bridge)
        bridge.ready()
        return bridge

    def load(self, project="p", topics=None, rate=None, kind="", payload=400, tenant=None, flowing=True):
        tenant = tenant or self.tenant
        # The kind goes first: no run's name may begin with another's, which the ledger
        # would take for records of that one, changed on the way.
        load = Load(self.rig, kind + tenant, f"{PREFIX}/{tenant}/{project}",
                    topics or [f"{tenant}.{project}", self.dead_letters],
                    rate or self.form.rate, payload)
        self.loads.append(load)
        if flowing:
            load.flows()
        return load

    # -- what happens to them

    def recovery(self, load, ended=None, delivered=True):
        """Waits until messages come through again without delay, and nothing is behind,
        and takes the time since the fault ended. Where messages are lost at the broker
        (not `delivered`), their number can't tell what is behind."""
        ended = ended or time.time()
        wait_for(f"{load.run} to catch up", lambda: load.fresh(ended) and (load.caught_up() or not delivered))
        self.row.recovery_s = max(self.row.recovery_s or 0, time.time() - ended)

    def settle(self):
        """Lets the loads run out, stops the bridges and counts."""
        again = 0
        for load in self.loads:
            again += load.finish()["resent"]
        if again:
            self.note(f"the publisher sent {again:,} again")
        lost = sum(int(bridge.metric("mqtt_sessions_lost_total")) for bridge in self.services)
        if lost:
            self.note("the broker lost the session")
        for bridge in self.services:
            code = bridge.stop()
            self.must(code == 0, f"the bridge ended with {code} on SIGTERM")
        self.row.peak_mb = max((bridge.peak for bridge in self.services), default=0) / 1e6
        for load in self.loads:
            self.row.count(load.outcome(self.session_lost))
        self.must(self.row.lost_at_broker or not self.session_lost, "nothing was lost: the session was still there")

    def abandon(self):
        """Leaves nothing running, whatever happened."""
        self.rig.kafka.delay = 0
        self.rig.mqtt.refusing = False
        for proxy in (self.rig.mqtt, self.rig.kafka):
            proxy.heal()
        for process in [load.process for load in self.loads] + [bridge.process for bridge in self.services]:
            if process.poll() is None:
                process.kill()
                process.wait()
        stack("up")


# ------------------------------------------------------------- the processes


@fault("bridge-killed", "bridge killed with SIGKILL again and again")
def bridge_killed(trial):
    bridge = trial.bridge()
    load = trial.load()
    for _ in range(trial.form.kills):
        load.flows()
        bridge.kill()
        bridge.start()
        trial.recovery(load)
    trial.note(f"{trial.form.kills} kills")


@fault("bridge-stopped", "SIGTERM at full load, then started again")
def bridge_stopped(trial):
    bridge = trial.bridge()
    load = trial.load()
    load.flows(2)
    began = time.monotonic()
    code = bridge.stop()
    trial.must(code == 0, f"exit code {code} on SIGTERM")
    trial.note(f"ended after {time.monotonic() - began:.1f} s")
    bridge.start()
    trial.recovery(load)


@fault("replica-killed", "two replicas, one killed with SIGKILL", ordered=False)
def replica_killed(trial):
    group = {"mqtt__share_group": trial.tenant}
    first, _ = trial.bridge("-0", **group), trial.bridge("-1", **group)
    load = trial.load()
    load.flows(2)
    first.kill()
    # The other one goes on; what Mosquitto queues for the dead one waits for it.
    load.flows(trial.form.down / 4)
    time.sleep(trial.form.down)
    first.start()
    trial.recovery(load)
    trial.note(f"away for {trial.form.down:g} s")


@fault("session-expired", "bridge away for longer than its session is kept")
def session_expired(trial):
    expiry = 60
    bridge = trial.bridge(mqtt__session_expiry=f"{expiry}s")
    load = trial.load()
    load.flows(2)
    # In order: what was received but not acknowledged would be lost with the session.
    code = bridge.stop()
    trial.must(code == 0, f"exit code {code} on SIGTERM")
    if trial.form.patient:
        time.sleep(expiry + 10)
        trial.note(f"away for {expiry + 10} s, session kept for {expiry} s")
    else:
        # The same for the bridge: another client took its name and started a new session.
        trial.rig.take_session(bridge.client_id)
        time.sleep(1)
        trial.note("session taken away")
    bridge.start()
    trial.recovery(load, delivered=False)
    trial.session_lost = True


# --------------------------------------------------------------- the brokers


def kafka_killed(trial, down):
    trial.bridge()
    load = trial.load()
    load.flows()
    trial.rig.kill("kafka")
    time.sleep(down)
    stack("start", "kafka")
    trial.recovery(load)
    trial.note(f"down for {down:g} s")


@fault("kafka-killed", "Kafka killed with SIGKILL and started again")
def kafka_killed_for_short(trial):
    kafka_killed(trial, trial.form.down)


@fault("kafka-killed-long", "Kafka killed with SIGKILL, down for long", short=False)
def kafka_killed_for_long(trial):
    kafka_killed(trial, trial.form.long_down)


@fault("mosquitto-restarted", "Mosquitto restarted, persistence on")
def mosquitto_restarted(trial):
    trial.bridge()
    load = trial.load()
    load.flows(2)
    stack("stop", "mosquitto")
    stack("start", "mosquitto")
    trial.recovery(load)


@fault("mosquitto-killed", "Mosquitto killed with SIGKILL and started again")
def mosquitto_killed(trial):
    trial.bridge()
    load = trial.load()
    load.flows(2)
    trial.rig.kill("mosquitto")
    stack("start", "mosquitto")
    trial.recovery(load, delivered=False)


@fault("sent-again", "messages sent again on their connection while Kafka is away, then the bridge killed")
def sent_again(trial):
    bridge = trial.bridge()
    load = trial.load()
    load.flows(2)
    surplus = trial.rig.watch.surplus
    stack("stop", "kafka")
    # Acknowledgements on their way have arrived by then.
    time.sleep(trial.form.down)
    again = trial.rig.mqtt.send_again()
    trial.must(again, "everything was acknowledged although Kafka was away")
    known = 'bridge_deduplicated_messages_total{by="in_flight"}'
    wait_for("the bridge to recognise them", lambda: bridge.metric(known) >= again)
    stack("start", "kafka")
    trial.recovery(load)
    surplus = trial.rig.watch.surplus - surplus
    trial.must(not surplus, f"{surplus} acknowledgements more than messages")
    bridge.kill()
    bridge.start()
    trial.recovery(load)
    trial.note(f"{again} messages sent again")


@fault("refused-filter", "one of two filters refused by the broker, and granted later")
def refused_filter(trial):
    trial.rig.mqtt.refusing = True
    filters = f"{PREFIX}/{trial.tenant}/#,{PREFIX}/{trial.tenant}_other/#"
    bridge = trial.bridge(mqtt__filters=filters)
    load = trial.load()
    load.flows(2)
    status, text = bridge.readiness()
    refused = bridge.metric("mqtt_refused_filters")
    trial.must(refused == 1, f"{refused:g} filters count as refused")
    trial.must(status == 200 and f"{trial.tenant}_other" in text, f"readiness does not name the filter: {text}")
    trial.rig.mqtt.refusing = False
    wait_for("the filter to be granted", lambda: bridge.metric("mqtt_refused_filters") == 0)
    trial.recovery(load)
    trial.note("the other one flows; readiness names it")


@fault("kafka-slow", "every answer of Kafka 1 s late")
def kafka_slow(trial):
    trial.bridge()
    load = trial.load()
    load.flows()
    trial.rig.kafka.delay = 1.0
    load.flows(trial.form.down / 2)
    time.sleep(trial.form.down / 2)
    trial.rig.kafka.delay = 0.0
    trial.recovery(load)
    trial.note(f"for {trial.form.down:g} s or more")


# --------------------------------------------------------------- the network


def cut(trial, proxy, down, old_connections):
    """Nothing passes for a while, without a reset. Then the old connections continue as
    TCP has them, or stay dead, as behind a firewall that forgot them."""
    trial.bridge()
    load = trial.load()
    load.flows(2)
    proxy.cut()
    time.sleep(down)
    acknowledged = load.acknowledged()
    time.sleep(0.5)
    trial.must(load.acknowledged() == acknowledged, "messages passed a cut network")
    proxy.heal(old_connections)
    trial.recovery(load)
    trial.note(f"cut for {down:g} s")


@fault("mqtt-cut", "network to MQTT cut without a FIN, then whole again")
def mqtt_cut(trial):
    cut(trial, trial.rig.mqtt, trial.form.down, True)


@fault("mqtt-cut-for-good", "the same, and the old connection stays dead")
def mqtt_cut_for_good(trial):
    cut(trial, trial.rig.mqtt, trial.form.long_down / 3, False)


@fault("kafka-cut", "network to Kafka cut without a FIN, then whole again")
def kafka_cut(trial):
    cut(trial, trial.rig.kafka, trial.form.down, True)


@fault("kafka-cut-for-good", "the same, and the old connections stay dead", short=False)
def kafka_cut_for_good(trial):
    cut(trial, trial.rig.kafka, trial.form.long_down / 3, False)


# ----------------------------------------------------- topics and dead letters
# The last two start a second broker, which then stays: nothing may come after them.


@fault("topic-deleted", "Kafka topic deleted while it is written to")
def topic_deleted(trial):
    trial.bridge()
    load = trial.load()
    load.flows(2)
    load.deleted = trial.rig.delete_topic(trial.topic)
    trial.must(load.deleted, "the deleted topic was empty")
    trial.recovery(load)
    trial.note(f"{len(load.deleted):,} records went with the topic")


@fault("late-authorisation", "no right to create a topic, and granted later")
def late_authorisation(trial):
    variables = trial.rig.variables
    user = f"User:{variables['KAFKA_USERNAME']}"
    bridge = trial.bridge(
        kafka__brokers=variables["KAFKA_SASL_BROKERS"], kafka__security__protocol="sasl_plaintext",
        kafka__security__mechanism="PLAIN", kafka__security__username=user.removeprefix("User:"),
        kafka__security__password=variables["KAFKA_PASSWORD"])
    # Creating is allowed by the cluster or by the topic. What a topic's rules do not name is denied.
    rules = [("--deny-principal", user, "--operation", "Create", "--cluster"),
             ("--allow-principal", user, "--operation", "Write", "--operation", "Describe", "--topic", trial.topic)]
    for rule in rules:
        trial.rig.acl("--add", *rule)
    try:
        load = trial.load(flowing=False)
        bridge.stalled()
        # It writes first, in case the topic exists.
        wait_for("the reason in the readiness", lambda: "TOPIC_AUTHORIZATION_FAILED" in bridge.readiness()[1])
        time.sleep(trial.form.down)
    finally:
        for rule in rules:
            trial.rig.acl("--remove", "--force", *rule)
    trial.recovery(load)
    dead = bridge.metric("message_processing_errors_total")
    trial.must(not dead, f"{dead:g} messages became dead letters")
    trial.note("readiness gives the reason until then")


def poison(trial, **settings):
    """Of every hundred messages one is too large, and one has a topic that can't be routed."""
    bridge = trial.bridge(**settings)
    # 2 MB each: at the full rate they would be 100 MB a second.
    rate = min(trial.form.rate, 500)
    few = max(1, rate // 100)
    loads = [
        trial.load(rate=rate),
        bad := trial.load(project="not.valid", kind="bad-", rate=few, topics=[trial.dead_letters]),
        large := trial.load(kind="2mb-", rate=few, payload=2_000_000, topics=[trial.dead_letters]),
    ]
    time.sleep(trial.form.down)
    for load in loads:
        load.finish()
    trial.note(f"{rate} messages a second, {bad.messages} bad topics, {large.messages} of 2 MB")
    refused = sum(bridge.metric(f'message_processing_errors_total{{reason="{reason}"}}')
                  for reason in ("too_large", "invalid_project"))
    trial.must(refused >= bad.messages + large.messages, f"only {refused:g} were counted as refused")


@fault("poison", "a 2 MB payload and a bad topic every 100th message")
def poison_by_limit(trial):
    poison(trial)


@fault("poison-in-batch", "the same, the 2 MB refused by Kafka within a batch")
def poison_in_batch(trial):
    # Compressed, 2 MB of the ledger's padding are a few kilobytes.
    poison(trial, kafka__max_message_bytes="4 MiB", kafka__compression="none")


@fault("poison-property", "properties that are not UTF-8, unknown or incomplete, between good messages")
def poison_property(trial):
    bridge = trial.bridge()
    load = trial.load()
    load.flows()
    poison = (b"\x26\0\4unit\0\2\xb0C", b"\x03\0\2\xb0C", b"\x7f\1", b"\x26\0\x09a")
    topic = f"{PREFIX}/{trial.tenant}/p".encode()
    sent = 0
    for number, properties in enumerate(poison * 5):
        # Mosquitto counts up from 1 and does not get there.
        packet_id = (60_000 + number).to_bytes(2, "big")
        body = len(topic).to_bytes(2, "big") + topic + packet_id + bytes([len(properties)]) + properties + b"poison"
        sent += trial.rig.mqtt.inject(packet(0x32, body))
        load.flows(0.2)
    trial.must(sent, "no packet could be sent")
    count = lambda: bridge.metric('message_processing_errors_total{reason="invalid_properties"}')
    wait_for("the dead letters", lambda: count() >= sent)
    trial.must(bridge.metric("mqtt_connections_total") == 1, "the bridge reconnected")
    trial.note(f"{sent} messages with invalid properties")


@fault("dead-letters-blocked", "the dead-letter topic can't be written to")
def dead_letters_blocked(trial):
    second = trial.rig.second_broker()
    second.topic(trial.dead_letters)
    second.spare(trial.topic)
    bridge = trial.bridge()
    load = trial.load()
    trial.load(project="not.valid", kind="bad-", rate=max(1, trial.form.rate // 100), topics=[trial.dead_letters])
    second.end()
    bridge.stalled()
    trial.note("readiness says stalled")
    time.sleep(trial.form.down / 3)
    second.start()
    trial.recovery(load)


@fault("tenant-blocked", "one tenant's topic can't be written to, another's flows")
def tenant_blocked(trial):
    example = subprocess.run([trial.rig.binaries / "iot-bridge", "config", "example"], capture_output=True, text=True)
    if ISOLATION not in example.stdout:
        trial.skip("this bridge has no mqtt.isolation")
        return
    blocked, flowing = trial.tenant + "a", trial.tenant + "b"
    second = trial.rig.second_broker()
    second.topic(f"{blocked}.p")
    second.spare(f"{flowing}.p", trial.dead_letters)
    filters = f"{PREFIX}/{blocked}/#,{PREFIX}/{flowing}/#"
    bridge = trial.bridge(mqtt__isolation="filter", mqtt__filters=filters)
    held = trial.load(tenant=blocked, rate=trial.form.rate // 2)
    other = trial.load(tenant=flowing, rate=trial.form.rate // 2)
    second.end()
    bridge.stalled()
    before, of_other = held.acknowledged(), other.acknowledged()
    other.flows(trial.form.down)
    trial.must(held.acknowledged() == before, "the blocked tenant's messages were acknowledged")
    trial.note(f"{other.acknowledged() - of_other:,} of the other tenant's meanwhile")
    second.start()
    trial.recovery(held)
