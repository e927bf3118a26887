"""Counters of a served model, in the form of Triton's statistics extension.

https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_statistics.md
"""

from __future__ import annotations

import threading
import time
from typing import Any, Dict, NamedTuple, Sequence

from engines.served import DURATIONS


class Times(NamedTuple):
    """Of one request, nanoseconds: as a whole, waiting, and the three parts of computing its batch."""

    success: int
    queue: int
    compute_input: int
    compute_infer: int
    compute_output: int


class Statistics:
    """What one model has done since it was opened."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._requests = self._failed = self._failed_ns = 0
        self._inferences = self._executions = self._last_ms = 0
        self._ns = dict.fromkeys(DURATIONS, 0)
        self._batches: Dict[int, Dict[str, int]] = {}

    def ran(self, requests: Sequence[Times], samples: int, batch: int) -> None:
        """Count what ran at once.

        Args:
            requests: Each one's times.
            samples: In all of them.
            batch: Samples that were computed: with what filled the engine's batch up.
        """
        with self._lock:
            self._last_ms = int(time.time() * 1e3)
            self._requests += len(requests)
            self._inferences += samples
            self._executions += 1
            for one in requests:
                for key in DURATIONS:
                    self._ns[key] += getattr(one, key)
            if requests:
                seen = self._batches.setdefault(batch, dict.fromkeys(("count", *DURATIONS[2:]), 0))
                seen["count"] += 1
                for key in DURATIONS[2:]:
                    seen[key] += getattr(requests[0], key)

    def failed(self, nanoseconds: int) -> None:
        """Count a request that was refused or failed."""
        with self._lock:
            self._failed += 1
            self._failed_ns += nanoseconds

    def to_json(self, name: str, version: str) -> Dict[str, Any]:
        """As `/v2/models/MODEL/stats` tells it."""
        with self._lock:
            counted = {key: {"count": self._requests, "ns": self._ns[key]} for key in DURATIONS}
            batches = [
                {
                    "batch_size": size,
                    **{key: {"count": seen["count"], "ns": seen[key]} for key in DURATIONS[2:]},
                }
                for size, seen in sorted(self._batches.items())
            ]
            one = {
                "name": name,
                "version": version,
                "last_inference": self._last_ms,
                "inference_count": self._inferences,
                "execution_count": self._executions,
                "inference_stats": {**counted, "fail": {"count": self._failed, "ns": self._failed_ns}},
                "batch_stats": batches,
            }
        return {"model_stats": [one]}
