"""Stages: the cache by content, resuming after an interruption, and what an error leaves behind."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Dict

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from engines.errors import ModelError, OptimizeError
from optimize.pipeline import cache
from optimize.pipeline.stages import Workspace, digest

ROOT = Path(__file__).resolve().parents[3]

WORK = """
import os, pathlib, time
from engines.errors import ModelError

def write(out, text, progress):
    progress("writing", 1, 2)
    with open(out, "w") as handle:
        handle.write(text)
    return {"file": out, "pid": os.getpid(), "list": [out]}

def write_late(out, text, progress):
    progress("waiting", 0, 0)
    while pathlib.Path(out).parents[3].exists():
        time.sleep(0.01)
    os.makedirs(os.path.dirname(out))  # as `engines.jsonfile.replacing_file` does
    return write(out, text, progress)

def fail(out, progress):
    open(os.path.join(out, "half"), "w").write("half")
    raise ModelError("no good", "try another")

def hang(out, progress):
    progress("hanging", 0, 0)
    time.sleep(60)
"""


@pytest.fixture
def space(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "stagework.py").write_text(WORK)
    monkeypatch.syspath_prepend(str(tmp_path / "code"))
    return Workspace(tmp_path / "model.optimized" / ".optimize")


def events(space: Workspace) -> list:
    return [json.loads(line)["event"] for line in (space.root / "journal.jsonl").read_text().splitlines()]


def write(space: Workspace, text: str = "hello", **options):
    return space.run("write", "stagework:write", {"text": text}, {"text": text}, out="out=a.txt", **options)


def test_second_run_is_the_first_ones_result(space: Workspace) -> None:
    first, second = write(space), write(space)
    assert not first["reused"] and second["reused"]
    assert second["pid"] == first["pid"] != os.getpid()
    assert Path(second["file"]).read_text() == "hello" and second["list"] == [second["file"]]
    assert events(space) == ["started", "done", "reused"]


def test_another_input_is_another_stage(space: Workspace) -> None:
    assert write(space)["folder"] != write(space, "other")["folder"]


def test_force_runs_again(space: Workspace) -> None:
    assert write(space)["pid"] != write(space, force=True)["pid"]


def test_a_changed_byte_runs_again(space: Workspace) -> None:
    file = Path(write(space)["file"])
    file.write_text("hellp")
    assert not write(space)["reused"] and file.read_text() == "hello"


RECORD = ("schema", "name", "key", "created", "seconds", "inputs", "files", "result", "seal")
WRONG = st.sampled_from([None, {}, [], "", 0, 1e9, True, "x", {"a": "b"}, [{}], {"..": "x"}, {"\0": "x"}])


def changed(change: Callable[[Dict[str, Any]], Any]) -> Callable[[Path], None]:
    """The damage of another record in a stage's folder."""

    def damage(folder: Path) -> None:
        record = json.loads((folder / "stage.json").read_text())
        change(record)
        (folder / "stage.json").write_text(json.dumps(record))

    return damage


def replaced(name: str, kind: str) -> Callable[[Path], None]:
    """The damage of something else in place of a file of a stage, or in place of its folder."""

    def damage(folder: Path) -> None:
        place = folder / name if name else folder
        shutil.rmtree(place) if place.is_dir() else place.unlink()
        if kind == "folder":
            (place / "deep").mkdir(parents=True)
        elif kind == "file":
            place.write_text('{"schema": "optimize.stage/1"}')
        elif kind == "link to nothing":
            place.symlink_to(folder.parent / "nothing")
        elif kind == "link to itself":
            place.symlink_to(place)
        elif kind == "pipe":
            os.mkfifo(place)

    return damage


def cut(at: float, with_: bytes) -> Callable[[Path], None]:
    """The damage of a record that was overwritten from somewhere on."""

    def damage(folder: Path) -> None:
        text = (folder / "stage.json").read_bytes()
        (folder / "stage.json").write_bytes(text[: int(at * (len(text) - 2))] + with_)

    return damage


@st.composite
def damages(draw: Any) -> Callable[[Path], None]:
    kind = draw(st.sampled_from(["value", "missing", "replaced", "cut"]))
    key = draw(st.sampled_from(RECORD))
    if kind == "value":
        value = draw(WRONG)
        return changed(lambda record: record.update({key: value}))
    if kind == "missing":
        return changed(lambda record: record.pop(key))
    if kind == "cut":
        return cut(draw(st.floats(0, 1)), draw(st.sampled_from([b"", b"\xff", b"\0" * 50, b"[" * 5000])))
    names, kinds = ["", "stage.json", "a.txt"], ["folder", "file", "link to nothing", "link to itself", "pipe", "gone"]
    return replaced(draw(st.sampled_from(names)), draw(st.sampled_from(kinds)))


@pytest.mark.journey
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(damage=damages())
@example(damage=changed(lambda record: record.update(result=[])))
@example(damage=changed(lambda record: record["files"].clear()))
@example(damage=changed(lambda record: record["result"].pop("file")))
@example(damage=replaced("stage.json", "folder"))
@example(damage=replaced("", "file"))
@example(damage=replaced("", "link to nothing"))
def test_a_damaged_stage_runs_again(space: Workspace, damage: Callable[[Path], None]) -> None:
    first = write(space)
    damage(Path(first["folder"]))
    again = write(space)
    assert Path(again["file"]).read_text() == "hello" and again["list"] == [again["file"]]
    assert not again["reused"] and write(space)["pid"] == again["pid"]
    assert [p.name for p in space.stages.iterdir()] == [Path(first["folder"]).name]
    cache.entries(space.root.parent)


@pytest.mark.parametrize("name", ["stage.json", "a.txt", ""])
def test_a_stage_that_may_not_be_read_runs_again(space: Workspace, name: str) -> None:
    place = Path(write(space)["folder"]) / name
    place.chmod(0)
    if os.access(place, os.R_OK):
        place.chmod(0o700)
        pytest.skip("this user reads everything")
    assert not write(space)["reused"] and write(space)["reused"]
    assert [p.name for p in space.stages.iterdir()] == [place.name if not name else place.parent.name]


def test_damaged_stages_are_listed_and_removed(space: Workspace) -> None:
    damage = (replaced("stage.json", "folder"), changed(lambda record: record.update(name=[], created={})))
    for number, one in enumerate(damage):
        one(Path(write(space, str(number))["folder"]))
    assert [(e["name"], e["created"]) for e in cache.entries(space.root.parent)] == [("damaged", "")] * 2
    assert len(cache.remove(space.root.parent)) == 2


@pytest.mark.parametrize("when", ["writing", "before", "after"])
def test_an_output_folder_that_is_removed(space: Workspace, when: str) -> None:
    out = space.root.parent

    def remove(*_: Any) -> None:
        if out.exists():
            shutil.rmtree(out)

    said = r"model\.optimized was removed or moved during the build"
    with pytest.raises(OptimizeError, match=said) as caught, space.locked():
        write(space, "first")
        if when == "before":
            remove()
        if when == "writing":
            space.run("late", "stagework:write_late", {"text": ""}, {}, remove, out="out=a.txt")
        write(space)
        remove()
    assert caught.value.exit_code == 1 and "again" in caught.value.hint
    assert not out.exists()


def test_a_workspace_that_is_replaced(space: Workspace) -> None:
    """Another build began in the same place: its folder stays as it is."""
    with pytest.raises(OptimizeError, match=r"\.optimize was removed or moved"), space.locked():
        os.rename(space.root, space.root.with_name("aside"))
        with Workspace(space.root).locked():
            write(Workspace(space.root))
        write(space, "other")
    assert [p.name.rsplit("-")[0] for p in space.stages.iterdir()] == ["write"]


def test_the_folder_may_move(space: Workspace, tmp_path: Path) -> None:
    write(space)
    os.rename(space.root.parent, tmp_path / "moved")
    again = write(Workspace(tmp_path / "moved" / ".optimize"))
    assert again["reused"] and again["file"].startswith(str(tmp_path / "moved")) and Path(again["file"]).exists()


def test_an_error_is_raised_as_itself_and_leaves_nothing(space: Workspace) -> None:
    with pytest.raises(ModelError, match="no good") as caught:
        space.run("fail", "stagework:fail", {}, {}, out="out")
    assert caught.value.hint == "try another"
    assert list(space.stages.iterdir()) == []
    assert events(space) == ["started", "failed"]


HANGING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored, where a shell runs the tests in the background
sys.path[:0] = [sys.argv[1], sys.argv[2]]
from pathlib import Path
from optimize.pipeline.stages import Workspace
said = lambda *a: print("hanging", flush=True)
try:
    Workspace(Path(sys.argv[3])).run("hang", "stagework:hang", {}, {}, said, out="out")
except KeyboardInterrupt:
    sys.exit(77)
"""


def test_ctrl_c_ends_the_child_and_leaves_nothing(space: Workspace, tmp_path: Path) -> None:
    words = [sys.executable, "-c", HANGING, str(ROOT), str(tmp_path / "code"), str(space.root)]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "hanging\n"
    process.send_signal(signal.SIGINT)
    assert process.wait(50) == 77, "the child was waited for"
    process.stdout.close()
    assert list(space.stages.iterdir()) == []
    assert events(space)[-1] == "interrupted"
    assert not write(space)["reused"]


def test_ctrl_c_as_the_stage_begins_is_in_the_journal(space: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    note = space.note

    def interrupted(event: str, *rest: Any, **more: Any) -> None:
        note(event, *rest, **more)
        if event == "started":
            raise KeyboardInterrupt

    monkeypatch.setattr(space, "note", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write(space)
    assert events(space) == ["started", "interrupted"]


def test_one_build_at_a_time(space: Workspace) -> None:
    waited = threading.Event()
    order = []

    def second() -> None:
        with Workspace(space.root).locked(lambda *a: waited.set()):
            order.append("second")

    with space.locked():
        thread = threading.Thread(target=second)
        thread.start()
        assert waited.wait(20)
        order.append("first")
    thread.join(20)
    assert order == ["first", "second"]


def test_cache_lists_and_removes(space: Workspace) -> None:
    write(space)
    (found,) = cache.entries(space.root.parent.parent)
    assert found["name"] == "write" and found["bytes"] > 5
    assert len(cache.remove(space.root.parent)) == 1
    assert cache.entries(space.root.parent) == []


def test_digest_ignores_the_order_of_keys() -> None:
    assert digest({"a": 1, "b": [1, 2]}) == digest({"b": [1, 2], "a": 1}) != digest({"a": 1, "b": [2, 1]})


def test_only_stages_are_removed(space: Workspace, tmp_path: Path) -> None:
    write(space)
    (space.stages / "notes.txt").write_text("mine")
    (space.stages / "photos").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (space.stages / "link-0123456789abcdef").symlink_to(tmp_path / "elsewhere")
    assert len(cache.remove(space.root.parent)) == 1
    assert {p.name for p in space.stages.iterdir()} == {"notes.txt", "photos", "link-0123456789abcdef"}
    other = tmp_path / "other" / ".optimize"
    other.mkdir(parents=True)
    (other / "stages").symlink_to(space.stages)
    write(space)
    assert cache.remove(tmp_path / "other") == [] and len(cache.entries(space.root.parent)) == 1
