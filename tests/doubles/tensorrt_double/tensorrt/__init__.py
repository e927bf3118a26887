"""A double of TensorRT's Python API, for tests on machines without a GPU.

Real parts (enums, shapes, loggers, callback bases) come from NVIDIA's bindings; what builds and runs is done in Python
with ONNX Runtime, on the memory of the CUDA driver for tests. OPTIMIZE_DOUBLE_SURFACE chooses the version. Numbers are
those of ONNX Runtime, times mean nothing: `__version__` ends in +double, so that no result passes for TensorRT's.
"""

from tensorrt import _builder, _engine, _parser  # noqa: F401
from tensorrt._check import PUBLIC
from tensorrt._real import REAL, VERSION

for _name, _value in {**REAL, **PUBLIC}.items():
    if not _name.startswith("__"):
        globals()[_name] = _value

__version__ = VERSION


def init_libnvinfer_plugins(logger, namespace):  # type: ignore[no-untyped-def]
    """Register the plugins that come with TensorRT: the double has none, so all are registered."""
    return True


def get_nv_onnx_parser_version():  # type: ignore[no-untyped-def]
    """The parser's version, as one number."""
    from tensorrt._real import NUMBERS

    return NUMBERS[0] * 10000 + NUMBERS[1] * 100 + NUMBERS[2] if NUMBERS[0] >= 10 else 8502
