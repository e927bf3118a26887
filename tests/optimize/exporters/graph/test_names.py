"""Readable names, and how tensors were called before them."""

from __future__ import annotations

from pathlib import Path

import onnx
from onnx import TensorProto, helper

from optimize.exporters import export
from optimize.exporters.graph import names
from optimize.exporters.graph.net import Net


def test_results_are_named_after_their_nodes_and_the_old_names_told() -> None:
    nodes = [
        helper.make_node("Relu", ["x"], ["StatefulPartitionedCall/a/Relu:0"], "StatefulPartitionedCall/a/Relu__7"),
        helper.make_node("Abs", ["StatefulPartitionedCall/a/Relu:0"], ["moved_first"], "abs"),
        helper.make_node("Neg", ["moved_first"], ["conv_first"], "neg"),
        helper.make_node("Sigmoid", ["conv_first"], ["fresh"], "sigmoid"),
        helper.make_node("Exp", ["fresh"], ["y"], "exp"),
    ]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "xy"]
    graph = helper.make_graph(nodes, "g", ports[:1], ports[1:])
    net = Net(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    before = names.tidy(net, {"StatefulPartitionedCall/a/Relu:0", "moved", "conv_first", "y"})
    assert before == {"a/Relu": "StatefulPartitionedCall/a/Relu:0", "abs": "moved", "neg": "conv_first"}
    assert [node.output[0] for node in net.nodes] == ["a/Relu", "abs", "neg", "sigmoid", "y"]


def test_an_export_tells_them(tiny_onnx: Path, tmp_path: Path) -> None:
    spec = {"path": str(tiny_onnx), "kind": "onnx"}
    done = export(spec, str(tmp_path / "out.onnx"))
    made = {name for node in onnx.load(done["onnx"]).graph.node for name in node.output}
    assert done["names"]["relu1"] == "r1" and set(done["names"]) <= made


def test_no_name_of_a_node_holds_a_control_character() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["r"], "a\x1b[31mb"), helper.make_node("Neg", ["r"], ["y"], "\x00")]
    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "xy"]
    net = Net(helper.make_model(helper.make_graph(nodes, "g", ports[:1], ports[1:])))
    names.tidy(net)
    assert [node.name for node in net.nodes] == ["a [31mb", "Neg_1"] and net.nodes[1].input[0] == "a [31mb"
