"""A tail in words, for the terminal and for reports alike."""

from __future__ import annotations

from typing import Any, Dict, List

NOT_SURE = "estimates under the measured conditions; no number of samples makes them a bound"


def seen(one: Dict[str, Any]) -> List[str]:
    """What was measured: extremes, the rule of three sigmas for contrast, and the deadline."""
    first = "" if one["first_ms"] is None else f"first run {one['first_ms']:.4g} ms; then "
    found = [
        f"{first}best {one['best_ms']:.4g}, median {one['median_ms']:.4g}, high-water mark {one['hwm_ms']:.4g} ms "
        f"({one['hwm_ratio']:.2f} times the best) of {one['n']:,} samples",
        f"mean + 3 sigma {one['mu_3_sigma_ms']:.4g} ms: {100 * one['mu_3_sigma_exceeded']:.3g}% took longer "
        "(of a normal distribution 0.135%)",
    ]
    missed = one["deadline"]
    if missed:
        low, high = (100 * end for end in missed["interval"])
        words = f"deadline {missed['deadline']:g} ms: {missed['count']:,} of {missed['n']:,} missed it, "
        words += f"{100 * missed['share']:.3g}% [{low:.3g}, {high:.3g}]"
        if missed["clustered"]:
            after = 100 * (missed["after_a_miss"] or 0)
            words += f"; misses come together: {after:.3g}% right after one, at most {missed['longest']} in a row"
        found.append(words)
    return found


def tested(one: Dict[str, Any]) -> List[str]:
    """What was tested and fitted, and why there is no estimate where there is none."""
    found = []
    for words, tests in (("samples", one["tests"]), ("declustered peaks", one["peak_tests"])):
        failed = ", ".join(test["name"] for test in tests if test["failed"])
        if tests:
            every = ", ".join(f"{test['name']} {test['p']:.2g}" for test in tests)
            found.append(f"p-values of the {words}: {every}")
            found.append(f"tests of the {words}: " + (f"failed: {failed}" if failed else f"all {len(tests)} passed"))
    threshold = one["threshold"]
    if threshold and not one["refused"]:
        index = f", extremal index {one['extremal_index']:.2f}" if one["declustered"] else ""
        found.append(
            f"tail: {threshold['peaks']} peaks above {threshold['ms']:.4g} ms, shape {threshold['shape']:.2f} "
            f"[{threshold['shape_low']:.2f}, {threshold['shape_high']:.2f}], fit p {threshold['p']:.2g}{index}"
        )
    if one["out_of_sample"]:
        words = ", ".join(f"{c['seen']} for {c['expected']:g} at {c['p']:g}" for c in one["out_of_sample"])
        found.append(f"fitted to the first half, exceeded in the second: {words}")
    if one["refused"]:
        needed = one["refused"]["needed"]
        more = f"{needed:,} samples would be needed" if needed > one["n"] else "more samples alone would not help"
        if one["refused"].get("unfitted"):
            more = f"without a tail that fits, {needed:,} samples would be needed to see the rarest itself"
        found.append(f"no estimate: {one['refused']['reason']}; {more}")
    return found


def beyond(each: Dict[str, Any]) -> str:
    """Of an estimate: whether it lies beyond what was seen."""
    return f"extrapolated: seen in {each['seen_after']:,} samples" if each["extrapolated"] else ""


def by_blocks(one: Dict[str, Any], p: float) -> str:
    """The second opinion on an estimate; empty where there is none."""
    found = [each for each in (one["blocks"] or {}).get("estimates", ()) if each["p"] == p]
    return f"{found[0]['value']:.4g} [{found[0]['low']:.4g}, {found[0]['high']:.4g}]" if found else ""


def estimates(one: Dict[str, Any]) -> List[str]:
    """A line an estimate."""
    lines = []
    for each in one["estimates"]:
        blocks = by_blocks(one, each["p"])
        parts = [f"one in {1 / each['p']:,.0f}: {each['ms']:.4g} ms [{each['low_ms']:.4g}, {each['high_ms']:.4g}]"]
        parts += [f"by block maxima {blocks}"] if blocks else []
        parts += [beyond(each)] if each["extrapolated"] else []
        lines.append("; ".join(parts))
    return lines


def slow_layers(found: Dict[str, Any]) -> List[Dict[str, Any]]:
    """Of `bench.layertail.measure`: the layers and what is outside them, those that slow queries are slow in first."""
    every = [*found["layers"], {"name": "outside the layers", **found["outside"]}]
    return sorted(every, key=lambda layer: -(layer["share"] or 0.0))
