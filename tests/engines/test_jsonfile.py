"""The strict reader and the atomic writer, with faults injected half way."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import jsonfile
from engines.errors import DamagedError, UsageError

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


def left_over(folder: Path) -> Any:
    return sorted(p.name for p in folder.iterdir() if p.name.endswith((".part", ".old")))


@given(json_values)
def test_what_is_written_is_read(value: Any):
    text = jsonfile.dumps(value)
    assert jsonfile.loads(text) == value
    assert text.endswith("\n")


@given(value=st.dictionaries(st.text(), json_values, max_size=4))
def test_a_file_holds_what_was_written(value: Any, tmp_path_factory: pytest.TempPathFactory):
    path = tmp_path_factory.getbasetemp() / "roundtrip.json"
    jsonfile.write(path, value)
    assert jsonfile.read(path) == value


@given(st.text(max_size=60))
def test_any_text_is_a_value_or_a_value_error(text: str):
    try:
        value = jsonfile.loads(text)
    except ValueError:
        return
    jsonfile.dumps(value)


@pytest.mark.parametrize(
    "text", ["NaN", "[Infinity]", "-Infinity", "1e999", "-1e400", '{"a":1,"a":2}', "[" * 200_000, ""]
)
def test_what_is_no_strict_json(text: str):
    with pytest.raises(ValueError):
        jsonfile.loads(text)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), [1, {"a": -float("inf")}]])
def test_no_nan_is_written(value: Any, tmp_path: Path):
    path = tmp_path / "a.json"
    with pytest.raises(ValueError):
        jsonfile.write(path, {"v": value})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "content, message",
    [
        (b"[1]", "a JSON object is expected"),
        (b"\xff\xfe", "not valid JSON"),
        (b'{"a":1,"a":1}', "duplicate key 'a'"),
        (b'{"schema":"optimize.run/2"}', "schema 'optimize.run/2', this version reads 'optimize.run/1'"),
        (b"{}", "schema None"),
    ],
)
def test_a_bad_file_says_what_is_wrong(content: bytes, message: str, tmp_path: Path):
    path = tmp_path / "r.json"
    path.write_bytes(content)
    with pytest.raises(DamagedError, match=r"r\.json: ") as error:
        jsonfile.read(path, "optimize.run/1")
    assert message in error.value.message


def test_a_huge_file_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "big.json"
    with open(path, "wb") as handle:
        handle.truncate(jsonfile.LIMIT + 1)
    with pytest.raises(DamagedError, match="larger than 256 MiB"):
        jsonfile.read(path)


def test_a_write_that_fails_half_way_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "a.json"
    jsonfile.write(path, {"old": 1})
    with pytest.raises(OSError, match="full"), jsonfile.replacing_file(path) as part:
        part.write_text("{half")
        raise OSError(28, "full")
    assert jsonfile.read(path) == {"old": 1}
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("fault", ["fsync", "replace"])
def test_a_fault_of_the_disk_leaves_the_old_file(fault: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = tmp_path / "a.json"
    jsonfile.write(path, {"old": 1})

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(jsonfile.os, fault, fail)
    with pytest.raises(OSError, match="No space"):
        jsonfile.write(path, {"new": 1})
    monkeypatch.undo()
    assert jsonfile.read(path) == {"old": 1}
    assert left_over(tmp_path) == []


def test_a_reader_never_sees_half_a_file(tmp_path: Path):
    path = tmp_path / "a.json"
    jsonfile.write(path, {"n": 0})
    with jsonfile.replacing_file(path) as part:
        part.write_text('{"n": ')
        assert jsonfile.read(path) == {"n": 0}
        part.write_text('{"n": 1}')
    assert jsonfile.read(path) == {"n": 1}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no FIFOs")
def test_neither_a_device_nor_a_fifo_is_replaced(tmp_path: Path):
    fifo, link = tmp_path / "fifo", tmp_path / "link"
    os.mkfifo(fifo)
    link.symlink_to("/dev/null")
    for path in (fifo, link):
        with pytest.raises(UsageError, match="not a plain file"):
            jsonfile.write(path, {})
        with pytest.raises(UsageError, match="not a plain file"):
            jsonfile.writable(path, "-o runs.json")
    assert fifo.is_fifo() and link.is_symlink() and len(list(tmp_path.iterdir())) == 2


def test_a_name_that_cannot_be_written_is_told_before_the_work(tmp_path: Path):
    jsonfile.writable(tmp_path / "new.json", "-o runs.json")
    for path in (tmp_path, tmp_path / "no folder" / "new.json"):
        with pytest.raises(UsageError, match="cannot be written") as caught:
            jsonfile.writable(path, "-o runs.json")
        assert "-o runs.json" in caught.value.hint


def test_a_folder_is_replaced_whole(tmp_path: Path):
    target = tmp_path / "bundle"
    for n in range(2):
        with jsonfile.replacing_folder(target) as part:
            (part / "deep").mkdir()
            (part / "deep" / f"{n}.txt").write_text(str(n))
        assert [p.name for p in (target / "deep").iterdir()] == [f"{n}.txt"]
        assert left_over(tmp_path) == []


@pytest.mark.parametrize("kind", ["file", "link", "link to nothing", "full folder"])
def test_whatever_is_in_the_way_of_a_folder_is_replaced(kind: str, tmp_path: Path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "kept.txt").write_text("kept")
    target = tmp_path / "bundle"
    if kind == "file":
        target.write_text("in the way")
    elif kind == "full folder":
        (target / "deep").mkdir(parents=True)
    else:
        target.symlink_to(tmp_path / ("elsewhere" if kind == "link" else "nowhere"))
    with jsonfile.replacing_folder(target) as part:
        (part / "new.txt").write_text("new")
    assert not target.is_symlink() and [p.name for p in target.iterdir()] == ["new.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["bundle", "elsewhere"]
    assert (tmp_path / "elsewhere" / "kept.txt").read_text() == "kept"


def test_a_folder_that_fails_leaves_the_old_one(tmp_path: Path):
    target = tmp_path / "bundle"
    with jsonfile.replacing_folder(target) as part:
        (part / "old.txt").write_text("old")
    with pytest.raises(KeyboardInterrupt), jsonfile.replacing_folder(target) as part:
        (part / "new.txt").write_text("half")
        raise KeyboardInterrupt
    assert [p.name for p in target.iterdir()] == ["old.txt"]
    assert left_over(tmp_path) == []


def test_a_folder_whose_rename_fails_is_put_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    target = tmp_path / "bundle"
    with jsonfile.replacing_folder(target) as part:
        (part / "old.txt").write_text("old")
    real = os.replace

    def fail_once(source: Any, destination: Any) -> None:
        if str(source).endswith(".part"):
            raise OSError(5, "Input/output error")
        real(source, destination)

    monkeypatch.setattr(jsonfile.os, "replace", fail_once)
    with pytest.raises(OSError, match="Input/output"), jsonfile.replacing_folder(target) as part:
        (part / "new.txt").write_text("new")
    monkeypatch.undo()
    assert [p.name for p in target.iterdir()] == ["old.txt"]
    assert left_over(tmp_path) == []


def test_written_files_can_be_read_by_others(tmp_path: Path):
    jsonfile.write(tmp_path / "deep" / "a.json", {})
    assert (tmp_path / "deep" / "a.json").stat().st_mode & 0o777 == 0o644


def test_the_hash_of_a_folder_sees_names_and_bytes(tmp_path: Path):
    first, second = tmp_path / "1", tmp_path / "2"
    for folder in (first, second):
        (folder / "sub").mkdir(parents=True)
        (folder / "sub" / "a").write_bytes(b"x")
        (folder / "b").write_bytes(b"y")
    assert jsonfile.sha256(first) == jsonfile.sha256(second)
    (second / "b").rename(second / "c")
    assert jsonfile.sha256(first) != jsonfile.sha256(second)
    assert jsonfile.sha256(first / "b") == "a1fce4363854ff888cff4b8e7875d600c2682390412a8cf79b37d0b11148b0fa"


def test_what_others_write_is_read(tmp_path: Path):
    (tmp_path / "a.json").write_text(json.dumps({"ü": [1.5, None]}))
    assert jsonfile.read(tmp_path / "a.json") == {"ü": [1.5, None]}


def test_what_killed_writers_left_is_swept_and_nothing_else(tmp_path):
    left = [tmp_path / ".a.json.0123456789abcdef.part", tmp_path / ".fp16-x.0123456789abcdef.old"]
    left[0].write_text("half")
    (left[1] / "fp16-x").mkdir(parents=True)
    kept = [tmp_path / ".mine.part", tmp_path / ".git", tmp_path / "a.0123456789abcdef.part"]
    for path in kept:
        path.mkdir()
    jsonfile.sweep(tmp_path)
    assert sorted(tmp_path.iterdir()) == sorted(kept)
    jsonfile.sweep(tmp_path / "missing")


def test_what_may_be_at_work_still_is_not_swept(tmp_path):
    for name, age_s in (("a", 50), ("b", 150)):
        left = tmp_path / f".{name}.0123456789abcdef.part"
        left.mkdir()
        os.utime(left, (time.time() - age_s, time.time() - age_s))
    jsonfile.sweep(tmp_path, 100)
    assert [path.name[1] for path in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("kind", ["folder", "file", "link"])
def test_a_folder_that_must_be_new_takes_nothing_away(kind: str, tmp_path: Path):
    with pytest.raises(OSError), jsonfile.replacing_folder(tmp_path / "a", new=True) as part:
        (part / "mine").write_text("mine")
        if kind == "folder":
            (tmp_path / "a").mkdir()
            (tmp_path / "a/theirs").write_text("theirs")
        elif kind == "file":
            (tmp_path / "a").write_text("theirs")
        else:
            (tmp_path / "a").symlink_to("nowhere")
    assert [path.name for path in tmp_path.iterdir()] == ["a"] and not (tmp_path / "a/mine").exists()
    with jsonfile.replacing_folder(tmp_path / "b", new=True) as part:
        (part / "mine").write_text("mine")
    assert (tmp_path / "b/mine").exists()


@pytest.mark.parametrize(
    ("writer", "owner", "function"),
    [(jsonfile.replacing_file, os, "open"), (jsonfile.replacing_folder, Path, "mkdir")],
)
def test_an_interrupt_right_after_the_temporary_one_was_made_leaves_nothing(
    tmp_path, writer, owner, function, monkeypatch
):
    real = getattr(owner, function)

    def then_interrupted(path, *given, **named):
        made = real(path, *given, **named)
        if str(path).endswith(".part"):
            monkeypatch.undo()
            raise KeyboardInterrupt
        return made

    monkeypatch.setattr(owner, function, then_interrupted)
    with pytest.raises(KeyboardInterrupt), writer(tmp_path / "x"):
        pass
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(sys.platform != "linux", reason="names that are any bytes")
def test_a_name_without_an_encoding_is_written_and_counts(tmp_path):
    jsonfile.write(tmp_path / "f.json", {"name": "m\udcff.onnx", "other": "é"})
    assert jsonfile.read(tmp_path / "f.json") == {"name": "m\udcff.onnx", "other": "é"}
    assert "é" in (tmp_path / "f.json").read_text(encoding="utf-8")
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "\udcff").write_text("x")
    first = jsonfile.sha256(folder)
    (folder / "\udcff").rename(folder / "\udcfe")
    assert jsonfile.sha256(folder) != first


@pytest.mark.parametrize(("own", "hint"), [("", "make it again"), ("mend it", "mend it")])
def test_what_a_check_finds_names_the_file_and_has_a_hint(tmp_path: Path, own: str, hint: str) -> None:
    def check(value: Any) -> None:
        if value["count"] != 1:
            raise DamagedError("count: 1 is expected", own)

    path = tmp_path / "one.json"
    jsonfile.write(path, {"schema": "optimize.one/1", "count": 1})
    assert jsonfile.checked(path, "optimize.one/1", check, "make it again")["count"] == 1
    jsonfile.write(path, {"schema": "optimize.one/1", "count": 2})
    with pytest.raises(DamagedError, match=r"one\.json: count: 1 is expected") as caught:
        jsonfile.checked(path, "optimize.one/1", check, "make it again")
    assert caught.value.hint == hint


def test_a_fifo_is_refused_at_once_and_a_link_to_a_file_is_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "circle").symlink_to("circle")
    for path in (tmp_path / "fifo", tmp_path / "circle", tmp_path):
        with pytest.raises(DamagedError, match="plain file"):
            jsonfile.plain(path)
    jsonfile.write(tmp_path / "it", {"a": 1})
    (tmp_path / "link").symlink_to("it")
    assert jsonfile.read(tmp_path / "link") == {"a": 1}
