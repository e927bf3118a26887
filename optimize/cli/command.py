"""What makes a function a command: the options that every command takes, and errors told in one line."""

from __future__ import annotations

import functools
import inspect
import os
import re
import shlex
import sys
import types
from typing import Any, Callable, Dict, Tuple

import typer
from typing_extensions import get_type_hints

from engines.errors import OptimizeError, outcome
from engines.text import plain
from optimize.cli import begun, options
from optimize.cli.console import finish

COMMON: Dict[str, Tuple[Any, Any]] = {
    "config": (options.Config, None),
    "json": (options.Json, False),
    "quiet": (options.Quiet, False),
    "verbose": (options.Verbose, False),
    "show_progress": (options.ShowProgress, True),
}
"""Options of every command: type and default. They act when they are parsed; no function gets them."""

SOURCE: Dict[str, Tuple[Any, Any]] = {
    "custom_objects": (options.CustomObjects, None),
    "factory": (options.Factory, None),
    "input_shape": (options.InputShape, None),
    "preprocess": (options.Preprocess, None),
    "task": (options.Task, None),
}
"""The model options: a function with a parameter `source` gets them as one dict, for `optimize.sources.recognise`."""


_OF_NODE = re.compile(r"\boptimize (?:node (?:trust )?[a-z]+|pull)\b(?! --node)")


def command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Give a function the shared options, and turn every exception into one line, an exit code and a hint."""
    signature = inspect.signature(function)
    shared = {**(SOURCE if "source" in signature.parameters else {}), **COMMON}
    hints = _hints(function)
    node = _parameter_of("--node", hints)
    own = [p.replace(annotation=hints[name]) for name, p in signature.parameters.items() if name != "source"]
    added = [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in shared.items()
    ]

    @functools.wraps(function)
    def run(**given: Any) -> Any:
        begun()
        if "source" in signature.parameters:
            given["source"] = {name: given.pop(name) for name in SOURCE}
        for name in COMMON:
            given.pop(name)
        try:
            result = function(**given)
            finish()
            return result
        except typer.Exit:
            finish()
            raise
        except (typer.Abort, typer.BadParameter):
            raise
        except (Exception, KeyboardInterrupt) as error:
            if os.environ.get("OPTIMIZE_DEBUG"):
                raise
            _tell(_for_node(error, given.get(node)))

    # Typer reads a command's parameters from its signature and its annotations
    run.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
    run.__annotations__ = {p.name: p.annotation for p in [*own, *added]}
    return run


def _hints(function: Callable[..., Any]) -> Dict[str, Any]:
    """The annotations, evaluated. Older Pythons wrap one in Optional where the default is None: here there is none."""
    bare = types.FunctionType(function.__code__, function.__globals__)
    bare.__annotations__ = function.__annotations__
    return get_type_hints(bare, include_extras=True)


def _parameter_of(option: str, hints: Dict[str, Any]) -> str:
    """The parameter that an option of a command gives; empty where the command has no such option."""
    for name, kind in hints.items():
        for one in getattr(kind, "__metadata__", ()):  # in an annotation, Typer keeps the first name as the default
            if option in (one.default, *(one.param_decls or ())):
                return name
    return ""


def about_node(text: str, node: Any) -> str:
    """Let the commands in a text be about the node that the user named with --node; None where none was."""
    return text if node is None else _OF_NODE.sub(lambda found: f"{found[0]} --node {shlex.quote(str(node))}", text)


def _for_node(error: BaseException, node: Any) -> BaseException:
    if isinstance(error, OptimizeError):
        error.hint = about_node(error.hint, node)
    return error


def _tell(error: BaseException) -> None:
    """Say what is wrong in one line, with the next command to type, and leave with the exit code of the table."""
    if isinstance(error, BrokenPipeError):  # the reader of stdout has left: not an error of ours
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise typer.Exit(0) from None
    message, code, hint = outcome(error)
    finish(error)
    typer.echo(plain(f"error: {message}"), err=True)
    if hint:
        typer.echo(plain(f"  try: {hint}"), err=True)
    raise typer.Exit(code) from None
