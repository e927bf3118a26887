"""Where TensorFlow computes: whether it has a GPU, and whether a model is really on it."""

from __future__ import annotations

import os
from typing import Any, Dict, Iterable

from engines.errors import IncompatibleError
from engines.spec import Progress, quiet


def share_memory() -> None:
    """Call before TensorFlow is imported: it then takes a GPU's memory as it needs it.

    It would take nearly all of it else, which on a Jetson is the CPU's memory too.
    """
    os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")


def check(progress: Progress = quiet) -> Dict[str, str]:
    """Whether TensorFlow can compute on a GPU in this process: it starts the GPU and multiplies two matrices there.

    Returns:
        `device`, such as `/job:localhost/replica:0/task:0/device:GPU:0`.

    Raises:
        IncompatibleError: It is not installed, sees no GPU, or cannot use the one that it sees.
    """
    share_memory()
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    try:
        import tensorflow as tf
    except ImportError as error:
        raise IncompatibleError(f"--device gpu: TensorFlow is missing: {error}", "optimize doctor") from None
    if not tf.config.list_physical_devices("GPU"):
        cuda = "" if tf.test.is_built_with_cuda() else ": it is built without CUDA"
        raise _not_on_gpu(f"TensorFlow {tf.__version__} sees no GPU{cuda}")
    try:
        with tf.device("/GPU:0"):
            ones = tf.ones((8, 8))
            found = str(tf.linalg.matmul(ones, ones).device)
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        text = " ".join(str(error).split())[:300]
        raise _not_on_gpu(f"TensorFlow {tf.__version__} cannot use the GPU: {text}") from None
    if kind(found) != "gpu":
        raise _not_on_gpu(f"TensorFlow {tf.__version__} computes on {found}")
    return {"device": found}


def kind(device: str) -> str:
    """`gpu` or `cpu` of a device as TensorFlow names it."""
    return "gpu" if "device:GPU:" in device else "cpu"


def placed(variables: Iterable[Any], asked: str) -> str:
    """Where a loaded model computes: TensorFlow runs an operation where the variables that it reads are.

    Args:
        variables: Of the model; where it has none, where TensorFlow puts a new tensor decides.
        asked: auto, cpu or gpu.

    Returns:
        `cpu` or `gpu`.

    Raises:
        IncompatibleError: The GPU was asked for, and not every variable is on it.
    """
    if asked == "gpu":
        check()
    names = [_device_of(variable) for variable in variables]
    if not names:
        import tensorflow as tf

        names = [str(tf.zeros(1).device)]
    on_cpu = [name for name in names if kind(name) != "gpu"]
    if on_cpu and asked == "gpu":
        raise _not_on_gpu(f"TensorFlow put {len(on_cpu)} of {len(names)} variables of the model on {on_cpu[0]}")
    return "cpu" if on_cpu else "gpu"


def _device_of(variable: Any) -> str:
    if hasattr(variable, "device"):
        return str(variable.device)
    return str(variable.value.device)  # Keras 3 wraps TensorFlow's variable


def _not_on_gpu(why: str) -> IncompatibleError:
    return IncompatibleError(
        f"--device gpu: {why}", "optimize doctor says which TensorFlow fits (tf-cuda), or leave --device out"
    )
