"""With `--json`, stdout is one JSON document, whatever happens: every command, through success and failure."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple, Tuple

import numpy as np
import onnx
import pytest
import typer

from bench.suites import tables
from engines import jsonfile


class Ran(NamedTuple):
    """What one command came to: its exit code, the document on stdout, and stderr."""

    code: int
    value: Any
    errors: str


@pytest.fixture
def as_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Callable[..., Ran]:
    """Run the whole command in an empty folder with `--json` and parse all of its stdout."""
    from optimize.cli import console, main

    home = tmp_path / "here"
    home.mkdir(exist_ok=True)
    monkeypatch.chdir(home)

    def run(*words: object) -> Ran:
        console.set_voice(False, False, False, True)
        monkeypatch.setattr(sys, "argv", ["optimize", *map(str, words), "--json"])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        said = capsys.readouterr()
        return Ran(int(ended.value.code or 0), json.loads(said.out), said.err)

    return run


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_onnx: Path, cifar: Path, built: Any) -> Dict[str, Path]:
    """The files that the commands below name in braces."""
    from PIL import Image

    import optimize

    folder = tmp_path_factory.mktemp("place")
    shutil.copy(tiny_onnx, folder / "again.onnx")
    (folder / "empty.onnx").write_bytes(b"")
    Image.new("RGB", (32, 32), (200, 50, 50)).save(folder / "image.png")
    model = onnx.load(str(tiny_onnx))
    node = next(n for n in model.graph.node if n.name == "relu2")
    node.op_type, node.domain = "Sparkle", "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(model, str(folder / "sparkle.onnx"))
    rolled = onnx.load(str(tiny_onnx))
    weight = next(w for w in rolled.graph.initializer if w.name == "w3")
    weight.CopyFrom(onnx.numpy_helper.from_array(np.roll(onnx.numpy_helper.to_array(weight), 3, axis=0), "w3"))
    onnx.save(rolled, str(folder / "rolled.onnx"))
    run = folder / "runs.json"
    optimize.bench([built.bundles[2].path], (1,), rounds=1, warmup=0.01, duration=0.01, out=run)
    table = jsonfile.read(tables.FOLDER / "jetson-nano.json")
    times = 1 + np.random.default_rng(0).exponential(0.05, 3000)
    (folder / "times.csv").write_text("latency_ms\n" + "\n".join(f"{value:.6f}" for value in times))
    one = {**table["cells"][0], "precision": "fp32", "made": {"file": "again.onnx"}}
    jsonfile.write(folder / "suite.json", {**table, "cells": [one]})
    (folder / "table.csv").write_text("model,top1_percent,seconds,images\na,95,30,10\nb,91,16,10\n", encoding="utf-8")
    models = ("again", "empty", "sparkle", "rolled")
    files = ("image.png", "runs.json", "suite.json", "table.csv", "times.csv")
    names = (*(f"{name}.onnx" for name in models), *files)
    found = {name.split(".")[0]: folder / name for name in names}
    return {**found, "tiny": tiny_onnx, "cifar": cifar, "bundle": built.bundles[2].path, "made": built.out}


_QUICK = "--quick --duration 10ms --warmup 10ms --batch 1"
_TENSORFLOW = pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="TensorFlow is missing")
_TORCH = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is missing")

CASES: Tuple[Tuple[str, int, Tuple[str, ...], Tuple[Any, ...]], ...] = (
    ("doctor", 0, ("facts", "ok"), ()),
    ("doctor --config nowhere.toml", 2, ("error",), ()),
    ("demo --data {cifar}", 0, ("data", "run", "report"), (_TENSORFLOW, pytest.mark.slow)),
    ("demo --data nowhere", 2, ("error",), ()),
    ("export {tiny} -o e.onnx", 0, ("onnx", "check"), ()),
    ("export {sparkle} -o e.onnx", 1, ("error",), ()),
    ("calibrate {tiny} --data {cifar} --samples 8 --method minmax --preprocess unit -o c", 0, ("cache", "of"), ()),
    ("calibrate {tiny}", 2, ("error",), ()),
    ("build {tiny} --precision fp32 --batch 1 -o out", 0, ("bundles", "failures"), ()),
    ("build {tiny} --dry-run", 0, ("backend", "bundles"), ()),
    ("build {empty}", 1, ("error",), ()),
    ("build {tiny} {empty} --precision fp32 --batch 1", 5, ("results", "error"), ()),
    ("build {empty} {sparkle}", 1, ("results", "error"), ()),
    ("verify {bundle} --against {tiny}", 0, ("passed", "check"), ()),
    ("verify {bundle} --against {rolled} --data {cifar} --min-agreement 99", 3, ("passed", "accuracy", "error"), ()),
    ("verify {bundle} --against {rolled}", 3, ("passed", "check", "error"), ()),
    ("bench {bundle} " + _QUICK, 0, ("rows", "schema"), ()),
    ("bench {bundle} {sparkle} " + _QUICK, 5, ("rows", "failures", "error"), ()),
    ("bench {sparkle} " + _QUICK, 1, ("error",), ()),
    ("bench {bundle} --load poisson " + _QUICK, 2, ("error",), ()),
    ("profile {bundle} --queries 2", 0, ("layers", "query_ms"), ()),
    ("profile {bundle} --batch 0", 2, ("error",), ()),
    ("profile {sparkle} --queries 2", 1, ("error",), ()),
    ("wcet {times}", 0, ("schema", "series"), ()),
    ("wcet {runs}", 3, ("series", "error"), ()),
    ("wcet {times} --probability 1", 2, ("error",), ()),
    ("compare {runs} {runs}", 0, ("schema", "reference", "runs"), ()),
    ("compare {runs} {runs} --fail-drop 0", 3, ("runs", "error"), ()),
    ("compare {runs} {tiny}", 1, ("error",), ()),
    ("select {table}", 0, ("schema", "baseline", "chosen"), ()),
    ("select {table} --min-saving 90%", 3, ("verdict", "error"), ()),
    ("select {runs}", 2, ("error",), ()),
    ("device show", 0, ("model", "clocks", "rails"), ()),
    ("device show --config nowhere.toml", 2, ("error",), ()),
    ("device lock --mode none", 2, ("error",), ()),
    ("device restore --config nowhere.toml", 2, ("error",), ()),
    ("report {runs} -f md,csv,html", 0, ("written",), ()),
    ("report {runs} -o - -f svg", 0, ("format", "text"), ()),
    ("report {runs} -o - -f svg,md", 2, ("error",), ()),
    ("report {tiny}", 1, ("error",), ()),
    ("inspect {bundle}", 0, ("what", "manifest"), ()),
    ("inspect {empty}", 1, ("error",), ()),
    ("predict {bundle} {image}", 0, (), ()),
    ("predict {bundle} {tiny}", 1, ("error",), ()),
    ("cache ls {made}", 0, (), ()),
    ("cache ls nowhere", 2, ("error",), ()),
    ("cache rm .", 0, ("removed",), ()),
    ("cache rm {made}", 2, ("error",), ()),
    ("cache rm nowhere", 2, ("error",), ()),
    ("suite list", 0, (), ()),
    ("suite list --config nowhere.toml", 2, ("error",), ()),
    ("suite run {suite} --quick --duration 10ms --warmup 10ms", 0, ("schema", "cells", "run"), ()),
    ("suite run {suite} --cells none", 2, ("error",), ()),
    ("suite run resnet-family-edge", 4, ("cells", "error"), ()),
    ("ship {bundle} --to store", 0, ("name", "digest", "variants"), ()),
    ("ship {bundle} --to gopher://store", 2, ("error",), ()),
    ("pull it --from store", 2, ("error",), ()),
    ("key new k.pem", 0, ("id", "public"), ()),
    ("key new {image}", 2, ("error",), ()),
    ("key show nowhere.pem", 2, ("error",), ()),
    ("node status --node n", 0, ("active", "versions"), ()),
    ("node status --config nowhere.toml", 2, ("error",), ()),
    ("node activate it --node n", 2, ("error",), ()),
    ("node rollback --node n", 2, ("error",), ()),
    ("node remove it --node n", 2, ("error",), ()),
    ("node policy --node n --keep 2", 0, ("keep", "require_signature"), ()),
    ("node policy --node n --keep -1", 2, ("error",), ()),
    ("node trust ls --node n", 0, (), ()),
    ("node trust ls --config nowhere.toml", 2, ("error",), ()),
    ("node trust add nowhere --node n", 2, ("error",), ()),
    ("node trust rm nowhere --node n", 2, ("error",), ()),
    ("serve", 2, ("error",), ()),
    ("fleet check nowhere.toml -i boards.yml", 2, ("error",), ()),
    ("fleet run nowhere.toml -i boards.yml", 2, ("error",), ()),
    ("fleet status nowhere.toml -i boards.yml", 2, ("error",), ()),
    ("fleet collect nowhere.toml -i boards.yml", 2, ("error",), ()),
    ("zoo list", 0, (), ()),
    ("zoo list --framework keras", 2, ("error",), ()),
    ("zoo make resnet18 --framework torch", 0, ("path",), (_TORCH,)),
    ("zoo make resnet19", 2, ("error",), ()),
    ("zoo make super_resolution", 0, ("path",), (_TORCH,)),
    ("zoo make super_resolution --framework keras", 2, ("error",), ()),
    ("zoo make super_resolution --size 64", 2, ("error",), ()),
    ("zoo train resnet18 --data {cifar} --epochs 1 --images 64", 0, ("path",), (_TENSORFLOW, pytest.mark.journey)),
    ("zoo train resnet19", 2, ("error",), ()),
    ("build", 2, ("error",), ()),
    ("build {tiny} --threads many", 2, ("error",), ()),
)
"""Words, exit code, keys of the document (none: it is a list) and marks."""


@pytest.mark.parametrize(
    ("words", "code", "keys"), [pytest.param(*case[:3], marks=case[3], id=case[0]) for case in CASES]
)
def test_stdout_is_one_document(
    as_json: Callable[..., Ran], place: Dict[str, Path], words: str, code: int, keys: Tuple[str, ...]
) -> None:
    done = as_json(*(word.format(**place) for word in words.split()))
    assert done.code == code, done.errors
    assert isinstance(done.value, dict if keys else list)
    assert not keys or set(keys) <= set(done.value)
    assert ("error" in keys) == (code != 0)
    if code:
        error = done.value["error"]
        assert set(error) == {"message", "hint", "exit_code"} and error["exit_code"] == code
        assert error["message"] in done.errors


def test_the_cases_are_of_every_command() -> None:
    from optimize.cli.app import app

    def commands(group: Any, before: Tuple[str, ...] = ()) -> Iterator[Tuple[str, ...]]:
        for name, one in group.commands.items():
            yield from commands(one, (*before, name)) if hasattr(one, "commands") else [(*before, name)]

    for name in commands(typer.main.get_command(app)):
        mine = [case for case in CASES if tuple(case[0].split()[: len(name)]) == name]
        assert [case for case in mine if case[1]], " ".join(name)
        assert name in _ELSEWHERE or [case for case in mine if case[1] == 0], " ".join(name)


_ELSEWHERE = (
    *(
        ("device", "lock"),
        ("device", "restore"),
    ),  # test_device.py, by stand-ins for the board's programs
    *(("pull",), ("key", "show")),  # test_ship.py, of what was shipped and made before
    *(("node", name) for name in ("activate", "rollback", "remove")),  # test_node.py
    *(("node", "trust", name) for name in ("add", "rm")),
    ("serve",),  # tests/optimize/serving, by clients of a process that stays
    *(("fleet", name) for name in ("check", "run", "status", "collect")),  # tests/optimize/fleet, with boards
)
"""Where a command that needs more than this place succeeds."""


def test_a_failed_gate_stands_in_the_document_of_its_build(
    as_json: Callable[..., Ran], squeezed_onnx: Path, cifar: Path, tmp_path: Path
) -> None:
    words = ("build", squeezed_onnx, "--precision", "int8", "--batch", "8", "--preprocess", "unit", "--data", cifar)
    done = as_json(*words, "--search-budget", "0", "--max-drop", "0", "-o", tmp_path / "out")
    assert done.code == 3, done.errors
    assert done.value["bundles"][0]["gate"]["passed"] is False
    assert "top-1 drops by" in done.value["error"]["message"]


def test_a_precision_that_failed_stands_in_the_document(
    as_json: Callable[..., Ran], place: Dict[str, Path], tmp_path: Path
) -> None:
    """The bundle of another model is in the way of one of two precisions."""
    words = ("--batch", "1", "--backend", "onnxruntime", "-o", tmp_path / "out")
    assert as_json("build", place["again"], "--precision", "fp32", *words).code == 0
    done = as_json("build", place["tiny"], "--precision", "fp32,fp16", *words)
    assert done.code == 5, done.errors
    assert [one["precision"] for one in done.value["bundles"]] == ["fp16"]
    assert [one["precision"] for one in done.value["failures"]] == ["fp32"]
    assert done.value["error"]["message"].startswith("1 of the engines")


def test_each_of_several_models_has_its_own_error(as_json: Callable[..., Ran], place: Dict[str, Path]) -> None:
    done = as_json("build", place["again"], place["empty"], "--precision", "fp32", "--batch", "1")
    good, bad = done.value["results"]
    assert good["bundles"] and "error" not in good
    assert bad["model"] == str(place["empty"]) and bad["error"]["exit_code"] == 1


def test_an_error_between_two_models_keeps_the_first(
    as_json: Callable[..., Ran], place: Dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ctrl-C while the second model is built."""
    from optimize import api

    build = api.build

    def interrupted(model: Path, **given: Any) -> Any:
        if model == place["tiny"]:
            raise KeyboardInterrupt
        return build(model, **given)

    monkeypatch.setattr(api, "build", interrupted)
    done = as_json("build", place["again"], place["tiny"], "--precision", "fp32", "--batch", "1")
    assert done.code == 130 and len(done.value["results"]) == 1


@pytest.mark.parametrize("value", [{"a": 1}, [1, 2]])
def test_an_answer_waits_for_an_error(capsys: pytest.CaptureFixture, value: Any) -> None:
    from optimize.cli import console

    console.set_voice(True, False, False, False)
    console.answer(value, ())
    assert capsys.readouterr().out == "", "an error may still come"
    console.finish(ValueError("odd"))
    console.finish()
    told = json.loads(capsys.readouterr().out)
    assert told["error"]["exit_code"] == 1 and (told.get("results") == value or told["a"] == 1)
    console.set_voice(False, False, False, True)
