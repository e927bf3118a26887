from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import IncompatibleError, UsageError
from optimize.pipeline.tensorrt import TensorRTOptions, calibration_feeds, cast_fp16
from optimize.pipeline.variants import whole_batch


@pytest.mark.parametrize(
    ("text", "size"),
    [("auto", "auto"), ("512MiB", 512 << 20), ("1.5 GiB", 3 << 29), ("1000", 1000), ("2gb", 2 * 10**9)],
)
def test_a_workspace_is_auto_or_a_size(text: str, size):
    assert TensorRTOptions(workspace=text).workspace_bytes() == size


@pytest.mark.parametrize("text", ["", "much", "-1", "0", "12 parsecs", "1MiB2", "MiB", "99999999999999GiB", "9e9GiB"])
def test_another_workspace_is_refused(text: str):
    with pytest.raises(UsageError, match="--workspace"):
        TensorRTOptions(workspace=text)


@given(st.floats(0.001, 1e6), st.sampled_from(["KiB", "MiB", "GiB"]))
def test_a_size_with_a_unit_is_never_more_than_it_says(value: float, unit: str):
    text = f"{value:.3f}{unit}"
    scale = {"KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}[unit]
    assert TensorRTOptions(workspace=text).workspace_bytes() <= float(f"{value:.3f}") * scale


@pytest.mark.parametrize(
    ("given_", "option"),
    [
        ({"int8_mode": "both"}, "--int8-mode both"),
        ({"keep": "worst"}, "--keep worst"),
        ({"builds": 0}, "--builds 0"),
        ({"dla": -1}, "--dla -1"),
        ({"optimization_level": 6}, "--optimization-level 6"),
        ({"gpu_fallback": True}, "--gpu-fallback"),
    ],
)
def test_what_makes_no_sense_is_refused(given_, option: str):
    with pytest.raises(UsageError, match=option):
        TensorRTOptions(**given_)


@pytest.mark.parametrize(
    ("mode", "dla", "calibrates", "modes"),
    [
        ("auto", None, True, ("explicit", "implicit")),
        ("auto", None, False, ("explicit",)),
        ("explicit", None, True, ("explicit",)),
        ("implicit", None, True, ("implicit",)),
        ("implicit", None, False, "--int8-mode implicit: TensorRT 11.4 has no calibrator"),
        ("auto", 0, True, ("implicit",)),
        ("implicit", 1, True, ("implicit",)),
        ("explicit", 0, True, "an accelerator does not run Q/DQ graphs"),
        ("auto", 0, False, "--dla 0 in INT8: TensorRT 11.4 has no calibrator"),
    ],
)
def test_the_ways_to_int8(mode: str, dla, calibrates: bool, modes):
    asked = TensorRTOptions(int8_mode=mode, dla=dla)
    able = {"weakly_typed": calibrates, "calibrator": calibrates, "version": "11.4"}
    if isinstance(modes, tuple):
        assert asked.int8_modes(able) == modes
    else:
        with pytest.raises(IncompatibleError, match=modes):
            asked.int8_modes(able)


def test_the_options_that_were_asked_for_are_named_as_they_are_typed():
    assert TensorRTOptions().given() == []
    assert TensorRTOptions(dla=0, gpu_fallback=True, timing_cache=Path("t")).given() == [
        "--timing-cache",
        "--dla",
        "--gpu-fallback",
    ]
    assert "timing_cache" not in TensorRTOptions(timing_cache=Path("t")).settings()  # it does not decide the plan


def test_feeds_are_the_preprocessed_calibration_images(tiny_onnx: Path, tmp_path: Path):
    from calib.datasets import open_dataset
    from calib.preprocess import apply, parse

    pre = parse("unit")
    out = tmp_path / "feeds.npz"
    asked = {"data": "synthetic", "preprocess": pre.to_json(), "layout": "", "samples": 20, "seed": 0}
    done = calibration_feeds(str(tiny_onnx), str(out), asked)
    images = open_dataset("synthetic", "calibration", 20, 0)
    with np.load(str(out)) as found:
        (name,) = found.files
        values = found[name]
    assert values.dtype == np.float32 and len(values) == done["samples"] == 20
    layout = "NCHW" if values.shape[1] == 3 else "NHWC"
    expected = apply(
        pre, images.images(range(20)), layout, (values.shape[-2] if layout == "NCHW" else values.shape[1],) * 2
    )
    np.testing.assert_array_equal(values, expected)
    assert done["dataset"] == images.describe()


def test_layers_that_overflow_on_the_images_stay_in_float32(tiny_onnx: Path, tmp_path: Path):
    import onnx
    from onnx import numpy_helper

    from calib.preprocess import parse

    model = onnx.load(str(tiny_onnx))
    first = next(node for node in model.graph.node if node.op_type == "Conv")
    (weight,) = (item for item in model.graph.initializer if item.name == first.input[1])
    weight.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(weight) * np.float32(40000), weight.name))
    large = tmp_path / "large.onnx"
    onnx.save(model, str(large))
    asked = {"data": "synthetic", "preprocess": parse("unit").to_json(), "layout": "", "samples": 20, "seed": 0}
    for onnx_file, expected in ((tiny_onnx, set()), (large, {first.name})):
        blind = cast_fp16(str(onnx_file), str(tmp_path / "blind.onnx"))
        done = cast_fp16(str(onnx_file), str(tmp_path / "half.onnx"), measured=str(onnx_file), images=asked)
        assert (blind["measured_images"], done["measured_images"]) == (0, 20)
        kept = {one["node"] for one in done["kept"]} - {one["node"] for one in blind["kept"]}
        assert kept >= expected and bool(kept) == bool(expected)


@given(st.integers(1, 2000))
def test_few_images_are_left_over(samples: int):
    batch = whole_batch(samples)
    assert 1 <= batch <= 32 and samples // batch * batch >= max(1, 0.95 * samples)
    assert whole_batch(52) == 26 and whole_batch(512) == 32 and whole_batch(3) == 3
