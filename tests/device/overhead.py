"""What our execution loop costs for each query, against the same loop in plain C++ compiled on this machine.

    python -m tests.device.overhead --pairs 15 --seconds 1

Both drive a vector addition of few values, so that the host's work is what is measured. They run in turns, first one,
then the other, then the other way round, so that a drift of the clocks meets both. Prints one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple

from bench import spans
from engines.cuda import Context, unavailable
from engines.errors import OptimizeError
from engines.tensorrt.slots import Slot
from tests.device.kernel import PTX, VectorAdd, Work
from tests.device.world import Absent

SOURCE = Path(__file__).resolve().parent / "loop.cpp"
COUNT = 1024
"""float32 values of each buffer: 4 KiB, which any GPU adds in a few us."""

WAYS: Tuple[Tuple[str, int, bool], ...] = (("two slots", 2, True), ("one slot", 1, True), ("no copies", 2, False))
"""Name, slots and transfers: trtexec's default, `--exposeDMA`, `--noDataTransfers`."""


def program(folder: Path) -> Tuple[Optional[Path], str]:
    """Compile the C++ loop: its path, or None and why not."""
    compiler = next((name for name in (os.environ.get("CXX", ""), "g++", "c++", "clang++") if shutil.which(name)), "")
    if not compiler:
        return None, "no C++ compiler (g++)"
    out = folder / "loop"
    command = [compiler, "-O2", "-std=c++11", "-o", str(out), str(SOURCE), "-ldl"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode:
        return None, f"{compiler} does not compile loop.cpp: {' '.join(done.stdout.split())[-500:]}"
    return out, ""


def _plain(program: Path, ptx: str, seconds: float, slots: int, transfers: bool) -> Dict[str, Any]:
    words = [str(program), ptx, str(COUNT), str(seconds), str(slots), str(int(transfers))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60 + 20 * seconds)
    if done.returncode:
        raise OptimizeError(f"the C++ loop ended with {done.returncode}: {done.stderr.strip()[-300:]}")
    found: Dict[str, Any] = json.loads(done.stdout)
    return found


def _ours(gpu: Context, work: Work, streams: Any, seconds: float, slots: int, transfers: bool) -> Dict[str, Any]:
    made = [Slot(gpu, work, streams, transfers, None, False) for _ in range(slots)]  # type: ignore[arg-type]
    made[0].enqueue()
    made[0].synchronize()
    begun = time.perf_counter()
    trace = spans.measure(made, 1, warmup_ms=0, duration_s=seconds, how={"transfers": transfers, "slots": slots})
    passed = time.perf_counter() - begun
    queries = len(trace.spans) + trace.warmup
    enqueue = float(trace.enqueue.mean()) * 1e3
    return {"queries": queries, "us": 1e6 * passed / queries, "enqueue_us": enqueue, "right": work.right_result()}


def spread(values: Sequence[float]) -> Dict[str, float]:
    """Median, smallest and largest, in us."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def compare(gpu: Context, program: Path, folder: Path, pairs: int, seconds: float) -> Dict[str, Any]:
    """Run both loops in turns.

    Args:
        gpu: An open context.
        program: Of `program`.
        folder: Where the PTX file may lie.
        pairs: Runs of each.
        seconds: Of each run.

    Returns:
        `kernel` (else a copy on the device stands for it), `right`, `pairs`, `seconds`, and for each of `WAYS` the us
        for each query `ours`, `plain` and `added` (by pair), and `enqueue_added`, each as `spread` gives it.

    Raises:
        OptimizeError: The C++ loop fails.
    """
    try:
        add: Any = VectorAdd()
        (folder / "kernel.ptx").write_bytes(PTX)
        ptx = str(folder / "kernel.ptx")
    except Absent:
        add, ptx = None, "-"
    work, streams = Work(gpu, COUNT, add), (gpu.stream(), gpu.stream(), gpu.stream())
    told: Dict[str, Any] = {"kernel": add is not None, "right": True, "pairs": pairs, "seconds": seconds}
    for name, slots, transfers in WAYS:
        runs: Dict[str, List[Dict[str, Any]]] = {"ours": [], "plain": []}
        for pair in range(pairs):
            for which in ("ours", "plain") if pair % 2 == 0 else ("plain", "ours"):
                if which == "ours":
                    runs[which].append(_ours(gpu, work, streams, seconds, slots, transfers))
                else:
                    runs[which].append(_plain(program, ptx, seconds, slots, transfers))
        both = list(zip(runs["ours"], runs["plain"]))
        told["right"] = told["right"] and all(a["right"] and b["right"] for a, b in both)
        told[name] = {
            "ours": spread([a["us"] for a, _ in both]),
            "plain": spread([b["us"] for _, b in both]),
            "added": spread([a["us"] - b["us"] for a, b in both]),
            "enqueue_added": spread([a["enqueue_us"] - b["enqueue_us"] for a, b in both]),
        }
    gpu.synchronize()
    if add is not None:
        add.__exit__()
    return told


def main(words: Optional[Sequence[str]] = None) -> int:
    """Measure and print; 4 where there is no GPU or no compiler."""
    parser = argparse.ArgumentParser(prog="overhead", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--pairs", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=1.0, help="of each run")
    asked = parser.parse_args(words)
    why = unavailable()
    with tempfile.TemporaryDirectory() as folder:
        loop, missing = program(Path(folder))
        if why or loop is None:
            print(f"error: {why or missing}", file=sys.stderr)
            return 4
        with Context(0) as gpu:
            told = {"gpu": gpu.name, **compare(gpu, loop, Path(folder), asked.pairs, asked.seconds)}
    print(json.dumps(told, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
