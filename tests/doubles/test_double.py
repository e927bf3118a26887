"""The TensorRT double runs whole programs as a Jetson would: parse, profile, calibrate, build, load, execute."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from tests.doubles.samples import BATCHES, build, cnn, execute, expected, images

pytestmark = pytest.mark.tensorrt


@pytest.mark.parametrize("batch", BATCHES)
def test_a_whole_program_gives_what_onnx_runtime_gives(trt: Any, gpu: Any, batch: int) -> None:
    logger, model = trt.Logger(trt.Logger.WARNING), cnn()
    plan = build(trt, logger, model)
    np.testing.assert_array_equal(execute(trt, logger, plan, images(batch)), expected(model, images(batch)))


def test_a_missing_synchronisation_gives_a_wrong_answer(trt: Any, gpu: Any) -> None:
    logger, model = trt.Logger(trt.Logger.WARNING), cnn()
    plan = build(trt, logger, model)
    assert not np.allclose(execute(trt, logger, plan, images(1), synchronize=False), expected(model, images(1)))
