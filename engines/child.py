"""Run a function in a clean child process: fresh interpreter, no user folder on its path, JSON in and JSON out.

`python -m` puts the working folder first on `sys.path`, where a user's `bench.py` or `onnx.py` would shadow ours. A
child starts from a boot line instead, with the parent's `sys.path` minus the working folder.
"""

from __future__ import annotations

import importlib
import io
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional

from engines import jsonfile, killed, process, scratch
from engines.errors import CLASSES, OptimizeError, outcome
from engines.spec import Progress, quiet

_BOOT = "import sys; sys.path[:] = sys.argv[2:]; from engines.child import _main; _main(sys.argv[1])"
"""Python 3.8 puts the working folder first on this path too: only `sys` is imported before that is undone."""

_TEMPORARY = ("TMPDIR", "TEMP", "TMP")
"""Name the folder of temporary files: a framework removes its own in an exit handler, which a child does not run."""

_TAIL = 20
"""Lines of a child's log shown when it died without a word."""

_ours = str(Path(__file__).resolve().parent.parent)

_inside = False


def inside() -> bool:
    """Whether this process is a child of `call`: no Ctrl-C reaches it."""
    return _inside


def clean_path() -> List[str]:
    """The parent's `sys.path` without the working folder, so that a user's files cannot shadow modules."""
    here = os.path.realpath(os.getcwd())
    path = []
    for item in sys.path:
        real = os.path.realpath(item or os.getcwd())
        if real == here and real != _ours:
            continue
        path.append(os.path.abspath(item))
    return path


def call(
    target: str,
    arguments: Mapping[str, Any],
    progress: Progress = quiet,
    env: Optional[Mapping[str, str]] = None,
    log: Optional[Path] = None,
) -> Any:
    """Run `target` in a child process and return its JSON result.

    Args:
        target: `package.module:function`; it is called with `arguments` by name, and `progress`.
        arguments: JSON values.
        progress: Told what the child reports.
        env: Environment variables added to the parent's.
        log: File that keeps what the child prints; a temporary one by default.

    Returns:
        What the function returned, through JSON.

    Raises:
        OptimizeError: The error that the function raised, as its own class; or that the child died.
        KeyboardInterrupt: The parent was interrupted; the child has ended by then.
    """
    with scratch.folder() as folder:
        job_file, result_file = Path(folder, "job.json"), Path(folder, "result.json")
        job = {"target": target, "arguments": dict(arguments), "result": str(result_file), "parent": os.getpid()}
        job_file.write_text(json.dumps(job), encoding="utf-8")
        log_file = log or Path(folder, "log.txt")
        deaths = killed.counters()
        with open(log_file, "wb") as out:
            command = [sys.executable, "-c", _BOOT, str(job_file), *clean_path()]
            ours = {**os.environ, **dict.fromkeys(_TEMPORARY, folder), "PYTHONSAFEPATH": "1", "OPTIMIZE_CHILD": "1"}
            ours.update(env or {})
            alone = not _inside  # the child of a child ends with its parent's group
            child = process.start(command, ours, out, alone)
            with process.passing_on(child, alone):
                try:
                    _forward(process.lines(child), progress)
                    child.wait()
                finally:
                    process.end(child, alone)
        if result_file.exists():
            reply = jsonfile.read(result_file)
            if "error" not in reply:
                return reply["value"]
            if os.environ.get("OPTIMIZE_DEBUG"):
                sys.stderr.write(reply["traceback"])
            raise CLASSES[reply["error"]](reply["message"], reply["hint"])
        if child.returncode == -9:  # SIGKILL, a name that Windows lacks
            raise killed.killed(target, deaths)
        raise _died(target, child.returncode, log_file)


def _forward(lines: Iterable[bytes], progress: Progress) -> None:
    for line in lines:
        try:
            what, done, total = json.loads(line)
        except ValueError:
            continue
        progress(str(what), int(done), int(total))


def _died(target: str, code: int, log: Path) -> OptimizeError:
    tail = log.read_text(encoding="utf-8", errors="replace").splitlines()[-_TAIL:]
    if os.environ.get("OPTIMIZE_DEBUG"):
        sys.stderr.write("\n".join(tail) + "\n")
    last = tail[-1] if tail else "it said nothing"
    return OptimizeError(f"{target} ended with code {code}: {last}", "run again with OPTIMIZE_DEBUG=1")


def _main(job_file: str) -> None:
    """The child's side. Its stdout carries progress lines only; whatever else prints goes to stderr, the log."""
    global _inside
    _inside, me = True, os.getpid()
    job: Dict[str, Any] = json.loads(Path(job_file).read_text(encoding="utf-8"))
    follow_parent(job["parent"])  # which may have been killed while this process began
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent gets it, and ends us
    pipe = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    for stream in (sys.stdout, sys.stderr):  # `call` reads the log as UTF-8, whatever the locale lets others print
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8", errors="backslashreplace", line_buffering=True)
    lock = threading.Lock()

    def progress(what: str, done: int, total: int) -> None:
        with lock:
            pipe.write(json.dumps([what, done, total]) + "\n")
            pipe.flush()

    reply: Dict[str, Any]
    try:
        module, _, name = job["target"].partition(":")
        function = getattr(importlib.import_module(module), name)
        reply = {"value": function(**job["arguments"], progress=progress)}
        text = json.dumps(reply, allow_nan=False)
    except BaseException as error:  # the boundary: every error travels to the parent, as data
        from engines import userfile  # which imports this module

        told = userfile.blamed(error) or error
        message, code, hint = outcome(told)
        known = (cls.__name__ for cls in type(told).__mro__ if CLASSES.get(cls.__name__) is cls)
        kind = next(known, _CLASS_OF_CODE.get(code, "OptimizeError"))
        reply = {"error": kind, "message": message, "hint": hint, "traceback": traceback.format_exc()}
        text = json.dumps(reply)
    if os.getpid() != me:  # code of the user has forked, and came back twice: one of them speaks for both
        os._exit(0)
    Path(job["result"]).write_text(text, encoding="utf-8")
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    pipe.close()
    os._exit(0)  # a framework's exit handlers may hang or crash; the result is on the disk


_CLASS_OF_CODE = {2: "UsageError", 4: "IncompatibleError"}


def follow_parent(parent: int = 0, how: int = getattr(signal, "SIGKILL", signal.SIGTERM)) -> None:
    """Ask Linux to end this process when its parent dies, so that a killed parent leaves no child behind.

    Args:
        parent: Its process id, where it is known; this process exits where it is dead by now.
        how: Signal that ends this process.
    """
    if sys.platform != "linux":
        return
    import ctypes

    PR_SET_PDEATHSIG = 1  # linux/prctl.h
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, how)
    if parent and os.getppid() != parent:
        os._exit(1)
