"""`python tests/device` runs the device tests, from any folder, installed or not."""

from __future__ import annotations

import importlib.util
import sys
import types
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

sys.path[0] = str(ROOT)
# Ours by name, since a package `tests` that somebody has installed would win over a folder without __init__.py.
package = types.ModuleType("tests")
package.__path__ = [str(ROOT / "tests")]
sys.modules["tests"] = package

missing = [name for name in ("numpy", "onnx", "onnxruntime") if importlib.util.find_spec(name) is None]
if missing:
    hint = "./install-jetson.sh, elsewhere: make setup"
    print(f"error: {sys.executable} has no {', '.join(missing)}\n  {hint}", file=sys.stderr)
    sys.exit(4)

from tests.device.report import main  # noqa: E402

sys.exit(main(sys.argv[1:]))
