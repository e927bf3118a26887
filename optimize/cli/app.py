"""All commands in one table."""

from __future__ import annotations

from typing import Any, Callable, Dict

import typer

from optimize.cli import (
    benchmarks,
    builds,
    bundles,
    cache,
    calibration,
    compare,
    device,
    fleet,
    node,
    select,
    serve,
    ship,
    start,
    suites,
    wcet,
    zoo,
)
from optimize.cli.command import command
from optimize.version import VERSION

_EPILOG = (
    "Exit codes: 0 ok, 1 the operation failed, 2 usage, 3 a gate was not met, 4 environment or incompatible, "
    "5 partial, 130 interrupted (run again to resume)."
)

app = typer.Typer(
    rich_markup_mode=None,  # plain help: four times faster than with rich
    pretty_exceptions_enable=False,
    no_args_is_help=True,
    add_completion=False,
    epilog=_EPILOG,
    help="From a trained Keras, PyTorch or ONNX model to verified, honestly measured engines.",
)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"optimize {VERSION}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", help="Print the version.", is_eager=True, callback=_version),
) -> None:
    pass


COMMANDS: Dict[str, Callable[..., Any]] = {
    "doctor": start.doctor,
    "demo": start.demo,
    "export": builds.export,
    "calibrate": calibration.calibrate,
    "build": builds.build,
    "verify": builds.verify,
    "bench": benchmarks.bench,
    "profile": benchmarks.profile,
    "wcet": wcet.wcet,
    "compare": compare.compare,
    "select": select.select,
    "report": benchmarks.report,
    "inspect": bundles.inspect,
    "predict": bundles.predict,
    "serve": serve.serve,
    "ship": ship.ship,
    "pull": ship.pull,
}

for _name, _function in COMMANDS.items():
    app.command(_name)(command(_function))

app.add_typer(cache.app, name="cache")
app.add_typer(device.app, name="device")
app.add_typer(fleet.app, name="fleet")
app.add_typer(node.app, name="node")
app.add_typer(ship.key_app, name="key")
app.add_typer(suites.app, name="suite")
app.add_typer(zoo.app, name="zoo")
