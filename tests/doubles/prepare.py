"""Set up what the tests of TensorRT need on a machine without it: `python -m tests.doubles.prepare`.

Builds pycuda for the running Python and installs it here, compiles the CUDA driver for tests and the stub library,
downloads NVIDIA's bindings, and writes `ready.json` into the cache last. Run again, it takes a second.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any, Dict, List

from tests.doubles import bindings, pycuda_wheel, surface
from tests.doubles.cuda import build

SCHEMA = "optimize.doubles/1"


def ready() -> Dict[str, Any]:
    """What is set up for the running Python; empty where nothing is."""
    try:
        told: Dict[str, Any] = json.loads((bindings.cache() / "ready.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if told.get("schema") == SCHEMA else {}


def prepare() -> Dict[str, Any]:
    """Do all of it, and say what is done.

    Raises:
        SetupError: A part cannot be downloaded or compiled here.
    """
    _say(f"Python {sys.version.split()[0]}, cache {bindings.cache()}")
    pycuda = pycuda_wheel.install(_say)
    _say(f"pycuda {pycuda}")
    _say(f"CUDA driver for tests: {build.library()}")
    surfaces: List[str] = []
    missing: Dict[str, str] = {}
    for version in bindings.WHEELS:
        if not bindings.exists(version):
            missing[version] = f"NVIDIA has no wheel of it for Python 3.{sys.version_info[1]} on this machine"
        else:
            new = not bindings.available(version)
            bindings.fetch(version)
            surfaces.append(version)
            _say(f"TensorRT {version}: bindings {'downloaded' if new else 'here'}")
    if surface.shared_file() is None:
        missing[surface.DERIVED] = "the file that describes it is not here (../shared/reference)"
    else:
        surfaces.insert(0, surface.DERIVED)
        _say(f"TensorRT {surface.DERIVED}: made from its description")
    for version, why in missing.items():
        _say(f"TensorRT {version}: left out, {why}")
    told = {"schema": SCHEMA, "surfaces": surfaces, "missing": missing, "pycuda": pycuda}
    _write(bindings.cache() / "ready.json", json.dumps(told, indent=1) + "\n")
    return told


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=str(path.parent))
    with os.fdopen(handle, "w", encoding="utf-8") as file:
        file.write(text)
    os.replace(name, str(path))


def _say(line: str) -> None:
    print(line, flush=True)


def main() -> int:
    """Set everything up; 1 where that is not possible."""
    try:
        prepare()
    except (bindings.SetupError, build.CompileError, pycuda_wheel.WheelError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
