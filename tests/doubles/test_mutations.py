"""Mistakes that the double is for: each, made in a copy of the sources, is found; without any, the program passes."""

from __future__ import annotations

import json
import os
import re
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple, Tuple

import numpy as np
import pytest

from tests.doubles.samples import cnn, expected

pytestmark = pytest.mark.tensorrt

ROOT = Path(__file__).resolve().parents[2]
SURFACES = ("8.5.2", "10.3.0", "11.4")
"""One of each major version: every mistake runs a process."""


class Mistake(NamedTuple):
    """An edit of the sources, and the words by which it is found."""

    file: str
    right: str
    wrong: str
    found: str
    weak: bool = False  # only in versions that calibrate


MISTAKES = {
    "a misspelt attribute": Mistake(
        "program.py", "config.int8_calibrator =", "config.int8_calibratr =", "no attribute", True
    ),
    "a misspelt call": Mistake("program.py", "config.clear_flag(", "config.unset_flag(", "no attribute"),
    "a renamed argument": Mistake("program.py", "pool_size=32", "size=32", "incompatible function arguments"),
    "an address that is no number": Mistake(
        "program.py", '("x", source.address)', '("x", str(source.address))', "incompatible function arguments"
    ),
    "a removed flag": Mistake("program.py", "BuilderFlag.TF32", "BuilderFlag.STRICT_TF32", "no attribute"),
    "a skipped synchronise": Mistake(
        "program.py", "    stream.synchronize()\n    return [f", "    return [f", "destroyed before its work was done"
    ),
    "a synchronise that comes too late": Mistake(
        "program.py",
        "    stream.synchronize()\n    return [",
        "    early = outputs.array.ravel().tolist()\n    stream.synchronize()\n    return early or [",
        "outputs",
    ),
    "a calibration that does not wait": Mistake(
        "program.py", "            stream.synchronize()\n", "", "calibration ranges", True
    ),
    "an unpopped context": Mistake("engines/cudaprimary.py", "stack.pop()", "pass", "invalid device context"),
    "a leaked buffer": Mistake(
        "program.py",
        "source, target = gpu.allocate(",
        "ctypes.CDLL('libcuda.so.1').cuMemAlloc_v2(ctypes.byref(ctypes.c_uint64()), ctypes.c_size_t(4))\n"
        "    source, target = gpu.allocate(",
        "left: live_allocations",
    ),
    "a short calibration": Mistake(
        "program.py",
        'fed["batches"] += 1\n',
        'fed["batches"] += 1\n            names[99 if fed["batches"] == 2 else 0]\n',
        "calibration batches",
        True,
    ),
}
"""By what they are called."""


def _run(folder: Path) -> Tuple[int, str]:
    """Run the program over the sources in a folder: its exit status and what was found wrong."""
    model = folder / "model.onnx"
    model.write_bytes(cnn())
    paths = [str(folder), os.environ["PYTHONPATH"], str(ROOT)]
    ran = subprocess.run(
        [sys.executable, str(folder / "program.py"), str(model)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        cwd=str(folder),
    )
    if ran.returncode:
        return ran.returncode, ran.stderr
    return 0, _wrong(json.loads(ran.stdout.strip().splitlines()[-1]))


def _wrong(told: Any) -> str:
    """What is wrong in what the program told, or ""."""
    want = expected(cnn(), np.array(told["inputs"], np.float32)).ravel()
    if not np.allclose(told["outputs"], want, rtol=1e-5, atol=1e-5):
        return "outputs"
    held = [f"left: {name}" for name, count in told["left"].items() if count]
    if held or told["calibration"] is None:
        return ", ".join(held)
    if told["calibration"]["batches"] != told["calibration"]["wanted"]:
        return "calibration batches"
    digits = re.search(r"^x: ([0-9a-f]{8})$", told["calibration"]["cache"], re.MULTILINE)
    assert digits is not None
    top = 127 * struct.unpack("!f", bytes.fromhex(digits.group(1)))[0]
    return "" if 1.9 < top <= 2.0 else "calibration ranges"


@pytest.fixture
def sources(tmp_path: Path, trt: Any, surface: str) -> Path:
    """A copy of `engines/` and of the program."""
    if surface not in SURFACES:
        pytest.skip("one version of each major is enough")
    shutil.copytree(ROOT / "engines", tmp_path / "engines", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "tests" / "doubles" / "program.py", tmp_path / "program.py")
    return tmp_path


def test_the_program_passes(sources: Path) -> None:
    assert _run(sources) == (0, "")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_found(sources: Path, trt: Any, name: str) -> None:
    mistake = MISTAKES[name]
    if mistake.weak and not hasattr(trt, "IInt8EntropyCalibrator2"):
        pytest.skip("this version does not calibrate")
    path = sources / mistake.file
    text = path.read_text(encoding="utf-8")
    assert text.count(mistake.right) >= 1, f"{mistake.file} has no {mistake.right!r} any more"
    path.write_text(text.replace(mistake.right, mistake.wrong), encoding="utf-8")
    status, words = _run(sources)
    assert words, f"{name} was not found"
    assert mistake.found in words, (status, words)
