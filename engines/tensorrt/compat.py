"""What a TensorRT can do, asked by name and never by version or by the number behind an enum."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from engines.errors import IncompatibleError

_DTYPES: Dict[str, str] = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "UINT8": "uint8",
    "BOOL": "bool",
}
"""DataType by name -> NumPy's. Not by `trt.nptype`: in 8.5.2 it asks NumPy for `bool`, which 1.24 no longer has."""


def tensorrt() -> Any:
    """The module `tensorrt`.

    Raises:
        IncompatibleError: It is missing, or its libraries do not load.
    """
    try:
        import tensorrt as trt
    except (ImportError, OSError) as error:
        raise IncompatibleError(f"tensorrt does not load: {error}", "optimize doctor") from None
    return trt


def version() -> str:
    """Full version of TensorRT, such as `8.5.2.2`."""
    return str(tensorrt().__version__)


def flag(trt: Any, name: str) -> Optional[Any]:
    """The builder flag of that name, or None where this version has none."""
    return getattr(trt.BuilderFlag, name, None)


def weakly_typed(trt: Any) -> bool:
    """Whether precision can be asked for by builder flags (8.5 to 10); otherwise the graph alone tells it."""
    return flag(trt, "FP16") is not None


def strongly_typed_only(trt: Any) -> bool:
    """Whether precision comes from the graph alone (11)."""
    return not weakly_typed(trt)


def can_strongly_type(trt: Any) -> bool:
    """Whether a network can be told to take every type from the graph (10 and later)."""
    return hasattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED")


def has_calibrator(trt: Any) -> bool:
    """Whether TensorRT can measure INT8 ranges itself."""
    return hasattr(trt, "IInt8EntropyCalibrator2") and hasattr(trt.IBuilderConfig, "int8_calibrator")


def network_flags(trt: Any, strongly_typed: bool = False) -> int:
    """Flags for `create_network`: an explicit batch where that is still a choice, strong typing where asked for."""
    kinds = trt.NetworkDefinitionCreationFlag
    names = ["EXPLICIT_BATCH", *(["STRONGLY_TYPED"] if strongly_typed else [])]
    return sum(1 << int(getattr(kinds, name)) for name in names if hasattr(kinds, name))


def dtype_name(trt: Any, dtype: Any) -> str:
    """NumPy's name of a DataType.

    Raises:
        IncompatibleError: NumPy has no such type (bfloat16, fp8, int4).
    """
    name = str(dtype).rsplit(".", 1)[-1]
    if name not in _DTYPES:
        raise IncompatibleError(f"the engine has an input or output of type {name}, which NumPy lacks")
    return _DTYPES[name]


_plugins: Dict[Any, Any] = {}


def _register_plugins(trt: Any) -> None:
    """Register the operators that come as plugins, once: a graph or a plan that has one is refused otherwise.

    TensorRT's plugin library keeps the logger for as long as the process lives, so it is not one that may be freed.
    """
    if trt not in _plugins:
        _plugins[trt] = trt.Logger(trt.Logger.ERROR)
        trt.init_libnvinfer_plugins(_plugins[trt], "")  # False where there are none: the parser then names the operator


def logger(trt: Any) -> Any:
    """A logger that keeps what TensorRT says: `lines` of (severity name, text), `errors()` in one line.

    Messages come from TensorRT's own threads; a list's append is atomic. The operators that come with TensorRT as
    plugins are registered besides, since whoever builds or loads needs both.
    """
    _register_plugins(trt)

    class Log(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.lines: List[Tuple[str, str]] = []

        def log(self, severity: Any, msg: str) -> None:
            name = str(severity).rsplit(".", 1)[-1]
            if name in _KEPT:
                self.lines.append((name, " ".join(msg.split())))

        def errors(self) -> str:
            """The last few errors (else warnings), in one line."""
            for names in (("INTERNAL_ERROR", "ERROR"), ("WARNING",)):
                found = list(dict.fromkeys(text for name, text in self.lines if name in names))
                if found:
                    return "; ".join(found[-3:])
            return "TensorRT gave no reason"

    return Log()


_KEPT = ("INTERNAL_ERROR", "ERROR", "WARNING")
