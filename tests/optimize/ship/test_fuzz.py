"""Whatever a store gives is refused in words or is what it says: no other error, no file outside, nothing loaded."""

from __future__ import annotations

import json
import random
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, Callable, Dict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engines
from engines import child, jsonfile
from engines.device import device_key
from engines.errors import DamagedError, OptimizeError
from engines.spec import TensorSpec
from optimize.ship import goldenfile, oci, shipment, trust
from tests.optimize.ship import fuzz, small

CASES = 2500
"""Of each of the five kinds, in .ci/full: 12,500."""

_SEEDS = st.integers(0, 2**32)

_IMAGE = [TensorSpec("image", (None, 2, 3))]
_SCORES = [TensorSpec("scores", (None, 4))]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A shipment without golden answers, so that nothing needs to run."""
    return small.made(tmp_path_factory.mktemp("fuzz") / "whole", answers=False)


@pytest.fixture(autouse=True)
def nothing_opens(monkeypatch: pytest.MonkeyPatch, whole: Path) -> None:
    def opened(*_: Any, **__: Any) -> Any:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr(engines, "open", opened)
    monkeypatch.setattr(child, "call", opened)


def _shipment(whole: Path, room: Path, seed: int) -> str:
    rng = random.Random(seed)
    folder = room / "it"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    (folder / shipment.NAME).write_bytes(fuzz.mutated(json.loads((whole / shipment.NAME).read_text()), rng))
    value = shipment.check(folder)
    assert {entry["path"] for entry in value["files"]} == {p.name for p in folder.iterdir()} - {shipment.NAME}
    for entry in value["files"]:
        assert jsonfile.sha256(folder / entry["path"]) == entry["sha256"]
    return "taken"


def _variant(whole: Path, room: Path, seed: int) -> str:
    text = fuzz.mutated(json.loads(oci.variant(whole)), random.Random(seed))
    blobs = oci.read_variant(text)
    assert len(blobs) <= shipment.MOST_FILES + 2
    assert all(shipment.FILE.fullmatch(blob.name) and oci.DIGEST.fullmatch(blob.digest) for blob in blobs)
    assert all((room / blob.name).resolve().parent == room.resolve() for blob in blobs)
    return "taken"


def _index(whole: Path, room: Path, seed: int) -> str:
    good = json.loads(oci.index([oci.entry(whole, oci.variant(whole))]))
    found = oci.read_index(fuzz.mutated(good, random.Random(seed)), "linear", "latest")
    assert all(oci.DIGEST.fullmatch(entry.digest) for entry in found.entries)
    return "taken"


def _golden(whole: Path, room: Path, seed: int) -> str:
    path = room / "golden.npz"
    image, scores = np.ones((3, 2, 3), np.float32), np.ones((3, 4), np.float32)
    goldenfile.write(path, [image], {"engine": [scores], "float": [scores]})
    path.write_bytes(fuzz.flipped(path.read_bytes(), random.Random(seed)))
    inputs, engine, float_ = goldenfile.read(path, 3, _IMAGE, _SCORES)
    assert inputs[0].shape == image.shape
    assert all(group is None or group[0].shape == scores.shape for group in (engine, float_))
    return "taken"


def _signature(whole: Path, room: Path, seed: int) -> str:
    rng = random.Random(seed)
    good = {
        "schema": trust.SCHEMA,
        "key": "0" * 16,
        "shipment": jsonfile.sha256(whole / shipment.NAME),
        "signature": "A" * 86 + "==",
    }
    folder = room / "signed"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(whole, folder)
    (folder / trust.NAME).write_bytes(fuzz.mutated(good, rng))
    assert trust.verify(folder, trust.Policy(rng.random() < 0.5, {})) is None
    return "taken"


KINDS: Dict[str, Callable[[Path, Path, int], str]] = {
    "shipment": _shipment,
    "variant": _variant,
    "index": _index,
    "golden": _golden,
    "signature": _signature,
}


def _outcome(kind: str, whole: Path, room: Path, seed: int) -> str:
    try:
        return KINDS[kind](whole, room, seed)
    except OptimizeError as error:
        assert error.message
        return type(error).__name__


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_that_was_tampered_with_is_refused_in_words_or_is_what_it_says(
    kind: str, whole: Path, tmp_path: Path
) -> None:
    seen: Counter[str] = Counter()

    @settings(max_examples=60)
    @given(seed=_SEEDS)
    def holds(seed: int) -> None:
        seen[_outcome(kind, whole, tmp_path, seed)] += 1

    holds()
    assert seen["DamagedError"]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_thousands_of_them_are(kind: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen = Counter(_outcome(kind, whole, tmp_path, seed) for seed in range(CASES))
    with capsys.disabled():
        print(f"\n{CASES} documents of the kind {kind}: {dict(seen)}")
    assert sum(seen.values()) == CASES
    assert seen["DamagedError"] > CASES / 4


def test_a_device_in_an_index_is_strict_too() -> None:
    good = json.loads(oci.index([oci.Entry("sha256:" + "1" * 64, 9, device_key("onnxruntime"), "2" * 64, "fp32")]))
    good["manifests"][0]["annotations"][oci.DEVICE] = '{"backend": "a", "backend": "b"}'
    with pytest.raises(DamagedError, match="duplicate key"):
        oci.read_index(json.dumps(good).encode(), "linear", "latest")
