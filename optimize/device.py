"""`optimize device`: the state of the machine that measures, its clocks locked for a while and given back.

Nothing is changed unasked: what lock and restore would run is a list of commands that the caller shows first. Locking
keeps what the clocks were in a file, and never over one that is there: that would be the locked state.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence

from engines import board, jsonfile
from engines.backend import ORDER
from engines.device import device_key
from engines.errors import IncompatibleError, OptimizeError, UsageError
from engines.spec import A_LINE, Progress, quiet

Commands = List[List[str]]

_STDERR = 2


def show(root: Path = Path("/"), run: board.Run = board.output, sample_s: float = 0.0) -> Dict[str, Any]:
    """What the machine is and how it stands now.

    Args:
        root: Stands for `/`.
        run: Runs `nvpmodel` and `nvidia-smi` where the files do not tell.
        sample_s: Seconds over which the share of other programs is taken; 0 leaves it None.

    Returns:
        `model`, `cores`, `jetson`, `power` and `clocks` (see `engines.board.power`, `clocks`), `memory`, `state` (see
        `bench.telemetry.state`), `links` (see `engines.board.links`), `backends` (an `engines.device.DeviceKey` of each
        that is installed) and `rails` (`name`, `value`, None where it is not told, `unit`: W, or J so far, and `whole`:
        one of those that together are all it draws).
    """
    from bench.telemetry import rails, state

    found = rails.rails(root)
    whole = [rail.name for rail in rails.whole(found)]
    about = board.text(root / "proc/device-tree/model").strip("\0\n ")
    jetson = (bool(about) and "jetson" in about.lower()) or os.path.exists(root / "etc/nv_tegra_release")
    return {
        "model": about or _processor(root),
        "cores": os.cpu_count(),
        "jetson": jetson,
        "power": board.power(root, run),
        "clocks": board.clocks(root, run),
        "memory": board.memory(root, jetson),
        "state": state.state(root, sample_s, run),
        "links": board.links(root),
        "backends": [key.to_json() for key in map(device_key, ORDER) if key.version],
        "rails": [
            {"name": rail.name, "value": rail.read(), "unit": "J" if rail.counts else "W", "whole": rail.name in whole}
            for rail in found
        ],
    }


def _processor(root: Path) -> str:
    for line in board.text(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return ""


def lines(found: Dict[str, Any]) -> List[str]:
    """What `show` found, for people."""
    power, clocks, state = found["power"], found["clocks"], found["state"]
    out = [found["model"] or "machine: not told"]
    if power["id"] is not None:
        others = ", ".join(f"{mode['name']} ({mode['id']})" for mode in power["modes"] if mode["id"] != power["id"])
        out.append(f"power mode: {power['name'] or '?'} ({power['id']})" + (f"; others: {others}" if others else ""))
    out.append(f"clocks: {clocks['state']}")
    for title, name in (("CPU", "cpu"), ("GPU", "gpu"), ("memory", "emc")):
        now, low, high = (clocks[name][f"{which}_hz"] for which in ("now", "min", "max"))
        if now or high:
            words = (f"{value / 1e6:.0f}" if value else "?" for value in (now, low, high))
            out.append("  {}: {} MHz now, {} to {}".format(title, *words))
    if state.get("governor"):
        out.append(f"  governor: {state['governor']}, turbo: {state['turbo']}")
    for rail in found["rails"]:
        value = "not told" if rail["value"] is None else f"{rail['value']:.3f} {rail['unit']}"
        out.append(f"power {rail['name']}: {value}{' so far' if rail['unit'] == 'J' else ''}")
    if not found["rails"]:
        out.append("power: no sensor that is known here")
    busy = state.get("others_share")
    out += [f"background load: {busy:.0%} of the processor"] if busy is not None else []
    links = ", ".join(f"{one['name']} {one['mbps'] or '?'} Mbps" for one in found["links"])
    out += [f"network: {links}"] if links else []
    out += [f"{key['backend']}: {key['version']}" for key in found["backends"]]
    zones = ", ".join(f"{name} {value:.0f}" for name, value in sorted(state.get("temperatures_c", {}).items()))
    out += [f"temperatures °C: {zones}"] if zones else []
    slowed = ", ".join(state.get("cooling") or ()) or "nothing slows it now"
    return [*out, f"throttling: {slowed}; {state.get('throttle_count') or 0} events since the start"]


def kept(folder: Optional[Path] = None) -> Path:
    """The file that keeps what the clocks were before they were locked."""
    base = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local/state")
    return (folder or base / "optimize") / "jetson_clocks.conf"


def lock_commands(found: Dict[str, Any], store: Path, mode: str = "") -> Commands:
    """What locks the clocks at the highest of the power mode.

    Args:
        found: Of `show`.
        store: See `kept`.
        mode: Name or number of a power mode to take first; empty for the one in force.

    Raises:
        UsageError: The board has no such mode.
        IncompatibleError: No clocks here that these commands lock.
    """
    if found["jetson"]:
        modes = {word: one["id"] for one in found["power"]["modes"] for word in (str(one["id"]), one["name"])}
        if mode and mode not in modes:
            raise UsageError(f"--mode {mode}: this board has {', '.join(modes) or 'none that it tells'}")
        chosen = [["nvpmodel", "-m", str(modes[mode])]] if mode else []
        first = [] if store.exists() else [["jetson_clocks", "--store", str(store)]]
        return [_root(words) for words in [*first, *chosen, ["jetson_clocks"]]]
    if mode:
        raise UsageError(f"power mode {mode}: only a Jetson has power modes, and this is none", "leave it out")
    highest = found["clocks"]["gpu"]["max_hz"]
    if not highest:
        raise IncompatibleError(
            "no clocks here that can be locked by jetson_clocks or nvidia-smi",
            "sudo cpupower frequency-set -g performance holds a Linux processor's clocks up",
        )
    return [_root(["nvidia-smi", f"--lock-gpu-clocks={highest // 10**6},{highest // 10**6}"])]


def restore_commands(found: Dict[str, Any], store: Path) -> Commands:
    """What gives the clocks back.

    Raises:
        UsageError: They were not locked from here.
    """
    if not found["jetson"]:
        return [_root(["nvidia-smi", "--reset-gpu-clocks"])]
    if not store.exists():
        raise UsageError(f"{store} is not there: the clocks were not locked by `optimize device lock`")
    before = board.text(_mode_file(store)).strip()
    mode = [["nvpmodel", "-m", before]] if before.isdigit() and before != str(found["power"]["id"]) else []
    return [_root(words) for words in [*mode, ["jetson_clocks", "--restore", str(store)]]]


def _mode_file(store: Path) -> Path:
    """Beside the clocks: the number of the power mode before it was changed."""
    return store.with_suffix(".mode")


def _root(words: List[str]) -> List[str]:
    return words if _is_root() else ["sudo", *words]


def _is_root() -> bool:
    return hasattr(os, "geteuid") and os.geteuid() == 0


def typed(commands: Sequence[Sequence[str]]) -> List[str]:
    """Commands as they would be typed."""
    return [" ".join(map(shlex.quote, words)) for words in commands]


def run(commands: Commands) -> None:
    """Run commands one after the other, on this terminal; what they print goes to stderr.

    Raises:
        IncompatibleError: A program is missing.
        OptimizeError: One failed; the ones behind it were not run.
    """
    for words in commands:
        try:
            code = subprocess.run(words, stdout=_STDERR).returncode
        except FileNotFoundError:
            raise IncompatibleError(f"{words[0]} is not installed here", "run it on the board itself") from None
        if code:
            raise OptimizeError(f"{typed([words])[0]} ended with code {code}", "its own words stand above")


def lock(
    commands: Commands, store: Path, found: Dict[str, Any], root: Path = Path("/"), ask: board.Run = board.output
) -> Dict[str, Any]:
    """Lock the clocks and see that they are.

    Args:
        commands: Of `lock_commands`.
        store: See `kept`.
        found: Of `show`, before.
        root, ask: See `show`.

    Returns:
        The clocks after it.

    Raises:
        OptimizeError: A command failed, or the clocks are free all the same.
    """
    store.parent.mkdir(parents=True, exist_ok=True)
    if not store.exists() and found["power"]["id"] is not None:
        with jsonfile.replacing_file(_mode_file(store)) as part:
            part.write_text(f"{found['power']['id']}\n", encoding="utf-8")
    run(commands)
    clocks = board.clocks(root, ask)
    if clocks["state"] == "free":
        raise OptimizeError("the clocks are still free", "optimize device show; a container may not change them")
    return clocks


@contextlib.contextmanager
def held(
    mode: str = "", progress: Progress = quiet, root: Path = Path("/"), ask: board.Run = board.output
) -> Iterator[Dict[str, Any]]:
    """Hold the clocks, in a power mode, while something is measured, and give them back whatever happens.

    Clocks that were locked before stay as they are.

    Args:
        mode: See `lock_commands`.
        progress: Told the commands.
        root, ask: See `show`.

    Yields:
        What `lock` returns.

    Raises:
        UsageError: No such mode; or another one is asked for while clocks are locked.
        IncompatibleError, OptimizeError: See `lock_commands` and `lock`.
    """
    store, before = kept(), show(root, ask)
    ours = not (before["jetson"] and store.exists())
    if mode and not ours:
        raise UsageError(f"--power-mode {mode}: the clocks are locked already", "optimize device restore")
    commands = lock_commands(before, store, mode)
    progress(f"this runs: {'; '.join(typed(commands))}", 0, A_LINE)
    try:
        yield lock(commands, store, before, root, ask)
    finally:
        if ours and (store.exists() or not before["jetson"]):
            back = restore_commands(show(root, ask), store)
            progress(f"this runs: {'; '.join(typed(back))}", 0, A_LINE)
            restore(back, store)


def restore(commands: Commands, store: Path) -> None:
    """Give the clocks back; what they were is forgotten then.

    Raises:
        OptimizeError: A command failed; it can be tried again.
    """
    run(commands)
    for file in (store, _mode_file(store)):
        file.unlink(missing_ok=True)
