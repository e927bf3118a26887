"""A published value beside a measured row: whether the two are of the same thing, and what came of it.

Only like is judged with like: the same board in the same power mode, by the same backend, in the same precision, timed
the same way. Everything else gets the ratio as information and the words `not comparable`, with the reasons.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from bench import stats
from bench.suites.tables import TIMED
from engines import board, driver

REPRODUCED, FASTER, SLOWER = "reproduced", "faster", "slower"
UNLIKE, NONE, FAILED = "not comparable", "no verdict", "failed"

Row = Mapping[str, Any]


class Verdict(NamedTuple):
    """What came of one cell.

    Attributes:
        word: reproduced, faster, slower, not comparable, no verdict (too few rounds), or failed.
        value: Measured here, in the cell's unit; None where nothing was.
        ratio: How many times as fast this machine is as the published value; None where nothing was measured.
        interval: Of the ratio, at `bench.stats.LEVEL`; None where there are too few rounds.
        why: Reasons why the two cannot be compared, or why nothing was measured.
        remarks: What a reader should know all the same.
    """

    word: str
    value: Optional[float] = None
    ratio: Optional[float] = None
    interval: Optional[List[float]] = None
    why: Tuple[str, ...] = ()
    remarks: Tuple[str, ...] = ()


def machine(root: Path = Path("/"), run: board.Run = board.output) -> Dict[str, Any]:
    """What a published value's conditions are held against.

    Args:
        root: Stands for `/`.
        run: Runs `dpkg-query`, `nvpmodel` and `nvidia-smi`.

    Returns:
        `name` (of the board, else of the processor), `module`, `gpu`, `cpu`, `power_mode`, `jetpack`, `tensorrt`; empty
        where there is none.
    """
    from engines.device import backend_version
    from engines.device import facts as device_facts

    found = board.facts(root, run)
    here = root == Path("/")
    cpu = device_facts()["cpu"] if here else ""
    gpu = driver.ask()[0] if here and not found["jetson"] else None
    names = [found["model"], gpu.name if gpu else "", cpu, "another machine"]
    return {
        "name": next(name for name in names if name),
        "module": found["module"],
        "gpu": gpu.name if gpu else "",
        "cpu": cpu,
        "power_mode": found["power"]["name"],
        "jetpack": found["jetpack"],
        "tensorrt": (backend_version("tensorrt") if here else "") or found["tensorrt"],
    }


def same_board(conditions: Mapping[str, Any], here: Mapping[str, Any]) -> bool:
    """Whether this machine is of the kind that a value was published for.

    Modules are part numbers or the beginnings of such; a GPU and a processor are told by words of their names.
    Conditions that name none of the three match no machine.
    """
    modules = conditions["modules"]
    if modules:
        return bool(here["module"]) and any(here["module"].startswith(one) for one in modules)
    named = [(conditions[key], here[key]) for key in ("gpu", "cpu") if conditions[key]]
    return bool(named) and all(words.casefold() in str(mine).casefold() for words, mine in named)


def verdict(cell: Mapping[str, Any], row: Row, here: Mapping[str, Any], tolerance: float, random: bool) -> Verdict:
    """Hold a measured row against the published value of a cell.

    Args:
        cell: Of `bench.suites.tables.read`.
        row: Of a run.
        here: Of `machine`.
        tolerance: Share by which a value may differ and count as reproduced.
        random: The model was made with random weights.

    Returns:
        Reproduced where the published value lies within the interval of the rounds, or the ratio within the tolerance.
    """
    spans = cell["conditions"]["timed"] == "gpu" and bool(row.get("device"))
    passes = row.get("passes") if cell["conditions"]["timed"] == "pass" else None
    value = quantity(cell["quantity"], _of_passes(passes, passes["seconds"]) if passes else row, spans)
    if value is None:
        return Verdict(UNLIKE, why=("accuracy is not measured by a suite",))
    ratio = _faster(cell, value)
    parts = (
        [_of_passes(passes, [one]) for one in passes["seconds"]] if passes else [_alone(row, e) for e in row["rounds"]]
    )
    rounds = [quantity(cell["quantity"], part, spans) for part in parts]
    sides = [[_faster(cell, one)] for one in rounds if one is not None]
    spread = stats.ratio_interval(sides, [[1.0]] * len(sides)) if sides else None
    interval = [spread.low, spread.high] if spread and spread.low is not None and spread.high is not None else None
    why = [*unlike(cell, row, here), *(_assumed(cell) if random else ())]
    return Verdict(
        UNLIKE if why else _word(ratio, interval, tolerance),
        value,
        ratio,
        interval,
        tuple(why) or ((f"fewer than {stats.VERDICT_ROUNDS} rounds",) if interval is None else ()),
        tuple(_remarks(cell, row, here, random)),
    )


def _word(ratio: float, interval: Optional[List[float]], tolerance: float) -> str:
    if interval is None:
        return NONE
    if interval[0] <= 1 <= interval[1] or abs(ratio - 1) <= tolerance:
        return REPRODUCED
    return FASTER if ratio > 1 else SLOWER


def _faster(cell: Mapping[str, Any], value: float) -> float:
    larger_is_better = cell["quantity"] == "images_per_s"
    published = float(cell["published"])
    return value / published if larger_is_better else published / value


def _alone(row: Row, entry: Mapping[str, Any]) -> Dict[str, Any]:
    """One round of a row, as a row."""
    samples = entry["samples_ms"]
    speed = row["batch"] * len(samples) / (sum(samples) / 1e3) if sum(samples) > 0 else None
    return {"batch": row["batch"], "images_per_s": speed, "device": entry.get("device"), **stats.summary(samples)}


def _of_passes(passes: Mapping[str, Any], seconds: List[float]) -> Dict[str, Any]:
    """Passes over all images, as a row of queries of one image."""
    ms = [1e3 * one / passes["images"] for one in seconds]
    return {"batch": 1, "images_per_s": 1e3 * len(ms) / sum(ms), "device": None, **stats.summary(ms)}


def quantity(name: str, row: Row, spans: bool = False) -> Optional[float]:
    """A quantity of `bench.suites.tables.QUANTITIES` of a row.

    Args:
        name: Of the quantity.
        row: Of a run, or one round of it.
        spans: Of the GPU's computation alone, by events, instead of the wall time.
    """
    if spans and not row.get("device"):
        return None
    compute = row["device"]["compute_ms"] if spans else {}
    times = {key: compute[key] if spans else row[field] for key, field in _TIMES.items()}
    per_image = times["mean"] / row["batch"]
    found: Dict[str, Callable[[], Optional[float]]] = {
        "images_per_s": lambda: 1e3 / per_image if spans else row["images_per_s"],
        "mean_ms": lambda: float(times["mean"]),
        "median_ms": lambda: float(times["median"]),
        "p90_ms": lambda: float(times["p90"]),
        "p99_ms": lambda: float(times["p99"]),
        "ms_per_image": lambda: float(per_image),
        "s_per_10000_images": lambda: float(10 * per_image),
    }
    return found[name]() if name in found else None


_TIMES = {"mean": "mean_ms", "median": "p50_ms", "p90": "p90_ms", "p99": "p99_ms"}


def _assumed(cell: Mapping[str, Any]) -> List[str]:
    """What was taken for granted of a network that the source does not tell well enough; nothing where it does."""
    assumed = (cell["made"] or {}).get("assumed")
    return [f"the source does not tell which network it was; assumed here: {assumed}"] if assumed else []


def unlike(cell: Mapping[str, Any], row: Row, here: Mapping[str, Any]) -> List[str]:
    """Why a row and a published value cannot be compared, in words; empty where they can."""
    conditions = cell["conditions"]
    reasons = []
    if not same_board(conditions, here):
        mode = f" ({conditions['power_mode']})" if conditions["power_mode"] else ""
        reasons.append(f"published on {conditions['board']}{mode}, this is {here['name']}")
    elif conditions["power_mode"] and here["power_mode"] and _mode(conditions) != _mode(here):
        reasons.append(f"published in power mode {conditions['power_mode']}, this board is in {here['power_mode']}")
    if conditions["backend"] and row["backend"] != conditions["backend"]:
        reasons.append(f"published with {conditions['backend']}, measured with {row['backend']}")
    if cell["precision"] and row["precision"] != cell["precision"]:
        reasons.append(f"published in {cell['precision']}, measured in {row['precision']}")
    if "no-fast-fp16" in row["flags"]:
        reasons.append("this machine has no fast 16-bit format")
    on = str(row.get("on") or "").casefold()
    if conditions["processor"] and on in ("cpu", "gpu") and on not in conditions["processor"].casefold():
        reasons.append(f"published on the {conditions['processor']}, ran on the {on.upper()}")
    if "DLA" in (conditions["processor"] or ""):
        reasons.append("published with the work of the deep-learning accelerators in it")
    lacking = {"stream": True, "pass": not row.get("passes"), "gpu": not row.get("device")}
    if lacking.get(conditions["timed"]):
        reasons.append(f"published is {TIMED[conditions['timed']]}; here it is {TIMED['query']}")
    return reasons


def _mode(one: Mapping[str, Any]) -> str:
    """`MODE_15W` and `15W` are one mode."""
    return str(one["power_mode"]).casefold().replace("mode_", "")


def _remarks(cell: Mapping[str, Any], row: Row, here: Mapping[str, Any], random: bool) -> List[str]:
    """What differs, or is not known, without forbidding a comparison."""
    conditions = cell["conditions"]
    found = ["random weights"] if random else []
    if conditions["timed"] == "pass" and row.get("passes"):
        found.append(f"{len(row['passes']['seconds'])} passes of {row['passes']['images']} images in one process")
    if same_board(conditions, here):
        if not conditions["power_mode"] and here["power_mode"]:
            found.append(f"the power mode of the source is not stated, this board is in {here['power_mode']}")
        for key, name in (("jetpack", "JetPack"), ("tensorrt", "TensorRT")):
            if conditions[key] and here[key] and not f"{here[key]}.".startswith(f"{conditions[key]}."):
                found.append(f"{name} {conditions[key]} published, {here[key]} here")
        if conditions["timed"] == "unstated":
            found.append(f"{TIMED['unstated']}; here it is {TIMED['query']}")
    return [*found, *row["flags"]]
