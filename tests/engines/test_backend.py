"""Both CPU backends against the graph's meaning, and how they refuse what they cannot do."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import engines
from engines import backend, driver
from engines.errors import BuildError, IncompatibleError, ModelError, UsageError
from engines.spec import RunnerSpec, quiet

CLOSE = {"fp32": 1e-5, "fp16": 0.03, "int8": 0.2}


def spec_of(name: str, folder: Path, built: Any) -> RunnerSpec:
    return RunnerSpec(str(folder / built["files"][0]), "onnx", backend=name, options=built["options"])


def images(batch: int, layout: str = "NCHW", seed: int = 0) -> np.ndarray:
    shape = (batch, 3, 16, 16) if layout == "NCHW" else (batch, 16, 16, 3)
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


def save(path: Path, model: Any) -> Path:
    onnx.save(model, str(path))
    return path


def test_unknown_backend_is_a_usage_error():
    for ask in (backend.unavailable, backend.get, backend.choose):
        with pytest.raises(UsageError, match=r"no backend 'openvno'.*openvino"):
            ask("openvno")


GPU = driver.Gpu("Orin", "8.7", True, "11.4")


@pytest.mark.parametrize(
    ("gpu", "board", "version", "package", "why", "hint"),
    [
        ((None, "no driver"), "", ("", "not here"), None, "no driver", "leave --backend out"),
        ((None, "no driver"), "35.4.1", ("", "not here"), None, "no driver", "nvidia-l4t-cuda"),
        ((None, "cuInit gives 100"), "35.4.1", ("", "not here"), None, "cuInit", "usermod -aG video"),
        ((GPU, ""), "35.4.1", ("", "not here"), None, "JetPack's", "--system-site-packages"),
        ((GPU, ""), "32.7.4", ("", "not here"), None, "Python 3.6", "optimize doctor"),
        ((GPU, ""), "35.4.1", ("", "does not load: libnvinfer"), True, "does not load", "optimize doctor"),
        ((GPU, ""), "", ("", "not installed"), None, "not installed", "optimize-trt[tensorrt]"),
        ((GPU, ""), "35.4.1", ("8.5.2.2", ""), None, "pycuda is not installed", "install-jetson.sh"),
        ((GPU, ""), "", ("10.3.0", ""), None, "pycuda is not installed", "pip install pycuda"),
        ((GPU, ""), "", ("10.3.0", ""), True, "", ""),
    ],
)
def test_tensorrt_says_why_it_is_not_there_and_what_helps_on_this_machine(
    monkeypatch: pytest.MonkeyPatch, gpu: Any, board: str, version: Any, package: Any, why: str, hint: str
):
    monkeypatch.setattr(backend.driver, "ask", lambda: gpu)
    monkeypatch.setattr(backend, "l4t", lambda: board)
    monkeypatch.setattr(backend, "in_container", lambda: False)
    monkeypatch.setattr(backend, "tensorrt_version", lambda: version)
    monkeypatch.setattr(backend.importlib.util, "find_spec", lambda name: package)
    assert why in backend.unavailable("tensorrt")
    assert bool(backend.unavailable("tensorrt")) is bool(why)
    if why:
        with pytest.raises(IncompatibleError, match="tensorrt: ") as error:
            backend.choose("tensorrt")
        assert hint in error.value.hint


def test_a_gpu_without_its_driver_gets_the_command_for_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend.driver, "ask", lambda: (None, "no driver"))
    for inside, on_the_bus, hint in (
        (True, True, "--gpus all"),
        (False, True, "ubuntu-drivers install"),
        (False, False, "leave --backend out"),
    ):
        monkeypatch.setattr(backend, "in_container", lambda inside=inside: inside)
        monkeypatch.setattr(backend.driver, "on_the_bus", lambda there=on_the_bus: there)
        assert hint in backend.hint("tensorrt")
    monkeypatch.setattr(backend, "in_container", lambda: True)
    monkeypatch.setattr(backend, "l4t", lambda: "35.4.1")
    assert backend.hint("tensorrt") == "docker run --runtime nvidia ..."


def test_an_onnx_file_is_run_by_what_needs_no_engine(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "unavailable", lambda name: "")
    monkeypatch.setattr(backend, "import_error", lambda package: "libnvinfer.so.8 is missing")
    assert backend.choose("auto") == "openvino"
    with pytest.raises(IncompatibleError, match=r"does not load: libnvinfer\.so\.8"):
        backend.choose("tensorrt")
    monkeypatch.setattr(backend, "import_error", lambda package: "")
    assert backend.choose("auto") == "tensorrt"
    assert backend.choose("auto", backend.RUN_ONNX) == "openvino"
    with pytest.raises(UsageError, match="does not run an ONNX file"):
        backend.choose("tensorrt", backend.RUN_ONNX)


def test_a_missing_package_gives_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "backend_version", lambda name: "")
    with pytest.raises(IncompatibleError, match="openvino: the Python package openvino is not installed") as error:
        backend.get("openvino")
    assert error.value.hint == "pip install openvino"
    with pytest.raises(IncompatibleError, match="no backend is installed") as error:
        backend.choose("auto")
    assert "pip install onnxruntime" in error.value.hint


def test_auto_takes_the_first_that_works(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "unavailable", lambda name: "" if name == "onnxruntime" else "not here")
    assert backend.choose("auto") == "onnxruntime"


def test_each_module_keeps_the_contract(backend_name: str):
    module = backend.get(backend_name)
    assert backend_name == module.NAME
    assert module.unavailable() == ""
    assert module.HINT.startswith("pip install ")


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_an_engine_does_what_the_graph_does(
    precision: str, backend_name: str, engine: Callable[..., Any], reference: Callable[..., np.ndarray]
):
    folder, built = engine(precision)
    json.dumps(built, allow_nan=False)
    assert sorted(p.name for p in folder.iterdir()) == sorted(built["files"])
    assert sum(built["achieved"].values()) == len(built["layers"]) > 3
    with engines.open(spec_of(backend_name, folder, built)) as runner:
        for batch in (1, 4, 3):
            x = images(batch, seed=batch)
            scores = runner.infer({"image": x})["scores"]
            np.testing.assert_allclose(scores, reference(x), atol=CLOSE[precision])
        assert runner.achieved() == built["achieved"]


def test_fp32_is_true_fp32(engine: Callable[..., Any]):
    _, built = engine("fp32")
    assert set(built["achieved"]) == {"f32"}
    assert built["flags"] == []


def test_the_boundary_keeps_its_layout_and_names(
    backend_name: str, engine: Callable[..., Any], reference: Callable[..., np.ndarray]
):
    folder, built = engine("fp32", "NHWC")
    x = images(2, "NHWC")
    with engines.open(spec_of(backend_name, folder, built)) as runner:
        assert [t.name for t in runner.inputs] == ["image"]
        assert [t.name for t in runner.outputs] == ["scores"]
        assert runner.inputs[0].shape == (None, 16, 16, 3)
        assert runner.spec.layout == "NHWC"
        np.testing.assert_allclose(runner.infer({"image": x})["scores"], reference(x, "NHWC"), atol=1e-5)


def test_a_query_reads_the_arrays_it_was_bound_to(
    backend_name: str, engine: Callable[..., Any], reference: Callable[..., np.ndarray]
):
    folder, built = engine("fp32")
    runner = engines.open(spec_of(backend_name, folder, built))
    first, second = images(4, seed=1), images(1, seed=2)
    query, other = runner.bind({"image": first}), runner.bind({"image": second})
    scores = query()["scores"]
    np.testing.assert_allclose(scores, reference(first), atol=1e-5)
    first[:] = images(4, seed=3)
    np.testing.assert_allclose(other()["scores"], reference(second), atol=1e-5)
    again = query()["scores"]
    np.testing.assert_allclose(again, reference(first), atol=1e-5)
    assert again is scores, "the output array is bound too"
    runner.close()


def test_a_query_keeps_what_it_needs(backend_name: str, engine: Callable[..., Any], reference: Callable[..., Any]):
    folder, built = engine("fp32")
    runner = engines.open(spec_of(backend_name, folder, built))
    query = runner.bind({"image": images(1, seed=4).copy()})
    for batch in range(1, 9):  # more shapes than are kept compiled
        runner.infer({"image": images(batch)})
    np.testing.assert_allclose(query()["scores"], reference(images(1, seed=4)), atol=1e-5)


def test_threads_are_asked_for_and_recorded(backend_name: str, engine: Callable[..., Any]):
    folder, built = engine("fp32", threads=1)
    assert built["options"]["threads"] == 1
    with engines.open(spec_of(backend_name, folder, built)) as runner:
        assert runner.infer({"image": images(1)})["scores"].shape == (1, 10)


def test_wrong_feeds_are_refused_by_name(backend_name: str, engine: Callable[..., Any]):
    folder, built = engine("fp32")
    runner = engines.open(spec_of(backend_name, folder, built))
    bad = {
        "takes image; picture": {"picture": images(1)},
        "3x16x16.*8x8": {"image": images(1)[:, :, :8, :8].copy()},
        "float32; float64": {"image": images(1).astype(np.float64)},
        "C-contiguous": {"image": images(2).transpose(0, 1, 3, 2)},
        "at least 1": {"image": images(1)[:0]},
    }
    for message, feeds in bad.items():
        with pytest.raises(UsageError, match=message):
            runner.bind(feeds)


@pytest.mark.parametrize("domain", ["", "com.example"])
def test_an_unknown_operator_is_named_with_its_node(
    domain: str, backend_name: str, graph_file: Callable[..., Path], tmp_path: Path
):
    path = graph_file(operator="Swizzle", domain=domain)
    with pytest.raises(BuildError, match=r"does not run the operator Swizzle.* in node relu2"):
        backend.get(backend_name).build(path, tmp_path, "fp32", [1], {}, quiet)
    with pytest.raises(ModelError, match=r"does not run the operator Swizzle.* in node relu2"):
        engines.open(RunnerSpec(str(path), "onnx", backend=backend_name))


def test_another_fixed_batch_is_refused(backend_name: str, graph_file: Callable[..., Path], tmp_path: Path):
    path = graph_file(batch=2)
    with pytest.raises(BuildError, match="fixed batch 2, batch 64 is asked") as error:
        backend.get(backend_name).build(path, tmp_path, "fp32", [2, 64], {}, quiet)
    assert "--batch" in error.value.hint
    built = backend.get(backend_name).build(path, tmp_path, "fp32", [2], {}, quiet)
    with engines.open(spec_of(backend_name, tmp_path, built)) as runner:
        assert runner.infer({"image": images(2)})["scores"].shape == (2, 10)
        with pytest.raises(UsageError, match="2x3x16x16; 1x3x16x16"):
            runner.bind({"image": images(1)})
        assert runner.achieved() == built["achieved"]


@pytest.mark.parametrize("batches", [[], [0], [4, -1]])
def test_a_batch_below_one_is_refused(batches: Any, backend_name: str, graph_file: Callable[..., Path], tmp_path: Path):
    with pytest.raises(UsageError, match="at least 1"):
        backend.get(backend_name).build(graph_file(), tmp_path, "fp32", batches, {}, quiet)


def test_int8_of_a_float_graph_is_refused(backend_name: str, graph_file: Callable[..., Path], tmp_path: Path):
    with pytest.raises(BuildError, match="no QuantizeLinear"):
        backend.get(backend_name).build(graph_file(), tmp_path, "int8", [1], {}, quiet)
    with pytest.raises(UsageError, match="unknown precision 'fp8'"):
        backend.get(backend_name).build(graph_file(), tmp_path, "fp8", [1], {}, quiet)


@pytest.mark.parametrize(
    "content", [b"", b"not a graph", b"\x89HDF\r\n\x1a\n" * 40, None], ids=["empty", "text", "hdf5", "cut"]
)
def test_a_damaged_file_is_refused(content: Any, backend_name: str, graph_file: Callable[..., Path], tmp_path: Path):
    path = tmp_path / "broken.onnx"
    path.write_bytes(graph_file().read_bytes()[:3000] if content is None else content)
    with pytest.raises(ModelError, match=r"broken.onnx: not a whole ONNX file"):
        backend.get(backend_name).build(path, tmp_path, "fp32", [1], {}, quiet)
    with pytest.raises(ModelError, match=r"broken.onnx: not a whole ONNX file"):
        engines.open(RunnerSpec(str(path), "onnx", backend=backend_name))


def test_a_missing_file_is_a_missing_file(backend_name: str, tmp_path: Path):
    with pytest.raises(FileNotFoundError):
        engines.open(RunnerSpec(str(tmp_path / "none.onnx"), "onnx", backend=backend_name))


def test_external_weights_move_into_the_engine(
    backend_name: str, graph_file: Callable[..., Path], tmp_path: Path, reference: Callable[..., np.ndarray]
):
    source = tmp_path / "source"
    source.mkdir()
    model = onnx.load(str(graph_file()))
    onnx.save(model, str(source / "m.onnx"), save_as_external_data=True, location="m.data", size_threshold=0)
    out = tmp_path / "out"
    out.mkdir()
    built = backend.get(backend_name).build(source / "m.onnx", out, "fp32", [1], {}, quiet)
    (source / "m.data").unlink()
    with engines.open(spec_of(backend_name, out, built)) as runner:
        np.testing.assert_allclose(runner.infer({"image": images(1)})["scores"], reference(images(1)), atol=1e-5)
    with pytest.raises(ModelError, match="not a whole ONNX file"):
        backend.get(backend_name).build(source / "m.onnx", out, "fp32", [1], {}, quiet)


def test_outputs_whose_size_the_content_decides(backend_name: str, tmp_path: Path):
    """NonZero: each query may give another number of columns."""
    graph = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["where"], "nonzero"), helper.make_node("Relu", ["x"], ["y"], "relu")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", 4])],
        [
            helper.make_tensor_value_info("where", TensorProto.INT64, [2, None]),
            helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", 4]),
        ],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = save(tmp_path / "m.onnx", model)
    x = np.array([[0, 1, 0, 2]], np.float32)
    with engines.open(RunnerSpec(str(path), "onnx", backend=backend_name)) as runner:
        query = runner.bind({"x": x})
        assert query()["where"].tolist() == [[0, 0], [1, 3]]
        x[:] = [[5, 5, 5, 0]]
        found = query()
        assert found["where"].tolist() == [[0, 0, 0], [0, 1, 2]]
        assert found["y"].tolist() == [[5, 5, 5, 0]]


def test_two_inputs_share_one_batch(backend_name: str, tmp_path: Path):
    graph = helper.make_graph(
        [helper.make_node("Add", ["a", "b"], ["sum"], "add"), helper.make_node("Mul", ["a", "b"], ["product"], "mul")],
        "g",
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in "ab"],
        [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 3]) for n in ("sum", "product")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    model.ir_version = 8
    path = save(tmp_path / "m.onnx", model)
    a, b = np.ones((2, 3), np.float32), np.full((2, 3), 4, np.float32)
    with engines.open(RunnerSpec(str(path), "onnx", backend=backend_name)) as runner:
        found = runner.infer({"b": b, "a": a})
        assert found["sum"].tolist() == [[5] * 3] * 2
        assert found["product"].tolist() == [[4] * 3] * 2
        with pytest.raises(UsageError, match="different batch"):
            runner.bind({"a": a, "b": b[:1]})
