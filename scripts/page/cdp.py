"""A headless Chromium under control of the DevTools protocol.

Standard library only. The protocol runs over a pair of pipes (Chromium's
`--remote-debugging-pipe`: JSON messages that end in a zero byte), so that no
debugging port is open on the machine and no WebSocket is needed.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import tempfile
import time

NAMES = ("chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "chrome")
FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
    "--no-default-browser-check", "--disable-background-networking", "--disable-component-update",
    "--disable-extensions", "--disable-sync", "--hide-scrollbars", "--mute-audio", "--remote-debugging-pipe",
)
ANSWER_WITHIN = 30.0


class BrowserError(Exception):
    """Chromium could not be started or did not do what it was asked."""


def find_chromium():
    """Path of the browser: $CHROMIUM, or the first of the usual names."""
    for name in (os.environ.get("CHROMIUM"), *NAMES):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise BrowserError("no Chromium found: install it (Debian: apt-get install chromium) or set CHROMIUM")


class Browser:
    """One Chromium with one page; a context manager that ends what it started."""

    def __init__(self, width, height, scheme="light"):
        self.profile = tempfile.mkdtemp(prefix="check-page-")
        self.process = None
        self.buffer = b""
        self.events = []
        self.answers = {}
        self.last_id = 0
        self.session = None
        self.size = (width, height)
        self.scheme = scheme

    def __enter__(self):
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_):
        self.close()

    def _start(self):
        command_read, self.commands = os.pipe()
        self.replies, reply_write = os.pipe()
        log = open(os.path.join(self.profile, "stderr"), "wb")

        def place_pipes():
            # Chromium reads commands from descriptor 3 and answers on 4. Moved
            # out of the way first: either end may itself be 3 or 4.
            ends = (os.dup(command_read), os.dup(reply_write))
            high = [os.dup2(end, 60 + at, inheritable=False) for at, end in enumerate(ends)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [find_chromium(), *FLAGS, f"--user-data-dir={self.profile}", "about:blank"],
            stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            close_fds=False, preexec_fn=place_pipes, start_new_session=True,
        )
        os.close(command_read)
        os.close(reply_write)
        log.close()
        targets = self.call("Target.getTargets")["targetInfos"]
        page = next(target["targetId"] for target in targets if target["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=page, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Audits"):
            self.call(f"{domain}.enable")
        width, height = self.size
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 700)
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": self.scheme}])

    def call(self, method, **params):
        """Sends one command and returns its result."""
        self.last_id += 1
        message = {"id": self.last_id, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        try:
            os.write(self.commands, json.dumps(message).encode() + b"\0")
        except BrokenPipeError:
            raise BrowserError(f"Chromium ended: {self._last_words()}") from None
        deadline = time.monotonic() + ANSWER_WITHIN
        while self.last_id not in self.answers:
            if not self._read(deadline - time.monotonic()):
                raise BrowserError(f"Chromium gave no answer to {method} within {ANSWER_WITHIN:.0f} s")
        answer = self.answers.pop(self.last_id)
        if "error" in answer:
            raise BrowserError(f"{method}: {answer['error'].get('message')}")
        return answer.get("result", {})

    def wait(self, seconds):
        """Lets time pass while taking in events."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self._read(deadline - time.monotonic())

    def evaluate(self, expression):
        """Value of a JavaScript expression in the page."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            reason = details.get("exception", {}).get("description", details["text"])
            raise BrowserError(f"evaluating in the page failed: {reason}")
        return result["result"].get("value")

    def _read(self, timeout):
        """Takes in what has arrived; False when nothing did within `timeout`."""
        ready, _, _ = select.select([self.replies], [], [], max(0.0, timeout))
        if not ready:
            return False
        data = os.read(self.replies, 1 << 20)
        if not data:
            raise BrowserError(f"Chromium ended: {self._last_words()}")
        *messages, self.buffer = (self.buffer + data).split(b"\0")
        for text in messages:
            message = json.loads(text)
            if "id" in message:
                self.answers[message["id"]] = message
            else:
                self.events.append(message)
        return True

    def _last_words(self):
        with open(os.path.join(self.profile, "stderr"), "rb") as log:
            lines = log.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def close(self):
        """Ends this Chromium with its helpers and removes its profile."""
        if self.process:
            self._end(signal.SIGTERM, 5)
            self._end(signal.SIGKILL, 5)
            os.close(self.commands)
            os.close(self.replies)
            self.process = None
        shutil.rmtree(self.profile, ignore_errors=True)

    def _end(self, how, seconds):
        # Its own session, so the group holds this Chromium and nothing else.
        try:
            os.killpg(self.process.pid, how)
            self.process.wait(seconds)
        except (ProcessLookupError, subprocess.TimeoutExpired):
            pass
