"""The pins of each JetPack, as far as they can be judged offline; .ci/jetson asks the index for the files."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def resolving() -> Any:
    spec = importlib.util.spec_from_file_location("aarch64_resolve", str(ROOT / ".ci" / "aarch64_resolve.py"))
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(params=["jetpack5", "jetpack6", "jetpack7"])
def target(request: pytest.FixtureRequest, resolving: Any) -> Any:
    return next(one for one in resolving.TARGETS if one.name == request.param)


def test_every_direct_dependency_is_pinned_within_its_bounds(resolving: Any, target: Any) -> None:
    pins = resolving.pins(ROOT / "constraints" / f"{target.name}.txt")
    for line in resolving.requirements(resolving.ON_A_BOARD):
        wanted = Requirement(line)
        if wanted.marker and not wanted.marker.evaluate(resolving.marker_values(target)):
            continue
        name = resolving._normal(wanted.name)
        if name == "typing-extensions" and target.name != "jetpack5":
            continue  # held back by TensorFlow 2.12 alone
        assert name in pins, f"{name} is not pinned"
        assert wanted.specifier.contains(pins[name]), f"{name} {pins[name]} is outside {wanted.specifier}"


def test_what_is_exempt_is_pinned_and_says_where_it_comes_from(resolving: Any, target: Any) -> None:
    pins = resolving.pins(ROOT / "constraints" / f"{target.name}.txt")
    assert {"tensorrt", "pycuda"} <= {one.name for one in target.exemptions}
    for one in target.exemptions:
        assert one.name in pins and len(one.source) > 10
    assert set(target.pure) <= set(pins)


def test_only_a_version_of_nvidias_takes_a_name_that_pypi_has(resolving: Any, target: Any) -> None:
    pins = resolving.pins(ROOT / "constraints" / f"{target.name}.txt")
    exempt = {one.name for one in target.exemptions}
    assert ("tensorflow" in exempt) == ("+nv" in pins["tensorflow"])


def test_tags_end_at_the_boards_glibc(resolving: Any) -> None:
    tags = resolving.platforms("2.31")
    assert tags[0] == "manylinux_2_31_aarch64" and tags[-2:] == ["manylinux_2_17_aarch64", "manylinux2014_aarch64"]


@pytest.mark.parametrize("line", ["numpy>=1.23", "numpy", "numpy==1.23.5; python_version < '3.9'"])
def test_a_constraint_that_is_no_plain_pin_is_refused(resolving: Any, tmp_path: Path, line: str) -> None:
    (tmp_path / "pins.txt").write_text(f"# words\nonnx==1.14.1  # why\n{line}\n")
    with pytest.raises(SystemExit, match="not a plain name==version"):
        resolving.pins(tmp_path / "pins.txt")


def test_pip_takes_the_targets_markers(resolving: Any, target: Any, tmp_path: Path) -> None:
    """Of two requirements that name a missing folder, pip complains of the one whose marker holds on the board."""
    lines = [f"x @ {(tmp_path / name).as_uri()} ; platform_machine == '{name}'" for name in ("aarch64", "x86_64")]
    (tmp_path / "requirements.txt").write_text("\n".join(lines))
    words = ["install", "--dry-run", "--no-index", "--no-deps", "-r", str(tmp_path / "requirements.txt")]
    line = [sys.executable, "-c", resolving._PIP, json.dumps(resolving.marker_values(target)), *words]
    done = subprocess.run(line, capture_output=True, text=True)
    assert done.returncode and "/aarch64" in done.stdout + done.stderr
    assert "/x86_64" not in done.stdout + done.stderr.replace("Ignoring x", "")
