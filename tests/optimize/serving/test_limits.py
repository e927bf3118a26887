from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

from engines import kserve
from engines.spec import TensorSpec
from optimize.serving import limits


def model(most, inputs, outputs=(("y", (None, 10), "float32"),)):
    """What the limits ask of a served model."""
    specs = [tuple(TensorSpec(*one) for one in side) for side in (inputs, outputs)]
    return SimpleNamespace(batcher=SimpleNamespace(most=most), inputs=specs[0], outputs=specs[1])


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "float16", "float32", "int64", "float64"])
@pytest.mark.parametrize("shape", [(1,), (3, 32, 32), ()])
def test_the_largest_request_fits_in_both_forms(dtype, shape):
    found = model(8, [("a", (None, *shape), dtype), ("b", (None, *shape), dtype)])
    longest = {"b": True, "u": 255, "i": np.iinfo(dtype).min if dtype.startswith("i") else 0, "f": np.finfo("f2").tiny}
    array = np.full((8, *shape), longest[np.dtype(dtype).kind], dtype)
    for binary, limit in ((True, limits.raw(found)), (False, limits.text(found))):
        body, _ = kserve.encode({"a": array, "b": array}, "inputs", binary, {})
        assert len(body) <= limit
    nested = json.dumps({"inputs": [array.tolist(), array.tolist()]}, indent=1)
    assert len(nested) < limits.text(found)


def test_a_limit_grows_with_the_batch_and_is_not_far_beyond_it():
    small, large = (model(most, [("image", (None, 3, 224, 224), "float32")]) for most in (1, 64))
    assert limits.raw(small) == 3 * 224 * 224 * 4 + limits.SLACK
    assert limits.raw(large) - limits.SLACK == 64 * (limits.raw(small) - limits.SLACK)


def test_a_message_holds_the_larger_side_of_the_largest_model_and_stays_one_that_grpc_takes():
    few = model(1, [("x", (None, 4), "float32")])
    wide = model(1, [("x", (None, 4), "float32")], [("mask", (None, 512, 512), "float32")])
    assert limits.message([few]) == 10 * limits.TEXT + limits.SLACK
    assert limits.message([few, wide]) == 512 * 512 * limits.TEXT + limits.SLACK
    assert limits.message([model(1 << 20, [("x", (None, 1 << 20), "float32")])]) == (1 << 31) - 1
