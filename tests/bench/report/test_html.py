from __future__ import annotations

import copy
import csv
import io
import pkgutil
import re
import urllib.parse
from html.parser import HTMLParser
from typing import Dict, List

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench import report, runs
from bench.report import cells
from bench.report import csv as csv_report
from bench.report.html import elements, page, summary
from tests.bench.report import made


class Page(HTMLParser):
    """A page as a browser reads it: its tags, its words, its tables."""

    VOID = ("meta",)

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: List[str] = []
        self.attributes: List[Dict[str, str]] = []
        self.open: List[str] = []
        self.tables: Dict[str, List[List[str]]] = {}
        self.words = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append({"": tag, **dict(attrs)})
        self.open.append(tag)
        if tag == "caption":
            self.rows, self.name = [], ""
        elif tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in self.VOID:
            self.open.pop()

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append({"": tag, **dict(attrs)})

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag == "table":
            self.tables[self.name] = self.rows

    def handle_data(self, data):
        self.words += data
        if "caption" in self.open:
            self.name += data
        elif self.open and self.open[-1] in ("td", "th"):
            self.rows[-1][-1] += data

    def handle_decl(self, decl):
        assert decl == "doctype html"

    def handle_comment(self, data):
        raise AssertionError("a comment, which the page does not have")


def downloads(found: Page) -> List[str]:
    links = [one["href"] for one in found.attributes if "download" in one]
    assert all(link.startswith("data:text/csv;charset=utf-8,") for link in links)
    return [urllib.parse.unquote(link.partition(",")[2]) for link in links]


@pytest.fixture(scope="module")
def run():
    return made.run()


@pytest.fixture(scope="module")
def opened(run):
    return Page(page.text(run))


def test_the_sections_are_those_that_the_run_has_something_for(run, opened):
    ids = [one["id"] for one in opened.attributes if one[""] == "section"]
    assert ids == [name for name, _, _ in page._SECTIONS if name not in ("streams", "modes", "passes", "tail")]
    plain = made.run(batches=(1,), threads=(None,))
    for row in plain["rows"]:
        row.update(top1=None, top1_drop=None, energy=None, layers=None)
    left = [one["id"] for one in Page(page.text({**plain, "failures": []})).attributes if one[""] == "section"]
    assert left == ["summary", "results", "latency", "machine", "method", "again"]


def test_the_numbers_are_those_of_the_other_reports(run, opened):
    for heading, rows in cells.groups(run):
        head, *body = opened.tables[f"Results, {heading}"]
        assert head == [name for name, _, _ in cells.COLUMNS]
        assert body == [cells.cells(row) for row in rows]
        for row in rows:
            assert cells.number(row["p50_ms"]) in report.FORMATS["md"](run)
            assert any(
                row["target"] in line[0] and cells.number(row["p99_ms"]) in line
                for line in opened.tables[f"Quantiles in ms, {heading}"]
            )


def test_every_table_can_be_downloaded(run, opened):
    found = downloads(opened)
    assert len(found) == opened.tags.count("table") > 10
    for _, rows in cells.groups(run):
        assert csv_report.text({"rows": rows}) in found
    for text in found:
        lines = list(csv.reader(io.StringIO(text, newline="")))
        assert len(lines) > 1 and len({len(line) for line in lines}) == 1
    energy = next(text for text in found if "VDD_IN" in text and "mJ an image" in text)
    assert next(iter(csv.DictReader(io.StringIO(energy, newline=""))))["mJ an image"] == "6.0"


def test_every_chart_is_told_in_words(opened):
    charts = [one for one in opened.attributes if one[""] == "svg" and one.get("role") == "img"]
    ids = [one["id"] for one in opened.attributes if "id" in one]
    assert len(charts) > 20 and len(ids) == len(set(ids))
    for chart in charts:
        assert set(chart["aria-labelledby"].split()) <= set(ids)
    others = [one for one in opened.attributes if one[""] == "svg" and one.get("role") != "img"]
    assert all(one["aria-hidden"] == "true" for one in others)
    assert "NaN" not in opened.words and "nan" not in " ".join(one.get("d", "") for one in opened.attributes)


def test_nothing_outside_the_page_is_referred_to(run):
    found = Page(page.text(run))
    for one in found.attributes:
        assert not {"src", "srcset", "action", "style", "xlink:href"} & set(one)
        assert one.get("href", "#").startswith(("#", "data:text/csv"))
    assert not {"link", "img", "iframe", "object", "base", "form"} & set(found.tags)
    for kind in ("css", "js"):
        text = (pkgutil.get_data(page.__package__, f"page.{kind}") or b"").decode()
        assert text and text in page.text(run)
        assert not re.search(r"@import|url\((?!#)|https?:|fetch\(|eval\(|</", text)


def test_the_policy_lets_only_the_pages_own_script_run(run):
    found = Page(page.text(run))
    policy = next(one["content"] for one in found.attributes if one.get("http-equiv"))
    assert policy.startswith("default-src 'none'; style-src 'sha256-") and "unsafe" not in policy
    assert found.tags.count("script") == found.tags.count("style") == 1


def test_the_summary_says_what_a_manager_asks(make_run):
    run = make_run()
    about = {"name": "images", "n": 70, "sha256": "0" * 64}
    runs.add_accuracy(run["rows"], "int8", {"top1": 0.7123, "top1_drop": 0.25, "agreement": 0.9, "dataset": about})
    run["rows"][0]["flags"] = ["busy"]
    words = Page(page.text(run)).words
    row = run["rows"][0]
    assert f"int8 is the fastest engine: {cells.number(row['p50_ms'])} ms a query (p50)" in words
    low, high = (cells.number(ratio, 3) for ratio in sorted(r["speedup"] for r in run["rows"] if r["target"] == "int8"))
    times = f"{low}x" if low == high else f"{low}x to {high}x"
    lead = (
        f"int8 is the fastest engine everywhere, {times} as fast as the original in its fastest form. Verdict: faster"
    )
    assert (
        lead in words and summary.overall(cells.groups(make_run(count=1)))[-32:] == "No verdict: fewer than 5 rounds."
    )
    assert "Verdict: faster, with 90% confidence" in words and "net.keras * function fp32" in words
    assert "Top-1 accuracy 71.23% on 70 images, 0.25 points below the original." in words
    assert "Flags of this row: busy." in words and "busy (1 of 6 rows): other processes" in words
    for drop, said in ((-0.25, "0.25 points above"), (0.001, "as much as"), (None, "the original's is unmeasured")):
        assert said in summary.sentences([{**row, "top1_drop": drop}])[-2]


@pytest.mark.parametrize(
    ("speedup", "interval", "said"),
    [
        (2.0, [1.9, 2.1], "faster"),
        (0.5, [0.4, 0.6], "slower"),
        (1.0, [0.9, 1.1], "no difference"),
        (2.0, None, "fewer"),
    ],
)
def test_the_verdict_follows_the_interval(speedup, interval, said):
    assert said in summary.verdict({"speedup": speedup, "interval": interval, "rounds": [0] * 5})


def test_an_engine_that_loses_is_named(run):
    slow = made.run(targets=[("slow", "engine", "", "fp32", 5.0, None), ("net", "original", "", "fp32", 1.0, None)])
    assert any(line.startswith("slow is slower than the original at batch 1") for line in summary.warnings(slow))
    assert not [line for line in summary.warnings(run) if "is slower" in line]


def only(run, **about):
    return {**run, "rows": [{**row, **about} for row in run["rows"]]}


def test_runs_with_gaps(run):
    nothing = dict.fromkeys((*runs.LATENCIES, "images_per_s", "speedup", "size_bytes", "interval", "images", "dataset"))
    empty = {**nothing, "rounds": [], "samples_ms": [], "achieved": {}, "origin": "imported", "threads": None}
    engines = [{**row, "speedup": None, "interval": None} for row in run["rows"] if row["role"] == "engine"]
    originals = [row for row in run["rows"] if row["role"] == "original"]
    for odd, said in (
        ({**run, "rows": []}, "Nothing was measured."),
        ({**run, "rows": run["rows"][:1]}, "is the fastest engine"),
        ({**run, "rows": engines}, "No original was measured, so there is no speed-up."),
        ({**run, "rows": originals}, "Only originals"),
        (only(run, **empty), "No engine was measured."),
        (only(run, **{**nothing, "origin": "imported"}), "Distributions of latency"),
        (only(run, samples_ms=[1e300, -1.0], p50_ms=1e300, images_per_s=1e300, speedup=0.0), "is slower than"),
        (only(run, energy={"rail": "r", "watts": None, "idle_watts": None, "joules_per_image": None}), "unknown"),
        ({**run, "environment": {}, "settings": {}}, "not recorded on this system"),
        (made.run(rounds=1, samples=1), "fewer than 5 rounds"),
        (runs.merge([run, run]), "Run 2, batch 1, 1 CPU thread"),
        (
            only(run, samples_ms=[0.0], rounds=[{"order": 0, "started": "", "samples_ms": [0.0]}], p50_ms=0, min_ms=0),
            "",
        ),
    ):
        found = Page(page.text(odd))
        assert said in found.words and found.open == []


def test_two_hundred_rows_make_a_page_of_some_megabytes_at_most():
    many = [(f"engine {i}", "engine", "", "fp32", 1.0 + i / 10, 0.5 + i / 400) for i in range(50)]
    text = page.text(made.run(batches=(1, 2, 4, 8), threads=(None,), targets=many, rounds=5, samples=400))
    assert len(text) < 2_000_000
    found = Page(text)
    assert len(found.tables["Results, batch 8"]) == 51 and "The first 40 of 50." in found.words
    assert "Drawn are the 8 first rows of 50 of the table." in found.words


def test_a_long_run_stays_below_a_megabyte():
    text = page.text(made.run(batches=(1, 64), threads=(None,), samples=3000))
    assert len(text) < 1_000_000


def test_hostile_text_is_only_text(run):
    hostile = Page(page.text(made.run(word=made.HOSTILE)))
    assert hostile.tags == Page(page.text(made.run(word="x" * 200))).tags
    assert hostile.words.count("alert(1)") > 100


def texts(value, word, of=""):
    """A run with a word behind each of its free texts; what is checked when a run is read stays."""
    if isinstance(value, dict):
        named = word if of in ("achieved", "packages", "temperatures_c") else ""
        kept = ("role", "origin", "started", "created", "schema", "sha256")
        return {k + named: v if k in kept else texts(v, word, k) for k, v in value.items()}
    if isinstance(value, list):
        return [texts(one, word) for one in value]
    return value + word if isinstance(value, str) else value


SMALL = made.run(batches=(1, 2), threads=(None,), rounds=2, samples=3)
TAGS = Page(page.text(texts(SMALL, "x"))).tags


@settings(max_examples=60)
@given(st.one_of(st.text(max_size=20), st.text("<>\"'&/=;`!-]{}\\\0\r\n\u2028\ud800 scriptonload", max_size=30)))
def test_no_field_of_a_run_breaks_out(word):
    odd = texts(SMALL, "x" + word)
    runs.validate(odd)
    shown = page.text(odd)
    shown.encode("utf-8")
    found = Page(shown)
    assert found.tags == TAGS and found.open == []
    assert not [name for one in found.attributes for name in one if name.startswith("on")]


@given(st.text(max_size=40))
def test_escaped_text_reads_as_it_was(word):
    found = Page(f'<p title="{elements.escape(word)}">{elements.escape(word)}</p>')
    shown = "".join(c if c.isprintable() else " " for c in word)
    assert found.tags == ["p"] and found.words == shown and found.attributes[0]["title"] == shown


def test_queries_at_a_time_and_whole_passes_have_their_sections():
    from bench.passes import summary

    found = made.run(batches=(1, 8), threads=(None,))
    assert 'id="streams"' not in page.text(found) and 'id="passes"' not in page.text(found)
    more = copy.deepcopy(found["rows"])
    for row in more:
        row["streams"] = 4
    for row in found["rows"]:
        row["passes"] = {"batch": row["batch"], "images": 9, **summary([2.0, 4.0], 9), "cpu": None}
    found["rows"] += more
    runs.validate(found)
    text = page.text(found)
    assert 'id="streams"' in text and "From 1 to 4, by number of the legend" in text
    assert "Whole passes: 2 passes of 9 images" in text and ">3.000<" in text and ">4.000<" in text
