"""Downloads the SDKs, pinned by version and checksum, and builds the clients that use them.

Everything is in a directory for each SDK, named by what it is made from: it appears by one
rename, so an interrupted download is never taken for a complete one.
"""

import hashlib
import os
import pathlib
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor

from lib.process import Failed

CLIENTS = pathlib.Path(__file__).parent / "clients"
CACHE = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache") / "iot-sdks"


def install_all():
    """The command of each client, by language."""
    with ThreadPoolExecutor() as pool:
        return dict(zip(INSTALLERS, pool.map(install, INSTALLERS)))


def install(language):
    install_into, command = INSTALLERS[language]
    files = sorted(file for file in (CLIENTS / language).iterdir() if file.is_file())
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode() + b"\0" + file.read_bytes())
    home = CACHE / f"{language}-{digest.hexdigest()[:16]}"
    if not home.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        work = pathlib.Path(tempfile.mkdtemp(prefix=f"{language}-", dir=CACHE))
        try:
            for file in files:
                shutil.copy(file, work)
            install_into(work)
            try:
                work.rename(home)
            except OSError:
                # Another run was faster.
                if not home.exists():
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
    return command(home)


def javascript(home):
    run("npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--cache", CACHE / "npm", cwd=home)


def python(home):
    run("python3", "-m", "venv", "--without-pip", home / "venv")
    run("python3", "-m", "venv", home / "pip")
    packages = next((home / "venv/lib").glob("python3*")) / "site-packages"
    run(home / "pip/bin/python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--require-hashes",
        "--only-binary", ":all:", "--target", packages, "-r", home / "requirements.txt")
    shutil.rmtree(home / "pip")


def go(home):
    environment = {**os.environ, "CGO_ENABLED": "0", "GOFLAGS": "-mod=readonly -modcacherw", "GOMODCACHE": CACHE / "go"}
    run("go", "build", "-trimpath", "-o", home / "client", ".", cwd=home, env=environment)


def java(home):
    run("mvn", "-q", "-B", "-f", home / "pom.xml", "dependency:copy-dependencies",
        "-DincludeScope=runtime", f"-DoutputDirectory={home / 'jars'}")
    run("sha256sum", "--check", "--strict", "--quiet", home / "SHA256SUMS", cwd=home / "jars")
    # None that is not in the list.
    listed = (home / "SHA256SUMS").read_text().split()[1::2]
    if unlisted := {jar.name for jar in (home / "jars").iterdir()} - set(listed):
        raise Failed(f"java: SHA256SUMS does not list {', '.join(sorted(unlisted))}")
    jars = list((home / "jars").iterdir())
    compiler = next(jar for jar in jars if jar.name.startswith("ecj-"))
    run("java", "-jar", compiler, "--release", "17", "-cp", ":".join(map(str, jars)), "-d", home / "classes",
        home / "SdkClient.java")


# Fills a directory that has the files of the client, and the command that is then there.
INSTALLERS = {
    "javascript": (javascript, lambda home: ["node", home / "client.mjs"]),
    "python": (python, lambda home: [home / "venv/bin/python", home / "client.py"]),
    "go": (go, lambda home: [home / "client"]),
    "java": (java, lambda home: ["java", "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1",
                                 "-cp", f"{home}/classes:{home}/jars/*", "SdkClient"]),
}


def run(*command, **options):
    command = list(map(str, command))
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False, **options)
    if done.returncode:
        raise Failed(f"{' '.join(command)}: {done.stdout[-4000:]}")
