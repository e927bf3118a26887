"""Small real shipments, and a node that gets them without a store."""

from __future__ import annotations

import importlib
import shutil
from pathlib import Path
from typing import Any, Callable, Dict

import pytest

from optimize.ship import golden, node, records
from tests.optimize.ship import small


@pytest.fixture(scope="session")
def shipments(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """`shipments(seed, ...)`: a shipment of that seed, made once; do not change its files."""
    known: Dict[str, Path] = {}

    def get(seed: int, **more: Any) -> Path:
        key = f"{seed} {sorted(more.items())}"
        if key not in known:
            known[key] = small.made(tmp_path_factory.mktemp("shipment") / "it", seed, **more)
        return known[key]

    return get


@pytest.fixture
def same_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Golden inputs run in the process of the test and are hardly timed: the same work, without its children."""
    stay_here(monkeypatch)


def stay_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """See `same_process`."""

    def call(target: str, arguments: Dict[str, Any], progress: Any = None, *_: Any) -> Any:
        module, _, name = target.partition(":")
        return getattr(importlib.import_module(module), name)(**arguments)

    monkeypatch.setattr(golden.child, "call", call)
    monkeypatch.setattr(golden, "_WARMUP_S", 0.0)
    monkeypatch.setattr(golden, "_DURATION_S", 0.001)


@pytest.fixture
def place(tmp_path: Path, same_process: None) -> Path:
    """The folder of a node that is not there yet."""
    return tmp_path / "node"


@pytest.fixture
def pulled(place: Path, shipments: Callable[..., Path]) -> Callable[..., str]:
    """`pulled(seed, tag)`: a version of that seed is put on the node as `optimize pull` does; returns its variant."""

    def put(seed: int, tag: str = "latest", **more: Any) -> str:
        source = shipments(seed, **more)
        variant = small.variant(source)
        with node.locked(place):
            pass
        target = records.versions(place) / variant
        if not target.exists():
            shutil.copytree(source, target)
        node.received(place, variant, "linear-fp32", tag, f"sha256:{seed:064x}", "file:///store")
        return variant

    return put
