"""The faults of what clients see: each a load, clients, what happens to them, and how that is proved to have
happened."""

import itertools
import json
import time

from . import push_clients
from .common import Faults
from .push_trial import LIMIT
from .state_trial import REBUILDS

FRAMES = "iot_push_frames_total"
CLOSED = "iot_websocket_closed_total"
REFUSED = "iot_push_commands_refused_total"
OTHER_RULES = json.dumps([{"sensor": "temperature", "above": LIMIT - 5}])
# In bytes: what waits for a client beside its queue, the queue, and what the process may need beside clients.
MOST_MISSED, QUEUE, ROOM = 1 << 20, 64 << 10, 64 << 20
GARBAGE = (
    (b"garbage", push_clients.TEXT),
    (b"[1, 2", push_clients.TEXT),
    (bytes(range(256)), push_clients.BINARY),
    (b"{}" * 50_000, push_clients.TEXT),
    (bytes(1 << 20), push_clients.TEXT),
)

ALL = Faults()
fault = ALL.add

# In a quiet room the last alert may be from before a replica started, which then does not know what
# was before.
QUIET = "--allow-alert-snapshots"


@fault("replica-killed", "three replicas, of which one after the other is killed with SIGKILL and started again")
def replica_killed(trial):
    replicas = trial.replicas(static=True)
    trial.fleet()
    watch = trial.watch(replicas, QUIET)
    trial.warm()
    for replica, _ in zip(itertools.cycle(replicas), range(trial.form.kills)):
        had = trial.clients_of([replica])
        trial.must(had > 0, "the killed replica had no clients")
        replica.kill()
        trial.back()
        replica.start()
        trial.warm()
    watch.running()
    trial.note(f"kills: {trial.form.kills}")


@fault("partitions-move", "three replicas, of which one leaves the group by SIGTERM and comes back every few seconds")
def partitions_move(trial):
    replicas = trial.replicas()
    trial.fleet()
    trial.watch(replicas, QUIET)
    until, moves = time.monotonic() + trial.form.moves, 0
    for replica in itertools.cycle(replicas):
        trial.warm()
        trial.must(replica.stop() == 0, "a replica did not stop in order")
        trial.shared(trial.living())
        trial.back()
        replica.start()
        trial.shared(replicas)
        moves += 2
        if time.monotonic() > until:
            break
    trial.recovery()
    trial.note(f"{moves} changes of the group")


@fault("redis-away", "Redis killed with SIGKILL while clients watch, and started again")
def redis_away(trial):
    replicas = trial.replicas()
    trial.fleet()
    trial.watch(replicas)
    trial.warm()
    trial.redis.kill()
    trial.wait("every replica to report it", lambda: all("store" in said(replica) for replica in replicas))
    sent = [replica.metric(FRAMES) for replica in replicas]
    trial.wait("every replica to go on with what it follows",
               lambda: all(replica.metric(FRAMES) > before + trial.form.rate
                           for replica, before in zip(replicas, sent, strict=True)))
    time.sleep(trial.form.down)
    trial.must(trial.clients_of(replicas) == trial.form.clients, "clients were disconnected")
    trial.redis.start()
    trial.recovery()
    trial.warm()
    trial.note("readiness of all replicas says so; what they follow goes on")


def said(replica):
    """What a replica reports of itself."""
    return replica.readiness()[1]


@fault("redis-flushed", "FLUSHALL while clients watch", short=False)
def redis_flushed(trial):
    replicas = trial.replicas()
    trial.fleet()
    # What is built again is shown from the start of the log.
    trial.watch(replicas, "--allow-snapshots").repeats = True
    trial.warm()
    trial.redis.cli("FLUSHALL")
    trial.recovery()
    trial.warm()
    rebuilt = sum(replica.metric(REBUILDS) for replica in replicas)
    trial.must(rebuilt == trial.partitions, f"{rebuilt:g} partitions were built again")


@fault("bad-clients", "clients that read nothing, send garbage, huge frames, 10,000 subscriptions, or a byte a second")
def bad_clients(trial):
    replica, = trial.replicas(1)
    port, many = replica.http, trial.form.bad
    trial.fleet()
    trial.watch([replica])
    trial.warm()
    replica.note_peak()
    before = replica.peak
    slow = [push_clients.Slow(port) for _ in range(many)]
    deaf = [push_clients.reads_nothing(port, itertools.islice(push_clients.spellings(), 60)) for _ in range(many)]
    # The server gives those 10 s, and the others are tried meanwhile.
    silent = [push_clients.Client(port) for _ in range(many)]
    try:
        for payload, kind in GARBAGE:
            for _ in range(many):
                code = push_clients.sends(port, payload, kind)
                trial.must(code == 3501, f"{payload[:20]} was answered with {code}")
        for _ in range(3):
            granted, refused = push_clients.subscribes(
                port, 10_000, lambda number: f"readings?mode=all&device=none-{number}")
            trial.must((granted, refused) == (128, {106: 9_872}), f"{granted} granted, refused {refused}")
        for client in silent:
            code = client.closed()
            trial.must(code == 3502, f"a client that never connects was closed with {code}")
        gone = {"slow": many, "no_connect": many, "malformed": many * len(GARBAGE)}
        trial.wait("all of them to be gone and counted", lambda: gone == {
            reason: int(replica.metric(f'{CLOSED}{{connection="websocket",reason="{reason}"}}')) for reason in gone})
        trial.wait("slow requests to end", lambda: all(client.is_closed for client in slow))
    finally:
        for client in [*slow, *deaf, *silent]:
            client.end()
    trial.must(replica.metric(f'{REFUSED}{{code="106"}}') == 3 * 9_872, "refused subscriptions were not counted")
    replica.note_peak()
    # What a client may take, and a share for the server's connections.
    bound = many * (3 + len(GARBAGE)) * (MOST_MISSED + QUEUE) + ROOM
    trial.must(replica.peak - before < bound, f"memory rose by {replica.peak - before:,} bytes")
    trial.warm()
    trial.note(f"{many} of each kind; memory rose by {(replica.peak - before) / 1e6:.0f} MB")


@fault("alert-storm", "thousands of alerts at once, raised and then cleared")
def alert_storm(trial):
    replicas = trial.replicas(2)
    trial.fleet()
    # These see nothing of it, and must notice nothing.
    trial.watch(replicas)
    # One that cannot keep up with all of them begins again with a snapshot.
    trial.watch_all(replicas, "--allow-snapshots", clients=4)
    trial.warm()
    for value in (99, 20):
        trial.burst(value)
        trial.recovery()
    trial.wait("clients to have all", lambda: all(
        replica.metric("iot_push_queue_bytes") < QUEUE for replica in replicas))
    slow = sum(replica.metric(f'{CLOSED}{{connection="websocket",reason="slow"}}') for replica in replicas)
    trial.back()
    trial.note(f"{trial.form.storm:,} raised and cleared; {slow:g} clients were too slow and came back")


@fault("other-rules", "a replica with other rules than the owner's, then with the same")
def other_rules(trial):
    owner, = trial.replicas(1)
    trial.fleet()
    other = trial.replica("other", more={"role": "serve", "thresholds": OTHER_RULES})
    trial.wait("the other rules to be reported", lambda: "may not be shown as the owner has it" in said(other))
    trial.wait("snapshots to name the partitions", lambda: len(trial.partial(other)) == trial.partitions)
    trial.must(not trial.partial(owner), f"the owner shows {trial.partial(owner)}")
    # It is ready, because it goes on.
    trial.must(other.readiness()[0] == 200, "the replica with other rules is not ready")
    trial.must(other.stop() == 0, "the replica did not stop in order")
    same = trial.replica("same", more={"role": "serve"})
    trial.wait("the replica to be ready", trial.ready)
    trial.wait("nothing to be partial", lambda: not trial.partial(same))
    trial.watch([owner, same])
    trial.warm()
    trial.note("readiness, and every snapshot, names the partitions until the rules are the same")


@fault("clocks-differ", "replicas whose clocks are a second ahead and a second behind, killed one after the other",
       short=False)
def clocks_differ(trial):
    # More than the two seconds by which the clocks differ.
    trial.settings["push.skew"] = "3s"
    owner, = trial.replicas(1, static=True)
    ahead, behind = (trial.serving(f"{seconds:+}s", trial.clock(seconds)) for seconds in (1, -1))
    trial.wait("the replicas to be ready", trial.ready)
    differ = trial.offset(ahead) - trial.offset(behind)
    trial.must(1 < differ < 3, f"the clocks differ by {differ:.1f} s")
    trial.fleet()
    trial.watch([owner, ahead, behind], QUIET)
    trial.warm()
    for replica, _ in zip(itertools.cycle([ahead, behind, owner]), range(trial.form.kills)):
        trial.must(trial.clients_of([replica]) > 0, "the killed replica had no clients")
        replica.kill()
        trial.back()
        replica.start()
        trial.warm()
    trial.note(f"{differ:.1f} s between them; kills: {trial.form.kills}")


@fault("clock-step", "the clock of a replica set 5 s ahead, and back", short=False)
def clock_step(trial):
    owner, = trial.replicas(1)
    clock = trial.clock(0)
    other = trial.serving("other", clock)
    trial.wait("the replicas to be ready", trial.ready)
    trial.fleet()
    # Positions of before a step can't be compared with those after it.
    trial.watch([owner, other], "--allow-snapshots")
    for seconds in (5, 0):
        trial.warm()
        clock.set(seconds)
        trial.wait("the step to be seen", lambda: abs(trial.offset(other) - trial.offset(owner) - seconds) < 1)
        trial.flows(3)
        trial.must(trial.clients_of([owner, other]) == trial.form.clients, "clients were disconnected")
        # Its clients go to the owner, after the first step with positions that are ahead of the owner's clock.
        other.kill()
        trial.back()
        other.start()
    trial.warm()
    trial.note("those at the replica go on; positions from before a step are not continued")


@fault("rolling-upgrade", "replicas of the version before replaced one by one", short=False)
def rolling_upgrade(trial):
    if not trial.form.old:
        trial.skip("no binary of the version before (--old)")
        return
    new = trial.rig.binaries / "iot-consumer"
    replicas = trial.replicas(program=trial.form.old)
    trial.fleet()
    trial.flows(2)
    for number, replica in enumerate(replicas):
        place = replica.log_end()
        trial.must(replica.stop() == 0, "a replica of the version before did not stop in order")
        replica.program = new
        replica.start()
        trial.wait("the new replica to be ready", trial.ready)
        trial.must(not replica.said("built again", place), "the state was not taken over")
        if number == 0:
            # Clients of the new one see everything, whatever the others are.
            trial.watch([replica])
        trial.shared(replicas)
        trial.recovery()
    rebuilt = sum(replica.metric(REBUILDS) for replica in replicas)
    trial.must(not rebuilt, f"{rebuilt:g} partitions were built again")
    trial.warm()
