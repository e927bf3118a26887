"""Runs in a fresh process: what the originals of TensorFlow say of where they compute."""

from __future__ import annotations

import os
from pathlib import Path


def run(folder, progress):
    from engines import tensorflow as savedmodels
    from engines import tensorflowdevice
    from engines.errors import IncompatibleError
    from engines.spec import RunnerSpec

    out = {}
    path = str(Path(folder, "saved"))
    save(path)
    spec = RunnerSpec(path=path, kind="savedmodel")
    with savedmodels.load(spec) as runner:
        out["device"] = runner.device
    out["growth"] = os.environ.get("TF_FORCE_GPU_ALLOW_GROWTH")
    for name, ask in (
        ("check", tensorflowdevice.check),
        ("load", lambda: savedmodels.load(spec.with_(options={"device": "gpu"}))),
    ):
        try:
            ask()
        except IncompatibleError as error:
            out[name] = [error.message, error.hint]
    out["none"] = tensorflowdevice.placed([], "auto")
    return out


def saved(path, progress=None):
    save(path)


def save(path):
    """Write a SavedModel with one variable: 8x8x3 in, 10 out."""
    from engines import tensorflowdevice

    tensorflowdevice.share_memory()
    import tensorflow as tf

    class Net(tf.Module):
        def __init__(self):
            super().__init__()
            self.w = tf.Variable(tf.random.stateless_normal((192, 10), (1, 2)))

        @tf.function(input_signature=[tf.TensorSpec((None, 8, 8, 3), tf.float32, name="image")])
        def __call__(self, image):
            return {"scores": tf.linalg.matmul(tf.reshape(image, (-1, 192)), self.w)}

    net = Net()
    tf.saved_model.save(net, path, signatures={"serving_default": net.__call__})
