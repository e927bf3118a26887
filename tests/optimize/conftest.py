"""A small real classifier, a small real data set, and engines built from them once for all tests of this floor."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Callable, Tuple

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

CLASSES = 10


def coloured(count: int, seed: int) -> Tuple[np.ndarray, np.ndarray]:
    """Ten colours with noise and a bright corner: uint8 NHWC, labels balanced."""
    random = np.random.default_rng(seed)
    colours = np.array(
        [[r, g, b] for r in (50, 200) for g in (50, 200) for b in (50, 200)] + [[125, 50, 125], [125, 200, 125]]
    )
    labels = np.arange(count) % CLASSES
    images = colours[labels][:, None, None, :] + random.normal(0, 5, (count, 32, 32, 3))
    images[:, :8, :8] += 30
    return np.clip(images, 0, 255).astype(np.uint8), labels.astype(np.int64)


def write_cifar(folder: Path, train: int = 400, test: int = 200) -> Path:
    """A folder in CIFAR-10's binary format."""
    folder.mkdir(parents=True)
    for name, count, seed in (("data_batch_1.bin", train, 1), ("test_batch.bin", test, 2)):
        images, labels = coloured(count, seed)
        planes = images.transpose(0, 3, 1, 2).reshape(count, -1)
        (folder / name).write_bytes(np.hstack([labels[:, None].astype(np.uint8), planes]).tobytes())
    (folder / "batches.meta.txt").write_text("\n".join(f"colour{i}" for i in range(CLASSES)) + "\n")
    return folder


def residual_classifier(operator: str = "Relu", batch: Any = "batch") -> onnx.ModelProto:
    """Conv, Relu, residual block, global pooling, Gemm; the last layer fitted to the data set of `write_cifar`."""
    random = np.random.default_rng(3)
    weights = {
        "w1": random.normal(0, 0.4, (16, 3, 3, 3)),
        "b1": random.normal(0, 0.1, 16),
        "w2": random.normal(0, 0.12, (16, 16, 3, 3)),
        "b2": random.normal(0, 0.1, 16),
        "w3": np.zeros((CLASSES, 16)),
        "b3": np.zeros(CLASSES),
    }
    nodes = [
        helper.make_node("Conv", ["image", "w1", "b1"], ["c1"], "conv1", pads=[1, 1, 1, 1], strides=[2, 2]),
        helper.make_node(operator, ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2", "b2"], ["c2"], "conv2", pads=[1, 1, 1, 1]),
        helper.make_node("Add", ["c2", "r1"], ["a2"], "add2"),
        helper.make_node("Relu", ["a2"], ["r2"], "relu2"),
        helper.make_node("GlobalAveragePool", ["r2"], ["g"], "pool"),
        helper.make_node("Flatten", ["g"], ["f"], "flatten"),
        helper.make_node("Gemm", ["f", "w3", "b3"], ["scores"], "dense", transB=1),
    ]

    def model() -> onnx.ModelProto:
        graph = helper.make_graph(
            nodes,
            "classifier",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, [batch, 3, 32, 32])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
            [numpy_helper.from_array(np.asarray(v, np.float32), k) for k, v in weights.items()],
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
        made.ir_version = 8
        return made

    if batch == "batch" and operator == "Relu":
        whole = model()
        whole.graph.output.append(helper.make_tensor_value_info("f", TensorProto.FLOAT, None))
        session = onnxruntime.InferenceSession(whole.SerializeToString(), providers=["CPUExecutionProvider"])
        images, labels = coloured(400, 1)
        (features,) = session.run(["f"], {"image": (images / np.float32(255)).transpose(0, 3, 1, 2)})
        design = np.hstack([features, np.ones((len(features), 1))]).astype(np.float64)
        # the ridge keeps the weights small, so that 16-bit and 8-bit engines can follow
        fitted = np.linalg.solve(design.T @ design + 0.3 * np.eye(17), design.T @ (8 * np.eye(CLASSES)[labels]))
        weights["w3"], weights["b3"] = fitted[:-1].T, fitted[-1]
    return model()


@pytest.fixture(scope="session")
def cifar(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """400 training and 200 test images in CIFAR-10's binary format."""
    return write_cifar(tmp_path_factory.mktemp("data") / "cifar-10-batches-bin")


@pytest.fixture(scope="session")
def tiny_onnx(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier that gets most of `cifar` right."""
    path = tmp_path_factory.mktemp("model") / "tiny.onnx"
    onnx.save(residual_classifier(), str(path))
    return path


@pytest.fixture(scope="session")
def squeezed_onnx(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path) -> Path:
    """The same classifier with one channel of its features made huge: 8 bits cannot hold the others beside it."""
    model = onnx.load(str(tiny_onnx))
    for weight in model.graph.initializer:
        value = numpy_helper.to_array(weight).copy()
        if weight.name == "b1":
            value[0] = 3000.0
        if weight.name in ("w2", "w3"):
            value[(slice(None), 0)] = 0
        if weight.name in ("b1", "w2", "w3"):
            weight.CopyFrom(numpy_helper.from_array(value, weight.name))
    path = tmp_path_factory.mktemp("squeezed") / "squeezed.onnx"
    onnx.save(model, str(path))
    return path


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path, cifar: Path) -> Any:
    """`optimize.build` of `tiny_onnx` in all three precisions with the default backend; do not change its files."""
    import optimize

    out = tmp_path_factory.mktemp("built") / "tiny.optimized"
    return optimize.build(tiny_onnx, "fp32,fp16,int8", (1, 8), str(cifar), out=out, preprocess="unit", samples=100)


@pytest.fixture
def optimize_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Run the command line in an empty folder: `optimize_command("build", "m.onnx")` -> exit_code, stdout, stderr."""
    from typer.testing import CliRunner

    from optimize.cli import console
    from optimize.cli.app import app

    home = tmp_path / "here"
    home.mkdir(exist_ok=True)
    monkeypatch.chdir(home)

    apart = {"mix_stderr": False} if "mix_stderr" in inspect.signature(CliRunner).parameters else {}  # before click 8.2

    def run(*words: object) -> Any:
        console.set_voice(False, False, False, True)
        return CliRunner(**apart).invoke(app, [str(w) for w in words])

    return run
