"""Keras models, of Keras 3 and of the generation before it, as runners: `predict`, a compiled `tf.function`, XLA."""

from __future__ import annotations

import contextlib
import json
import os
import re
import sys
import tempfile
import zipfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Tuple

import numpy as np

from engines import userfile
from engines.errors import IncompatibleError, ModelError, UsageError
from engines.spec import Feeds, Query, Runner, RunnerSpec, TensorSpec, check_feeds

_INSTALL = "pip install 'optimize-trt[tensorflow]'"


def config(path: str, kind: str) -> Tuple[Dict[str, Any], str]:
    """The model's configuration and the version of Keras that wrote it, read without TensorFlow.

    Raises:
        ModelError: The file holds no model, or is damaged.
    """
    try:
        if kind == "keras-zip":
            with zipfile.ZipFile(path) as archive:
                about = json.loads(archive.read("metadata.json")) if "metadata.json" in archive.namelist() else {}
                return json.loads(archive.read("config.json")), str(about.get("keras_version", ""))
        import h5py

        with h5py.File(path, "r") as file:
            if "model_config" not in file.attrs:
                raise ModelError(f"{path} holds weights without a model", "save the whole model: model.save(FILE)")
            text, version = file.attrs["model_config"], file.attrs.get("keras_version", "")
            return json.loads(text), version.decode() if isinstance(version, bytes) else str(version)
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path}: damaged or not a Keras model ({error})") from None


def generation(path: str, kind: str) -> str:
    """`keras3` or `legacy`, from the file's own record of the Keras that wrote it."""
    return "keras3" if config(path, kind)[1].startswith("3") else "legacy"


def child_env(spec: RunnerSpec) -> Dict[str, str]:
    """What a child process that loads this file must have in its environment before TensorFlow is imported."""
    env = {"TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}
    if spec.kind.startswith("keras") and generation(spec.path, spec.kind) == "legacy":
        env["TF_USE_LEGACY_KERAS"] = "1"
    return env


def class_names(value: Any) -> Iterator[str]:
    """Every class that a configuration names."""
    if isinstance(value, dict):
        if isinstance(value.get("class_name"), str):
            yield value["class_name"]
        for inside in value.values():
            yield from class_names(inside)
    elif isinstance(value, list):
        for inside in value:
            yield from class_names(inside)


def mixed(spec: RunnerSpec) -> bool:
    """Whether the file keeps a 16-bit dtype policy, so that running it as saved differs from running it in float32."""
    return "mixed_" in json.dumps(config(spec.path, spec.kind)[0])


def keras_for(made_by: str) -> Any:
    """The Keras module of a generation, such that user code which imports `tensorflow.keras` gets the same one.

    Raises:
        IncompatibleError: It is not installed, or this process has loaded the other generation already.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    previous = os.environ.get("TF_USE_LEGACY_KERAS")
    if made_by == "legacy":
        os.environ["TF_USE_LEGACY_KERAS"] = "1"
    try:
        import tensorflow as tf

        keras = tf.keras
        version = str(getattr(keras, "__version__", ""))  # the lazy module resolves here, under the variable
    except ImportError as error:
        if "tf_keras" in str(error) or "tf-keras" in str(error):
            raise IncompatibleError("this file was written before Keras 3 and needs tf-keras", _INSTALL) from None
        raise IncompatibleError(f"TensorFlow is missing or does not load: {error}", _INSTALL) from None
    finally:
        if previous is None:
            os.environ.pop("TF_USE_LEGACY_KERAS", None)
        else:
            os.environ["TF_USE_LEGACY_KERAS"] = previous
    if made_by == "legacy" and version.startswith("3"):
        raise IncompatibleError(
            "this file was written before Keras 3, and this process has loaded Keras 3 already",
            "set TF_USE_LEGACY_KERAS=1 before TensorFlow is imported",
        )
    if made_by == "keras3" and not version.startswith("3"):
        raise IncompatibleError(f"this file was written by Keras 3, TensorFlow {tf.__version__} has Keras {version}")
    return keras


@contextlib.contextmanager
def global_policy(keras: Any, name: str = "") -> Iterator[None]:
    """Restore the global dtype policy afterwards; set it to `name` meanwhile where one is given."""
    before = keras.mixed_precision.global_policy()
    try:
        if name:
            keras.mixed_precision.set_global_policy(name)
        yield
    finally:
        keras.mixed_precision.set_global_policy(before)


def load_model(spec: RunnerSpec) -> Any:
    """Load a Keras file, of any suffix, with the Keras generation that wrote it.

    Args:
        spec: Of kind keras-zip or keras-hdf5. With `policy` float32 every layer computes in float32 (the variables are
            float32 under every policy); trace and call it under `tracing(spec, model)`.

    Returns:
        The model, not compiled. The process's global dtype policy is what it was before.

    Raises:
        UsageError: A custom class is not named.
        ModelError: Damaged, or a Lambda layer without permission.
        IncompatibleError: TensorFlow or tf-keras is missing.
    """
    settings, version = config(spec.path, spec.kind)
    keras = keras_for("keras3" if version.startswith("3") else "legacy")
    file = Path(spec.path)
    with global_policy(keras), tempfile.TemporaryDirectory(prefix="optimize-") as scratch:
        custom = userfile.load_names(spec.custom_objects) if spec.custom_objects else {}
        wanted = keras.mixed_precision.global_policy().name
        if "Lambda" in class_names(settings) and "Lambda" not in custom:
            raise ModelError(
                f"{file.name} has a Lambda layer: code inside the model, which is not run unasked",
                "--custom-objects FILE.py:Lambda, where FILE.py imports Lambda, says that you trust it",
            )
        link = Path(scratch, "model.keras" if spec.kind == "keras-zip" else "model.h5")  # Keras goes by the suffix
        link.symlink_to(file.resolve())
        options: Dict[str, Any] = {"compile": False}
        if custom:
            options["custom_objects"] = custom
        if spec.kind == "keras-zip" and "Lambda" in custom:
            options["safe_mode"] = False
        try:
            model = keras.models.load_model(str(link), **options)
        except Exception as error:
            raise _translated(file, error) from error
    model._optimize_policy = wanted if spec.policy == "saved" else "float32"
    if spec.policy == "float32":
        _to_float32(keras, model)
    return model


def _to_float32(keras: Any, model: Any) -> None:
    """Make every layer, nested ones too, compute in float32 with the variables that it has."""
    modern = keras.__version__.startswith("3")
    policy = keras.DTypePolicy("float32") if modern else keras.mixed_precision.Policy("float32")
    for layer in model._flatten_layers():
        if modern:
            layer.dtype_policy = policy
        else:
            layer._set_dtype_policy(policy)


@contextlib.contextmanager
def tracing(model: Any) -> Iterator[None]:
    """Call or trace a loaded model in here: layers that its code makes on the fly get the policy of the others."""
    keras = sys.modules[type(model).__module__.split(".")[0]] if False else _keras_of(model)
    with global_policy(keras, model._optimize_policy):
        yield


def _keras_of(model: Any) -> Any:
    import tensorflow as tf

    return tf.keras


_UNKNOWN = re.compile(r"(?:Unknown (?:layer|\w+): ['\"]?|Could not locate class ['\"])([A-Za-z_]\w*)")


def _translated(file: Path, error: Exception) -> Exception:
    text = " ".join(str(error).split())
    found = _UNKNOWN.search(text)
    if found:
        return UsageError(
            f"{file.name} needs the custom class {found.group(1)}", f"--custom-objects FILE.py:{found.group(1)}"
        )
    if "Lambda" in text or "safe_mode" in text:
        return ModelError(
            f"{file.name} has a Lambda layer: code inside the model, which is not run unasked",
            "--custom-objects FILE.py:Lambda, where FILE.py imports Lambda, says that you trust it",
        )
    return ModelError(f"{file.name} cannot be loaded: {text[:300]}")


def load(spec: RunnerSpec) -> Runner:
    """Open a Keras file as a runner."""
    return KerasRunner(spec)


class KerasRunner(Runner):
    """A Keras model in one of its forms: `predict`, `function` (a compiled tf.function) or `xla`."""

    def __init__(self, spec: RunnerSpec) -> None:
        if spec.threads:
            limit_threads(spec.threads)
        self.model = load_model(spec)
        self.form = spec.form or "predict"
        self.inputs, self.outputs = boundary(self.model, spec)
        shape = self.inputs[0].shape
        layout = "NHWC" if len(shape) == 4 and shape[3] in (1, 3, 4) else "NCHW" if len(shape) == 4 else ""
        self.spec = spec.with_(inputs=self.inputs, outputs=self.outputs, layout=spec.layout or layout)

    def bind(self, feeds: Feeds) -> Query:
        """See `Runner.bind`; the tf.function is traced for this batch here, not in the query."""
        arrays = check_feeds(self.inputs, feeds)
        if self.form == "predict":
            return self._bind_predict(arrays)
        import tensorflow as tf

        signature = [tf.TensorSpec(a.shape, a.dtype) for a in arrays]
        with tracing(self.model):
            function = tf.function(
                lambda *xs: flat_outputs(call(self.model, list(xs))),
                input_signature=signature,
                jit_compile=True if self.form == "xla" else None,
            ).get_concrete_function()
        names = [t.name for t in self.outputs]

        def query() -> Dict[str, Any]:
            return dict(zip(names, [y.numpy() for y in function(*[tf.constant(a) for a in arrays])]))

        query()
        return query

    def _bind_predict(self, arrays: List[Any]) -> Query:
        fed = arrays[0] if len(arrays) == 1 else arrays
        names, batch, model = [t.name for t in self.outputs], len(arrays[0]), self.model

        def query() -> Dict[str, Any]:
            return dict(zip(names, flat_outputs(model.predict(fed, batch_size=batch, verbose=0))))

        with tracing(model):
            query()
        return query

    def close(self) -> None:
        """Let go of the model."""
        del self.model


def limit_threads(threads: int) -> None:
    """Give TensorFlow that many CPU threads; only before it has run anything.

    Raises:
        IncompatibleError: TensorFlow is running already.
    """
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(1)
    except RuntimeError as error:
        raise IncompatibleError(f"TensorFlow's threads cannot be changed any more: {error}") from None


def call(model: Any, tensors: List[Any]) -> Any:
    """The model on a list of tensors, in inference mode."""
    return model(tensors[0] if len(tensors) == 1 else tensors, training=False)


def flat_outputs(value: Any) -> List[Any]:
    """A tensor, tuple, list or dict of tensors as a flat list; dicts in the order of their sorted keys."""
    if isinstance(value, dict):
        return [y for key in sorted(value) for y in flat_outputs(value[key])]
    if isinstance(value, (list, tuple)):
        return [y for item in value for y in flat_outputs(item)]
    return [value]


def flat_names(value: Any, names: List[str]) -> List[str]:
    """Names for what `flat_outputs` gives: dict keys where there are some, else the model's own, else output_N."""
    if isinstance(value, dict):
        return [str(key) for key in sorted(value)]
    flat = flat_outputs(value)
    if len(names) == len(flat) == len(set(names)):
        return list(names)
    return [f"output_{i}" for i in range(len(flat))]


def boundary(model: Any, spec: RunnerSpec) -> Tuple[Tuple[TensorSpec, ...], Tuple[TensorSpec, ...]]:
    """Inputs and outputs of a loaded model, batch free; outputs are float32 as a caller sees them.

    Raises:
        UsageError: The model has no fixed input, and no shape was given.
    """
    if getattr(model, "inputs", None):
        names = list(getattr(model, "input_names", None) or [t.name.split(":")[0] for t in model.inputs])
        dtypes = [np.dtype(getattr(t.dtype, "as_numpy_dtype", t.dtype)).name for t in model.inputs]
        shapes = [tuple(t.shape) for t in model.inputs]
        if spec.input_shape and len(shapes) == 1:
            shapes = [(None, *spec.input_shape)]
        inputs = tuple(
            TensorSpec(n, (None, *[int(d) if d is not None else None for d in s[1:]]), t)
            for n, s, t in zip(names, shapes, dtypes)
        )
    elif spec.input_shape:
        inputs = (TensorSpec("input", (None, *spec.input_shape)),)
    else:
        raise UsageError(f"{spec.path} does not say what it takes", "--input-shape HxWxC")
    if any(d is None for t in inputs for d in t.shape[1:]):
        raise UsageError(
            f"the input of {Path(spec.path).name} has free sizes", "--input-shape HxWxC, such as 224x224x3"
        )
    with tracing(model):
        result = call(model, [np.zeros((1, *[int(d or 1) for d in t.shape[1:]]), t.dtype) for t in inputs])
    outputs = tuple(
        TensorSpec(
            name,
            (None, *[int(d) for d in value.shape[1:]]),
            np.dtype(value.dtype.name).name if hasattr(value.dtype, "name") else str(value.dtype),
        )
        for name, value in zip(flat_names(result, list(getattr(model, "output_names", []) or [])), flat_outputs(result))
    )
    return inputs, outputs
