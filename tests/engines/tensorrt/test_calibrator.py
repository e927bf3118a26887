"""The calibrator: what TensorRT swallows is raised, batches are counted, caches belong to one model."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import numpy as np
import pytest

from engines.errors import BuildError, DataError, IncompatibleError, UsageError
from engines.spec import TensorSpec, quiet
from engines.tensorrt import build, cachefile, compat
from engines.tensorrt import calibrator as calibration_module
from engines.tensorrt.calibrator import make, read_feeds
from tests.doubles.samples import images

INPUTS = [TensorSpec("x", (None, 3, 8, 8))]


@pytest.fixture
def weak(trt: Any) -> None:
    """Only versions that calibrate."""
    if not compat.has_calibrator(trt):
        pytest.skip("this version has no calibrators")


def implicit(calibration: Dict[str, Any], **changes: Any) -> Dict[str, Any]:
    """Options of a build that TensorRT calibrates."""
    return {"int8_mode": "implicit", "calibration": {**calibration, **changes}}


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
        build(
            graphs.plain,
            tmp_path,
            "int8",
            [1],
            implicit(calibration, of={**calibration["of"], "model": "b" * 64}),
            quiet,
        )


@pytest.mark.tensorrt
def test_a_cache_that_tensorrt_does_not_take_is_measured_anew(
    trt: Any, cuda_ledger: Any, weak: None, graphs: Any, tmp_path: Path, calibration: Any
) -> None:
    cache = Path(calibration["cache"])
    who = (calibration["of"], "entropy", str(trt.__version__))
    cachefile.write(cache, b"TRT-1000-EntropyCalibration2\nx: 3f800000\n", *who)
    build(graphs.plain, tmp_path, "int8", [1], implicit(calibration), quiet)
    content = cachefile.require(cache, *who)
    assert content and 0 < cachefile.parse(content).scales["x"] < 1


@pytest.mark.tensorrt
@pytest.mark.parametrize("algorithm", ["entropy", "minmax"])
def test_a_cache_of_another_version_is_used_where_it_is_asked_for_and_no_image_is_fed(
    trt: Any, cuda_ledger: Any, weak: None, graphs: Any, tmp_path: Path, calibration: Any, algorithm: str
) -> None:
    cache = Path(calibration["cache"])
    build(graphs.plain, tmp_path, "int8", [1], implicit(calibration, algorithm=algorithm), quiet)
    measured = cachefile.read(cache)
    older = tmp_path / "older.cache"
    older.write_bytes(cachefile.render(measured._replace(version="7103")))
    for file in (cache, cachefile.sidecar(cache)):
        file.unlink()
    about = {"imported": str(older), "sha256": "c" * 64, "cache": str(cache), "batch": 4}
    options = {"int8_mode": "implicit", "calibration": about}
    built = build(graphs.plain, tmp_path, "int8", [1], options, quiet)
    assert "int8" in built["achieved"]
    assert cachefile.read(cache) == measured  # for trtexec, with the header of this version
    assert (cachefile.about(cache) or {})["of"] == {"imported": "c" * 64}


@pytest.mark.tensorrt
def test_an_imported_cache_that_tensorrt_does_not_take_is_an_error(
    trt: Any, cuda_ledger: Any, weak: None, gpu: Any
) -> None:
    made = make(trt, gpu, {}, 4, "entropy", b"TRT-1000-EntropyCalibration2\nx: 3f800000\n")
    assert made.get_batch(["x"]) is None
    with pytest.raises(BuildError, match="does not take the calibration cache"):
        made.finish(False)
