"""What an interrupted run keeps: whole lines, of the same run alone, none measured twice and none lost."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import rounds
from bench.journal import UNWATCHED, Journal, append
from tests.bench.conftest import classifier, spec_of

ABOUT = {"targets": ["a"], "duration_s": 1.0}


def cell(batch: int, ms: float = 1.5) -> Dict[str, Any]:
    return {"batch": batch, "started": "2024-05-01T12:00:00.000+00:00", "samples_ms": [ms], "flags": []}


def filled(path: Path) -> Journal:
    book = Journal(path, ABOUT)
    assert book.begin({"load": [0.1]}) == {"load": [0.1]} and len(book) == 0
    for batch in (1, 8):
        append(path, {"target": "a", "round": 0, "order": 2, "cell": cell(batch)})
    book.watched("a", 0, [1, 8], ["busy"], {"int8": 3})
    append(path, {"target": "a", "round": 1, "order": 0, "cell": cell(1, 2.5)})
    return book


def test_the_same_run_finds_its_cells(tmp_path: Path) -> None:
    path = tmp_path / "runs.json.partial"
    filled(path)
    again = Journal(path, ABOUT)
    assert len(again) == 3 and again.begin({"load": [9.9]}) == {"load": [0.1]}
    assert again.achieved == {"a": {"int8": 3}}
    first = again.cells("a", 0)
    assert sorted(first) == [1, 8] and first[1]["flags"] == ["busy"] and first[1]["order"] == 2
    alone = again.cells("a", 1)[1]  # its process did not live to tell more
    assert alone["flags"] == [UNWATCHED] and (alone["order"], alone["round"]) == (0, 1)
    assert alone["samples_ms"] == [2.5] and "batch" not in alone
    assert again.cells("b", 0) == again.cells("a", 2) == {}
    again.remove()
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_by_name_is_found_again(tmp_path: Path) -> None:
    path = tmp_path / "runs.json.passes.partial"
    book = Journal(path, ABOUT)
    book.begin({})
    book.keep("a", [{"mean_s": 1.5}])
    assert book.kept == Journal(path, ABOUT).kept == {"a": [{"mean_s": 1.5}]} and len(Journal(path, ABOUT)) == 0
    assert Journal(path, {**ABOUT, "passes": 4}).kept == {} and not path.exists()
    Journal(None, ABOUT).keep("a", 1)


def test_another_run_starts_anew(tmp_path: Path) -> None:
    path = tmp_path / "runs.json.partial"
    filled(path)
    other = Journal(path, {**ABOUT, "duration_s": 2.0})
    assert len(other) == 0 and not path.exists()
    path.write_text("not a journal\n")
    assert len(Journal(path, ABOUT)) == 0 and not path.exists()
    filled(path)
    append(path, {"target": "a", "round": 0, "cell": {"batch": "one"}})
    changed = Journal(path, ABOUT)
    assert len(changed) == 0 and changed.achieved == {} and not path.exists()


def test_without_a_file_nothing_is_kept() -> None:
    book = Journal(None, ABOUT)
    assert book.begin({"a": 1}) == {"a": 1}
    book.watched("a", 0, [1], [], {})
    book.remove()


@given(st.floats(0, 1))
def test_a_line_cut_short_is_dropped_and_the_next_one_is_whole(tmp_path_factory: Any, where: float) -> None:
    path = tmp_path_factory.mktemp("journal") / "runs.json.partial"
    filled(path)
    content = path.read_bytes()
    head = content.index(b"\n") + 1
    kept = content[: head + int(where * (len(content) - head))]
    path.write_bytes(kept)
    again = Journal(path, ABOUT)
    whole = kept[: kept.rindex(b"\n") + 1]
    assert path.read_bytes() == whole and len(again) == whole.count(b'"cell"')
    append(path, {"target": "a", "round": 5, "order": 0, "cell": cell(4)})
    assert len(Journal(path, ABOUT)) == len(again) + 1


QUICK = {"warmup_s": 0.0, "duration_s": 0.0, "iterations": 3}


def targets(folder: Path, count: int) -> List[rounds.Target]:
    path = folder / "net.onnx"
    if not path.exists():
        classifier(path)
    about = ("engine", "", "fp32", "onnxruntime", {"f32": 3}, 1, spec_of(path))
    return [rounds.Target(f"net{n}", *about) for n in range(count)]


def test_an_engine_that_was_built_anew_is_another_run(tmp_path: Path) -> None:
    journal = tmp_path / "journal"
    rounds.run(targets(tmp_path, 1), [1], rounds=1, journal=journal, **QUICK)
    classifier(tmp_path / "net.onnx", batch=1)
    told: List[int] = []
    (row,) = rounds.run(
        targets(tmp_path, 1), [1], rounds=1, journal=journal, on_cell=lambda *cell: told.append(1), **QUICK
    ).rows
    assert told == [1] and len(row["rounds"]) == 1


@pytest.mark.journey
def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    journal, told = tmp_path / "runs.json.partial", []  # type: Tuple[Path, List[Any]]

    def stop(target: rounds.Target, batch: int, entry: Dict[str, Any]) -> None:
        told.append((target.name, entry["round"], batch))
        if len(told) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rounds.run(targets(tmp_path, 2), [1, 4], rounds=2, on_cell=stop, journal=journal, **QUICK)
    lines = [json.loads(line) for line in journal.read_text().splitlines()]
    before = [line["cell"]["samples_ms"] for line in lines if "cell" in line]
    assert len(before) == 4  # the child had measured both batches
    again: List[Any] = []
    done = rounds.run(
        targets(tmp_path, 2),
        [1, 4],
        rounds=2,
        on_cell=lambda target, batch, entry: again.append((target.name, entry["round"], batch)),
        journal=journal,
        **QUICK,
    )
    assert len(again) == 4 and not set(again) & set(told)
    assert [[entry["round"] for entry in row["rounds"]] for row in done.rows] == [[0, 1]] * 4
    kept = [row["rounds"][0]["samples_ms"] for row in done.rows]
    assert sorted(kept) == sorted(before)
    assert done.before == lines[0]["before"] and done.failures == []


_SWEEP = """
import sys
from pathlib import Path
sys.path[:0] = [sys.argv[1]]
from bench import rounds
from tests.bench.test_journal import QUICK, targets
folder = Path(sys.argv[2])
done = rounds.run(targets(folder, 4), [1, 2, 3, 4, 5], rounds=1, journal=folder / "journal", **QUICK)
(folder / "rows").write_text(str(len(done.rows)))
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="SIGKILL")
def test_a_sweep_killed_at_random_moments_measures_each_of_its_cells_once(tmp_path: Path) -> None:
    root, kills, chance = Path(__file__).resolve().parents[2], 0, random.Random(0)
    targets(tmp_path, 1)
    for _ in range(60):
        sweep = subprocess.Popen([sys.executable, "-c", _SWEEP, str(root), str(tmp_path)])
        if kills < 20:
            time.sleep(chance.uniform(0.3, 2.5))
            if sweep.poll() is None:
                sweep.send_signal(signal.SIGKILL)
                kills += 1
        if sweep.wait() == 0 and kills < 20:  # it was done before it could be killed: once more
            (tmp_path / "journal").unlink()
        elif sweep.returncode == 0:
            break
        seen = _measured(tmp_path / "journal")
        assert not seen or max(seen.values()) == 1, "a finished cell was measured again"
    assert kills == 20 and (tmp_path / "rows").read_text() == "20"
    names = [f"net{n} (fp32, 1 thread)" for n in range(4)]
    assert _measured(tmp_path / "journal") == {(name, batch): 1 for name in names for batch in range(1, 6)}


def _measured(journal: Path) -> Counter:
    if not journal.exists():
        return Counter()
    lines = [json.loads(line) for line in journal.read_bytes().split(b"\n")[:-1]]
    return Counter((line["target"], line["cell"]["batch"]) for line in lines if "cell" in line)
