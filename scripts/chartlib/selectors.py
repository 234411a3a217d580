"""Checks that what selects pods selects those that it should, in rendered objects."""

# Each counts or ends the pods that it selects as its own.
OWNERS = ("StatefulSet", "Deployment", "PodDisruptionBudget")


class Wrong(Exception):
    """What selects too much or nothing."""


def check(things):
    """Raises Wrong for a pod that two workloads or two budgets select, and for a Service that
    selects no pods, or pods without its port.

    A pod in two budgets cannot be evicted; a pod that two workloads match confuses autoscalers,
    which count pods by selector."""
    pods = [pod for thing in things for pod in pods_of(thing)]
    for kind in OWNERS:
        for pod in pods:
            owners = [name(thing) for thing in things if thing["kind"] == kind and selects(thing, pod)]
            if len(owners) > 1 or (kind == pod["kind"] and owners != [pod["name"]]):
                raise Wrong(f"pods of {pod['kind']} {pod['name']} are selected by {kind} {owners}")
    for service in things:
        if service["kind"] != "Service" or not service["spec"].get("selector"):
            continue
        selected = [pod for pod in pods if selects(service, pod)]
        if not selected:
            raise Wrong(f"Service {name(service)} selects no pods")
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in selected:
                if isinstance(target, str) and target not in pod["ports"]:
                    raise Wrong(f"Service {name(service)}: pods of {pod['kind']} {pod['name']} have no port {target}")


def name(thing):
    return thing["metadata"]["name"]


def pods_of(thing):
    """The pods of an object, as one: kind, name, namespace, labels, names of ports."""
    if thing["kind"] not in ("StatefulSet", "Deployment", "Job", "Pod"):
        return
    pod = thing if thing["kind"] == "Pod" else thing["spec"]["template"]
    ports = {port.get("name") for container in pod["spec"]["containers"] for port in container.get("ports", [])}
    yield {"kind": thing["kind"], "name": name(thing), "namespace": thing["metadata"].get("namespace"),
           "labels": pod["metadata"].get("labels", {}), "ports": ports}


def selects(thing, pod):
    selector = thing["spec"]["selector"]
    labels = selector.get("matchLabels", {}) if thing["kind"] in OWNERS else selector
    return thing["metadata"].get("namespace") == pod["namespace"] and labels.items() <= pod["labels"].items()
