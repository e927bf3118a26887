"""Runs with everything that a report may show, of made-up samples."""

from __future__ import annotations

from typing import Any, Dict, Optional, Sequence

import numpy as np

from bench import runs, stats

HOSTILE = "<script>alert(1)</script>\"'><img src=x onerror=alert(2)>&amp;</style></title>]]>--><svg/onload=alert(3)>"

_TARGETS = (
    ("int8", "engine", "", "int8", 1.0, 0.64),
    ("fp16", "engine", "", "fp16", 1.6, 0.66),
    ("fp32", "engine", "", "fp32", 2.0, 0.65),
    ("net.keras", "original", "predict", "fp32", 8.0, None),
    ("net.keras", "original", "function", "fp32", 3.0, None),
)


def run(
    batches: Sequence[int] = (1, 8),
    threads: Sequence[Optional[int]] = (1, 2),
    rounds: int = 5,
    samples: int = 30,
    word: str = "",
    targets: Sequence[Any] = _TARGETS,
) -> Dict[str, Any]:
    """A valid run with accuracy, energy, layers, flags, failures and state; `word` stands in all of its free text."""
    rng = np.random.default_rng(0)
    rows = []
    for batch in batches:
        for cpus in threads:
            for name, role, form, precision, ms, top1 in targets:
                taken = [
                    np.round(ms * batch / (cpus or 1) * rng.lognormal(0, 0.05, samples), 6).tolist()
                    for _ in range(rounds)
                ]
                rows.append(_row(name + word, role, form + word, precision, batch, cpus, taken, top1, word))
    runs.add_speedups(rows)
    state = {"clocks": f"free{word}", "load": [0.1, 0.2, 0.3], "others_share": 0.01, "cooling": [], "power_mode": "15W"}
    found = {
        "schema": runs.SCHEMA,
        "created": "2024-05-01T12:00:00Z",
        "environment": {"cpu": f"Cortex{word}", "packages": {f"p{word}": f"1{word}"}, "before": state, "after": state},
        "settings": {"rounds": rounds, "duration_s": 1.0, "data": f"cifar10{word}", "command": f"optimize bench{word}"},
        "rows": rows,
        "failures": [{"target": f"other{word}", "message": f"was killed{word}"}],
    }
    runs.validate(found)
    return found


def _row(
    name: str,
    role: str,
    form: str,
    precision: str,
    batch: int,
    threads: Optional[int],
    taken: Sequence[Sequence[float]],
    top1: Optional[float],
    word: str,
) -> Dict[str, Any]:
    samples = [value for one in taken for value in one]
    energy = {
        "rail": f"VDD_IN{word}",
        "watts": 6.0,
        "idle_watts": 2.0,
        "joules_per_image": 0.006,
        "images_per_joule": 167,
    }
    layers = [
        {"name": f"conv{i}{word}", "type": f"Conv{word}", "precision": "int8", "ms": 0.1 * (i + 1)} for i in range(3)
    ]
    return {
        **{"target": name, "role": role, "form": form, "backend": f"openvino{word}", "precision": precision},
        **{"achieved": {f"int8{word}": 36}, "batch": batch, "threads": threads, "images": batch * len(samples)},
        **{"origin": "measured", "size_bytes": 1234567, "device": None, "agreement": None, "interval": None},
        "dataset": {"name": f"cifar10{word}", "n": 100, "sha256": None},
        **stats.summary(samples),
        "images_per_s": batch * len(samples) / (sum(samples) / 1e3),
        "rounds": [
            {"order": 0, "round": n, "started": "2024-05-01T12:00:00.000+00:00", "samples_ms": one}
            for n, one in enumerate(taken)
        ],
        "samples_ms": samples,
        "top1": top1,
        "top1_drop": None if top1 is None else 65 - 100 * top1,
        "speedup": None,
        "flags": [f"unstable{word}"] if precision == "fp16" else [],
        "energy": {**energy, "joules_above_idle_per_image": 0.004} if precision == "int8" else None,
        **({"layers": layers} if precision == "int8" and threads in (1, None) else {}),
        **({"on": f"cpu{word}"} if role == "original" else {}),
    }
