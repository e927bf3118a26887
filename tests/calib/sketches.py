"""Small ONNX graphs written node by node, and what holds for every mixed graph made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from calib import graph as graphs
from calib import methods, ranges
from calib.check import check_qdq
from calib.fp16_rules import QDQ, element_types
from calib.placement import points
from calib.quantize import quantize

Build = Callable[..., Path]
F = TensorProto.FLOAT

rng = np.random.default_rng(5)


def tensor(name: str, value: Any) -> Any:
    value = np.asarray(value)
    return numpy_helper.from_array(value.astype(np.float32) if value.dtype == np.float64 else value, name)


def save(
    path: Path,
    nodes: Sequence[Any],
    weights: Sequence[Any] = (),
    shape: Sequence[Any] = (2, 4, 8, 8),
    outputs: Optional[Dict[str, Any]] = None,
    opset: int = 17,
    more: Sequence[Any] = (),
    result: Optional[Sequence[int]] = None,
) -> Path:
    """A graph from `x` to `outputs` (`y`, float32 of unknown shape, by default)."""
    results = [helper.make_tensor_value_info(k, v, result) for k, v in (outputs or {"y": F}).items()]
    graph = helper.make_graph(
        list(nodes), "g", [helper.make_tensor_value_info("x", F, shape), *more], results, list(weights)
    )
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8 if opset < 19 else 9), str(path))
    return path


def conv(x: str, name: str, i: int = 4, o: int = 4, scale: float = 0.2) -> Any:
    weight = tensor(f"{name}_w", rng.normal(0, scale, (o, i, 3, 3)))
    return helper.make_node("Conv", [x, weight.name], [name], name=name, pads=[1] * 4), weight


def run(path: Path, feeds: Dict[str, Any]) -> List[Any]:
    """ONNX Runtime."""
    return list(ranges.session(path).run(None, feeds))


def both(path: Path, feeds: Dict[str, Any]) -> List[Any]:
    """The reference's results, once ONNX Runtime has run the graph as well and given nearly the same."""
    exact, fast = reference(path, feeds), run(path, feeds)
    for a, b in zip(exact, fast):
        assert a.dtype == b.dtype and a.shape == b.shape
        if a.dtype == np.float32 and np.isfinite(a).all():
            assert np.abs(a - b).max() <= 0.05 * max(1.0, float(np.abs(a).max()))
    return exact


def x_of(shape: Sequence[int] = (2, 4, 8, 8)) -> Any:
    return np.random.default_rng(1).normal(0, 1, shape).astype(np.float32)


def reference(path: Path, feeds: Dict[str, Any]) -> List[Any]:
    """ONNX's own evaluator, which rounds every tensor to its type.

    ONNX Runtime's CPU computes 16-bit operators in float32 and drops the Casts between. Pairs with 16-bit scales it
    gets wrong: 1.31 quantises the biases beside them through a 16-bit quotient, which overflows; 1.19 is off by steps.
    """
    model = onnx.load(str(path))
    if any(node.op_type in QDQ for node in model.graph.node):  # it knows them from opset 19 only; nothing else differs
        model.opset_import[0].version = max(19, model.opset_import[0].version)
    with np.errstate(all="ignore"):
        return list(ReferenceEvaluator(model).run(None, feeds))


def ops(path: Path) -> List[str]:
    return [node.op_type for node in onnx.load(str(path)).graph.node]


def kept(done: Dict[str, Any]) -> Dict[str, str]:
    return {item["node"]: item["why"] for item in done["kept"]}


def types_of(path: Path) -> Dict[str, int]:
    return element_types(onnx.load(str(path)))


def sound(source: Path, path: Path) -> None:
    """What holds for every result: legal, same boundary and names, no Cast twice, none behind a Cast or a DQ."""
    before, after = onnx.load(str(source)), onnx.load(str(path))
    onnx.checker.check_model(after, full_check=True)
    constants = {item.name for item in before.graph.initializer}
    for a, b in ((before.graph.input, after.graph.input), (before.graph.output, after.graph.output)):
        old = [(i.name, i.type.tensor_type.elem_type) for i in a if i.name not in constants]
        assert old == [(i.name, i.type.tensor_type.elem_type) for i in b]
    names = [node.name for node in after.graph.node]
    assert {n.name for n in before.graph.node if n.op_type not in ("Constant", "QuantizeLinear")} <= set(names)
    graph = graphs.Graph(after)
    given = {node.output[0] for node in before.graph.node}
    seen = set()
    for node in graph.nodes:
        if node.op_type != "Cast" or node.output[0] in given:
            continue
        key = (node.input[0], graphs.attribute(node, "to", 0))
        assert key not in seen, f"{key} is cast twice"
        seen.add(key)
        maker = graph.maker(node.input[0])
        assert maker is None or maker.op_type not in ("Cast", "DequantizeLinear")
        assert graph.readers.get(node.output[0]) or node.output[0] in graph.outputs


def quantised(source: Path, out: Path, feeds: Dict[str, Any], keep: Sequence[str] = (), opset: int = 17) -> Path:
    place = points(graphs.load(source), "tensorrt", tuple(keep))
    seen = ranges.collect(source, place.measured(), [feeds])
    scales = {name: methods.scale(item, methods.Method("minmax")) for name, item in seen.items()}
    quantize(source, out, scales, "tensorrt", keep_float=tuple(keep))
    if opset > 17:  # none of the operators of these graphs changed from 17 to 19
        model = onnx.load(str(out))
        model.opset_import[0].version, model.ir_version = opset, 9
        onnx.save(model, str(out))
    return out


def rules_broken(path: Path) -> List[str]:
    """Strongly typed versions take int8 constants; all other rules hold."""
    return [line for line in check_qdq(path) if not line.startswith("float-weight")]
