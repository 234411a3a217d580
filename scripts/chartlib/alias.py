"""The charts' unit tests, for each chart as the dependency of another one, under an alias."""

import json
import pathlib
import shutil
import textwrap

import yaml

ALIAS = "other"


def parent(chart, directory):
    """A chart in `directory` that has `chart` (a path) as its only dependency, with the unit tests of
    `chart` as its own."""
    directory = pathlib.Path(directory)
    shutil.copytree(chart, directory / "charts" / chart.name)
    shutil.rmtree(directory / "charts" / chart.name / "tests")
    dependency = {"name": chart.name, "version": ">=0.0.0-0", "alias": ALIAS, "condition": f"{ALIAS}.enabled"}
    about = {"apiVersion": "v2", "name": "parent", "version": "1.0.0", "dependencies": [dependency]}
    (directory / "Chart.yaml").write_text(json.dumps(about))
    # Otherwise the objects would be named after the alias, and the tests name them after the chart.
    values = {ALIAS: {"enabled": True, "nameOverride": chart.name}}
    (directory / "values.yaml").write_text(json.dumps(values))
    (directory / "tests").mkdir()
    (directory / "ci").mkdir()
    for file in (chart / "ci").glob("*.yaml"):
        # As written: numbers mean different things to different parsers.
        (directory / "ci" / file.name).write_text(f"{ALIAS}:\n{textwrap.indent(file.read_text(), '  ')}")
    for file in (chart / "tests").glob("*.yaml"):
        suite = moved(yaml.safe_load(file.read_text()))
        suite["tests"] = [moved(test) for test in suite["tests"]]
        (directory / "tests" / file.name).write_text(json.dumps(suite))
    return directory


def moved(part):
    """A suite, a test or an assertion, with the templates and values of the dependency."""
    part = dict(part)
    if "template" in part:
        part["template"] = path(part["template"])
    if "templates" in part:
        part["templates"] = [path(template) for template in part["templates"]]
    if "set" in part:
        part["set"] = {f"{ALIAS}.{name}": value for name, value in part["set"].items()}
    if "asserts" in part:
        part["asserts"] = [moved(one) for one in part["asserts"]]
    return part


def path(template):
    return f"charts/{ALIAS}/templates/{template}"
