"""How the commands talk: data on stdout, talk and progress on stderr, errors in one line with the next command."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, Union

import typer

from engines.errors import Interrupted
from engines.spec import Progress
from engines.text import plain

if TYPE_CHECKING:
    from rich.console import Console


class _Voice:
    """How loud to be: set once by the options that every command takes."""

    json = False
    quiet = False
    verbose = False
    progress = True


VOICE = _Voice()


def set_voice(json: bool, quiet: bool, verbose: bool, progress: bool) -> None:
    """Apply `--json`, `-q`, `-v` and `--no-progress`."""
    VOICE.json, VOICE.quiet, VOICE.verbose, VOICE.progress = json, quiet, verbose, progress
    if verbose:
        logging.basicConfig(level=logging.INFO, stream=sys.stderr)


def console(stderr: bool = False) -> Console:
    """A rich console; wide enough for tables where the output is no terminal."""
    from rich.console import Console

    file = sys.stderr if stderr else sys.stdout
    width = None if file.isatty() else 160
    return Console(stderr=stderr, width=width, highlight=False, soft_wrap=not file.isatty())


def say(text: str) -> None:
    """Talk: a line on stderr, unless `-q`."""
    if not VOICE.quiet:
        typer.echo(_safe(text), err=True)


def line(text: str) -> None:
    """Data on stdout, in lines."""
    typer.echo(_safe(text))


def _safe(text: str) -> str:
    return "\n".join(plain(part) for part in text.split("\n"))


def answer(value: Any, show: Union[Iterable[str], Callable[[], None]]) -> None:
    """Give a command's data on stdout: JSON with `--json`, else the lines of `show`, or what it prints."""
    if VOICE.json:
        typer.echo(json.dumps(value, indent=1, allow_nan=False))
    elif callable(show):
        show()
    else:
        for text in show:
            line(text)


@contextlib.contextmanager
def interruptible(lost: str) -> Iterator[None]:
    """Say what Ctrl-C costs, where nothing is kept: the run stops with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"interrupted: {lost}", "run the same command again") from None


@contextlib.contextmanager
def progress() -> Iterator[Progress]:
    """A progress bar on stderr for each thing reported; plain lines where stderr is no terminal."""
    if VOICE.quiet or not VOICE.progress:
        yield lambda what, done, total: None
        return
    if not sys.stderr.isatty():
        seen: Dict[str, float] = {}

        def once(what: str, done: int, total: int) -> None:
            if what not in seen:
                seen[what] = time.monotonic()
                say(f"  {what} ...")

        yield once
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console(stderr=True)) as bars:
        tasks: Dict[str, Any] = {}
        last: Dict[str, str] = {}

        def bar(what: str, done: int, total: int) -> None:
            if what not in tasks:
                if last:
                    bars.stop_task(tasks[last["what"]])
                    task = bars.tasks[tasks[last["what"]]]
                    bars.update(task.id, total=task.total or 1, completed=task.total or 1)
                tasks[what] = bars.add_task(what, total=total or None)
            last["what"] = what
            bars.update(tasks[what], completed=done, total=total or None)

        yield bar
