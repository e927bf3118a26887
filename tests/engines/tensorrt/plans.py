"""Plans of small graphs, built once for each surface, and the answers that are expected of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Tuple

import numpy as np

from engines.spec import RunnerSpec
from engines.tensorrt import build, load

_BUILT: Dict[Tuple[str, ...], Tuple[bytes, ...]] = {}


def plan(
    surface: str, onnx: Path, folder: Path, batches: Tuple[int, ...] = (1, 4), precision: str = "fp32", **options: Any
) -> Dict[str, Any]:
    """Write the plan, or plans, of a graph into `folder`; built in this process once. Gives what `build` did."""
    key = (surface, str(onnx), str(batches), precision, repr(sorted(options.items())))
    if key not in _BUILT:
        told = build(onnx, folder, precision, batches, options)
        _BUILT[key] = (told, *((folder / name).read_bytes() for name in told["files"]))  # type: ignore[assignment]
    told, *contents = _BUILT[key]  # type: ignore[misc]
    for name, content in zip(told["files"], contents):  # type: ignore[index]
        (folder / name).write_bytes(content)
    return told  # type: ignore[return-value]


def opened(folder: Path, name: str = "model.plan", **options: Any) -> Any:
    """A runner of a plan."""
    return load(RunnerSpec(str(folder / name), "bundle", backend="tensorrt", options=options))


def images(batch: int, seed: int = 0) -> Dict[str, np.ndarray]:
    return {"image": np.random.default_rng(seed).normal(0, 1, (batch, 3, 16, 16)).astype(np.float32)}


def expected(onnx: Path, feeds: Dict[str, np.ndarray]) -> Dict[str, np.ndarray]:
    """ONNX Runtime's answer."""
    import onnxruntime

    session = onnxruntime.InferenceSession(str(onnx), providers=["CPUExecutionProvider"])
    names: List[str] = [one.name for one in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds)))


def close(got: Dict[str, np.ndarray], wanted: Dict[str, np.ndarray], tolerance: float = 1e-5) -> None:
    assert list(got) == list(wanted)
    for name, value in wanted.items():
        assert got[name].shape == value.shape and got[name].dtype == value.dtype
        np.testing.assert_allclose(got[name], value, rtol=tolerance, atol=tolerance)
