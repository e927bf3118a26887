"""Dockerfile.l4t, as far as it can be judged without Docker; .ci/jetson lints it besides."""

from __future__ import annotations

import re
from fnmatch import fnmatch
from pathlib import Path
from typing import List, Tuple

import pytest

ROOT = Path(__file__).resolve().parent.parent


def steps() -> List[Tuple[str, str]]:
    """Instruction and words of each step, continuation lines joined."""
    text = (ROOT / "Dockerfile.l4t").read_text(encoding="utf-8")
    text = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE)
    lines = re.sub(r"\\\n", " ", text).splitlines()
    return [(line.split()[0], line.split(None, 1)[1].strip()) for line in lines if line.strip()]


def words(instruction: str) -> List[str]:
    return [text for name, text in steps() if name == instruction]


def sent(path: str) -> bool:
    """Whether .dockerignore lets a path through: the last matching line decides."""
    out = True
    for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.lstrip("!")
        if line and not line.startswith("#") and (fnmatch(path, pattern) or path.split("/")[0] == pattern):
            out = line.startswith("!")
    return out


def test_every_argument_is_used_and_has_a_default() -> None:
    for argument in words("ARG"):
        name, _, default = argument.partition("=")
        assert default, f"{name} has no default"
        assert any(f"${{{name}}}" in text for instruction, text in steps() if instruction != "ARG"), f"{name} is unused"


def test_every_source_exists_and_is_sent_to_the_builder() -> None:
    sources = [source for text in words("COPY") for source in text.split()[:-1]]
    assert {"pyproject.toml", "optimize", "bench", "calib", "engines", "constraints"} <= set(sources)
    for source in sources:
        assert (ROOT / source).exists() and sent(source), source
    assert not sent("tests") and not sent(".git") and not sent("shared")


def test_what_the_package_needs_is_copied() -> None:
    pytest.importorskip("setuptools")
    from setuptools import find_packages

    copied = {source for text in words("COPY") for source in text.split()[:-1]}
    packages = find_packages(str(ROOT), include=["optimize", "bench", "calib", "engines"])
    assert packages and set(packages) <= copied


def test_the_default_image_and_pins_belong_together() -> None:
    defaults = dict(argument.split("=", 1) for argument in words("ARG"))
    assert defaults["L4T_TAG"] == "r35.4.1" and words("FROM") == ["nvcr.io/nvidia/l4t-jetpack:${L4T_TAG}"]
    pins = (ROOT / "constraints" / f"{defaults['JETPACK']}.txt").read_text(encoding="utf-8")
    assert "tensorflow==2.12.0+nv23.06" in pins and defaults["TENSORFLOW_WHEELS"] == "v512"


def test_every_pip_line_has_the_pins_and_none_asks_for_tensorrt() -> None:
    lines = [line for text in words("RUN") for line in text.split("&&") if "pip install" in line]
    assert len(lines) >= 4
    for line in lines:
        assert "/src/constraints/${JETPACK}.txt" in line or re.search(r"install pip==[\d.]+\s*$", line), line
        assert "tensorrt" not in line


def test_it_ends_as_another_user_with_an_entry_point() -> None:
    assert words("USER")[-1] not in ("root", "0")
    made = next(i for i, (_, text) in enumerate(steps()) if "useradd" in text)
    assert made < next(i for i, (name, _) in enumerate(steps()) if name == "USER")
    assert words("ENTRYPOINT") == ['["optimize"]']
