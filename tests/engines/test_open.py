"""The one door: kinds find their module, and what has none says so."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Callable

import numpy as np
import pytest

import engines
from engines.errors import IncompatibleError
from engines.open import _MODULES
from engines.spec import KINDS, RunnerSpec


def test_every_kind_has_a_module():
    assert set(KINDS) - {"onnx", "bundle"} <= set(_MODULES)
    for module in set(_MODULES.values()):
        assert importlib.util.find_spec(module) is not None


def test_an_onnx_file_opens_with_the_backend_named(backend_name: str, graph_file: Callable[..., Path]):
    with engines.open(RunnerSpec(str(graph_file()), "onnx", backend=backend_name)) as runner:
        assert runner.spec.backend == backend_name
        assert runner.infer({"image": np.zeros((2, 3, 16, 16), np.float32)})["scores"].shape == (2, 10)


@pytest.mark.parametrize("backend", ["", "caffe", "../openvino"])
def test_an_onnx_file_without_a_backend_is_refused(backend: str, graph_file: Callable[..., Path]):
    with pytest.raises(IncompatibleError, match="no backend"):
        engines.open(RunnerSpec(str(graph_file()), "onnx", backend=backend))
