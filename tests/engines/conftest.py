"""Small real graphs: a residual CNN with a free batch, in both layouts, and the same with Q/DQ pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

CLASSES = 10
SIZE = 16


def _add(graph: Dict[str, List[Any]], name: str, value: Any, dtype: Any = np.float32) -> str:
    graph["weights"].append(numpy_helper.from_array(np.asarray(value, dtype), name))
    return name


def _quantized(graph: Dict[str, List[Any]], tensor: str, scale: float) -> str:
    """A symmetric int8 Q/DQ pair behind `tensor`."""
    scale_name = _add(graph, f"{tensor}_scale", scale)
    zero = _add(graph, f"{tensor}_zero", 0, np.int8)
    graph["nodes"] += [
        helper.make_node("QuantizeLinear", [tensor, scale_name, zero], [f"{tensor}_q"], f"{tensor}_Q"),
        helper.make_node("DequantizeLinear", [f"{tensor}_q", scale_name, zero], [f"{tensor}_dq"], f"{tensor}_DQ"),
    ]
    return f"{tensor}_dq"


def _weight(graph: Dict[str, List[Any]], name: str, value: np.ndarray, quantize: bool) -> str:
    """A weight; as int8 with one scale per output channel where asked."""
    if not quantize:
        return _add(graph, name, value)
    scales = np.abs(value).reshape(len(value), -1).max(1) / 127
    codes = np.round(value / scales.reshape(-1, *[1] * (value.ndim - 1))).astype(np.int8)
    inputs = [
        _add(graph, f"{name}_q", codes, np.int8),
        _add(graph, f"{name}_scale", scales),
        _add(graph, f"{name}_zero", np.zeros(len(value)), np.int8),
    ]
    graph["nodes"].append(helper.make_node("DequantizeLinear", inputs, [name], f"{name}_DQ", axis=0))
    return name


def residual(
    batch: Any = "batch", layout: str = "NCHW", quantize: bool = False, operator: str = "Relu", domain: str = ""
) -> onnx.ModelProto:
    """conv1, relu1, [conv2, relu2, conv3, add], relu3, pooling, dense: `image` -> `scores`; seeded weights."""
    random = np.random.default_rng(5)
    graph: Dict[str, List[Any]] = {"nodes": [], "weights": []}
    source = "image"
    if layout == "NHWC":
        graph["nodes"].append(helper.make_node("Transpose", ["image"], ["planes"], "to_nchw", perm=[0, 3, 1, 2]))
        source = "planes"

    def conv(name: str, source: str, channels: int, stride: int = 1) -> str:
        if quantize:
            source = source if source.endswith("_dq") else _quantized(graph, source, 0.05)
        values = random.normal(0, (2 / (channels * 9)) ** 0.5, (16, channels, 3, 3))
        inputs = [source, _weight(graph, f"{name}_w", values, quantize), _add(graph, f"{name}_b", np.zeros(16))]
        graph["nodes"].append(
            helper.make_node("Conv", inputs, [name], name, pads=[1, 1, 1, 1], strides=[stride, stride])
        )
        return name

    def relu(name: str, source: str, operator: str = "Relu", domain: str = "") -> str:
        graph["nodes"].append(helper.make_node(operator, [source], [name], name, domain=domain))
        return name

    stem = relu("relu1", conv("conv1", source, 3, 2))
    if quantize:
        stem = _quantized(graph, stem, 0.05)
    middle = relu("relu2", conv("conv2", stem, 16), operator, domain)
    graph["nodes"].append(helper.make_node("Add", [conv("conv3", middle, 16), stem], ["add"], "add"))
    top = relu("relu3", "add")
    dense = _add(graph, "dense_w", random.normal(0, 0.3, (CLASSES, 16)))
    bias = _add(graph, "dense_b", random.normal(0, 0.1, CLASSES))
    graph["nodes"] += [
        helper.make_node("GlobalAveragePool", [top], ["pooled"], "pool"),
        helper.make_node("Flatten", ["pooled"], ["flat"], "flatten"),
        helper.make_node("Gemm", ["flat", dense, bias], ["scores"], "dense", transB=1),
    ]
    shape = [batch, 3, SIZE, SIZE] if layout == "NCHW" else [batch, SIZE, SIZE, 3]
    opsets = [helper.make_opsetid("", 17)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    model = helper.make_model(
        helper.make_graph(
            graph["nodes"],
            "residual",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, [batch, CLASSES])],
            graph["weights"],
        ),
        opset_imports=opsets,
    )
    model.ir_version = 8
    return model


@pytest.fixture(scope="session")
def graph_file(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`graph_file(batch=1, quantize=True, ...)` -> path of that graph, made once."""
    folder = tmp_path_factory.mktemp("graphs")
    made: Dict[str, Path] = {}

    def make(**options: Any) -> Path:
        key = repr(sorted(options.items()))
        if key not in made:
            made[key] = folder / f"graph{len(made)}.onnx"
            onnx.save(residual(**options), str(made[key]))
        return made[key]

    return make


@pytest.fixture(scope="session")
def reference(graph_file: Callable[..., Path]) -> Callable[..., np.ndarray]:
    """`reference(images)` -> scores of the float32 graph by the onnx package's own evaluator, in NumPy."""
    from onnx.reference import ReferenceEvaluator

    evaluators: Dict[str, Any] = {}

    def run(x: np.ndarray, layout: str = "NCHW") -> np.ndarray:
        if layout not in evaluators:
            evaluators[layout] = ReferenceEvaluator(onnx.load(str(graph_file(layout=layout))))
        return evaluators[layout].run(None, {"image": x})[0]

    return run


@pytest.fixture(scope="session", params=["openvino", "onnxruntime"])
def backend_name(request: pytest.FixtureRequest) -> str:
    """Each CPU backend in turn."""
    pytest.importorskip(request.param)
    return str(request.param)


@pytest.fixture(scope="session")
def engine(
    backend_name: str, graph_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., Any]:
    """`engine("fp16")` -> (folder, what `build` returned), made once for each backend; do not change its files."""
    from engines import backend

    made: Dict[str, Any] = {}

    def make(precision: str, layout: str = "NCHW", threads: Optional[int] = None) -> Any:
        key = f"{precision}-{layout}-{threads}"
        if key not in made:
            folder = tmp_path_factory.mktemp(f"{backend_name}-{key}")
            graph = graph_file(layout=layout, quantize=precision == "int8")
            options = {"threads": threads} if threads else {}
            progress: Any = lambda what, done, total: None  # noqa: E731
            made[key] = folder, backend.get(backend_name).build(graph, folder, precision, [1, 4], options, progress)
        return made[key]

    return make
