"""The pages point to what is there: files, headings, tests."""

from __future__ import annotations

import re
from pathlib import Path
from typing import List, Set

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def _text(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def _anchors(page: Path) -> Set[str]:
    """What headings are called in a link, as GitHub and GitLab make it."""
    titles = re.findall(r"(?m)^#+ (.+)$", _text(page))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    wrong: List[str] = []
    for link in re.findall(r"\]\(([^)\s]+)\)", _text(page)):
        if link.startswith(("http://", "https://")):
            continue
        file, _, anchor = link.partition("#")
        target = (page.parent / file).resolve() if file else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            wrong.append(link)
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_is_named_is_there(page: Path) -> None:
    wrong: List[str] = []
    for file, name in re.findall(r"`(tests/[\w/.-]+?)(?:::(\w+))?`", _text(page)):
        path = ROOT / file
        if not path.exists() or (name and f"def {name}(" not in path.read_text(encoding="utf-8")):
            wrong.append(f"{file}::{name}")
    assert not wrong


@pytest.mark.parametrize("page", PAGES[1:], ids=lambda page: page.name)
def test_the_readme_leads_to_every_page(page: Path) -> None:
    told = _text(ROOT / "README.md") + _text(ROOT / "docs" / "jetson.md")
    assert f"({page.name})" in told or f"(docs/{page.name})" in told
