"""`optimize bench --tune`: which CPU threads and how many queries at a time suit an engine on this machine.

The candidates are measured like everything else, in alternating rounds, and stand in the run file; what won is kept in
the bundle: `threads` take effect when it is loaded, `streams` are what serves most images a second.
"""

from __future__ import annotations

from pathlib import Path
from statistics import mean
from typing import Any, Callable, Dict, Iterable, List, Sequence, Tuple

import numpy as np

from bench import stats
from bench.rounds import Target
from engines import manifest
from engines.device import facts

_WORTH = 1.02
"""A setting other than the default must gain so much: less is within what processes differ by."""

_MOST_STREAMS = 8


def candidates(cores: int) -> List[Tuple[int, int]]:
    """CPU threads (0: the runtime's default) and streams to try: powers of two below the cores, and the cores.

    >>> candidates(6)
    [(0, 1), (1, 1), (2, 1), (4, 1), (0, 2), (0, 4), (0, 6)]
    """
    powers = [1 << bits for bits in range(12) if 1 << bits < cores]
    streams = [count for count in (*powers, cores) if 1 < count <= _MOST_STREAMS]
    return [(0, 1), *((count, 1) for count in powers), *((0, count) for count in streams)]


def settings() -> List[Tuple[int, int]]:
    """`candidates` for this machine."""
    return candidates(int(facts()["cores"] or 1))


def untuned(target: Target) -> Target:
    """A target without what an earlier `--tune` kept."""
    return target._replace(spec=target.spec.with_(options={**target.spec.options, "tuned": {}}))


def best(rows: Iterable[Dict[str, Any]]) -> Dict[str, Dict[str, Any]]:
    """The best settings of one engine, by batch.

    Args:
        rows: Of the engine, with `threads` and `streams` as of `candidates`.

    Returns:
        By batch (as text): `threads` with the least median latency of single queries, `p50_ms`, `streams` with the most
        images a second, `images_per_s`; the default where nothing is better by 2% and, with enough rounds, for sure.
    """
    found: Dict[str, Dict[str, Any]] = {}
    by_batch: Dict[int, List[Dict[str, Any]]] = {}
    for row in rows:
        by_batch.setdefault(row["batch"], []).append(row)
    for batch, own in by_batch.items():
        usual = next((row for row in own if (row["threads"], row["streams"]) == (None, None)), None)
        if usual is None:
            continue
        single = _better(usual, [row for row in own if row["streams"] is None], _latencies)
        most = _better(usual, [row for row in own if row["threads"] is None], _times)
        found[str(batch)] = {
            "threads": single["threads"] or 0,
            "p50_ms": single["p50_ms"],
            "streams": most["streams"] or 1,
            "images_per_s": most["images_per_s"],
        }
    return found


def _better(
    usual: Dict[str, Any], rows: Sequence[Dict[str, Any]], times: Callable[[Dict[str, Any]], List[List[float]]]
) -> Dict[str, Any]:
    """The row with the least median time, if that is worth it and, with enough rounds, no chance; else the usual."""
    found = min(rows, key=lambda row: float(np.median(np.concatenate(times(row)))))
    ratio = stats.ratio_interval(times(usual), times(found))
    return found if ratio.ratio >= _WORTH and (ratio.low is None or ratio.low > 1) else usual


def _latencies(row: Dict[str, Any]) -> List[List[float]]:
    return [entry["samples_ms"] for entry in row["rounds"]]


def _times(row: Dict[str, Any]) -> List[List[float]]:
    """Milliseconds for which the machine is busy with a query, of each round: one over the rate."""
    return [
        [1e3 / entry["queries_per_s"]] if row["streams"] else [mean(entry["samples_ms"])] for entry in row["rounds"]
    ]


def keep(run: Dict[str, Any], targets: Sequence[Target]) -> List[Dict[str, Any]]:
    """Write the best settings of each engine into its bundle.

    Returns:
        `name`, `path`, `tuned` (see `best`) of each bundle.

    Raises:
        DamagedError: A manifest is not what it was.
    """
    kept = []
    bundles = {target.name: target for target in targets if target.spec.kind == "bundle"}
    for name, target in bundles.items():
        tuned = best(row for row in run["rows"] if row["target"] == name and row["role"] == "engine")
        path = Path(target.spec.path)
        about = manifest.read(path)
        about["options"] = {**about["options"], "tuned": {**about["options"].get("tuned", {}), **tuned}}
        manifest.write(path, about)
        kept.append({"name": name, "path": str(path), "tuned": tuned})
    return kept


def lines(kept: Sequence[Dict[str, Any]]) -> List[str]:
    """What `keep` wrote, a line for each engine and batch."""
    return [
        f"{one['name']}, batch {batch}: {_threads(found['threads'])} for single queries ({found['p50_ms']:.4g} ms), "
        f"{found['streams']} quer{'y' if found['streams'] == 1 else 'ies'} at a time for throughput "
        f"({found['images_per_s']:.4g} images/s)"
        for one in kept
        for batch, found in one["tuned"].items()
    ]


def _threads(count: int) -> str:
    return f"{count} CPU thread{'s' * (count > 1)}" if count else "the runtime's own threads"
