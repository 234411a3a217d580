#!/usr/bin/env bash
# Brings services to a Kubernetes cluster: builds their images, pushes them, installs or
# upgrades a Helm release for each, waits until they are ready, and tests them. The first
# step that fails ends it.
#
#   scripts/deploy.sh --registry REGISTRY [options] [SERVICE...]
#
# SERVICE is iot-consumer, iot-bridge or iot-simulator. Without one it is iot-consumer and
# iot-bridge: a simulator fills topics with devices that do not exist, so it has to be named.
#
#   --registry REGISTRY   where images go, such as registry.example.com/iot; the image
#                         of iot-bridge is REGISTRY/iot-bridge
#   --tag TAG             of the images, used as it is; by default the output of `git
#                         describe`, without the leading v and with _ for +
#   --platform PLATFORM   of the cluster's nodes, such as linux/amd64, if it is not that of
#                         this machine
#   --namespace NAME      of all releases; by default each has its own, named as the service.
#                         It has to be there
#   --context NAME        of the kubeconfig, if not its current one
#   --values DIR          values of the releases: DIR/bridge.yaml and so on, where there is
#                         one, such as in k8s/overlays/prod/values
#   --timeout DURATION    how long a release may take to be ready, by default 5m
#   --no-build            the images are in the registry already: neither build nor push
#   --no-push             build, and don't push: for clusters that use this machine's images
#   --dry-run             print every command, run none
#   --help                print this
#
# Receivers come before senders: iot-consumer, iot-bridge, iot-simulator, in whatever order
# they are named.
set -euo pipefail
# Paths are those of the caller: relative ones are resolved before the directory changes.
readonly started=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly SERVICES=(iot-consumer iot-bridge iot-simulator)
registry='' tag='' revision='' platform='' namespace='' context='' values='' timeout=5m
build=true push=true dry_run=false
chosen=()

say() { printf 'deploy: %s\n' "$*" >&2; }
die() {
    say "$*"
    exit 1
}
misused() {
    say "$* (scripts/deploy.sh --help)"
    exit 2
}

help() { sed -n '2,/^set -/{/^#/{s/^# \{0,1\}//;p}}' "${BASH_SOURCE[0]}"; }

# Runs a command, or only prints it so that it could be pasted.
run() {
    printf '+%s\n' "$(printf ' %q' "$@")"
    "$dry_run" || "$@"
}

absolute() {
    case $1 in
    '' | /*) printf %s "$1" ;;
    *) printf '%s/%s' "$started" "$1" ;;
    esac
}

# Paths that docker, helm and kubectl read: resolve them too, because the script changes directory.
export_absolute() {
    local name file files=() rest
    for name in DOCKER_CONFIG HELM_CONFIG_HOME HELM_CACHE_HOME HELM_DATA_HOME HELM_REPOSITORY_CONFIG; do
        [[ -z ${!name:-} ]] || export "$name=$(absolute "${!name}")"
    done
    [[ -n ${KUBECONFIG:-} ]] || return 0
    IFS=: read -ra rest <<<"$KUBECONFIG"
    for file in "${rest[@]}"; do files+=("$(absolute "$file")"); done
    KUBECONFIG=$(IFS=: && printf %s "${files[*]}")
    export KUBECONFIG
}

parse() {
    while (($#)); do
        case $1 in
        --registry | --tag | --platform | --namespace | --context | --values | --timeout)
            [[ -n ${2:-} ]] || misused "$1 needs a value"
            printf -v "${1#--}" %s "$2"
            shift
            ;;
        --no-build) build=false push=false ;;
        --no-push) push=false ;;
        --dry-run) dry_run=true ;;
        --help | -h)
            help
            exit 0
            ;;
        iot-consumer | iot-bridge | iot-simulator) chosen+=("$1") ;;
        *) misused "unknown argument: $1" ;;
        esac
        shift
    done
    [[ -n $registry ]] || misused '--registry is missing'
    [[ $registry != *[/:] ]] || misused "--registry ends in ${registry: -1}: $registry"
    values=$(absolute "$values")
    [[ -z $values || -d $values ]] || misused "--values is no directory: $values"
    ((${#chosen[@]})) || chosen=(iot-consumer iot-bridge)
    if [[ -z $tag ]]; then
        tag=$(git describe --tags --always --dirty) ||
            misused '--tag is missing, and this is no git checkout'
        # As the images of a release are called.
        [[ $tag != v[0-9]* ]] || tag=${tag#v}
        tag=${tag//+/_}
    fi
    [[ $tag =~ ^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$ ]] ||
        misused "--tag is not a valid image tag (letters, digits, _, . and -): $tag"
    revision=$(git rev-parse HEAD 2>/dev/null) || revision=unknown
}

need() { command -v "$1" >/dev/null || die "$1 is not installed: $2"; }

# Everything that can be found wrong before the images are built.
check() {
    local service
    for service in "${chosen[@]}"; do
        [[ -f deployments/helm/$service/Chart.yaml ]] || die "there is no chart deployments/helm/$service"
    done
    if "$dry_run"; then return; fi
    if "$build"; then need docker 'https://docs.docker.com/engine/install'; fi
    need helm 'https://helm.sh/docs/intro/install'
    need kubectl 'https://kubernetes.io/docs/tasks/tools'
    for service in "${chosen[@]}"; do
        kubectl "${kube[@]}" get namespace "$(namespace_of "$service")" >/dev/null ||
            die "namespace $(namespace_of "$service") can't be read: create it (kubectl apply -f k8s/base/namespaces.yaml), or choose another with --namespace or --context"
    done
}

namespace_of() { printf %s "${namespace:-$1}"; }
image() { printf '%s/%s' "$registry" "$1"; }

build_and_push() {
    local ref
    ref=$(image "$1"):$tag
    run docker build ${platform:+--platform "$platform"} --file deployments/docker/Dockerfile \
        --build-arg "SERVICE=${1#iot-}" --build-arg "VERSION=$tag" --build-arg "REVISION=$revision" --tag "$ref" .
    if "$push"; then run docker push "$ref"; fi
}

# A digest in the values would come before the tag.
release() {
    local service=$1 file=$values/${1#iot-}.yaml options=()
    [[ -z $values || ! -f $file ]] || options+=(--values "$file")
    run helm upgrade --install "$service" "deployments/helm/$service" "${helm[@]}" "${options[@]}" \
        --set-string "image.repository=$(image "$service")" --set-string "image.tag=$tag" \
        --set-string image.digest= --wait --timeout "$timeout"
}

# Asks the service over the network whether it is ready.
verify() { run helm test "$1" "${helm[@]}" --logs --timeout "$timeout"; }

# What to look at first, whatever went wrong in the cluster.
show() {
    local of=(--namespace "$(namespace_of "$1")" --selector "app.kubernetes.io/instance=$1")
    say "$1 is not as it should be; its pods, and what they logged last:"
    kubectl "${kube[@]}" get pods "${of[@]}" >&2 || true
    kubectl "${kube[@]}" logs "${of[@]}" --prefix --tail 20 >&2 || true
    die "back to the release before: helm rollback $1 ${helm[*]}"
}

parse "$@"
export_absolute
kube=(${context:+--context "$context"})
check
if "$build"; then
    for service in "${SERVICES[@]}"; do
        [[ " ${chosen[*]} " != *" $service "* ]] || build_and_push "$service"
    done
fi
for service in "${SERVICES[@]}"; do
    [[ " ${chosen[*]} " == *" $service "* ]] || continue
    helm=(--namespace "$(namespace_of "$service")" ${context:+--kube-context "$context"})
    release "$service" || show "$service"
    verify "$service" || show "$service"
done
say "$("$dry_run" && echo 'nothing was run' || echo 'done'): ${chosen[*]}, $tag"
