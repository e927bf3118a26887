"""Whether the tail estimates keep what they promise: `python -m bench.tail.coverage`, on series whose truth is known.

Series with known tails: how often the band holds the true quantile, and how far its upper end lies above it. Series
that are not as the theory asks: how often they are refused or declustered. Independent ones: how often refused.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import json
import sys
from typing import Any, Callable, Dict, List, Tuple

import numpy as np
import numpy.typing as npt

from bench.tail import estimate, pareto

Make = Callable[[np.random.Generator, int], npt.NDArray[Any]]

PROBABILITY = 1e-5


def _pareto(shape: float) -> Tuple[Make, float]:
    """Excesses of a GPD over 1 ms, and the value that one in 100,000 exceeds."""

    def make(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
        return 1 + pareto.excess(rng.random(n), np.full(n, shape), np.full(n, 0.05))

    true = pareto.excess(np.array([PROBABILITY]), np.array([shape]), np.array([0.05]))
    return make, 1 + float(true[0])


def _body_and_tail(shape: float) -> Tuple[Make, float]:
    """Normal, but for the slowest 2%, whose excesses are of a GPD."""
    share, begins = 0.02, 1.05

    def make(rng: np.random.Generator, n: int) -> npt.NDArray[Any]:
        body = np.minimum(rng.normal(1.0, 0.02, n), begins)
        tail = begins + pareto.excess(rng.random(n), np.full(n, shape), np.full(n, 0.03))
        return np.where(rng.random(n) < share, tail, body)

    true = pareto.excess(np.array([PROBABILITY / share]), np.array([shape]), np.array([0.03]))
    return make, begins + float(true[0])


def _filtered(rng: np.random.Generator, n: int, keep: float) -> npt.NDArray[Any]:
    """Normal values of an autoregression of the first order, variance 1."""
    from scipy.signal import lfilter

    return np.asarray(lfilter([np.sqrt(1 - keep**2)], [1, -keep], rng.normal(0, 1, n)))


def _modes(rng: np.random.Generator, n: int, dwell: float) -> npt.NDArray[Any]:
    """0 or 1, switching once in `dwell` values on average."""
    return np.asarray(np.cumsum(rng.random(n) < 1 / dwell) % 2, np.float64)


KNOWN: Dict[str, Tuple[Make, float]] = {
    **{f"GPD, shape {shape:g}": _pareto(shape) for shape in (-0.3, 0.0, 0.2)},
    **{f"normal body, GPD tail, shape {shape:g}": _body_and_tail(shape) for shape in (-0.3, 0.0, 0.2)},
}

UNSOUND: Dict[str, Make] = {
    "autoregression 0.5": lambda rng, n: 1 + 0.02 * _filtered(rng, n, 0.5),
    "autoregression 0.95": lambda rng, n: 1 + 0.02 * _filtered(rng, n, 0.95),
    "drift of one sigma": lambda rng, n: 1 + 0.02 * (rng.normal(0, 1, n) + np.linspace(0, 1, n)),
    "warm-up": lambda rng, n: 1 + 0.02 * (rng.gamma(4, 0.5, n) + 3 * np.exp(-np.arange(n) / (n / 20))),
    "sine": lambda rng, n: 1 + 0.02 * (rng.normal(0, 1, n) + 0.5 * np.sin(np.arange(n) * 2 * np.pi / 97)),
    "a pause each 100 queries": lambda rng, n: 1 + 0.02 * rng.gamma(4, 0.5, n) + 0.2 * (np.arange(n) % 100 == 0),
    "two modes in turn": lambda rng, n: 1 + 0.02 * rng.normal(0, 1, n) + 0.1 * _modes(rng, n, n / 40),
    "one step": lambda rng, n: 1 + 0.02 * rng.normal(0, 1, n) + 0.02 * (np.arange(n) > 0.6 * n),
    "bursts in the tail": lambda rng, n: (
        1 + 0.02 * rng.gamma(4, 0.5, n) * (1 + 2 * (_modes(rng, n, 100) * (rng.random(n) < 0.2)))
    ),
}

SOUND: Dict[str, Make] = {
    "normal": lambda rng, n: 1 + 0.02 * rng.normal(0, 1, n),
    "gamma": lambda rng, n: 1 + 0.02 * rng.gamma(2, 1, n),
    "log-normal": lambda rng, n: np.exp(rng.normal(0, 0.1, n)),
    "Student's t, 5 degrees": lambda rng, n: 3 + np.abs(rng.standard_t(5, n)),
    "uniform": lambda rng, n: rng.uniform(1, 1.1, n),
    "mixture, 5% slower": lambda rng, n: 1 + 0.02 * rng.normal(0, 1, n) + 0.2 * (rng.random(n) < 0.05),
    "mixture, 1% slower": lambda rng, n: 1 + 0.02 * rng.normal(0, 1, n) + 0.2 * (rng.random(n) < 0.01),
    "mixture of three": lambda rng, n: (
        1 + 0.02 * rng.normal(0, 1, n) + rng.choice([0, 0.05, 0.3], n, p=[0.7, 0.2, 0.1])
    ),
    "clock of 1 us": lambda rng, n: np.round(1 + 0.02 * rng.gamma(2, 1, n), 3),
}


def one(kind: str, name: str, seed: int, n: int) -> Dict[str, Any]:
    """One series of a kind, and what became of it."""
    tables: Dict[str, Dict[str, Any]] = {"known": KNOWN, "unsound": UNSOUND, "sound": SOUND}
    made = tables[kind][name]
    make, true = made if kind == "known" else (made, None)
    rng = np.random.default_rng([seed, sum(map(ord, name))])
    found = estimate.estimate(make(rng, n), (1e-3, PROBABILITY), seed=seed)
    last = found["estimates"][-1] if found["estimates"] else None
    return {
        "kind": kind,
        "name": name,
        "refused": (found["refused"] or {}).get("reason"),
        "declustered": found["declustered"],
        "covered": None if last is None or true is None else bool(last["low_ms"] <= true <= last["high_ms"]),
        "upper": None if last is None or true is None else last["high_ms"] / true,
        "point": None if last is None or true is None else last["ms"] / true,
    }


def _line(kind: str, name: str, done: List[Dict[str, Any]]) -> str:
    n = len(done)
    refused = sum(one["refused"] is not None for one in done)
    unfit = sum("fits" in (one["refused"] or "") for one in done)
    declustered = sum(one["declustered"] and one["refused"] is None for one in done)
    words = [f"{name:42}", f"refused {100 * refused / n:5.1f}%", f"declustered {100 * declustered / n:5.1f}%"]
    if kind == "known":
        covered = sum(bool(one["covered"]) for one in done)
        upper = np.median([one["upper"] for one in done if one["upper"]] or [np.nan])
        words += [f"covered {100 * covered / n:5.1f}%", f"upper end {upper:.2f} of the truth"]
    if kind == "sound":
        words.append(f"of the refused no fit {100 * unfit / n:5.1f}%")
    return "  ".join(words)


def main(arguments: List[str]) -> int:
    """Run all series and print a line for each."""
    parser = argparse.ArgumentParser(prog="python -m bench.tail.coverage", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, default=100)
    parser.add_argument("-n", type=int, default=20_000, help="samples of each series")
    parser.add_argument("--kinds", default="known,unsound,sound")
    parser.add_argument("-o", "--out", help="every single result, as JSON")
    asked = parser.parse_args(arguments)
    tables: Dict[str, Dict[str, Any]] = {"known": KNOWN, "unsound": UNSOUND, "sound": SOUND}
    everything = []
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for kind in asked.kinds.split(","):
            print(f"{kind}, {asked.seeds} seeds of {asked.n} samples")
            for name in tables[kind]:
                jobs = [pool.submit(one, kind, name, seed, asked.n) for seed in range(asked.seeds)]
                done = [job.result() for job in jobs]
                everything.extend(done)
                print(f"  {_line(kind, name, done)}", flush=True)
    if asked.out:
        from engines import jsonfile

        jsonfile.write(asked.out, {"results": json.loads(json.dumps(everything))})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
