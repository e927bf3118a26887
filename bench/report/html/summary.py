"""What a run shows, in sentences for whoever reads nothing else. Every number is a cell of the tables."""

from __future__ import annotations

from typing import Any, Dict, List, Optional, Tuple

from bench import stats
from bench.report.cells import COLUMNS, groups, name, number
from bench.report.flags import told
from bench.report.html.elements import escape, items
from bench.runs import fastest_original

_CELL = {title: cell for title, _, cell in COLUMNS}


def section(run: Dict[str, Any]) -> str:
    """A card for each batch, and what to be wary of."""
    found = groups(run)
    if not found:
        return "<p>Nothing was measured.</p>"
    cards = "".join(_card(heading, rows) for heading, rows in found)
    wary = warnings(run)
    lead = f'<p class="lead">{escape(overall(found))}</p>'
    return f'{lead}<div class="cards">{cards}</div>' + (f"<h3>To be wary of</h3>{items(wary)}" if wary else "")


def _card(heading: str, rows: List[Dict[str, Any]]) -> str:
    first = fastest(rows)
    top = _CELL["speed-up"](first).partition(" ")[0] if first else "-"
    big = f'<p class="big">{escape(top)} <span>speed-up</span></p>' if top != "-" else ""
    text = "".join(f"<p>{escape(line)}</p>" for line in sentences(rows))
    return f'<article class="card"><h3>{heading[0].upper()}{heading[1:]}</h3>{big}{text}</article>'


def overall(found: List[Tuple[str, List[Dict[str, Any]]]]) -> str:
    """The whole run in one sentence."""
    first = [row for row in (fastest(rows) for _, rows in found) if row is not None]
    names = list(dict.fromkeys(name(row) for row in first))
    if not names:
        return "No engine was measured."
    everywhere = len(first) == len(found)
    where = "" if len(found) == 1 else " everywhere" if everywhere else f" in {len(first)} of {len(found)} comparisons"
    which = (
        f"{names[0]} is the fastest engine{where}" if len(names) == 1 else f"The fastest engines: {', '.join(names)}"
    )
    ratios = sorted(row["speedup"] for row in first if row["speedup"] is not None)
    if not ratios:
        return f"{which}; there is no original to compare it with."
    low, high = (f"{number(ratio, 3)}x" for ratio in (ratios[0], ratios[-1]))
    times = low if low == high else f"{low} to {high}"
    said = list(dict.fromkeys(verdict(row) for row in first if row["speedup"] is not None))
    sure = said[0] if len(said) == 1 else "The verdicts differ: see each."
    return f"{which}, {times} as fast as the original in its fastest form. {sure}"


def fastest(rows: List[Dict[str, Any]]) -> Optional[Dict[str, Any]]:
    """The engine with the least median of a batch, or None."""
    able = [row for row in rows if row["role"] == "engine" and row["p50_ms"] is not None]
    return min(able, key=lambda row: float(row["p50_ms"])) if able else None


def sentences(rows: List[Dict[str, Any]]) -> List[str]:
    """What the rows of one batch show."""
    row, base = fastest(rows), fastest_original(rows, rows[0]["batch"], rows[0].get("threads"), rows[0].get("streams"))
    if row is None:
        return ["No engine was measured." if base is None else f"Only originals: {name(base)} is the fastest form."]
    rate = f", {number(row['images_per_s'])} images/s" if row["images_per_s"] is not None else ""
    found = [f"{name(row)} is the fastest engine: {number(row['p50_ms'])} ms a query (p50){rate}."]
    if base is None:
        found.append("No original was measured, so there is no speed-up.")
    elif row["speedup"] is not None:
        found.append(
            f"Speed-up {_CELL['speed-up'](row)} against the fastest form of the original, {name(base)}, "
            f"{number(base['p50_ms'])} ms. {verdict(row)}"
        )
    found.append(_accuracy(row))
    if row["flags"]:
        found.append(f"Flags of this row: {', '.join(row['flags'])}.")
    return found


def verdict(row: Dict[str, Any]) -> str:
    """What the interval of a row's speed-up allows to say."""
    low, high = row.get("interval") or (None, None)
    found = stats.Ratio(row["speedup"], low, high, stats.LEVEL, len(row["rounds"])).verdict
    sure = f"with {100 * stats.LEVEL:.0f}% confidence"
    words = {
        "faster": f"Verdict: faster, {sure}.",
        "slower": f"Verdict: slower, {sure}.",
        "no difference": f"Verdict: no difference is shown {sure}.",
    }
    return words.get(found, f"{found[0].upper()}{found[1:]}.")


def _accuracy(row: Dict[str, Any]) -> str:
    if row["top1"] is None:
        return "Its accuracy is unmeasured."
    images = f" on {row['dataset']['n']} images" if row["dataset"] else ""
    text = f"Top-1 accuracy {_CELL['top-1'](row)}{images}"
    if row["top1_drop"] is None:
        return f"{text}; the original's is unmeasured."
    points = f"{abs(row['top1_drop']):.2f} points"
    if float(f"{row['top1_drop']:.2f}") == 0:
        return f"{text}, as much as the original."
    return f"{text}, {points} {'below' if row['top1_drop'] > 0 else 'above'} the original."


def warnings(run: Dict[str, Any]) -> List[str]:
    """What the flags mean and how many rows have them, failures, and targets that lost to the original."""
    slower = [
        f"{name(row)} is slower than the original at {heading}: {_CELL['speed-up'](row)}"
        for heading, here in groups(run)
        for row in here
        if row["role"] == "engine" and row["speedup"] is not None and row["speedup"] < 1
    ]
    failures = run.get("failures", [])
    failed = [f"{len(failures)} of the targets could not be measured"] if failures else []
    return [*told(run["rows"]), *slower, *failed]
