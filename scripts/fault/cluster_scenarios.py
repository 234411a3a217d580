"""The faults of a Kafka cluster: what happens to its brokers, and how that is proved to have happened."""

import json
import time

from lib.stack import stack

from .cluster import BROKERS
from .common import Faults

ALL = Faults()
fault = ALL.add


def leader(trial):
    """A broker that leads a partition of the trial's topic."""
    return next(iter(trial.rig.leaders(trial.name).values()))


@fault("brokers-restarted", "each broker stopped in order and started again, one after the other", short=False)
def brokers_restarted(trial):
    trial.chain()
    for number, name in BROKERS.items():
        trial.rig.gone(number)
        began = time.monotonic()
        stack("stop", name)
        trial.elected(began)
        trial.rig.start_broker(number)
        trial.whole()
        trial.recovery()


@fault("broker-killed", "a broker that leads partitions killed with SIGKILL while clients watch, and started again")
def broker_killed(trial):
    trial.chain(watched=True)
    kill_and_start(trial, leader(trial))


@fault("brokers-killed", "each broker killed with SIGKILL and started again, one after the other", short=False)
def brokers_killed(trial):
    trial.chain()
    for number in BROKERS:
        kill_and_start(trial, number)


def kill_and_start(trial, number):
    away(trial, number, trial.rig.kill_broker, trial.rig.start_broker)


def stop_and_wake(trial, number):
    away(trial, number, trial.rig.suspend, trial.rig.resume)


def away(trial, number, leave, come_back):
    """Has a broker leave, and come back when others have its partitions."""
    began = time.monotonic()
    leave(number)
    trial.elected(began)
    time.sleep(max(0, began + trial.form.down - time.monotonic()))
    come_back(number)
    trial.recovery()
    trial.whole()


@fault("controller-killed", "the controller killed with SIGKILL and started again", short=False)
def controller_killed(trial):
    trial.chain()
    kill_and_start(trial, trial.rig.controller())


@fault("two-brokers-killed", "two of three brokers killed with SIGKILL and started again", short=False)
def two_brokers_killed(trial):
    trial.chain()
    trial.rig.kill_broker(2, 3)
    trial.bridges[0].stalled()
    time.sleep(trial.form.down)
    for number in (2, 3):
        trial.rig.start_broker(number)
    trial.recovery()
    trial.whole()
    trial.note("the bridge says that it is stalled")


@fault("all-brokers-killed", "all brokers killed with SIGKILL at once and started again", short=False)
def all_brokers_killed(trial):
    trial.chain()
    trial.rig.kill_broker(*BROKERS)
    time.sleep(trial.form.down)
    # They need each other to answer.
    stack("up")
    trial.rig.back(*BROKERS)
    trial.recovery()
    trial.whole()


@fault("leaders-moved", "replicas reassigned and leaders elected under load", short=False)
def leaders_moved(trial):
    trial.chain()
    before = trial.rig.leaders(trial.name)
    # Every partition gets a leader that it did not have.
    moved = {number: [broker % 3 + 1, (broker + 1) % 3 + 1, broker] for number, broker in before.items()}
    plan = trial.rig.work / "plan.json"
    plan.write_text(json.dumps({"version": 1, "partitions": [
        {"topic": trial.name, "partition": number, "replicas": replicas} for number, replicas in moved.items()]}))
    servers = ("--bootstrap-server", trial.rig.brokers)
    trial.rig.kafka_tool("org.apache.kafka.tools.reassign.ReassignPartitionsCommand", *servers,
                         "--reassignment-json-file", str(plan), "--execute")
    plan.write_text(json.dumps({"partitions": [
        {"topic": trial.name, "partition": number} for number in moved]}))
    trial.rig.kafka_tool("org.apache.kafka.tools.LeaderElectionCommand", *servers, "--election-type", "preferred",
                         "--path-to-json-file", str(plan))
    wanted = {number: replicas[0] for number, replicas in moved.items()}
    trial.wait("the leaders to move", lambda: trial.rig.leaders(trial.name) == wanted)
    trial.recovery()


@fault("leader-stopped", "a broker that leads partitions stopped (SIGSTOP) until others lead them, then woken")
def leader_stopped(trial):
    trial.chain()
    stop_and_wake(trial, leader(trial))


@fault("coordinator-stopped", "the coordinator of the consumers' group stopped (SIGSTOP), then woken", short=False)
def coordinator_stopped(trial):
    trial.chain()
    stop_and_wake(trial, trial.rig.coordinator(trial.name))


@fault("broker-late", "bridge and consumers started before the third broker, without any topic")
def broker_late(trial):
    trial.rig.kill_broker(3)
    # The controller counts a registered broker that is away, and would place replicas on it.
    # Without the registration no topic with three replicas can be created.
    trial.rig.unregister(3)
    bridge = trial.bridge()
    trial.consumers()
    trial.load()
    bridge.stalled()
    trial.rig.start_broker(3)
    began = time.monotonic()
    trial.flows()
    trial.recovery(began)
    trial.note("the bridge says that it is stalled until then")


@fault("topic-while-away", "messages of a new project while one of three brokers is away", short=False)
def topic_while_away(trial):
    trial.chain()
    trial.rig.kill_broker(3)
    trial.elected(time.monotonic())
    trial.load("new").flows(trial.form.down / 3)
    trial.rig.start_broker(3)
    trial.recovery()
    trial.whole()
