from __future__ import annotations

import pytest

from optimize.selection.saving import Saving, of_means
from optimize.selection.verdict import FAIL, INCONCLUSIVE, PASS, verdict


def measured(low: float, high: float, rounds: int = 10) -> Saving:
    return Saving((low + high) / 2, 0.3, low, high, rounds, True, 0.05)


@pytest.mark.parametrize(
    ("found", "word", "words"),
    [
        (measured(0.20, 0.30), PASS, "20.0% to 30.0%"),
        (Saving(1 - 0.8, 0.2, 1 - 0.8, 1 - 0.8, 10, True, 0.0), PASS, "20.0% to 20.0%"),
        (measured(0.10, 1 - 0.8), INCONCLUSIVE, "it holds 20%"),
        (measured(0.10, 0.19), FAIL, "all of it is below 20%"),
        (measured(0.19, 0.21), INCONCLUSIVE, "it holds 20%"),
        (measured(0.50, 0.60, rounds=9), INCONCLUSIVE, "9 rounds, a verdict needs 10"),
        (Saving(0.5, 0.5, None, None, 1, True), INCONCLUSIVE, "1 rounds"),
        (of_means(10, 8), PASS, "point estimate: there are no replicates"),
        (of_means(10, 8.1), FAIL, "point estimate below 20%"),
        (of_means(10, 11), FAIL, "point estimate"),
    ],
)
def test_it_passes_only_where_the_whole_interval_does(found: Saving, word: str, words: str) -> None:
    told = verdict(found, within=True, same=False, least=0.2)
    assert told.word == word and words in told.why
    assert (told.needed is not None) <= (word == INCONCLUSIVE)


def test_a_drop_over_its_limit_fails_whatever_is_saved() -> None:
    assert verdict(measured(0.8, 0.9), within=False, same=False, least=0.2).word == FAIL


def test_the_baseline_itself_saves_nothing() -> None:
    none = Saving(0.0, 0.0, rounds=10)
    assert verdict(none, within=True, same=True, least=0.2).word == FAIL
    assert verdict(none, within=True, same=True, least=0.0).word == PASS, "nothing was asked"
