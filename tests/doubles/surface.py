"""What a version of TensorRT's Python API consists of: classes, methods with their argument names, properties, enums.

`extract` reads it from real bindings; `read` gives what a version has: from the bindings where there is a wheel, for
8.5.2, which is on no index, from `../shared/reference/tensorrt-8.5.2-surface.json`. Both have the same form:

    {"version": ..., "classes": {name: {"bases", "methods": {name: [signature]}, "props": {name: {"ro"}},
     "statics": {name: [type]}, "nested": {...}, "enum": {name: value}?, "arith"?}}, "functions": ..., "consts": ...}

Also loaded by path from the double in child processes: standard library only.
"""

from __future__ import annotations

import inspect
import json
import re
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, List, NamedTuple, Optional, Tuple

DERIVED = "8.5.2"
"""The version that no index has."""

_SHARED = Path(__file__).resolve().parents[3] / "shared" / "reference" / f"tensorrt-{DERIVED}-surface.json"

_SPELLINGS: Tuple[Tuple[str, str], ...] = (
    (r"tensorrt_bindings\.(?:tensorrt\.)?", ""),
    (r"(?:typing|collections\.abc|typing_extensions)\.", ""),
    (r"\bSupports(Int|Float|Index)(?: \| Supports\w+)*\b", lambda found: {"Float": "float"}.get(found.group(1), "int")),
    (r"\bBuffer\b", "buffer"),
    (r"\b(?:types\.)?CapsuleType\b", "capsule"),
    (r"\bCallable\b", "function"),
    (r"\blist\[", "List["),
    (r"\btuple\[", "Tuple["),
    (r"\bSequence\[", "List["),
    (r"\bOptional\[([^\[\]]*)\]", r"\1"),
    (r"([\w.\]]+) \| None\b", r"\1"),
)
"""How pybind's text changed at 10.16, brought back to what it was."""


class Argument(NamedTuple):
    """One argument of a method as its signature states it."""

    name: str
    type: str
    default: Optional[str]


def shared_file() -> Optional[Path]:
    """The file that describes 8.5.2, or None where it is not at hand."""
    return _SHARED if _SHARED.is_file() else None


def read_derived() -> Dict[str, Any]:
    """The surface of 8.5.2.

    Raises:
        FileNotFoundError: The shared file is not at hand.
    """
    surface: Dict[str, Any] = json.loads(_SHARED.read_text(encoding="utf-8"))
    return surface


def extract(module: ModuleType) -> Dict[str, Any]:
    """The surface of real bindings.

    Args:
        module: NVIDIA's `tensorrt_bindings`, of any version.
    """
    surface: Dict[str, Any] = {
        "version": str(module.__dict__["__version__"]),
        "classes": {},
        "functions": {},
        "consts": {},
    }
    for name, value in sorted(vars(module).items()):
        if name.startswith("__"):
            continue
        if inspect.isclass(value):
            surface["classes"][name] = _describe(value)
        elif isinstance(value, ModuleType):
            surface["consts"][name] = "module"
        elif callable(value):
            surface["functions"][name] = signatures(value, name)
        else:
            surface["consts"][name] = repr(value)
    return surface


def signatures(function: Any, name: str) -> List[str]:
    """The signatures of a method or function, one per overload, in the text of pybind before 10.16."""
    if inspect.isfunction(function):
        return [f"<py> {name}{inspect.signature(function)}"]
    found = re.findall(rf"^(?:\d+\. )?({re.escape(name)}\(.*)$", inspect.getdoc(function) or "", re.MULTILINE)
    if len(found) > 1 and "*args" in found[0]:
        found = found[1:]
    return [normalise(line) for line in found] or ["<nosig>"]


def normalise(signature: str) -> str:
    """One signature in the spelling of pybind before 10.16."""
    for pattern, spelling in _SPELLINGS:
        signature = re.sub(pattern, spelling, signature)  # type: ignore[arg-type]
    return signature.strip()


def arguments(signature: str) -> List[Argument]:
    """The arguments of a signature without `self`, in order."""
    inside = signature[signature.index("(") + 1 : _closing(signature)]
    found = []
    for part in _split(inside):
        head, equals, default = part.partition(" = ")
        name, _, kind = head.partition(":")
        found.append(Argument(name.strip(), kind.strip(), default.strip() if equals else None))
    return [argument for argument in found if argument.name not in ("self", "/", "*", "this", "")]


def _closing(text: str) -> int:
    """Where the bracket that opens first closes."""
    depth = 0
    for index, letter in enumerate(text):
        depth += (letter in "([{") - (letter in ")]}")
        if depth == 0 and letter == ")":
            return index
    raise ValueError(f"not a signature: {text}")


def _split(inside: str) -> List[str]:
    """Split at the commas that stand outside brackets."""
    parts, depth = [""], 0
    for letter in inside:
        depth += (letter in "([{<") - (letter in ")]}>")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return [part.strip() for part in parts if part.strip()]


def _describe(kind: type) -> Dict[str, Any]:
    known: Dict[str, Any] = {"bases": [], "methods": {}, "nested": {}, "props": {}, "statics": {}}
    known["bases"] = [base.__name__ for base in kind.__bases__ if base.__name__ not in ("object", "pybind11_object")]
    members = getattr(kind, "__members__", None)
    if members is not None:
        known["enum"] = {name: int(value) for name, value in sorted(members.items())}
        known["arith"] = "__and__" in vars(kind)
    for name, value in sorted(vars(kind).items()):
        if _is_plumbing(name, members is not None):
            continue
        if inspect.isclass(value):
            known["nested"][name] = _describe(value)
        elif isinstance(value, property):
            known["props"][name] = {"ro": value.fset is None}
        elif members is not None and name in members:
            continue
        elif callable(value) or isinstance(value, (staticmethod, classmethod)):
            known["methods"][name] = signatures(getattr(kind, name), name)
        else:
            known["statics"][name] = [type(value).__name__]
    return known


_ENUM_PLUMBING = frozenset(
    [
        "__entries",
        "__members__",
        "name",
        "value",
        "__eq__",
        "__ne__",
        "__hash__",
        "__int__",
        "__index__",
        "__str__",
        "__repr__",
    ]
)
_ORDER = frozenset(
    [
        "__and__",
        "__rand__",
        "__or__",
        "__ror__",
        "__xor__",
        "__rxor__",
        "__invert__",
        "__lt__",
        "__le__",
        "__gt__",
        "__ge__",
    ]
)
_KEPT = frozenset(("__init__", "__len__", "__getitem__", "__setitem__", "__call__", "__iter__"))


def _is_plumbing(name: str, is_enum: bool) -> bool:
    """Whether a member comes from pybind or Python and says nothing about the API."""
    if is_enum and (name in _ENUM_PLUMBING or name in _ORDER):
        return True
    return name.startswith(("__", "_pybind11")) and name not in _KEPT
