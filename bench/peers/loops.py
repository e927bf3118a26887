"""Loops that others time a model with, each as its own documentation shows it: the children of `bench.peers.speed`.

All get the same file and one batch of the same values, run synchronously, and tell what a query took.
"""

from __future__ import annotations

import statistics
import time
from typing import Any, Callable, Dict, List

import numpy as np

from engines.spec import Progress, RunnerSpec, quiet

_WARM = 3


def onnxruntime_run(path: str, batch: int, seconds: float, progress: Progress = quiet) -> Dict[str, float]:
    """`InferenceSession.run` with the defaults, as its Python documentation shows.

    ONNX Runtime's `onnxruntime_perf_test` is not among what pip installs.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    given = {
        tensor.name: np.random.default_rng(0).random([batch, *tensor.shape[1:]], np.float32)
        for tensor in session.get_inputs()
    }
    return _timed(lambda: session.run(None, given), seconds)


def torch_benchmark(spec: Dict[str, Any], batch: int, seconds: float, progress: Progress = quiet) -> Dict[str, float]:
    """`torch.utils.benchmark.Timer(...).blocked_autorange`, with as many threads as PyTorch takes by default."""
    import torch
    from torch.utils.benchmark import Timer

    from engines.torch import load_module

    wanted = RunnerSpec.from_json(spec)
    module = load_module(wanted).eval()
    image = torch.rand((batch, *(wanted.input_shape or ())))
    with torch.inference_mode():
        names = {"module": module, "image": image}
        found = Timer("module(image)", globals=names, num_threads=torch.get_num_threads()).blocked_autorange(
            min_run_time=seconds
        )
    return {"median_ms": 1e3 * found.median, "mean_ms": 1e3 * found.mean}


def keras_predict(spec: Dict[str, Any], batch: int, seconds: float, progress: Progress = quiet) -> Dict[str, float]:
    """`model.predict` on one batch, as in Keras' guides."""
    return _keras(spec, batch, seconds, lambda model, image: lambda: model.predict(image, batch_size=batch, verbose=0))


def tensorflow_function(
    spec: Dict[str, Any], batch: int, seconds: float, progress: Progress = quiet
) -> Dict[str, float]:
    """A `tf.function` around the model, its result as a NumPy array."""

    def bound(model: Any, image: Any) -> Callable[[], Any]:
        import tensorflow as tf

        call = tf.function(lambda given: model(given, training=False))
        return lambda: call(tf.constant(image)).numpy()

    return _keras(spec, batch, seconds, bound)


def _keras(
    spec: Dict[str, Any], batch: int, seconds: float, bound: Callable[[Any, Any], Callable[[], Any]]
) -> Dict[str, float]:
    from engines.keras import load_model, tracing

    model = load_model(RunnerSpec.from_json(spec))
    shape = (batch, *model.inputs[0].shape[1:])
    query = bound(model, np.random.default_rng(0).random(shape, np.float32))
    with tracing(model):
        query()
    return _timed(query, seconds)


def _timed(query: Callable[[], Any], seconds: float) -> Dict[str, float]:
    for _ in range(_WARM):
        query()
    samples: List[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        query()
        samples.append(1e3 * (time.perf_counter() - start))
    return {"median_ms": statistics.median(samples), "mean_ms": statistics.mean(samples)}
