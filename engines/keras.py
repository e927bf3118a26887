"""Keras models as originals: the files of Keras 2 and 3, loaded by the generation that wrote them.

A model runs as `predict` (what users call), `function` (a compiled `tf.function`) or `xla`.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np

from engines import kerasfile, scratch, tensorflowdevice, tensors, userfile
from engines.errors import IncompatibleError, ModelError, OptimizeError, UsageError
from engines.kerasgeneration import framework, generation, is_legacy, policy
from engines.spec import Feeds, Query, Runner, RunnerSpec, TensorSpec

_UNKNOWN = (
    r"Unknown (?:layer|object|initializer|regularizer|\w+ function): ['\"]?([\w.>]+)",
    r"Could not locate (?:class|function) '([\w.>]+)'",
    r"Could not (?:deserialize|interpret) [^'\"]*identifier: '?\"?([\w.>]+)",
)
"""How Keras 2 and 3 say that a class or function is not known."""

_LOW = ("float16", "bfloat16", "float64")


def policy_of(spec: RunnerSpec) -> str:
    """The global policy under which a loaded model must be traced and called: layers made inside `call` take it."""
    return "float32" if spec.policy == "float32" else kerasfile.read(spec.path, spec.kind).policy


@contextlib.contextmanager
def tracing(model: Any) -> Iterator[None]:
    """Trace or call a model from `load_model` in here: layers that its code makes on the fly get its policy."""
    import tensorflow as tf

    with policy(tf.keras, model._optimize_policy):
        yield


def load_model(spec: RunnerSpec) -> Any:
    """Load the Keras model, for inference only, with the variables byte for byte as in the file.

    The global dtype policy is as before afterwards, even where importing the user's file sets it. Trace and call the
    model inside `tracing(model)`; with `spec.policy == "float32"` every layer, nested ones too, computes in float32.

    Raises:
        ModelError: The file cannot be loaded, or holds a Lambda layer without permission.
        UsageError: It needs a custom object that was not named.
        IncompatibleError: The Keras generation that it needs is not here.
    """
    name = Path(spec.path).name
    try:
        record = kerasfile.read(spec.path, spec.kind)
    except ImportError as error:
        raise IncompatibleError(f"{name} is HDF5, and h5py is missing: {error}", "pip install h5py") from None
    names = [n.split(".")[-1] for n in userfile.split(spec.custom_objects)[1]] if spec.custom_objects else []
    kerasfile.check_safe(spec.path, record.config, names)
    keras = framework(record.generation, spec.path)
    wanted = "float32" if spec.policy == "float32" else record.policy
    with policy(keras):
        custom = userfile.load_names(spec.custom_objects) if spec.custom_objects else {}
        with policy(keras, wanted):
            model = _load(keras, spec, custom)
            if spec.policy == "float32":
                model = in_float32(keras, model, custom)
    model._optimize_policy = wanted
    return model


def _load(keras: Any, spec: RunnerSpec, custom: Dict[str, Any]) -> Any:
    options: Dict[str, Any] = {"custom_objects": custom, "compile": False, "safe_mode": "Lambda" not in custom}
    with _with_suffix(spec) as path:
        try:
            return keras.models.load_model(path, **options)
        except (OptimizeError, MemoryError):
            raise
        except Exception as error:  # Keras raises every class there is; each means that the file cannot be loaded
            raise _explained(spec, error) from error


@contextlib.contextmanager
def _with_suffix(spec: RunnerSpec) -> Iterator[str]:
    """A path whose suffix says what the file holds, since Keras looks at the suffix before the bytes."""
    suffix = ".keras" if spec.kind == "keras-zip" else ".h5"
    if spec.path.endswith(suffix):
        yield spec.path
        return
    with scratch.folder() as folder:
        link = os.path.join(folder, "model" + suffix)
        try:
            os.symlink(os.path.abspath(spec.path), link)
        except (OSError, NotImplementedError):
            shutil.copyfile(spec.path, link)
        yield link


def _explained(spec: RunnerSpec, error: Exception) -> OptimizeError:
    message = " ".join(str(error).split())
    for pattern in _UNKNOWN:
        found = re.search(pattern, message)
        if found:
            return kerasfile.needs_custom(spec.path, found.group(1))
    name = Path(spec.path).name
    if isinstance(error, TypeError) and spec.custom_objects:
        return UsageError(f"{name}: the custom objects do not fit the file: {message[:400]}", "check --custom-objects")
    return ModelError(f"{name} cannot be loaded: {type(error).__name__}: {message[:400]}")


def in_float32(keras: Any, model: Any, custom: Optional[Dict[str, Any]] = None) -> Any:
    """Make every layer of a model, nested ones too, compute in float32 with the variables it has.

    Where variables are not float32 themselves (a pure float16 or float64 policy), the model is made again from its
    configuration in float32 and its weights are cast.

    Raises:
        ModelError: A layer does not let its precision be set, or is quantised.
    """
    if any(_dtype(variable) in _LOW for variable in model.weights):
        weights = model.get_weights()
        config = _all_float32(model.get_config())
        with keras.utils.custom_object_scope(custom or {}):
            model = type(model).from_config(config)
        model.set_weights([w.astype(_dtype(v)) for w, v in zip(weights, model.weights)])
    for layer in _layers(model):
        if getattr(layer.dtype_policy, "quantization_mode", None):
            raise ModelError(f"the layer {layer.name!r} is quantised: a floating-point model is expected")
        if str(layer.compute_dtype) in _LOW:
            if is_legacy(keras):
                layer._set_dtype_policy(keras.mixed_precision.Policy("float32"))  # Keras 2 has no public way
            else:
                layer.dtype_policy = "float32"
        if str(layer.compute_dtype) in _LOW:
            raise ModelError(f"the layer {layer.name!r} does not leave {layer.compute_dtype}")
    return model


def _layers(model: Any) -> Iterator[Any]:
    """Every layer, the model itself first; also those that hide in lists and dictionaries of custom layers."""
    hidden = [m for m in getattr(model, "submodules", ()) if hasattr(m, "compute_dtype") and hasattr(m, "dtype_policy")]
    seen = set()
    for layer in [*model._flatten_layers(), *hidden]:
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer


def _dtype(value: Any) -> str:
    return str(getattr(value.dtype, "name", value.dtype))


def _all_float32(value: Any) -> Any:
    """A copy of a configuration in which every layer's dtype policy is float32."""
    if isinstance(value, dict):
        return {
            key: "float32" if key == "dtype" and _is_policy(item) else _all_float32(item) for key, item in value.items()
        }
    if isinstance(value, (list, tuple)):
        return type(value)(_all_float32(item) for item in value)
    return value


def _is_policy(value: Any) -> bool:
    if isinstance(value, dict):
        return value.get("class_name") in ("Policy", "DTypePolicy")
    return isinstance(value, str) and "float" in value


def limit_threads(threads: int) -> None:
    """Give TensorFlow that many CPU threads: only before it has run anything; 0 leaves its default.

    Raises:
        IncompatibleError: TensorFlow has started in this process with other threads.
    """
    if not threads:
        return
    import tensorflow as tf

    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    except RuntimeError:
        raise IncompatibleError(
            "TensorFlow has started in this process: its threads cannot be changed any more", "open it in a new process"
        ) from None


def boundary(model: Any, spec: RunnerSpec) -> Tuple[Tuple[TensorSpec, ...], Tuple[TensorSpec, ...]]:
    """Inputs and outputs of a loaded model, the batch free.

    Raises:
        UsageError: The model does not fix its input's size and no shape was given, or the one given does not fit.
    """
    inputs = _inputs(model, spec)
    kept = getattr(model, "_outputs_struct", None)  # Keras 3
    kept = getattr(model, "_nested_outputs", None) if kept is None else kept  # Keras 2
    free = any(None in tuple(t.shape)[1:] for _, t in tensors.flat(kept))
    if kept is None or free:
        with tracing(model):
            kept = model(feed(model, [np.zeros((1, *t.shape[1:]), t.dtype) for t in inputs], inputs), training=False)
    outputs = []
    for name, tensor in tensors.named(kept, getattr(model, "output_names", None) or ()).items():
        dtype = "float32" if spec.policy == "float32" and _dtype(tensor) in _LOW else _dtype(tensor)
        outputs.append(TensorSpec(name, (None, *tuple(tensor.shape)[1:]), dtype))
    return inputs, tuple(outputs)


def _inputs(model: Any, spec: RunnerSpec) -> Tuple[TensorSpec, ...]:
    name = Path(spec.path).name
    given = spec.input_shape
    known = list(getattr(model, "inputs", None) or [])
    if not known:
        if given is None:
            raise UsageError(f"{name} does not tell its input's shape", "give it with --input-shape, such as 32x32x3")
        return (TensorSpec("input", (None, *given)),)
    names = getattr(model, "input_names", None) or [tensor.name.split(":")[0] for tensor in known]
    found = []
    for label, tensor in zip(names, known):
        shape = tuple(tensor.shape)[1:]
        if given is not None and len(known) == 1:
            if len(given) != len(shape) or any(s not in (None, g) for s, g in zip(shape, given)):
                want = tensors.text(shape)
                raise UsageError(f"--input-shape {tensors.text(given)} does not fit {name}, which takes {want}")
            shape = given
        if None in shape:
            raise UsageError(
                f"{name} takes {tensors.text(shape)}: its size is free", "give it with --input-shape, such as 224x224x3"
            )
        found.append(TensorSpec(str(label), (None, *shape), _dtype(tensor)))
    return tuple(found)


def feed(model: Any, arrays: List[Any], inputs: Tuple[TensorSpec, ...]) -> Any:
    """The arrays or tensors in the structure that the model takes: alone, a list, or a dictionary."""
    kept = getattr(model, "_inputs_struct", None)
    kept = getattr(model, "_nested_inputs", None) if kept is None else kept
    if isinstance(kept, dict):
        by_name = {tensor.name: array for tensor, array in zip(inputs, arrays)}
        return {key: by_name[str(kept[key].name).split(":")[0]] for key in kept}
    return arrays[0] if len(arrays) == 1 else arrays


def load(spec: RunnerSpec) -> Runner:
    """Open a Keras file as a runner.

    Raises:
        ModelError, UsageError, IncompatibleError: See `load_model`, `boundary` and `limit_threads`.
    """
    framework(generation(spec.path, spec.kind), spec.path)
    limit_threads(spec.threads)
    return _KerasRunner(load_model(spec), spec)


class _KerasRunner(Runner):
    def __init__(self, model: Any, spec: RunnerSpec) -> None:
        self._model = model
        self._form = spec.form or "predict"
        self.parallel = self._form != "predict"  # it keeps what it is doing in the model
        self.device = tensorflowdevice.placed(model.weights, spec.options.get("device", "auto"))
        self.inputs, self.outputs = boundary(model, spec)
        layout = spec.layout or tensors.layout(self.inputs[0].shape, "NHWC")
        self.spec = spec.with_(inputs=self.inputs, outputs=self.outputs, layout=layout)
        self._functions: Dict[Tuple[Any, ...], Any] = {}

    def bind(self, feeds: Feeds) -> Query:
        arrays = tensors.checked(self.inputs, feeds)
        return self._predict(arrays, len(arrays[0])) if self._form == "predict" else self._function(arrays)

    def bind_all(self, feeds: Feeds, batch: int) -> Query:
        if self._form != "predict":
            return super().bind_all(feeds, batch)
        return self._predict(tensors.checked(self.inputs, feeds), batch)

    def _predict(self, arrays: List[np.ndarray[Any, Any]], size: int) -> Query:
        model = self._model
        given = feed(model, arrays, self.inputs)
        names = [tensor.name for tensor in self.outputs]
        key = (size, *(array.shape for array in arrays))

        def query() -> Dict[str, np.ndarray[Any, Any]]:
            return dict(zip(names, (v for _, v in tensors.flat(model.predict(given, batch_size=size, verbose=0)))))

        def first() -> Dict[str, np.ndarray[Any, Any]]:
            if key in self._functions:
                return query()
            with tracing(model):  # Keras traces in the first call of a shape
                result = query()
            self._functions[key] = True
            return result

        return first

    def _function(self, arrays: List[np.ndarray[Any, Any]]) -> Query:
        import tensorflow as tf

        concrete = self._concrete(arrays)
        names = [tensor.name for tensor in self.outputs]
        constant = tf.constant

        def query() -> Dict[str, np.ndarray[Any, Any]]:
            found = concrete(*[constant(array) for array in arrays])
            return {name: tensor.numpy() for name, tensor in zip(names, found)}

        return query

    def profile(self, feeds: Feeds, queries: int = 20) -> List[Dict[str, Any]]:
        """See `Runner.profile`: of the compiled function, which `predict` runs too."""
        from engines import tensorflowprofile

        arrays = tensors.checked(self.inputs, feeds)
        return tensorflowprofile.layers(self._function(arrays), self._concrete(arrays), queries, self.device)

    def _concrete(self, arrays: List[np.ndarray[Any, Any]]) -> Any:
        import tensorflow as tf

        key = tuple(array.shape for array in arrays)
        if key not in self._functions:
            self._functions[key] = self._traced([tf.TensorSpec(a.shape, a.dtype) for a in arrays])
        return self._functions[key]

    def _traced(self, signature: List[Any]) -> Any:
        import tensorflow as tf

        model, inputs = self._model, self.inputs

        def forward(*given: Any) -> List[Any]:
            return [tensor for _, tensor in tensors.flat(model(feed(model, list(given), inputs), training=False))]

        compiled = tf.function(forward, jit_compile=True if self._form == "xla" else None)
        with tracing(model):
            return compiled.get_concrete_function(*signature)

    def close(self) -> None:
        self._functions = {}
        self._model = None
