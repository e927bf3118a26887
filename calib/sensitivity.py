"""Which layers cost an INT8 graph its accuracy, and the smallest set of them that must stay float, within a budget.

Each layer is measured each way on a few images: alone in INT8, and alone in float in the INT8 graph. The first finds
a bad layer behind another bad one, the second what taking it back really gives. Layers are then taken back in the
order of what they cost, once as it stands and once per multiplication, until the goal is met on more images, none of
which gave a range; the least number is found by doubling and halving, and what turns out not to be needed goes back to
INT8. Both sets are given out, because only building and timing them tells which is faster.
"""

from __future__ import annotations

import hashlib
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable, Collection, Dict, FrozenSet, List, NamedTuple, Optional, Sequence, Tuple

from calib import graph as graphs
from calib.calibrate import image_input
from calib.holdout import Holdout, Query
from calib.switches import Switchboard
from engines import jsonfile
from engines.errors import OptimizeError
from engines.spec import Progress, quiet

FEW = 128
"""Images on which each layer is measured."""

MORE = 1024
"""Images on which a set of layers must meet the goal."""

SCHEMA = "optimize.search/1"

_WEIGHTS_MATTER = 0.25
"""Where the weights alone make more than this part of the error, layers are measured with theirs, by a graph each."""


_FEW_LAYERS, _MOST = 0.125, 0.5
"""Outliers are at most an eighth of the layers (one of few), and in float they leave at most half of the error."""


class Goal(NamedTuple):
    """What a mix must reach against FP32: points of top-1 that may be lost, percent of equal answers, or None."""

    max_drop: Optional[float] = None
    min_agreement: Optional[float] = None


class Measured(NamedTuple):
    """A mix on the images: agreement and error as in `calib.agreement`, drop of top-1 in points or None."""

    agreement: float
    error: float
    drop: Optional[float]


def search(
    onnx: str,
    quantised: str,
    data: str,
    preprocess: Dict[str, Any],
    layout: str,
    target: str,
    journal: str,
    keep: Sequence[str] = (),
    max_drop: Optional[float] = None,
    min_agreement: Optional[float] = None,
    budget_s: float = 300.0,
    seed: int = 0,
    settle: bool = True,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Find small sets of layers whose return to float lets the graph meet a goal: a stage for a child process.

    Args:
        onnx: FP32 graph with one image input.
        quantised: Its Q/DQ form, from `calib.calibrate`.
        data: Data set; the images are of its hold-out part.
        preprocess: `calib.preprocess.Preprocess` as JSON.
        layout: NHWC or NCHW of the input; empty where its shape tells.
        target: Placement of the quantised graph.
        journal: File that keeps every measurement, so that an interrupted search goes on where it was.
        keep: Layers that are float in the quantised graph too; every set holds them.
        max_drop: Points of top-1 that may be lost.
        min_agreement: Percent of images with the same answer as FP32.
        budget_s: Seconds after which no further mix is measured.
        seed: Of the choice of images.
        settle: Find sets also where a few layers make most of the error; else those are named and the search ends.
        progress: Told the measurements done.

    Returns:
        `sets` (`[{"kept": [names], "order", "int8_share", "agreement", "error", "drop"}]`, each meeting the goal, none
        where no mix does), `layers` (`[{"name", "macs", "only", "without"}]`, errors as in `calib.agreement`), `tried`
        (every mix with what it gave), `plain` (the quantised graph), `outliers` (the few layers that make most of its
        error, where there are such: ranges chosen without them suit the others better), `images`, `took_s`, `complete`
        (false where the budget ran out), `goal`.

    Raises:
        DataError, ModelError, UsageError: Bad images, graphs or options.
    """
    from calib.datasets import open_dataset
    from calib.preprocess import Preprocess

    begun = time.monotonic()
    board = Switchboard(onnx, quantised, target, keep)
    dataset, pre = open_dataset(data, "holdout", MORE, seed), Preprocess.from_json(preprocess)
    images = Holdout(dataset, pre, image_input(graphs.load(onnx), onnx, layout), onnx, "classify")
    identity = f"{dataset.sha256}/{pre.text}/{layout}/{seed}"
    key = "/".join([jsonfile.sha256(onnx), jsonfile.sha256(quantised), identity, target, *keep])
    book = Journal(Path(journal), hashlib.sha256(key.encode()).hexdigest())
    job = _Search(board, images, book, Goal(max_drop, min_agreement), begun + budget_s, progress)
    met = bool(keep) and meets(job.plain, job.goal)
    outliers = [] if met else job.outliers()
    sets = [job.about([], "none")] if met else [] if outliers and not settle else job.sets()
    return {
        "sets": [{**one, "kept": [*keep, *one["kept"]]} for one in sets],
        "outliers": outliers,
        "layers": job.layers,
        "tried": [{**one, "kept": [*keep, *one["kept"]]} for one in job.tried],
        "plain": job.plain._asdict(),
        "images": len(images),
        "took_s": round(time.monotonic() - begun, 1),
        "complete": job.complete,
        "goal": job.goal._asdict(),
    }


class Journal:
    """Measurements by name in a JSON file, written after each one, atomically.

    Args:
        path: Where; its folder is made.
        key: Identifies what is measured. A file of another key, or a damaged one, is started anew.
    """

    def __init__(self, path: Path, key: str) -> None:
        self._path, self._key = path, key
        self._found: Dict[str, List[Any]] = {}
        try:
            content = jsonfile.read(path)
            if isinstance(content, dict) and content.get("schema") == SCHEMA and content.get("key") == key:
                rows = dict(content["measured"])
                self._found = {str(name): list(Measured(*row)) for name, row in rows.items()}
        except (OSError, OptimizeError, LookupError, TypeError, ValueError):
            pass  # nothing was measured yet that can be used

    def __call__(self, name: str, measure: Callable[[], Measured]) -> Measured:
        """The measurement of this name, made now if there is none."""
        if name not in self._found:
            self._found[name] = list(measure())
            self._path.parent.mkdir(parents=True, exist_ok=True)
            jsonfile.write(self._path, {"schema": SCHEMA, "key": self._key, "measured": self._found})
        return Measured(*self._found[name])


class _OutOfTime(Exception):
    """The budget is spent."""


class _Search:
    """One search under way."""

    def __init__(
        self, board: Switchboard, images: Holdout, book: Journal, goal: Goal, deadline: float, progress: Progress
    ) -> None:
        self.board, self.images, self.book, self.goal = board, images, book, goal
        self.deadline, self.progress = deadline, progress
        self.complete = True
        self.layers: List[Dict[str, Any]] = []
        self.tried: List[Dict[str, Any]] = []
        self.plain = self._mix(())

    def sets(self) -> List[Dict[str, Any]]:
        """Sets that meet the goal: by what layers cost, and by that per multiplication."""
        found: Dict[FrozenSet[str], Dict[str, Any]] = {}
        for name, order in self._orders():
            kept = self._smallest(order)
            if kept is not None:
                found.setdefault(frozenset(kept), self.about(kept, name))
        return list(found.values())

    def outliers(self) -> List[str]:
        """The few layers, if there are such, that make most of the error."""
        for _, order in self._orders()[:1]:
            for count in range(1, 1 + max(1, int(_FEW_LAYERS * len(order)))):
                if time.monotonic() > self.deadline:
                    break
                if self._mix(order[:count]).error < _MOST * self.plain.error:
                    return [name for name in self.board.layers if name in order[:count]]
        return []

    def about(self, kept: Collection[str], order: str) -> Dict[str, Any]:
        """A set as it is given out."""
        share = quantised_share(self.board.macs, kept)
        names = [name for name in self.board.layers if name in kept]
        return {"kept": names, "order": order, "int8_share": share, **self._mix(kept)._asdict()}

    def _measure_layers(self) -> None:
        board, few = self.board, FEW
        everything = frozenset(board.layers)
        total = 2 * len(board.layers)
        plain = self._switched("plain", frozenset(), few)
        weights = self._switched("weights", everything, few)
        exact = weights.error > _WEIGHTS_MATTER * plain.error
        for index, layer in enumerate(board.layers):
            self.progress("measuring layers", 2 * index, total)
            one, others = frozenset([layer]), everything - {layer}
            without = self._switched(f"without {layer}", one, few)
            self.progress("measuring layers", 2 * index + 1, total)
            if exact:
                only = self._timed(f"exactly {layer}", partial(self._exact, others, few))
            else:
                only = self._switched(f"only {layer}", others, few)
            about = {"name": layer, "macs": board.macs[layer], "only": only.error, "without": without.error}
            self.layers.append(about)
        self.progress("measuring layers", total, total)

    def _timed(self, name: str, measure: Callable[[], Measured]) -> Measured:
        if time.monotonic() > self.deadline:
            raise _OutOfTime
        return self.book(name, measure)

    def _switched(self, name: str, kept: FrozenSet[str], count: int) -> Measured:
        def measure() -> Measured:
            return self._measured(lambda feeds: self.board.run(feeds, kept), count)

        return self._timed(name, measure)

    def _exact(self, kept: Collection[str], count: int) -> Measured:
        return self._measured(self.board.mix(kept).run, count)

    def _measured(self, query: Query, count: int) -> Measured:
        """A mix against FP32 on the first `count` images."""
        found = self.images.measure(query, 0, count).mean()
        before = self.images.top1(count)
        drop = None if found.top1 is None or before is None else 100 * (before - found.top1)
        return Measured(found.agreement, found.error, drop)

    def _mix(self, kept: Collection[str]) -> Measured:
        """A mix as it would be built, on all images."""
        names = [name for name in self.board.layers if name in set(kept)]
        found = self.book("mix " + "\n".join(names), lambda: self._exact(names, len(self.images)))
        row = {"kept": names, **found._asdict()}
        if row not in self.tried:
            self.tried.append(row)
        return found

    def _meets(self, kept: Collection[str]) -> bool:
        """Whether a mix meets the goal.

        Raises:
            _OutOfTime: The budget is spent.
        """
        if time.monotonic() > self.deadline:
            raise _OutOfTime
        self.progress("measuring mixes", len(self.tried), 0)
        return meets(self._mix(kept), self.goal)

    def _orders(self) -> List[Tuple[str, List[str]]]:
        """Layers by what they cost in accuracy, and by that per multiplication; nothing where time ran out."""
        if not self.layers:
            try:
                self._measure_layers()
            except _OutOfTime:
                self.complete = False
        if not self.complete:
            return []
        plain = self.book("plain", lambda: self.plain).error
        cost = {one["name"]: one["only"] + max(plain - one["without"], 0.0) for one in self.layers}
        total = sum(self.board.macs.values()) or 1
        # even the smallest layer in float costs time: a kernel of its own and the way to its type and back
        price = {name: self.board.macs[name] / total + 0.5 / len(self.board.layers) for name in cost}
        names = [one["name"] for one in self.layers]
        return [
            ("error", sorted(names, key=lambda name: -cost[name])),
            ("error per multiplication", sorted(names, key=lambda name: -cost[name] / price[name])),
        ]

    def _smallest(self, order: List[str]) -> Optional[List[str]]:
        """The shortest beginning of an order that meets the goal, without the layers that prove needless."""
        low, high = 0, 1
        kept: Optional[List[str]] = None
        try:
            while not self._meets(order[:high]):
                if high >= len(order):
                    return None
                low, high = high, min(2 * high, len(order))
            kept = order[:high]
            while high - low > 1:
                middle = (low + high) // 2
                if self._meets(order[:middle]):
                    high, kept = middle, order[:middle]
                else:
                    low = middle
            for layer in sorted(kept, key=lambda name: -self.board.macs[name]):
                fewer = [name for name in kept if name != layer]
                if fewer and self._meets(fewer):
                    kept = fewer
        except _OutOfTime:
            self.complete = False
        return kept


def meets(found: Measured, goal: Goal) -> bool:
    """Whether a mix reaches a goal; where top-1 is unknown its drop counts as the share of unequal answers."""
    drop = 100 * (1 - found.agreement) if found.drop is None else found.drop
    enough = goal.min_agreement is None or 100 * found.agreement >= goal.min_agreement
    return enough and (goal.max_drop is None or drop <= goal.max_drop)


def quantised_share(macs: Dict[str, int], kept: Collection[str]) -> float:
    """Share of the multiplications that stay in INT8."""
    total = sum(macs.values())
    return 1.0 - sum(macs[name] for name in kept) / total if total else 0.0
