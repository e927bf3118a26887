"""What the tests of the TensorRT backend share: graphs of a small residual CNN, and one place to build into."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, Iterator, List, Tuple

import numpy as np
import pytest


@pytest.fixture(scope="session")
def graphs(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Files of one network: `plain` FP32, `quantized` with Q/DQ pairs, `half` and `half_quantized` with FP16 types,
    `fixed` with a batch of 1, and `feeds`, 12 calibration images."""
    pytest.importorskip("onnxruntime")
    import onnx

    from calib import fp16
    from tests.doubles.samples import cnn, images

    folder = tmp_path_factory.mktemp("graphs")
    found = SimpleNamespace(folder=folder)
    for name, quantized in (("plain", False), ("quantized", True)):
        path = folder / f"{name}.onnx"
        path.write_bytes(cnn(quantized))
        setattr(found, name, path)
    for name, source in (("half", found.plain), ("half_quantized", found.quantized)):
        path = folder / f"{name}.onnx"
        fp16.cast(source, path)
        setattr(found, name, path)
    model = onnx.ModelProto.FromString(cnn())
    for value in [*model.graph.input, *model.graph.output]:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    found.fixed = folder / "fixed.onnx"
    found.fixed.write_bytes(model.SerializeToString())
    found.feeds = folder / "feeds.npz"
    np.savez(found.feeds, x=images(12))
    return found


@pytest.fixture
def gpu(cuda_ledger: Any) -> Iterator[Any]:
    """The primary context of GPU 0, current for the test."""
    from engines.cuda import Context

    with Context(0) as opened:
        yield opened


@pytest.fixture
def calibration(graphs: Any, tmp_path: Path) -> Dict[str, Any]:
    """The option `calibration` of a build."""
    return {
        "feeds": str(graphs.feeds),
        "batch": 4,
        "algorithm": "entropy",
        "cache": str(tmp_path / "calibration.cache"),
        "of": {"model": "a" * 64, "data": "d" * 64},
    }


@pytest.fixture
def heard() -> Tuple[List[Tuple[str, int, int]], Callable[[str, int, int], None]]:
    """A list, and a progress that fills it."""
    lines: List[Tuple[str, int, int]] = []
    return lines, lambda what, done, total: lines.append((what, done, total))
