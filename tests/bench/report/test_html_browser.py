"""The page in a real browser: one start of it for all checks."""

from __future__ import annotations

import urllib.parse
from pathlib import Path
from typing import Any, Dict, Iterator, List

import numpy as np
import pytest

from bench import runs
from bench.report import cells, csv, html
from bench.report.html import choices
from optimize.selection.choose import select
from tests.bench.report import browser, made
from tests.bench.report.test_html_choices import TABLES, with_times
from tests.bench.report.test_html_tails import with_tail

pytestmark = pytest.mark.journey

TABLE = "document.querySelector('#results table')"
COLUMNS = [name for name, _, _ in cells.COLUMNS]


@pytest.fixture(scope="module")
def run() -> Dict[str, Any]:
    return made.run(batches=(1, 8), threads=(None,))


@pytest.fixture(scope="module")
def shown(run: Dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[browser.Browser]:
    path = browser.find()
    if path is None:
        pytest.skip("no chromium on this machine (apt-get install chromium)")
    folder = tmp_path_factory.mktemp("page")
    (folder / "report.html").write_text(html.text(run), encoding="utf-8")
    (folder / "hostile.html").write_text(html.text(made.run(word=made.HOSTILE)), encoding="utf-8")
    tails = made.run(batches=(1,), threads=(None,))
    tails["rows"][0] = with_tail(1 + np.random.default_rng(0).exponential(0.05, 5000))["rows"][0]
    (folder / "tails.html").write_text(html.text(tails), encoding="utf-8")
    (folder / "choice.html").write_text(
        choices.text(with_times(select([TABLES / "rtx-3080-ti.json"]))), encoding="utf-8"
    )
    (folder / "modes.html").write_text(html.text(_in_modes()), encoding="utf-8")
    with browser.started(path, folder / "profile") as page:
        page.size(1200, 900)
        page.open(folder / "report.html")
        yield page
        told = [event for event in page.events if event["method"] == "Runtime.exceptionThrown"]
        assert told == []


def _in_modes() -> Dict[str, Any]:
    """Eight power modes with names as long as those of a Jetson Xavier NX."""
    found = []
    for watts in (10, 15, 20):
        for cpus in (2, 4, 6):
            one = made.run(batches=(1,), threads=(None,), rounds=1, samples=5)
            state = {"power_mode": f"MODE_{watts}W_{cpus}CORE"}
            one["environment"].update(before=state, after=state)
            found.append(one)
    return runs.merge(found[1:])


def column(page: browser.Browser, name: str) -> List[str]:
    return page.value(f"[...{TABLE}.tBodies[0].rows].map((row) => row.cells[{COLUMNS.index(name)}].textContent)")


def head(name: str) -> str:
    return f"{TABLE}.tHead.rows[0].cells[{COLUMNS.index(name)}]"


def test_it_opens_without_a_word_on_the_console(shown: browser.Browser) -> None:
    said = ("Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown")
    assert [event for event in shown.events if event["method"] in said] == []


def test_it_asks_the_network_for_nothing(shown: browser.Browser) -> None:
    asked = [e["params"]["request"]["url"] for e in shown.events if e["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith("file://") and url.endswith(".html") for url in asked)


def cut_off(shown: browser.Browser) -> List[str]:
    """Pictures with words beyond their edge."""
    found: List[str] = shown.value(
        "[...document.querySelectorAll('svg[role=img]')].filter((svg) => { const box = svg.getBoundingClientRect();"
        " return [...svg.querySelectorAll('text')].some((one) => { const it = one.getBoundingClientRect();"
        " return it.left < box.left - 1 || it.right > box.right + 1 || it.bottom > box.bottom + 1; }); })"
        ".map((svg) => svg.querySelector('title').textContent)"
    )
    return found


def test_every_chart_is_there_and_has_a_name(shown: browser.Browser) -> None:
    charts = shown.value(
        "[...document.querySelectorAll('svg[role=img]')].map((svg) => [svg.getBoundingClientRect().width,"
        " svg.getBoundingClientRect().height, svg.querySelectorAll('path,rect').length])"
    )
    assert len(charts) > 20 and all(width > 300 and height > 60 and marks for width, height, marks in charts)
    found = shown.call("Accessibility.getFullAXTree")["nodes"]
    images = [node for node in found if node.get("role", {}).get("value") in ("image", "img")]
    names = [node["name"]["value"] for node in images if not node["ignored"]]
    assert len(names) >= len(charts) and all(names)
    assert cut_off(shown) == []


def test_tables_sort_by_a_click_and_by_the_keyboard(shown: browser.Browser, run: Dict[str, Any]) -> None:
    rows = [row for row in run["rows"] if row["batch"] == 1]
    rising = [cells.number(ms) for ms in sorted(row["p50_ms"] for row in rows)]
    shown.click(f"{head('p50 ms')}.querySelector('button')")
    assert column(shown, "p50 ms") == rising
    assert shown.value(f"{head('p50 ms')}.getAttribute('aria-sort')") == "ascending"
    shown.click(f"{head('p50 ms')}.querySelector('button')")
    assert column(shown, "p50 ms") == rising[::-1]
    assert shown.value(f"{head('p50 ms')}.getAttribute('aria-sort')") == "descending"
    shown.press("Tab")  # from p50 to p99
    assert shown.value(f"document.activeElement === {head('p99 ms')}.querySelector('button')")
    for key, falling in (("Enter", False), ("Space", True)):
        shown.press(key)
        ordered = sorted((row["p99_ms"] for row in rows), reverse=falling)
        assert column(shown, "p99 ms") == [cells.number(ms) for ms in ordered]
    assert shown.value(f"{TABLE}.querySelectorAll('[aria-sort]').length") == 1
    for _ in range(2):
        shown.click(f"{head('top-1')}.querySelector('button')")
        assert column(shown, "top-1")[-2:] == ["unmeasured"] * 2, "what is no number stays at the end"
    shown.click(f"{head('target')}.querySelector('button')")
    assert column(shown, "target") == ["fp16", "fp32", "int8", "net.keras *", "net.keras *"]


def test_a_table_is_downloaded(shown: browser.Browser, run: Dict[str, Any], tmp_path: Path) -> None:
    shown.call("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    shown.click("document.querySelector('#results a[download]')")
    while shown.wait("Page.downloadProgress")["state"] != "completed":
        pass
    (file,) = tmp_path.iterdir()
    assert file.name == "results-batch-1.csv"
    assert file.read_bytes().decode() == csv.text({"rows": cells.groups(run)[0][1]})
    links = shown.value("[...document.querySelectorAll('a[download]')].map((one) => one.href.split(',')[0])")
    assert set(links) == {"data:text/csv;charset=utf-8"}
    assert urllib.parse.unquote(shown.value("document.querySelector('#machine a[download]').href")).endswith("\r\n")


def test_everything_fits_on_a_phone(shown: browser.Browser) -> None:
    shown.size(360, 740, mobile=True)
    shown.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert shown.value("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]
    wide = shown.value(
        "[...document.querySelectorAll('body *')].filter((one) => !one.closest('.box, pre, .unseen, .skip')"
        " && one.getBoundingClientRect().right > 360.5).map((one) => one.outerHTML.slice(0, 200))"
    )
    assert wide == []
    assert shown.value("[...document.querySelectorAll('.box')].some((one) => one.scrollWidth > one.clientWidth)")
    small = shown.value(
        "Math.min(...[...document.querySelectorAll('svg[role=img]')].map((svg) =>"
        " 12 * svg.getBoundingClientRect().width / svg.viewBox.baseVal.width))"
    )
    assert small > 9, "the words on charts, in pixels"


@pytest.mark.parametrize(("scheme", "media"), [("light", "screen"), ("dark", "screen"), ("dark", "print")])
def test_words_stand_out_from_the_ground(shown: browser.Browser, scheme: str, media: str) -> None:
    """WCAG 2.1, 1.4.3: a contrast of 4.5 for words; 1.4.11: of 3 for what charts are made of."""
    shown.call("Emulation.setEmulatedMedia", media=media, features=[{"name": "prefers-color-scheme", "value": scheme}])
    style = "getComputedStyle(document.documentElement).getPropertyValue('--{}')"
    colours = {name: shown.value(style.format(name)).strip() for name in ("ground", "raised", "text", "weak", "link")}
    lines = [shown.value(style.format(f"c{n}")).strip() for n in range(7)]
    grounds = [light(colours.pop(name)) for name in ("ground", "raised")]
    assert (grounds[0] > 0.5) is (scheme == "light" or media == "print")
    assert min(contrast(light(one), ground) for one in colours.values() for ground in grounds) >= 4.5
    assert min(contrast(light(one), grounds[0]) for one in lines) >= 3


def light(colour: str) -> float:
    full = colour[1:] if len(colour) == 7 else "".join(2 * c for c in colour[1:])
    parts = [int(full[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: float, b: float) -> float:
    return (max(a, b) + 0.05) / (min(a, b) + 0.05)


def test_paper_gets_all_of_a_table_and_what_is_folded_together(shown: browser.Browser) -> None:
    shown.size(700, 1000)  # A4 between its margins
    shown.call("Emulation.setEmulatedMedia", media="print", features=[])
    assert (
        shown.value("[...document.querySelectorAll('.box')].filter((one) => one.scrollWidth > innerWidth).length") == 0
    )
    shown.value("document.querySelectorAll('details').forEach((one) => { one.open = false; })")
    shown.value("dispatchEvent(new Event('beforeprint'))")
    assert shown.value("document.querySelectorAll('details:not([open])').length") == 0
    shown.value("dispatchEvent(new Event('afterprint'))")
    assert shown.value("document.querySelectorAll('details[open]').length") == 0


def folder_of(shown: browser.Browser) -> Path:
    return Path(urllib.parse.unquote(urllib.parse.urlparse(shown.value("location.href")).path)).parent


@pytest.mark.parametrize(("name", "charts"), [("tails", 6), ("choice", 3)])
def test_the_pages_of_a_decision_are_whole(shown: browser.Browser, name: str, charts: int) -> None:
    """It and the next open other pages."""
    before = len(shown.events)
    shown.call("Emulation.setEmulatedMedia", media="screen", features=[])
    shown.size(1200, 900)
    shown.open(folder_of(shown) / f"{name}.html")
    bad = ("Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in shown.events[before:] if event["method"] in bad] == []
    assert shown.value("document.querySelectorAll('svg[role=img]').length") >= charts and cut_off(shown) == []
    shown.size(360, 740, mobile=True)
    shown.value("document.querySelectorAll('details').forEach((one) => { one.open = true; })")
    assert shown.value("[innerWidth, document.documentElement.scrollWidth]") == [360, 360]


def test_hostile_text_does_nothing(shown: browser.Browser) -> None:
    """From here on other pages are opened."""
    folder = folder_of(shown)
    before = len(shown.events)
    shown.open(folder / "hostile.html")
    bad = ("Page.javascriptDialogOpening", "Log.entryAdded", "Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [event for event in shown.events[before:] if event["method"] in bad] == []
    assert shown.value("document.querySelectorAll('img, iframe, body script ~ *').length") == 0
    assert shown.value("document.scripts.length") == 1
    assert made.HOSTILE in shown.value("document.body.innerText")


def test_names_of_power_modes_have_room(shown: browser.Browser) -> None:
    shown.size(1200, 900)
    shown.open(folder_of(shown) / "modes.html")
    assert cut_off(shown) == []
    over = shown.value(
        "[...document.querySelectorAll('#modes svg[role=img]')].map((svg) => { const all = [...svg.children]"
        ".filter((one) => one.tagName == 'text' && /^[0-9]+W_/.test(one.textContent))"
        ".map((one) => one.getBoundingClientRect()); return [all.length, all.filter((a, i) => all.some((b, j) => j < i"
        " && a.left < b.right && b.left < a.right && a.top < b.bottom - 3 && b.top < a.bottom - 3)).length]; })"
    )
    assert over == [[8, 0]] * 3
