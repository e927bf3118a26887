"""Whole passes over the test images: how long an application takes that classifies them all, again and again.

A single query is timed without its input's way into the batch; here that counts too, and Keras' `predict` gets all
images in one call, as its users call it. The model is warm at every shape that is timed, the last and smaller batch
included, so that the first pass is like the others.
"""

from __future__ import annotations

import time
from typing import Any, Dict, List, Sequence

import numpy as np

from engines.errors import UsageError
from engines.spec import Progress, Runner, RunnerSpec, quiet

IMAGES = 10_000
"""Images of a pass without a data set: as many as CIFAR-10 has for tests."""

_SHARE = 0.5
"""Of the memory that is available, what the prepared images of a pass may take."""


def measure(
    spec: Dict[str, Any],
    batches: Sequence[int],
    passes: int,
    data: str = "",
    images: int = 0,
    seed: int = 0,
    label: str = "",
    progress: Progress = quiet,
) -> List[Dict[str, Any]]:
    """Time passes of one target: a stage for a child process.

    Args:
        spec: RunnerSpec as JSON.
        batches: Images in a query.
        passes: Over all images, at each batch.
        data, seed: See `bench.inputs.feeds`.
        images: Of a pass; 0 takes all test images of `data`, or `IMAGES` random ones.
        label: Of the target, for the progress.
        progress: Told the passes done, between two of them.

    Returns:
        For each batch `batch`, `images`, `seconds` (of each pass), `mean_s`, `min_s`, `max_s`, `ms_per_image` and
        `images_per_s` (of the mean), `on` (where an original tells it), and `cpu`: `bench.telemetry.cores.between` of
        the first pass's start and the last one's end.

    Raises:
        UsageError: The images do not fit into memory, or the model takes other batches only.
        OptimizeError: The target cannot be opened.
    """
    import engines
    from bench.inputs import feeds
    from bench.telemetry import cores

    found = []
    with engines.open(RunnerSpec.from_json(spec)) as runner:
        count = images or _count(data)
        _check_memory(runner, count)
        given = feeds(runner, count, data, seed)
        for batch in batches:
            few = min(count, batch + count % batch)
            runner.bind_all({name: array[:few] for name, array in given.items()}, batch)()
            query = runner.bind_all(given, batch)
            seconds: List[float] = []
            first = cores.read()
            for done in range(passes):
                progress(f"{label}: passes at batch {batch}", done, passes)
                start = time.perf_counter()
                query()
                seconds.append(time.perf_counter() - start)
            last = cores.read()
            progress(f"{label}: passes at batch {batch}", passes, passes)
            found.append({"batch": batch, "images": count, **summary(seconds, count), "on": runner.device or None})
            found[-1]["cpu"] = cores.between(first, last)
    return found


def summary(seconds: Sequence[float], images: int) -> Dict[str, Any]:
    """Average, longest and shortest of passes over so many images; see `measure`."""
    mean = sum(seconds) / len(seconds)
    return {
        "seconds": list(seconds),
        "mean_s": mean,
        "min_s": min(seconds),
        "max_s": max(seconds),
        "ms_per_image": 1e3 * mean / images,
        "images_per_s": images / mean,
    }


def _count(data: str) -> int:
    if not data:
        return IMAGES
    from calib.datasets import open_dataset

    return len(open_dataset(data, "test", labelled=False))


def _check_memory(runner: Runner, count: int) -> None:
    """Refuse images that would make the machine swap, before they are prepared.

    Raises:
        UsageError: Names how many fit.
    """
    from bench.telemetry import proc

    bytes_each = sum(
        int(np.prod([n or 1 for n in tensor.shape[1:]])) * np.dtype(tensor.dtype).itemsize for tensor in runner.inputs
    )
    available = proc.state().get("memory_available_bytes")
    if available and count * bytes_each > _SHARE * available:
        fit = int(_SHARE * available / bytes_each)
        raise UsageError(
            f"{count} prepared images take {count * bytes_each / 2**30:.1f} GiB: half of the free memory holds {fit}",
            f"--images {fit}",
        )
