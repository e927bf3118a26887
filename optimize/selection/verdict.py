"""PASS, FAIL or INCONCLUSIVE: whether enough time is saved, for sure, within the drop limit."""

from __future__ import annotations

from typing import NamedTuple, Optional

from bench import stats
from optimize.selection.saving import ROUNDS, Saving, rounds_needed

PASS, FAIL, INCONCLUSIVE = "PASS", "FAIL", "INCONCLUSIVE"

_ROUNDING = 1e-12
"""1 - 0.8 is less than 0.2 in binary: a saving of just what is asked is enough."""


class Verdict(NamedTuple):
    """What came of it.

    Attributes:
        word: PASS, FAIL or INCONCLUSIVE.
        why: In words.
        needed: Rounds that would probably decide, where it is INCONCLUSIVE and they are not out of reach.
    """

    word: str
    why: str
    needed: Optional[int] = None


def verdict(found: Saving, within: bool, same: bool, least: float) -> Verdict:
    """Judge a saving.

    Args:
        found: Of the baseline's time.
        within: The chosen one is within the drop limit.
        same: The chosen one is the baseline.
        least: Share that must be saved.

    Returns:
        PASS where the whole interval is at least `least`, FAIL where the drop is over its limit or the whole interval
        is below, else INCONCLUSIVE. Of summaries without replicates it is a point estimate, and says so.
    """
    if not within:
        return Verdict(FAIL, "the drop is over its limit")
    if same:
        why = "the baseline itself is chosen: it saves nothing"
        return Verdict(PASS, f"{why}, and nothing is asked") if least == 0 else Verdict(FAIL, why)
    saved = found.mean_of_ratios
    if found.rounds == 0:
        none = "there are no replicates, so there is no interval"
        if saved >= least - _ROUNDING:
            return Verdict(PASS, f"point estimate: {none}")
        return Verdict(FAIL, f"point estimate below {100 * least:g}%: {none}")
    level = f"{100 * stats.LEVEL:.0f}%"
    if found.rounds < ROUNDS or found.low is None or found.high is None:
        words = f"{found.rounds} rounds, a verdict needs {ROUNDS}"
        return Verdict(INCONCLUSIVE, words, rounds_needed(found, least))
    interval = f"the {level} interval is {100 * found.low:.1f}% to {100 * found.high:.1f}%"
    if found.low >= least - _ROUNDING:
        return Verdict(PASS, interval)
    if found.high < least - _ROUNDING:
        return Verdict(FAIL, f"{interval}: all of it is below {100 * least:g}%")
    return Verdict(INCONCLUSIVE, f"{interval}: it holds {100 * least:g}%", rounds_needed(found, least))
