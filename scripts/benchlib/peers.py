"""Other bridges, installed by package and configured to promise the same.

All of them: QoS 1, a session that the broker keeps, acknowledged to MQTT after
Kafka confirmed (acks all), the payload unchanged, one Kafka topic of one
partition, snappy, and the batching with which each was fastest here.
"""

import json
import os
import subprocess
import sys

from . import common

PYTHON = common.CACHE / "mq-bridge-1.2.0/bin/python"
RUN_ROUTE = """\
import json, sys
from mq_bridge import Route
Route.from_config(json.load(open(sys.argv[1]))).run()
"""
BENTO = """\
package main

import (
	"context"

	_ "github.com/warpstreamlabs/bento/public/components/io"
	_ "github.com/warpstreamlabs/bento/public/components/kafka"
	_ "github.com/warpstreamlabs/bento/public/components/mqtt"
	_ "github.com/warpstreamlabs/bento/public/components/pure"
	"github.com/warpstreamlabs/bento/public/service"
)

func main() { service.RunCLI(context.Background()) }
"""


class MqBridge:
    """mq-bridge 1.2.0 (PyPI): its core is Rust, and Python only starts it."""

    name, version = "mq-bridge", "1.2.0"

    @staticmethod
    def install():
        """A virtual environment with the wheel in it."""
        if not PYTHON.exists():
            subprocess.run([sys.executable, "-m", "venv", PYTHON.parent.parent], check=True)
        subprocess.run([PYTHON, "-m", "pip", "install", "-q", "--disable-pip-version-check", "mq-bridge==1.2.0"], check=True)

    @staticmethod
    def command(directory, tenant, kafka_topic):
        """How to start it."""
        host, port = common.mqtt_address()
        options = {"acks": "all", "enable.idempotence": "true", "linger.ms": "10", "compression.type": "snappy"}
        route = {
            "input": {"mqtt": {
                "url": f"tcp://{host}:{port}", "topic": f"mtic/msg/client/realtime/{tenant}/#", "qos": 1,
                "client_id": f"mq-bridge-{tenant}", "protocol": "v5", "clean_session": False,
                "session_expiry_interval": 86_400, "queue_capacity": 10_000,
            }},
            "output": {"kafka": {
                "url": os.environ["KAFKA_BROKERS"], "topic": kafka_topic, "partitions": 1,
                "producer_options": [list(option) for option in options.items()],
            }},
            "batch_size": 4096,
        }
        path = directory / "mq-bridge.json"
        path.write_text(json.dumps(route))
        return [PYTHON, "-c", RUN_ROUTE, path]


class Telegraf:
    """Telegraf 1.37.0, its own custom build with the two plugins."""

    name, version = "telegraf", "1.37.0"
    tags = "custom,inputs.mqtt_consumer,outputs.kafka,parsers.value,serializers.template"

    @classmethod
    def install(cls):
        """Through the Go proxy."""
        package = f"github.com/influxdata/telegraf/cmd/telegraf@v{cls.version}"
        go("install", "-tags", cls.tags, package)

    @staticmethod
    def command(directory, tenant, kafka_topic):
        """How to start it."""
        host, port = common.mqtt_address()
        path = directory / "telegraf.conf"
        path.write_text(f"""
[agent]
  interval = "1s"
  flush_interval = "1s"
  metric_batch_size = 5000
  metric_buffer_limit = 100000
  omit_hostname = true
  quiet = true
[[inputs.mqtt_consumer]]
  servers = ["tcp://{host}:{port}"]
  topics = ["mtic/msg/client/realtime/{tenant}/#"]
  qos = 1
  persistent_session = true
  client_id = "telegraf-{tenant}"
  max_undelivered_messages = 20000
  data_format = "value"
  data_type = "string"
[[outputs.kafka]]
  brokers = ["{os.environ['KAFKA_BROKERS']}"]
  topic = "{kafka_topic}"
  required_acks = -1
  compression_codec = 2
  data_format = "template"
  template = '{{{{ .Field "value" }}}}'
""")
        return [common.CACHE / "bin/telegraf", "--config", path]


class Bento:
    """Bento 1.20.0 with the components that are used."""

    name, version = "bento", "1.20.0"

    @classmethod
    def install(cls):
        """A program of a few lines, which is how Bento is built with fewer components."""
        source = common.CACHE / f"bento-{cls.version}"
        source.mkdir(parents=True, exist_ok=True)
        (source / "main.go").write_text(BENTO)
        if not (source / "go.mod").exists():
            require = f"require github.com/warpstreamlabs/bento v{cls.version}"
            (source / "go.mod").write_text(f"module bench/bento\n\ngo 1.26\n\n{require}\n")
        go("build", "-mod=mod", "-o", common.CACHE / "bin/bento", ".", cwd=source)

    @staticmethod
    def command(directory, tenant, kafka_topic):
        """How to start it."""
        host, port = common.mqtt_address()
        config = {
            "http": {"enabled": False},
            "logger": {"level": "WARN"},
            "input": {"mqtt": {
                "urls": [f"tcp://{host}:{port}"], "topics": [f"mtic/msg/client/realtime/{tenant}/#"],
                "client_id": f"bento-{tenant}", "qos": 1, "clean_session": False,
            }},
            "output": {"kafka": {
                "addresses": [os.environ["KAFKA_BROKERS"]], "topic": kafka_topic, "ack_replicas": True,
                "compression": "snappy", "max_in_flight": 64, "batching": {"count": 1000, "period": "10ms"},
            }},
        }
        path = directory / "bento.yaml"
        path.write_text(json.dumps(config))
        return [common.CACHE / "bin/bento", "-c", path]


PEERS = {peer.name: peer for peer in (MqBridge, Telegraf, Bento)}


def go(*args, cwd=None):
    """Runs the Go tool; what it installs goes to the cache."""
    (common.CACHE / "bin").mkdir(parents=True, exist_ok=True)
    environment = {**os.environ, "GOBIN": str(common.CACHE / "bin"), "CGO_ENABLED": "0"}
    subprocess.run(["go", *args], check=True, cwd=cwd, env=environment)
