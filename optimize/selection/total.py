"""The total time of a candidate: transfer + load + first inference + n images, each measured, given or unknown.

Source: the procedure of the cloud-edge document, with its terms told apart: size · 8 / bandwidth + round trip, opening
the model with all that its backend compiles, the first query of the fresh process, and the queries of n images.
"""

from __future__ import annotations

import math
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from optimize.selection.asked import Asked
from optimize.selection.candidates import Candidate, Cost

TERMS = ("transfer", "load", "first", "inference")

WORDS = {"transfer": "transfer", "load": "load", "first": "first inference", "inference": "inference"}


class Scope(NamedTuple):
    """Which terms count.

    Attributes:
        terms: Of `TERMS`, those that are asked for and known of every candidate.
        images, batch: Of the inference.
        bandwidth: Bits a second, or None.
        rtt_s: Seconds before a transfer.
        left_out: Why others do not count, in words.
        batch_told: Whether every candidate tells its batch; else it counts as 1.
    """

    terms: Tuple[str, ...]
    images: int
    batch: int
    bandwidth: Optional[float]
    rtt_s: float
    left_out: Tuple[str, ...] = ()
    batch_told: bool = True

    @property
    def words(self) -> str:
        """For the verdict: `inference only: 10,000 images, batch 1`."""
        what = " + ".join(WORDS[term] for term in self.terms) if len(self.terms) > 1 else "inference only"
        cached = " (cached)" if "transfer" not in self.terms and len(self.terms) > 1 else ""
        return f"{what}{cached}: {self.images:,} images, batch {self.batch if self.batch_told else 'unknown'}"


def scope(found: Sequence[Candidate], asked: Asked, batch: int) -> Scope:
    """The terms of the total time that can be compared.

    Without a bandwidth, or without every candidate's size, a transfer is unknown, and the scope is the inference alone,
    unless the cached total is asked for.
    """
    left: List[str] = []
    terms = ["inference"]
    sized = all(one.size_bytes is not None for one in found)
    if not asked.cached and (asked.bandwidth is None or not sized):
        left.append("transfer: " + ("the bandwidth is not given" if sized else "a size is unknown"))
    else:
        terms = [] if asked.cached else ["transfer"]
        for term, known in (("load", _all(found, "load_s")), ("first", _all(found, "first_s"))):
            if known:
                terms.append(term)
            else:
                left.append(f"{WORDS[term]}: not known of all candidates")
        terms.append("inference")
    told = not any("batch unknown" in one.row["flags"] for one in found)
    return Scope(tuple(terms), asked.images, batch, asked.bandwidth, asked.rtt_s, tuple(left), told)


def _all(found: Sequence[Candidate], name: str) -> bool:
    return all(getattr(one.mean, name) is not None for one in found)


def parts(one: Candidate, cost: Cost, about: Scope) -> Dict[str, Optional[float]]:
    """Every term in seconds, whether it counts or not; None where it is unknown."""
    sent = None
    if one.size_bytes is not None and about.bandwidth is not None:
        sent = 8 * one.size_bytes / about.bandwidth + about.rtt_s
    queries = math.ceil(about.images / about.batch)
    return {
        "transfer": sent,
        "load": cost.load_s,
        "first": cost.first_s,
        "inference": None if cost.query_s is None else queries * cost.query_s,
    }


def total(one: Candidate, about: Scope, cost: Optional[Cost] = None) -> float:
    """The total time in seconds of what counts; the mean of all rounds unless one is given."""
    return _sum(parts(one, cost or one.mean, about), about.terms)


def _sum(terms: Dict[str, Optional[float]], names: Sequence[str]) -> float:
    return sum(value for name in names for value in (terms[name],) if value is not None)


def rounds(one: Candidate, about: Scope) -> Dict[int, float]:
    """The total time of each round by its number."""
    return {number: total(one, about, cost) for number, cost in one.costs.items()}


def times(one: Candidate, about: Scope) -> Dict[str, Any]:
    """All terms for a file, with where they are from, and the cold and the cached total (None where a term lacks)."""
    found = parts(one, one.mean, about)
    origin = "measured" if one.costs else "given"
    sources = {**dict.fromkeys(TERMS, origin), "transfer": "given"}
    cached = None if None in (found[name] for name in TERMS[1:]) else _sum(found, TERMS[1:])
    return {
        **{f"{name}_s": value for name, value in found.items()},
        "sources": {name: sources[name] if found[name] is not None else "unknown" for name in TERMS},
        "cold_s": None if cached is None or found["transfer"] is None else cached + found["transfer"],
        "cached_s": cached,
        "total_s": None if any(found[name] is None for name in about.terms) else _sum(found, about.terms),
    }
