"""What a Keras file says of itself (version, configuration, dtype policy), read without Keras or TensorFlow."""

from __future__ import annotations

import json
import zipfile
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, Iterator, Sequence, Set, Tuple

from engines.errors import ModelError, UsageError

LIMIT = 64 * 1024 * 1024
"""Largest configuration read, bytes: that of a ResNet-152 has 0.5 MB; a zip bomb must not fill the memory."""

_KERAS_MODULES = ("keras", "tf_keras", "tensorflow.keras", "tensorflow.python.keras", "builtins")


@dataclass(frozen=True)
class Record:
    """The record of a Keras file.

    Attributes:
        version: Keras' version that wrote it, such as `2.12.0`; empty where the file does not say.
        config: The model's configuration.
        policy: The dtype policy under which its layers run, other than float32 if any layer's is.
    """

    version: str
    config: Dict[str, Any]
    policy: str

    @property
    def generation(self) -> str:
        """`keras3`, or `legacy` for Keras 1 and 2 (`tf.keras` before TensorFlow 2.16, `tf-keras` since)."""
        return "keras3" if self.version.split(".")[0].isdigit() and int(self.version.split(".")[0]) >= 3 else "legacy"


def read(path: str, kind: str) -> Record:
    """Read the record of a `keras-zip` or `keras-hdf5` file.

    Raises:
        ModelError: The file is damaged, or holds weights without a model.
        ImportError: HDF5, and h5py is not installed.
    """
    version, config = _from_zip(path) if kind == "keras-zip" else _from_hdf5(path)
    return Record(version, config, _policy(config))


def _from_zip(path: str) -> Tuple[str, Dict[str, Any]]:
    try:
        with zipfile.ZipFile(path) as archive:
            config = json.loads(_member(archive, path, "config.json"))
            names = set(archive.namelist())
            about = json.loads(_member(archive, path, "metadata.json")) if "metadata.json" in names else {}
    except (zipfile.BadZipFile, ValueError, EOFError, NotImplementedError, RuntimeError, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ModelError(f"{path}: a damaged Keras archive ({error})") from None
    if not isinstance(config, dict) or not isinstance(about, dict):
        raise ModelError(f"{path}: its config.json holds no model")
    return str(about.get("keras_version", "")), config


def _member(archive: zipfile.ZipFile, path: str, name: str) -> bytes:
    if name not in archive.namelist():
        raise ModelError(
            f"{path}: a zip archive without {name}, not a Keras model", "save it again with model.save(FILE.keras)"
        )
    if archive.getinfo(name).file_size > LIMIT:
        raise ModelError(f"{path}: its {name} is larger than {LIMIT >> 20} MiB")
    return archive.read(name)


def _from_hdf5(path: str) -> Tuple[str, Dict[str, Any]]:
    import h5py

    try:
        with h5py.File(path, "r") as file:
            version, config = _text(file.attrs.get("keras_version")), _text(file.attrs.get("model_config"))
            weights = "layer_names" in file.attrs or "layers" in file or "_layer_checkpoint_dependencies" in file
            parsed = json.loads(config) if config else None
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise ModelError(f"{path}: a damaged HDF5 file ({error})", "copy it again: it may be truncated") from None
    if parsed is None:
        if weights:
            raise ModelError(
                f"{path}: holds weights only, without the model", "save the whole model with model.save(FILE.keras)"
            )
        raise ModelError(f"{path}: an HDF5 file without a Keras model", "save it with model.save(FILE.keras)")
    if not isinstance(parsed, dict):
        raise ModelError(f"{path}: its model_config holds no model")
    return version, parsed


def _text(value: Any) -> str:
    if value is None:
        return ""
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)


def objects(value: Any) -> Iterator[Dict[str, Any]]:
    """Every serialised object in a configuration, however deep: dictionaries with a `class_name`."""
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, dict):
            if isinstance(item.get("class_name"), str):
                yield item
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _policy(config: Dict[str, Any]) -> str:
    """The most frequent policy other than float32 that layers name; float32 where none does."""
    seen: Counter[str] = Counter()
    for item in objects(config):
        inner = item.get("config")
        dtype = inner.get("dtype") if isinstance(inner, dict) else None
        if isinstance(dtype, dict):
            named = dtype.get("config")
            dtype = named.get("name") if isinstance(named, dict) else None
        if isinstance(dtype, str):
            seen[dtype] += 1
    unusual = [
        (n, name) for name, n in seen.items() if name.startswith("mixed_") or name in ("float16", "bfloat16", "float64")
    ]
    return max(unusual)[1] if unusual else "float32"


def check_safe(path: str, config: Dict[str, Any], custom: Sequence[str] = ()) -> None:
    """Refuse what would run code that the user did not name.

    Args:
        path: For the messages.
        config: The model's configuration.
        custom: The names of `--custom-objects`; a `Lambda` among it gives the permission to run Lambda layers.

    Raises:
        ModelError: A Lambda layer holds code and there is no permission.
        UsageError: The file names a class or function outside Keras that was not given.
    """
    given = set(custom)
    for item in objects(config):
        name = str(item["class_name"])
        inner = item.get("config")
        if name == "Lambda" and "Lambda" not in given:
            layer = inner.get("name", "lambda") if isinstance(inner, dict) else "lambda"
            raise ModelError(
                f"{path}: the Lambda layer {layer!r} may hold code that would run on loading",
                "if you trust the file, name the class: --custom-objects FILE.py:Lambda "
                "(FILE.py: from tensorflow.keras.layers import Lambda); better, save the model without Lambda layers",
            )
        if name in _OP_LAYERS and isinstance(inner, dict) and not _is_mathematics(str(inner.get("function", ""))):
            raise ModelError(
                f"{path}: a layer calls the TensorFlow function {inner.get('function')!r}, which is no mathematics",
                "save the model without it",
            )
        if "module" in item:
            _check_module(path, item, given)


_OP_LAYERS = ("TFOpLambda", "SlicingOpLambda")
"""Layers that Keras 2 makes of a TensorFlow function called on a tensor; the file names any function of TensorFlow."""

_MATHEMATICS = ("math.", "nn.", "linalg.", "image.", "__operators__.")
_SHAPING = {
    "cast",
    "concat",
    "convert_to_tensor",
    "expand_dims",
    "fill",
    "gather",
    "identity",
    "ones",
    "ones_like",
    "pad",
    "range",
    "reshape",
    "reverse",
    "shape",
    "slice",
    "split",
    "squeeze",
    "stack",
    "strided_slice",
    "tile",
    "transpose",
    "unstack",
    "where",
    "zeros",
    "zeros_like",
    "clip_by_value",
}


def _is_mathematics(function: str) -> bool:
    """Whether a TensorFlow function only computes: it neither reads nor writes files, nor calls Python."""
    plain = function[len("compat.v1.") :] if function.startswith("compat.v1.") else function
    return plain.startswith(_MATHEMATICS) or plain in _SHAPING


def _check_module(path: str, item: Dict[str, Any], given: Set[str]) -> None:
    module, name = item.get("module"), str(item["class_name"])
    own = isinstance(module, str) and any(module == m or module.startswith(m + ".") for m in _KERAS_MODULES)
    registered = item.get("registered_name")
    if name == "function":
        name = str(item.get("config"))
        own = own and (registered in (None, "function") or name not in (registered,))
    elif module == "builtins":
        own = name in ("function", "slice", "__tuple__", "__ellipsis__", "__numpy__", "__tensor__")
    if own or name in given or str(registered).split(">")[-1] in given:
        return
    raise needs_custom(path, name)


def needs_custom(path: str, name: str) -> UsageError:
    """The error for a class or function that the user must name."""
    short = name.split(">")[-1]
    return UsageError(
        f"{Path(path).name} needs the custom object {name!r}",
        f"name the file that defines it: --custom-objects FILE.py:{short}",
    )
