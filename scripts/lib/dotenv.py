"""How Compose reads values of .env, tried with its own library, which needs no engine."""

import json
import os
import pathlib
import shutil
import subprocess
import tempfile

from lib.process import ROOT, Failed

# What Compose v2.40.3 reads files with.
COMPOSE_GO = "github.com/compose-spec/compose-go/v2@v2.9.1"
# Prints the variables of a service, with those of an .env file.
READER = """package main

import (
	"context"
	"encoding/json"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	options, err := cli.NewProjectOptions(os.Args[3:], cli.WithEnvFiles(os.Args[1]), cli.WithDotEnv)
	if err != nil {
		panic(err)
	}
	project, err := options.LoadProject(context.Background())
	if err != nil {
		panic(err)
	}
	_ = json.NewEncoder(os.Stdout).Encode(project.Services[os.Args[2]].Environment)
}
"""
PASSWORDS = ["pa$word", "pa$$word", "${HOME}", "$1", "a #b", "a b", 'a"b', "it's", "a\\b", "a=b:c"]


def wrong_quoting(cache):
    """Problems with passwords that are quoted as .env.example says. Keeps a program in `cache`."""
    if "in single quotes" not in (ROOT / ".env.example").read_text():
        return [".env.example has nothing about the quoting of values"]
    problems = []
    for password in PASSWORDS:
        quoted = password.replace("'", "\\'")
        found = arrives(cache, f"'{quoted}'")
        if found != password:
            problems.append(f".env: the password {password!r} arrives as {found!r}")
    # Otherwise nobody would need to quote.
    if arrives(cache, "pa$word") == "pa$word":
        problems.append(".env.example: Compose replaces nothing in values without quotes")
    return problems


def arrives(cache, value):
    """The password that Grafana has with a value in .env."""
    file = cache / "password.env"
    file.write_text(f"GRAFANA_PASSWORD={value}\n")
    variables = json.loads(run(reader(cache), file, "grafana", "docker-compose.yml", cwd=ROOT))
    return variables["GF_SECURITY_ADMIN_PASSWORD"]


def reader(cache):
    program = cache / f"reader-{COMPOSE_GO.partition('@')[2]}"
    if not program.exists():
        cache.mkdir(parents=True, exist_ok=True)
        # A directory and a program of its own, because checks may run in parallel.
        source = pathlib.Path(tempfile.mkdtemp(dir=cache))
        built = source / "reader"
        (source / "main.go").write_text(READER)
        (source / "go.mod").write_text("module reader\n\ngo 1.23\n")
        for command in (["get", COMPOSE_GO], ["mod", "tidy"], ["build", "-trimpath", "-o", built, "."]):
            run("go", *command, cwd=source, env={**os.environ, "CGO_ENABLED": "0"})
        built.rename(program)
        shutil.rmtree(source)
    return program


def run(*command, **options):
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False, **options)
    if done.returncode:
        raise Failed(f"{' '.join(map(str, command))}: {done.stderr}")
    return done.stdout
