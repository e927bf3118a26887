"""`optimize device`: made-up boards shown, and locked by programs that do to their trees what the real ones do."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any, Dict, List, Sequence

import pytest

from bench.telemetry import rails
from engines import board
from engines.errors import IncompatibleError, OptimizeError, UsageError
from optimize import device

BOARDS = Path(__file__).resolve().parents[1] / "boards"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="boards run Linux")


@pytest.fixture(autouse=True)
def no_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rails, "gpus", list)


def commands_of(root: Path) -> board.Run:
    def run(words: Sequence[str]) -> str:
        return board.text(root / "commands" / words[0])

    return run


def shown(root: Path) -> Dict[str, Any]:
    return device.show(root, commands_of(root))


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "orin-nano-jp5.1.2",
            ["Orin Nano", "power mode: 15W (0); others: 7W (1)", "clocks: free", "power VDD_IN: 4.179 W"],
        ),
        (
            "orin-nano-jp6.2",
            ["power mode: 25W (1)", "clocks: locked", "GPU: 918 MHz now", "gpu-thermal 45", "2 events"],
        ),
        ("nano-jp4", ["Jetson Nano", "MAXN (0)", "power POM_5V_IN: 1.022 W"]),
        ("agx-orin-jp6.1", ["AGX Orin", "VIN_SYS_5V0: 4.028 W", "memory: 2133 MHz now, 204 to 3199"]),
        ("thor-jp7", ["clocks: locked", "no sensor that is known"]),
    ],
)
def test_boards_say_how_they_stand(name: str, words: List[str]) -> None:
    text = "\n".join(device.lines(shown(BOARDS / name)))
    for word in words:
        assert word in text, text


@pytest.fixture()
def orin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An Orin Nano with programs that change its files, by way of a sudo that notes what it is asked."""
    root = Path(shutil.copytree(BOARDS / "orin-nano-jp6.2", tmp_path / "orin"))
    gpu = root / "sys/class/devfreq/17000000.gpu"
    (gpu / "min_freq").write_text("306000000\n")
    programs = {
        "sudo": 'echo "$*" >> "$BOARD/asked"; exec "$@"',
        "nvpmodel": '[ "$1" = -m ] || exit 2; echo "pmode:000$2" > "$BOARD/var/lib/nvpmodel/status"',
        "jetson_clocks": (
            'gpu="$BOARD/sys/class/devfreq/17000000.gpu"\n'
            'case "$1" in\n'
            '--store) cat "$gpu/min_freq" > "$2";;\n'
            '--restore) cat "$2" > "$gpu/min_freq";;\n'
            '*) [ -z "$STUCK" ] && cat "$gpu/max_freq" > "$gpu/min_freq"; true;;\n'
            "esac"
        ),
    }
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, body in programs.items():
        (folder / name).write_text(f"#!/bin/sh\n{body}\n")
        (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setenv("BOARD", str(root))
    monkeypatch.setattr(device, "_is_root", lambda: False)
    return root


def test_clocks_are_locked_and_given_back(orin: Path, tmp_path: Path) -> None:
    store = device.kept(tmp_path / "state")
    before = shown(orin)
    assert before["clocks"]["state"] == "free"
    commands = device.lock_commands(before, store, "MAXN_SUPER")
    assert device.typed(commands) == [
        f"sudo jetson_clocks --store {store}",
        "sudo nvpmodel -m 2",
        "sudo jetson_clocks",
    ]
    assert not (orin / "asked").exists()  # nothing is run by asking what would be
    assert device.lock(commands, store, before, orin, commands_of(orin))["state"] == "locked"
    locked = shown(orin)
    assert locked["power"]["name"] == "MAXN_SUPER"
    again = device.lock_commands(locked, store)
    assert device.typed(again) == ["sudo jetson_clocks"]  # what was kept is not replaced by the locked state
    back = device.restore_commands(locked, store)
    assert device.typed(back) == ["sudo nvpmodel -m 1", f"sudo jetson_clocks --restore {store}"]
    device.restore(back, store)
    after = shown(orin)
    assert (after["clocks"], after["power"]) == (before["clocks"], before["power"])
    assert list(store.parent.iterdir()) == []
    with pytest.raises(UsageError, match="not locked by"):
        device.restore_commands(after, store)


def test_clocks_that_stay_free_are_an_error(orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUCK", "1")
    store, found = device.kept(tmp_path / "state"), shown(orin)
    with pytest.raises(OptimizeError, match="still free"):
        device.lock(device.lock_commands(found, store), store, found, orin, commands_of(orin))


def test_a_command_that_fails_ends_it(orin: Path, tmp_path: Path) -> None:
    with pytest.raises(OptimizeError, match="nvpmodel --bad ended with code 2"):
        device.run([["nvpmodel", "--bad"], ["jetson_clocks"]])
    assert shown(orin)["clocks"]["state"] == "free"
    with pytest.raises(IncompatibleError, match="nowhere is not installed"):
        device.run([["nowhere"]])


def test_modes_and_machines_that_are_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = device.kept(tmp_path)
    monkeypatch.setattr(device, "_is_root", lambda: True)
    nano = shown(BOARDS / "orin-nano-jp5.1.2")
    with pytest.raises(UsageError, match="this board has 0, 15W, 1, 7W"):
        device.lock_commands(nano, store, "MAXN")
    desktop = shown(BOARDS / "rtx-desktop")
    highest = desktop["clocks"]["gpu"]["max_hz"] // 10**6
    assert device.lock_commands(desktop, store) == [["nvidia-smi", f"--lock-gpu-clocks={highest},{highest}"]]
    assert device.restore_commands(desktop, store) == [["nvidia-smi", "--reset-gpu-clocks"]]
    with pytest.raises(UsageError, match="only a Jetson has power modes"):
        device.lock_commands(desktop, store, "15W")
    with pytest.raises(IncompatibleError, match="no clocks here"):
        device.lock_commands(shown(tmp_path), store)


def test_nothing_is_changed_unasked(
    optimize_command: Any, orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = device.show
    monkeypatch.setattr(device, "show", lambda **more: real(orin, commands_of(orin), **more))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    refused = optimize_command("device", "lock")
    assert refused.exit_code == 2 and "--yes" in refused.stderr and "sudo jetson_clocks" in refused.stderr
    assert not (orin / "asked").exists()
    assert "power mode: 25W (1)" in optimize_command("device", "show").stdout
    locked = json.loads(optimize_command("device", "lock", "--yes", "--json").stdout)
    asked = (orin / "asked").read_text().splitlines()
    assert locked["run"] == [f"sudo {words}" for words in asked] and len(asked) == 2
    assert device.show()["clocks"]["state"] == "locked"
    back = json.loads(optimize_command("device", "restore", "-y", "--json").stdout)
    assert back["run"][0].startswith("sudo jetson_clocks --restore") and device.show()["clocks"]["state"] == "free"


def test_clocks_are_held_meanwhile_and_given_back_whatever_happens(
    orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    ask, said = commands_of(orin), []
    holding = device.held("MAXN_SUPER", lambda what, done, total: said.append(what), orin, ask)
    with pytest.raises(ValueError, match="in the middle"), holding as clocks:
        assert clocks["state"] == "locked" and shown(orin)["power"]["name"] == "MAXN_SUPER"
        raise ValueError("in the middle")
    after = shown(orin)
    assert after["power"]["name"] == "25W" and after["clocks"]["state"] == "free"
    assert not device.kept().exists() and len(said) == 2 and "sudo nvpmodel -m 2" in said[0]

    before = shown(orin)
    device.lock(device.lock_commands(before, device.kept()), device.kept(), before, orin, ask)
    with device.held("", root=orin, ask=ask):  # locked by hand: they stay so
        pass
    assert shown(orin)["clocks"]["state"] == "locked"
    with pytest.raises(UsageError, match="locked already"), device.held("15W", root=orin, ask=ask):
        pass


def test_clocks_that_cannot_be_held_are_given_back_too(
    orin: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("STUCK", "1")
    with pytest.raises(OptimizeError, match="still free"), device.held("15W", root=orin, ask=commands_of(orin)):
        raise AssertionError("nothing may be measured")
    assert shown(orin)["power"]["name"] == "25W" and not device.kept().exists()


@pytest.mark.journey
def test_each_power_mode_has_a_run_file_of_its_own(
    orin: Path, tmp_path: Path, tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import runs
    from bench.telemetry import state
    from optimize import api

    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    ask, real = commands_of(orin), device.held
    monkeypatch.setattr(device, "held", lambda mode, progress: real(mode, progress, orin, ask))
    whole = state.state
    monkeypatch.setattr(state, "state", lambda root=orin, sample_s=0.0, run=ask: whole(orin, sample_s, ask))
    asked: Dict[str, Any] = {"rounds": 1, "warmup": 0.0, "duration": 0.005, "power_modes": "15W,MAXN_SUPER"}
    run, failures = api.bench([tiny_onnx], [1], out=tmp_path / "runs.json", **asked)
    assert failures == [] and [row["run"] for row in run["rows"]] == [0, 1]
    modes = [runs.read(tmp_path / f"runs.{mode}.json")["environment"] for mode in ("15W", "MAXN_SUPER")]
    assert [one["before"]["power_mode"] for one in modes] == ["15W", "MAXN_SUPER"]
    assert all(one["before"]["clocks"] == "locked" for one in modes)
    assert shown(orin)["power"]["name"] == "25W" and not (tmp_path / "runs.json").exists()
