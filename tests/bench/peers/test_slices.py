"""One process runs while the other stands still, and every way out leaves none behind."""

from __future__ import annotations

import os
import signal
import textwrap
import time
from pathlib import Path
from typing import Any, List

import pytest

from bench.peers import slices
from engines.errors import IncompatibleError, OptimizeError

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no SIGSTOP on this system")

STAGES = """
    import time
    from bench.peers import slices

    def run(progress, seconds, query_ms=1.0):
        time.sleep(0.05)  # loads something
        slices.ready(query_ms, progress)
        moments, end = [], time.monotonic() + seconds
        while time.monotonic() < end:
            moments.append(time.monotonic())
            time.sleep(0.001)
        return moments

    def fail(progress):
        raise ValueError("no such model")

    def fail_late(progress):
        slices.ready(1.0, progress)
        raise ValueError("lost on the way")
"""


@pytest.fixture(autouse=True)
def stages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stages_of_slices.py").write_text(textwrap.dedent(STAGES))
    monkeypatch.syspath_prepend(str(tmp_path))


def call(name: str, **arguments: Any) -> Any:
    return f"stages_of_slices:{name}", arguments


def overlap(first: List[float], second: List[float]) -> int:
    """Times that the one's turn ends, in the order of all moments."""
    order = [who for _, who in sorted([*((t, 0) for t in first), *((t, 1) for t in second)])]
    return sum(a != b for a, b in zip(order, order[1:]))


def test_they_take_turns_in_slices_of_time() -> None:
    first, second = slices.measure([call("run", seconds=1.0), call("run", seconds=1.0)])
    assert len(first) > 20 and len(second) > 20
    changes = overlap(first, second)
    assert 2 <= changes <= 30  # ten slices in a second; side by side there would be hundreds of changes
    assert max(b - a for a, b in zip(first, first[1:])) >= slices.SHORTEST_S


def test_slow_queries_get_longer_slices() -> None:
    first, _ = slices.measure([call("run", seconds=1.0, query_ms=15.0), call("run", seconds=1.0)])
    assert max(b - a for a, b in zip(first, first[1:])) >= 0.3


def test_a_machine_that_changes_between_rounds_leaves_the_ratio_alone() -> None:
    second = [1.0, 5.0, 1.1, 4.9, 1.0, 5.2, 3.0]
    found = slices.ratio([1.01 * ms for ms in second], second)
    assert found["ratio"] == pytest.approx(1.01) and found["interval"] == [pytest.approx(1.01)] * 2


@pytest.mark.parametrize("name", ["fail", "fail_late"])
@pytest.mark.parametrize("turn", [1, -1])
def test_the_error_of_one_is_raised_when_the_other_has_ended(name: str, turn: int) -> None:
    with pytest.raises(OptimizeError, match="ValueError"):
        slices.measure([call(name), call("run", seconds=0.2)][::turn])


def test_an_interrupt_ends_both(monkeypatch: pytest.MonkeyPatch) -> None:
    pids: List[int] = []
    tell = slices._Run.tell

    def interrupted(run: Any, number: int) -> None:
        pids.append(run.pid)
        if number == signal.SIGCONT:
            raise KeyboardInterrupt
        tell(run, number)

    monkeypatch.setattr(slices._Run, "tell", interrupted)
    with pytest.raises(KeyboardInterrupt):
        slices.measure([call("run", seconds=60.0), call("run", seconds=60.0)])
    end = time.monotonic() + 10
    while any(lives(pid) for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(set(pids)) == 2 and not any(lives(pid) for pid in pids)


def lives(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_system_without_the_signal_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(signal, "SIGSTOP")
    with pytest.raises(IncompatibleError, match="stops a process"):
        slices.measure([])
