"""The kernel's counters, in every place where a kernel or a container puts them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Dict

import pytest

from engines import killed

FILES = {
    "no counter": ({}, 0),
    "machine": ({"proc/vmstat": "nr_free_pages 1\noom_kill 4\n"}, 4),
    "second generation": (
        {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/memory.events": "oom 9\noom_kill 4\noom_group_kill 7\n"},
        4,
    ),
    "limit of the group around": (
        {"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/memory.events": "oom_kill 4\n"},
        4,
    ),
    "container of the second generation": (
        {"proc/self/cgroup": "0::/../x\n", "sys/fs/cgroup/memory.events": "oom_kill 4\n"},
        4,
    ),
    "first generation": (
        {
            "proc/self/cgroup": "5:devices:/c\n4:cpu,memory:/c\n0::/\n",
            "sys/fs/cgroup/memory/c/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n",
            "sys/fs/cgroup/devices/c/memory.oom_control": "oom_kill 5\n",
        },
        4,
    ),
    "old kernel": (
        {"proc/self/cgroup": "4:memory:/\n", "sys/fs/cgroup/memory/memory.oom_control": "under_oom 0\n"},
        0,
    ),
}


def _write(root: Path, files: Dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize("case", sorted(FILES))
def test_a_counter_is_evidence_only_when_it_rises(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    files, count = FILES[case]
    monkeypatch.setattr(killed, "_ROOT", tmp_path)
    _write(tmp_path, files)
    before = killed.counters()
    assert list(before.values()) == ([count] if count else [])
    assert "memory ran out" not in killed.killed("x", before).message
    _write(tmp_path, {name: text.replace("oom_kill 4", "oom_kill 5") for name, text in files.items()})
    assert ("memory ran out" in killed.killed("x", before).message) is bool(count)


def test_a_counter_that_was_not_there_before_is_no_evidence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(killed, "_ROOT", tmp_path)
    before = killed.counters()
    _write(tmp_path, {"proc/vmstat": "oom_kill 3\n"})
    assert killed.killed("x", before).message == "x was killed (signal 9)"


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own files")
def test_this_machine_tells():
    assert all(count >= 0 for count in killed.counters().values())
