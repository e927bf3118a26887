"""A real headless Chromium, driven by its DevTools protocol over a pipe: no package and no port is needed.

The protocol: https://chromedevtools.github.io/devtools-protocol/ ; over `--remote-debugging-pipe` messages are JSON
with a NUL behind, read by the browser from descriptor 3 and written to 4.
"""

from __future__ import annotations

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_TIMEOUT_S = 120.0
_KEYS = {"Tab": 9, "Enter": 13, "Space": 32}


def find() -> Optional[str]:
    """Path of a Chromium that runs on this machine, or None: Ubuntu has one that only tells to install a snap."""
    for path in filter(None, map(shutil.which, NAMES)):
        done = subprocess.run([path, "--version"], stdin=subprocess.DEVNULL, capture_output=True, timeout=_TIMEOUT_S)
        if done.returncode == 0:
            return path
    return None


class Browser:
    """One page of a browser: what is asked of it, and all that it has told so far (`events`)."""

    def __init__(self, to: int, back: int) -> None:
        self._to, self._back, self._rest, self._last = to, back, b"", 0
        self._session = ""
        self.events: List[Dict[str, Any]] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params: Any) -> Dict[str, Any]:
        """Ask the browser and wait for its answer."""
        self._last += 1
        about = {"sessionId": self._session} if self._session else {}
        message = json.dumps({"id": self._last, "method": method, "params": params, **about}).encode() + b"\0"
        while message:
            message = message[os.write(self._to, message) :]
        while True:
            found = self._read()
            if found.get("id") == self._last:
                assert "error" not in found, f"{method}: {found['error']}"
                return found["result"]

    def wait(self, method: str) -> Dict[str, Any]:
        """The next event of a kind that has not been waited for."""
        while True:
            for event in self.events:
                if event["method"] == method and not event.get("seen"):
                    event["seen"] = True
                    return event["params"]
            self._read()

    def _read(self) -> Dict[str, Any]:
        end = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._back], [], [], max(end - time.monotonic(), 0))
            assert ready, "the browser does not answer"
            found = os.read(self._back, 1 << 20)
            assert found, "the browser has ended"
            self._rest += found
        message, _, self._rest = self._rest.partition(b"\0")
        value = json.loads(message)
        if "method" in value:
            self.events.append(value)
        return value

    def open(self, path: Path) -> None:
        """Open a file and wait until it is loaded."""
        self.call("Page.navigate", url=path.resolve().as_uri())
        self.wait("Page.loadEventFired")

    def value(self, expression: str) -> Any:
        """What an expression gives on the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def click(self, element: str) -> None:
        """Click in the middle of what an expression gives, as a mouse does."""
        self.value(f"{element}.scrollIntoView({{block: 'center', inline: 'center'}})")
        box = self.value(
            f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({element}.getBoundingClientRect())"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=box[0], y=box[1], button="left", clickCount=1)

    def press(self, key: str) -> None:
        """Press and release a key."""
        text = {"Enter": "\r", "Space": " "}.get(key, "")
        name = " " if key == "Space" else key
        for kind, typed in (("keyDown", text), ("keyUp", "")):
            self.call(
                "Input.dispatchKeyEvent", type=kind, key=name, code=key, text=typed, windowsVirtualKeyCode=_KEYS[key]
            )

    def size(self, width: int, height: int, mobile: bool = False) -> None:
        """Make the screen so large, in CSS pixels."""
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)

    def picture(self, path: Path) -> None:
        """Take a picture of the whole page."""
        found = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        path.write_bytes(base64.b64decode(found["data"]))


@contextlib.contextmanager
def started(path: str, profile: Path) -> Iterator[Browser]:
    """A browser with an empty profile; it ends with the block."""
    to_read, to_write = os.pipe()
    back_read, back_write = os.pipe()
    command = [path, "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]
    command += ["--disable-background-networking", "--remote-debugging-pipe", f"--user-data-dir={profile}"]

    def pipes() -> None:  # in the child: copies out of the way, then where the browser wants them
        ends = [fcntl.fcntl(end, fcntl.F_DUPFD, 10) for end in (to_read, back_write)]
        for wanted, end in zip((3, 4), ends):
            os.dup2(end, wanted)

    child = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=pipes,
    )
    os.close(to_read)
    os.close(back_write)
    try:
        yield Browser(to_write, back_read)
    finally:
        child.terminate()
        try:
            child.wait(30)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        os.close(to_write)
        os.close(back_read)
