"""The state that is kept with every run: of the processor, and of an NVIDIA board its power mode and clocks."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, List

from bench.telemetry import nvml, proc
from engines import board

_MOVED = 0.02
"""Share by which a limit of a clock may differ before it is another one: the same cap is told as 612 and 624 MHz."""


def state(
    root: Path = Path("/"),
    sample_s: float = 0.0,
    run: board.Run = board.output,
    gpus: Callable[[], List[nvml.Gpu]] = nvml.gpus,
) -> Dict[str, Any]:
    """Read the state of the machine.

    Args:
        root: Stands for `/`.
        sample_s: See `bench.telemetry.proc.state`.
        run: Runs `nvpmodel` and `nvidia-smi`, where the files do not tell.
        gpus: Gives the GPUs that NVIDIA's library knows.

    Returns:
        What `proc.state` returns, and on NVIDIA's boards and desktops `power_mode` (name, or its number; None where
        there is none) and `device_clocks` (`engines.board.clocks`); there `clocks` is the state of all of them; and
        `gpu_limits`, what holds down the clocks of GPUs (`bench.telemetry.nvml.limits`); None where none tells.
    """
    found = proc.state(root, sample_s)
    if not found or not board.present(root):
        return found
    power, clocks = board.power(root, run), board.clocks(root, run)
    mode = power["name"] or (None if power["id"] is None else str(power["id"]))
    told = [(gpu.name, nvml.limits(gpu)) for gpu in gpus()]
    known = any(limits is not None for _, limits in told)
    return {
        **found,
        "clocks": clocks["state"],
        "power_mode": mode,
        "device_clocks": clocks,
        "gpu_limits": [f"{name}: {words}" for name, limits in told for words in limits or ()] if known else None,
    }


def flags(before: Dict[str, Any], after: Dict[str, Any]) -> List[str]:
    """What disturbed a measurement between two states: `proc.flags`, `throttled` also where power or heat holds a GPU
    down in one of them, and `clocks changed` where a limit moved."""
    found = proc.flags(before, after)
    if (before.get("gpu_limits") or after.get("gpu_limits")) and "throttled" not in found:
        found.append("throttled")
    moved = before.get("power_mode") != after.get("power_mode") or any(
        not like(*(_limit(one, name, end) for one in (before, after)))
        for name in ("cpu", "gpu", "emc")
        for end in ("min_hz", "max_hz")
    )
    return [*found, "clocks changed"] if moved else found


def unlike(a: Dict[str, Any], b: Dict[str, Any]) -> List[str]:
    """In which ways two states are not alike, in words; what one of them does not tell is not compared."""
    found = [
        f"{words}: {a[name]} and {b[name]}"
        for name, words in _SAME.items()
        if a.get(name) is not None and b.get(name) is not None and a[name] != b[name]
    ]
    limits = [("CPU", 1e6 * a["limit_mhz"], 1e6 * b["limit_mhz"])] if a.get("limit_mhz") and b.get("limit_mhz") else []
    limits += [
        (words, _limit(a, name, "max_hz"), _limit(b, name, "max_hz"))
        for name, words in (("gpu", "GPU"), ("emc", "memory"))
    ]
    return found + [
        f"highest {words} clock: {one / 1e6:.0f} and {other / 1e6:.0f} MHz"
        for words, one, other in limits
        if not like(one, other)
    ]


_SAME = {"power_mode": "power mode", "clocks": "clocks", "governor": "governor", "turbo": "turbo"}


def like(a: Any, b: Any) -> bool:
    """Whether two limits are the same within what boards tell; an unknown one is like any other."""
    return a is None or b is None or abs(a - b) <= _MOVED * max(abs(a), abs(b))


def _limit(state: Dict[str, Any], name: str, end: str) -> Any:
    return state.get("device_clocks", {}).get(name, {}).get(end)
