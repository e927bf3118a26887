"""A small real classifier as ONNX, images that it is right on, and runs made of made-up samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Sequence

import numpy as np
import pytest

from bench import rounds, runs
from engines.spec import RunnerSpec

SIZE = 8
CLASSES = 10


def classifier(path: Path, batch: Any = "batch") -> Path:
    """Write conv, relu, mean, dense over `image` (NHWC, 8x8x3): `scores` (10), seeded weights."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(3)
    weights = {
        "w": rng.normal(0, 0.3, (16, 3, 3, 3)).astype(np.float32),
        "dense": rng.normal(0, 1, (16, CLASSES)).astype(np.float32),
    }
    nodes = [
        helper.make_node("Transpose", ["image"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Conv", ["planes", "w"], ["conv"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"]),
        helper.make_node("GlobalAveragePool", ["relu"], ["pooled"]),
        helper.make_node("Flatten", ["pooled"], ["flat"]),
        helper.make_node("MatMul", ["flat", "dense"], ["scores"]),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, SIZE, SIZE, 3])],
        [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    onnx.save(model, str(path))
    return path


def spec_of(path: Path, backend: str = "onnxruntime") -> RunnerSpec:
    return RunnerSpec(path=str(path), kind="onnx", backend=backend, layout="NHWC", threads=1)


def scores_of(path: Path, images: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    return session.run(None, {"image": images.astype(np.float32)})[0]


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return classifier(tmp_path_factory.mktemp("model") / "net.onnx")


@pytest.fixture(scope="session")
def images(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """70 test and 80 training images; on `unit` images the model is right on the first 50 test ones."""
    rng = np.random.default_rng(4)
    parts: Dict[str, Any] = {}
    for part, count in (("test", 70), ("train", 80)):
        x = rng.integers(0, 256, (count, SIZE, SIZE, 3), dtype=np.uint8)
        x[:, :, :, 0] //= rng.integers(1, 9, (count, 1, 1), dtype=np.uint8)
        x[:, :, :, 1] //= rng.integers(1, 9, (count, 1, 1), dtype=np.uint8)
        y = scores_of(model, x.astype(np.float32) / np.float32(255)).argmax(axis=1)
        parts[f"x_{part}"], parts[f"y_{part}"] = x, y
    parts["y_test"][50:] = (parts["y_test"][50:] + 1) % CLASSES
    path = tmp_path_factory.mktemp("data") / "images.npz"
    np.savez(path, **parts)
    return path


Make = Callable[..., Dict[str, Any]]


def entries(rounds_ms: Sequence[Sequence[float]]) -> List[Dict[str, Any]]:
    return [
        {"order": 0, "round": n, "started": "2024-05-01T12:00:00.000+00:00", "samples_ms": list(map(float, ms))}
        for n, ms in enumerate(rounds_ms)
    ]


@pytest.fixture()
def make_run(tmp_path: Path) -> Make:
    """A valid run: an engine of 1 ms and an original in two forms (8 and 3 ms), at the given batches."""
    file = tmp_path / "file"
    file.write_bytes(b"x")

    def make(count: int = 5, batches: Sequence[int] = (1, 8), name: str = "int8", **about: Any) -> Dict[str, Any]:
        spec = RunnerSpec(path=str(file), kind="onnx", backend="onnxruntime")
        targets = [
            (rounds.Target(name, "engine", "", "int8", "openvino", {"int8": 36, "f32": 2}, 1234567, spec), 1.0),
            (rounds.Target("net.keras", "original", "predict", "fp32", "tensorflow", {}, 9_000_000, spec), 8.0),
            (rounds.Target("net.keras", "original", "function", "fp32", "tensorflow", {}, 9_000_000, spec), 3.0),
        ]
        rng = np.random.default_rng(0)
        rows = [
            runs.row(target, b, entries(np.round(ms * b * rng.uniform(0.999, 1.001, (count, 20)), 6)), target.achieved)
            for b in batches
            for target, ms in targets
        ]
        runs.add_speedups(rows)
        state = {"clocks": "unknown", "load": [0.1, 0.2, 0.3], "others_share": 0.01, "cooling": []}
        return runs.make(rows, state, state, {"rounds": count, "duration_s": 1.0}, **about)

    return make
