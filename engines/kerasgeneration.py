"""Which of the two Keras generations a file needs, and how a process gets it and its global dtype policy."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from pathlib import Path
from typing import Any, Dict, Iterator

from engines import kerasfile, tensorflowdevice
from engines.errors import IncompatibleError
from engines.spec import RunnerSpec


def generation(path: str, kind: str) -> str:
    """`keras3` or `legacy`, from the file's own record.

    Raises:
        ModelError: The file is damaged, or holds weights without a model.
    """
    return kerasfile.read(path, kind).generation


def child_env(spec: RunnerSpec) -> Dict[str, str]:
    """The environment that a process needs, before TensorFlow is imported, to load this file.

    Without h5py (and so without TensorFlow) it is empty: the child will say what is missing.
    """
    try:
        legacy = generation(spec.path, spec.kind) == "legacy"
    except ImportError:
        return {}
    return {"TF_USE_LEGACY_KERAS": "1" if legacy else "0", "KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}


@contextlib.contextmanager
def _environment(changes: Dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def framework(wanted: str, path: str = "") -> Any:
    """`tf.keras` as the generation `wanted` (`keras3` or `legacy`), importing TensorFlow in the way it needs.

    Raises:
        IncompatibleError: It is not installed, or this process has loaded the other generation already.
    """
    name = Path(path).name or "the model"
    legacy = wanted == "legacy"
    changes = {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}
    if "tensorflow" not in sys.modules:
        changes["TF_USE_LEGACY_KERAS"] = "1" if legacy else "0"
    tensorflowdevice.share_memory()
    with _environment(changes):
        try:
            import tensorflow as tf
        except ImportError as error:
            raise IncompatibleError(f"{name} needs TensorFlow: {error}", "pip install tensorflow") from None
        try:
            keras = tf.keras
            version = version_of(keras)  # the lazy module resolves here, under the variable
        except (ImportError, AttributeError) as error:
            package = "tf-keras" if legacy else "keras"
            raise IncompatibleError(f"{name} needs {package}: {error}", f"pip install {package}") from None
    if legacy == version.startswith("3."):
        raise _other_generation(name, legacy, version, str(tf.__version__))
    return keras


def _other_generation(name: str, legacy: bool, version: str, tensorflow: str) -> IncompatibleError:
    if legacy:
        return IncompatibleError(
            f"{name} was written by Keras 2, and this process has Keras {version}",
            "pip install tf-keras, and set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported",
        )
    if tuple(int(n) for n in tensorflow.split(".")[:2]) >= (2, 16):
        return IncompatibleError(
            f"{name} was written by Keras 3, and this process has tf-keras {version}",
            "unset TF_USE_LEGACY_KERAS before TensorFlow is imported",
        )
    return IncompatibleError(
        f"{name} was written by Keras 3, and TensorFlow {tensorflow} has Keras {version}",
        "where it was made: keras.models.load_model(FILE).export(FOLDER), and use that SavedModel here",
    )


def version_of(keras: Any) -> str:
    """The version of the package behind a Keras module: `tf.keras` itself does not always tell."""
    package = keras.layers.Layer.__module__.split(".")[0]
    return str(importlib.import_module(package).__version__)


def is_legacy(keras: Any) -> bool:
    """Whether this Keras module is of the second generation."""
    return not version_of(keras).startswith("3.")


@contextlib.contextmanager
def policy(keras: Any, name: Any = None) -> Iterator[None]:
    """Set Keras' global dtype policy while it lasts (None: leave it), and restore it whatever happens inside."""
    scope = keras.mixed_precision if is_legacy(keras) else keras.config
    get = scope.global_policy if is_legacy(keras) else scope.dtype_policy
    put = scope.set_global_policy if is_legacy(keras) else scope.set_dtype_policy
    before = get()
    try:
        if name is not None:
            put(name)
        yield
    finally:
        put(before)
