"""The consumer's push beside Centrifugo, and the goals that it has to meet."""

import json
import os
import resource
import statistics
import subprocess
import sys
import time

from lib.net import can_connect, free_port
from lib.process import wait_for

from . import common, goals
from .consumer import CONSUMED, Consumer, end_load, fill, start_load
from .peers import go
from .simulator import ONE, measure, simulate

CENTRIFUGO = "6.9.1"
CENTRIFUGO_BIN = common.CACHE / f"centrifugo-{CENTRIFUGO}/centrifugo"
# The fleet: each message goes to ten of a thousand clients.
DEVICES, FLOORS, RATE, CLIENTS = 10_000, 100, 10_000, 1_000
FLOOR = "readings?mode=all&floor=floor-{n}"
# The start of a load is not measured.
WARM_UP, SECONDS = 5, 20
MANY = 10_000
# Settings for the lowest latency from device to browser.
LOW = {"bridge": {"linger": "0ms"}, "consumer": {"push.gather": "1ms"}}


def main(args):
    """Measures the cases, prints them and whether each goal was met; the exit code."""
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    return measure("iot-consumer", CASES, goals.PUSH, args)


class Replica(Consumer):
    """iot-consumer, whose live view is measured."""

    path = "/ws"

    def __init__(self, name, topic, directory, group=None, **settings):
        self.port, self.http = free_port(), free_port()
        self.log = directory / f"{name}.log"
        group = group or name
        settings = {
            "kafka.topics": topic, "kafka.group": group, "store.key_prefix": group,
            "http.listen": f"127.0.0.1:{self.http}", "ops.listen": f"127.0.0.1:{self.port}",
            "log.level": "warn", "push.clients": 2 * MANY, **settings,
        }
        self.command = [common.BIN / "iot-consumer", "run"]
        for key, value in settings.items():
            self.command += ["--set", f"{key}={value}"]
        self.start()

    def start(self):
        """Starts it, again after it was killed, and waits until it is ready."""
        with open(self.log, "ab") as log:
            common.Process.__init__(self, "iot-consumer", self.command, log)
        wait_for("the consumer to be ready", self.is_ready, common.DEADLINE)

    def is_ready(self):
        if self.popen.poll() is not None:
            sys.exit(f"bench: iot-consumer ended: {self.log.read_text()[-2000:]}")
        return common.answer(self.port, "readyz")


class Centrifugo(common.Process):
    """Centrifugo, which reads its publications from Kafka as the consumer does."""

    path = "/connection/websocket"

    def __init__(self, name, topic, directory):
        self.http = free_port()
        config = {
            "http_server": {"address": "127.0.0.1", "port": str(self.http)},
            "log": {"level": "warn"},
            "client": {"insecure": True, "connection_limit": 0},
            "consumers": [{"enabled": True, "name": "bench", "type": "kafka", "kafka": {
                "brokers": [os.environ["KAFKA_BROKERS"]], "topics": [topic], "consumer_group": name,
                "max_poll_records": 1000, "publication_data_mode": {"enabled": True},
            }}],
        }
        path = directory / f"{name}.json"
        path.write_text(json.dumps(config))
        log = open(directory / f"{name}.log", "wb")
        super().__init__("centrifugo", [CENTRIFUGO_BIN, "--config", path], log)
        wait_for("Centrifugo", lambda: can_connect(self.http), common.DEADLINE)

    @staticmethod
    def install():
        """Through the Go proxy; seven minutes the first time."""
        if not CENTRIFUGO_BIN.exists():
            CENTRIFUGO_BIN.parent.mkdir(parents=True, exist_ok=True)
            go("install", f"github.com/centrifugal/centrifugo/v6@v{CENTRIFUGO}")
            (common.CACHE / "bin/centrifugo").rename(CENTRIFUGO_BIN)


class Watch(common.Process):
    """Many clients of a server."""

    def __init__(self, server, channel, clients=CLIENTS, *, spread=FLOORS, deaf=0, flags=()):
        self.name, self.clients = "iot-ledger", clients
        command = [common.BIN / "iot-ledger", "push-load", "watch", "--server", f"127.0.0.1:{server.http}",
                   "--path", server.path, "--channel", channel, "--clients", str(clients),
                   "--spread", str(spread), "--deaf", str(deaf), *flags]
        self.popen = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
        self.all = dict.fromkeys(("events", "lost", "repeated", "began", "recovered"), 0)
        self.ended = {}

    def figures(self):
        """What they have received since the last call."""
        self.popen.stdin.write("\n")
        if not (line := self.popen.stdout.readline()):
            sys.exit("bench: the clients have ended")
        figures = json.loads(line)
        for key in self.all:
            self.all[key] += figures[key]
        for why, times in figures["ended"].items():
            self.ended[why] = self.ended.get(why, 0) + times
        return figures

    def subscribed(self):
        """Waits until all are; how long that took."""
        began = time.monotonic()
        wait_for("subscriptions", lambda: self.figures()["subscribed"] >= self.clients, common.DEADLINE)
        return time.monotonic() - began

    def settled(self, events):
        """Waits for so many changes in all, as long as some arrive."""
        while self.all["events"] < events and self.figures()["events"]:
            time.sleep(1)

    def stop(self):
        self.popen.stdin.close()
        super().stop()


def publish(topic, style, seconds, first_seq=0, rate=RATE):
    """Starts to publish the fleet's messages."""
    command = [common.BIN / "iot-ledger", "push-load", "publish", "--topic", topic, "--style", style,
               "--devices", str(DEVICES), "--floors", str(FLOORS), "--rate", str(rate),
               "--duration", f"{seconds}s", "--first-seq", str(first_seq)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def published(publisher):
    """Waits for its end; what it published."""
    out, _ = publisher.communicate()
    if publisher.returncode:
        sys.exit("bench: publishing failed")
    return json.loads(out)


def create(topic):
    """An empty topic, but for one message of a device that nobody watches."""
    simulate(["--devices", "1", "--rate", "max", "--messages", "1", "--sink", "kafka", "--set", "fleet.id_prefix=first-",
              "--set", f"kafka.topic={topic}", *ONE])


def known_fleet(topic, directory, name, **settings):
    """A replica that knows all devices of the fleet."""
    create(topic)
    replica = Replica(name, topic, directory, **settings)
    total = published(publish(topic, "device", DEVICES / RATE))["messages"]
    wait_for("the fleet", lambda: replica.metric(CONSUMED) >= total, common.DEADLINE)
    return replica


def floors(args, directory):
    """A thousand clients, each on one floor, in turns with Centrifugo."""
    Centrifugo.install()
    rounds = [floors_round(number, directory) for number in range(args.runs + 1)][1:]
    for who in ("push", "centrifugo"):
        common.report(f"floors, {who}", [run[who] for run in rounds])
    results = {f"floors_{who}": {key: statistics.median(run[who][key] for run in rounds) for key in rounds[0][who]}
               for who in ("push", "centrifugo")}
    ratios = [run["push"]["p99_ms"] / run["centrifugo"]["p99_ms"] for run in rounds]
    results["floors_push"] |= {
        "p99_of_centrifugo": round(statistics.median(ratios), 2),
        # Not one, in any round.
        "lost": sum(run["push"]["lost"] for run in rounds),
    }
    print(f"\nP99 of Centrifugo's, by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    return results


def floors_round(number, directory):
    """Each once."""
    def push():
        topic = f"push-{number}"
        with common.running(known_fleet(topic, directory, topic)) as replica:
            return floors_load(replica, topic, "device", FLOOR, first_seq=1)

    def centrifugo():
        topic = f"centrifugo-{number}"
        create(topic)
        with common.running(Centrifugo(topic, topic, directory)) as server:
            return floors_load(server, topic, "publication", "floor-{n}")

    cases = [("push", push), ("centrifugo", centrifugo)]
    run = {name: case() for name, case in (cases if number % 2 else cases[::-1])}
    print(f"  round {number}: " + "; ".join(f"{name} {figures}" for name, figures in run.items()), flush=True)
    return run


def floors_load(server, topic, style, channel, first_seq=0, **options):
    """The load, and what it costs and how late it is while it is steady."""
    before = resident(server)
    with common.running(Watch(server, channel, **options)) as watch:
        watch.subscribed()
        clients = resident(server) - before
        publisher = publish(topic, style, WARM_UP + SECONDS + 2, first_seq)
        time.sleep(WARM_UP)
        watch.figures()
        (cpu, _), (own, _), began = server.usage(), watch.usage(), time.monotonic()
        lags = []
        while time.monotonic() < began + SECONDS:
            time.sleep(0.5)
            if isinstance(server, Replica):
                lags.append(server.highest("kafka_consumer_lag_seconds"))
        figures = watch.figures()
        (after, peak), (own_after, _) = server.usage(), watch.usage()
        sent = published(publisher)["messages"]
        readers = watch.clients - options.get("deaf", 0)
        watch.settled(sent * readers // FLOORS)
        events, latency = figures["events"], figures["latency_ms"]
        if watch.ended:
            print(f"  connections ended: {watch.ended}")
        return {
            "deliveries_per_s": round(events / figures["seconds"]),
            "cpu_s_per_million": round((after - cpu) / events * 1e6, 2),
            "p50_ms": latency["p50"],
            "p99_ms": latency["p99"],
            "max_ms": latency["max"],
            # Also those of the end, after which nothing shows a gap.
            "lost": max(sent * readers // FLOORS - watch.all["events"], watch.all["lost"]),
            "repeated": watch.all["repeated"],
            "frames": figures["frames"],
            "clients_cpu_s_per_million": round((own_after - own) / events * 1e6, 2),
            "kb_per_client": round(clients / watch.clients / 1e3, 1),
            "peak_mb": round(peak / 1e6, 1),
            "lag_max_s": max(lags, default=0),
        }


def resident(process):
    """Resident memory in bytes."""
    with open(f"/proc/{process.popen.pid}/statm") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def latency(_args, directory):
    """From device to client, through MQTT, bridge, Kafka and consumer."""
    results = {}
    for name, profile in (("default", {}), ("low", LOW)):
        result = latency_load(f"latency-{name}", profile, directory)
        results[f"latency_{name}"] = result
        print(f"\nlatency, {name}: " + "  ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    return results


def latency_load(name, profile, directory):
    """One profile."""
    topic = f"{name}.plant"
    kafka = {"brokers": [os.environ["KAFKA_BROKERS"]], **profile.get("bridge", {})}
    with common.running(common.Bridge(name, directory, kafka=kafka)) as bridge:
        bridge.ready()
        load = ["--devices", str(DEVICES), "--rate", str(RATE), "--sink", "mqtt", "--set", f"fleet.tenants={name}",
                "--set", "fleet.projects=plant"]
        simulate([*load, *ONE, "--messages", str(3 * RATE)])
        with common.running(Replica(name, topic, directory, **profile.get("consumer", {}))) as replica:
            # 50 buildings, numbered from 1.
            with common.running(Watch(replica, "readings?mode=all&building=building-{n}", 50, spread=50)) as watch:
                watch.subscribed()
                seconds = WARM_UP + SECONDS + 4
                command = [common.BIN / "iot-simulator", "run", *load, *ONE, "--duration", f"{seconds}s", "--set", "http.listen=",
                           "--set", f"ops.listen=127.0.0.1:{free_port()}", "--set", "log.level=warn"]
                simulator = subprocess.Popen(command, stdout=subprocess.DEVNULL)
                time.sleep(WARM_UP)
                watch.figures()
                cpus = [process.usage()[0] for process in (bridge, replica)]
                time.sleep(SECONDS)
                figures = watch.figures()
                cpus = [process.usage()[0] - cpu for process, cpu in zip((bridge, replica), cpus)]
                end_load(simulator)
    if watch.ended:
        sys.exit(f"bench: subscriptions have ended: {watch.ended}")
    latency = figures["latency_ms"]
    return {
        "deliveries_per_s": round(figures["events"] / figures["seconds"]),
        "p50_ms": latency["p50"], "p95_ms": latency["p95"], "p99_ms": latency["p99"], "max_ms": latency["max"],
        "lost": figures["lost"],
        "bridge_cores": round(cpus[0] / figures["seconds"], 3),
        "consumer_cores": round(cpus[1] / figures["seconds"], 3),
    }


def idle(_args, directory):
    """Clients of channels without changes: their memory, and what is sent to them."""
    Centrifugo.install()
    create("idle")
    results = {}
    servers = {
        "push": lambda: known_fleet("idle-push", directory, "idle-push"),
        "floor": lambda: known_fleet("idle-floor", directory, "idle-floor"),
        "centrifugo": lambda: Centrifugo("idle", "idle", directory),
    }
    channels = {"push": "alerts?floor=floor-{n}", "floor": FLOOR, "centrifugo": "floor-{n}"}
    for who, start in servers.items():
        with common.running(start()) as server:
            time.sleep(2)
            before = resident(server)
            with common.running(Watch(server, channels[who], MANY)) as watch:
                took = watch.subscribed()
                # Two pings, so that all have had one.
                time.sleep(30)
                watch.figures()
                (cpu, _), began = server.usage(), time.monotonic()
                time.sleep(30)
                figures, took_idle = watch.figures(), time.monotonic() - began
                after, peak = server.usage()
                result = {
                    "kb_per_client": round((resident(server) - before) / MANY / 1e3, 1),
                    "peak_kb_per_client": round((peak - before) / MANY / 1e3, 1),
                    # A ping is two bytes in a frame of four.
                    "bytes_beside_pings": figures["bytes"] - 4 * figures["pings"],
                    "pings_per_client_and_minute": round(figures["pings"] / MANY * 60 / figures["seconds"], 1),
                    "cores": round((after - cpu) / took_idle, 3),
                    "connects_per_s": round(MANY / took),
                }
        results[f"idle_{who}"] = result
        print(f"\nidle, {who}: " + "  ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    return results


def connects(_args, directory):
    """Many clients that connect at once, and again after the replica was killed, under load."""
    static = {"kafka.group_instance_id": "one"}
    with common.running(known_fleet("connects", directory, "connects", **static)) as replica:
        channel = "readings?tenant=acme&project=plant&device=device-{n}"
        flags = ["--reconnect", "--opening", "2000"]
        # Each watches a device of its own.
        (cpu, _), began = replica.usage(), time.monotonic()
        with common.running(Watch(replica, channel, MANY, spread=DEVICES, flags=flags)) as watch:
            watch.subscribed()
            took, cpu = time.monotonic() - began, replica.usage()[0] - cpu
            publisher = publish("connects", "device", 60, 1)
            time.sleep(WARM_UP)
            replica.popen.kill()
            replica.popen.wait()
            watch.figures()
            before, began = watch.all["began"], time.monotonic()
            replica.start()
            ready = time.monotonic() - began
            lags = []

            def are_back():
                lags.append(replica.highest("kafka_consumer_lag_seconds"))
                return watch.figures()["subscribed"] >= watch.clients

            wait_for("the clients to be back", are_back, common.DEADLINE, every=0.1)
            back = time.monotonic() - began
            publisher.terminate()
            publisher.wait()
            result = {
                "connects_per_s": round(watch.clients / took),
                "connect_cpu_ms": round(cpu / watch.clients * 1e3, 3),
                "ready_after_s": round(ready, 2),
                "back_after_s": round(back, 2),
                "subscriptions": watch.all["began"] - before,
                "recovered": watch.all["recovered"],
                "lag_max_s": max(lags),
            }
    print("\nconnects: " + "  ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    return {"connects": result}


def slow(args, directory):
    """Ten of the thousand read nothing, in turns with none."""
    rounds = []
    for number in range(args.runs):
        run = {}
        for deaf in ((0, 10) if number % 2 else (10, 0)):
            topic = f"slow-{deaf}-{number}"
            with common.running(known_fleet(topic, directory, topic)) as replica:
                run[deaf] = floors_load(replica, topic, "device", FLOOR, first_seq=1, deaf=deaf)
        rounds.append(run)
        print(f"  round {number}: {run}", flush=True)
    for deaf in (0, 10):
        common.report(f"slow, {deaf} read nothing", [run[deaf] for run in rounds])
    median = lambda deaf, key: statistics.median(run[deaf][key] for run in rounds)
    return {"slow": {
        "p99_ms": median(10, "p99_ms"), "p99_without_ms": median(0, "p99_ms"),
        "p99_ratio": round(statistics.median(run[10]["p99_ms"] / run[0]["p99_ms"] for run in rounds), 2),
        "lag_max_s": max(run[10]["lag_max_s"] for run in rounds),
        "lag_max_without_s": max(run[0]["lag_max_s"] for run in rounds),
        "lost": sum(run[10]["lost"] for run in rounds),
    }}


def follow(_args, directory):
    """A follower beside the owner of the same partitions, at ten times the load."""
    fill("follow", 100_000, ONE, DEVICES)
    owner = Replica("follow-owner", "follow", directory, "follow", role="fold")
    with common.running(owner), common.running(Replica("follow-serve", "follow", directory, "follow", role="serve")) as follower:
        load = start_load("follow", "json", WARM_UP + SECONDS)
        time.sleep(WARM_UP)
        both, began = (owner, follower), time.monotonic()
        cpus = [process.usage()[0] for process in both]
        lags = []
        while time.monotonic() < began + SECONDS - 2:
            time.sleep(0.5)
            lags.append(follower.highest("iot_follower_lag_seconds"))
        took = time.monotonic() - began
        owns, follows = (round((process.usage()[0] - cpu) / took, 3) for process, cpu in zip(both, cpus))
        end_load(load)
    result = {"owner_cores": owns, "follower_cores": follows, "of_the_owner": round(follows / owns, 2), "lag_max_s": max(lags)}
    print("\nfollow: " + "  ".join(f"{key} {value}" for key, value in result.items()), flush=True)
    return {"follow": result}


CASES = {"floors": floors, "latency": latency, "idle": idle, "connects": connects, "slow": slow, "follow": follow}
