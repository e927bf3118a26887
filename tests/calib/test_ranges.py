"""The streaming pass: against numpy on all data, resumed to the same bits, memory free of the number of images."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List

import numpy as np
import pytest

from calib import ranges
from engines.errors import DataError, ModelError


def all_values(path: Path, tensor: str, images: Any) -> Any:
    import onnx
    import onnxruntime

    model = onnx.load(str(path))
    model.graph.output.append(onnx.helper.make_tensor_value_info(tensor, onnx.TensorProto.FLOAT, None))
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run([tensor], {"image": images})[0]


def feeds(images: Any, batch: int) -> Any:
    return ({"image": images[k : k + batch]} for k in range(0, len(images), batch))


def test_collect_agrees_with_numpy_on_all_data(resnet: Callable[..., Path], images: Any) -> None:
    tensors = ["image", "stem_relu_out", "b1_conv2_out", "b2_add_out", "flat_out"]
    told: List[Any] = []
    seen = ranges.collect(resnet(), tensors, feeds(images, 13), lambda *a: told.append(a), len(images))
    assert told[-1] == ("ranges", 48, 48)
    for name in tensors:
        exact = images if name == "image" else all_values(resnet(), name, images)
        values, peaks = seen[name].values, seen[name].peaks
        assert values.total == exact.size and peaks.total == len(images)
        assert values.maximum == pytest.approx(exact.max(), rel=1e-5)
        assert values.minimum == pytest.approx(exact.min(), rel=1e-5)
        for percentile in (50, 99, 99.9):
            expected = np.percentile(np.abs(exact).astype(np.float64), percentile)
            assert abs(values.percentile(percentile) - expected) <= 1.01 * values.width
            expected = np.percentile(np.abs(exact).reshape(len(images), -1).max(1).astype(np.float64), percentile)
            assert abs(peaks.percentile(percentile) - expected) <= 1.01 * peaks.width


def test_padding_of_a_fixed_batch_is_not_counted(resnet: Callable[..., Path], images: Any) -> None:
    fixed = ranges.collect(resnet(batch=10), ["b1_add_out"], feeds(images, 10))["b1_add_out"]
    free = ranges.collect(resnet(), ["b1_add_out"], feeds(images, 10))["b1_add_out"]
    assert fixed.values.total == free.values.total and fixed.peaks.total == 48
    assert np.abs(fixed.values.counts - free.values.counts).sum() <= 20  # sums in another order may cross a bin's edge


def test_collect_names_the_tensor_that_is_not_finite(resnet: Callable[..., Path], images: Any) -> None:
    with pytest.raises(DataError, match="stem_out"):
        ranges.collect(resnet(), ["stem_out"], feeds(images * np.float32(np.inf), 8))


def test_no_image_is_an_error(resnet: Callable[..., Path]) -> None:
    with pytest.raises(DataError, match="no calibration image"):
        ranges.collect(resnet(), ["stem_out"], iter(()))


def test_an_interrupt_ends_the_pass(resnet: Callable[..., Path], images: Any) -> None:
    def stop(*_: Any) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ranges.collect(resnet(), ["stem_out"], feeds(images, 8), stop)


def test_a_file_that_is_no_graph_is_a_model_error(tmp_path: Path) -> None:
    (tmp_path / "x.onnx").write_bytes(b"not a protobuf at all")
    with pytest.raises(ModelError, match=r"x\.onnx"):
        ranges.collect(tmp_path / "x.onnx", ["a"], iter(()))


_PEAK = """
import sys, numpy as np
from calib import ranges
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
x = np.random.default_rng(0).random((4, 16, 16, 3)).astype(np.float32)
tensors = ["stem_out", "b0_add_out", "b1_add_out", "b2_add_out"]
ranges.collect(sys.argv[1], tensors, ({"image": x} for _ in range(4)))
before = peak()
ranges.collect(sys.argv[1], tensors, ({"image": x} for _ in range(int(sys.argv[2]) // 4)))
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak from /proc")
def test_memory_does_not_grow_with_the_images(resnet: Callable[..., Path]) -> None:
    command = [sys.executable, "-c", _PEAK, str(resnet()), "8192"]
    grown = subprocess.run(
        command, check=True, capture_output=True, text=True, cwd=str(Path(ranges.__file__).parent.parent)
    )
    assert int(grown.stdout) < 10_000  # KiB; keeping every activation would take 140 MB


def test_items_are_made_one_ahead_and_an_error_comes_in_its_place() -> None:
    made, used = [], []

    def items() -> Iterator[int]:
        for number in range(1, 5):
            made.append(number)
            yield number
        raise DataError("the fifth cannot be read")

    with pytest.raises(DataError, match="fifth"):
        for item in ranges._ahead(items()):
            used.append(item)
            assert len(made) <= len(used) + 1
    assert used == made == [1, 2, 3, 4]
