# The commands of this project; `just` alone lists them.

set shell := ["bash", "-euo", "pipefail", "-c"]

[private]
default:
    @just --list --unsorted

# The whole system in one process
demo *args:
    cargo run --release -p demo -- {{ args }}

# After a small change: format, lints, unit tests
check:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo test --workspace --lib --bins

# All tests that need no services
test:
    cargo test --workspace

# The tests against a real Kafka, Mosquitto and Redis
e2e: stack-up
    eval "$(scripts/stack env)"; cargo test --workspace -- --ignored --skip detect::score

# Every fault of docs/reliability.md, of the bridge, of the consumer, of what clients see and of a cluster: 18 minutes for the first two, 20 for the third, and a release build (names of faults: to one of the four below)
soak *args: (soak-bridge args) (soak-consumer args) (soak-push args) (soak-cluster args)

# Those that the bridge must survive
soak-bridge *args:
    cargo build --release --workspace --bins
    scripts/faults --release {{ args }}

# Those after which the consumer's state must be exact
soak-consumer *args:
    cargo build --release --workspace --bins
    scripts/state-faults --release {{ args }}

# Those that clients of the live view must not notice, or recover from
soak-push *args:
    cargo build --release --workspace --bins
    scripts/push-faults --release {{ args }}

# Those of a Kafka cluster with three brokers, on the whole chain
soak-cluster *args:
    cargo build --release --workspace --bins
    scripts/cluster-faults --release {{ args }}

# Whether what the consumer keeps in Redis is what the log says, on the stack
verify-state *args:
    eval "$(scripts/stack env)"; cargo run --release -p iot-ledger -- verify-state {{ args }}

# Whether what replicas push is what the log says, on the stack
verify-push *args:
    eval "$(scripts/stack env)"; cargo run --release -p iot-ledger -- verify-push {{ args }}

# The SDKs of the push protocol against two consumers
sdks:
    cargo build --workspace --bins
    scripts/sdks

# Everything that CI checks, or some of its steps (.ci/run --list)
ci *steps:
    .ci/run {{ steps }}

# MQTT -> bridge -> Kafka as fast as it goes, beside what the broker alone does
bench-bridge *args:
    scripts/bench bridge {{ args }}

# Simulator -> Kafka as fast as Kafka confirms
bench-simulator *args:
    scripts/bench simulator {{ args }}

# Kafka -> consumer -> Redis, beside a bare client
bench-consumer *args:
    scripts/bench consumer {{ args }}

# Kafka -> consumer -> WebSocket clients, beside Centrifugo (its build takes 7 minutes the first time)
bench-push *args:
    scripts/bench push {{ args }}

# Start Kafka, Mosquitto and Redis on this machine, without containers
stack-up:
    scripts/stack up

# End them and delete their data
stack-down:
    scripts/stack down

# Follow the logs of the stack
logs:
    eval "$(scripts/stack env)"; tail -n 20 -F "$STACK_DIR"/*.log

# Build, push, install and verify on a Kubernetes cluster (--dry-run prints the commands)
deploy *args:
    scripts/deploy.sh {{ args }}

# What may come in with dependencies (needs cargo-deny)
deny:
    cargo deny check

# Helm charts and Kubernetes manifests: lint, schemas, unit tests, kubeconform
charts:
    scripts/charts check

# Share of lines that unit tests run, in the crates that need no services (needs cargo-llvm-cov)
coverage *args:
    cargo llvm-cov --lib -p iot-core -p iot-fold -p iot-live -p iot-mqtt -p kafka-fetch --fail-under-lines 93 --summary-only {{ args }}

# Before a release: coverage, images and their sizes, compose with each container killed, charts on
# an API server, every query of the dashboards, fuzzing (root, Debian, Go; an hour the first time)
deploy-check: coverage
    cargo build --workspace
    scripts/charts check
    scripts/charts server
    scripts/dashboards live
    scripts/compose images
    scripts/compose run
    scripts/fuzz

# Fuzz targets for 30 s each (--seconds N, names of targets)
fuzz *args:
    scripts/fuzz {{ args }}

# Write the tables of docs/metrics.md again, after a change to a metric
metrics:
    UPDATE_METRICS=1 cargo test --workspace --lib in_the_reference
