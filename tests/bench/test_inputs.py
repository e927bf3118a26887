from __future__ import annotations

import numpy as np
import pytest

import engines
from bench import inputs
from calib.preprocess import parse
from engines.errors import UsageError
from engines.spec import Runner, RunnerSpec, TensorSpec


def runner(layout: str, *tensors: TensorSpec, preprocess=None) -> Runner:
    made = Runner()
    made.spec = RunnerSpec("net", "onnx", layout=layout, preprocess=preprocess)
    made.inputs = tensors
    return made


IMAGE = TensorSpec("image", (None, 8, 6, 3))


def test_every_target_sees_the_same_images_in_its_own_layout():
    nhwc = inputs.feeds(runner("NHWC", IMAGE), 4)["image"]
    nchw = inputs.feeds(runner("NCHW", TensorSpec("x", (None, 3, 8, 6))), 4)["x"]
    assert nhwc.shape == (4, 8, 6, 3) and nchw.shape == (4, 3, 8, 6)
    assert nhwc.dtype == nchw.dtype == np.float32
    assert nhwc.flags.c_contiguous and nchw.flags.c_contiguous
    np.testing.assert_array_equal(nhwc, nchw.transpose(0, 2, 3, 1))
    assert not np.array_equal(nhwc, inputs.feeds(runner("NHWC", IMAGE), 4, seed=1)["image"])


@pytest.mark.parametrize(("text", "low", "high"), [("raw", 100, 255), ("unit", 0.4, 1.0), ("imagenet", 1.0, 2.7)])
def test_random_images_are_in_the_range_of_the_preprocessing(text, low, high):
    values = inputs.feeds(runner("NHWC", IMAGE, preprocess=parse(text).to_json()), 8)["image"]
    assert low < values.max() <= high


@pytest.mark.parametrize("text", ["resize=16,crop=8,unit", "crop=6,resize=8,raw", "resize=8x8,unit"])
def test_random_images_fit_after_any_geometry(text):
    square = TensorSpec("image", (None, 8, 8, 3))
    assert inputs.feeds(runner("NHWC", square, preprocess=parse(text).to_json()), 2)["image"].shape == (2, 8, 8, 3)


def test_real_images_are_the_test_images(model, images):
    with engines.open(RunnerSpec(str(model), "onnx", backend="onnxruntime", layout="NHWC")) as real:
        values = inputs.feeds(real, 100, str(images))["image"]
    test = np.load(images)["x_test"].reshape(70, -1)
    assert values.shape == (100, 8, 8, 3)
    seen = {row.tobytes() for row in np.round(values.reshape(100, -1) * 255).astype(np.uint8)}
    assert seen == {row.tobytes() for row in test}  # 70 images, repeated


def test_other_inputs_are_seeded_values():
    pair = runner("", TensorSpec("a", (None, 5)), TensorSpec("ids", (None, 7), "int64"))
    found = inputs.feeds(pair, 3)
    assert found["a"].dtype == np.float32 and found["a"].shape == (3, 5)
    assert found["ids"].dtype == np.int64 and set(found["ids"].ravel()) <= {0, 1}
    np.testing.assert_array_equal(found["a"], inputs.feeds(pair, 3)["a"])


@pytest.mark.parametrize("tensor", [TensorSpec("image", (None, None, None, 3)), TensorSpec("a", (None, None))])
def test_free_sizes_are_refused(tensor):
    with pytest.raises(UsageError, match="free"):
        inputs.feeds(runner("NHWC", tensor), 1)


def test_a_free_size_may_be_given():
    free = runner("NHWC", TensorSpec("image", (None, None, None, 3)))
    free.spec = free.spec.with_(input_shape=(8, 6, 3))
    assert inputs.feeds(free, 2)["image"].shape == (2, 8, 6, 3)


def test_a_fixed_batch_is_named():
    with pytest.raises(UsageError, match="fixed batch of 1"):
        inputs.feeds(runner("", TensorSpec("a", (1, 5))), 3)
