"""What a comparison of quantisers says: every figure in a table, and each claim with its number and spread."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple

from bench import stats
from bench.report.cells import number
from bench.report.md import escape

MAX_DROP = 0.3
"""Points of top-1 that INT8 may cost, and that two placements of one model may differ."""

HOLDS, SPREAD, FAILS = "holds", "within the spread", "does not hold"

UNKNOWN = f"no verdict: fewer than {stats.VERDICT_ROUNDS} rounds"


def claims(model: Dict[str, Any]) -> List[Dict[str, Any]]:
    """The claims on one model of `bench.peers.quantisers.compare`.

    Returns:
        Entries with `claim`, `value`, `interval` (its spread, None where there is none), `limit`, `verdict`: one of
        `HOLDS`, `SPREAD` (not by the number, but the interval reaches the limit), `FAILS`, and `UNKNOWN` where there is
        no interval: one run of each on a busy machine may say anything. Claims whose rows are missing are left out.
    """
    rows = [row for row in model["rows"] if "failed" not in row]
    ours = next((row for row in rows if row["name"].startswith("ours, OpenVINO")), None)
    if ours is None:
        return []
    peers = [row for row in rows if row["tool"] != "ours"]
    found: List[Dict[str, Any]] = []
    if model["trained"]:
        found += _drops(ours, peers)
    tensorrt = next((row for row in rows if "to_openvino_placement" in row), None)
    if tensorrt is not None and model["trained"]:
        pair = tensorrt["to_openvino_placement"]
        what = "TensorRT placement loses against the OpenVINO one, both in ONNX Runtime, points"
        found.append(_claim(what, pair["top1_drop"], pair["drop_interval"], MAX_DROP, most=True))
    nncf = [row for row in peers if row["tool"] == "nncf"]
    entropy = [row for row in peers if row["name"] == "ONNX Runtime, entropy" and model["wide"]]
    for of, name, group, limit in (
        ("time of calibration", "seconds", nncf, 1.0),
        ("peak memory", "peak_bytes", nncf, 1.0),
        ("time of calibration", "seconds", entropy, 3.0),
        ("peak memory", "peak_bytes", entropy, 4.0),
        *((f"latency at batch {b}", f"latency_b{b}", peers, 1.0) for b in ours.get("latency", {})),
    ):
        found += _least(of, name, group, limit)
    return found


def _drops(ours: Dict[str, Any], peers: Sequence[Dict[str, Any]]) -> List[Dict[str, Any]]:
    own = ours["accuracy"]
    found = [_claim("top-1 that INT8 costs, points", own["top1_drop"], own["drop_interval"], MAX_DROP, most=True)]
    if peers:
        best = min(peers, key=lambda row: float(row["accuracy"]["top1_drop"]))
        worse = best["ours_worse"]
        what = f"top-1 lost against the best of the others ({best['name']}), points"
        found.append(_claim(what, worse["top1_drop"], worse["drop_interval"], 0.0, most=True))
    return found


def _least(of: str, name: str, rows: Sequence[Dict[str, Any]], limit: float) -> List[Dict[str, Any]]:
    """The claim on the best of some rows: theirs / ours, at least the limit.

    Of several rows that are alike the best is the luckiest. Where it was measured again after it was chosen, that
    speaks; else its interval is one of as many that hold together (Bonferroni).
    """
    known = [row for row in rows if name in row.get("ratios", {})]
    if not known:
        return []
    best = min(known, key=lambda row: float(row["ratios"][name]["ratio"]))
    batch = name.split("latency_b")[-1]
    if batch in best.get("again", {}):  # rounds that had no part in the choice
        found = best["again"][batch]
        return [_claim(f"{of}, {best['name']} to ours", found["ratio"], found["interval"], limit, most=False)]
    theirs, ours = zip(*best["ratios"][name]["pairs"])
    level = 1 - (1 - stats.LEVEL) / len(known)
    found = stats.ratio_interval([[v] for v in theirs], [[v] for v in ours], level, paired=True)
    interval = None if found.low is None or found.high is None else [found.low, found.high]
    return [_claim(f"{of}, {best['name']} to ours", found.ratio, interval, limit, most=False)]


def _claim(what: str, value: float, interval: Optional[Sequence[float]], limit: float, most: bool) -> Dict[str, Any]:
    sign = 1 if most else -1
    if interval is None:
        verdict = UNKNOWN
    elif sign * value <= sign * limit:
        verdict = HOLDS
    else:
        verdict = SPREAD if min(sign * end for end in interval) <= sign * limit else FAILS
    wanted = ("at most " if most else "at least ") + number(limit, 2)
    return {
        "claim": what,
        "value": value,
        "interval": None if interval is None else list(interval),
        "limit": limit,
        "wanted": wanted,
        "verdict": verdict,
    }


Cell = Callable[[Dict[str, Any]], str]


def _points(row: Dict[str, Any]) -> str:
    found = row["accuracy"]
    if found["top1_drop"] is None:
        return "-"
    low, high = found["drop_interval"]
    return f"{found['top1_drop']:+.2f} [{low:+.2f}, {high:+.2f}]"


def _run(name: str, unit: float = 1.0) -> Cell:
    """Median of the repeats and their range."""

    def cell(row: Dict[str, Any]) -> str:
        values = sorted(one[name] / unit for one in row["runs"])
        if not values:
            return "-"
        middle = (values[(len(values) - 1) // 2] + values[len(values) // 2]) / 2
        spread = f" ({number(values[0], 3)} to {number(values[-1], 3)})" if len(values) > 1 else ""
        return number(middle, 3) + spread

    return cell


def _times(name: str) -> Cell:
    """Theirs / ours with its interval, or the range where rounds are too few for one."""

    def cell(row: Dict[str, Any]) -> str:
        ratio = row.get("ratios", {}).get(name)
        if ratio is None:
            return "-"
        low, high = ratio["interval"] or ratio["range"]
        spread = f" [{number(low, 3)}, {number(high, 3)}]" if ratio["rounds"] > 1 else ""
        return f"{number(ratio['ratio'], 3)}x{spread}"

    return cell


def _latency(batch: str) -> Cell:
    return lambda row: number(row["latency"][batch]["p50_ms"]) if batch in row.get("latency", {}) else "-"


def _settings(row: Dict[str, Any]) -> str:
    words = []
    for key, value in row["options"].items():
        shown = "all" if value is None else "+".join(value) if isinstance(value, list) else str(value)
        words.append(f"{key} {shown}" if key in ("operators", "percentile") else shown)
    method = (row.get("found") or {}).get("method")
    if method:
        words.append(f"{row['found']['samples']} images needed")
        words.append(f"chose {method['name']}" + (f" {method['percentile']}" if method["percentile"] else ""))
    return ", ".join(words)


def _quality(trained: bool) -> List[Tuple[str, Cell]]:
    share: Cell = lambda row: f"{100 * row['accuracy']['agreement']:.2f}%"  # noqa: E731
    cosine: Cell = lambda row: f"{row['accuracy']['cosine']:.5f}"  # noqa: E731
    if not trained:
        return [("agreement", share), ("cosine", cosine)]
    top1: Cell = lambda row: f"{100 * row['accuracy']['top1']:.2f}%"  # noqa: E731
    return [("top-1", top1), ("drop, points [95%]", _points), ("agreement", share), ("cosine", cosine)]


_COST: Tuple[Tuple[str, Cell], ...] = (
    ("calibration s", _run("seconds")),
    ("process s", _run("process_seconds")),
    ("CPU s", _run("cpu_seconds")),
    ("peak MB", _run("peak_bytes", 1e6)),
    ("IR MB", lambda row: f"{row['ir_bytes'] / 1e6:.1f}"),
)

_NOTES = (
    "Ratios are theirs to ours, with a 90% interval (with fewer than five rounds: the range of the single pairs): "
    "above 1x ours is the faster or smaller. A claim on the best of several is of rounds that were measured after it "
    "was chosen (latency), or has an interval that allows for choosing.",
    "Calibration: from the FP32 ONNX file to the quantised file, after the imports; the process counts those too. "
    "Peak: the most memory resident in that process at any time (VmHWM), imports included.",
    "Ours chooses the range method on up to 256 further training images; the time and memory of that are counted.",
    "ONNX Runtime: Q/DQ, pre-processed, per channel; the settings shown agreed most with FP32 on hold-out images among "
    "those tried, and the time of trying is not counted.",
    "Everyone's graph becomes OpenVINO IR. Accuracy: on OpenVINO, layers that are not INT8 in float32.",
)


def text(found: Dict[str, Any]) -> str:
    """The Markdown of a comparison: for each model a table of quality and cost, one of ratios, and the claims."""
    parts = ["# INT8 quantisers compared", f"Made {found['created']} on {escape(_machine(found['environment']))}."]
    parts.append("\n".join(f"- {escape(note)}" for note in _NOTES))
    for model in found["models"]:
        parts += _model(model)
    if found["failures"]:
        lines = [f"- {escape(one['target'])}: {escape(one['message'])}" for one in found["failures"]]
        parts += ["## Failed", "\n".join(lines)]
    return "\n\n".join(parts) + "\n"


def _machine(environment: Dict[str, Any]) -> str:
    return f"{environment.get('cpu') or 'an unknown CPU'}, {environment.get('cores')} cores"


def _model(model: Dict[str, Any]) -> List[str]:
    works = [row for row in model["rows"] if "failed" not in row]
    batches = sorted({batch for row in works for batch in row.get("latency", {})}, key=int)
    quality = _quality(model["trained"])
    latencies = [(f"b{batch} ms", _latency(batch)) for batch in batches]
    ratios = [
        ("calibration s", _times("seconds")),
        ("process s", _times("process_seconds")),
        ("CPU s", _times("cpu_seconds")),
        ("peak memory", _times("peak_bytes")),
        ("IR size", _times("ir_bytes")),
        *((f"latency b{batch}", _times(f"latency_b{batch}")) for batch in batches),
    ]
    top1 = model["fp32"]["top1"]
    about = (
        f"{model['calibration']['n']} calibration and {model['test']['n']} test images of {model['test']['name']}; "
        + (f"FP32 top-1 {100 * top1:.2f}%; " if top1 is not None else "random weights, so no labels count; ")
        + f"IR of FP32 {model['fp32']['ir_bytes'] / 1e6:.1f} MB; "
        + f"latencies with {model['latency_precision']} beside INT8."
    )
    first = ("quantiser", lambda row: str(row["name"]))
    parts = [f"## {escape(model['name'])}", escape(about)]
    parts.append(_table([first, *quality, *_COST, *latencies, ("settings", _settings)], works))
    parts += ["Ratios to ours:", _table([first, *ratios], [row for row in works if "ratios" in row])]
    lines = [f"- {escape(row['name'])}: not here ({escape(row['failed'])})" for row in model["rows"] if "failed" in row]
    lines += [
        f"- {escape(row['name'])}: no latency ({escape(row['latency_failed'])})"
        for row in works
        if "latency_failed" in row
    ]
    arithmetic = [_arithmetic(row) for row in works if "onnxruntime" in row]
    return [*parts, "\n".join([*lines, *arithmetic]), _verdicts(model["claims"])]


def _arithmetic(row: Dict[str, Any]) -> str:
    found = row["onnxruntime"]
    words = f"{row['name']}, in ONNX Runtime's arithmetic: "
    if found["top1"] is not None:
        low, high = found["drop_interval"]
        words += f"top-1 {100 * found['top1']:.2f}%, drop {found['top1_drop']:+.2f} [{low:+.2f}, {high:+.2f}] points, "
    words += f"agreement {100 * found['agreement']:.2f}%, cosine {found['cosine']:.5f}"
    return f"- {escape(words)}"


def _verdicts(found: Sequence[Dict[str, Any]]) -> str:
    lines = ["| claim | number | wanted | |", "|---|---|---|---|"]
    for one in found:
        spread = f" [{number(one['interval'][0], 3)}, {number(one['interval'][1], 3)}]" if one["interval"] else ""
        cells = [one["claim"], number(one["value"], 3) + spread, one["wanted"], one["verdict"]]
        lines.append("| " + " | ".join(escape(cell) for cell in cells) + " |")
    return "\n".join(lines)


def _table(columns: Sequence[Tuple[str, Cell]], rows: Sequence[Dict[str, Any]]) -> str:
    head = [name for name, _ in columns]
    body = [[escape(cell(row)) for _, cell in columns] for row in rows]
    lines = [head, ["---"] + ["---:"] * (len(columns) - 1), *body]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
