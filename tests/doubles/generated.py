"""Enums and value types of a TensorRT version that is on no index, made in Python from its surface.

Callback bases come from the nearest real bindings where those exist for this Python, else they are made here too.
Also loaded by path from the double in child processes: standard library only.
"""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Mapping, Tuple

_CALLBACKS = (
    "ILogger",
    "Logger",
    "IProfiler",
    "Profiler",
    "IOutputAllocator",
    "IGpuAllocator",
    "IErrorRecorder",
    "CalibrationAlgoType",
    "IInt8Calibrator",
    "IInt8LegacyCalibrator",
    "IInt8EntropyCalibrator",
    "IInt8EntropyCalibrator2",
    "IInt8MinMaxCalibrator",
)
"""Classes that a user derives from, and what their methods are given: the same in 8.5.2 and 8.6.1."""

_ALIASES = ("float32", "float16", "int8", "int32", "bool", "uint8")
"""Data types that the module also offers by themselves."""


def namespace(surface: Mapping[str, Any], nearest: Mapping[str, Any]) -> Dict[str, Any]:
    """A module's namespace from a surface.

    Args:
        surface: What `surface.read_derived` gives.
        nearest: The namespace of real bindings to take the callback bases from; may be empty.
    """
    made: Dict[str, Any] = {"__version__": str(surface["version"]).split()[0]}
    for name, known in surface["classes"].items():
        if "enum" in known:
            made[name] = enum(name, known["enum"])
        else:
            made[name] = type(name, (_Opaque,), {})
    made.update(Dims=Dims, Dims2=Dims2, Dims3=Dims3, Dims4=Dims4, DimsHW=DimsHW, Permutation=Permutation)
    made["Weights"] = _weights(made["DataType"])
    made["DataType"].itemsize = property(lambda one: _SIZES[one.name])
    made.update(_callbacks(made, surface))
    made.update({name: nearest[name] for name in _CALLBACKS if name in nearest})
    by_value = {int(member): member for member in made["DataType"].__members__.values()}
    for alias, value in zip(_ALIASES, (0, 1, 2, 3, 4, 5)):
        made[alias] = by_value[value]
    made["volume"] = _volume
    made["nptype"] = _nptype(made["DataType"])
    made.update(get_plugin_registry=lambda: None, init_libnvinfer_plugins=lambda logger, namespace: True)
    made.update(get_nv_onnx_parser_version=lambda: 8502)
    return made


def enum(name: str, members: Mapping[str, int]) -> Any:
    """A class that behaves as an enum of pybind: not an int, equal to itself only, made from a known value."""
    kind: Any = type(name, (_Enum,), {"_by_value": {}, "__members__": {}})
    for label, value in sorted(members.items(), key=lambda item: item[1]):
        member = object.__new__(kind)
        member.name, member.value = label, value
        kind._by_value.setdefault(value, member)
        kind.__members__[label] = member
        setattr(kind, label, member)
    return kind


class _Opaque:
    """A class of the library that nothing outside it can make."""

    def __init__(self, *args: Any) -> None:
        raise TypeError(f"tensorrt.tensorrt.{type(self).__name__}: No constructor defined!")


class _Enum:
    _by_value: Dict[int, Any]
    __members__: Dict[str, Any]
    name: str
    value: int

    def __new__(cls, value: int) -> Any:
        if value not in cls._by_value:
            raise TypeError(f"{cls.__name__}: no member has the value {value}")
        return cls._by_value[value]

    def __int__(self) -> int:
        return self.value

    def __index__(self) -> int:
        return self.value

    def __hash__(self) -> int:
        return hash(self.value)

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and self.value == other.value  # type: ignore[attr-defined]

    def __repr__(self) -> str:
        return f"<{type(self).__name__}.{self.name}: {self.value}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"


class Dims:
    """A shape: at most eight integers; read-only in TensorRT 8.5."""

    MAX_DIMS = 8

    def __init__(self, shape: Any = ()) -> None:
        values = [int(value.__index__()) for value in shape]
        if len(values) > self.MAX_DIMS:
            raise ValueError(f"The maximum number of dimensions is {self.MAX_DIMS}")
        self._values: Tuple[int, ...] = tuple(values)

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, index: Any) -> Any:
        return self._values[index]

    def __iter__(self) -> Iterator[int]:
        return iter(self._values)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, (Dims, tuple, list)) and tuple(other) == self._values

    def __hash__(self) -> int:
        return hash(self._values)

    def __repr__(self) -> str:
        return repr(self._values)


class Dims2(Dims):
    """Two dimensions."""


class DimsHW(Dims2):
    """Height and width."""

    h = property(lambda one: one[0])
    w = property(lambda one: one[1])


class Dims3(Dims):
    """Three dimensions."""


class Dims4(Dims):
    """Four dimensions."""


class Permutation(Dims):
    """An order of dimensions."""


_SIZES = {"FLOAT": 4, "HALF": 2, "INT8": 1, "INT32": 4, "BOOL": 1, "UINT8": 1}


def _volume(iterable: Any) -> int:
    total = 1
    for value in iterable:
        total *= value
    return total


def _nptype(kinds: Any) -> Any:
    def nptype(trt_type: Any) -> Any:
        """As TensorRT 8.5.2 does it, with the name that NumPy took away in 1.24."""
        import numpy as np

        mapping = {
            kinds.FLOAT: np.float32,
            kinds.HALF: np.float16,
            kinds.INT8: np.int8,
            kinds.INT32: np.int32,
            kinds.BOOL: np.bool,  # type: ignore[attr-defined]
            kinds.UINT8: np.uint8,
        }
        if trt_type in mapping:
            return mapping[trt_type]
        raise TypeError("Could not resolve TensorRT datatype to an equivalent numpy datatype.")

    return nptype


def _weights(kinds: Any) -> Any:
    class Weights:
        """An array of one data type."""

        def __init__(self, a: Any = None) -> None:
            import numpy as np

            self._array = np.empty(0, np.float32) if a is None or isinstance(a, kinds) else np.ascontiguousarray(a)
            names = {"f4": "FLOAT", "f2": "HALF", "i1": "INT8", "i4": "INT32", "b1": "BOOL", "u1": "UINT8"}
            self.dtype = a if isinstance(a, kinds) else kinds.__members__[names[self._array.dtype.str[1:]]]

        size = property(lambda one: one._array.size)
        nbytes = property(lambda one: one._array.nbytes)

        def __len__(self) -> int:
            return int(self._array.size)

        def numpy(self) -> Any:
            """The values, of shape (size,)."""
            return self._array.reshape(-1)

    return Weights


def _callbacks(made: Dict[str, Any], surface: Mapping[str, Any]) -> Dict[str, Any]:
    """The bases of callbacks, each refusing a derived class that did not call it."""
    severity = enum("Severity", surface["classes"]["ILogger"]["nested"]["Severity"]["enum"])
    algorithm = made["CalibrationAlgoType"]

    class ILogger(_Base):
        Severity = severity

        def log(self, severity: Any, msg: str) -> None:
            raise RuntimeError('Tried to call pure virtual function "ILogger::log"')

    for name, member in severity.__members__.items():
        setattr(ILogger, name, member)

    class Logger(ILogger):
        def __init__(self, min_severity: Any = severity.WARNING) -> None:
            super().__init__()
            self.min_severity = min_severity

        def log(self, severity: Any, msg: str) -> None:
            if int(severity) <= int(self.min_severity):
                print(f"[TRT] [{severity.name[0]}] {msg}")

    made_here: Dict[str, Any] = {"ILogger": ILogger, "Logger": Logger}
    for name in ("IProfiler", "IOutputAllocator", "IGpuAllocator", "IErrorRecorder"):
        made_here[name] = type(name, (_Base,), {})
    made_here["Profiler"] = type("Profiler", (made_here["IProfiler"],), {"report_layer_time": _print_time})
    made_here["IInt8Calibrator"] = base = type("IInt8Calibrator", (_Base,), {})
    for name, kind in (
        ("IInt8LegacyCalibrator", algorithm.LEGACY_CALIBRATION),
        ("IInt8EntropyCalibrator", algorithm.ENTROPY_CALIBRATION),
        ("IInt8EntropyCalibrator2", algorithm.ENTROPY_CALIBRATION_2),
        ("IInt8MinMaxCalibrator", algorithm.MINMAX_CALIBRATION),
    ):
        made_here[name] = type(name, (base,), {"get_algorithm": lambda self, kind=kind: kind})
    return made_here


def _print_time(self: Any, layer_name: str, ms: float) -> None:
    print(f"{layer_name}: {ms}ms")


class _Called(type):
    """As pybind's classes: a derived class has to call the base's `__init__`."""

    def __call__(cls, *args: Any, **kwargs: Any) -> Any:
        made = super().__call__(*args, **kwargs)
        if not getattr(made, "_base_called", False):
            names: List[str] = [kind.__name__ for kind in cls.__mro__ if kind.__name__.startswith("I")]
            raise TypeError(f"{names[0] if names else cls.__name__}.__init__() must be called when overriding __init__")
        return made


class _Base(metaclass=_Called):
    _base_called = False

    def __init__(self) -> None:
        self._base_called = True
