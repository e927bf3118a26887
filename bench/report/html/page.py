"""The page: sections, style and script in one file that asks the network for nothing and runs no code but its own."""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path
from typing import Any, Callable, Dict, Sequence, Tuple

from bench.report import about
from bench.report.cells import failed
from bench.report.html import costs, curves, distributions, modes, results, summary, tails
from bench.report.html.elements import escape, items, table

Section = Callable[[Dict[str, Any]], str]

_EQUATIONS = (
    ("p50", "the median of all samples of a row: the mean of the middle two of an even number"),
    ("p99", "sorted sample max(n - 1 - ⌊0.01 n⌋, 0) of n, counted from 0, as in trtexec"),
    ("images/s", "batch * queries ÷ Σ tᵢ, where tᵢ is the wall time of query i"),
    (
        "speed-up",
        "p50 of the fastest form of the original ÷ p50 of the row, at the same batch, CPU threads and streams",
    ),
    ("[low, high]", "quantiles of the speed-up over a bootstrap that draws rounds first, then samples within each"),
    ("drop", "100 * (top-1 of the original in float32 - top-1 of the row), points; a negative one is a gain"),
    ("energy of an image", "∫ P dt ÷ images, P in watts by the rail that is named; above idle: less idle power * time"),
)

_PATTERN = (
    '<svg class="unseen" aria-hidden="true" width="0" height="0"><defs><pattern id="hatch" width="6" height="6" '
    'patternUnits="userSpaceOnUse" patternTransform="rotate(45)"><rect class="under" width="6" height="6"/>'
    '<path class="over" d="M0 0V6"/></pattern></defs></svg>'
)


def text(run: Dict[str, Any]) -> str:
    """The HTML file of a run.

    Args:
        run: `optimize.run/1`.

    Returns:
        One document without references: the policy in its head lets a browser use nothing but the style and the script
        that are in it, by their hashes.
    """
    return document(
        f"Measurements of {run['created']}",
        "Measurements",
        _made(run),
        [(name, heading, make(run)) for name, heading, make in _SECTIONS],
    )


def document(title: str, heading: str, lead: str, made: Sequence[Tuple[str, str, str]]) -> str:
    """One file of sections.

    Args:
        title: Of the window.
        heading, lead: Above the sections.
        made: Name, heading and HTML of each section; an empty one is left out.
    """
    style, script = (Path(__file__).with_name(f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    found = [one for one in made if one[2]]
    links = "".join(f'<li><a href="#{name}">{words}</a></li>' for name, words, _ in found)
    parts = "".join(
        f'<section id="{name}" aria-labelledby="{name}-h"><h2 id="{name}-h">{words}</h2>{body}</section>'
        for name, words, body in found
    )
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{escape(title)}</title><style>{style}</style></head><body>{_PATTERN}"
        '<a class="skip" href="#main">Skip to the content</a>'
        f"<header><h1>{escape(heading)}</h1><p>{escape(lead)}</p></header>"
        f'<nav aria-label="Sections"><ul>{links}</ul></nav><main id="main">{parts}</main>'
        "<footer><p>Made by optimize report. Every raw sample is in the run file.</p></footer>"
        f"<script>{script}</script></body></html>\n"
    )


def _hash(content: str) -> str:
    """Source expression of an inline style or script (Content Security Policy Level 3, section 2.3.1)."""
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


def _made(run: Dict[str, Any]) -> str:
    rows = run["rows"]
    targets, batches = len({row["target"] for row in rows}), sorted({row["batch"] for row in rows})
    facts = dict(about.machine(run["environment"]))
    machine = facts.get("board") or facts.get("cpu") or "a machine that is not named"
    what = f"{targets} target{'s' * (targets != 1)} at batch {', '.join(map(str, batches))}" if rows else "Nothing"
    return f"{what} measured on {machine}; {run['created']}."


def _failures(run: Dict[str, Any]) -> str:
    return items(failed(run))


def _machine(run: Dict[str, Any]) -> str:
    """Facts of each run's machine, and its state before and after."""
    several = run.get("environments", [])
    parts = []
    for place, environment in enumerate(several or [run["environment"]]):
        name = f" of run {place + 1}" if several else ""
        facts, state = about.machine(environment), about.state(environment)
        head = [("fact", False), ("value", False)]
        parts.append(table(f"Machine{name}", head, facts) if facts else f"<p>Machine{name}: unknown.</p>")
        columns = [("state", False), ("before", False), ("after", False)]
        parts.append(
            table(f"State{name} before and after", columns, state)
            if state
            else f"<p>State{name}: not recorded on this system.</p>"
        )
    return "".join(parts)


def _method(run: Dict[str, Any]) -> str:
    terms = "".join(f"<dt>{escape(word)}</dt><dd>= {escape(what)}</dd>" for word, what in _EQUATIONS)
    return f"{items(about.how(run))}<h3>Equations</h3><dl>{terms}</dl>"


def _again(run: Dict[str, Any]) -> str:
    return f'<pre tabindex="0"><code>{escape(about.again(run))}</code></pre>'


_SECTIONS: Tuple[Tuple[str, str, Section], ...] = (
    ("summary", "Summary", summary.section),
    ("results", "Results", results.section),
    ("failed", "Failed", _failures),
    ("accuracy", "Accuracy against latency", curves.accuracy),
    ("batches", "Over the batch", curves.by_batch),
    ("threads", "Over CPU threads", curves.by_threads),
    ("streams", "Over queries at a time", curves.by_streams),
    ("modes", "Over power modes", modes.section),
    ("passes", "Whole passes", results.passed),
    ("latency", "Distributions of latency", distributions.section),
    ("tail", "Tails", tails.section),
    ("energy", "Energy", costs.energy),
    ("layers", "Layers", costs.layers),
    ("machine", "Machine and its state", _machine),
    ("method", "How it was measured", _method),
    ("again", "Again", _again),
)
"""Name, heading and what makes it, in the order of the page; what comes out empty is left out."""
