"""Run files with made-up times and known answers, and the user's own tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

import numpy as np
import pytest

from bench import runs, stats
from engines import jsonfile

Write = Callable[..., Path]

TABLES = Path(__file__).parent / "tables"


def row(target: str, top1: Optional[float], ms: Sequence[float] = (), **more: Any) -> Dict[str, Any]:
    """A measured row of one round for each of `ms`; imported where there is none."""
    entries: List[Dict[str, Any]] = [
        {"order": 0, "round": number, "started": "2024-05-01T12:00:00Z", "samples_ms": [float(value)] * 3}
        for number, value in enumerate(ms)
    ]
    cold = {name: more.pop(name) for name in ("load_ms", "first_ms") if name in more}
    for entry in entries:
        entry.update(cold)
    samples = [value for entry in entries for value in entry["samples_ms"]]
    empty: Dict[str, Any] = dict.fromkeys(runs.LATENCIES)
    about: Dict[str, Any] = {
        **{"target": target, "role": "engine", "form": "", "backend": "openvino", "precision": "fp32"},
        **{"achieved": {}, "batch": 1, "images": len(samples), "size_bytes": None},
        "dataset": {"name": "cifar10", "n": 10_000, "sha256": "ab" * 32},
        "origin": "measured" if samples else "imported",
        **(stats.summary(samples) if samples else empty),
        **{"images_per_s": None, "rounds": entries, "samples_ms": samples, "device": None, "top1": top1},
        **{"top1_drop": None, "agreement": None, "speedup": None, "flags": []},
        **{name: value for name, value in cold.items() if samples or value is not None},
    }
    return {**about, **more}


def run_of(rows: Sequence[Dict[str, Any]], **environment: Any) -> Dict[str, Any]:
    """A run of these rows."""
    return {
        "schema": runs.SCHEMA,
        "created": "2024-05-01T12:00:00Z",
        "environment": environment,
        "settings": {},
        "rows": list(rows),
        "failures": [],
    }


def noisy(ms: float, rounds: int = 10, spread: float = 0.01, seed: int = 0) -> List[float]:
    return list(ms * np.random.default_rng(seed).normal(1, spread, rounds))


@pytest.fixture()
def write(tmp_path: Path) -> Write:
    """Write rows as a run file: `write([row("a", 0.9, [1.0])], "a.json", cpu="A CPU")`."""

    def to(rows: Sequence[Dict[str, Any]], name: str = "runs.json", **environment: Any) -> Path:
        path = tmp_path / name
        value = run_of(rows, **environment)
        runs.validate(value)
        jsonfile.write(path, value)
        return path

    return to
