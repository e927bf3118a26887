"""Runs in a fresh process: the layers of a SavedModel and of a Keras file, and what the trace holds of a GPU."""

from __future__ import annotations

import os
from pathlib import Path


def run(folder, progress):
    import numpy as np

    import engines
    from engines import tensorflowdevice
    from engines.kerasgeneration import is_legacy
    from engines.spec import RunnerSpec

    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "2"
    tensorflowdevice.share_memory()
    import tensorflow as tf

    keras = tf.keras
    image = keras.Input((16, 16, 3), name="image")
    x = keras.layers.Conv2D(8, 3, name="first")(image)
    x = keras.layers.Conv2D(8, 3, name="half", dtype="mixed_float16")(x)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    model = keras.Model(image, keras.layers.Dense(4, name="top")(x))
    file, saved = Path(folder, "net.h5" if is_legacy(keras) else "net.keras"), str(Path(folder, "saved"))
    model.save(str(file))

    def call(image):
        return {"scores": model(image, training=False)}

    spec = tf.TensorSpec((None, 16, 16, 3), tf.float32, name="image")
    tf.saved_model.save(model, saved, signatures={"serving_default": tf.function(call, input_signature=[spec])})
    out = {}
    kind = "keras-hdf5" if is_legacy(keras) else "keras-zip"
    ways = [("function", str(file), kind), ("predict", str(file), kind), ("function", saved, "savedmodel")]
    for form, path, kind in [*ways, ("xla", saved, "savedmodel")]:
        with engines.open(RunnerSpec(path, kind, form=form)) as runner:
            name = runner.inputs[0].name
            feeds = {name: np.random.default_rng(0).random((2, 16, 16, 3), np.float32)}
            before = runner.infer(feeds)
            out[f"{form} {kind}"] = runner.profile(feeds, 4)
            after = runner.infer(feeds)
            assert all(np.array_equal(before[key], after[key]) for key in before)
    return {"layers": out, "kind": ways[0][2], "gpu": _gpu()}


def _gpu():
    """Kernels on two streams, as CUPTI puts them into a trace; no GPU is here to write one."""
    from engines import tensorflowprofile

    space = tensorflowprofile._space()
    host, gpu = space.planes.add(), space.planes.add()
    host.name, gpu.name = "/host:CPU", "/device:GPU:0"
    gpu.stat_metadata[1].name = "tf_op"
    for number, name in enumerate(("optimize query 0", "optimize query 1", "launch:Conv2D"), 1):
        host.event_metadata[number].name = name
    host.event_metadata[3].display_name = "Conv2D"
    names = {2: "net/conv:Conv2D", 3: "net/relu:Relu"}
    for number, name in names.items():
        gpu.stat_metadata[number].name = name
    line, streams = host.lines.add(timestamp_ns=1000), [gpu.lines.add(timestamp_ns=2000) for _ in names]
    for query in (0, 1):
        line.events.add(metadata_id=query + 1, offset_ps=query * 10**10, duration_ps=9 * 10**9)
        line.events.add(metadata_id=3, offset_ps=query * 10**10 + 10, duration_ps=10**9)
        for (ref, _), stream in zip(names.items(), streams):
            for _ in range(2):  # an operation may have several kernels
                ps = ref * 10**9 * (query + 1)
                event = stream.events.add(metadata_id=0, offset_ps=query * 10**10 + ref, duration_ps=ps)
                event.stats.add(metadata_id=1, ref_value=ref)
    return tensorflowprofile.summary(space, {"conv": "float16"}, 2, "gpu")
