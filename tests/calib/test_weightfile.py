"""Graphs with their weights in a second file: the same model, whoever reads it, in less memory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from calib import graph, ranges, weightfile

ROOT = Path(__file__).resolve().parents[2]


def split(source: Path, folder: Path) -> Path:
    weightfile.write(graph.load(source), folder / "split.onnx")
    return folder / "split.onnx"


def test_the_graph_and_every_weight_come_back(resnet: Callable[..., Path], tmp_path: Path) -> None:
    whole, path = graph.load(resnet()), split(resnet(), tmp_path)
    assert path.stat().st_size + (tmp_path / "split.onnx.weights").stat().st_size > 0.9 * resnet().stat().st_size
    lean = graph.load(path)
    assert list(lean.graph.node) == list(whole.graph.node)
    assert sum(len(item.raw_data) for item in lean.graph.initializer) < 20_000
    first, second = graph.Graph(whole), graph.Graph(lean)
    for name in first.constants:
        a, b = first.array(name), second.array(name)
        assert a is not None and b is not None and a.dtype == b.dtype and np.array_equal(a, b)
    weightfile.fill(lean)
    assert lean == whole


def test_a_split_graph_is_split_again(resnet: Callable[..., Path], tmp_path: Path) -> None:
    path = split(resnet(), tmp_path)
    (tmp_path / "more").mkdir()
    again = split(path, tmp_path / "more")
    path.unlink()
    (tmp_path / "split.onnx.weights").unlink()  # the second depends on nothing of the first
    model = graph.load(again)
    weightfile.fill(model)
    assert model == graph.load(resnet())


def test_onnxruntime_runs_it(resnet: Callable[..., Path], images: Any, tmp_path: Path) -> None:
    results = [
        ranges.session(path).run(None, {"image": images[:4]})[0] for path in (resnet(), split(resnet(), tmp_path))
    ]
    assert np.array_equal(*results)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8])
def test_types(dtype: Any, tmp_path: Path) -> None:
    value = np.arange(2048).astype(dtype).reshape(4, -1)
    node = helper.make_node("Identity", ["w"], ["y"], "n")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    made = helper.make_graph([node], "g", [], [helper.make_tensor_value_info("y", kind, [4, 512])])
    made.initializer.append(numpy_helper.from_array(value, "w"))
    made.initializer.append(helper.make_tensor("listed", onnx.TensorProto.FLOAT, [512], [1.5] * 512))  # no raw bytes
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]), str(tmp_path / "a.onnx"))
    found = graph.Graph(graph.load(split(tmp_path / "a.onnx", tmp_path)))
    read = found.array("w")
    assert read is not None and read.dtype == dtype and np.array_equal(read, value)
    assert np.array_equal(np.asarray(found.array("listed")), np.full(512, 1.5, np.float32))


def test_external_data_of_others_is_read_as_it_was(resnet: Callable[..., Path], tmp_path: Path) -> None:
    onnx.save(onnx.load(str(resnet())), str(tmp_path / "m.onnx"), save_as_external_data=True, location="m.onnx.weights")
    first, second = graph.Graph(graph.load(resnet())), graph.Graph(graph.load(tmp_path / "m.onnx"))
    assert all(item.raw_data for item in second.constants.values())
    assert all(np.array_equal(np.asarray(first.array(n)), np.asarray(second.array(n))) for n in first.constants)


_LOAD = """
import sys
sys.path[0] = sys.argv[1]
from calib import graph
def peak(): return int(next(l for l in open("/proc/self/status") if l.startswith("VmHWM")).split()[1])
import onnx, numpy
before = peak()
graph.Graph(graph.load(sys.argv[2])).array("w0")
print(peak() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_loading_takes_less_than_one_copy(tmp_path: Path) -> None:
    nodes = [helper.make_node("Add", ["x" if i == 0 else f"y{i - 1}", f"w{i}"], [f"y{i}"]) for i in range(8)]
    value = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1 << 20])
    made = helper.make_graph(nodes, "g", [value], [helper.make_tensor_value_info("y7", onnx.TensorProto.FLOAT, None)])
    for i in range(8):
        made.initializer.append(numpy_helper.from_array(np.full(1 << 20, i, np.float32), f"w{i}"))
    whole = tmp_path / "whole.onnx"
    onnx.save(helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)]), str(whole))
    kept = []
    for path in (whole, split(whole, tmp_path)):
        words = [sys.executable, "-c", _LOAD, str(ROOT), str(path)]
        done = subprocess.run(words, check=True, capture_output=True, text=True)
        kept.append(int(done.stdout) / (32 << 10))
    assert kept[0] > 1.5 and kept[1] < 0.6, kept  # of the 32 MiB that the weights are
