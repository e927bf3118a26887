"""A choice in lines, for a reader: its verdict, and the steps of the document."""

from __future__ import annotations

from typing import Any, List, Mapping

from engines.text import plain


def lines(found: Mapping[str, Any]) -> List[str]:
    """The verdict of a choice for a reader, the document's quantities in its first line."""
    asked = found["asked"]
    limits = f"at least {100 * asked['min_saving']:g}% asked, {asked['max_drop']['words']} may be lost"
    if found["chosen"] is None:
        return [f"{found['verdict']}: {found['why']}"]
    out = [
        f"{found['verdict']}: {found['baseline']} -> {found['chosen']} saves {100 * found['saving']:.1f}% and loses "
        f"{found['drop_points']:.2f} points ({limits}); {found['scope']}",
        f"why: {found['why']}",
        f"saving: {100 * found['saving']:.1f}% as mean of ratios, "
        f"{100 * found['saving_of_means']:.1f}% as ratio of means",
        f"drop: {found['drop_points']:.2f} points, {100 * found['drop_share']:.1f}% of the baseline's accuracy",
    ]
    if found["ties"]:
        out.append(f"accuracy within the sampling error of the baseline's: {', '.join(found['ties'])}")
    out += _bandwidth_lines(found)
    for one in found["candidates"]:
        flags = [flag for flag in one["flags"] if not flag.endswith(" unknown")]
        if one["target"] in (found["baseline"], found["chosen"]) and flags:
            out.append(f"flags of {one['target']}: {', '.join(flags)}")
    out += [f"unknown: {'; '.join(found['unknown'])}"] if found["unknown"] else []
    return [plain(text) for text in out]


def next_step(found: Mapping[str, Any]) -> str:
    """What to type where a choice is not PASS; empty where nothing but other models would help."""
    if found["chosen"] is not None and found["chosen"] == found["baseline"]:
        greedy = "" if found["asked"]["policy"] == "greedy" else "--policy greedy, or "
        return f"{greedy}--min-saving 0: the most accurate one passes then, though it saves nothing"
    if found["rounds_needed"] is not None:
        return f"optimize bench ENGINE... --rounds {found['rounds_needed']} -o runs.json, with the same options"
    return ""


def _bandwidth_lines(found: Mapping[str, Any]) -> List[str]:
    about = found["sensitivity"]
    if about is None:
        return []
    out = [
        f"below {one['mbps']:.4g} Mbps {one['below']} is the fastest, above it {one['above']}" for one in about["flips"]
    ]
    if not out and found["asked"]["policy"] == "budget":
        out = [f"{about['highest']} is the fastest at any bandwidth"]
    least = 100 * found["asked"]["min_saving"]
    out += [f"the saving passes through {least:g}% at {mbps:.4g} Mbps" for mbps in about["verdict_mbps"]]
    return [f"with the transfer counted: {'; '.join(out)}"] if out else []


def steps(found: Mapping[str, Any]) -> List[str]:
    """The steps of the document's procedure as this choice went through them, one line each."""
    named = {one["target"]: one for one in found["candidates"]}
    able = [name for name, one in named.items() if one["feasible"]]
    device = (found["device"] or {}).get("model") or "not told"
    out = [
        f"device: {device}",
        f"models: {len(named)} candidates: {', '.join(named)}",
        f"feasible: {len(able)} of them",
    ]
    if found["chosen"] is not None:
        out += [
            f"baseline, the most accurate: {_told(named[found['baseline']])}",
            f"advanced, {_POLICY[found['asked']['policy']]} ({found['asked']['max_drop']['words']} may be lost): "
            f"{_told(named[found['chosen']])}",
            f"trials: {found['rounds'] or 'no'} rounds{', paired and alternating' if found['paired'] else ''}; "
            f"saving {100 * found['saving']:.1f}%{_interval(found)}, drop {found['drop_points']:.2f} points",
        ]
    return [plain(text) for text in [*out, f"verdict: {found['verdict']}: {found['why']}"]]


_POLICY = {
    "budget": "the fastest within the drop limit",
    "greedy": "the most accurate",
    "pareto": "the balanced one of the front",
}


def _told(one: Mapping[str, Any]) -> str:
    return f"{one['target']}, {100 * one['top1']:.2f}%, {one['times']['total_s']:.4g} s"


def _interval(found: Mapping[str, Any]) -> str:
    if found["interval"] is None:
        return ""
    low, high = (100 * end for end in found["interval"])
    return f" [{low:.1f}%, {high:.1f}%]"
