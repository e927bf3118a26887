"""Shipments: strict, and held against their own list before anything of them is loaded."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

import engines
from engines import child, manifest
from engines.errors import DamagedError
from optimize.ship import shipment
from tests.optimize.ship import small


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory.mktemp("source") / "it")


@pytest.fixture
def whole(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    def opened(*_: Any, **__: Any) -> Any:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr(engines, "open", opened)
    monkeypatch.setattr(child, "call", opened)
    return Path(shutil.copytree(source, tmp_path / "it"))


def _edit(folder: Path, change: Callable[[Dict[str, Any]], None]) -> None:
    value = json.loads((folder / shipment.NAME).read_text())
    change(value)
    (folder / shipment.NAME).write_text(json.dumps(value))


def test_a_whole_one_is_taken_and_says_who_signed_it(whole: Path) -> None:
    value = shipment.check(whole)
    assert value["signed_by"] is None
    assert value["name"] == "linear-fp32"
    assert shipment.files(value, "engine") == ["model.onnx"]


def test_a_shipment_is_still_a_bundle(whole: Path) -> None:
    assert manifest.why_not(whole) == ""
    manifest.check_files(whole)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.npz", "shipment.json"])
def test_one_flipped_bit_in_any_file_is_refused(whole: Path, name: str) -> None:
    content = bytearray((whole / name).read_bytes())
    content[len(content) // 2] ^= 1
    (whole / name).write_bytes(content)
    with pytest.raises(DamagedError):
        shipment.check(whole)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.npz", "shipment.json"])
def test_a_file_that_is_missing_cut_or_a_link_is_refused_by_name(whole: Path, name: str, tmp_path: Path) -> None:
    content = (whole / name).read_bytes()
    (whole / name).unlink()
    with pytest.raises(DamagedError, match=f"{name}.*missing"):
        shipment.check(whole)
    (tmp_path / "outside").write_bytes(content)
    (whole / name).symlink_to(tmp_path / "outside")
    with pytest.raises(DamagedError, match=f"{name}.*a link"):
        shipment.check(whole)
    (whole / name).unlink()
    (whole / name).write_bytes(content[:-1])
    with pytest.raises(DamagedError, match=name):
        shipment.check(whole)


@pytest.mark.parametrize("kind", ["file", "folder", "pipe", "hidden"])
def test_what_the_list_does_not_name_is_refused(whole: Path, kind: str) -> None:
    extra = whole / (".extra" if kind == "hidden" else "extra")
    if kind == "folder":
        extra.mkdir()
    elif kind == "pipe":
        os.mkfifo(extra)
    else:
        extra.write_text("x")
    with pytest.raises(DamagedError, match="extra"):
        shipment.check(whole)


@pytest.mark.parametrize(
    "path", ["../model.onnx", "/etc/passwd", "a/b", "..", ".x", "", "x" * 129, "shipment.json", "SHIPMENT.SIG.JSON"]
)
def test_a_name_that_leaves_the_folder_or_is_ours_is_refused(whole: Path, path: str) -> None:
    _edit(whole, lambda value: value["files"].append({**value["files"][1], "path": path}))
    with pytest.raises(DamagedError, match="files"):
        shipment.check(whole)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(schema="optimize.shipment/2"), "update|reads"),
        (lambda v: v.pop("device"), "device is missing"),
        (lambda v: v["files"].append(dict(v["files"][1])), "listed twice"),
        (lambda v: v["files"].append({**v["files"][1], "path": "MODEL.onnx"}), "listed twice"),
        (lambda v: v["files"].extend({**v["files"][1], "path": f"f{i}"} for i in range(300)), "at most 256"),
        (lambda v: v["files"].append({**v["files"][1], "path": "f", "bytes": 64 << 30}), "64 GiB"),
        (lambda v: v["files"].append({**v["files"][1], "path": "f", "bytes": -1}), "bytes"),
        (lambda v: v["files"].append({**v["files"][1], "path": "f", "bytes": True}), "bytes"),
        (lambda v: v.update(files=v["files"][:1] + v["files"][2:]), "role engine|list"),
        (lambda v: v["manifest"].update(bytes=1), "manifest.json is not listed as"),
        (lambda v: v["golden"].update(file="other.npz"), "golden"),
        (lambda v: v["golden"].update(n=0), "golden.n"),
        (lambda v: v.update(name="../x"), "name"),
        (lambda v: v.update(precision="fp64"), "precision"),
        (lambda v: v["device"].update(arch="riscv64"), "same device"),
        (lambda v: v.update(precision="fp16"), "same precision"),
        (lambda v: v["model"].update(sha256="0" * 64), "same model"),
        (lambda v: v["files"][2].update(role="engine") or v.update(golden=None), "same engine files"),
    ],
)
def test_a_field_that_is_wrong_is_named(whole: Path, change: Callable[[Dict[str, Any]], None], words: str) -> None:
    _edit(whole, change)
    with pytest.raises(DamagedError, match=words) as caught:
        shipment.check(whole)
    assert caught.value.hint


def test_a_key_given_twice_is_refused(whole: Path) -> None:
    text = (whole / shipment.NAME).read_text()
    (whole / shipment.NAME).write_text('{"name": "other",' + text[1:])
    with pytest.raises(DamagedError, match="duplicate key 'name'"):
        shipment.check(whole)


def test_a_list_beyond_4_mib_is_not_read(whole: Path) -> None:
    with open(whole / shipment.NAME, "ab") as file:
        file.write(b" " * (4 << 20))
    with pytest.raises(DamagedError, match="larger than 4 MiB"):
        shipment.check(whole)


def test_a_folder_that_is_not_there_is_no_shipment(tmp_path: Path) -> None:
    assert not shipment.is_shipment(tmp_path)
    with pytest.raises(DamagedError, match="no such shipment"):
        shipment.check(tmp_path / "nothing")
