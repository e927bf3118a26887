"""`make test-device`: run the contract cases on this machine and write what came of them to one file.

    python -m tests.device.report [-o device-report.json] [--only 'build.*'] [--list]

Nothing is sent anywhere. Names of the host and its users, serial numbers, addresses and paths are taken out.
"""

from __future__ import annotations

import argparse
import datetime
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence

from engines import board, cuda, device, jsonfile
from tests.device import child, redact
from tests.device.contract import CASES, chosen
from tests.device.world import STATUSES

SCHEMA = "optimize.device-report/1"

_BOARD = (
    "jetson",
    "model",
    "module",
    "soc",
    "compute_capability",
    "dla_cores",
    "l4t",
    "jetpack",
    "jetpack_by",
    "driver",
    "tensorrt",
    "tensorrt_package",
    "bindings",
    "bindings_package",
    "cuda",
    "nvcc",
    "cudnn",
    "memory",
    "clocks",
)
"""What is taken of `engines.board.facts`; the power mode's id and name besides."""

_MACHINE = ("cpu", "cores", "physical_cores", "memory_bytes", "os", "kernel", "arch", "gpu", "python", "container")
"""What is taken of `engines.device.facts`, and versions of packages."""

_ATTENTION = ("broken", "raised", "crashed", "timeout")


def facts() -> Dict[str, Any]:
    """What this machine is: fields named one by one, so that none comes in unseen."""
    here, there = device.facts(), board.facts()
    return {
        "machine": {name: here.get(name) for name in _MACHINE},
        "packages": dict(here["packages"]),
        "board": {name: there.get(name) for name in _BOARD},
        "power": {name: there["power"].get(name) for name in ("id", "name", "default")},
    }


def assemble(
    about: Dict[str, Any], outcomes: Sequence[Dict[str, Any]], tensorrt: str, why: str, hidden: redact.Secrets
) -> Dict[str, Any]:
    """The report.

    Args:
        about: Of `facts`.
        outcomes: Of the cases.
        tensorrt: Its version; empty where only CUDA was tried.
        why: Why there is no TensorRT.
        hidden: Of `redact.secrets`.

    Returns:
        `schema`, `made` (day), `optimize` (version), `tensorrt`, `double` (of a stand-in), `without_tensorrt` (why),
        `facts`, `summary` (cases by status), `cases` (see `world.run`). Names of cases and words of `STATUSES` are
        ours; every other text is redacted.
    """
    from optimize.version import VERSION

    cases = []
    for one in outcomes:
        rest = redact.tree({key: value for key, value in one.items() if key not in ("name", "status")}, hidden)
        cases.append({"name": one["name"], "status": one["status"], **rest})
    return {
        "schema": SCHEMA,
        "made": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "optimize": VERSION,
        "tensorrt": redact.text(tensorrt, hidden),
        "double": tensorrt.endswith(device.DOUBLE),
        "without_tensorrt": redact.text(why, hidden),
        "facts": redact.tree(about, hidden),
        "summary": {status: sum(one["status"] == status for one in outcomes) for status in STATUSES},
        "cases": cases,
    }


def _arguments(words: Optional[Sequence[str]]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="make test-device", description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument(
        "-o", "--output", type=Path, default=Path("device-report.json"), metavar="FILE", help="%(default)s"
    )
    parser.add_argument("--only", action="append", default=[], metavar="PATTERN", help="such as 'build.*'")
    parser.add_argument("--list", action="store_true", help="name the cases and end")
    parser.add_argument(
        "--limit", type=float, default=child.LIMIT_S, metavar="S", help="seconds for one case (%(default)g)"
    )
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--tensorrt", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("names", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args(words)


def main(words: Optional[Sequence[str]] = None) -> int:
    """Run the cases and write the report.

    Returns:
        0 where all that is there holds, 1 where something does not (the report tells it), 2 where no case has such a
        name, 4 where there is no GPU that pycuda reaches, 130 where it was interrupted.
    """
    asked = _arguments(words)
    if asked.child:
        return child.serve(asked.names, asked.tensorrt)
    if asked.list:
        print("\n".join(f"{name:32}{(case.run.__doc__ or '').splitlines()[0]}" for name, case in CASES.items()))
        return 0
    why = cuda.unavailable()
    if why:
        print(f"error: {why}\n  {cuda.HINT}", file=sys.stderr)
        return 4
    version, without = device.tensorrt_version()
    names = chosen(asked.only, bool(version))
    if not names:
        print(f"error: no case is called {', '.join(asked.only)}: see --list", file=sys.stderr)
        return 2
    if not version:
        print(f"Without TensorRT ({without}): only what needs CUDA alone is tried.")
    print(f"{len(names)} cases. Nothing is sent anywhere.")
    try:
        outcomes = child.run_all(names, bool(version), _teller(len(names)), asked.limit)
    except KeyboardInterrupt:
        print("\ninterrupted: no report was written", file=sys.stderr)
        return 130
    made = assemble(facts(), outcomes, version, without, redact.secrets())
    jsonfile.write(asked.output, made)
    return _close(made, asked.output)


def _teller(total: int) -> child.Tell:
    told: List[str] = []

    def tell(outcome: Dict[str, Any]) -> None:
        told.append(outcome["name"])
        seconds = "" if outcome["seconds"] is None else f"{outcome['seconds']:7.1f} s"
        why = f"  {outcome['why']}" if outcome["why"] else ""
        print(f"[{len(told):2}/{total}] {outcome['name']:32}{outcome['status']:8}{seconds}{why}", flush=True)

    return tell


def _close(made: Dict[str, Any], output: Path) -> int:
    counts = ", ".join(f"{count} {status}" for status, count in made["summary"].items() if count)
    wrong = [one["name"] for one in made["cases"] if one["status"] in _ATTENTION]
    print(f"\n{counts}")
    if wrong:
        print(f"Not as the code expects: {', '.join(wrong)}")
    print(f"Written to {output}: host name, user names, serial numbers, addresses and paths are taken out; read it.")
    print("To help the project, attach the file to a new issue (docs/device-tests.md).")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
