"""Reads rendered manifests as strictly as an API server does, and checks their selectors."""

import re

import yaml

from chartlib import selectors

LABEL = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# Fields whose values are text, wherever they are.
TEXT = {
    "name", "generateName", "namespace", "host", "secretName", "serviceName", "serviceAccountName", "image",
    "ingressClassName", "priorityClassName", "topologyKey", "key", "mountPath", "replacement", "targetLabel",
    "averageValue", "interval", "fieldPath",
}
# Fields whose values are maps of text.
TEXTS = {"labels", "annotations", "matchLabels", "nodeSelector"}


class Wrong(Exception):
    """What an API server would refuse, or selects the wrong pods."""


class Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
    """Of YAML 1.1, as Kubernetes' own: `no` is a boolean. Refuses duplicate keys."""


def mapping(loader, node):
    loader.flatten_mapping(node)
    made = {}
    for key_node, value_node in node.value:
        key = loader.construct_object(key_node, deep=True)
        if isinstance(key, (dict, list)):
            raise Wrong(f"the key in line {key_node.start_mark.line + 1} is no text")
        if key in made:
            raise Wrong(f"duplicate key {key!r} in line {key_node.start_mark.line + 1}")
        made[key] = loader.construct_object(value_node, deep=True)
    return made


Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
# Kubernetes' YAML has no dates.
Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda loader, node: node.value)


def documents(text):
    """The objects in a rendering.

    Raises Wrong for what does not decode, for fields of the wrong type, and for selectors of the
    wrong pods."""
    things = []
    try:
        for one in yaml.load_all(text, Loader):
            if one is not None:
                things.append(one)
    except yaml.YAMLError as error:
        raise Wrong(str(error)) from None
    for thing in things:
        if not isinstance(thing, dict) or not isinstance(thing.get("kind"), str):
            raise Wrong(f"no object: {thing!r}"[:200])
        check(thing, thing["kind"])
    names = [(thing["kind"], thing["metadata"].get("namespace"), thing["metadata"].get("name")) for thing in things]
    for name in set(names):
        if names.count(name) > 1:
            raise Wrong(f"{name} is there more than once")
    for problem in selectors.problems(things):
        raise Wrong(problem)
    return things


def check(thing, path):
    if isinstance(thing, list):
        for index, below in enumerate(thing):
            check(below, f"{path}[{index}]")
        entries = [one["name"] for one in thing if isinstance(one, dict) and "name" in one]
        # One volume may be mounted at several places.
        if len(set(map(str, entries))) < len(entries) and not path.endswith("volumeMounts"):
            raise Wrong(f"{path}: a name is there more than once: {entries}")
    if not isinstance(thing, dict):
        return
    for key, value in thing.items():
        at = f"{path}.{key}"
        if not isinstance(key, str):
            raise Wrong(f"{at}: its key is no text")
        scalar = not isinstance(value, (dict, list))
        if key in TEXT and scalar and not isinstance(value, str):
            raise Wrong(f"{at}: {value!r} is no text")
        # KEDA's triggers have text only.
        if key in TEXTS or at == "ScaledObject.spec.triggers[0].metadata":
            check_texts(value, at)
        if key == "env":
            check_texts({one["name"]: one["value"] for one in value if "value" in one}, at)
        # Rules and dashboards are files, with tests of their own.
        if not (at == "PrometheusRule.spec" or key == "data"):
            check(value, at)


def check_texts(texts, path):
    for key, value in (texts or {}).items():
        if not isinstance(value, str):
            raise Wrong(f"{path}.{key}: {value!r} is no text")
        if path.endswith(("abels", "nodeSelector")) and not LABEL.fullmatch(value):
            raise Wrong(f"{path}.{key}: {value!r} is no label")
