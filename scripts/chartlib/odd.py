"""Renders the charts with values that are odd but legal, and as dependencies of another chart."""

import copy
import json
import os
import pathlib
import shutil
import subprocess

import yaml

from chartlib import strict

# Names that YAML takes for numbers, booleans or nothing, unless they are quoted.
NAMES = ["no", "on", "yes", "null", "1234", "1e3", "0x1f", "1-2"]
# With everything on, so that every value has an effect.
WHOLE = {"iot-bridge": "several", "iot-consumer": "scaled", "iot-simulator": "shards"}


class Failed(Exception):
    """What is wrong with a rendering."""


class Charts:
    """The charts, and what renders them."""

    def __init__(self, helm, charts, paths):
        self.helm, self.charts = helm, charts
        # Of each chart, the paths of all its values.
        self.paths = paths
        # All that was rendered, to be checked against Kubernetes' schemas.
        self.rendered = []

    def render(self, chart, release="odd", namespace="iot", values=(), what=None):
        """The objects of a rendering with values files."""
        flags = [word for file in values for word in ("--values", str(file))]
        command = [str(self.helm), "template", release, str(chart), "--namespace", namespace, *flags]
        done = subprocess.run(command, text=True, capture_output=True, check=False)
        what = what or " ".join(command)
        if done.returncode:
            raise Failed(f"{what}: {done.stderr.strip()}")
        try:
            things = strict.documents(done.stdout)
        except strict.Wrong as wrong:
            raise Failed(f"{what}: {wrong}") from None
        self.rendered.append(done.stdout)
        return things

    def whole(self, chart):
        return self.charts / chart / f"ci/{WHOLE[chart]}.yaml"


def check(charts, directory):
    """All of the below, with files in a directory that exists; what was rendered."""
    directory = pathlib.Path(directory)
    names(charts, directory)
    versions(charts, directory)
    nulls(charts, directory)
    aliases(charts, directory)
    jobs(charts, directory)
    variables(charts, directory)
    return "\n---\n".join(charts.rendered)


def names(charts, directory):
    """Names of releases, namespaces and objects that read as something else."""
    file = directory / "names.yaml"
    for chart in WHOLE:
        for index, name in enumerate(NAMES):
            override = ["nameOverride", "fullnameOverride"][index % 2]
            file.write_text(json.dumps({override: name}))
            charts.render(charts.charts / chart, name, NAMES[index - 1], [charts.whole(chart), file])


def versions(charts, directory):
    """A version with a plus sign, which neither a label nor a tag may contain."""
    for chart in WHOLE:
        made = directory / f"{chart}-version"
        shutil.copytree(charts.charts / chart, made)
        about = yaml.safe_load((made / "Chart.yaml").read_text())
        about |= {"version": "0.1.0+build.5", "appVersion": "0.1.0+build.5"}
        (made / "Chart.yaml").write_text(yaml.safe_dump(about))
        for thing in charts.render(made):
            for container in pod_spec(thing).get("containers", []):
                if "+" in container["image"]:
                    raise Failed(f"{chart}: image {container['image']}")


def pod_spec(thing):
    spec = thing.get("spec", {})
    return spec if thing["kind"] == "Pod" else spec.get("template", {}).get("spec", {})


def nulls(charts, directory):
    """Every value may be null. Each value is that of one dependency of another chart."""
    for chart in WHOLE:
        base = yaml.safe_load(charts.whole(chart).read_text())
        # Helm's time grows with the square of the number of dependencies.
        for start in range(0, len(charts.paths[chart]), 16):
            paths = {f"null{index}": path for index, path in enumerate(charts.paths[chart][start:start + 16])}
            given = {alias: with_null(base, path) for alias, path in paths.items()}
            # In the values of the parent, and in a user's file, which Helm treats differently.
            for of_parent in (True, False):
                parent = umbrella(charts, directory / f"{chart}-null-{start}-{of_parent}",
                                  {alias: chart for alias in given}, given if of_parent else {})
                file = directory / f"{chart}-null.yaml"
                file.write_text(json.dumps({} if of_parent else given))
                charts.render(parent, values=[file], what=f"{chart} with null for each of {paths}")


def with_null(base, path):
    values = copy.deepcopy(base)
    put(values, path, None)
    # They have names of their own.
    put(values, "extraObjects", [])
    # Big, and the same for all.
    if not path.startswith("metrics"):
        put(values, "metrics.dashboards.enabled", False)
        put(values, "metrics.prometheusRule.enabled", False)
    # These need the value.
    if path.startswith("config") and "keda" in values:
        put(values, "keda.enabled", False)
    if path in ("ingress.host", "config", "config.auth", "config.auth.mode") and "ingress" in values:
        put(values, "ingress.enabled", False)
    put(values, "enabled", True)
    return values


def put(values, path, value):
    *sections, last = path.split(".")
    for section in sections:
        if not isinstance(values.get(section), dict):
            values[section] = {}
        values = values[section]
    values[last] = value


def umbrella(charts, directory, aliases, values):
    """A chart that has others as dependencies, under aliases."""
    (directory / "charts").mkdir(parents=True)
    for chart in set(aliases.values()):
        os.symlink(charts.charts / chart, directory / "charts" / chart)
    dependencies = [{"name": chart, "version": ">=0.0.0-0", "alias": alias, "condition": f"{alias}.enabled"}
                    for alias, chart in aliases.items()]
    about = {"apiVersion": "v2", "name": "umbrella", "version": "1.0.0", "dependencies": dependencies}
    (directory / "Chart.yaml").write_text(yaml.safe_dump(about))
    (directory / "values.yaml").write_text(yaml.safe_dump(values))
    return directory


def aliases(charts, directory):
    """Two of each chart in one release, and one that is off."""
    given = {alias: chart for chart in WHOLE for alias in (f"{chart[4:]}One", f"{chart[4:]}_2", f"{chart[4:]}off")}
    values = {alias: {"enabled": not alias.endswith("off"), "metrics": {"serviceMonitor": {"enabled": True}}}
              for alias in given}
    things = charts.render(umbrella(charts, directory / "aliases", given, values))
    for thing in things:
        if "off" in thing["metadata"]["name"]:
            raise Failed(f"a dependency that is off has {thing['kind']} {thing['metadata']['name']}")
    jobs = sorted(label["replacement"] for thing in things if thing["kind"] == "ServiceMonitor"
                  for label in thing["spec"]["endpoints"][0]["relabelings"])
    if jobs != sorted([*WHOLE, *WHOLE]):
        raise Failed(f"the jobs of aliases are {jobs}, which alert rules do not match")
    selectors = [json.dumps(thing["spec"]["selector"]["matchLabels"], sort_keys=True) for thing in things
                 if thing["kind"] == "StatefulSet"]
    if len(set(selectors)) < len(selectors):
        raise Failed(f"two dependencies select the same pods: {selectors}")


def jobs(charts, directory):
    """A Job cannot be changed, so another content needs another name, and the same the same."""
    file = directory / "job.yaml"

    def name(**values):
        file.write_text(json.dumps(values))
        run = charts.charts / "iot-simulator/ci/run.yaml"
        # The longest name that Helm allows.
        things = charts.render(charts.charts / "iot-simulator", "r" * 53, values=[run, file])
        job = next(thing for thing in things if thing["kind"] == "Job")
        # Of the pods: Kubernetes refuses a Job whose last one would have a longer name.
        if len(f"{job['metadata']['name']}-{job['spec']['completions'] - 1}") > 63:
            raise Failed(f"the pods of Job {job['metadata']['name']} would have names of more than 63 characters")
        return job["metadata"]["name"]

    first = name()
    if name(podDisruptionBudget={"maxUnavailable": 2}) != first:
        raise Failed("a Job has another name without a change of its own")
    still = {"restartOnChange": False}
    if name(**still, config={"fleet": {"seed": 2}}) == name(**still):
        raise Failed("with restartOnChange: false, a Job ignores changes of its settings")
    for change in ({"config": {"fleet": {"seed": 2}}}, {"image": {"tag": "2"}}, {"replicas": 3}, {"extraEnv": [{"name": "A", "value": "b"}]}):
        if name(**change) == first:
            raise Failed(f"a Job is changed in place by {change}")


def variables(charts, directory):
    """Entries of extraEnv that are null, a zero without quotes, and a query after a port."""
    file = directory / "variables.yaml"

    def render(chart, *environment, **values):
        file.write_text(json.dumps({"extraEnv": [None, *environment], "networkPolicy": {"enabled": True}, **values}))
        return charts.render(charts.charts / chart, values=[file])

    def ports(things):
        policy = next(thing for thing in things if thing["kind"] == "NetworkPolicy")
        return {port["port"] for rule in policy["spec"]["egress"] for port in rule["ports"]}

    for chart in WHOLE:
        render(chart)
    found = ports(render("iot-consumer", {"name": "REDIS_URL", "value": "redis://r:6380?protocol=resp3"}))
    if 6380 not in found:
        raise Failed(f"the port before a query is missing from {found}")
    things = render("iot-simulator", {"name": "IOT_RUN__MESSAGES", "value": 0})
    kinds = {thing["kind"] for thing in things}
    if "PodDisruptionBudget" not in kinds:
        raise Failed(f"IOT_RUN__MESSAGES: 0 is taken for the end of a run: {kinds}")
