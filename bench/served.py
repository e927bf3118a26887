"""Where the time of a served query goes: the network and both ends' encoding, waiting in the server, computing there.

The server tells its part, by statistics in Triton's form, asked before and after the timed queries and never between.
What is left of the wall time is called network: the wire, HTTP, and turning arrays into bytes at both ends.
"""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np
import numpy.typing as npt

from engines.spec import Runner

SHARED = "others asked too"
"""The flag of a cell whose server answered requests that were not ours: the shares hold theirs as well."""

SHARES = ("network_ms", "queue_ms", "compute_ms", "input_ms", "output_ms")


class Watch:
    """The server's counters before and after the timed queries of one cell; nothing where a runner has none."""

    def __init__(self, runner: Runner) -> None:
        self._ask: Optional[Callable[[], Optional[Dict[str, Any]]]] = getattr(runner, "statistics", None)
        self._seen: List[Optional[Dict[str, Any]]] = []

    def noting(self, mark: Callable[[], None]) -> Callable[[], None]:
        """`mark`, which the loop calls before the first query and after the last, with the counters read beside it."""
        if self._ask is None:
            return mark

        def both() -> None:
            if not self._seen:
                self.look()
                mark()
            else:
                mark()
                self.look()

        return both

    def look(self) -> None:
        """Read the counters now."""
        if self._ask is not None:
            self._seen.append(self._ask())

    def cell(self, samples: npt.NDArray[Any]) -> Dict[str, Any]:
        """What a cell keeps: `served`, and the flag where others asked meanwhile.

        Args:
            samples: Wall times of the timed queries, ns.
        """
        if len(self._seen) != 2 or self._seen[0] is None or self._seen[1] is None:
            return {}
        found = shares(self._seen[0], self._seen[1], float(np.mean(samples)))
        if found is None:
            return {}
        return {"served": found, **({"flags": [SHARED]} if found["requests"] > len(samples) else {})}


def shares(before: Mapping[str, Any], after: Mapping[str, Any], wall_ns: float) -> Optional[Dict[str, Any]]:
    """Mean times of a request, from two readings of `statistics`.

    Args:
        before, after: Of `engines.served`.
        wall_ns: Mean wall time of a query, ns.

    Returns:
        `wall_ms`; `network_ms`, `queue_ms`, `compute_ms` and, apart from it, `input_ms` and `output_ms` (the copies
        before and after); `requests`, and `batch`, the mean samples of what ran at once. None where nothing was counted
        between the two: the server was started anew, say.
    """
    from engines.served import DURATIONS

    requests = after["requests"] - before["requests"]
    executions = after["executions"] - before["executions"]
    if requests < 1 or executions < 1:
        return None
    success, queue, given, compute, taken = ((after[key] - before[key]) / requests / 1e6 for key in DURATIONS)
    wall = wall_ns / 1e6
    return {
        "wall_ms": wall,
        "network_ms": max(0.0, wall - success),
        "queue_ms": queue,
        "compute_ms": compute,
        "input_ms": given,
        "output_ms": taken,
        "requests": requests,
        "batch": (after["inferences"] - before["inferences"]) / executions,
    }


def of_row(rounds: Sequence[Mapping[str, Any]]) -> Optional[Dict[str, Any]]:
    """The shares of a row: the means over its rounds, weighted by their requests; None where no round has them."""
    found = [entry["served"] for entry in rounds if entry.get("served")]
    total = sum(one["requests"] for one in found)
    if not total:
        return None
    means = {key: sum(one[key] * one["requests"] for one in found) / total for key in ("wall_ms", *SHARES, "batch")}
    return {**means, "requests": total}
