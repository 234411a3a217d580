"""Checks that what selects pods selects those that it should, in rendered objects."""

WORKLOADS = ("StatefulSet", "Deployment")


def problems(things):
    """Yields texts: of pods that two workloads or two budgets select, and of Services that select
    no pods, or pods without their port.

    A pod in two budgets cannot be evicted; a pod that two workloads match confuses autoscalers,
    which count pods by selector."""
    pods = [pod for thing in things for pod in pods_of(thing)]
    for pod in pods:
        owners = [about(thing) for thing in things if thing["kind"] in WORKLOADS and selects(thing, pod)]
        if owners != ([pod["about"]] if pod["about"].startswith(WORKLOADS) else []):
            yield f"the pods of {pod['about']} are selected by {owners}"
        budgets = [about(thing) for thing in things if thing["kind"] == "PodDisruptionBudget" and selects(thing, pod)]
        if len(budgets) > 1:
            yield f"the pods of {pod['about']} are in {budgets}"
    for service in things:
        if service["kind"] != "Service" or not service["spec"].get("selector"):
            continue
        selected = [pod for pod in pods if selects(service, pod)]
        if not selected:
            yield f"{about(service)} selects no pods"
        for port in service["spec"]["ports"]:
            target = port.get("targetPort", port["port"])
            for pod in selected:
                if isinstance(target, str) and target not in pod["ports"]:
                    yield f"{about(service)}: the pods of {pod['about']} have no port {target}"


def about(thing):
    return f"{thing['kind']} {thing['metadata']['name']}"


def pods_of(thing):
    """The pods of an object, as one: whose they are, namespace, labels, names of ports."""
    if thing["kind"] not in (*WORKLOADS, "Job", "Pod"):
        return
    pod = thing if thing["kind"] == "Pod" else thing["spec"]["template"]
    ports = {port.get("name") for container in pod["spec"]["containers"] for port in container.get("ports", [])}
    yield {"about": about(thing), "namespace": thing["metadata"].get("namespace"),
           "labels": pod["metadata"].get("labels", {}), "ports": ports}


def selects(thing, pod):
    selector = thing["spec"]["selector"]
    labels = selector if thing["kind"] == "Service" else selector.get("matchLabels", {})
    return thing["metadata"].get("namespace") == pod["namespace"] and labels.items() <= pod["labels"].items()
