"""The calibrator: what TensorRT swallows is raised, batches are counted, caches belong to one model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

from engines.errors import BuildError, DamagedError, DataError, IncompatibleError, UsageError
from engines.spec import TensorSpec, quiet
from engines.tensorrt import build, compat
from engines.tensorrt import calibrator as calibration_module
from engines.tensorrt.calibrator import make, read_cache, read_feeds, sidecar, write_cache
from tests.doubles.samples import images

INPUTS = [TensorSpec("x", (None, 3, 8, 8))]
WHO = ("a" * 64, "entropy", "8.5.2.2")


@pytest.fixture
def weak(trt: Any) -> None:
    """Only versions that calibrate."""
    if not compat.has_calibrator(trt):
        pytest.skip("this version has no calibrators")


def implicit(calibration: Dict[str, Any], **changes: Any) -> Dict[str, Any]:
    """Options of a build that TensorRT calibrates."""
    return {"int8_mode": "implicit", "calibration": {**calibration, **changes}}


def test_a_cache_is_given_back_only_to_what_it_was_measured_on(tmp_path: Path) -> None:
    cache = tmp_path / "calibration.cache"
    assert read_cache(cache, *WHO) is None
    write_cache(cache, b"TRT-8502-EntropyCalibration2\n", *WHO)
    assert read_cache(cache, *WHO) == b"TRT-8502-EntropyCalibration2\n"
    assert json.loads(sidecar(cache).read_text())["schema"] == "optimize.calibration-cache/1"
    for who, words in (
        (("b" * 64, "entropy", "8.5.2.2"), "another model, data set or preprocessing"),
        (("a" * 64, "minmax", "8.5.2.2"), "algorithm entropy"),
        (("a" * 64, "entropy", "10.3.0"), "tensorrt 8.5.2.2"),
    ):
        with pytest.raises(IncompatibleError, match=words) as caught:
            read_cache(cache, *who)
        assert caught.value.exit_code == 4


def test_a_cache_without_its_sidecar_or_changed_is_refused(tmp_path: Path) -> None:
    cache = tmp_path / "calibration.cache"
    write_cache(cache, b"one", *WHO)
    cache.write_bytes(b"two")
    with pytest.raises(DamagedError, match="changed"):
        read_cache(cache, *WHO)
    sidecar(cache).unlink()
    with pytest.raises(IncompatibleError, match="nothing says which model"):
        read_cache(cache, *WHO)


def test_feeds_are_what_the_network_takes(tmp_path: Path) -> None:
    file = tmp_path / "feeds.npz"
    np.savez(file, x=images(6), other=np.zeros(3))
    assert list(read_feeds(file, INPUTS, 4)) == ["x"]


@pytest.mark.parametrize(
    ("arrays", "words"),
    [
        ({"y": images(4)}, "input x"),
        ({"x": images(3)}, "3 calibration images, and 4"),
        ({"x": images(4)[:, :2]}, r"\(2, 8, 8\)"),
        ({"x": images(4).astype(np.float64)}, "float64"),
        ({"x": images(4).reshape(4, -1)}, r"\(192,\)"),
        ({"x": np.array([{}], dtype=object)}, "can be read"),
        (None, "can be read"),
    ],
)
def test_feeds_that_do_not_fit_are_refused_before_the_build(tmp_path: Path, arrays: Any, words: str) -> None:
    file = tmp_path / "feeds.npz"
    if arrays is not None:
        np.savez(file, **arrays)
    with pytest.raises(DataError, match=words):
        read_feeds(file, INPUTS, 4)
    file.write_bytes(b"PK\x03\x04 no zip")
    with pytest.raises(DataError, match="can be read"):
        read_feeds(file, INPUTS, 4)


@pytest.mark.tensorrt
def test_each_batch_lies_on_the_device_when_it_is_handed_over(trt: Any, gpu: Any, weak: None) -> None:
    feeds = {"x": images(9), "z": np.arange(9, dtype=np.float32).reshape(9, 1)}
    made = make(trt, gpu, feeds, 4)
    assert made.get_batch_size() == 4
    host, stream = gpu.host((4, 3, 8, 8), np.float32), gpu.stream()
    numbers = gpu.host((4, 1), np.float32)
    for first in (0, 4):
        z, x = made.get_batch(["z", "x"])
        assert type(x) is int
        gpu.to_host(host.array, x, stream)
        gpu.to_host(numbers.array, z, stream)
        stream.synchronize()
        np.testing.assert_array_equal(host.array, feeds["x"][first : first + 4])
        np.testing.assert_array_equal(numbers.array, feeds["z"][first : first + 4])
    assert made.get_batch(["z", "x"]) is None
    made.finish(True)
    assert made.fed == made.count == 2


@pytest.mark.tensorrt
def test_no_more_addresses_than_names(trt: Any, gpu: Any, weak: None) -> None:
    made = make(trt, gpu, {"x": images(4), "unused": images(4)}, 4)
    assert len(made.get_batch(["x"])) == 1
    made.finish(True)


@pytest.mark.tensorrt
def test_an_unknown_input_or_algorithm(trt: Any, gpu: Any, weak: None) -> None:
    with pytest.raises(UsageError, match="entropy, minmax"):
        make(trt, gpu, {"x": images(4)}, 4, "percentile")
    made = make(trt, gpu, {"x": images(4)}, 4)
    assert made.get_batch(["x", "mask"]) is None
    with pytest.raises(BuildError, match="mask"):
        made.finish(True)


@pytest.mark.tensorrt
def test_no_room_for_the_buffers_frees_those_that_were_made(
    trt: Any, gpu: Any, weak: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    from engines.cuda import CudaMemoryError

    def full(nbytes: int) -> Any:
        raise CudaMemoryError("no memory")

    monkeypatch.setattr(gpu, "allocate", full)
    with pytest.raises(CudaMemoryError):
        make(trt, gpu, {"x": images(4)}, 4)


@pytest.mark.tensorrt
@pytest.mark.parametrize("error", [OSError("the disk is gone"), KeyboardInterrupt()])
def test_what_a_callback_raises_is_raised_after_the_build(
    trt: Any,
    cuda_ledger: Any,
    weak: None,
    graphs: Any,
    tmp_path: Path,
    calibration: Any,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
) -> None:
    from engines.cuda import Context

    calls = iter([None, None])
    copy = Context.to_device

    def failing(self: Any, address: int, array: Any, stream: Any) -> None:
        if next(calls, error) is not None:
            raise error
        copy(self, address, array, stream)

    monkeypatch.setattr(Context, "to_device", failing)
    with pytest.raises(type(error)):
        build(graphs.plain, tmp_path, "int8", [1], implicit(calibration), quiet)
    assert not list(tmp_path.iterdir()), "no plan, and no cache of two thirds of the images"


@pytest.mark.tensorrt
def test_a_calibration_that_ends_early_is_an_error(
    trt: Any,
    cuda_ledger: Any,
    weak: None,
    graphs: Any,
    tmp_path: Path,
    calibration: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    original = calibration_module.make

    def short(*arguments: Any) -> Any:
        made = original(*arguments)
        made.count += 1
        made._next = lambda names, step=made._next: None if made.fed == 2 else step(names)
        return made

    monkeypatch.setattr(calibration_module, "make", short)
    with pytest.raises(BuildError, match="2 of 4 batches"):
        build(graphs.plain, tmp_path, "int8", [1], implicit(calibration), quiet)
    assert not list(tmp_path.iterdir())


@pytest.mark.tensorrt
def test_a_second_build_reads_the_cache(
    trt: Any,
    cuda_ledger: Any,
    weak: None,
    graphs: Any,
    tmp_path: Path,
    calibration: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = []
    original = calibration_module.make

    def kept(*arguments: Any) -> Any:
        made.append(original(*arguments))
        return made[-1]

    monkeypatch.setattr(calibration_module, "make", kept)
    cache = Path(calibration["cache"])
    build(graphs.plain, tmp_path, "int8", [1], implicit(calibration), quiet)
    before = cache.read_bytes()
    build(graphs.plain, tmp_path, "int8", [4], implicit(calibration), quiet)
    assert [one.fed for one in made] == [3, 0]
    assert cache.read_bytes() == before
    assert before.startswith(b"TRT-")
    with pytest.raises(IncompatibleError, match="another model"):
        build(graphs.plain, tmp_path, "int8", [1], implicit(calibration, identity="b" * 64), quiet)


@pytest.mark.tensorrt
def test_a_cache_that_tensorrt_does_not_take_is_measured_anew(
    trt: Any, cuda_ledger: Any, weak: None, graphs: Any, tmp_path: Path, calibration: Any
) -> None:
    cache = Path(calibration["cache"])
    write_cache(cache, b"TRT-1-EntropyCalibration2\n", calibration["identity"], "entropy", str(trt.__version__))
    build(graphs.plain, tmp_path, "int8", [1], implicit(calibration), quiet)
    assert b"x: " in read_cache(cache, calibration["identity"], "entropy", str(trt.__version__))
