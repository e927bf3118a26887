"""A disk that does not take an engine: told by the system's own error, and nothing of the engine is left."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from engines import irfile
from engines.errors import BuildError
from engines.jsonfile import loads

pytest.importorskip("openvino")
from engines import openvino as backend

ROOT = Path(__file__).resolve().parents[2]

LIMITED = """
import json, resource, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from engines import openvino as backend
model, out, limit = sys.argv[2:]
resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), int(limit)))
try:
    backend.build(Path(model), Path(out), "fp32", [1])
except OSError as error:
    print(json.dumps([error.errno, error.filename]))
"""


@pytest.fixture(scope="module")
def heavy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A graph whose weights are most of it: its XML is 2 kB, its weights are 256 kB."""
    weights = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "product")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 256])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 256])],
        [numpy_helper.from_array(weights, "w")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = tmp_path_factory.mktemp("heavy") / "m.onnx"
    onnx.save(model, str(path))
    return path


@pytest.mark.skipif(os.name != "posix", reason="a limit on the size of files is needed")
@pytest.mark.parametrize("limit", [500, 100_000])
def test_a_limit_is_told_and_nothing_is_left(heavy: Path, tmp_path: Path, limit: int) -> None:
    """500 bytes hold no part of the graph; 100 000 hold the graph, and the weights are cut."""
    words = [sys.executable, "-c", LIMITED, str(ROOT), str(heavy), str(tmp_path), str(limit)]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert loads(done.stdout) == [errno.EFBIG, str(tmp_path)]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a file that takes nothing is needed")
@pytest.mark.parametrize("name", irfile.FILES)
def test_a_failure_that_the_disk_does_not_explain(heavy: Path, tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to("/dev/full")
    with pytest.raises(BuildError, match="the engine could not be written whole"):
        backend.build(heavy, tmp_path, "fp32", [1])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
@pytest.mark.parametrize("name", irfile.FILES)
def test_a_part_is_not_whole(graph_file: Callable[..., Path], tmp_path: Path, precision: str, name: str) -> None:
    backend.build(graph_file(quantize=precision == "int8"), tmp_path, precision, [1])
    xml, weights = (tmp_path / name for name in irfile.FILES)
    assert irfile.is_whole(xml, weights)
    content = (tmp_path / name).read_bytes()
    for size in (0, len(content) // 2, len(content) - (8 if name == "model.xml" else 1)):
        (tmp_path / name).write_bytes(content[:size])
        assert not irfile.is_whole(xml, weights)
    (tmp_path / name).unlink()
    assert not irfile.is_whole(xml, weights)


@pytest.mark.parametrize("where", ["input", "output"])
def test_a_name_that_xml_cannot_hold_is_told(tmp_path: Path, where: str) -> None:
    x, y = (f"a\x1b[31m{one}" if one == where else one for one in ("input", "output"))
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", 3]) for name in (x, y)]
    graph = helper.make_graph([helper.make_node("Relu", [x], [y])], "g", ports[:1], ports[1:])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(model, str(tmp_path / "m.onnx"))
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(BuildError, match=r"'a\\x1b\[31m.*holds a control character") as caught:
        backend.build(tmp_path / "m.onnx", out, "fp32", [1])
    assert "rename" in caught.value.hint and list(out.iterdir()) == []
