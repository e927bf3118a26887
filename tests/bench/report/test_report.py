from __future__ import annotations

import csv
import html
import io
import json
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from bench import report, runs
from bench.report import cells, md
from bench.report.csv import COLUMNS
from bench.report.table import render
from engines.errors import DamagedError


def table(run, width=300):
    console = Console(file=io.StringIO(), width=width, highlight=False)
    render(run, console)
    return console.file.getvalue()


def lines_of(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def md_rows(text):
    found = []
    for line in text.splitlines():
        parts = [html.unescape(re.sub(r"\\(.)", r"\1", c.strip())) for c in re.split(r"(?<!\\)\|", line)[1:-1]]
        if len(parts) == len(cells.COLUMNS) and parts[0] not in ("target", "---"):
            found.append(dict(zip((name for name, _, _ in cells.COLUMNS), parts)))
    return found


def test_every_report_says_where_the_original_ran(make_run):
    run = make_run()
    for row in run["rows"]:
        if row["role"] == "original":
            row["on"] = "gpu"
    assert {r["form"] for r in md_rows(report.FORMATS["md"](run))} == {"-", "predict on gpu", "function on gpu"}
    assert {r["on"] for r in lines_of(report.FORMATS["csv"](run))} == {"", "gpu"}
    assert "against its fastest form: net.keras function fp32 on gpu" in table(run)


def test_a_standard_load_stands_below_the_table_with_its_verdict(make_run):
    run = make_run(batches=(1,))
    about = {"tool": "MLPerf LoadGen", "version": "6.0.17", "settings": {}, "logs": "runs.loadgen/x"}
    latencies = {"p50_ms": 1.25, "p90_ms": 2.5, "p99_ms": 30.0}
    row = next(row for row in run["rows"] if row["target"] == "int8")
    row["load"] = [
        {**about, "scenario": "server", "valid": False, "missed": ["the latency bound"], "samples_per_s": 50.0},
        {**about, "scenario": "offline", "valid": True, "missed": [], "samples_per_s": 4096.0},
    ]
    for one in row["load"]:
        one["latencies"] = latencies
    runs.validate(run)
    server = "server by MLPerf LoadGen 6.0.17: 50.00 samples/s, 1.250 ms p50, 2.500 ms p90, 30.00 ms p99 "
    for text in (table(run), report.FORMATS["md"](run)):
        assert f"int8, {server}(invalid; not met: the latency bound)" in text
        assert "int8, offline by MLPerf LoadGen 6.0.17: 4096 samples/s (valid)" in text
    row["load"][0]["scenario"] = "of-tomorrow"
    runs.validate(run)
    assert "of-tomorrow by MLPerf LoadGen 6.0.17: 1.250 ms p50, 2.500 ms p90, 30.00 ms p99 (invalid" in table(run)
    row["load"][0]["valid"] = "INVALID"
    with pytest.raises(DamagedError, match=r"rows\[\d\]\.load\[0\]\.valid"):
        runs.validate(run)


def test_the_same_numbers_everywhere(make_run):
    run = make_run()
    about = {"name": "images", "n": 70, "sha256": "0" * 64}
    runs.add_accuracy(run["rows"], "int8", {"top1": 0.7123, "top1_drop": -0.25, "agreement": 0.9, "dataset": about})
    key = lambda r: (r["target"].rstrip(" *"), r["form"].strip("-"), int(r["batch"]))  # noqa: E731
    by_csv = {key(r): r for r in lines_of(report.FORMATS["csv"](run))}
    by_json = {key(r): r for r in json.loads(report.FORMATS["json"](run))["rows"]}
    by_md = {key(r): r for r in md_rows(report.FORMATS["md"](run))}
    shown = table(run)
    assert len(by_csv) == len(by_json) == len(by_md) == len(run["rows"]) == 6
    for row in run["rows"]:
        c, j, m = (found[key(row)] for found in (by_csv, by_json, by_md))
        for name in (*runs.LATENCIES, "images_per_s", "speedup"):
            assert float(c[name]) == j[name] == row[name]
        assert m["p50 ms"] == cells.number(float(c["p50_ms"])) and m["p50 ms"] in shown
        assert m["p99 ms"] == cells.number(float(c["p99_ms"])) and m["p99 ms"] in shown
        assert m["images/s"] == cells.number(j["images_per_s"]) and m["images/s"] in shown
        assert m["speed-up"].startswith(cells.number(j["speedup"], 3) + "x") and m["speed-up"] in shown
        if row["role"] == "engine":
            assert (m["top-1"], m["drop"]) == ("71.23%", "-0.25")
            assert (float(c["top1"]), j["top1"]) == (0.7123, 0.7123)
            assert [float(c["speedup_low"]), float(c["speedup_high"])] == j["interval"]
        else:
            assert (m["top-1"], m["drop"], c["top1"], j["top1"]) == ("unmeasured", "unmeasured", "unmeasured", None)
    assert shown.count("71.23%") == 2


def test_the_fastest_original_and_the_worth_of_a_ratio_are_said(make_run):
    for text in (table(make_run()), md.text(make_run())):
        assert "fastest form: net.keras function fp32, 3.0" in text
        assert "90% interval of the speed-up" in text and "no verdict: fewer" not in text
    few = make_run(count=1)
    for text in (table(few), md.text(few)):
        assert "no verdict: fewer than 5 rounds (1)" in text


@pytest.mark.parametrize("width", [40, 60, 80, 100, 120, 160, 300])
def test_a_narrow_terminal_keeps_names_and_numbers_whole(make_run, width):
    run = make_run(name="int8-openvino2026.4.1")
    run["rows"][0]["flags"] = ["busy", "unstable"]
    shown = table(run, width)
    assert all(len(line.rstrip()) <= max(width, 48) for line in shown.splitlines())
    for row in run["rows"]:
        assert cells.number(row["p50_ms"]) in shown
        assert cells.number(row["speedup"], 3) + "x" in shown
    assert "openvino2026.4.1" in shown, "a name folds after a dash"
    assert ("left out" in shown) is (width < 140)


@pytest.mark.parametrize("width", [60, 80, 100])
def test_flags_are_the_last_to_go_and_are_explained(make_run, width):
    run = make_run(name="int8-openvino2026.4.1")
    run["rows"][0]["flags"] = ["busy", "unstable"]
    shown = table(run, width)
    assert re.search(r"busy, (unstable|.*\n.* unstable)", shown), shown
    told = " ".join(shown.split())
    assert "busy (1 of 6 rows): other processes took more than 10% of the CPU time: times may be longer" in told
    assert "unstable (1 of 6 rows): medians of rounds" in told


def test_what_a_flag_means_is_told_without_its_column_too(make_run):
    run = make_run()
    assert "busy" not in table(run, 40)
    run["rows"][0]["flags"] = ["busy", "of another tool"]
    told = " ".join(table(run, 40).split())
    assert "form, flags (optimize report has them)" in told
    assert "busy (1 of 6 rows): other processes" in told and "of another tool (1 of 6 rows)" in told
    for name in ("md", "html"):
        text = report.FORMATS[name](run)
        assert "To be wary of" in text and "(1 of 6 rows): other processes took more than 10%" in text
    assert "To be wary of" not in md.text(make_run())


def test_without_an_original_there_is_no_speed_up(make_run):
    run = make_run()
    run["rows"] = [{**r, "speedup": None, "interval": None} for r in run["rows"] if r["role"] == "engine"]
    assert "no original was measured" in table(run) and "no original was measured" in md.text(run)


def test_failures_are_shown(make_run):
    run = make_run(failures=[("int8 batch 64", "was killed")])
    assert "failed: int8 batch 64: was killed" in table(run)
    assert "failed: int8 batch 64: was killed" in md.text(run)
    assert json.loads(report.FORMATS["json"](run))["failures"][0]["message"] == "was killed"


def test_an_empty_run(make_run):
    run = {**make_run(batches=(1,)), "rows": []}
    assert "nothing was measured" in table(run)
    assert "Nothing was measured." in md.text(run)
    assert lines_of(report.FORMATS["csv"](run)) == []
    assert json.loads(report.FORMATS["json"](run))["rows"] == []


def test_imported_rows_have_gaps(make_run):
    run = make_run(batches=(1,))
    empty = dict.fromkeys((*runs.LATENCIES, "images_per_s", "speedup", "size_bytes", "interval"))
    run["rows"][0].update(empty, origin="imported", rounds=[], samples_ms=[], achieved={}, images=None)
    assert md_rows(md.text(run))[0]["p50 ms"] == "-"
    assert lines_of(report.FORMATS["csv"](run))[0]["p50_ms"] == ""
    assert table(run)


def test_markdown_says_how_where_and_again(make_run):
    text = md.text(make_run())
    for part in ("## Machine", "## State", "## How it was measured", "## Again", "clocks", "A B C, C B A"):
        assert part in text
    assert "optimize bench int8 --batch 1,8 --baseline net.keras --rounds 5 --duration 1.0s" in text
    run = make_run()
    run["settings"]["command"] = ["optimize", "bench", "a b"]
    assert "optimize bench 'a b'" in md.text(run)


def test_several_runs(make_run):
    merged = runs.merge([make_run(batches=(1,)), make_run(batches=(1,), name="other")])
    text = md.text(merged)
    assert "## Run 1, batch 1" in text and "## Run 2, batch 1" in text and "## Machine of run 2" in text
    assert [line["run"] for line in lines_of(report.FORMATS["csv"](merged))] == ["0"] * 3 + ["1"] * 3


def test_csv_columns_are_stable(make_run):
    text = report.FORMATS["csv"](make_run())
    assert text.splitlines()[0] == ",".join(COLUMNS)
    assert COLUMNS[:8] == ("run", "target", "role", "form", "backend", "precision", "achieved", "batch")


@pytest.mark.parametrize("name", ["=1+1", "+1", "-1", "@x", "\t=1", "\n=1", "\uff1d1", "\uff0b1", "\uff0d1", "\uff201"])
def test_no_cell_is_a_formula(make_run, name):
    for line in lines_of(report.FORMATS["csv"](make_run(batches=(1,), name=name))):
        assert line["target"].startswith(("'", "net"))


@given(st.text(min_size=1, max_size=30))
def test_any_name_is_shown_and_breaks_nothing(name):
    row = {
        **dict.fromkeys((*runs.LATENCIES, "images_per_s", "speedup", "top1", "top1_drop", "agreement", "dataset")),
        **{"target": name, "role": "engine", "form": "", "precision": "", "achieved": {}, "batch": 1, "flags": []},
        **{"backend": "", "images": 1, "origin": "imported", "size_bytes": None, "rounds": [], "samples_ms": []},
    }
    run = {"created": "2024-05-01T12:00:00Z", "environment": {}, "rows": [row]}
    text = md.text(run)
    assert len(md_rows(text)) == 1
    assert "<script" not in md.escape(f"<script>{name}")
    assert len(lines_of(report.FORMATS["csv"](run))) == 1
    shown = table(run)
    assert "\x1b" not in shown and "\r" not in shown


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0.0, "0.000"),
        (0.561, "0.561"),
        (0.5614, "0.561"),
        (12.3456, "12.35"),
        (1785.71, "1786"),
        (1e7, "10000000"),
    ],
)
def test_numbers(value, text):
    assert cells.number(value) == text


def test_the_picture_shows_the_same_cells_and_refers_to_nothing(make_run):
    run = make_run()
    drawn = report.FORMATS["svg"](run)
    shown = html.unescape(re.sub(r"<[^>]+>", " ", drawn)).replace("\xa0", " ")
    for row in run["rows"]:
        assert cells.number(row["p50_ms"]) in shown
    assert "url(http" not in drawn and "@font-face" not in drawn
