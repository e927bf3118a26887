"""Our INT8 quantiser beside ONNX Runtime's, NNCF and ModelOpt: `python -m bench.peers.quantisers -o FILE.json`.

All get the same FP32 graph and the same calibration images, and each works in a fresh process of its own: the tools
take turns, as often as asked for. What they wrote becomes OpenVINO IR and is measured there with equal settings:
accuracy on all test images with every float layer in float32, so that it is what INT8 costs; latency with the device's
fast 16-bit float beside INT8, as our bundles run, in fresh processes round after round. Numbers of ModelOpt and
NNCF come from environments of their own (`bench.peers.environments`).
"""

from __future__ import annotations

import argparse
import datetime
import sys
import tempfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional, Sequence

from bench.peers import environments, models
from bench.peers.comparison import Comparison
from bench.peers.contenders import QUICK, TOOLS, Settings
from bench.peers.models import Place
from engines import jsonfile
from engines.errors import OptimizeError, UsageError, outcome
from engines.spec import Progress, quiet

SCHEMA = "optimize.quantisers/1"


def compare(
    names: Sequence[str],
    settings: Settings,
    data: str = "",
    preprocess: str = "unit",
    tools: Sequence[str] = TOOLS,
    folder: Optional[Path] = None,
    progress: Progress = quiet,
    keep: Callable[[Dict[str, Any]], None] = lambda found: None,
) -> Dict[str, Any]:
    """Compare the quantisers on models.

    Args:
        names: Of `models.TABLE`, or `.onnx` files.
        settings: How much is measured.
        data: Data set for all models; of the named ones the shared images by default.
        preprocess: Of `.onnx` files.
        tools: Of `TOOLS`; ours is needed, since ratios are to it.
        folder: Of the environments.
        progress: Told what is going on.
        keep: Given the result so far after each model: all of them take hours.

    Returns:
        `schema`, `created`, `environment`, `settings`, `models` [{`name`, `onnx_sha256`, `calibration`, `test`,
        `about`, `fp32`, `rows`, `claims`}] and `failures` [{`target`, `message`}]. A row that failed has
        `failed`, the reason.

    Raises:
        UsageError: No such model or tool.
    """
    from bench.peers.claims import claims
    from bench.telemetry import proc
    from engines.device import facts

    if "ours" not in tools or not set(tools) <= set(TOOLS):
        raise UsageError(f"no such tools: {', '.join(tools)}", f"--tools {','.join(TOOLS)}; ours is needed")
    before = proc.state(sample_s=0.2)
    done: List[Dict[str, Any]] = []
    failures: List[Dict[str, str]] = []

    def result() -> Dict[str, Any]:
        return {
            "schema": SCHEMA,
            "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
            "environment": {**facts(), "before": before, "after": proc.state(sample_s=0.2)},
            "settings": settings._asdict(),
            "models": done,
            "failures": failures,
        }

    with tempfile.TemporaryDirectory(prefix="optimize-") as scratch:
        for name in names:
            place = Place(data, Path(scratch, f"{len(done) + len(failures)}"), settings.seed, folder, progress)
            place.scratch.mkdir()
            try:
                graph = models.prepare(name, preprocess, place)
            except UsageError:
                raise
            except OptimizeError as error:
                failures.append({"target": name, "message": error.message})
                continue
            found = Comparison(graph, settings, tools, place).measure()
            done.append({**found, "claims": claims(found)})
            keep(result())
    return result()


def main(arguments: Optional[Sequence[str]] = None) -> int:
    """Write the JSON and print the tables; 5 where a model, or ours on one, could not be measured.

    A peer that fails or does not install here is a row with the reason.
    """
    from bench.peers.claims import text

    parser = argparse.ArgumentParser(prog="python -m bench.peers.quantisers", description=str(__doc__).split(":")[0])
    parser.add_argument("-o", "--out", type=Path, default=Path("quantisers.json"), help="the JSON; .md beside it")
    parser.add_argument("--models", default=",".join(models.TABLE), help="names, or .onnx files; default: %(default)s")
    parser.add_argument("--data", default="", help="images, for .onnx files")
    parser.add_argument("--preprocess", default="unit", help="of .onnx files; default: %(default)s")
    parser.add_argument("--tools", default=",".join(TOOLS), help="default: %(default)s")
    parser.add_argument("--quick", action="store_true", help="few images, one round: to see that it works")
    parser.add_argument("--environments", type=Path, help=f"folder; default: {environments.default_folder()}")
    parser.add_argument("--seed", type=int, default=0)
    for name in ("samples", "repeats", "rounds", "limit"):
        parser.add_argument(f"--{name}", type=int, help=f"default: {getattr(Settings(), name)}")
    given = parser.parse_args(arguments)
    asked = {name: getattr(given, name) for name in ("samples", "repeats", "rounds", "limit") if getattr(given, name)}
    settings = (QUICK if given.quick else Settings())._replace(seed=given.seed, **asked)
    try:
        found = compare(
            given.models.split(","),
            settings,
            given.data,
            given.preprocess,
            given.tools.split(","),
            given.environments,
            _Lines(),
            lambda so_far: jsonfile.write(given.out, so_far),
        )
        written = text(found)
        jsonfile.write(given.out, found)
        with jsonfile.replacing_file(given.out.with_suffix(".md")) as part:
            part.write_text(written, encoding="utf-8")
    except (OptimizeError, KeyboardInterrupt) as error:
        message, code, hint = outcome(error)
        sys.stderr.write(f"error: {message}\n" + (f"  try: {hint}\n" if hint else ""))
        return code
    sys.stdout.write(written)
    lacking = any("failed" in row for model in found["models"] for row in model["rows"] if row["tool"] == "ours")
    return 5 if found["failures"] or lacking else 0


class _Lines:
    """Progress as lines on stderr: one for each new thing, and at most one for a tenth of it."""

    def __init__(self) -> None:
        self.last = ("", -1)

    def __call__(self, what: str, done: int, total: int) -> None:
        now = (what, 10 * done // total if total else 0)
        if now != self.last:
            self.last = now
            sys.stderr.write(f"{what} {done}/{total}\n" if total else f"{what}\n")
            sys.stderr.flush()


if __name__ == "__main__":
    sys.exit(main())
