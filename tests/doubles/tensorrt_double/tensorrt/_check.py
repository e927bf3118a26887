"""Classes of the double, held to the surface of the version while they are made.

A member that the version lacks is taken away. An argument of the version that the double's method does not know by the
same name stops the import. A call is matched against the version's overloads by name, number and type, and fails as
pybind fails. What the version has and the double has not says so when it is used.
"""

from __future__ import annotations

import inspect
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Type, TypeVar

from tensorrt._real import NAME, REAL, SURFACE, surfaces

T = TypeVar("T", bound=type)

PUBLIC: Dict[str, Any] = {}
"""What the double puts in place of the real classes."""

_MISSING = object()


class Guarded:
    """An object that only the library makes, and that takes no attribute it does not have."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") or isinstance(getattr(type(self), name, None), property):
            object.__setattr__(self, name, value)
            return
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        raise TypeError(f"tensorrt.tensorrt.{type(self).__name__}: No constructor defined!")

    @classmethod
    def _make(cls, *args: Any, **kwargs: Any) -> Any:
        """Make one inside the library."""
        made = cls.__new__(cls)
        made._setup(*args, **kwargs)
        return made

    def _setup(self, *args: Any, **kwargs: Any) -> None:
        """Fill the fields: what `__init__` is elsewhere."""


def checked(*, lacks: Sequence[str] = ()) -> Callable[[T], T]:
    """Hold a class to the surface of the version, and export it where the version has it.

    Args:
        lacks: Overloads (by the name of an argument) that the double does not do: using one raises NotImplementedError.

    Raises:
        ImportError: The class and the surface disagree about a name.
    """

    def hold(kind: T) -> T:
        known = SURFACE["classes"].get(kind.__name__)
        if known is not None:
            _hold(kind, known, frozenset(lacks))
            PUBLIC[kind.__name__] = kind
        return kind

    return hold


def _hold(kind: type, known: Dict[str, Any], lacks: frozenset) -> None:  # type: ignore[type-arg]
    for name, value in list(vars(kind).items()):
        special = name in ("__init__", "__len__", "__getitem__")
        if name.startswith("_") and not special:
            continue
        if isinstance(value, property):
            _hold_property(kind, name, value, known)
        elif callable(value):
            _hold_method(kind, name, value, known, lacks)
    for name in known["methods"]:
        if not name.startswith("__") and not hasattr(kind, name):
            setattr(kind, name, _not_done(kind, name))
    for name in known["props"]:
        if not hasattr(kind, name):
            setattr(kind, name, property(_not_done(kind, name)))


def _hold_property(kind: type, name: str, value: property, known: Dict[str, Any]) -> None:
    if name not in known["props"]:
        delattr(kind, name)
    elif known["props"][name]["ro"]:
        setattr(kind, name, property(value.fget, doc=value.__doc__))
    elif value.fset is None:
        raise ImportError(f"TensorRT {NAME} can set {kind.__name__}.{name}, the double cannot")


def _hold_method(kind: type, name: str, value: Callable[..., Any], known: Dict[str, Any], lacks: frozenset) -> None:  # type: ignore[type-arg]
    overloads = [text for text in known["methods"].get(name, []) if "(" in text]
    if not overloads:
        if name not in ("__init__", "__len__", "__getitem__") or name != "__init__":
            delattr(kind, name)
        return
    have = list(inspect.signature(value).parameters)[1:]
    forms = []
    for text in overloads:
        names = [argument.name for argument in surfaces.arguments(text)]
        if lacks.intersection(names):
            continue
        if not _fits(name, names, have):
            raise ImportError(f"TensorRT {NAME} calls {kind.__name__}.{text}, the double has {', '.join(have)}")
        forms.append((text, surfaces.arguments(text)))
    setattr(kind, name, _call(kind, name, value, forms, overloads))


def _fits(method: str, names: List[str], have: List[str]) -> bool:
    """Whether an overload's arguments are arguments of the double's method, in the same order."""
    if method.startswith("__") and method != "__init__":
        return len(names) == len(have)
    places = [have.index(name) if name in have else -1 for name in names]
    return -1 not in places and places == sorted(places)


def _call(kind: type, name: str, inner: Callable[..., Any], forms: Any, overloads: List[str]) -> Callable[..., Any]:
    have = list(inspect.signature(inner).parameters)[1:]

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        for _, arguments in forms:
            bound = _bind(arguments, args, kwargs)
            if bound is not None:
                if name.startswith("__") and name != "__init__":
                    return inner(self, *bound.values())
                return inner(self, **{key: value for key, value in bound.items() if key in have})
        lines = [f"{name}(): incompatible function arguments. The following argument types are supported:"]
        lines += [f"    {number}. {text}" for number, text in enumerate(overloads, 1)]
        given = ", ".join([repr(value) for value in args] + [f"{key}={value!r}" for key, value in kwargs.items()])
        raise TypeError("\n".join([*lines, "", f"Invoked with: {self!r}, {given}"]))

    call.__name__, call.__qualname__, call.__doc__ = name, f"{kind.__name__}.{name}", "\n".join(overloads)
    return call


def _bind(arguments: Any, args: Tuple[Any, ...], kwargs: Dict[str, Any]) -> Optional[Dict[str, Any]]:
    """The arguments by name, or None where this overload does not take them."""
    if len(args) > len(arguments) or set(kwargs) - {argument.name for argument in arguments[len(args) :]}:
        return None
    bound: Dict[str, Any] = {}
    for place, argument in enumerate(arguments):
        value = args[place] if place < len(args) else kwargs.get(argument.name, _MISSING)
        if value is _MISSING:
            if argument.default is None:
                return None
            continue
        if value is None and argument.default == "None":
            continue
        taken = take(value, argument.type)
        if taken is _MISSING:
            return None
        bound[argument.name] = taken
    return bound


def take(value: Any, wanted: str) -> Any:
    """A value as pybind would take it for this type of a signature, or the mark for a refusal."""
    wanted = wanted.rsplit("::", 1)[-1]
    inner = wanted[wanted.index("[") + 1 : -1] if "[" in wanted else ""
    if wanted.startswith("List["):
        if isinstance(value, (str, bytes)) or not hasattr(value, "__iter__"):
            return _MISSING
        items = [take(item, inner) for item in value]
        return _MISSING if any(item is _MISSING for item in items) else items
    if wanted in _PLAIN:
        return _PLAIN[wanted](value)
    if wanted in ("Dims", "Dims2", "Dims3", "Dims4", "DimsHW"):
        return _dims(value)
    return value if isinstance(value, _class(wanted)) else _MISSING


def _class(name: str) -> Type[Any]:
    if name in PUBLIC:
        return PUBLIC[name]  # type: ignore[no-any-return]
    nested = {"Severity": lambda: REAL["ILogger"].Severity}
    found = nested[name]() if name in nested else REAL.get(name)
    if not isinstance(found, type):
        raise ImportError(f"the double does not know the type {name} of TensorRT {NAME}")
    return found


def _integer(value: Any) -> Any:
    try:
        return value.__index__() if not hasattr(type(value), "__members__") else _MISSING
    except (AttributeError, TypeError):
        return _MISSING


def _number(value: Any) -> Any:
    return float(value) if isinstance(value, (int, float)) or hasattr(value, "__float__") else _MISSING


def _text(value: Any) -> Any:
    return value if isinstance(value, str) else value.decode() if isinstance(value, bytes) else _MISSING


def _buffer(value: Any) -> Any:
    try:
        return memoryview(value)
    except TypeError:
        return _MISSING


def _dims(value: Any) -> Any:
    if isinstance(value, REAL["Dims"]):
        return value
    if not isinstance(value, (list, tuple)):
        return _MISSING
    items = [_integer(item) for item in value]
    return _MISSING if any(item is _MISSING for item in items) else REAL["Dims"](items)


_PLAIN: Dict[str, Callable[[Any], Any]] = {
    "int": _integer,
    "float": _number,
    "bool": lambda value: bool(value) if isinstance(value, int) or type(value).__name__ == "bool_" else _MISSING,
    "str": _text,
    "buffer": _buffer,
    "object": lambda value: value,
    "capsule": lambda value: value,
    "list": lambda value: _dims(value) if isinstance(value, list) else _MISSING,
    "tuple": lambda value: _dims(value) if isinstance(value, tuple) else _MISSING,
}


def setter(wanted: str, optional: bool = False) -> Callable[[Any, str], Any]:
    """A check for a property: the value as the type takes it.

    Raises:
        TypeError: It is of another type.
    """

    def check(value: Any, name: str) -> Any:
        if value is None and optional:
            return None
        taken = take(value, wanted)
        if taken is _MISSING:
            raise TypeError(f"(): incompatible function arguments. {name} takes {wanted}, not {value!r}")
        return taken

    return check


def stored(wanted: str, default: Any = None, optional: bool = False) -> Any:
    """A property that keeps what it is given, of one type."""
    return _Stored(wanted, default, optional)


class _Stored:
    """Becomes a property when its class is made."""

    def __init__(self, wanted: str, default: Any, optional: bool) -> None:
        self.wanted, self.default, self.optional = wanted, default, optional

    def __set_name__(self, owner: type, name: str) -> None:
        check, hidden = setter(self.wanted, self.optional), f"_{name}"
        default = self.default

        def get(one: Any) -> Any:
            return one.__dict__.get(hidden, default() if callable(default) else default)

        def put(one: Any, value: Any) -> None:
            object.__setattr__(one, hidden, check(value, name))

        setattr(owner, name, property(get, put))


def _not_done(kind: type, name: str) -> Callable[..., Any]:
    def raises(*args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"TensorRT {NAME} has {kind.__name__}.{name}; the double does not do it")

    return raises


def swallowed(where: str, call: Callable[[], Any], otherwise: Any) -> Any:
    """Run a callback as TensorRT does: an exception is printed, and the work goes on with `otherwise`."""
    try:
        return call()
    except Exception as error:
        print(f"[ERROR] Exception caught in {where}(): {type(error).__name__}: {error}", file=sys.stderr)
        return otherwise
