"""The trtexec line, in the words of each version."""

from __future__ import annotations

from typing import Any, Dict, List

import pytest

from engines.tensorrt import compat
from engines.tensorrt.trtexec import equivalent

pytestmark = pytest.mark.tensorrt


def words(trt: Any, precision: str = "fp32", workspace: int = 64 << 20, **options: Any) -> List[str]:
    """What follows the words that every line has."""
    line = equivalent(trt, "a.onnx", precision, [], options, workspace)
    assert line[:4] == ["trtexec", "--onnx=a.onnx", "--saveEngine=model.plan", "--profilingVerbosity=detailed"]
    return line[4:]


def test_precision_by_flags_where_there_are_flags(trt: Any) -> None:
    weak = compat.weakly_typed(trt)
    assert words(trt)[1:] == ["--noTF32"]
    assert words(trt, "fp16")[1:] == (["--fp16"] if weak else [])
    assert words(trt, "int8", int8_mode="explicit")[1:] == (["--fp16", "--int8"] if weak else [])


def test_a_calibrated_engine_needs_the_cache(trt: Any) -> None:
    if not compat.has_calibrator(trt):
        pytest.skip("this version has no calibrators")
    assert words(trt, "int8", int8_mode="implicit")[1:] == ["--fp16", "--int8", "--calib=calibration.cache"]
    assert words(trt, "fp16", int8_mode="implicit")[1:] == ["--fp16"]


def test_strong_typing_where_it_is_a_choice(trt: Any) -> None:
    if compat.strongly_typed_only(trt):
        wanted: List[str] = []
    elif compat.can_strongly_type(trt):
        wanted = ["--stronglyTyped"]
    else:
        wanted = ["--fp16"]
    assert words(trt, "fp16", strongly_typed=True)[1:] == wanted
    assert words(trt, "fp32", strongly_typed=True)[1:] == ["--noTF32"]


def test_layers_kept_in_fp32(trt: Any) -> None:
    kept = ["--fp16", "--precisionConstraints=obey", "--layerPrecisions=conv1:fp32,fc:fp32"]
    assert words(trt, "fp16", keep_fp32=["conv1", "fc"])[1:] == (kept if compat.weakly_typed(trt) else [])
    assert words(trt, "fp32", keep_fp32=["conv1"])[1:] == ["--noTF32"]


@pytest.mark.parametrize(("workspace", "mebibytes"), [(256 << 20, 256), ((32 << 20) + 5, 32), (100, "0.000095")])
def test_the_workspace_is_in_mebibytes(trt: Any, workspace: int, mebibytes: Any) -> None:
    assert words(trt, workspace=workspace)[0] == f"--memPoolSize=workspace:{mebibytes}"


def test_shapes_are_those_of_the_last_batch_and_none_where_they_are_fixed(trt: Any) -> None:
    line = equivalent(trt, "a.onnx", "fp32", ["x:1x3x8x8", "x:64x3x8x8"], {}, 1 << 20)
    shapes = [word for word in line if "Shapes" in word]
    assert shapes == [f"--{name}Shapes=x:64x3x8x8" for name in ("min", "opt", "max")]
    assert not any("Shapes" in word for word in words(trt))


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ({"dla": 0}, ["--useDLACore=0"]),
        ({"dla": 1, "gpu_fallback": True}, ["--useDLACore=1", "--allowGPUFallback"]),
        ({"gpu_fallback": True}, []),
        ({"avg_timing": 8, "sparse": True}, ["--avgTiming=8", "--sparsity=enable"]),
        ({"timing_cache": "/somewhere/t.cache"}, ["--timingCacheFile=timing.cache"]),
        ({"timing_cache": "/somewhere/t.cache", "builds": 3}, []),
    ],
)
def test_what_else_was_asked_for(trt: Any, options: Dict[str, Any], wanted: List[str]) -> None:
    assert words(trt, **options)[2:] == wanted


@pytest.mark.parametrize("level", [0, 5])
def test_a_level_only_where_there_are_levels(trt: Any, surface: str, level: int) -> None:
    wanted = [] if surface == "8.5.2" else [f"--builderOptimizationLevel={level}"]
    assert words(trt, optimization_level=level)[2:] == wanted
