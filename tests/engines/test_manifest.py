"""Manifests: strict, and the door that a bundle must pass before anything of it is loaded."""

from __future__ import annotations

import copy
import json
import os
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import engines
from engines import jsonfile, manifest
from engines.device import device_key
from engines.errors import DamagedError, IncompatibleError, OptimizeError, UsageError
from engines.spec import RunnerSpec

HASH = "0123456789abcdef" * 4


def about(backend: str = "onnxruntime", files: Any = None, **changes: Any) -> Dict[str, Any]:
    """A whole manifest."""
    image = {"name": "image", "shape": [None, 3, 16, 16], "dtype": "float32"}
    scores = {"name": "scores", "shape": [None, 10], "dtype": "float32"}
    data = {"name": "cifar10", "n": 512, "sha256": HASH}
    value = {
        "schema": "optimize.manifest/1",
        "name": "tiny-fp32",
        "created": "2024-05-01T12:00:00Z",
        "version": "0.1.0",
        "model": {"name": "tiny.keras", "kind": "keras-zip", "sha256": HASH},
        "backend": backend,
        "precision": "fp32",
        "achieved": {"f32": 9},
        "layers": [{"name": "conv1", "type": "Conv", "precision": "f32"}],
        "files": [{"path": "model.onnx", "sha256": HASH, "bytes": 10}] if files is None else files,
        "device": device_key(backend).to_json(),
        "inputs": [image],
        "outputs": [scores],
        "layout": "NCHW",
        "task": "classify",
        "preprocess": {"text": "unit"},
        "classes": ["cat", "dog"],
        "batches": [1, 4],
        "options": {},
        "onnx": {"sha256": HASH, "opset": 17},
        "calibration": {"dataset": data, "samples": 512, "method": {"name": "minmax", "percentile": None}},
        "accuracy": {"top1": 0.5, "top1_drop": -0.1, "agreement": 0.99, "dataset": data},
        "check": {"against": "tiny.keras", "data": "seeded", "n": 64, "max_abs": 1e-6, "top1_agreement": 1.0},
        "gate": {"passed": True, "max_drop": 1.0, "min_agreement": None},
        "build_key": HASH,
        "flags": [],
        "seconds": 1.5,
    }
    return {**value, **changes}


@pytest.fixture
def bundle(backend_name: str, engine: Callable[..., Any], tmp_path: Path) -> Path:
    """A real engine with its manifest."""
    folder, built = engine("fp32")
    path = tmp_path / f"fp32-{backend_name}"
    shutil.copytree(folder, path)
    files = [
        {"path": name, "sha256": jsonfile.sha256(path / name), "bytes": (path / name).stat().st_size}
        for name in built["files"]
    ]
    changes = {k: built[k] for k in ("achieved", "layers", "options", "flags")}
    manifest.write(path, about(backend_name, files, **changes))
    return path


def change(bundle: Path, **changes: Any) -> None:
    """Edit a manifest as a hand would, without validating it."""
    path = bundle / manifest.NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture
def nothing_loads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Loading an engine fails the test."""
    import importlib

    def refuse(name: str, *_: Any) -> Any:
        raise AssertionError(f"{name} was loaded before the bundle was checked")

    monkeypatch.setattr(importlib, "import_module", refuse)


def test_a_whole_bundle_runs(bundle: Path, reference: Callable[..., Any]):
    assert manifest.why_not(bundle) == ""
    manifest.check_files(bundle)
    x = np.random.default_rng(0).random((4, 3, 16, 16), dtype=np.float32)
    with engines.open(RunnerSpec(str(bundle), "bundle", threads=1)) as runner:
        assert runner.spec.threads == 1
        np.testing.assert_allclose(runner.infer({"image": x})["scores"], reference(x), atol=1e-5)


def test_the_spec_of_a_bundle(bundle: Path, backend_name: str):
    spec = manifest.runner_spec(bundle)
    assert (spec.kind, spec.backend, spec.layout, spec.task) == ("onnx", backend_name, "NCHW", "classify")
    assert os.path.isabs(spec.path)
    assert os.path.isfile(spec.path)
    assert spec.preprocess == {"text": "unit"}
    given_one = RunnerSpec(str(bundle), "bundle", preprocess={"text": "raw"}, threads=2)
    assert manifest.runner_spec(bundle, given_one).preprocess == {"text": "raw"}
    assert manifest.runner_spec(bundle, given_one).threads == 2


@pytest.mark.usefixtures("nothing_loads")
def test_one_flipped_byte_is_damage(bundle: Path):
    for entry in manifest.read(bundle)["files"]:
        path = bundle / entry["path"]
        whole = path.read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 1):
            path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
            with pytest.raises(DamagedError, match="one byte or more changed") as error:
                engines.open(RunnerSpec(str(bundle), "bundle"))
            assert entry["path"] in error.value.message
            assert error.value.exit_code == 1
        path.write_bytes(whole)


@pytest.mark.usefixtures("nothing_loads")
def test_a_file_that_is_cut_missing_or_a_link_is_damage(bundle: Path, tmp_path: Path):
    name = manifest.read(bundle)["files"][0]["path"]
    whole = (bundle / name).read_bytes()
    (bundle / name).write_bytes(whole[:-1])
    with pytest.raises(DamagedError, match=rf"{name}: {len(whole) - 1} bytes, its manifest says {len(whole)}"):
        engines.open(RunnerSpec(str(bundle), "bundle"))
    (bundle / name).unlink()
    with pytest.raises(DamagedError, match=f"{name}: missing"):
        engines.open(RunnerSpec(str(bundle), "bundle"))
    (tmp_path / "elsewhere").write_bytes(whole)
    (bundle / name).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="a link or special file"):
        engines.open(RunnerSpec(str(bundle), "bundle"))
    (bundle / name).unlink()
    (bundle / name).mkdir()
    with pytest.raises(DamagedError, match="a link or special file"):
        engines.open(RunnerSpec(str(bundle), "bundle"))


@pytest.mark.usefixtures("nothing_loads")
@pytest.mark.parametrize(
    "field, there, words",
    [
        ("arch", "aarch64", "made for aarch64, this machine is "),
        ("os", "plan9", "made for plan9, this machine is "),
        ("version", "1.0.0", "1.0.0, this machine has "),
        ("compute_capability", "8.7", "made for 8.7, this machine is none"),
        ("features", ["zz_vnni"], "lacks: zz_vnni"),
    ],
)
def test_another_device_is_said_before_loading(field: str, there: Any, words: str, bundle: Path):
    device = {**manifest.read(bundle)["device"], field: there}
    if field == "arch" and device_key("openvino").arch == there:
        device[field], words = "x86_64", "made for x86_64"
    change(bundle, device=device)
    assert words in manifest.why_not(bundle)
    with pytest.raises(IncompatibleError) as error:
        engines.open(RunnerSpec(str(bundle), "bundle"))
    assert words in error.value.message
    assert f"({field})" in error.value.message
    assert error.value.exit_code == 4
    assert "optimize build tiny.keras --precision fp32" in error.value.hint
    assert ("pip install" in error.value.hint) == (field == "version")


@pytest.mark.usefixtures("nothing_loads")
def test_a_missing_backend_is_said_before_loading(bundle: Path, backend_name: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(manifest, "unavailable", lambda name: f"the Python package {name} is not installed")
    with pytest.raises(IncompatibleError, match=f"package {backend_name} is not installed") as error:
        engines.open(RunnerSpec(str(bundle), "bundle"))
    assert error.value.hint == f"pip install {backend_name}"


def test_what_is_no_bundle(tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        manifest.read(tmp_path / "none")
    (tmp_path / "file").write_text("x")
    with pytest.raises(UsageError, match="not an engine bundle"):
        manifest.read(tmp_path / "file")
    with pytest.raises(DamagedError, match=r"no manifest\.json"):
        manifest.read(tmp_path)
    (tmp_path / "m.json").write_text(jsonfile.dumps(about()))
    (tmp_path / manifest.NAME).symlink_to(tmp_path / "m.json")
    with pytest.raises(DamagedError, match="a link"):
        manifest.read(tmp_path)


HOSTILE_NAMES = [
    "../m.onnx",
    "/etc/m.onnx",
    "a/m.onnx",
    "a\\m.onnx",
    "..",
    ".",
    "",
    "m\0.onnx",
    ".m.onnx",
    "C:m.onnx",
    "ü.onnx",
    "x" * 300 + ".onnx",
    "m.onnx\n",
]


@pytest.mark.parametrize("name", HOSTILE_NAMES)
def test_names_that_leave_the_folder_are_damage(name: str):
    with pytest.raises(DamagedError, match=r"files\[0\]\.path"):
        manifest.validate(about(files=[{"path": name, "sha256": HASH, "bytes": 1}]))


@pytest.mark.parametrize("size", [-1, 1 << 60, 10**30, 1.5, True, "10", None])
def test_sizes_that_are_none_are_damage(size: Any):
    with pytest.raises(DamagedError, match=r"files\[0\]\.bytes"):
        manifest.validate(about(files=[{"path": "m.onnx", "sha256": HASH, "bytes": size}]))


def test_files_that_the_backend_needs_are_listed():
    def entry(name: str) -> Dict[str, Any]:
        return {"path": name, "sha256": HASH, "bytes": 1}

    with pytest.raises(DamagedError, match=r"model\.bin is not listed"):
        manifest.validate(about("openvino", [entry("model.xml")]))
    with pytest.raises(DamagedError, match=r"one \*\.onnx is expected for onnxruntime, not 2"):
        manifest.validate(about("onnxruntime", [entry("a.onnx"), entry("b.onnx")]))
    with pytest.raises(DamagedError, match="listed twice"):
        manifest.validate(about("onnxruntime", [entry("a.onnx"), entry("A.onnx")]))
    manifest.validate(about("openvino", [entry("labels.txt"), entry("model.bin"), entry("model.xml")]))


@pytest.mark.parametrize("field", sorted(about()))
def test_every_field_is_required_and_named(field: str):
    value = about()
    del value[field]
    with pytest.raises(DamagedError, match=field):
        manifest.validate(value)


WRONG: List[Tuple[str, Any]] = [
    ("schema", "optimize.manifest/2"),
    ("created", "yesterday"),
    ("model", {"name": "m", "kind": "onnx", "sha256": "abc"}),
    ("backend", "../openvino"),
    ("precision", "fp8"),
    ("achieved", {"f32": -1}),
    ("layers", [{"name": "a"}]),
    ("files", []),
    ("device", None),
    ("inputs", []),
    ("inputs", [{"name": "x", "shape": [1], "dtype": "object"}]),
    ("outputs", [{"name": "x", "shape": ["n"], "dtype": "float32"}]),
    ("layout", "CHWN"),
    ("task", "sing"),
    ("preprocess", "unit"),
    ("classes", 5),
    ("classes", [{}]),
    ("batches", [0]),
    ("batches", []),
    ("options", []),
    ("options", {"threads": "two"}),
    ("options", {"inference_precision": "f8"}),
    ("onnx", {"sha256": HASH}),
    ("calibration", {}),
    ("accuracy", {"top1": "high"}),
    ("check", {"data": "seeded"}),
    ("gate", {"passed": 1}),
    ("flags", [1]),
    ("seconds", "1"),
]


@pytest.mark.parametrize("field, value", WRONG, ids=[f"{f}-{i}" for i, (f, _) in enumerate(WRONG)])
def test_a_wrong_value_names_its_field(field: str, value: Any, tmp_path: Path):
    with pytest.raises(DamagedError, match=field):
        manifest.validate(about(**{field: value}))
    with pytest.raises(DamagedError, match=field):
        manifest.write(tmp_path, about(**{field: value}))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("field", ["calibration", "accuracy", "check", "gate", "preprocess"])
def test_what_was_not_measured_is_null(field: str):
    manifest.validate(about(**{field: None}))


def test_duplicate_keys_are_damage(tmp_path: Path):
    text = jsonfile.dumps(about()).replace('"task":', '"task": "tensors",\n "task":', 1)
    (tmp_path / manifest.NAME).write_text(text)
    with pytest.raises(DamagedError, match="duplicate key 'task'"):
        manifest.read(tmp_path)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(
    extra=st.dictionaries(st.text(min_size=1).map(lambda s: "x-" + s), json_values, max_size=3),
    seconds=st.floats(0, 1e9),
)
def test_a_manifest_survives_its_file_and_keeps_unknown_fields(
    extra: Dict[str, Any], seconds: float, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.getbasetemp() / "roundtrip-bundle"
    folder.mkdir(exist_ok=True)
    value = {**about(seconds=seconds), **extra}
    manifest.write(folder, value)
    assert manifest.read(folder) == value


def _places(value: Any, path: Tuple[Any, ...] = ()) -> Iterator[Tuple[Any, ...]]:
    yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield from _places(inner, (*path, key))


PLACES = [p for p in _places(about()) if p]


@settings(max_examples=400)
@given(place=st.sampled_from(PLACES), value=json_values)
def test_any_change_is_accepted_or_an_error_of_ours(
    place: Tuple[Any, ...], value: Any, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.getbasetemp() / "mutated-bundle"
    folder.mkdir(exist_ok=True)
    changed = copy.deepcopy(about())
    target: Any = changed
    for key in place[:-1]:
        target = target[key]
    target[place[-1]] = value
    (folder / manifest.NAME).write_text(json.dumps(changed))
    for ask in (manifest.read, manifest.why_not, manifest.check_files, manifest.runner_spec):
        try:
            ask(folder)
        except OptimizeError as error:
            assert "\n" not in error.message


@settings(max_examples=200)
@given(place=st.integers(0, 2000), byte=st.integers(0, 255))
def test_any_byte_changed_is_accepted_or_an_error_of_ours(
    place: int, byte: int, tmp_path_factory: pytest.TempPathFactory
):
    folder = tmp_path_factory.getbasetemp() / "flipped-bundle"
    folder.mkdir(exist_ok=True)
    text = bytearray(jsonfile.dumps(about()).encode())
    text[place % len(text)] = byte
    (folder / manifest.NAME).write_bytes(bytes(text))
    for ask in (manifest.read, manifest.why_not, manifest.runner_spec):
        try:
            ask(folder)
        except OptimizeError as error:
            assert error.message


def test_the_identity_is_of_the_engine_and_of_nothing_else(bundle: Path) -> None:
    about = manifest.read(bundle)
    same = manifest.identity(about)
    assert same["build_key"] == about["build_key"] and len(same["engine_sha256"]) == 64
    assert manifest.identity({**about, "created": "2030-01-01T00:00:00Z", "files": about["files"][::-1]}) == same
    one, *rest = about["files"]
    for changed in ({**one, "sha256": "0" * 64}, {**one, "path": "model.other"}):
        assert manifest.identity({**about, "files": [changed, *rest]})["engine_sha256"] != same["engine_sha256"]
    assert manifest.identity({**about, "build_key": "x"}) != same
