"""Fixtures that every floor shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest
from hypothesis import settings

# No test asserts a time: a loaded machine is slow. What every change must pass draws the same examples each time, and
# fewer: it runs on five Pythons.
settings.register_profile("project", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("ci" if "CI" in os.environ else "project")

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(ROOT))  # `tests.doubles` is imported by that name, here and in `python -m tests.doubles.prepare`
pytest_plugins = ["tests.doubles.plugin", "tests.servers.plugin"]


MARKS = {
    "tests/crash": "slow",
    "tests/optimize/fleet": "slow",
    "tests/optimize/serving": "slow",
    "tests/optimize/ship/repository": "slow",
    "tests/optimize/ship/stores": "slow",
    "tests/optimize/ship": "journey",
}
"""What tests of a folder are marked with: with real servers, or a process killed at every call, they take minutes."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: List[pytest.Item]) -> None:
    """Mark by folder, the innermost that is named, before tests are chosen by their marks."""
    for item in items:
        where = item.path.relative_to(ROOT).as_posix() if ROOT in item.path.parents else ""
        mark = next((MARKS[folder] for folder in MARKS if where.startswith(f"{folder}/")), "")
        if mark:
            item.add_marker(mark)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real CIFAR-10 images and a real model; tests that need it skip where it is missing."""
    folder = ROOT.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("the shared data and models are not here (../shared)")
    return folder


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Print what tests have counted by `record_property("count", [what, number])`, also in other processes."""
    counts: Dict[str, int] = {}
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "count" and report.when == "call":
                counts[value[0]] = counts.get(value[0], 0) + value[1]
    for what, count in sorted(counts.items()):
        terminalreporter.write_line(f"{what}: {count}")
