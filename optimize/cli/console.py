"""How the commands talk: data on stdout, talk and progress on stderr, errors in one line with the next command."""

from __future__ import annotations

import contextlib
import json
import logging
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Dict, Iterable, Iterator, List, Mapping, Optional, Sequence, Set, Union

import typer

from engines.errors import Interrupted, outcome
from engines.spec import A_LINE, Progress
from engines.terminal import Column, left_out_line, show
from engines.text import plain

if TYPE_CHECKING:
    from rich.console import Console


class _Voice:
    """How loud to be: set once by the options that every command takes."""

    json = False
    quiet = False
    verbose = False
    progress = True

    def __init__(self) -> None:
        self.answers: List[Any] = []
        """With `--json`: what the command has answered, kept until it has ended, since an error belongs in it."""


VOICE = _Voice()


def set_voice(json: bool, quiet: bool, verbose: bool, progress: bool) -> None:
    """Apply `--json`, `-q`, `-v` and `--no-progress`."""
    VOICE.json, VOICE.quiet, VOICE.verbose, VOICE.progress = json, quiet, verbose, progress
    VOICE.answers = []
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
        warn(text)


def warn(text: str) -> None:
    """An error or a warning, told beside a result: a line on stderr, also with `-q`."""
    typer.echo(_safe(text), err=True)


def line(text: str) -> None:
    """Data on stdout, in lines."""
    typer.echo(_safe(text))


def document(text: str) -> None:
    """A whole file on stdout: as it is for another program, without control characters for a terminal."""
    if sys.stdout.isatty():
        line(text.replace("\r\n", "\n").rstrip("\n"))
    else:
        typer.echo(text.encode("utf-8"), nl=False)


def table(
    columns: Sequence[Column], rows: Sequence[Sequence[str]], title: str = "", leave_out: Sequence[str] = ()
) -> None:
    """Data on stdout, as a table that fits the terminal: see `engines.terminal.show`."""
    for text in left_out_line(show(console(), title, columns, rows, leave_out), "--json has them"):
        line(text)


def _safe(text: str) -> str:
    return "\n".join(plain(part) for part in text.split("\n"))


def answer(value: Any, show: Union[Iterable[str], Callable[[], None]], asked: bool = False) -> None:
    """Give a command's data on stdout: JSON with `--json`, else the lines of `show`, or what it prints.

    Args:
        value: What `--json` prints, when the command has ended: once, with the error if there comes one.
        show: The same for a reader; nothing of it is printed with `-q`.
        asked: Showing this is all that the command is for, so that it is printed with `-q` too.
    """
    if VOICE.json:
        VOICE.answers = [value]
    elif VOICE.quiet and not asked:
        return
    elif callable(show):
        show()
    else:
        for text in show:
            line(text)


def failure(error: BaseException) -> Dict[str, Any]:
    """An exception as it stands in a JSON document: `message`, `hint` and `exit_code`."""
    message, code, hint = outcome(error)
    return {"message": message, "hint": hint, "exit_code": code}


def finish(error: Optional[BaseException] = None) -> None:
    """With `--json`, print the one document of a command that has ended.

    Args:
        error: What went wrong, if anything. It stands under `error` in the document, beside what was answered before
            it; an answer that is a list stands under `results` then.
    """
    found, VOICE.answers = VOICE.answers, []
    if not VOICE.json:
        return
    if error is not None:
        before = found[0] if found else {}
        found = [{**(before if isinstance(before, Mapping) else {"results": before}), "error": failure(error)}]
    for value in found:
        typer.echo(json.dumps(value, indent=1, allow_nan=False))


@contextlib.contextmanager
def interruptible(what: str = "", kept: Optional[Path] = None) -> Iterator[None]:
    """Say on Ctrl-C where `what` was kept, or that nothing was: the run stops with exit code 130."""
    try:
        yield
    except KeyboardInterrupt:
        found = "nothing is kept"
        if kept is not None:
            found = f"{what} in {kept}" if kept.exists() else "nothing was measured yet"
        raise Interrupted(f"interrupted: {found}", "run the same command again") from None


@contextlib.contextmanager
def progress(still: bool = False) -> Iterator[Progress]:
    """A progress bar on stderr for what is reported, one at a time; plain lines where stderr is no terminal.

    What is found on the way (`engines.spec.A_LINE`) is told without bars too, and not with `-q`.

    Args:
        still: Draw only when something is reported, and not ten times a second for the clock: beside queries of which
            one in a thousand matters, that would be seen in them.
    """
    if VOICE.quiet or not VOICE.progress:
        yield lambda what, done, total: say(what) if total == A_LINE else None
        return
    if not sys.stderr.isatty():
        seen: Dict[str, float] = {}

        def once(what: str, done: int, total: int) -> None:
            if total == A_LINE:
                say(what)
            elif what not in seen:
                seen[what] = time.monotonic()
                say(f"  {what} ...")

        yield once
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    clock = TimeElapsedColumn()
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        clock,
    )
    with Progress(*columns, console=console(stderr=True), auto_refresh=not still) as bars:
        told: Set[str] = set()

        def above(text: str) -> None:
            bars.console.print(text, markup=False)  # any other write would garble the bar

        def leave() -> None:
            """Take away the bar of what was left for something else; say once of what has come to its end."""
            for task in bars.tasks:
                if task.total and task.completed >= task.total and task.description not in told:
                    told.add(task.description)
                    above(f"  {task.description} {task.completed:.0f}/{task.total:.0f} {clock.render(task)}")
                bars.remove_task(task.id)

        def bar(what: str, done: int, total: int) -> None:
            what = plain(what)
            if total == A_LINE:
                above(what)
                return
            if [task.description for task in bars.tasks] != [what]:
                leave()
                bars.add_task(what, total=total or None)
            bars.update(bars.tasks[0].id, completed=done, total=total or None, refresh=still)

        yield bar
        leave()
