"""Constants in every form, and Q/DQ pairs below and from opset 19."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Sequence

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from calib import fp16
from calib import graph as graphs
from calib.fp16_rules import pairs_follow
from tests.calib.sketches import (
    Build,
    F,
    both,
    conv,
    kept,
    ops,
    quantised,
    reference,
    rules_broken,
    run,
    save,
    sound,
    tensor,
    types_of,
    x_of,
)

opset_19 = pytest.mark.skipif(
    not pairs_follow(19),
    reason="this onnx infers float32 behind a DequantizeLinear with float16 scales",
)


def test_constants_in_nodes_and_casts_of_integers(tmp_path: Path) -> None:
    first, a = conv("x", "c")
    nodes = [
        helper.make_node("Constant", [], ["half"], value_float=0.5),
        helper.make_node("Constant", [], ["four"], value=tensor("v", np.array([4, 1, 1], np.int64))),
        first,
        helper.make_node("Mul", ["c", "half"], ["m"], name="mul"),
        helper.make_node("Cast", ["m"], ["m2"], name="noop", to=F),
        helper.make_node("ConstantOfShape", ["four"], ["ones"], name="fill", value=tensor("v", np.ones(1, np.float32))),
        helper.make_node("Greater", ["m2", "ones"], ["mask"], name="greater"),
        helper.make_node("Cast", ["mask"], ["maskf"], name="mask_cast", to=F),
        helper.make_node("Mul", ["m2", "maskf"], ["masked"], name="select"),
        helper.make_node("Conv", ["masked", "c_w"], ["y"], name="last", pads=[1] * 4),
        helper.make_node("Cast", ["masked"], ["whole"], name="to_int", to=TensorProto.INT32),
    ]
    source = save(tmp_path / "a.onnx", nodes, [a], outputs={"y": F, "whole": TensorProto.INT32})
    done = fp16.cast(source, tmp_path / "b.onnx")
    after = {n.name: n for n in onnx.load(str(tmp_path / "b.onnx")).graph.node}
    onnx.checker.check_model(onnx.load(str(tmp_path / "b.onnx")), full_check=True)
    assert done["kept"] == [] and after["noop"].op_type == "Identity" and "mask_cast" not in after
    assert graphs.attribute(after["maskf_float16"], "to", 0) == TensorProto.FLOAT16
    assert after["maskf_float16"].input[0] == "mask" and after["to_int"].input[0] == "masked"
    assert types_of(tmp_path / "b.onnx")["ones"] == TensorProto.FLOAT16
    p, q = (both(tmp_path / name, {"x": x_of()}) for name in ("a.onnx", "b.onnx"))
    np.testing.assert_allclose(p[0], q[0], atol=0.05)
    assert (p[1] == q[1]).mean() > 0.99


@pytest.mark.parametrize("shortcut", ["conv", "pad"])
def test_pairs_below_opset_19_stay_in_float32_with_all_that_is_fused(
    resnet: Build, images: Any, tmp_path: Path, shortcut: str
) -> None:
    source = quantised(resnet(shortcut=shortcut), tmp_path / "q.onnx", {"image": images})
    done = fp16.cast(source, tmp_path / "b.onnx")
    sound(source, tmp_path / "b.onnx")
    assert rules_broken(tmp_path / "b.onnx") == []
    (a,), (b,) = run(source, {"image": images}), run(tmp_path / "b.onnx", {"image": images})
    np.testing.assert_array_equal(a, b)  # int8 weights are what QuantizeLinear makes, to the bit
    assert done["int8_weights"] == (9 if shortcut == "conv" else 8) and "Cast" not in ops(tmp_path / "b.onnx")
    assert set(types_of(tmp_path / "b.onnx").values()) >= {F, TensorProto.INT8}


def test_layers_that_are_not_quantised_are_cast_beside_pairs(mixed_cnn: Path, images: Any, tmp_path: Path) -> None:
    feeds = {"image": np.ascontiguousarray(images.transpose(0, 3, 1, 2))}
    source = quantised(mixed_cnn, tmp_path / "q.onnx", feeds, keep=["depthwise", "box"])
    done = fp16.cast(source, tmp_path / "b.onnx")
    sound(source, tmp_path / "b.onnx")
    types = types_of(tmp_path / "b.onnx")
    assert rules_broken(tmp_path / "b.onnx") == [] and done["casts"] > 0
    assert types["depthwise_out"] == TensorProto.FLOAT16 and types["stem_out"] == F and types["up_w_scale"] == F
    for a, b in zip(run(source, feeds), both(tmp_path / "b.onnx", feeds)):
        assert np.abs(a - b).max() < 0.03 * np.abs(a).max()


@opset_19
@pytest.mark.parametrize("keep", [(), ("b1_conv1",)])
def test_pairs_from_opset_19_have_16_bit_scales(
    resnet: Build, images: Any, tmp_path: Path, keep: Sequence[str]
) -> None:
    source = quantised(resnet(), tmp_path / "q.onnx", {"image": images}, opset=19)
    done = fp16.cast(source, tmp_path / "b.onnx", keep=keep)
    sound(source, tmp_path / "b.onnx")
    assert rules_broken(tmp_path / "b.onnx") == []
    model = onnx.load(str(tmp_path / "b.onnx"))
    graph, types = graphs.Graph(model), types_of(tmp_path / "b.onnx")
    for node in graph.nodes:
        if node.op_type == "Conv":
            assert {types[name] for name in node.input} == {F if node.name in keep else TensorProto.FLOAT16}
            assert all(graph.maker(name).op_type == "DequantizeLinear" for name in node.input[:2])
    assert ops(tmp_path / "b.onnx").count("Cast") == 2 + len(keep) and set(kept(done)) >= set(keep)
    (a,), (b,) = (reference(path, {"image": images[:12]}) for path in (source, tmp_path / "b.onnx"))
    assert b.dtype == np.float32 and np.abs(a - b).max() < 0.05 and np.abs(a - b).mean() < 0.005


@opset_19
def test_a_scale_that_would_lose_its_digits_keeps_its_layer(resnet: Build, images: Any, tmp_path: Path) -> None:
    source = quantised(resnet(), tmp_path / "q.onnx", {"image": images}, opset=19)
    model = onnx.load(str(source))
    (scale,) = [item for item in model.graph.initializer if item.name == "b2_relu1_out_scale"]
    scale.CopyFrom(tensor(scale.name, np.float32(3.3e-7)))
    onnx.save(model, str(source))
    done = fp16.cast(source, tmp_path / "b.onnx")
    sound(source, tmp_path / "b.onnx")
    types = types_of(tmp_path / "b.onnx")
    assert kept(done)["b2_conv2"] == "reads a float32 DequantizeLinear" and types["b2_relu1_out_DequantizeLinear"] == F
    assert types["b2_conv1_out"] == TensorProto.FLOAT16 and rules_broken(tmp_path / "b.onnx") == []
