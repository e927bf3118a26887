"""docs/cli.md says what the commands say."""

from __future__ import annotations

import os
import re
import socket
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import pytest
import typer

from optimize.cli import reference
from optimize.cli.app import app

PAGE = Path(__file__).resolve().parents[3] / "docs" / "cli.md"


def _commands(group: Any, before: str) -> Iterator[Tuple[str, Any]]:
    for name, one in group.commands.items():
        whole = f"{before} {name}"
        yield from _commands(one, whole) if hasattr(one, "commands") else [(whole, one)]


COMMANDS: Dict[str, Any] = dict(_commands(typer.main.get_command(app), "optimize"))


def _section(name: str) -> str:
    return reference.text().partition(f"\n## {name}\n")[2].partition("\n## ")[0]


def test_the_page_is_what_the_commands_say() -> None:
    if PAGE.read_text(encoding="utf-8") != reference.text():
        pytest.fail(
            "docs/cli.md is not what the commands say: make docs (python -m optimize.cli.reference > docs/cli.md)"
        )


def test_every_command_that_click_knows_has_a_section() -> None:
    assert dict(reference.commands(app)).keys() == COMMANDS.keys()
    assert len(COMMANDS) > 30


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_has_every_option_with_its_text_and_default(name: str) -> None:
    """As Click parses them: the page is written from the signatures."""
    section = _section(name)
    told = {**_bullets(reference.text().partition("\n## optimize ")[0]), **_bullets(section)}
    usage = next(text for text in section.splitlines() if text.startswith(f"    {name}"))
    for one in COMMANDS[name].params:
        if getattr(one, "hidden", False):
            assert one.opts[0] not in _bullets(section)
            continue
        option = one.opts[0].startswith("-")
        for called in [*one.opts, *one.secondary_opts] if option else [one.metavar or one.name.upper()]:
            line = told[called] if option or called in told else told[f"[{called}]"]
            assert str(one.help).replace("<", "\\<") in line
        if isinstance(one.default, (int, float, str)) and not isinstance(one.default, bool) and one.default != "":
            value = f"{one.default:g}" if isinstance(one.default, float) else one.default
            assert f"default: `{value}`" in line
        assert not one.required or one.opts[-1] in usage or (one.metavar or one.name.upper()) in usage


def _bullets(text: str) -> Dict[str, str]:
    """The lines of a list, by each name that they tell."""
    found: Dict[str, str] = {}
    for line in text.splitlines():
        if line.startswith("- `"):
            called = line.split("`")[1]
            names = [word for word in re.split("[ ,/]+", called) if word.startswith("-")] or [called]
            found.update(dict.fromkeys(names, line))
    return found


def test_nothing_of_this_machine_is_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    page = reference.text()
    assert str(Path.home()) not in page and str(PAGE.parent.parent) not in page
    assert len(socket.gethostname()) < 4 or socket.gethostname() not in page
    monkeypatch.setenv("COLUMNS", "40")
    monkeypatch.setenv("OPTIMIZE_NODE", "/elsewhere")
    monkeypatch.setattr(os, "cpu_count", lambda: 97)
    assert reference.text() == page


def test_an_option_says_its_limits_and_whether_it_may_be_repeated() -> None:
    bench, verify = _section("optimize bench").splitlines(), _section("optimize verify")
    assert any(line.startswith("- `--rounds N`") and "(1 or more; default: `5`)" in line for line in bench)
    assert any(line.startswith("- `--load TEXT`") and line.endswith("(may be repeated)") for line in bench)
    assert any(line.endswith("as trtexec. (default: `--transfers`)") for line in bench)
    assert "    optimize verify BUNDLE --against MODEL [OPTIONS]\n" in verify and "Exit code 3" in verify
    assert "(default: `--" not in _section("optimize node policy").partition("- `--keep")[0]
