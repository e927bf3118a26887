"""Write docs/cli.md, the reference of the command line: `python -m optimize.cli.reference > docs/cli.md`.

It is read from the commands' own signatures and texts. What Typer and Click make of them for `--help` differs between
their versions (the words for types, brackets in texts), and so does `typer utils docs`.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple, Union

from typing_extensions import Annotated, get_args, get_origin

from engines.errors import CLASSES, OptimizeError
from optimize.cli.command import COMMON, SOURCE

_WORDS = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
"""Placeholders of values whose option names none itself."""

_HEAD = """# The command line

Written by `make docs` from the commands themselves; `optimize COMMAND --help` says the same.
`optimize --version` prints the version.
"""


def text() -> str:
    """The whole page, Markdown."""
    from optimize.cli.app import app

    parts = [_HEAD, *_exit_codes(), "## Options of every command\n", *_bullets(_shared(COMMON))]
    parts += ["\n## Model options\n\nOf the commands that read a model.\n", *_bullets(_shared(SOURCE))]
    for name, function in commands(app):
        parts += ["", *_section(name, function)]
    return "\n".join(parts) + "\n"


def commands(app: Any, before: str = "optimize") -> Iterator[Tuple[str, Callable[..., Any]]]:
    """Every command of a Typer application and of the groups in it, by its whole name."""
    for one in app.registered_commands:
        yield f"{before} {one.name or one.callback.__name__}", one.callback
    for group in app.registered_groups:
        yield from commands(group.typer_instance, f"{before} {group.name}")


def _exit_codes() -> Iterator[str]:
    """The table of exit codes, out of the exceptions that lead to them."""
    yield "## Exit codes\n\n| code | meaning |\n|---|---|\n| 0 | Done. |"
    meanings: Dict[int, List[str]] = {}
    for error in CLASSES.values():
        told = "Whatever else fails." if error is OptimizeError else inspect.getdoc(error) or ""
        meanings.setdefault(error.exit_code, []).append(told)
    for code, texts in sorted(meanings.items()):
        yield f"| {code} | {' '.join([*texts[1:], texts[0]])} |"
    yield "| 130 | Interrupted: the same command again goes on where it can. |\n"


def _shared(options: Dict[str, Tuple[Any, Any]]) -> List[inspect.Parameter]:
    keyword = inspect.Parameter.KEYWORD_ONLY
    return [inspect.Parameter(name, keyword, default=value, annotation=kind) for name, (kind, value) in options.items()]


def _section(name: str, function: Callable[..., Any]) -> Iterator[str]:
    """One command: what it is for, how it is called, its arguments and options."""
    found = list(inspect.signature(function).parameters.values())
    own = [one for one in found if one.name not in {*COMMON, *SOURCE}]
    arguments = [one for one in own if not _decls(one)]
    options = [one for one in own if _decls(one) and not _about(one).hidden]
    model = any(one.name in SOURCE for one in found)
    yield f"## {name}\n\n{inspect.getdoc(function)}\n"
    needed = [_names(one).split(", ")[-1] for one in options if one.default is inspect.Parameter.empty]
    yield "    " + " ".join([name, *map(_place, arguments), *needed, "[OPTIONS]"])
    bullets = [*_bullets([*arguments, *options]), *(["- and the [model options](#model-options)"] if model else ())]
    yield from ["", *bullets] if bullets else ()


def _bullets(parameters: List[inspect.Parameter]) -> Iterator[str]:
    for one in parameters:
        words = _about(one).help.replace("<", "\\<")  # which Markdown takes for HTML
        yield f"- `{_names(one) if _decls(one) else _place(one)}`: {words}{_rest(one)}"


def _rest(one: inspect.Parameter) -> str:
    """The default where there is one to tell, the limits of a number, and whether the option may be repeated."""
    about, (kind, many) = _about(one), _kind(one)
    rest = []
    if about.min is not None or about.max is not None:
        rest.append(f"{about.min:g} or more" if about.max is None else f"{about.min:g} to {about.max:g}")
    if _decls(one) and many and "repeat" not in about.help:
        rest.append("may be repeated")
    if kind is bool:
        if "/" in _decls(one)[-1] and one.default is not None:
            rest.append(f"default: `{_decls(one)[-1].split('/')[not one.default]}`")
    elif one.default not in (None, "", inspect.Parameter.empty):
        rest.append(f"default: `{one.default:g}`" if kind is float else f"default: `{one.default}`")
    return f" ({'; '.join(rest)})" if rest else ""


def _about(one: inspect.Parameter) -> Any:
    """What `typer.Option` or `typer.Argument` was told of a parameter."""
    assert get_origin(one.annotation) is Annotated, one
    return get_args(one.annotation)[1]


def _decls(one: inspect.Parameter) -> List[str]:
    """Names of an option, none of an argument. Inside Annotated the first name stands where a default would."""
    about = _about(one)
    return [name for name in (about.default, *(about.param_decls or ())) if isinstance(name, str)]


def _kind(one: inspect.Parameter) -> Tuple[Any, bool]:
    """The type of one value, and whether there may be several."""
    kind, many = get_args(one.annotation)[0], False
    while get_args(kind):
        many = many or get_origin(kind) is not Union  # Optional[X] is a Union; the other one is List[X]
        kind = get_args(kind)[0]
    return kind, many


def _names(one: inspect.Parameter) -> str:
    about, kind = _about(one), _kind(one)[0]
    value = "" if kind is bool else f" {about.metavar or _WORDS[kind]}"
    return ", ".join(_decls(one)) + value


def _place(one: inspect.Parameter) -> str:
    place = str(_about(one).metavar or one.name.upper())
    return f"[{place}]" if one.default is not inspect.Parameter.empty and one.default else place


if __name__ == "__main__":
    print(text(), end="")
