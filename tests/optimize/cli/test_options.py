"""The `--help` of every command: each option is explained, and by what that command does with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict, Iterator, Tuple

import pytest
import typer

from engines.backend import RUN_ONNX
from optimize.cli.app import app
from optimize.pipeline.options import DEFAULT_MAX_DROP, BuildOptions
from optimize.pipeline.tensorrt import TensorRTOptions
from optimize.targets import _DEFAULT_FORMS


def _commands(group: Any, before: str = "") -> Iterator[Tuple[str, Any]]:
    for name, one in group.commands.items():
        yield from _commands(one, f"{before}{name} ") if hasattr(one, "commands") else [(before + name, one)]


COMMANDS: Dict[str, Any] = dict(_commands(typer.main.get_command(app)))


def _help(command: str) -> Dict[str, str]:
    return {p.opts[0]: p.help or "" for p in COMMANDS[command].params if not getattr(p, "hidden", False)}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_option_is_explained(command: str) -> None:
    assert COMMANDS[command].help
    for option, text in _help(command).items():
        assert len(text.split()) > 2, (option, text)


def test_data_is_explained_by_what_the_command_does_with_it() -> None:
    texts = {name: _help(name)["--data"] for name in ("export", "build", "verify", "bench", "zoo train")}
    assert len(set(texts.values())) == len(texts)
    assert [name for name, text in texts.items() if "calibrate" in text] == ["build"]
    assert "train" in texts["zoo train"] and "check" in texts["export"]


def test_batch_is_explained_by_what_the_command_does_with_it() -> None:
    texts = [_help(name)["--batch"] for name in ("export", "build", "verify", "bench", "zoo train")]
    assert len(set(texts)) == len(texts)


def test_options_of_tensorrt_say_so() -> None:
    """Plain help has no panels."""
    names = ["--" + name.replace("_", "-") for name in TensorRTOptions.__dataclass_fields__]
    assert len(names) > 8
    build, bench = _help("build"), _help("bench")
    assert all(build[name].startswith("TensorRT: ") for name in names)
    assert all(bench[name].startswith("TensorRT: ") for name in ("--io", "--cuda-graph", "--spin", "--transfers"))


def test_bench_names_the_backends_that_run_a_file() -> None:
    text = _help("bench")["--backend"]
    assert all(name in text for name in RUN_ONNX) and "tensorrt" not in text
    assert "tensorrt" in _help("build")["--backend"]


def test_defaults_in_a_text_are_the_true_ones(optimize_command: Any, tiny_onnx: Path) -> None:
    """The parameter itself is None there."""
    assert f"[default: {','.join(_DEFAULT_FORMS)}]" in _help("bench")["--forms"]
    plan = json.loads(optimize_command("build", tiny_onnx, "--dry-run", "--json").stdout)
    assert [Path(one["path"]).name.split("-")[0] for one in plan["bundles"]] == ["fp16"]
    assert "[default: fp16]" in _help("build")["--precision"]
    assert f"[default: {','.join(map(str, BuildOptions().batches))}]" in _help("build")["--batch"]
    assert f"[default: {DEFAULT_MAX_DROP}]" in _help("build")["--max-drop"]
