"""Seven mistakes made on purpose in a copy of `engines/`: each makes `pytest -m tensorrt` fail, for the right reason.

`test_mutations.py` does the same to a program that uses the doubles; here it is the project's own code.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Tuple

import pytest

from tests.doubles import prepare

pytestmark = [pytest.mark.tensorrt, pytest.mark.slow]

ROOT = Path(__file__).resolve().parents[2]
FOLDERS = ("engines", "calib", "bench", "optimize", "tests/device", "tests/doubles", "tests/servers")
FILES = ("pyproject.toml", "tests/conftest.py")

SUBSET = "tests/device/test_contract.py"
"""Every case of the device tests: builds, calibrates, runs and refuses, in a few seconds."""

SURFACES = ("10.3.0", "10.13", "8.6.1", "8.5.2")
"""Those with a calibrator and flags; the first that is set up."""


class Mistake(NamedTuple):
    """An edit of one file, whose text stands there exactly once, and words of the failure."""

    file: str
    right: str
    wrong: str
    found: Tuple[str, ...]
    subset: str = SUBSET


MISTAKES = {
    "a misspelt attribute": Mistake(
        "engines/tensorrt/attempt.py",
        "config.int8_calibrator = ",
        "config.int8_calibratr = ",
        ("has no attribute 'int8_calibratr'",),
    ),
    "a renamed argument": Mistake(
        "engines/tensorrt/attempt.py",
        "config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, workspace)",
        "config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, size=workspace)",
        ("engine.fp32", "set_memory_pool_limit(): incompatible function arguments"),
    ),
    "a removed flag": Mistake(
        "engines/tensorrt/attempt.py",
        "config.clear_flag(trt.BuilderFlag.TF32)",
        "config.clear_flag(trt.BuilderFlag.STRICTER_TYPES)",
        ("engine.fp32", "no attribute 'STRICTER_TYPES'"),
    ),
    "a skipped synchronise": Mistake(
        "engines/tensorrt/run.py",
        "            launch()\n            wait()\n",
        "            launch()\n",
        ("engine.fp32", "agrees with ONNX Runtime"),
    ),
    "an unpopped context": Mistake(
        "engines/cudaprimary.py",
        "            stack.pop()\n",
        "            pass\n",
        ("(error 201)",),  # CUDA_ERROR_INVALID_CONTEXT, of the call after the pop that was left out
        "tests/device/test_cuda_cases.py::test_every_case_holds_or_says_what_is_missing[cuda.buffers]",
    ),
    "a leaked buffer": Mistake(
        "engines/cudaobjects.py",
        '    kind = "device buffer"\n',
        '    kind = "device buffer"\n    kept: list = []\n\n'
        "    def free(self) -> None:\n        self.kept.append(self._raw)\n        self._gpu.disown(self)\n",
        ("device buffers not freed",),
    ),
    "a short calibration": Mistake(
        "engines/tensorrt/calibrator.py",
        "            if self.fed == self.count:\n",
        "            if self.fed == self.count - 1:\n",
        ("engine.int8_implicit", "TensorRT calibrated on 3 of 4 batches"),
    ),
    "a calibration that does not wait": Mistake(
        "engines/tensorrt/calibrator.py",
        "                self._stream.synchronize()\n",
        "",
        ("engine.int8_implicit",),
    ),
}
"""The seven, and one more, by what they are called."""


@pytest.fixture(scope="module")
def surface_of_all() -> str:
    """The version for all of them."""
    ready = prepare.ready().get("surfaces", [])
    found = next((name for name in SURFACES if name in ready), "")
    if not found:
        pytest.skip("no TensorRT double with a calibrator is set up: python -m tests.doubles.prepare")
    return found


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A copy of the sources, without what Python caches of them."""
    tree = tmp_path_factory.mktemp("copy")
    for name in FOLDERS:
        shutil.copytree(ROOT / name, tree / name, ignore=shutil.ignore_patterns("__pycache__", "reports"))
    for name in FILES:
        shutil.copy(ROOT / name, tree / name)
    yield tree
    shutil.rmtree(tree)


def _run(tree: Path, surface: str, subset: str = SUBSET) -> Any:
    words = [sys.executable, "-m", "pytest", "-vv", "-m", "tensorrt", "--surface", surface, "-p", "no:cacheprovider"]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run([*words, subset], cwd=str(tree), env=environment, capture_output=True, text=True, timeout=600)


def test_the_copy_as_it_is_passes(copy: Path, surface_of_all: str) -> None:
    done = _run(copy, surface_of_all)
    assert done.returncode == 0, done.stdout[-3000:]
    assert "skipped" not in done.stdout


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_makes_the_tests_fail(name: str, copy: Path, surface_of_all: str) -> None:
    mistake = MISTAKES[name]
    path = copy / mistake.file
    text = path.read_text(encoding="utf-8")
    times = text.count(mistake.right)
    assert times == 1, f"{mistake.file} has {mistake.right!r} {times} times: change this mistake with the code"
    path.write_text(text.replace(mistake.right, mistake.wrong), encoding="utf-8")
    try:
        done = _run(copy, surface_of_all, mistake.subset)
    finally:
        path.write_text(text, encoding="utf-8")
    # 1: tests failed; below 0: a context that is still pushed makes pycuda end the interpreter besides
    assert done.returncode == 1 or done.returncode < 0, f"{name} was not found:\n{done.stdout[-3000:]}{done.stderr}"
    for words in mistake.found:
        assert words in done.stdout, done.stdout[-3000:]
