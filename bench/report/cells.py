"""What every report for people shows: columns, cells in words, the lines below the table."""

from __future__ import annotations

from typing import Any, Callable, Dict, List, Optional, Tuple

from bench import stats
from bench.runs import fastest_original

UNMEASURED = "unmeasured"


def number(value: Optional[float], digits: int = 4) -> str:
    """A number with `digits` significant digits and no exponent; `-` where there is none."""
    if value is None:
        return "-"
    decimals = 0
    while decimals < digits - 1 and abs(value) * 10**decimals < 10 ** (digits - 1):
        decimals += 1
    return f"{value:.{decimals}f}"


def _target(row: Dict[str, Any]) -> str:
    return f"{row['target']} *" if row["role"] == "original" else str(row["target"])


def _where(row: Dict[str, Any]) -> str:
    """Where an original computed, as its framework told it, and what ran beside a row on purpose."""
    beside = row.get("interference")
    return _words(f"on {row['on']}" if row.get("on") else "", f"beside {beside['kinds']}" if beside else "")


def _words(*words: str) -> str:
    return " ".join(word for word in words if word)


def _achieved(row: Dict[str, Any]) -> str:
    counts = sorted(row["achieved"].items(), key=lambda item: (-item[1], item[0]))
    return " ".join(f"{name}:{count}" for name, count in counts) or "-"


def _speedup(row: Dict[str, Any]) -> str:
    if row["speedup"] is None:
        return "-"
    interval = row.get("interval")
    within = f" [{number(interval[0], 3)}, {number(interval[1], 3)}]" if interval else ""
    return f"{number(row['speedup'], 3)}x{within}"


def _percent(name: str) -> Callable[[Dict[str, Any]], str]:
    return lambda row: UNMEASURED if row[name] is None else f"{100 * row[name]:.2f}%"


def _drop(row: Dict[str, Any]) -> str:
    return UNMEASURED if row["top1_drop"] is None else f"{row['top1_drop']:+.2f}"


def _megabytes(row: Dict[str, Any]) -> str:
    return "-" if row["size_bytes"] is None else f"{row['size_bytes'] / 1e6:.1f}"


def _latency(name: str) -> Callable[[Dict[str, Any]], str]:
    return lambda row: number(row[name])


Columns = Tuple[Tuple[str, bool, Callable[[Dict[str, Any]], str]], ...]

COLUMNS: Columns = (
    ("target", False, _target),
    ("form", False, lambda row: _words(row["form"], _where(row)) or "-"),
    ("precision", False, lambda row: str(row["precision"]) or "-"),
    ("achieved", False, _achieved),
    ("batch", True, lambda row: str(row["batch"])),
    ("p50 ms", True, _latency("p50_ms")),
    ("p99 ms", True, _latency("p99_ms")),
    ("images/s", True, lambda row: number(row["images_per_s"])),
    ("speed-up", True, _speedup),
    ("top-1", True, _percent("top1")),
    ("drop", True, _drop),
    ("size MB", True, _megabytes),
    ("flags", False, lambda row: ", ".join(row["flags"])),
)
"""Heading, whether it is a number (right-aligned), and the cell of a row."""


def cells(row: Dict[str, Any], columns: Columns = COLUMNS) -> List[str]:
    """One row in words, a cell for each of the columns."""
    return [cell(row) for _, _, cell in columns]


def name(row: Dict[str, Any]) -> str:
    """A row's target in words, told apart from the others of its batch: `net.keras * function fp32 on gpu`."""
    precision = str(row["precision"]) if row["role"] == "original" else ""
    return _words(_target(row), row["form"], precision, _where(row))


def groups(run: Dict[str, Any]) -> List[Tuple[str, List[Dict[str, Any]]]]:
    """Rows by batch (by run where several were merged, by CPU threads and streams where given), with a heading.

    Originals stand after engines, faster ones first.
    """
    several = len({row.get("run", 0) for row in run["rows"]}) > 1
    found: Dict[Tuple[int, ...], List[Dict[str, Any]]] = {}
    for row in run["rows"]:
        key = (row.get("run", 0), row["batch"], row.get("threads") or 0, row.get("streams") or 0)
        found.setdefault(key, []).append(row)
    out = []
    for (number_, batch, threads, streams), rows in sorted(found.items()):
        heading = f"run {number_ + 1}, batch {batch}" if several else f"batch {batch}"
        heading += f", {threads} CPU thread{'s' * (threads > 1)}" if threads else ""
        heading += f", {streams} queries at a time" if streams else ""
        slowest = float("inf")
        rows.sort(key=lambda r: (r["role"] == "original", slowest if r["p50_ms"] is None else r["p50_ms"]))
        out.append((heading, rows))
    return out


def notes(rows: List[Dict[str, Any]]) -> List[str]:
    """Lines below the table of one batch: what the speed-ups are against and worth, and the times on the GPU."""
    lines = (line for row in rows for line in [*_on_gpu(row), *_energy(row), *_usage(row), *_served(row), *_loads(row)])
    return [*_compared(rows), *lines]


def _loads(row: Dict[str, Any]) -> List[str]:
    """What LoadGen found of a row's target, in each scenario: its figures and its verdict."""
    lines = []
    for one in row.get("load", ()):
        known, wanted = {**one, **one["latencies"]}, _LOAD.get(one["scenario"], _QUANTILES)
        figures = [f"{number(known[key])} {unit}" for key, unit in wanted if known.get(key) is not None]
        missed = f"; not met: {', '.join(one['missed'])}" if one["missed"] else ""
        verdict = "valid" if one["valid"] else f"invalid{missed}"
        name = f"{_words(_target(row), row['form'])}, {one['scenario']} by {one['tool']} {one['version']}"
        lines.append(f"{name}: {', '.join(figures)} ({verdict})")
    return lines


def _served(row: Dict[str, Any]) -> List[str]:
    """Where the time of a served query went, by the server's own statistics."""
    found = row.get("served")
    if not found:
        return []
    times = ", ".join(f"{label} {number(found[key])}" for label, key in _SHARES)
    together = f"; {number(found['batch'], 3)} images ran at once" if found["batch"] > row["batch"] else ""
    return [f"{_target(row)}: of {number(found['wall_ms'])} ms (mean): {times}{together}"]


_SHARES = (
    ("network", "network_ms"),
    ("queue", "queue_ms"),
    ("compute", "compute_ms"),
    ("copies in", "input_ms"),
    ("copies out", "output_ms"),
)

_QUANTILES = (("p50_ms", "ms p50"), ("p90_ms", "ms p90"), ("p99_ms", "ms p99"))
_LOAD: Dict[str, Tuple[Tuple[str, str], ...]] = {
    "single-stream": (("queries_per_s", "queries/s"), *_QUANTILES),
    "multi-stream": _QUANTILES,
    "offline": (("samples_per_s", "samples/s"),),
    "server": (("samples_per_s", "samples/s"), *_QUANTILES),
}
"""What counts in each of LoadGen's scenarios; in offline all samples are one query, and its latency the whole test."""

_GPU_TIMES = (("H2D", "h2d_ms"), ("compute", "compute_ms"), ("D2H", "d2h_ms"), ("enqueue", "enqueue_ms"))


def _on_gpu(row: Dict[str, Any]) -> List[str]:
    """trtexec's quantities of a row that has them: the mode, medians by events, its warnings."""
    device = row.get("device")
    if not device:
        return []
    how, name = device["how"], f"{_target(row)} on the GPU"
    graph, transfers = ("with" if how.get(key) else "without" for key in ("graph", "transfers"))
    times = ", ".join(f"{label} {number(device[key]['median'])}" for label, key in _GPU_TIMES)
    waiting = "spinning" if how.get("spin") else "asleep"
    mode = f"mode {device['mode']}: {transfers} transfers, {graph} CUDA graph, waiting {waiting}"
    lines = [f"{name} ({mode}; medians by events, ms): {times}; {number(device['images_per_s'])} images/s"]
    return [*lines, *(f"{name}: {warning}" for warning in device["warnings"])]


def _energy(row: Dict[str, Any]) -> List[str]:
    """What a row's queries drew, by which sensor."""
    found = row.get("energy")
    if not found:
        return []
    name = f"{_words(_target(row), row['form'])}, energy by {found['rail']}"
    if found["watts"] is None:
        return [f"{name}: unknown, the sensor did not answer all the time"]
    watts = f"{number(found['watts'], 3)} W ({number(found['idle_watts'], 3)} W idle)"
    above = number(1e3 * found["joules_above_idle_per_image"], 3)
    per_image = f"{number(1e3 * found['joules_per_image'], 3)} mJ an image ({above} mJ above idle)"
    return [f"{name}: {watts}, {per_image}, {number(found['images_per_joule'], 3)} images/J"]


def _usage(row: Dict[str, Any]) -> List[str]:
    """What a row's process used of the machine, where that was asked."""
    found = row.get("usage")
    if not found or "sensor" not in found:
        return []
    busy = "busy share unknown" if found["busy"] is None else f"{100 * found['busy']:.0f}% busy by {found['busy_by']}"
    words = [busy, f"{number(found['cpus'], 3)} of {found['threads']} CPUs"]
    if found["gpu_utilisation"] is not None and found["busy_by"] != found["sensor"]:
        words.append(f"GPU {100 * found['gpu_utilisation']:.0f}% by {found['sensor']}")
    sizes = (
        ("memory grew by {}", "memory_delta_bytes"),
        ("peak {}", "peak_rss_bytes"),
        ("GPU memory {}", "gpu_measured_bytes"),
    )
    words += [text.format(f"{found[name] / 1e6:.0f} MB") for text, name in sizes if found.get(name) is not None]
    return [f"{_words(_target(row), row['form'], row['precision'])}, usage: {', '.join(words)}"]


def _compared(rows: List[Dict[str, Any]]) -> List[str]:
    base = fastest_original(rows, rows[0]["batch"], rows[0].get("threads"), rows[0].get("streams"))
    if base is None:
        return ["no original was measured: no speed-up (add --baseline MODEL)"]
    form = _words(base["form"], base["precision"], _where(base))
    lines = [
        f"* original; speed-ups are against its fastest form: {base['target']} {form}, {number(base['p50_ms'])} ms"
    ]
    measured = [row for row in rows if row["speedup"] is not None and row is not base]
    if measured and all(row.get("interval") for row in measured):
        lines.append(f"[low, high]: {100 * stats.LEVEL:.0f}% interval of the speed-up, by bootstrap over rounds")
    elif measured:
        fewest = min(len(row["rounds"]) for row in measured)
        lines.append(f"no verdict: fewer than {stats.VERDICT_ROUNDS} rounds ({fewest})")
    return lines


def _of_passes(name: str) -> Callable[[Dict[str, Any]], str]:
    return lambda row: number(row["passes"][name])


PASSES: Columns = (
    *COLUMNS[:3],
    ("threads", True, lambda row: str(row.get("threads") or "-")),
    COLUMNS[4],
    *(
        (name, True, _of_passes(key))
        for name, key in (
            ("average s", "mean_s"),
            ("longest s", "max_s"),
            ("shortest s", "min_s"),
            ("ms/image", "ms_per_image"),
            ("images/s", "images_per_s"),
        )
    ),
    ("busy cores", True, lambda row: _busy(row["passes"])),
    ("interrupts/s", True, lambda row: _per_second(row["passes"], "interrupts_per_s")),
)
"""As `COLUMNS`, of rows that have `passes`."""


def _busy(passes: Dict[str, Any]) -> str:
    """Of all cores, each core's share: what mpstat shows as 100 less %idle and %iowait."""
    cpu = passes.get("cpu")
    if not cpu:
        return "-"
    shares = [core["busy"] for core in cpu["cores"]]
    each = " ".join(f"{100 * share:.0f}%" for share in shares)
    return f"{number(sum(shares), 3)} of {len(shares)} ({each})"


def _per_second(passes: Dict[str, Any], name: str) -> str:
    return number(passes["cpu"][name]) if passes.get("cpu") else "-"


def passes(run: Dict[str, Any]) -> Tuple[str, List[Dict[str, Any]]]:
    """The rows whose whole passes were timed, in the order of `groups`, and the heading of their table."""
    rows = [row for _, group in groups(run) for row in group if row.get("passes")]
    counts = sorted({(len(row["passes"]["seconds"]), row["passes"]["images"]) for row in rows})
    each = ", ".join(f"{times} pass{'es' * (times > 1)} of {images} images" for times, images in counts)
    return f"whole passes: {each}", rows


def failed(run: Dict[str, Any]) -> List[str]:
    """A line for each target that could not be measured."""
    return [f"failed: {failure['target']}: {failure['message']}" for failure in run.get("failures", [])]
