"""Files are recognised by what they hold, and each bad input has its line and its exit code."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from engines.errors import ModelError, OptimizeError, UsageError
from optimize.sources import parse_shape, recognise
from optimize.zoo import FACTORY_FILE

KERAS = {"module": "keras", "class_name": "Sequential", "config": {"layers": []}}


def keras_zip(path: Path, config=KERAS, name="config.json") -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("metadata.json", json.dumps({"keras_version": "3.4.1"}))
        archive.writestr(name, json.dumps(config))
    return path


def torch_zip(path: Path, *members: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for member in members:
            archive.writestr(f"m/{member}", b"\x80\x02}q\x00." if member.endswith(".pkl") else b"3")
    return path


def hdf5(path: Path, **attributes: str) -> Path:
    h5py = pytest.importorskip("h5py")
    with h5py.File(path, "w") as file:
        file.attrs.update(attributes)
    return path


def test_kinds_are_told_by_content_whatever_the_suffix(tmp_path, tiny_onnx):
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved" / "saved_model.pb").write_bytes(b"\x08\x01")
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "manifest.json").write_text("{}")
    (tmp_path / "graph.keras").write_bytes(tiny_onnx.read_bytes())
    cases = {
        keras_zip(tmp_path / "a.h5"): "keras-zip",
        hdf5(tmp_path / "b.keras", model_config="{}", keras_version="2.12.0"): "keras-hdf5",
        torch_zip(tmp_path / "c.onnx", "code/net.py", "constants.pkl", "data.pkl"): "torchscript",
        torch_zip(tmp_path / "d.pt", "archive_format", "models/model.json"): "torch-pt2",
        tmp_path / "saved": "savedmodel",
        tmp_path / "bundle": "bundle",
        tmp_path / "graph.keras": "onnx",
    }
    for path, kind in cases.items():
        spec = recognise(str(path))
        assert (spec.kind, spec.path) == (kind, str(path))
        assert spec.task == "classify"


def test_onnx_files_tell_their_inputs_and_outputs(tiny_onnx):
    spec = recognise(str(tiny_onnx))
    assert [(t.name, t.shape, t.dtype) for t in spec.inputs] == [("image", (None, 3, 32, 32), "float32")]
    assert [(t.name, t.shape) for t in spec.outputs] == [("scores", (None, 10))]
    assert spec.layout == "NCHW"


def test_a_link_stays_where_it_is(tmp_path):
    keras_zip(tmp_path / "real.keras")
    (tmp_path / "here").mkdir()
    os.symlink(tmp_path / "real.keras", tmp_path / "here" / "link.keras")
    assert recognise(str(tmp_path / "here" / "link.keras")).path == str(tmp_path / "here" / "link.keras")


MAGIC = {
    "empty": (b"", "empty"),
    "text": (b"hello, this is a letter", "nothing that is known"),
    "zeros": (b"\0" * 100, "begins with zeros"),
    "tflite": (b"\x1c\0\0\0TFL3" + b"\0" * 40, "TensorFlow Lite"),
    "plan": (b"ptrt" + b"\1" * 40, "TensorRT engine"),
    "image": (b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "an image"),
    "page": (b"<!doctype HTML><html>", "web page"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"),
    "pickle": (b"\x80\x04\x95\x10\0\0\0\0\0\0\0}.", "bare pickle"),
    "tensors": ((20).to_bytes(8, "little") + b'{"a":{"dtype":"F32"}}' + b"\0" * 40, "safetensors"),
    "hdf5": (b"\x89HDF\r\n\x1a\n" + b"\0" * 8, "damaged HDF5"),
    "zip": (b"PK\x03\x04" + b"\0" * 100, "truncated or damaged"),
    "onnx": (b"\x08\x08\x12\x04abcd", "not a readable ONNX"),
    "onnx cut": (b"\x08\x08\x3a\xff\xff\x7fabc", "not a readable ONNX"),
}


@pytest.mark.parametrize("case", sorted(MAGIC))
def test_files_that_cannot_be_built_are_model_errors(tmp_path, case):
    data, said = MAGIC[case]
    if case == "hdf5":
        pytest.importorskip("h5py")
    path = tmp_path / "model.keras"
    path.write_bytes(data)
    with pytest.raises(ModelError, match=said) as caught:
        recognise(str(path))
    assert caught.value.exit_code == 1
    assert caught.value.hint
    assert "\n" not in caught.value.message


def test_archives_and_folders_without_a_model(tmp_path):
    with pytest.raises(ModelError, match=r"no config\.json"):
        recognise(str(keras_zip(tmp_path / "a.keras", name="model.weights.h5")))
    with pytest.raises(ModelError, match="npz"):
        recognise(str(keras_zip(tmp_path / "b.npz", name="x.npy")))
    with pytest.raises(ModelError, match="not a model"):
        recognise(str(keras_zip(tmp_path / "c.zip", name="readme")))
    (tmp_path / "empty").mkdir()
    with pytest.raises(ModelError, match="empty folder"):
        recognise(str(tmp_path / "empty"))
    with pytest.raises(ModelError, match=r"a\.keras|holds no SavedModel") as caught:
        recognise(str(tmp_path))
    assert "a.keras" in caught.value.hint
    (tmp_path / "model.optimized" / "fp16").mkdir(parents=True)
    (tmp_path / "model.optimized" / "fp16" / "manifest.json").write_text("{}")
    with pytest.raises(UsageError, match="holds bundles"):
        recognise(str(tmp_path / "model.optimized"))


def test_truncated_archives_of_every_length(tmp_path):
    whole = keras_zip(tmp_path / "m.keras").read_bytes()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.keras").write_bytes(whole[:length])
        with pytest.raises(OptimizeError):
            recognise(str(tmp_path / "cut.keras"))


def test_a_missing_file_is_a_usage_error(tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        recognise(str(tmp_path / "none.keras"))


def test_custom_layers_must_be_named_before_anything_loads(tmp_path, monkeypatch):
    layer = {"module": "train", "class_name": "Block", "config": {}, "registered_name": "Block"}
    path = keras_zip(tmp_path / "m.keras", {**KERAS, "config": {"layers": [layer]}})
    with pytest.raises(UsageError, match="'Block'") as caught:
        recognise(str(path))
    assert "--custom-objects FILE.py:Block" in caught.value.hint
    (tmp_path / "train.py").write_text("raise SystemExit('must not run here')\n")
    monkeypatch.chdir(tmp_path)
    assert recognise(str(path), custom_objects="train.py:Block").custom_objects == f"{tmp_path / 'train.py'}:Block"
    with pytest.raises(UsageError, match="no such file"):
        recognise(str(path), custom_objects="other.py:Block")
    with pytest.raises(UsageError, match=r"FILE\.py:NAME"):
        recognise(str(path), custom_objects="train.py")


def test_a_state_dict_needs_its_factory(tmp_path, monkeypatch):
    path = torch_zip(tmp_path / "m.pt", "data.pkl", "version")
    with pytest.raises(UsageError) as caught:
        recognise(str(path))
    assert "--factory" in caught.value.hint
    (tmp_path / "net.py").write_text("")
    monkeypatch.chdir(tmp_path)
    assert recognise(str(path), factory="net.py:Net").factory == f"{tmp_path / 'net.py'}:Net"
    assert recognise(str(path), factory="resnet18_cifar").factory == f"{FACTORY_FILE}:resnet18_cifar"
    detector = Path(FACTORY_FILE).with_name("torch_ssd.py")
    assert recognise(str(path), factory="ssd_resnet18").factory == f"{detector}:ssd_resnet18"
    assert recognise(str(path), factory="regnet_y_400mf").factory == "regnet_y_400mf"


def test_options_of_another_framework_are_refused(tmp_path, tiny_onnx):
    with pytest.raises(UsageError, match="--factory is for"):
        recognise(str(keras_zip(tmp_path / "m.keras")), factory="resnet18")
    with pytest.raises(UsageError, match="--custom-objects is for"):
        recognise(str(tiny_onnx), custom_objects="train.py:Block")
    with pytest.raises(UsageError, match="--task"):
        recognise(str(tiny_onnx), task="draw")
    with pytest.raises(UsageError, match="does not fit"):
        recognise(str(tiny_onnx), input_shape="32x32x3")


def test_preprocessing_is_kept_as_json(tiny_onnx):
    assert recognise(str(tiny_onnx), preprocess="imagenet").preprocess["text"] == "imagenet"
    assert recognise(str(tiny_onnx)).preprocess is None
    with pytest.raises(UsageError):
        recognise(str(tiny_onnx), preprocess="nonsense")


@pytest.mark.parametrize(("text", "shape"), [("3x32x32", (3, 32, 32)), ("224,224,3", (224, 224, 3)), ((8,), (8,))])
def test_shapes(text, shape):
    assert parse_shape(text) == shape


@pytest.mark.parametrize("text", ["", "3x", "x3", "axb", "3x0x3", "-1x3", "3.5x2", ()])
def test_bad_shapes(text):
    with pytest.raises(UsageError, match="not a shape"):
        parse_shape(text)


def test_the_users_real_files(shared):
    models = shared / "models"
    keras = models / "resnet34_cifar10_bs64_epochs10.keras"
    assert recognise(str(keras), custom_objects=f"{models / 'train.py'}:ResidualBlock").kind == "keras-hdf5"
    state = recognise(str(models / "resnet20_cifar10.pt"), factory=f"{models / 'resnet_cifar.py'}:resnet20")
    assert state.kind == "torch-state-dict"


def test_recognising_imports_no_framework(tmp_path):
    path = keras_zip(tmp_path / "m.keras")
    code = (
        "import sys; from optimize.sources import recognise; recognise(sys.argv[1]);"
        "print(sorted(set(sys.modules) & {'tensorflow','torch','keras','tf_keras','onnx','onnxruntime','openvino'}))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
    assert importlib.util.find_spec("optimize.sources") is not None


@pytest.mark.skipif(os.name != "posix" or sys.platform == "darwin", reason="file names are Unicode here")
def test_a_path_that_is_not_utf8_is_said_to_be_the_trouble(tiny_onnx, tmp_path):
    path = os.path.join(os.fsencode(tmp_path), b"m\xff.onnx")
    with open(path, "wb") as file:
        file.write(tiny_onnx.read_bytes())
    with pytest.raises(UsageError, match="not UTF-8"):
        recognise(os.fsdecode(path))
