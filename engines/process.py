"""A process of ours with all that it starts: read while it lives, and ended together on every way out.

The process leads a session of its own, so that what it forks can be ended with it. The price is that a terminal and
`timeout` no longer reach it: what they tell the parent, the parent passes on.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import IO, Any, Iterator, List, Mapping, Sequence

_BEAT = 0.25
"""Seconds between two looks at whether the process has ended, where its pipe tells nothing: rare, since it may be
measuring."""

_PIPE = 1 << 20
"""Bytes read after the end: the most that a pipe holds. What it forked may write for ever."""

_PATIENCE, _GRACE = 5.0, 1.0
"""Seconds between asking to end and ending: for the process itself, and for what it left behind."""

_ENDING = ("SIGTERM", "SIGHUP")

_led: List[subprocess.Popen[bytes]] = []
"""The processes that signals are passed on to now: one may run beside another."""


def start(command: Sequence[str], env: Mapping[str, str], errors: IO[bytes], alone: bool) -> subprocess.Popen[bytes]:
    """Start a process that reads nothing and writes to a pipe; `alone` in a group of its own (POSIX)."""
    return subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors, env=env, start_new_session=alone
    )


def lines(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """The lines that a process writes, until it closes its pipe or has ended: what it forked may hold the pipe open."""
    assert process.stdout is not None
    if os.name != "posix":  # no selector for pipes there, and no fork that would hold one
        yield from process.stdout
        return
    pipe, rest, left = process.stdout.fileno(), b"", _PIPE
    with selectors.DefaultSelector() as ready:
        ready.register(pipe, selectors.EVENT_READ)
        while left > 0:
            ended = process.poll() is not None  # asked first: all that it wrote before is in the pipe then
            if ready.select(0 if ended else _BEAT):
                block = os.read(pipe, 1 << 16)
                if not block:
                    break
                left -= len(block) if ended else 0
                *whole, rest = (rest + block).split(b"\n")
                yield from whole
            elif ended:
                break


def end(process: subprocess.Popen[bytes], alone: bool) -> None:
    """End a process that still runs and what it left behind: politely, then for good."""
    if process.stdout is not None:
        process.stdout.close()
    deadline = time.monotonic() + (_PATIENCE if process.poll() is None else _GRACE)
    try:
        _tell(process, alone, "SIGTERM")
        while _lives(process, alone) and time.monotonic() < deadline:
            time.sleep(0.02)
    finally:  # a second Ctrl-C as well
        _tell(process, alone, "SIGKILL")
        process.wait()


def _tell(process: subprocess.Popen[bytes], alone: bool, name: str) -> None:
    if alone and os.name == "posix":
        with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: not permitted, where all are zombies
            os.killpg(process.pid, getattr(signal, name))
    elif name == "SIGTERM":
        process.terminate()
    else:
        process.kill()


def _lives(process: subprocess.Popen[bytes], alone: bool) -> bool:
    """Whether the process or one of its group runs."""
    if process.poll() is None:
        return True
    if not alone or os.name != "posix":
        return False
    try:
        os.killpg(process.pid, 0)
    except (ProcessLookupError, PermissionError):
        return False
    return True


@contextlib.contextmanager
def passing_on(process: subprocess.Popen[bytes], alone: bool) -> Iterator[None]:
    """While it lasts, what ends or stops this process does so with the other group, and all is cleaned up.

    Several may last at a time, one within another.

    Signals that somebody else handles stay theirs, and so do all outside the main thread, where Python sets none.
    """
    before = {}

    def leave(number: int, frame: Any) -> None:
        sys.exit(128 + number)  # as a shell tells it; whoever waits for the process ends it on the way out

    def pause(number: int, frame: Any) -> None:
        for one in _led:
            _tell(one, True, "SIGSTOP")
        os.kill(os.getpid(), signal.SIGSTOP)
        for one in _led:  # this process goes on, too, by now
            _tell(one, True, "SIGCONT")

    leads = alone and os.name == "posix" and threading.current_thread() is threading.main_thread()
    if leads:
        _led.append(process)
        for name in (*_ENDING, "SIGTSTP"):
            number = getattr(signal, name)
            if signal.getsignal(number) is signal.SIG_DFL:
                before[number] = signal.signal(number, pause if name == "SIGTSTP" else leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if leads:
            _led.remove(process)
