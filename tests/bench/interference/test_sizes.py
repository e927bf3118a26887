from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import pytest

from bench.interference import sizes
from engines.errors import UsageError


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({"index0": "32K\n", "index2": "1024K\n", "index3": "32768K\n"}, 32 << 20),
        ({"index0": "48K", "index3": "4M"}, 4 << 20),
        ({"index0": "512"}, 512),
        ({"index0": "", "index1": "many"}, sizes._CACHE),
        ({}, sizes._CACHE),
    ],
)
def test_the_largest_cache_counts(told, expected, tmp_path: Path):
    for name, text in told.items():
        folder = tmp_path / "sys/devices/system/cpu/cpu0/cache" / name
        folder.mkdir(parents=True)
        (folder / "size").write_text(text)
    assert sizes.cache_bytes(tmp_path) == expected


def test_a_stream_is_larger_than_any_cache_of_this_machine():
    assert sizes.stream_bytes() >= 4 * sizes.cache_bytes() >= 4
    assert sizes.stream_bytes() >= sizes._LEAST


def test_more_memory_than_there_is_is_refused(monkeypatch: pytest.MonkeyPatch):
    sizes.check_memory(0)
    monkeypatch.setattr(sizes, "_LEAST", 1 << 50)
    with pytest.raises(UsageError, match=r"memory:2 takes \d+ MiB, and \d+ MiB are free"):
        sizes.check_memory(2)


def test_more_disk_than_there_is_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    sizes.check_disk(str(tmp_path), 0)
    monkeypatch.setattr(sizes, "FILE", 1 << 60)
    with pytest.raises(UsageError, match="io:3 writes"):
        sizes.check_disk(str(tmp_path), 3)
    with pytest.raises(FileNotFoundError):
        sizes.check_disk(str(tmp_path / "none"), 1)


@pytest.mark.skipif(sys.platform != "linux" or not os.path.isdir("/dev/shm"), reason="no folder in memory here")
def test_what_is_in_memory_is_no_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert sizes.filesystem("/dev/shm") == "tmpfs"
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    assert sizes.on_disk() != "/dev/shm" or all(sizes.filesystem(place) == "tmpfs" for place in ("/var/tmp", "."))
