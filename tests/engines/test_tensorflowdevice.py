"""Where TensorFlow computes: asked of TensorFlow itself, which has no GPU here or has it hidden."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace as Of

import pytest

from engines import child, tensorflowdevice
from engines.errors import IncompatibleError

PROBES = str(Path(__file__).parent / "probes")
CPU, GPU = (f"/job:localhost/replica:0/task:0/device:{name}:0" for name in ("CPU", "GPU"))


@pytest.fixture(scope="module")
def seen(tmp_path_factory):
    pytest.importorskip("tensorflow")
    sys.path.append(PROBES)
    try:
        folder = str(tmp_path_factory.mktemp("tensorflow"))
        hidden = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "2"}
        return child.call("tensorflow_probe:run", {"folder": folder}, env=hidden)
    finally:
        sys.path.remove(PROBES)


def test_a_savedmodel_says_where_it_computes(seen):
    assert seen["device"] == seen["none"] == "cpu"


def test_a_gpu_that_tensorflow_does_not_see_is_an_error(seen):
    for found in (seen["check"], seen["load"]):
        message, hint = found
        assert message.startswith("--device gpu: TensorFlow 2.") and "sees no GPU" in message
        assert "optimize doctor" in hint


def test_memory_is_taken_as_it_is_needed(seen):
    assert seen["growth"] == "true"


def test_one_variable_elsewhere_is_not_on_the_gpu(monkeypatch):
    monkeypatch.setattr(tensorflowdevice, "check", lambda: {})  # no GPU is needed to read names of devices
    keras3 = Of(value=Of(device=GPU))
    assert tensorflowdevice.placed([Of(device=GPU), keras3], "gpu") == "gpu"
    assert tensorflowdevice.placed([Of(device=GPU), Of(device=CPU)], "auto") == "cpu"
    with pytest.raises(IncompatibleError, match=f"1 of 2 variables of the model on {CPU}"):
        tensorflowdevice.placed([keras3, Of(device=CPU)], "gpu")
