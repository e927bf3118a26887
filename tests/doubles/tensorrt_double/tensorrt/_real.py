"""Which version the double stands for, what that version consists of, and its real parts."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Tuple

_DOUBLES = Path(__file__).resolve().parents[2]


def _beside(name: str) -> ModuleType:
    """A module of `tests/doubles`, by its path: a child process does not have `tests` on its path."""
    known = f"_optimize_doubles_{name}"
    if known not in sys.modules:
        spec = importlib.util.spec_from_file_location(known, _DOUBLES / f"{name}.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[known] = module
        spec.loader.exec_module(module)
    return sys.modules[known]


bindings = _beside("bindings")
surfaces = _beside("surface")
generated = _beside("generated")


_known: Dict[str, Any] = surfaces.__dict__.setdefault("_extracted", {})
"""Kept in a module that outlives this one, which is imported anew for each version."""


def _real_parts(name: str) -> Tuple[Dict[str, Any], Dict[str, Any]]:
    """The surface of a version, and the namespace of its real (or, for 8.5.2, generated) bindings."""
    if name != surfaces.DERIVED:
        module = bindings.load(name)
        if name not in _known:
            _known[name] = surfaces.extract(module)
        return _known[name], dict(vars(module))
    nearest = vars(bindings.load("8.6.1")) if bindings.available("8.6.1") else {}
    surface = surfaces.read_derived()
    return surface, generated.namespace(surface, nearest)


NAME = os.environ.get("OPTIMIZE_DOUBLE_SURFACE", "")
"""The surface: 8.5.2, 8.6.1, 10.3.0, 10.13, 10.16 or 11.4."""

if not NAME:
    raise ImportError("the TensorRT double wants a version: OPTIMIZE_DOUBLE_SURFACE=10.3.0")
try:
    SURFACE, REAL = _real_parts(NAME)
except (bindings.SetupError, OSError) as error:
    raise ImportError(f"the TensorRT double of {NAME} is not set up: {error}") from error

NUMBERS: Tuple[int, ...] = tuple(int(part) for part in str(REAL["__version__"]).split(".")[:3])
"""Major, minor and patch."""

MAJOR = NUMBERS[0]
VERSION = ".".join(map(str, NUMBERS)) + "+double"

TAG = "TRT-{}{:02}{:02}".format(*NUMBERS) if MAJOR >= 10 else "TRT-{}{}{:02}".format(*NUMBERS)
"""How a calibration cache names the version: TRT-8502, TRT-100300."""
