"""From files to clean FP32 graphs: every kind of source, its options, and what it refuses."""

from __future__ import annotations

import json
import os
import zipfile
from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from engines import child
from engines.errors import ModelError, UsageError
from engines.spec import RunnerSpec
from optimize import exporters
from optimize.exporters import check


def counts(result: Dict[str, Any]) -> Dict[str, int]:
    return dict(result["graph"]["nodes"])


def exported(spec: RunnerSpec, folder: Path, env: Any = None, **options: Any) -> Dict[str, Any]:
    """Export and check in children, as the pipeline does."""
    result = child.call(
        "optimize.exporters:export", {"spec": spec.to_json(), "out": str(folder / "m.onnx"), **options}, env=env
    )
    given = {"spec": result["spec"], "onnx": result["onnx"], "n": 8}
    result["check"] = child.call("optimize.exporters.check:against_source", given, env=env)
    assert result["check"]["passed"], result["check"]
    assert result["graph"]["casts"] == 0 and result["graph"]["transposes_inside"] == 0
    return result


@pytest.mark.slow
def test_the_user_s_file_is_true_fp32(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")
    from engines.kerasgeneration import child_env

    models = shared.resolve() / "models"
    spec = RunnerSpec(
        str(models / "resnet34_cifar10_bs64_epochs10.keras"),
        "keras-hdf5",
        custom_objects=f"{models / 'train.py'}:ResidualBlock",
        preprocess={"text": "unit"},
    )
    result = exported(spec, tmp_path, child_env(spec))
    expected = {"Conv": 36, "Relu": 33, "Add": 16, "Transpose": 1, "MaxPool": 1}  # the last maps are 1 x 1
    assert counts(result) == {**expected, "Flatten": 1, "Gemm": 1, "Softmax": 1}
    assert result["boundary"]["layout"] == "NHWC" and result["opset"] == 17
    assert result["check"]["max_abs"] < 1e-4 and result["check"]["top1_agreement"] == 1
    model = onnx.load(result["onnx"])
    assert all(i.data_type in (TensorProto.FLOAT, TensorProto.INT64) for i in model.graph.initializer)
    assert Path(result["onnx"]).stat().st_size < 41e6  # of 85: kernels of the last maps are cut
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


_MAKE_KERAS = """
import sys, numpy as np, tensorflow as tf
L, out = tf.keras.layers, sys.argv[1]
x = i = L.Input((16, 16, 3), name="photo")
x = L.Rescaling(1 / 127.5, offset=-1)(x)
x = L.Conv2D(8, 3, strides=2, use_bias=False)(L.ZeroPadding2D(1)(x))
x = L.ReLU()(L.BatchNormalization(epsilon=1e-3)(x))
x = L.MaxPooling2D(3, 2)(L.ZeroPadding2D(((0, 1), (0, 1)))(x))
g = L.Conv2D(8, 1, activation="sigmoid")(L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(x)))
x = L.Multiply()([x, g])
y = L.BatchNormalization()(L.Conv2D(8, 3, padding="same")(x))
x = L.ReLU()(L.Add()([x, y]))
x = L.BatchNormalization()(L.Conv2D(8, 3, strides=4, padding="same", use_bias=False)(x))
x = L.ReLU()(x)
side = L.Conv2D(2, 1, name="mask")(x)
a = L.Dense(5, activation="softmax", name="classes")(L.Flatten()(x))
model = tf.keras.Model(i, [a, side])
random = np.random.default_rng(0)
for layer in model.layers:
    if isinstance(layer, L.BatchNormalization):
        layer.set_weights([random.uniform(0.5, 1.5, w.shape) for w in layer.get_weights()])
model.save(out + "/m.keras")
model.save(out + "/m.h5")
(model.export if hasattr(model, "export") else model.save)(out + "/saved")
"""


@pytest.fixture(scope="module")
def keras_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("tensorflow")
    pytest.importorskip("tf2onnx")
    import subprocess
    import sys

    folder = tmp_path_factory.mktemp("keras")
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    environment.pop("TF_USE_LEGACY_KERAS", None)
    subprocess.run([sys.executable, "-c", _MAKE_KERAS, str(folder)], check=True, env=environment, capture_output=True)
    return folder


def kind_of(path: Path) -> str:
    """TensorFlow 2.12 writes HDF5 under the name .keras."""
    return "savedmodel" if path.is_dir() else "keras-zip" if zipfile.is_zipfile(path) else "keras-hdf5"


@pytest.mark.parametrize("name", ["m.keras", "m.h5", "saved"])
def test_keras_files_and_a_savedmodel(name: str, keras_files: Path, tmp_path: Path) -> None:
    kind = kind_of(keras_files / name)
    spec = RunnerSpec(str(keras_files / name), kind, preprocess={"text": "raw", "scale": 1.0})
    env = None
    if kind != "savedmodel":
        from engines.kerasgeneration import child_env

        env = child_env(spec)
    result = exported(spec, tmp_path, env)
    found = counts(result)
    assert found["Conv"] == 5 and found["Transpose"] == 2 and result["graph"]["batchnorm"] == 0  # in, and the mask out
    assert not {"BatchNormalization", "Reshape", "Pad", "Identity"} & set(found)
    assert len(result["check"]["per_output"]) == 2


@pytest.mark.journey
@pytest.mark.parametrize("batch", ["dynamic", 2])
def test_channels_first_at_the_boundary(batch: Any, keras_files: Path, tmp_path: Path) -> None:
    from engines.kerasgeneration import child_env

    spec = RunnerSpec(str(keras_files / "m.keras"), kind_of(keras_files / "m.keras"))
    result = exported(spec, tmp_path, child_env(spec), layout="NCHW", batch=batch, opset=13)
    size = None if batch == "dynamic" else batch
    assert result["boundary"]["inputs"][0] == {"name": "photo", "shape": [size, 3, 16, 16], "dtype": "float32"}
    assert result["spec"]["inputs"][0]["shape"] == [None, 16, 16, 3] and result["opset"] == 13


_NETS = """
import torch
from torch import nn
from torch.nn import functional as F

class Nested(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.bn = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.pre, self.b = nn.BatchNorm2d(8), nn.Conv2d(8, 8, 1)
        self.drop, self.head = nn.Dropout(), nn.Linear(8, 5)

    def forward(self, image):
        x = F.relu(self.bn(self.a(F.pad(image, (1, 1, 1, 1)))))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2))
        y = self.b(self.pre(x))
        y = y.permute(0, 2, 3, 1).permute(0, 3, 1, 2)
        pooled = torch.flatten(F.adaptive_avg_pool2d(y, 1), 1)
        return {"out": self.head(self.drop(pooled)), "aux": (short, y.mean((2, 3)))}

def nested():
    torch.manual_seed(0)
    net = Nested()
    for bn in (net.bn, net.pre):
        bn.running_mean.normal_(); bn.running_var.uniform_(0.5, 2)
    return net
"""


@pytest.fixture(scope="module")
def torch_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch = pytest.importorskip("torch")
    from engines.userfile import load_names

    folder = tmp_path_factory.mktemp("torch")
    (folder / "net.py").write_text(_NETS)
    net = load_names(f"{folder / 'net.py'}:nested")["nested"]().eval()
    torch.save(net.state_dict(), str(folder / "state.pt"))
    example = (torch.zeros(2, 3, 8, 8),)

    class Plain(torch.nn.Module):  # type: ignore[misc]
        """TorchScript's dictionaries hold one type only."""

        def __init__(self) -> None:
            super().__init__()
            self.net = net

        def forward(self, image: Any) -> Any:
            found = self.net(image)
            return found["out"], found["aux"]

    torch.jit.trace(Plain(), example, check_trace=False).save(str(folder / "script.pt"))
    if hasattr(torch, "export"):
        free = {"image": {0: torch.export.Dim("batch")}}
        torch.export.save(torch.export.export(net, example, dynamic_shapes=free), str(folder / "free.pt2"))
        torch.export.save(torch.export.export(net, example), str(folder / "fixed.pt2"))
    return folder


@pytest.mark.parametrize(
    ("name", "kind"), [("state.pt", "torch-state-dict"), ("script.pt", "torchscript"), ("free.pt2", "torch-pt2")]
)
def test_pytorch_with_nested_outputs(name: str, kind: str, torch_files: Path, tmp_path: Path) -> None:
    if not (torch_files / name).exists():
        pytest.skip("this PyTorch has no torch.export")
    factory = f"{torch_files / 'net.py'}:nested" if kind == "torch-state-dict" else None
    shape = None if kind == "torch-pt2" else (3, 8, 8)
    spec = RunnerSpec(str(torch_files / name), kind, factory=factory, input_shape=shape, task="tensors")
    result = exported(spec, tmp_path)
    plain = ["output_0", "output_1.0", "output_1.1"]
    names = plain if kind == "torchscript" else ["out", "aux.0", "aux.1"]
    assert [t["name"] for t in result["boundary"]["outputs"]] == names
    assert result["boundary"]["layout"] == "NCHW" and len(result["check"]["per_output"]) == 3
    found = counts(result)
    assert found == {"Conv": 2, "Relu": 1, "Slice": 1, "Pad": 1, "GlobalAveragePool": 2, "Flatten": 2, "Gemm": 1}


def test_an_exported_program_with_a_fixed_batch(torch_files: Path, tmp_path: Path) -> None:
    if not (torch_files / "fixed.pt2").exists():
        pytest.skip("this PyTorch has no torch.export")
    spec = RunnerSpec(str(torch_files / "fixed.pt2"), "torch-pt2", task="tensors")
    with pytest.raises(ModelError, match=r"fixed\.pt2 was exported for batch 2, a free one was asked for"):
        exporters.export(spec.to_json(), str(tmp_path / "m.onnx"))
    assert not list(tmp_path.iterdir())
    assert exported(spec, tmp_path, batch=2)["boundary"]["inputs"][0]["shape"] == [2, 3, 8, 8]


def test_the_published_pytorch_model(shared: Path, tmp_path: Path) -> None:
    pytest.importorskip("torch")
    models = shared.resolve() / "models"
    spec = RunnerSpec(
        str(models / "resnet20_cifar10.pt"),
        "torch-state-dict",
        factory=f"{models / 'resnet_cifar.py'}:resnet20",
        input_shape=(3, 32, 32),
    )
    expected = {"Conv": 19, "Relu": 19, "Add": 9, "Slice": 2, "Pad": 2, "GlobalAveragePool": 1, "Flatten": 1, "Gemm": 1}
    assert counts(exported(spec, tmp_path)) == expected


def test_an_onnx_file_with_external_data(sketch: Any, tmp_path: Path) -> None:
    s = sketch()
    model = s.model(["N", 3, 8, 8], {s.bn(s.conv("x", 3, 40), 40): None}, opset=11)
    onnx.save(model, str(tmp_path / "in.onnx"), save_as_external_data=True, location="weights.bin", size_threshold=64)
    spec = RunnerSpec(str(tmp_path / "in.onnx"), "onnx", task="tensors")
    result = exported(spec, tmp_path)
    assert counts(result) == {"Conv": 1} and result["opset"] == 17  # 11 is too old for per-channel scales
    (tmp_path / "weights.bin").unlink()
    with pytest.raises(ModelError, match=r"in\.onnx"):
        exporters.export(spec.to_json(), str(tmp_path / "again.onnx"))


def test_a_model_that_is_no_classifier_is_told_before_it_is_checked_as_one(sketch: Any, tmp_path: Path) -> None:
    s = sketch()
    onnx.save(s.model(["N", 3, 8, 8], {s.conv("x", 3, 4): None}), str(tmp_path / "in.onnx"))
    spec = RunnerSpec(str(tmp_path / "in.onnx"), "onnx")
    with pytest.raises(UsageError, match=r"in\.onnx is no classifier: it gives \S+ of \?x4x8x8") as caught:
        exporters.export(spec.to_json(), str(tmp_path / "m.onnx"))
    assert caught.value.hint == "--task tensors" and not (tmp_path / "m.onnx").exists()
    assert Path(exporters.export(spec.with_(task="tensors").to_json(), str(tmp_path / "m.onnx"))["onnx"]).is_file()


def test_an_onnx_file_keeps_its_opset_in_range(sketch: Any, tmp_path: Path) -> None:
    s = sketch()
    onnx.save(s.model(["N", 3, 8, 8], {s.conv("x", 3, 4): None}, opset=14), str(tmp_path / "in.onnx"))
    spec = RunnerSpec(str(tmp_path / "in.onnx"), "onnx", task="tensors")
    assert exported(spec, tmp_path, opset=17)["opset"] == 14


def test_operators_outside_the_standard(sketch: Any, tmp_path: Path) -> None:
    for domain, op in (("com.example", "Swizzle"), ("", "Swizzle")):
        s = sketch()
        s.nodes.append(helper.make_node(op, ["x"], ["y"], name="odd", domain=domain))
        graph = helper.make_graph(
            s.nodes,
            "net",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["N", 3])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["N", 3])],
        )
        imports = [helper.make_opsetid("", 17), helper.make_opsetid("com.example", 1)]
        onnx.save(helper.make_model(graph, opset_imports=imports), str(tmp_path / "odd.onnx"))
        with pytest.raises(ModelError, match="Swizzle at node 'odd'"):
            exporters.export(RunnerSpec(str(tmp_path / "odd.onnx"), "onnx").to_json(), str(tmp_path / "m.onnx"))
    assert not (tmp_path / "m.onnx").exists()


def test_a_fixed_batch_and_bad_files(sketch: Any, tmp_path: Path) -> None:
    s = sketch()
    onnx.save(s.model([8, 3], {s.node("Relu", "x"): None}), str(tmp_path / "eight.onnx"))
    spec = RunnerSpec(str(tmp_path / "eight.onnx"), "onnx").to_json()
    with pytest.raises(ModelError, match=r"eight\.onnx: the input 'x' is fixed to batch 8"):
        exporters.export(spec, str(tmp_path / "m.onnx"))
    assert exporters.export(spec, str(tmp_path / "m.onnx"), batch=8)["boundary"]["inputs"][0]["shape"] == (8, 3)
    for content in (b"", b"not a graph", (tmp_path / "eight.onnx").read_bytes()[:20]):
        (tmp_path / "bad.onnx").write_bytes(content)
        with pytest.raises(ModelError, match=r"bad\.onnx"):
            exporters.export(RunnerSpec(str(tmp_path / "bad.onnx"), "onnx").to_json(), str(tmp_path / "n.onnx"))
    assert not (tmp_path / "n.onnx").exists()


@pytest.mark.parametrize("options", [{"opset": 12}, {"opset": 18}, {"batch": 0}, {"batch": "many"}])
def test_options_out_of_range(options: Any, tmp_path: Path) -> None:
    with pytest.raises(UsageError):
        exporters.export(RunnerSpec("m.onnx", "onnx").to_json(), str(tmp_path / "m.onnx"), **options)


def test_the_result_is_plain_json(sketch: Any, tmp_path: Path) -> None:
    s = sketch()
    onnx.save(s.model(["N", 3], {s.node("Relu", "x"): None}), str(tmp_path / "in.onnx"))
    spec = RunnerSpec(str(tmp_path / "in.onnx"), "onnx", task="tensors")
    result = exporters.export(spec.to_json(), str(tmp_path / "m.onnx"))
    json.dumps(result, allow_nan=False)
    outcome = check.against_source(result["spec"], result["onnx"], n=3)
    json.dumps(outcome, allow_nan=False)
    assert outcome["passed"] and outcome["data"] == "seeded" and outcome["n"] == 3
    assert np.isclose(outcome["cosine"], 1)
