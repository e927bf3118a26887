from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib.preprocess import GRAMMAR, INTERPOLATIONS, Preprocess, apply, describe, differ, geometry, parse
from engines.errors import DamagedError, DataError, UsageError

_SPEC = importlib.util.spec_from_file_location("make_goldens", Path(__file__).with_name("make_goldens.py"))
assert _SPEC is not None and _SPEC.loader is not None
goldens = importlib.util.module_from_spec(_SPEC)
_SPEC.loader.exec_module(goldens)


@pytest.fixture(scope="module")
def golden() -> Any:
    with np.load(goldens.GOLDENS) as kept:
        return dict(kept)


def levels(a: Any, b: Any) -> int:
    return int(np.abs(a.astype(int) - b.astype(int)).max())


@pytest.mark.parametrize("text", goldens.GEOMETRIES)
@pytest.mark.parametrize("name", ["wide", "high"])
def test_geometry_is_torchvisions(golden: Any, text: str, name: str) -> None:
    ours, theirs = geometry(parse(text), goldens.IMAGES[name]), golden[f"geometry/{text}/{name}"]
    assert ours.shape == theirs.shape
    assert levels(ours, theirs) <= 1


@pytest.mark.parametrize("name", [*goldens.WEIGHTS, *goldens.TIMM])
def test_presets_are_those_of_the_published_weights(golden: Any, name: str) -> None:
    made = apply(parse(name), [goldens.IMAGES["large"]], "NCHW")[0, :, :: goldens.STEP, :: goldens.STEP]
    # One level of a pixel is 1/255/std = 0.018; the arithmetic alone differs by far less.
    assert made.shape == golden[f"preset/{name}"].shape
    assert np.abs(made - golden[f"preset/{name}"]).max() < 0.02


@pytest.mark.parametrize("mode", ["caffe", "tf", "imagenet"])
def test_numbers_are_keras(golden: Any, mode: str) -> None:
    made = apply(parse(mode), [goldens.IMAGES["wide"]], "NHWC")[0]
    np.testing.assert_allclose(made, golden[f"keras/{mode}"], rtol=0, atol=2e-6 if mode != "caffe" else 2e-5)


def test_torchvision_that_is_installed_agrees(golden: Any) -> None:
    pytest.importorskip("torchvision")
    for key, value in goldens.from_torchvision().items():
        assert levels(value, golden[key]) <= 1 if value.dtype == np.uint8 else np.abs(value - golden[key]).max() < 0.02


def test_numbers_exactly() -> None:
    image = np.arange(48, dtype=np.uint8).reshape(1, 4, 4, 3) * 5
    x = image.astype(np.float32)
    np.testing.assert_array_equal(apply(parse("raw"), image, "NHWC"), x)
    np.testing.assert_array_equal(apply(parse("unit"), image, "NHWC"), x / np.float32(255))
    mean, std = np.float32([0.485, 0.456, 0.406]), np.float32([0.229, 0.224, 0.225])
    imagenet = (x / np.float32(255) - mean) / std
    np.testing.assert_array_equal(apply(parse("imagenet"), image, "NHWC"), imagenet)
    np.testing.assert_array_equal(apply(parse("mean=0.485,0.456,0.406;std=0.229,0.224,0.225"), image, "NHWC"), imagenet)
    np.testing.assert_array_equal(apply(parse("order=bgr,imagenet"), image, "NHWC"), imagenet[..., ::-1])
    turned = (x[..., ::-1] / np.float32(255) - mean) / std
    by_place = parse("order=bgr,unit,mean=0.485,0.456,0.406;std=0.229,0.224,0.225")
    np.testing.assert_array_equal(apply(by_place, image, "NHWC"), turned)
    np.testing.assert_array_equal(apply(parse("mean=100,110,120"), image, "NHWC"), x - np.float32([100, 110, 120]))
    np.testing.assert_array_equal(apply(parse("raw,mean=0.5;std=2"), image, "NHWC"), (x - 0.5) / 2)


def test_layouts_and_containers_hold_the_same_numbers() -> None:
    images = np.random.default_rng(0).integers(0, 256, (5, 6, 7, 3), np.uint8)
    for text in ("unit", "order=bgr,imagenet", "caffe", "tf"):
        nhwc, nchw = (apply(parse(text), images, layout, (6, 7)) for layout in ("NHWC", "NCHW"))
        assert nhwc.dtype == nchw.dtype == np.float32
        assert nhwc.flags.c_contiguous and nchw.flags.c_contiguous
        np.testing.assert_array_equal(nhwc.transpose(0, 3, 1, 2), nchw)
        np.testing.assert_array_equal(apply(parse(text), list(images), "NCHW"), nchw)


def test_grey_images() -> None:
    images = np.random.default_rng(0).integers(0, 256, (2, 28, 28, 1), np.uint8)
    assert apply(parse("resize=14,mean=0.5;std=0.5"), images, "NCHW", (14, 14)).shape == (2, 1, 14, 14)
    with pytest.raises(DataError, match="3 values of mean for images of 1"):
        apply(parse("imagenet"), images, "NCHW")


def test_steps_go_from_left_to_right() -> None:
    image = goldens.IMAGES["wide"]
    first = geometry(parse("crop=20,resize=30"), image)
    assert first.shape == (30, 30, 3)
    np.testing.assert_array_equal(
        first, geometry(parse("resize=30x30"), np.ascontiguousarray(geometry(parse("crop=20"), image)))
    )
    assert geometry(parse("resize=30,crop=20"), image).shape == (20, 20, 3)


def test_the_design_s_example() -> None:
    pre = parse("resize=256,crop=224,interp=bilinear,order=rgb,imagenet")
    assert (pre.resize, pre.crop, pre.interp, pre.order, pre.scale) == (256, (224, 224), "bilinear", "rgb", 255.0)
    assert pre == Preprocess(**{**parse("resnet18").__dict__, "text": pre.text})
    assert parse("ResNet50_Weights.IMAGENET1K_V2").resize == parse("resnet50").resize == 232
    assert parse("timm/resnet34").interp == "bicubic"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "units",
        "resize=",
        "resize=0",
        "resize=-3",
        "resize=32x",
        "resize=99999999",
        "crop=1.5",
        "interp=area",
        "order=gbr",
        "unit,resize=3",
        "raw,unit",
        "unit,unit",
        "imagenet,mean=1",
        "mean=1,2",
        "mean=a,b,c",
        "mean=nan",
        "mean=1,2,3,4",
        "std=0",
        "std=-1,1,1",
        "resize=3,resize=4",
        "resize=8,resnet50",
        "order=rgb,caffe",
        "unit,,",
        "mean=1;mean=2",
        "mean=1,unit",
        "resnet50.nope",
    ],
)
def test_what_is_not_in_the_grammar_is_refused_with_it(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert GRAMMAR in caught.value.hint


def test_a_size_that_does_not_fit_names_both() -> None:
    images = np.zeros((2, 32, 32, 3), np.uint8)
    with pytest.raises(DataError, match="32x32 after preprocessing, the model takes 224x224") as caught:
        apply(parse("unit"), images, "NCHW", (224, 224))
    assert "resize=224x224" in caught.value.hint
    with pytest.raises(DataError, match="32x32 and of 8x8"):
        apply(parse("unit"), [images[0], images[0, :8, :8]], "NCHW")
    with pytest.raises(DataError, match="crop=40x40 is larger"):
        apply(parse("crop=40"), images, "NCHW")
    with pytest.raises(DataError, match="no image"):
        apply(parse("unit"), images[:0], "NCHW")
    with pytest.raises(DataError, match="float32"):
        apply(parse("unit"), images.astype(np.float32), "NCHW")
    with pytest.raises(UsageError, match="NWHC"):
        apply(parse("unit"), images, "NWHC")
    assert apply(parse("unit"), images, "NCHW", (0, 32)).shape == (2, 3, 32, 32)


number = st.floats(-300, 300, allow_nan=False)
positive = st.floats(1e-3, 300, allow_nan=False)
side = st.integers(1, 600)


@st.composite
def preprocessings(draw: Any) -> str:
    steps = []
    if draw(st.booleans()):
        steps.append(f"resize={draw(side)}" if draw(st.booleans()) else f"resize={draw(side)}x{draw(side)}")
    if draw(st.booleans()):
        steps.insert(draw(st.integers(0, len(steps))), f"crop={draw(side)}x{draw(side)}")
    if draw(st.booleans()):
        steps.append(f"interp={draw(st.sampled_from(INTERPOLATIONS))}")
    if draw(st.booleans()):
        steps.append(f"order={draw(st.sampled_from(['rgb', 'bgr']))}")
    named = draw(st.sampled_from(["raw", "unit", "imagenet", "cifar", "tf", ""]))
    if named:
        steps.append(named)
    if named in ("raw", "unit", ""):
        n = draw(st.sampled_from([1, 3]))
        mean = ",".join(str(draw(number)) for _ in range(n))
        steps.append(f"mean={mean};std={','.join(str(draw(positive)) for _ in range(n))}")
    return ",".join(steps)


@settings(deadline=None)
@given(preprocessings())
def test_text_and_json_give_the_same_again(text: str) -> None:
    pre = parse(text)
    assert parse(pre.text) == pre
    assert Preprocess.from_json(pre.to_json()) == pre
    assert {**parse(describe(pre)).__dict__, "text": ""} == {**pre.__dict__, "text": ""}


def test_json_of_nothing_is_the_default_and_damage_is_found() -> None:
    assert Preprocess.from_json({}) == Preprocess.from_json({**parse("unit").to_json(), "inferred": True})
    good = parse("resize=8,imagenet").to_json()
    for change in ({"scale": 3.0}, {"interp": "area"}, {"mean": ["x"]}, {"crop": [1]}, {"resize": "8"}, {"std": [0.0]}):
        with pytest.raises(DamagedError):
            Preprocess.from_json({**good, **change})
    with pytest.raises(DamagedError):
        Preprocess.from_json({"scale": 255.0})
    assert Preprocess.from_json({**good, "later": 1}) == parse("resize=8,imagenet")


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("unit", "unit"),
        ("mean=0.5;std=0.5", "mean=0.5,0.5,0.5;std=0.5,0.5,0.5"),
        ("tf", "mean=0.5;std=0.5"),
        ("tf", "raw,mean=127.5;std=127.5"),
        ("unit", "raw,mean=0;std=255"),
        ("interp=bicubic,unit", "unit"),
    ],
)
def test_preprocessing_in_other_words_is_no_other(one: str, other: str) -> None:
    assert differ(parse(one).to_json(), parse(other).to_json()) == ""


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("unit", "raw"),
        ("imagenet", "order=bgr,imagenet"),
        ("resize=256,crop=224,imagenet", "resize=224,imagenet"),
        ("resize=224,interp=bicubic,unit", "resize=224,unit"),
        ("crop=24x24,resize=32x32,unit", "resize=32x32,crop=24x24,unit"),
        ("mean=0.5,0.5,0.5;std=0.5,0.5,0.5", "mean=0.5,0.4,0.5;std=0.5,0.5,0.5"),
    ],
)
def test_preprocessing_that_makes_other_numbers_differs(one: str, other: str) -> None:
    first, second = parse(one), parse(other)
    told = differ(first.to_json(), second.to_json())
    assert told == f"{describe(first)}, not {describe(second)}"


def test_none_given_is_unit() -> None:
    assert differ(None, {}) == differ(None, parse("unit").to_json()) == ""


def test_a_number_that_no_float_holds_is_no_preprocessing() -> None:
    with pytest.raises(DamagedError, match="not a preprocessing"):
        Preprocess.from_json({"text": "x", "mean": [10**400]})
