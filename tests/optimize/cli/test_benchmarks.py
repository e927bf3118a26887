"""`optimize profile`, and `optimize report`: files, or one of them on stdout."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import optimize
from optimize import api


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, built: Any) -> Path:
    out = tmp_path_factory.mktemp("run") / "runs.json"
    optimize.bench([built.bundles[0].path], (1,), rounds=1, warmup=0.01, duration=0.01, out=out)
    return out


def test_the_slowest_layers_come_first(optimize_command: Any, built: Any) -> None:
    bundle = built.bundles[2].path
    done = optimize_command("profile", bundle, "--queries", "3", "--top", "2", "--trace", "trace.json")
    assert done.exit_code == 0, done.stderr
    assert bundle.name in done.stdout and "others (--top" in done.stdout
    assert "layers take" in done.stdout.splitlines()[-1] and "perfetto" in done.stderr
    events = json.loads(Path("trace.json").read_text())["traceEvents"]
    assert {event["args"]["precision"] for event in events if event["ph"] == "X"} >= {"int8"}
    refused = optimize_command("profile", bundle, "--trace", "nowhere/trace.json")
    assert refused.exit_code == 2 and "--trace" in refused.stderr
    every = optimize_command("profile", bundle, "--queries", "3", "--top", "99").stdout
    assert "others" not in every and every.count("int8") > done.stdout.count("int8")


@pytest.mark.parametrize(
    ("framework", "form", "layer"),
    [("torch", "eager", "layer1.0.conv1"), pytest.param("keras", "function", "Conv2D", marks=pytest.mark.slow)],
)
def test_an_original_has_layers_too(optimize_command: Any, framework: str, form: str, layer: str) -> None:
    pytest.importorskip("torch" if framework == "torch" else "tensorflow")
    model = api.zoo_make("resnet18", framework, size=16)
    more = ("--factory", "resnet18", "--input-shape", "3x16x16") if framework == "torch" else ()
    done = optimize_command("profile", model, *more, "--queries", "3", "--batch", "2", "--trace", "t.json", "--json")
    assert done.exit_code == 0, done.stderr
    found = json.loads(done.stdout)
    assert (found["form"], found["batch"]) == (form, 2) and found["query_ms"] > 0
    assert any(layer in one["name"] + one["type"] for one in found["layers"])
    assert len(json.loads(Path("t.json").read_text())["traceEvents"]) == len(found["layers"]) + 2


@pytest.mark.parametrize(
    ("form", "said"),
    [("eager", ""), ("compile", "cannot be told apart"), ("predict", "eager"), ("xla", "eager"), ("fast", "eager")],
)
def test_an_original_runs_in_the_form_that_is_asked_for(optimize_command: Any, form: str, said: str) -> None:
    pytest.importorskip("torch")
    model = api.zoo_make("resnet18", "torch", size=16)
    source = ("--factory", "resnet18", "--input-shape", "3x16x16")
    done = optimize_command("profile", model, *source, "--queries", "3", "--form", form, "--json")
    if said:
        assert done.exit_code == 2 and f"--form {form}" in done.stderr and said in done.stderr
    else:
        assert done.exit_code == 0 and json.loads(done.stdout)["form"] == form


@pytest.mark.slow
def test_predict_has_the_layers_of_the_function_that_it_calls(optimize_command: Any) -> None:
    pytest.importorskip("tensorflow")
    model = api.zoo_make("resnet18", "keras", size=16)
    found = {}
    for form in ("predict", "function"):
        done = optimize_command("profile", model, "--queries", "5", "--form", form, "--json")
        assert done.exit_code == 0, done.stderr
        found[form] = json.loads(done.stdout)
        assert found[form]["form"] == form and len(found[form]["layers"]) > 20
    names = [sorted(layer["name"] for layer in one["layers"]) for one in found.values()]
    assert names[0] == names[1] and all(one["query_ms"] > 0 for one in found.values())
    refused = optimize_command("profile", model, "--form", "xla")
    assert refused.exit_code == 2 and "cannot be told apart" in refused.stderr


def test_an_engine_has_no_form(optimize_command: Any, built: Any) -> None:
    done = optimize_command("profile", built.bundles[0].path, "--form", "eager")
    assert done.exit_code == 2 and "leave --form out" in done.stderr


@pytest.mark.parametrize("name", ["md", "html", "csv", "json", "svg"])
def test_one_format_goes_to_stdout_as_it_would_to_a_file(optimize_command: Any, run: Path, name: str) -> None:
    done = optimize_command("report", run, "-f", name, "-o", "-")
    assert done.exit_code == 0, done.stderr
    assert list(Path().iterdir()) == [], "neither a folder named - nor a file"
    optimize_command("report", run, "-f", name)
    assert done.stdout_bytes == Path(f"report.{name}").read_bytes()
    assert optimize_command("report", run, "-f", name, "-o", "-", "-q").stdout == done.stdout


@pytest.mark.parametrize("formats", [("-f", "md,csv"), ("-f", "md", "-f", "svg")])
def test_several_formats_on_stdout_are_a_usage_error(optimize_command: Any, run: Path, formats: tuple) -> None:
    done = optimize_command("report", run, "-o", "-", *formats)
    assert done.exit_code == 2 and done.stdout == "" and "prints one format" in done.stderr
    assert list(Path().iterdir()) == []


def test_a_picture_goes_to_a_file_only(optimize_command: Any, run: Path) -> None:
    pytest.importorskip("matplotlib")
    refused = optimize_command("report", run, "-f", "png", "-o", "-")
    assert refused.exit_code == 2 and "no text" in refused.stderr and "-o DIR" in refused.stderr
    assert optimize_command("report", run, "-f", "png,html").exit_code == 0
    assert Path("report.png").read_bytes().startswith(b"\x89PNG") and Path("report.html").is_file()


def test_one_format_twice_is_one(optimize_command: Any, run: Path) -> None:
    assert optimize_command("report", run, "-o", "-", "-f", "md,md").stdout.startswith("#")
