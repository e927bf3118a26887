"""What is killed: operations on a node and a store, in a process that has everything imported and forks for each.

`python operations.py` reads one JSON request a line and answers with one: the operation runs in a fork, which waits
until strace has taken hold of it. Golden inputs run in that fork too: the same work, without a child of its own.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Callable, Dict, Optional

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from engines import child, onnxruntime  # noqa: F401  (the latter so that a fork need not)
from engines.errors import OptimizeError, outcome
from optimize.ship import activate as activation
from optimize.ship import fetch, golden, node, send
from optimize.ship import pull as pulling


def activate(place: str, version: str, health: Optional[str] = None) -> None:
    activation.activate(Path(place), version, health)


def rollback(place: str) -> None:
    activation.rollback(Path(place))


def remove(place: str, version: str) -> None:
    node.remove(place, version)


def mend(place: str) -> None:
    with node.locked(Path(place)):
        pass


def note(place: str) -> None:
    with node.locked(Path(place)):
        node.refused(Path(place), OptimizeError("of no interest"), name="linear-fp32")


def pull(place: str, reference: str, source: str) -> None:
    pulling.pull(reference, source, node=place)


def pull_unsynced(place: str, reference: str, source: str) -> None:
    """`pull` as it must not be: a version appears before its bytes are on the disk."""
    fetch._synced = lambda path: None
    pull(place, reference, source)


def ship(place: str, bundle: str, to: str) -> None:
    send.ship([bundle], to, "linear-fp32")


OPERATIONS: Dict[str, Callable[..., None]] = {
    function.__name__: function for function in (activate, rollback, remove, mend, note, pull, pull_unsynced, ship)
}


def _in_this_process(target: str, arguments: Dict[str, Any], progress: Any = None, *_: Any) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(**arguments)


def _child(request: Dict[str, Any], go: int, answer: socket.socket) -> None:
    child.follow_parent()
    os.read(go, 1)
    for name, value in request.get("limits", {}).items():
        resource.setrlimit(getattr(resource, name), (value, value))
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    reply: Dict[str, Any] = {"error": None}
    try:
        OPERATIONS[request["operation"]](**request["arguments"])
    except BaseException as error:
        told = outcome(error)
        reply = {"error": {"kind": type(error).__name__, "message": told.message, "exit_code": told.exit_code}}
    answer.send(json.dumps(reply).encode())  # not `write`, which may be what is made to fail
    os._exit(0)


def trial(request: Dict[str, Any]) -> Dict[str, Any]:
    """Run an operation in a fork, under strace as the request asks; killed where it takes longer than asked."""
    held, go = os.pipe()
    ours, theirs = socket.socketpair()
    pid = os.fork()
    if pid == 0:
        with contextlib.suppress(BaseException):
            _child(request, held, theirs)
        os._exit(70)
    os.close(held)
    theirs.close()
    tracer = None
    if request.get("strace"):
        tracer = subprocess.Popen(["strace", "-f", "-p", str(pid), *request["strace"]], stderr=subprocess.PIPE)
        said = tracer.stderr.readline().decode() if tracer.stderr else ""
        if "attached" not in said:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            return {"error": {"kind": "NoTrace", "message": said, "exit_code": 0}, "killed": False}
    os.write(go, b"g")
    os.close(go)
    if request.get("seconds") is not None and not select.select([ours], [], [], request["seconds"])[0]:
        os.kill(pid, signal.SIGKILL)  # it has not answered yet, and it is not waited for yet, so that it is there
    begun = time.monotonic()
    _, status = os.waitpid(pid, 0)
    if tracer is not None:
        tracer.communicate()
    ours.setblocking(False)
    reply: Dict[str, Any] = {"error": None}
    with contextlib.suppress(BlockingIOError):
        reply = json.loads(ours.recv(1 << 16) or b'{"error": null}')
    ours.close()
    return {**reply, "killed": os.WIFSIGNALED(status), "seconds": time.monotonic() - begun}


def main() -> None:
    """Answer requests until there are no more."""
    golden.child.call = _in_this_process  # type: ignore[assignment]
    send._SETTLE_S = 0.0
    golden._WARMUP_S, golden._DURATION_S = 0.0, 0.001
    for line in sys.stdin:
        print(json.dumps(trial(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
