"""Timings of other tools and of our own runs: what is taken, what is refused, and with which line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import runs, timings
from engines.errors import DamagedError, UsageError


@pytest.fixture()
def write(tmp_path: Path) -> Callable[..., Path]:
    def written(text: Any, name: str = "times.csv") -> Path:
        path = tmp_path / name
        path.write_bytes(text if isinstance(text, bytes) else text.encode("utf-8"))
        return path

    return written


def one(path: Path, **asked: Any) -> timings.Timings:
    (found,) = timings.read(path, **asked)
    return found


@pytest.mark.parametrize(
    ("text", "asked", "expected"),
    [
        ("latency_ms\n0.5\n2\n", {}, [0.5, 2]),
        ("latency_us\r\n500\r\n2000\r\n", {}, [0.5, 2]),
        ("latency_us\r500\r2000\r", {}, [0.5, 2]),
        ("latency_ns\n500000\n2e6\n", {}, [0.5, 2]),
        ("wall_s\n0.0005\n0.002\n", {}, [0.5, 2]),
        ("time (ms)\n0.5\n2\n", {}, [0.5, 2]),
        ("latency, µs\n500\n2000\n", {}, [0.5, 2]),
        ("latencyMs\n0.5\n2\n", {}, [0.5, 2]),
        ("\ufefflatency_ms\n0.5\n2\n", {}, [0.5, 2]),
        ("latency\n500\n2000\n", {"unit": "us"}, [0.5, 2]),
        ("500\n2000\n", {"unit": "us"}, [0.5, 2]),
        ("# of yesterday\n\n0.5\n\n# later\n2\n", {"unit": "ms"}, [0.5, 2]),
        ("name,latency_ms\na,0.5\nb,2\n", {}, [0.5, 2]),
        ("i,latency_ms\n7,0.5\n8,2\n9,2\n", {}, [0.5, 2, 2]),  # the first only numbers the rows
        ("i;latency_ms\n7;0.5\n8;2\n", {"column": "latency_ms"}, [0.5, 2]),
        ("i\tlatency_ms\n7\t0.5\n8\t2\n", {"column": "latency_ms"}, [0.5, 2]),
        ("7   0.5\n8  2 \n", {"column": "2", "unit": "ms"}, [0.5, 2]),
        ('"a, b",latency_ms\n"x, y",0.5\n"z",2\n', {}, [0.5, 2]),
        ("start_us,latency_us\n0,500\n9000,2000\n", {"column": "latency_us"}, [0.5, 2]),
        ("bad,latency_ms\nnan,0.5\n-1,2\n", {}, [0.5, 2]),
        ("zero_ms\n0\n0\n", {}, [0, 0]),
    ],
)
def test_a_column_of_any_tool(text: str, asked: Dict[str, Any], expected: List[float], write: Any):
    found = one(write(text), **asked)
    assert found.samples_ms.dtype == np.float64
    assert found.samples_ms.tolist() == pytest.approx(expected)
    assert (found.name, found.starts_ms, found.rounds) == ("times.csv", None, [len(expected)])
    assert "column" in found.source


@pytest.mark.parametrize(
    ("text", "asked", "words"),
    [
        ("start_us,latency_us\n0,5\n9,2\n", {}, "2 columns of times: start_us, latency_us"),
        ("a,b\n" + "1,5\n2,2\n3,9\n", {"column": "c"}, "no column 'c'; a, b"),
        ("1,5\n2,2\n", {"column": "c", "unit": "ms"}, "no names, only numbers: 1, 2"),
        ("a,a\n1,5\n", {"column": "a"}, "2 columns 'a'"),
        ("latency\n5\n", {}, "unit of column latency is not told"),
        ("status\n5\n", {}, "unit of column status is not told"),
        ("start_us,latency_us\n0,5\n9,soon\n", {}, "2 columns of times: start_us, latency_us"),
        ("start_us,latency_us\n0,nan\n9,2\n", {}, "2 columns of times: start_us, latency_us"),
        ("5\n", {}, "unit of column 1 is not told"),
        ("latency_ms\n5\n", {"unit": "us"}, "is in ms by its name"),
        ("latency_ms\n5\n", {"unit": "h"}, "--unit h: ns, us, ms, s are known"),
        ("latency_ms\n5\n", {"target": "x"}, "no run file"),
        ("latency_ms\n5\n", {"batch": 1}, "no run file"),
    ],
)
def test_what_must_be_chosen_is_asked_for(text: str, asked: Dict[str, Any], words: str, write: Any):
    with pytest.raises(UsageError, match=words):
        timings.read(write(text), **asked)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is empty"),
        (" \n\n", "is empty"),
        ("latency_ms\n", "no times in it"),
        ("# nothing\n", "no times in it"),
        ("latency_ms\n1\nnan\n", "line 3, column latency_ms: 'nan' is no time"),
        ("latency_ms\n1\ninf\n", "line 3"),
        ("latency_ms\n1\n-0.5\n", "line 3"),
        ("# x\nlatency_ms\n1\n\n1_000\n", "line 5"),
        ("latency_ms\n1\n1e999\n", "line 3"),
        ("latency_ms\n1\nsoon\n", "line 3, column latency_ms: 'soon'"),
        ("a;latency_ms\nx;1,5\ny;2,5\n", "line 2, column"),
        ("i;latency_ms\n0;1,5\n1;2,5\n2;1,7\n", "line 2, column latency_ms: '1,5' is no time"),
        ("i,latency\n0,1\n1,3\n2,4\n3,nan\n", "line 5, column latency: 'nan' is no time"),
        ("latency_s\n1\n1e299\n", "column latency_s: 1e\\+302 ms is no time"),
        ("a,latency_ms\nx,1\ny\n", "line 3 has 1 cells, not 2"),
        ("latency_ms\n1,5\n", "line 2 has 2 cells, not 1"),
        ('a,latency_ms\n"x,1\n', "line 2"),
        ('a,latency_ms\n"x"y,1\n', "line 2"),
        ("latency_ms\n1\n\0\n", "line 3 holds a zero byte"),
        ("latency_ms\n" + "," * 100_000, "line 2 is longer"),
        (b"latency_ms\n\xff\xfe\n", "not text in UTF-8"),
        ("latency_ms\n1\n".encode("utf-16") + b"\n", "not text in UTF-16"),
        ("no,numbers\nat,all\n", "line 2, column no: 'at' is no time"),
    ],
)
def test_what_is_no_table_of_times_is_refused_with_its_line(text: Any, words: str, write: Any):
    with pytest.raises(DamagedError, match=words):
        timings.read(write(text))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_as_windows_writes_it_is_read(encoding: str, write: Any):
    found = timings.read(write("latency_us\r\n1000\r\n2000\r\n".encode(encoding)))[0]
    assert found.samples_ms.tolist() == [1.0, 2.0]


def test_a_file_beyond_the_limit_is_not_read(write: Any, monkeypatch: pytest.MonkeyPatch):
    path = write("latency_ms\n1\n")
    monkeypatch.setattr("engines.jsonfile.LIMIT", 4)
    with pytest.raises(DamagedError, match="larger than"):
        timings.read(path)
    with pytest.raises(FileNotFoundError):
        timings.read(path.with_name("none.csv"))


@given(
    st.lists(st.floats(0, 1e9, allow_nan=False), min_size=3, max_size=30),
    st.sampled_from(sorted(timings.PER_MS)),
    st.sampled_from([",", ";", "\t"]),
    st.booleans(),
)
def test_what_is_written_is_read_again(tmp_path_factory: Any, values: List[float], unit: str, mark: str, named: bool):
    path = tmp_path_factory.mktemp("csv") / "t"
    rows = [f"q{mark}x_{unit}"] * named + [f"w{mark}{value * timings.PER_MS[unit]!r}" for value in values]
    path.write_text("\n".join(rows), encoding="utf-8")
    found = one(path, column=f"x_{unit}" if named else "2", unit=unit)
    assert found.samples_ms.tolist() == pytest.approx(values, rel=1e-12)


@given(st.text(max_size=60))
def test_any_text_is_times_or_a_clear_error(tmp_path_factory: Any, text: str):
    path = tmp_path_factory.mktemp("any") / "t"
    path.write_text(text, encoding="utf-8", errors="ignore")
    try:
        found = timings.read(path, unit="ms")
    except (DamagedError, UsageError):
        return
    assert all(np.isfinite(each.samples_ms).all() and (each.samples_ms >= 0).all() for each in found)


def exported(count: int = 3) -> List[Dict[str, float]]:
    """As TensorRT 8.4 to 11 write it: moments of six digits are too coarse to take the times from."""
    return [
        {
            **{"startEnqMs": 100000.0, "endEnqMs": 100000.0, "startH2dMs": 100000.0, "endH2dMs": 100000.0},
            **{"startComputeMs": 100000.0 + n, "endComputeMs": 100001.0 + n},
            **{"startD2hMs": 100001.0, "endD2hMs": 100001.0},
            **{"h2dMs": 0.01, "computeMs": 0.5 + n / 8, "d2hMs": 0.02, "latencyMs": 0.53 + n / 8},
        }
        for n in range(count)
    ]


def test_times_that_trtexec_exported(write: Any):
    path = write(json.dumps(exported()), "times.json")
    found = one(path)
    assert found.samples_ms.tolist() == [0.53, 0.655, 0.78]
    assert found.starts_ms is not None and found.starts_ms.tolist() == [100000, 100001, 100002]
    assert (found.name, found.source, found.rounds) == ("times.json", "trtexec --exportTimes, latencyMs", [3])
    assert one(path, column="computeMs").samples_ms.tolist() == [0.5, 0.625, 0.75]


def test_several_streams_of_trtexec_come_in_the_order_of_time(write: Any):
    two = exported()
    found = one(write(json.dumps([two[0], two[2], two[1]])))
    assert found.samples_ms.tolist() == [0.53, 0.655, 0.78]
    assert "several streams" in found.source


def test_the_warm_up_that_old_versions_export_is_named(write: Any):
    entry = {
        **{"startEnqMs": 0.1, "endEnqMs": 0.2, "startInMs": 0.1, "endInMs": 0.2, "startComputeMs": 0.2},
        **{"endComputeMs": 0.9, "startOutMs": 0.9, "endOutMs": 1.0},
        **{"inMs": 0.1, "computeMs": 0.7, "outMs": 0.1, "latencyMs": 0.9, "endToEndMs": 1.4},
    }
    found = one(write(json.dumps([entry, entry])))
    assert found.samples_ms.tolist() == [0.9, 0.9]
    assert "warm-up" in found.source


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "list of objects"),
        ("[1, 2]", "list of objects"),
        ('[{"a": 1}]', "no startComputeMs"),
        (json.dumps(exported())[:-20], "not valid JSON"),
        ('[{"startComputeMs": 1, "latencyMs": 1, "latencyMs": 2}]', "duplicate key"),
        ('[{"startComputeMs": 1, "latencyMs": NaN}]', "NaN is not JSON"),
        (json.dumps([*exported(), {**exported()[0], "latencyMs": -1}]), "latencyMs of query 4 is -1"),
        (json.dumps([*exported(), {**exported()[0], "latencyMs": "1"}]), "latencyMs of query 4 is '1'"),
        (json.dumps([*exported(), {**exported()[0], "latencyMs": True}]), "query 4 is True"),
        (json.dumps([*exported(), {**exported()[0], "latencyMs": 10**400}]), "query 4 is 1000"),
        (json.dumps([*exported(), {"latencyMs": 1}]), "startComputeMs of query 4 is None"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_what_trtexec_did_not_write_is_refused(text: str, words: str, write: Any):
    with pytest.raises(DamagedError, match=words):
        timings.read(write(text))


@pytest.mark.parametrize("column", ["startH2dMs", "soon"])
def test_a_moment_is_no_time(column: str, write: Any):
    with pytest.raises(UsageError, match="it has h2dMs, computeMs, d2hMs, latencyMs"):
        timings.read(write(json.dumps(exported())), column=column)


def test_the_rows_of_a_run_are_chosen_by_target_and_batch(make_run: Any, tmp_path: Path):
    run = make_run()
    path = tmp_path / "runs.json"
    runs.write(path, run)
    assert len(timings.read(path)) == 6
    (found,) = timings.read(path, target="int8", batch=8)
    row = next(row for row in run["rows"] if row["target"] == "int8" and row["batch"] == 8)
    assert found.samples_ms.tolist() == row["samples_ms"]
    assert (found.name, found.rounds, found.starts_ms) == ("int8, batch 8", [20] * 5, None)
    assert found.first_ms is None and found.interference is None
    with pytest.raises(UsageError, match="no int4 at batch 8; it has 'int8, batch 1'"):
        timings.read(path, target="int4", batch=8)


def test_a_long_run_has_its_first_query_its_starts_and_what_ran_beside(make_run: Any, tmp_path: Path):
    run = make_run(count=1)
    row = run["rows"][0]
    row["rounds"][0]["starts_ms"] = [float(n) for n in range(20)]
    row["first_ms"] = 25.0
    load = {"kind": "cpu", "tool": "stress-ng", "version": "0.15.06", "settings": {"percent": 50}}
    row["interference"] = {"kinds": "cpu:50", "words": "half of every core", "loads": [load]}
    path = tmp_path / "runs.json"
    runs.write(path, run)
    found = timings.read(path, target="int8")[0]
    assert found.starts_ms is not None and found.starts_ms.tolist() == list(range(20))
    assert (found.first_ms, found.interference) == (25.0, row["interference"])
    assert found.name == "int8, batch 1, beside cpu:50"


@pytest.mark.parametrize(
    ("field", "value"),
    [("first_ms", "soon"), ("interference", {}), ("interference", {"kinds": "cpu", "words": "x", "loads": []})],
)
def test_a_run_with_such_fields_in_another_form_is_refused(field: str, value: Any, make_run: Any):
    run = make_run()
    run["rows"][0][field] = value
    with pytest.raises(DamagedError, match=field):
        runs.validate(run)


def test_a_run_with_another_number_of_starts_is_refused(make_run: Any):
    run = make_run()
    run["rows"][0]["rounds"][0]["starts_ms"] = [1.0]
    with pytest.raises(DamagedError, match="one for each sample"):
        runs.validate(run)


def test_queries_side_by_side_are_not_in_order_and_so_no_times(make_run: Any, tmp_path: Path):
    run = make_run()
    for row in run["rows"]:
        row["streams"] = 2
    path = tmp_path / "runs.json"
    runs.write(path, run)
    with pytest.raises(UsageError, match="one query at a time"):
        timings.read(path)


def test_a_damaged_run_is_refused(write: Any):
    with pytest.raises(DamagedError, match="schema"):
        timings.read(write('{"schema": "optimize.run/9"}', "runs.json"))
