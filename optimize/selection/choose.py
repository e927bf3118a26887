"""`optimize select`: from run files to a choice, by the procedure of the cloud-edge validation document.

Baseline: the most accurate that the device can take. Advanced: what the policy picks. Then the saving, and a verdict.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional, Sequence, Union

from bench import runs as run_files
from bench import stats
from engines.errors import UsageError
from engines.spec import Progress, quiet
from optimize.selection import asked as words
from optimize.selection import candidates as table
from optimize.selection import choice, feasible, imported, policies, saving, sensitivity, total
from optimize.selection.asked import Asked
from optimize.selection.candidates import Candidate, Runs
from optimize.selection.policies import Judged
from optimize.selection.verdict import FAIL, PASS, Verdict, verdict

PathLike = Union[str, Path]


def select(
    runs: Sequence[PathLike] = (),
    policy: str = "budget",
    max_drop: Union[str, float] = 10,
    min_saving: Optional[Union[str, float]] = None,
    bandwidth: Optional[str] = None,
    rtt: str = "0",
    images: int = words.IMAGES,
    batch: Optional[int] = None,
    cached: bool = False,
    device: Optional[PathLike] = None,
    limit_memory: Optional[str] = None,
    max_load: Optional[Union[str, float]] = None,
    out: Optional[PathLike] = None,
    source: Optional[str] = None,
    names: Sequence[str] = (),
    ship_to: Optional[str] = None,
    ship_as: Optional[str] = None,
    sign: Optional[PathLike] = None,
    load: Optional[str] = None,
    ship_anyway: bool = False,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Choose a model for a device, hold it against the most accurate one, give a verdict, and ship what was chosen.

    Args:
        runs: Run files of `bench`, of one device; or tables of others (see `optimize.selection.imported`). None where
            a repository tells the candidates.
        policy: budget (the fastest within the drop limit), greedy (the most accurate) or pareto (of the front over
            accuracy, latency, energy and size the member that is nearest to the best of each).
        max_drop: `10`: points of 100; `10%`: a share of the baseline's accuracy.
        min_saving: Share of the baseline's time that must be saved, such as `20%`: by default that; 0 for greedy.
        bandwidth: Between the control node and the device, such as `10Mbps`; `link` is what the device's link has.
        rtt: Round trip before a transfer, such as `20ms`.
        images: Of the total time.
        batch: Images in a query; by default the smallest that all candidates have.
        cached: The models are on the device already: the total time is load, first inference and the images.
        device: File of `optimize device show --json` or of `optimize node status --facts --json`, of the device;
            `this-device` for this one.
        limit_memory: That a candidate may take, such as `2GiB`.
        max_load: Share of the device's processor that others may take.
        out: File to write the choice to.
        source: URL of a store of `optimize ship`: only what it holds, and the device takes, can be chosen. Without run
            files the candidates are what it holds, by the accuracy and the latency recorded there.
        names: NAME or NAME:TAG of it that count; by default all that it lists.
        ship_to: Store or repository of Triton that the chosen engine is shipped to, if the verdict is PASS; see
            `optimize.ship.send.ship`. It is the very engine that was judged, or nothing is shipped.
        ship_as: NAME or NAME:TAG that it gets there.
        sign, load: See `optimize.ship.send.ship`.
        ship_anyway: Ship the chosen engine whatever the verdict is.
        progress: Told what is read, and what is shipped.

    Returns:
        `optimize.choice/1`, with `shipped`: what `optimize.ship` answered, with `build_key`, `engine_sha256` and
        `from`; None where nothing was shipped. See docs/selecting.md and docs/formats.md.

    Raises:
        UsageError: A bad option, a file that is not there, or one candidate only.
        DamagedError, DataError: Not a run file, not a table, or not a device file.
        IncompatibleError: Runs of unlike devices, accuracies of different test sets, or times of another device; or
            what would be shipped is another engine than was judged.
        OptimizeError: A store failed.
    """
    from optimize.selection import shipping, stock

    if out is not None and Path(out).is_dir():
        raise UsageError(f"{out} is a folder", "name a file with -o choice.json")
    shipping.check(ship_to, ship_as, sign, load, ship_anyway, names, source)
    about = feasible.told(device) if device is not None else None
    given = ask(policy, max_drop, min_saving, bandwidth, rtt, images, batch, cached, about, limit_memory, max_load)
    taken: Runs = [(str(path), read(path)) for path in runs]
    held: Sequence[stock.Held] = ()
    allowed: Allowed = _anything
    if source is not None:
        held = stock.held(source, names, progress)
        taken = taken or [stock.run(source, held, about)]
        allowed = stock.allowed(source, held, taken, about)
    found = {**decide(taken, given, about, allowed), "shipped": None}
    if source is not None and not runs:
        found["unknown"].append(stock.CAVEAT)
    if out is not None:
        choice.write(Path(out), found)
    if ship_to is not None and found["chosen"] is not None and (found["verdict"] == PASS or ship_anyway):
        found["shipped"] = shipping.ship_choice(found, held, source, ship_to, ship_as, sign, load, progress)
        if out is not None:
            choice.write(Path(out), found)
    return found


def read(path: PathLike) -> Dict[str, Any]:
    """Read a run file, or a table (`.csv`) as one.

    Raises:
        UsageError: No such file.
        DamagedError, DataError: Not a run file, not a table.
    """
    if not Path(path).is_file():
        raise UsageError(
            f"{path}: no such run file", "optimize bench ENGINE... --data cifar10 --rounds 10 -o runs.json"
        )
    return imported.read(Path(path)) if Path(path).suffix.lower() == ".csv" else run_files.read(Path(path))


def ask(
    policy: str,
    max_drop: Union[str, float],
    min_saving: Optional[Union[str, float]],
    bandwidth: Optional[str],
    rtt: str,
    images: int,
    batch: Optional[int],
    cached: bool,
    device: Optional[Mapping[str, Any]],
    limit_memory: Optional[str] = None,
    max_load: Optional[Union[str, float]] = None,
) -> Asked:
    """Read the words of `select`.

    Raises:
        UsageError: One is not what it must be.
    """
    if policy not in words.POLICIES:
        raise UsageError(f"--policy {policy}: {', '.join(words.POLICIES)} are known")
    if images < 1 or (batch is not None and batch < 1):
        raise UsageError("--images and --batch are 1 or more")
    least = (0.0 if policy == "greedy" else 0.2) if min_saving is None else words.share("--min-saving", min_saving)
    rate = None
    if bandwidth is not None:
        rate = feasible.link(device) if bandwidth == "link" else words.bandwidth("--bandwidth", bandwidth)
    return Asked(
        policy=policy,
        drop=words.drop("--max-drop", max_drop),
        min_saving=least,
        images=images,
        batch=batch,
        bandwidth=rate,
        rtt_s=words.delay("--rtt", rtt),
        cached=cached,
        memory_bytes=None if limit_memory is None else words.size("--limit-memory", limit_memory),
        max_load=None if max_load is None else words.share("--max-load", max_load),
    )


Allowed = Callable[[Candidate], str]
"""Why a candidate is left out for something else than the device's limits; empty where it is not."""


def _anything(one: Candidate) -> str:
    return ""


def decide(
    runs: Runs, asked: Asked, device: Optional[Mapping[str, Any]] = None, allowed: Allowed = _anything
) -> Dict[str, Any]:
    """The procedure itself, on runs that have been read.

    Args:
        runs: Name and run of each.
        asked: What is asked.
        device: What `optimize device show --json` told, if anything.
        allowed: What else leaves one out.

    Returns, Raises:
        See `select`.
    """
    if not runs:
        raise UsageError("no run file was given", "optimize bench ENGINE... --data cifar10 --rounds 10 -o runs.json")
    if device is not None:
        feasible.check_device(device, runs)
    found, batch = table.candidates(runs, asked.batch)
    if len(found) == 1:
        raise UsageError(
            f"{found[0].name} is the only candidate: there is nothing to choose from",
            "give the run files of other models or engines too",
        )
    refused = {
        one.name: feasible.refused(one, runs[one.run][1]["environment"], asked, device) or allowed(one) for one in found
    }
    able = [one for one in found if not refused[one.name]]
    unknown = [*table.unknown(found, runs), *feasible.unknown(found, runs, asked, device)]
    about = total.scope(able, asked, batch)
    unknown += ["bandwidth (--bandwidth 10Mbps)"] if asked.bandwidth is None else []
    head = {
        "schema": choice.SCHEMA,
        "runs": [name for name, _ in runs],
        "device": None if device is None else {"model": device["model"]},
        "asked": _told(asked, batch),
        "level": stats.LEVEL,
        "scope": about.words,
        "terms": list(about.terms),
        "left_out": list(about.left_out),
        "unknown": unknown,
    }
    if not able:
        value = {**head, **_nothing(found, refused, runs, about)}
    else:
        value = {**head, **_chosen(found, able, refused, runs, asked, about)}
    choice.validate(value)
    return value


def _told(asked: Asked, batch: int) -> Dict[str, Any]:
    unit = "relative" if asked.drop.relative else "points"
    return {
        "policy": asked.policy,
        "max_drop": {"value": asked.drop.value, "unit": unit, "words": asked.drop.words},
        "min_saving": asked.min_saving,
        "images": asked.images,
        "batch": batch,
        "bandwidth_mbps": None if asked.bandwidth is None else asked.bandwidth / 1e6,
        "rtt_s": asked.rtt_s,
        "cached": asked.cached,
        "memory_bytes": asked.memory_bytes,
        "max_load": asked.max_load,
    }


def _nothing(found: Sequence[Candidate], refused: Mapping[str, str], runs: Runs, about: total.Scope) -> Dict[str, Any]:
    """Of a device that can take none."""
    return {
        **dict.fromkeys(("baseline", "chosen", "saving", "saving_of_means", "interval", "drop_points", "drop_share")),
        "rounds": 0,
        "rounds_needed": None,
        "paired": False,
        "verdict": FAIL,
        "why": f"no candidate is left: {'; '.join(dict.fromkeys(refused.values()))}",
        "rejected": [{"target": one.name, "reason": refused[one.name]} for one in found],
        "ties": [],
        "axes": [],
        "front": [],
        "candidates": [_candidate(one, runs, about, None, False, False) for one in found],
        "sensitivity": None,
    }


def _chosen(
    found: Sequence[Candidate],
    able: Sequence[Candidate],
    refused: Mapping[str, str],
    runs: Runs,
    asked: Asked,
    about: total.Scope,
) -> Dict[str, Any]:
    judged, axes = policies.judged(able, {one.name: total.total(one, about) for one in able})
    baseline = policies.greedy(judged)
    chosen = policies.pick(judged, baseline, asked)
    dominators = policies.dominators(judged)
    front = [one.name for one in judged if one.name not in dominators]
    saved = _saving(baseline, chosen, about)
    result = verdict(saved, asked.drop.allows(baseline.top1, chosen.top1), chosen is baseline, asked.min_saving)
    lost = baseline.top1 - chosen.top1
    reasons = {one.name: _reason(one, baseline, chosen, asked, dominators.get(one.name, "")) for one in judged}
    return {
        "baseline": baseline.name,
        "chosen": chosen.name,
        "saving": saved.mean_of_ratios,
        "saving_of_means": saved.ratio_of_means,
        "interval": None if saved.low is None or saved.high is None else [saved.low, saved.high],
        "rounds": saved.rounds,
        "rounds_needed": result.needed,
        "paired": saved.paired,
        "drop_points": 100 * lost,
        "drop_share": lost / baseline.top1 if baseline.top1 else 0.0,
        "verdict": result.word,
        "why": _why(result, saved, about),
        "rejected": [
            {"target": one.name, "reason": refused[one.name] or reasons[one.name]}
            for one in found
            if one is not chosen.one
        ],
        "ties": policies.ties(judged, baseline),
        "axes": axes,
        "front": front,
        "candidates": [
            _candidate(one, runs, about, baseline.top1, one.name in front, refused[one.name] == "") for one in found
        ],
        "sensitivity": _sensitivity(judged, baseline, chosen, asked, about),
    }


def _saving(baseline: Judged, chosen: Judged, about: total.Scope) -> saving.Saving:
    if chosen is baseline:
        return saving.Saving(0.0, 0.0, rounds=len(baseline.one.costs), paired=True)
    sides = [total.rounds(judged.one, about) for judged in (baseline, chosen)]
    if not all(sides):
        return saving.of_means(baseline.total_s, chosen.total_s)
    found = saving.saving(sides[0], sides[1], baseline.one.run == chosen.one.run)
    return found._replace(ratio_of_means=1 - chosen.total_s / baseline.total_s)


def _why(result: Verdict, saved: saving.Saving, about: total.Scope) -> str:
    parts = [result.why]
    if result.needed is not None:
        parts.append(f"about {result.needed} rounds would decide: --rounds {result.needed}")
    if saved.rounds and not saved.paired:
        parts.append("the rounds are not paired: they are of different runs")
    return "; ".join([*parts, *about.left_out])


def _reason(one: Judged, baseline: Judged, chosen: Judged, asked: Asked, dominator: str) -> str:
    """Why one that the device can take was not chosen."""
    lost = 100 * (baseline.top1 - one.top1)
    if asked.policy != "greedy" and not asked.drop.allows(baseline.top1, one.top1):
        return f"over the drop limit: it loses {lost:.2f} points, {asked.drop.words} are allowed"
    by = f"; dominated by {dominator}" if dominator else ""
    if asked.policy == "greedy" and one.top1 < chosen.top1:
        return f"less accurate than the chosen one: {100 * one.top1:.2f}%, not {100 * chosen.top1:.2f}%{by}"
    if asked.policy == "pareto":
        return f"dominated by {dominator}" if dominator else "on the front, but farther from the best of each axis"
    if one.total_s == chosen.total_s:
        return f"as fast as the chosen one, and no more accurate{by}"
    return f"slower than the chosen one: {one.total_s:.4g} s, not {chosen.total_s:.4g} s{by}"


def _candidate(
    one: Candidate, runs: Runs, about: total.Scope, best: Optional[float], front: bool, able: bool
) -> Dict[str, Any]:
    query = one.mean.query_s
    return {
        "target": one.name,
        "run": runs[one.run][0],
        **{key: one.row[key] for key in ("role", "form", "precision", "backend", "origin", "flags")},
        "model_sha256": one.row.get("model_sha256"),
        "bundle": one.row.get("bundle"),
        "top1": one.top1,
        "drop_points": None if best is None or one.top1 is None else 100 * (best - one.top1),
        "size_bytes": one.size_bytes,
        "memory_bytes": one.memory_bytes,
        "joules_per_image": one.joules,
        "ms_per_image": None if query is None else 1e3 * query / about.batch,
        "rounds": len(one.costs),
        "times": total.times(one, about),
        "feasible": able,
        "front": front,
    }


def _sensitivity(
    judged: Sequence[Judged], baseline: Judged, chosen: Judged, asked: Asked, about: total.Scope
) -> Optional[Dict[str, Any]]:
    """What the bandwidth changes; None where a size is unknown. Cold, whatever the scope of the choice."""
    if any(one.one.size_bytes is None for one in judged):
        return None
    cold = total.scope([one.one for one in judged], asked._replace(bandwidth=1e6, cached=False), about.batch)
    bare = cold._replace(terms=cold.terms[1:])
    lines = {
        one.name: sensitivity.Line(one.name, float(one.one.size_bytes or 0), asked.rtt_s + total.total(one.one, bare))
        for one in judged
    }
    free = {
        "budget": [lines[one.name] for one in judged if asked.drop.allows(baseline.top1, one.top1)],
        "greedy": [lines[baseline.name]],
        "pareto": [lines[chosen.name]],
    }[asked.policy]
    changes = sensitivity.flips(free)
    highest = changes[0]["above"] if changes else min(free, key=lambda one: (one.start, one.slope)).name
    turns = sensitivity.thresholds(free, lines[baseline.name], asked.min_saving, changes)
    return {
        "terms": list(cold.terms),
        "highest": highest,
        "flips": changes,
        "verdict_mbps": turns,
        "lines": [{"target": one.name, "size_bytes": int(one.slope), "start_s": one.start} for one in lines.values()],
    }
