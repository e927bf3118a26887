"""Fixtures that every floor shares."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from hypothesis import settings

# No test asserts a time: a loaded machine is slow. What every change must pass draws the same examples each time, and
# fewer: it runs on five Pythons.
settings.register_profile("project", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True, max_examples=25)
settings.load_profile("ci" if "CI" in os.environ else "project")

ROOT = Path(__file__).resolve().parent.parent

sys.path.insert(0, str(ROOT))  # `tests.doubles` is imported by that name, here and in `python -m tests.doubles.prepare`
pytest_plugins = ["tests.doubles.plugin"]


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with real CIFAR-10 images and a real model; tests that need it skip where it is missing."""
    folder = ROOT.parent / "shared"
    if not (folder / "models").is_dir():
        pytest.skip("the shared data and models are not here (../shared)")
    return folder
