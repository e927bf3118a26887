"""Histograms: exact under any split and order, percentiles against numpy on all data, memory free of the count."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from calib import ranges
from calib.ranges import BINS, Histogram, Method, TensorRange
from engines.errors import DataError, ModelError, UsageError

LARGE = float(np.float32(1e30))
floats = st.floats(-LARGE, LARGE, width=32, allow_nan=False)
arrays = hnp.arrays(np.float32, st.integers(1, 60), elements=floats)


def histogram(*parts: Any) -> Histogram:
    hist = Histogram()
    for part in parts:
        hist.add(np.asarray(part, np.float32))
    return hist


def same(a: Histogram, b: Histogram) -> bool:
    return bool((a.counts == b.counts).all()) and a.exponent == b.exponent and a.total == b.total and a.amax == b.amax


@given(st.lists(arrays, min_size=1, max_size=5), st.randoms())
def test_order_and_split_do_not_matter(parts: List[Any], random: Any) -> None:
    whole = histogram(np.concatenate(parts))
    random.shuffle(parts)
    assert same(whole, histogram(*parts))


@given(arrays, arrays, arrays)
def test_merging_equals_adding(a: Any, b: Any, c: Any) -> None:
    whole = histogram(a, b, c)
    left, right = histogram(a), histogram(b, c)
    left.merge(right)
    assert same(whole, left)
    right.merge(histogram(a))
    assert same(whole, right)


@given(arrays)
def test_counts_are_exact(values: Any) -> None:
    hist = histogram(values)
    assert hist.counts.sum() == hist.total == values.size
    assert hist.minimum == values.min() and hist.maximum == values.max()
    if hist.width:
        index = np.floor(np.abs(values.astype(np.float64)) / hist.width).astype(int)
        assert (np.bincount(index, minlength=BINS) == hist.counts).all()
        assert hist.amax < BINS * hist.width


@given(arrays, st.floats(0, 100))
def test_percentile_is_within_a_bin_of_numpy(values: Any, percentile: float) -> None:
    hist = histogram(values)
    exact = np.percentile(np.abs(values).astype(np.float64), percentile)
    assert abs(hist.percentile(percentile) - exact) <= hist.width + 1e-6 * exact


@settings(max_examples=10)
@given(st.integers(0, 2**32 - 1))
def test_percentiles_of_a_heavy_tail(seed: int) -> None:
    values = np.random.default_rng(seed).standard_t(2, 200_000).astype(np.float32)
    hist = histogram(*np.array_split(values, 7))
    for percentile in (50, 99, 99.5, 99.9, 99.99, 100):
        exact = np.percentile(np.abs(values).astype(np.float64), percentile)
        assert abs(hist.percentile(percentile) - exact) <= hist.width


def test_growth_keeps_counts_when_the_range_doubles_many_times() -> None:
    hist = histogram([0.0, 0.1, 0.2], [3.0], [1e6])
    assert hist.counts.sum() == 5
    assert hist.counts[int(1e6 / hist.width)] == 1


def test_zeros_alone_have_no_width_and_a_positive_scale() -> None:
    seen = TensorRange()
    seen.add(np.zeros((4, 3), np.float32), 4)
    assert seen.values.width == 0 and seen.values.total == 12
    for method in ranges.METHODS:
        assert ranges.scale(seen, method) > 0


def test_a_nearly_dead_tensor_is_not_erased() -> None:
    values = np.zeros((10, 10_000), np.float32)
    values[0, 0] = 5.0
    seen = TensorRange()
    seen.add(values, 10)
    assert ranges.threshold(seen, Method("percentile", 99.9)) == 5.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad: float) -> None:
    with pytest.raises(DataError):
        histogram([1.0, bad])


def test_peaks_are_per_image() -> None:
    seen = TensorRange()
    seen.add(np.array([[1, -2], [3, 0]], np.float32), 2)
    seen.add(np.array([[0, 8]], np.float32), 1)
    assert seen.peaks.total == 3 and seen.peaks.amax == 8
    assert ranges.threshold(seen, Method("peaks", 50.0)) == pytest.approx(3, abs=seen.peaks.width)
    assert ranges.threshold(seen, Method("minmax")) == 8
    assert not seen.nonnegative


@pytest.mark.parametrize("text", ["minmax", "percentile:99.99", "percentile:99.9", "peaks:90"])
def test_methods_read_back_as_written(text: str) -> None:
    assert str(ranges.parse_method(text)) == text


@pytest.mark.parametrize("text", ["", "entropy", "minmax:3", "percentile:0", "percentile:x", "peaks:101", "peaks:nan"])
def test_bad_methods_are_usage_errors(text: str) -> None:
    with pytest.raises(UsageError, match="method"):
        ranges.parse_method(text)


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
