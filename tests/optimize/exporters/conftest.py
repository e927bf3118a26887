"""Small real graphs, and the one question put to every rewrite: does ONNX Runtime give the same as before?"""

from __future__ import annotations

from collections import Counter
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper


class Sketch:
    """Collects nodes and constants of a small graph; every result is named after its node."""

    def __init__(self, seed: int = 0) -> None:
        self.random = np.random.default_rng(seed)
        self.nodes: List[Any] = []
        self.constants: List[Any] = []

    def const(self, value: Any, dtype: Any = np.float32) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype), name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def normal(self, *shape: int, scale: float = 0.5) -> str:
        return self.const(self.random.normal(0, scale, shape))

    def node(self, op: str, *inputs: str, **attributes: Any) -> str:
        name = f"{op.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], name=name, **attributes))
        return name

    def conv(
        self, x: str, i: int, o: int, kernel: int = 3, bias: bool = True, group: int = 1, **attributes: Any
    ) -> str:
        attributes.setdefault("pads", [kernel // 2] * 4)
        weights = [self.normal(o, i // group, kernel, kernel)] + ([self.normal(o)] if bias else [])
        return self.node("Conv", x, *weights, group=group, **attributes)

    def bn(self, x: str, channels: int, epsilon: float = 1e-3) -> str:
        gamma, beta, mean = (self.random.normal(0, 1, channels) for _ in range(3))
        variance = self.random.uniform(0.1, 2, channels)
        return self.node("BatchNormalization", x, *map(self.const, (gamma, beta, mean, variance)), epsilon=epsilon)

    def model(
        self,
        shape: Sequence[Any],
        outputs: Dict[str, Optional[Sequence[Any]]],
        opset: int = 17,
        dtype: int = TensorProto.FLOAT,
    ) -> Any:
        """A checked model with the one input `x` of `shape`."""
        graph = helper.make_graph(
            self.nodes,
            "net",
            [helper.make_tensor_value_info("x", dtype, shape)],
            [helper.make_tensor_value_info(k, dtype, v) for k, v in outputs.items()],
            self.constants,
        )
        made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
        made = onnx.shape_inference.infer_shapes(made, data_prop=True)  # declares the outputs' shapes
        onnx.checker.check_model(made, full_check=True)
        return made


@pytest.fixture
def sketch() -> Callable[..., Sketch]:
    """`sketch(seed)` starts a small graph."""
    return Sketch


def run(model: Any, feeds: Dict[str, Any]) -> List[Any]:
    """Results of a model on ONNX Runtime as the graph is written, without the runtime's own rewrites."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.log_severity_level = 4
    data = model.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, feeds))


@pytest.fixture(scope="session")
def onnx_run() -> Callable[..., List[Any]]:
    """`onnx_run(model, feeds)`."""
    return run


@pytest.fixture(scope="session")
def cleaned() -> Callable[..., Any]:
    """`cleaned(model)`: the Net after the clean-up, proven to give the same on random inputs for batches 1 and 3."""
    from optimize.exporters import graph
    from optimize.exporters.graph import names
    from optimize.exporters.graph.net import Net

    def check(model: Any, tolerance: float = 2e-5, tidy: bool = True) -> Any:
        net = Net(model)
        graph.clean(net)
        if tidy:
            names.tidy(net)
        made = graph.finish(net, "net")
        item = model.graph.input[0]
        dims = item.type.tensor_type.shape.dim
        for batch in (1, 3) if not dims[0].HasField("dim_value") else (dims[0].dim_value,):
            x = np.random.default_rng(batch).normal(0, 1, [batch, *(d.dim_value for d in dims[1:])])
            feeds = {item.name: x.astype(np.float32)}
            before, after = run(model, feeds), run(made, feeds)
            assert [o.name for o in model.graph.output] == [o.name for o in made.graph.output]
            for a, b in zip(before, after):
                assert a.shape == b.shape
                np.testing.assert_allclose(b, a, rtol=tolerance, atol=tolerance * max(1.0, float(np.abs(a).max())))
        return net

    return check


@pytest.fixture(scope="session")
def ops() -> Callable[[Any], Dict[str, int]]:
    """`ops(net)`: how many nodes of each operator."""
    return lambda net: dict(Counter(node.op_type for node in net.nodes))
