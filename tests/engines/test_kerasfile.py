"""A Keras file's own record is read without Keras, and what would run code is refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from engines import kerasfile
from engines.errors import ModelError, UsageError


def archive(path: Path, config, version="3.4.1", **members: str) -> str:
    with zipfile.ZipFile(path, "w") as out:
        out.writestr("metadata.json", json.dumps({"keras_version": version}))
        if config is not None:
            out.writestr("config.json", config if isinstance(config, str) else json.dumps(config))
        for name, text in members.items():
            out.writestr(name, text)
    return str(path)


def layer(kind, module="keras.layers", **config):
    return {"module": module, "class_name": kind, "config": config, "registered_name": None if module else kind}


def model(*layers):
    return {"module": "keras", "class_name": "Sequential", "config": {"layers": list(layers)}}


@pytest.mark.parametrize(
    ("version", "made"), [("3.4.1", "keras3"), ("2.15.0", "legacy"), ("", "legacy"), ("10.0", "keras3")]
)
def test_the_generation_is_that_of_the_file(tmp_path, version, made):
    assert kerasfile.read(archive(tmp_path / "m.zip", model(), version), "keras-zip").generation == made


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float32", "float32"], "float32"),
        (["mixed_float16", "mixed_float16", "float32", "float32", "float32"], "mixed_float16"),
        ([{"class_name": "Policy", "config": {"name": "mixed_bfloat16"}}, "float32"], "mixed_bfloat16"),
        (["int32", "uint8"], "float32"),
        ([], "float32"),
    ],
)
def test_the_policy_is_the_one_that_layers_name(tmp_path, dtypes, expected):
    config = model(*(layer("Dense", dtype=dtype) for dtype in dtypes))
    assert kerasfile.read(archive(tmp_path / "m.zip", config), "keras-zip").policy == expected


@pytest.mark.parametrize("config", [None, "{", "[1]", '"text"'])
def test_archives_without_a_model_are_damaged(tmp_path, config):
    with pytest.raises(ModelError, match=r"m\.zip"):
        kerasfile.read(archive(tmp_path / "m.zip", config), "keras-zip")


def test_truncated_archives_are_damaged(tmp_path):
    path = Path(archive(tmp_path / "m.zip", model(layer("Dense"))))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(ModelError, match="damaged"):
        kerasfile.read(str(path), "keras-zip")


@pytest.mark.parametrize(
    ("attributes", "said"),
    [({}, "without a Keras model"), ({"layer_names": ["a"]}, "weights only"), ({"model_config": "{"}, "damaged")],
)
def test_hdf5_without_a_model(tmp_path, attributes, said):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "m.h5", "w") as file:
        file.attrs.update(attributes)
    with pytest.raises(ModelError, match=said):
        kerasfile.read(str(tmp_path / "m.h5"), "keras-hdf5")


def test_truncated_hdf5(tmp_path):
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "m.h5"
    with h5py.File(path, "w") as file:
        file["weights"] = list(range(10000))
    path.write_bytes(path.read_bytes()[:3000])
    with pytest.raises(ModelError, match="damaged HDF5"):
        kerasfile.read(str(path), "keras-hdf5")


LAMBDAS = [
    {"name": "l", "function": ["4wEAAA==", None, None], "function_type": "lambda"},
    {"name": "l", "function": {"class_name": "__lambda__", "config": {"code": "4wEAAA=="}}},
    {"name": "l", "function": "relu", "function_type": "function", "mask": ["4wEAAA==", None], "mask_type": "lambda"},
]


@pytest.mark.parametrize("config", LAMBDAS)
def test_lambda_layers_need_permission(config):
    made = model(layer("Lambda", **config))
    with pytest.raises(ModelError, match="'l' may hold code") as caught:
        kerasfile.check_safe("m.keras", made)
    assert "--custom-objects FILE.py:Lambda" in caught.value.hint
    kerasfile.check_safe("m.keras", made, ["Lambda"])


@pytest.mark.parametrize("function", ["io.write_file", "py_function", "compat.v1.py_func", "raw_ops.WriteFile", ""])
def test_functions_that_do_more_than_compute_are_refused(function):
    with pytest.raises(ModelError, match="no mathematics"):
        kerasfile.check_safe("m.h5", model(layer("TFOpLambda", name="t", function=function)))


@pytest.mark.parametrize("function", ["math.add", "__operators__.getitem", "nn.relu", "compat.v1.transpose", "concat"])
def test_functions_that_compute_pass(function):
    kerasfile.check_safe("m.h5", model(layer("TFOpLambda", name="t", function=function)))


@pytest.mark.parametrize(
    ("item", "name"),
    [
        (layer("ResidualBlock", "train"), "ResidualBlock"),
        (layer("ResidualBlock", None), "ResidualBlock"),
        (layer("system", "os"), "system"),
        (layer("eval", "builtins"), "eval"),
        (layer("Popen", "keras_like.subprocess"), "Popen"),
        ({"module": "builtins", "class_name": "function", "config": "swish2", "registered_name": "swish2"}, "swish2"),
    ],
)
def test_what_is_not_keras_must_be_named(item, name):
    made = model(layer("Dense", units=3, activation="relu"), item)
    with pytest.raises(UsageError, match=f"needs the custom object '{name}'") as caught:
        kerasfile.check_safe("folder/m.keras", made)
    assert f"--custom-objects FILE.py:{name}" in caught.value.hint
    kerasfile.check_safe("m.keras", made, [name])


def test_registered_names_match_without_their_package():
    item = {"module": "train", "class_name": "Block", "config": {}, "registered_name": "Mine>Block"}
    kerasfile.check_safe("m.keras", model(item), ["Block"])


def test_keras_own_functions_pass():
    item = {"module": "builtins", "class_name": "function", "config": "relu", "registered_name": "function"}
    kerasfile.check_safe("m.keras", model(layer("Activation", activation=item), layer("Conv2D", "keras.src.layers")))
