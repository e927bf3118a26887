"""The journal: whole lines or none, also after a crash, on a full disk, and when it has grown."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.ship import journal


def test_lines_come_back_in_order(tmp_path: Path) -> None:
    assert journal.last(tmp_path) is None
    for number in range(1, 6):
        journal.add(tmp_path, number, "pulled", None, name="ä\n\0", reason="x" * 5000)
    found, damaged = journal.lines(tmp_path, 3)
    assert [line["sequence"] for line in found] == [3, 4, 5] and damaged == 0
    assert found[0]["name"] == "ä\n\0" and len(found[0]["reason"]) == 2000


def test_a_line_cut_by_a_crash_spoils_no_other(tmp_path: Path) -> None:
    for number in (1, 2):
        journal.add(tmp_path, number, "pulled", None)
    path = tmp_path / journal.NAME
    whole = path.read_bytes()
    start = whole.index(b"\n") + 1
    for cut in range(start, len(whole)):
        path.write_bytes(whole[:cut])
        journal.add(tmp_path, 3, "removed", "a")
        found, damaged = journal.lines(tmp_path, 10)
        numbers = [line["sequence"] for line in found]
        # a line that lacks its end of line only is whole
        assert (numbers, damaged) in (([1, 3], 0 if cut == start else 1), ([1, 2, 3], 0))


@given(st.binary(max_size=300))
def test_any_bytes_are_no_reason_to_fail(tmp_path_factory: pytest.TempPathFactory, junk: bytes) -> None:
    folder = tmp_path_factory.mktemp("junk")
    (folder / journal.NAME).write_bytes(junk)
    journal.add(folder, 7, "pulled", None)
    last = journal.last(folder)
    assert last is not None and last["sequence"] == 7
    assert len(journal.lines(folder, 100)[0]) == 1


def test_what_does_not_fit_on_the_disk_leaves_no_half_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal.add(tmp_path, 1, "pulled", None)
    whole = (tmp_path / journal.NAME).read_bytes()
    write = os.write

    def full(handle: int, data: bytes) -> int:
        if len(data) < 20:
            raise OSError(28, "No space left on device")
        return write(handle, data[:20])

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space"):
        journal.add(tmp_path, 2, "pulled", None)
    assert (tmp_path / journal.NAME).read_bytes() == whole


def test_a_journal_that_has_grown_is_begun_anew(tmp_path: Path) -> None:
    journal.add(tmp_path, 1, "pulled", None)
    path = tmp_path / journal.NAME
    path.write_bytes(b"x" * (1 << 20) + b"\n" + path.read_bytes())
    journal.add(tmp_path, 2, "pulled", None)
    assert path.stat().st_size < 1000 and (tmp_path / journal.EARLIER).stat().st_size > 1 << 20
    assert [line["sequence"] for line in journal.lines(tmp_path, 2)[0]] == [1, 2]
