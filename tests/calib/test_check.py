"""Every rule for Q/DQ graphs: one graph that breaks it and no other."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import pytest

from calib import graph as graphs
from calib.check import RULES, check_qdq, require_qdq
from calib.placement import TARGETS, points
from calib.quantize import quantize
from engines.errors import BuildError, UsageError

Build = Callable[..., Path]


@pytest.fixture(scope="session")
def clean(resnet: Build, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    """`clean(target)` is a new copy of a right Q/DQ graph."""
    folder = tmp_path_factory.mktemp("clean")
    for target in TARGETS:
        model = graphs.load(resnet())
        scales = dict.fromkeys(points(model, target).measured(), 0.02)
        quantize(resnet(), folder / target, scales, target, nonnegative=["stem_relu_out"])
    return lambda target="tensorrt": graphs.load(folder / target)


def node(model: Any, name: str) -> Any:
    return next(item for item in model.graph.node if item.name == name)


def put(model: Any, name: str, value: Any) -> str:
    """Set or add an initializer."""
    from onnx import numpy_helper

    for item in model.graph.initializer:
        if item.name == name:
            model.graph.initializer.remove(item)
            break
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def insert(model: Any, before: str, *nodes: Any) -> None:
    index = [item.name for item in model.graph.node].index(before)
    for item in reversed(nodes):
        model.graph.node.insert(index, item)


def pair(model: Any, tensor: str) -> Tuple[List[Any], str]:
    """A Q/DQ pair on a tensor: its nodes, and the name of its result."""
    from onnx import helper

    s, z = put(model, f"{tensor}_s", np.float32(0.02)), put(model, f"{tensor}_z", np.int8(0))
    q = helper.make_node("QuantizeLinear", [tensor, s, z], [f"{tensor}_q"], name=f"{tensor}_q")
    dq = helper.make_node("DequantizeLinear", [f"{tensor}_q", s, z], [f"{tensor}_dq"], name=f"{tensor}_dq")
    return [q, dq], f"{tensor}_dq"


def old_opset(model: Any) -> None:
    model.opset_import[0].version = 12


def unsigned(model: Any) -> None:
    put(model, "to_nchw_out_zero_point", np.uint8(0))


def no_zero_point(model: Any) -> None:
    del node(model, "to_nchw_out_QuantizeLinear").input[2]


def shifted(model: Any) -> None:
    put(model, "to_nchw_out_zero_point", np.int8(3))


def computed_scale(model: Any) -> None:
    from onnx import helper

    for kind in ("Quantize", "Dequantize"):
        item = node(model, f"to_nchw_out_{kind}Linear")
        out = f"scale_{kind}"
        insert(model, item.name, helper.make_node("Abs", [item.input[1]], [out], name=out))
        node(model, item.name).input[1] = out


def zero_scale(model: Any) -> None:
    put(model, "to_nchw_out_scale", np.float32(0))


def negative_channel(model: Any) -> None:
    scale = next(item for item in model.graph.initializer if item.name == "stem_w_scale")
    from onnx import numpy_helper

    value = numpy_helper.to_array(scale).copy()
    value[2] = -value[2]
    put(model, "stem_w_scale", value)


def half_scale(model: Any) -> None:
    put(model, "to_nchw_out_scale", np.float16(0.02))


def channels_of_an_activation(model: Any) -> None:
    put(model, "to_nchw_out_scale", np.full(3, 0.02, np.float32))
    put(model, "to_nchw_out_zero_point", np.zeros(3, np.int8))


def wrong_axis(model: Any) -> None:
    for kind in ("Quantize", "Dequantize"):
        node(model, f"b0_conv1_w_{kind}Linear").attribute[0].i = 1


def wrong_count(model: Any) -> None:
    put(model, "b0_conv1_w_scale", np.full(5, 0.02, np.float32))
    put(model, "b0_conv1_w_zero_point", np.zeros(5, np.int8))


def stored_weight(model: Any) -> None:
    q = node(model, "b0_conv1_w_QuantizeLinear")
    put(model, "stored", np.ones((8, 8, 3, 3), np.int8))
    node(model, "b0_conv1_w_DequantizeLinear").input[0] = "stored"
    model.graph.node.remove(q)


def quantised_bias(model: Any) -> None:
    nodes, out = pair(model, "b0_conv1_b")
    insert(model, "b0_conv1", *nodes)
    node(model, "b0_conv1").input[2] = out


def batch_norm(model: Any) -> None:
    from onnx import helper

    names = [put(model, f"bn_{k}", np.full(8, v, np.float32)) for k, v in zip("stmv", (1, 0, 0, 1))]
    insert(model, "b0_relu1", helper.make_node("BatchNormalization", ["b0_conv1_out", *names], ["bn"], name="bn"))
    node(model, "b0_relu1").input[0] = "bn"


def other_scale(model: Any) -> None:
    node(model, "to_nchw_out_DequantizeLinear").input[1] = put(model, "another", np.float32(0.5))


def lonely_q(model: Any) -> None:
    from onnx import helper

    item = node(model, "to_nchw_out_QuantizeLinear")
    lonely = helper.make_node("QuantizeLinear", list(item.input), ["lonely_out"], name="lonely")
    insert(model, "stem", lonely)


def float_weight_only(model: Any) -> None:
    node(model, "b0_conv1").input[1] = "b0_conv1_w"
    for kind in ("Dequantize", "Quantize"):
        model.graph.node.remove(node(model, f"b0_conv1_w_{kind}Linear"))


def quantised_output(model: Any) -> None:
    nodes, out = pair(model, "probabilities_out")
    model.graph.node.extend(nodes)
    model.graph.output[0].name = out


def between_conv_and_relu(model: Any) -> None:
    nodes, out = pair(model, "b0_conv1_out")
    insert(model, "b0_relu1", *nodes)
    node(model, "b0_relu1").input[0] = out


def between_conv_and_add(model: Any) -> None:
    nodes, out = pair(model, "b0_conv2_out")
    insert(model, "b0_add", *nodes)
    node(model, "b0_add").input[0] = out


def float_skip(model: Any) -> None:
    node(model, "b2_add").input[1] = "b1_relu2_out"


def float_shortcut(model: Any) -> None:
    node(model, "b1_add").input[1] = "b1_short_out"
    for kind in ("Dequantize", "Quantize"):
        model.graph.node.remove(node(model, f"b1_short_out_{kind}Linear"))


BREACHES: Dict[str, List[Tuple[Callable[[Any], None], str]]] = {
    "opset": [(old_opset, "graph")],
    "int8": [(unsigned, "to_nchw_out_QuantizeLinear"), (no_zero_point, "to_nchw_out_QuantizeLinear")],
    "zero-point": [(shifted, "to_nchw_out_QuantizeLinear")],
    "constant-scale": [(computed_scale, "to_nchw_out_QuantizeLinear")],
    "positive-scale": [(zero_scale, "to_nchw_out_QuantizeLinear"), (negative_channel, "stem_w_QuantizeLinear")],
    "float32-scale": [(half_scale, "to_nchw_out_QuantizeLinear")],
    "per-tensor-activation": [(channels_of_an_activation, "to_nchw_out_QuantizeLinear")],
    "channel-axis": [(wrong_axis, "b0_conv1_w_DequantizeLinear"), (wrong_count, "b0_conv1_w_DequantizeLinear")],
    "float-weight": [(stored_weight, "b0_conv1_w_DequantizeLinear")],
    "float-bias": [(quantised_bias, "b0_conv1")],
    "folded-norm": [(batch_norm, "bn")],
    "paired": [(other_scale, "to_nchw_out_DequantizeLinear"), (lonely_q, "lonely")],
    "both-inputs": [(float_weight_only, "b0_conv1")],
    "float-output": [(quantised_output, "probabilities_out_dq")],
    "after-conv": [(between_conv_and_relu, "b0_relu1"), (between_conv_and_add, "b0_add")],
    "residual-skip": [(float_skip, "b2_add"), (float_shortcut, "b1_add")],
}
CASES = [(rule, breach, name) for rule, found in BREACHES.items() for breach, name in found]


@pytest.mark.parametrize(("rule", "breach", "name"), CASES, ids=[c[1].__name__ for c in CASES])
def test_a_graph_that_breaks_one_rule(
    clean: Callable[..., Any], rule: str, breach: Callable[[Any], None], name: str
) -> None:
    model = clean()
    assert check_qdq(model) == []
    breach(model)
    problems = check_qdq(model)
    assert {problem.split(":")[0] for problem in problems} == {rule}
    assert name in problems[0]
    with pytest.raises(BuildError, match=rule):
        require_qdq(model)


def test_every_rule_of_tensorrt_has_a_case() -> None:
    assert {rule.name for rule in RULES if "tensorrt" in rule.targets} == set(BREACHES)


@pytest.mark.parametrize("target", TARGETS)
def test_what_this_project_writes_is_right(clean: Callable[..., Any], target: str) -> None:
    assert check_qdq(clean(target), target) == []


def test_the_forms_of_other_targets_are_told_apart(clean: Callable[..., Any]) -> None:
    def rules(form: str, target: str) -> set[str]:
        return {problem.split(":")[0] for problem in check_qdq(clean(form), target)}

    assert rules("openvino", "tensorrt") == {"float-weight", "after-conv", "both-inputs"}
    assert rules("tensorrt", "openvino") == {"residual-skip"}
    assert {"int8", "float-bias", "after-conv"} <= rules("onnxruntime", "tensorrt")
    assert rules("tensorrt", "onnxruntime") == {"uint8"}


def test_a_scale_behind_a_cast_is_constant(clean: Callable[..., Any]) -> None:
    from onnx import TensorProto, helper

    model = clean()
    put(model, "half", np.float16(0.02))
    insert(
        model,
        "to_nchw_out_QuantizeLinear",
        helper.make_node("Cast", ["half"], ["cast_scale"], name="cast", to=TensorProto.FLOAT),
    )
    for kind in ("Quantize", "Dequantize"):
        node(model, f"to_nchw_out_{kind}Linear").input[1] = "cast_scale"
    assert check_qdq(model) == []


def test_one_scale_for_a_whole_weight_is_allowed(clean: Callable[..., Any]) -> None:
    model = clean()
    put(model, "b0_conv1_w_scale", np.float32(0.02))
    put(model, "b0_conv1_w_zero_point", np.int8(0))
    assert check_qdq(model) == []


def test_a_float_graph_is_not_quantised(resnet: Build) -> None:
    assert check_qdq(resnet()) == ["quantised: graph: it holds no QuantizeLinear or DequantizeLinear"]
    with pytest.raises(BuildError, match=r"\.onnx: quantised"):
        require_qdq(resnet())


def test_an_unknown_target_is_a_usage_error(resnet: Build) -> None:
    with pytest.raises(UsageError, match="tflite"):
        check_qdq(resnet(), "tflite")


def test_the_defaults_of_other_tools_are_refused(resnet: Build, images: Any, tmp_path: Path) -> None:
    """ONNX Runtime's own quantiser with its defaults: uint8 zero points, quantised bias and outputs, Q/DQ anywhere."""
    quantization = pytest.importorskip("onnxruntime.quantization")

    class Reader(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = [{"image": images[:8]}]

        def get_next(self) -> Any:
            return self.left.pop() if self.left else None

    quantization.quantize_static(str(resnet()), str(tmp_path / "q.onnx"), Reader())
    rules = {problem.split(":")[0] for problem in check_qdq(tmp_path / "q.onnx")}
    assert {"zero-point", "float-bias", "after-conv", "float-weight"} <= rules
