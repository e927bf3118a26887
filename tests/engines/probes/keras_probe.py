"""Run in a child process of one Keras generation: make models, load them in every way, and tell what came out."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

import engines
from engines import keras as keras_files
from engines import kerasgeneration, userfile
from engines.errors import OptimizeError
from engines.spec import RunnerSpec

TRAIN = """
import tensorflow as tf
from tensorflow.keras import layers
try:
    tf.keras.mixed_precision.set_global_policy("mixed_float16")
except AttributeError:
    tf.keras.config.set_dtype_policy("mixed_float16")
class Block(tf.keras.layers.Layer):
    def __init__(self, filters, **options):
        super().__init__(**options)
        self.filters = filters
        self.conv, self.norm = layers.Conv2D(filters, 3, padding="same"), layers.BatchNormalization()
    def build(self, shape):
        self.conv.build(shape)
        self.norm.build((*shape[:-1], self.filters))
        self.built = True
    def get_config(self):
        return {**super().get_config(), "filters": self.filters}
    def call(self, x):
        return layers.Add()([self.norm(self.conv(x)), x])
"""


def _policy(tf):
    if hasattr(tf.keras, "config") and hasattr(tf.keras.config, "dtype_policy"):
        return tf.keras.config.dtype_policy().name
    return tf.keras.mixed_precision.global_policy().name


def _weights(model):
    return sorted(hashlib.sha256(np.ascontiguousarray(w).tobytes()).hexdigest() for w in model.get_weights())


def _half_operations(model, shape):
    """Graph nodes that give float16, when the model is traced as the contract says."""
    import tensorflow as tf

    with keras_files.tracing(model):
        traced = tf.function(lambda x: model(x, training=False)).get_concrete_function(tf.TensorSpec(shape))
    return sum(o.dtype == tf.float16 for op in traced.graph.get_operations() for o in op.outputs)


def _attempt(function):
    try:
        return function()
    except OptimizeError as error:
        return {"error": type(error).__name__, "message": error.message, "hint": error.hint}


def run(folder, legacy, progress):
    """Everything at once, since TensorFlow takes seconds to start."""
    found = {}
    keras = kerasgeneration.framework("legacy" if legacy else "keras3")
    import tensorflow as tf

    found["version"] = kerasgeneration.version_of(keras)
    root = Path(folder)
    (root / "train.py").write_text(TRAIN)
    layers = keras.layers
    keras.utils.set_random_seed(0)
    block = userfile.load_names(f"{root / 'train.py'}:Block")["Block"]
    mixed = _policy(tf)
    image = layers.Input((8, 8, 3))
    x = layers.ReLU()(layers.Conv2D(4, 3, padding="same")(image))
    x = layers.GlobalAveragePooling2D()(block(4)(x))
    model = keras.Model(image, layers.Dense(3, activation="softmax", dtype="float32", name="scores")(x))
    model.save(str(root / "mixed.keras"))
    model.save(str(root / "mixed.h5"))
    found["weights"] = _weights(model)
    x8 = np.random.default_rng(0).random((2, 8, 8, 3), np.float32)
    with kerasgeneration.policy(keras, "mixed_float16"):
        found["mixed_scores"] = model(x8, training=False).numpy().tolist()
    with kerasgeneration.policy(keras, "float32"):
        a, b = layers.Input((4,), name="a"), layers.Input((4,), name="b")
        both = layers.Concatenate()([a, b])
        outs = [layers.Dense(2, name="first")(both), layers.Dense(5, name="second")(both)]
        keras.Model([a, b], outs).save(str(root / "two.keras"))
        keras.Sequential([layers.Input((4,)), layers.Lambda(lambda v: v * 2), layers.Dense(2)]).save(
            str(root / "lambda.keras")
        )
        free = keras.Sequential([layers.Input((None, None, 3)), layers.Conv2D(2, 3), layers.GlobalMaxPooling2D()])
        free.save(str(root / "free.keras"))
        free.save_weights(str(root / "only.weights.h5"))
        saved = free.export if hasattr(free, "export") else free.save
        saved(str(root / "saved"))
    with kerasgeneration.policy(keras, "float16"):
        keras.Sequential([layers.Input((4,)), layers.Dense(2)]).save(str(root / "half.keras"))
    with kerasgeneration.policy(keras, "float32"):
        found.update(_loaded(root, tf, x8))
    found["imported_policy"] = mixed
    return found


def _loaded(root, tf, x8):
    found = {}

    def spec(name, **more):
        path = str(root / name)
        kind = "keras-hdf5" if Path(path).read_bytes()[:4] == b"\x89HDF" else "keras-zip"
        return RunnerSpec(path, kind, **more)

    code = f"{root / 'train.py'}:Block"
    for name in ("mixed.keras", "mixed.h5"):
        for policy in ("saved", "float32"):
            model = keras_files.load_model(spec(name, custom_objects=code, policy=policy))
            found[f"{name} {policy}"] = {
                "weights": _weights(model),
                "policy_after": _policy(tf),
                "half": _half_operations(model, (2, 8, 8, 3)),
            }
        for form in ("predict", "function", "xla"):
            with engines.open(spec(name, custom_objects=code, form=form)) as runner:
                fed = x8.copy()
                query = runner.bind({runner.inputs[0].name: fed})
                first = query()["scores"].copy()
                fed[:] = 0
                found[f"{name} {form}"] = {
                    "scores": first.tolist(),
                    "changed": bool(np.abs(query()["scores"] - first).max() > 1e-6),
                    "inputs": [list(t.shape) for t in runner.inputs],
                    "outputs": [[t.name, list(t.shape), t.dtype] for t in runner.outputs],
                    "layout": runner.spec.layout,
                }
    os.rename(root / "mixed.h5", root / "renamed.model")
    found["renamed"] = _attempt(lambda: len(keras_files.load_model(spec("renamed.model", custom_objects=code)).weights))
    found["unnamed"] = _attempt(lambda: keras_files.load_model(spec("mixed.keras")))
    found["unnamed h5"] = _attempt(lambda: keras_files.load_model(spec("renamed.model")))
    found["lambda"] = _attempt(lambda: keras_files.load_model(spec("lambda.keras")))
    (root / "allow.py").write_text("from tensorflow.keras.layers import Lambda\n")
    allowed = spec("lambda.keras", custom_objects=f"{root / 'allow.py'}:Lambda", form="function")
    found["lambda allowed"] = _attempt(
        lambda: [
            list(y.shape) for y in engines.open(allowed).infer({_first(allowed): np.ones((3, 4), np.float32)}).values()
        ]
    )
    for form in ("predict", "function"):
        with engines.open(spec("two.keras", form=form)) as runner:
            given = {t.name: np.full((6, 4), i, np.float32) for i, t in enumerate(runner.inputs)}
            result = runner.infer(given)
            found[f"two {form}"] = [[t.name for t in runner.inputs], {k: list(v.shape) for k, v in result.items()}]
            found.setdefault("two sum", []).append(float(sum(v.sum() for v in result.values())))
            varied = {name: value + np.arange(6, dtype=np.float32)[:, None] for name, value in given.items()}
            whole, alone = runner.bind_all(varied, 4)(), runner.infer(varied)
            found[f"two {form} all"] = {k: float(np.abs(whole[k] - v).max()) for k, v in alone.items()}
    found["free"] = _attempt(lambda: engines.open(spec("free.keras")))
    found["free given"] = _attempt(
        lambda: [list(t.shape) for t in engines.open(spec("free.keras", input_shape=(8, 8, 3))).inputs]
    )
    found["misfit"] = _attempt(lambda: engines.open(spec("free.keras", input_shape=(8, 8))))
    found["weights only"] = _attempt(lambda: keras_files.load_model(spec("only.weights.h5")))
    half = keras_files.load_model(spec("half.keras", policy="float32"))
    found["half"] = [_half_operations(half, (2, 4)), [str(w.dtype) for w in half.get_weights()]]
    found["saved"] = {}
    for form in ("function", "xla"):
        with engines.open(RunnerSpec(str(root / "saved"), "savedmodel", input_shape=(8, 8, 3), form=form)) as runner:
            (scores,) = runner.infer({runner.inputs[0].name: x8}).values()
            found["saved"][form] = [scores.tolist(), [list(t.shape) for t in (*runner.inputs, *runner.outputs)]]
    with engines.open(spec("free.keras", input_shape=(8, 8, 3), form="function")) as runner:
        (scores,) = runner.infer({runner.inputs[0].name: x8}).values()
        found["saved"]["keras"] = scores.tolist()
    found.update(_modules(root, tf, x8))
    return found


def _first(spec):
    with engines.open(spec) as runner:
        return runner.inputs[0].name


def _modules(root, tf, x8):
    """SavedModels that are not Keras': without a signature, with several outputs, with nothing to call."""
    found = {}

    class Pair(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32, "image")])
        def __call__(self, image):
            return {"sum": tf.reduce_sum(image, [1, 2, 3]), "twice": (image * 2)}

    pair = Pair()
    tf.saved_model.save(pair, str(root / "callable"))
    tf.saved_model.save(pair, str(root / "signed"), signatures={"serving_default": pair.__call__})
    tf.saved_model.save(tf.Module(), str(root / "nothing"))
    for name in ("callable", "signed"):
        with engines.open(RunnerSpec(str(root / name), "savedmodel")) as runner:
            result = runner.infer({"image": x8})
            found[name] = [
                {k: list(v.shape) for k, v in result.items()},
                bool(np.allclose(result["sum"], x8.sum((1, 2, 3)), rtol=1e-5)),
                [[t.name, list(t.shape)] for t in runner.outputs],
            ]
    found["nothing"] = _attempt(lambda: engines.open(RunnerSpec(str(root / "nothing"), "savedmodel")))
    (root / "saved" / "saved_model.pb").write_bytes(b"\x00nothing")
    found["damaged"] = _attempt(lambda: engines.open(RunnerSpec(str(root / "saved"), "savedmodel")))
    return found


def users_file(path, code, progress):
    """The user's real file: its variables, how it runs in float32 and on one thread."""
    import h5py

    stored = []
    with h5py.File(path, "r") as file:
        file["model_weights"].visititems(lambda _, item: stored.append(item[()]) if hasattr(item, "shape") else None)
    spec = RunnerSpec(path, "keras-hdf5", custom_objects=code, policy="float32", form="function", threads=1)
    x = np.random.default_rng(0).random((2, 32, 32, 3), np.float32)
    with engines.open(spec) as runner:
        import tensorflow as tf

        scores = runner.infer({runner.inputs[0].name: x})[runner.outputs[0].name]
        threads = tf.config.threading.get_intra_op_parallelism_threads()
    model = keras_files.load_model(spec)
    with engines.open(spec.with_(policy="saved", threads=0)) as runner:
        mixed = runner.infer({runner.inputs[0].name: x})[runner.outputs[0].name]
    return {
        "stored": sorted(hashlib.sha256(w.tobytes()).hexdigest() for w in stored),
        "loaded": _weights(model),
        "half": _half_operations(model, (2, 32, 32, 3)),
        "threads": threads,
        "too late": _attempt(lambda: engines.open(spec.with_(threads=2))),
        "difference": float(np.abs(scores - mixed).max()),
        "policy_after": _policy(tf),
    }
