"""Facts of boards, from trees of files that read as the boards' own, and from damaged text."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import board, boardtext
from engines.boardtext import Clock

BOARDS = Path(__file__).resolve().parent.parent / "boards"
NAMES = sorted(folder.name for folder in BOARDS.iterdir() if folder.is_dir())


def commands_of(root: Path) -> board.Run:
    """What the commands print on that board: `commands/<program>`."""

    def run(words: Sequence[str]) -> str:
        return board.text(root / "commands" / words[0])

    return run


def none_runs(words: Sequence[str]) -> str:
    return ""


def facts_of(name: str) -> Dict[str, Any]:
    return board.facts(BOARDS / name, commands_of(BOARDS / name))


EXPECTED = {
    "nano-jp4": {
        "model": "NVIDIA Jetson Nano Developer Kit",
        "module": "p3448-0000",
        "soc": "tegra210",
        "compute_capability": "5.3",
        "dla_cores": 0,
        "l4t": "32.7.1",
        "jetpack": "4.6.1",
        "jetpack_by": "dpkg",
        "tensorrt": "8.2.1",
        "bindings": [{"python": "3.6", "version": "8.2.1.8"}],
        "cuda": "10.2.300",
        "cudnn": "8.2.1.32",
    },
    "xavier-nx-jp5": {
        "model": "NVIDIA Jetson Xavier NX Developer Kit",
        "module": "p3668-0000",
        "soc": "tegra194",
        "compute_capability": "7.2",
        "dla_cores": 2,
        "l4t": "35.5.0",
        "jetpack": "5.1.3",
        "jetpack_by": "dpkg",
        "tensorrt": "8.5.2",
        "bindings": [{"python": "3.8", "version": "8.5.2.2"}],
        "cuda": "11.4.19",
        "cudnn": "8.6.0.166",
    },
    "orin-nano-jp5.1.2": {
        "model": "NVIDIA Orin Nano Developer Kit",
        "module": "p3767-0005",
        "soc": "tegra234",
        "compute_capability": "8.7",
        "dla_cores": 0,
        "l4t": "35.4.1",
        "jetpack": "5.1.2",
        "jetpack_by": "dpkg",
        "tensorrt": "8.5.2",
        "tensorrt_package": "8.5.2-1+cuda11.4",
        "bindings": [{"python": "3.8", "version": "8.5.2.2"}],
        "bindings_package": "8.5.2-1+cuda11.4",
        "trtexec": "/usr/src/tensorrt/bin/trtexec",
        "cuda": "11.4.19",
        "nvcc": True,
        "cudnn": "8.6.0.166",
    },
    "orin-nano-jp6.2": {
        "model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
        "module": "p3767-0005",
        "soc": "tegra234",
        "compute_capability": "8.7",
        "dla_cores": 0,
        "l4t": "36.4.3",
        "jetpack": "6.2",
        "jetpack_by": "dpkg",
        "tensorrt": "10.3.0.30",
        "bindings": [{"python": "3.10", "version": "10.3.0"}],
        "cuda": "12.6.11",
        "cudnn": "9.3.0.75",
    },
    "agx-orin-jp6.1": {
        "model": "NVIDIA Jetson AGX Orin Developer Kit",
        "module": "p3701-0005",
        "soc": "tegra234",
        "compute_capability": "8.7",
        "dla_cores": 2,
        "l4t": "36.4.0",
        "jetpack": "6.1",
        "jetpack_by": "l4t",
        "tensorrt": "10.3.0.30",
        "bindings": [{"python": "3.10", "version": "10.3.0"}],
        "cuda": "12.6.11",
        "cudnn": "9.3.0.75",
    },
    "thor-jp7": {
        "model": "NVIDIA Jetson AGX Thor Developer Kit",
        "module": "p3834-0008",
        "soc": "tegra264",
        "compute_capability": "11.0",
        "dla_cores": None,
        "l4t": "38.2.0",
        "jetpack": "7.0",
        "jetpack_by": "dpkg",
        "driver": "580.00",
        "tensorrt": "10.13.3.9",
        "bindings": [{"python": "3.12", "version": "10.13.3.9"}],
        "cuda": "13.0.0",
        "cudnn": "9.12.0.46",
    },
    "rtx-desktop": {
        "jetson": False,
        "model": "",
        "soc": "",
        "compute_capability": "",
        "dla_cores": None,
        "l4t": "",
        "jetpack": "",
        "jetpack_by": "",
        "driver": "550.120",
        "tensorrt": "",
        "bindings": [],
        "trtexec": "",
        "cuda": "12.4.1",
    },
}


def test_every_tree_is_checked():
    assert sorted(EXPECTED) == sorted(POWER) == sorted(CLOCKS) == sorted(MEMORY) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_what_a_board_has(name: str):
    found = facts_of(name)
    assert {key: found[key] for key in EXPECTED[name]} == EXPECTED[name]
    assert found["jetson"] is (name != "rtx-desktop")
    assert board.present(BOARDS / name)
    assert json.loads(json.dumps(found)) == found


POWER: Dict[str, Any] = {
    "nano-jp4": (0, "MAXN", 0, ["MAXN", "5W"]),
    "xavier-nx-jp5": (
        8,
        "MODE_20W_6CORE",
        8,
        ["MODE_15W_2CORE", "MODE_15W_4CORE", "MODE_15W_6CORE", "MODE_10W_2CORE", "MODE_20W_6CORE"],
    ),
    "orin-nano-jp5.1.2": (0, "15W", 0, ["15W", "7W"]),
    "orin-nano-jp6.2": (1, "25W", 1, ["15W", "25W", "MAXN_SUPER"]),
    "agx-orin-jp6.1": (2, "MODE_30W", 2, ["MAXN", "MODE_15W", "MODE_30W", "MODE_50W"]),
    "thor-jp7": (0, "MAXN", 1, ["MAXN", "120W"]),
    "rtx-desktop": (None, "", None, []),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_power_mode(name: str):
    found = board.power(BOARDS / name, commands_of(BOARDS / name))
    assert (found["id"], found["name"], found["default"], [m["name"] for m in found["modes"]]) == POWER[name]


def test_a_mode_tells_its_cap_of_the_gpu():
    modes = board.power(BOARDS / "orin-nano-jp6.2", none_runs)["modes"]
    assert [m["gpu_max_hz"] for m in modes] == [612_000_000, 918_000_000, None], "-1 is no cap"


# MHz of CPU, GPU and memory: now, lowest, highest
CLOCKS: Dict[str, Any] = {
    "nano-jp4": ("free", (1036.8, 102, 1479), (76.8, 76.8, 921.6), (None, None, None)),
    "xavier-nx-jp5": ("locked", (1420.8, 1420.8, 1420.8), (1109.25, 1109.25, 1109.25), (1866, 204, 1866)),
    "orin-nano-jp5.1.2": ("free", (729.6, 729.6, 1510.4), (306, 306, 624.75), (None, None, 2133)),
    "orin-nano-jp6.2": ("locked", (1344, 1344, 1344), (918, 918, 918), (3199, 204, 3199)),
    "agx-orin-jp6.1": ("free", (1728, 729.6, 1728), (306, 306, 612), (2133, 204, 3199)),
    "thor-jp7": ("locked", (2601, 2601, 2601), (1575, 1575, 1575), (4266, 4266, 4266)),
    "rtx-desktop": ("free", (3600, 800, 4900), (210, None, 2100), (405, None, 9501)),
}


@pytest.mark.parametrize("name", NAMES)
def test_the_clocks(name: str):
    found = board.clocks(BOARDS / name, commands_of(BOARDS / name))

    def mhz(which: str) -> Any:
        values = (found[which][f"{limit}_hz"] for limit in ("now", "min", "max"))
        return tuple(None if value is None else value / 1e6 for value in values)

    assert (found["state"], mhz("cpu"), mhz("gpu"), mhz("emc")) == CLOCKS[name]


def test_a_memory_clock_that_floats_is_not_locked(tmp_path: Path):
    root = tmp_path / "board"
    shutil.copytree(BOARDS / "orin-nano-jp6.2", root)
    emc = root / "sys/kernel/debug/bpmp/debug/clk/emc/mrq_rate_locked"
    emc.write_text("0\n")
    assert board.clocks(root, none_runs)["state"] == "free"
    shutil.rmtree(root / "sys/kernel")  # as anyone but root sees it
    found = board.clocks(root, none_runs)
    assert found["state"] == "locked" and found["emc"] == Clock(None, None, None, None)._asdict()


GB = 1e9
MEMORY: Dict[str, Any] = {
    "nano-jp4": (4.16, 2.08, 2.08, True),
    "xavier-nx-jp5": (7.02, 12.1, 3.51, True),
    "orin-nano-jp5.1.2": (7.99, 3.99, 3.99, True),
    "orin-nano-jp6.2": (7.99, 12.41, 4.0, True),
    "agx-orin-jp6.1": (65.89, 32.95, 32.95, True),
    "thor-jp7": (131.93, 0.0, 0.0, True),
    "rtx-desktop": (67.32, 2.15, 0.0, False),
}


@pytest.mark.parametrize("name", NAMES)
def test_memory_and_swap(name: str):
    found = facts_of(name)["memory"]
    sizes = tuple(round(found[f"{what}_bytes"] / GB, 2) for what in ("total", "swap", "zram"))
    assert (*sizes, found["shared"]) == MEMORY[name]
    assert 0 < found["available_bytes"] <= found["total_bytes"]


def test_links_that_are_up_and_their_speeds(tmp_path: Path):
    for name, state, speed in (
        *(("eth0", "up", "1000\n"), ("eth1", "down", "-1\n"), ("lo", "up", ""), ("wlan0", "up", None)),
        *(("virt0", "up", "-1\n"), ("odd0", "up", "fast\n"), ("odd1", "up", "²\n")),
    ):
        link = tmp_path / "sys/class/net" / name
        link.mkdir(parents=True)
        (link / "operstate").write_text(f"{state}\n")
        if speed is not None:
            (link / "speed").write_text(speed, encoding="utf-8")
    found = {one["name"]: one["mbps"] for one in board.links(tmp_path)}
    assert found == {"eth0": 1000, "odd0": None, "odd1": None, "virt0": None, "wlan0": None}
    assert board.links(tmp_path / "nowhere") == []


def test_a_container_knows_l4t_by_its_package(tmp_path: Path):
    found = board.facts(tmp_path, lambda words: "nvidia-l4t-core\t36.4.3-20250107174145\tinstalled\n")
    assert (found["l4t"], found["jetpack"], found["jetpack_by"], found["jetson"]) == ("36.4.3", "6.2", "l4t", True)


def test_the_file_of_the_library_stands_in_for_a_package(tmp_path: Path):
    folder = tmp_path / "usr/lib/aarch64-linux-gnu"
    folder.mkdir(parents=True)
    for name in ("libnvinfer.so.8", "libnvinfer.so.8.5.2", "libnvinfer.so.10.3.0", "libnvinfer_plugin.so.10.9.0"):
        (folder / name).touch()
    assert board.facts(tmp_path, none_runs)["tensorrt"] == "10.3.0", "the newest, as a number"


def test_another_machine_has_nothing_of_it(tmp_path: Path):
    asked = []
    found = board.facts(tmp_path, lambda words: asked.append(words[0]) or "")  # type: ignore[func-returns-value]
    assert not board.present(tmp_path)
    assert not found["jetson"] and found["clocks"]["state"] == "unknown" and found["power"]["id"] is None
    assert asked == ["dpkg-query"], "nothing of NVIDIA's is run where there is nothing of NVIDIA's"


def test_commands_of_this_machine():
    assert board.output(["printf", "one"]) == "one"
    assert board.output(["no-such-command-here"]) == ""
    assert board.output(["sh", "-c", "echo said; exit 1"]) == "said\n", (
        "dpkg-query fails if one pattern matches nothing"
    )


@pytest.mark.parametrize(
    "l4t, jetpack",
    [
        ("39.2.1", "7.2.1"),
        ("39.2.0", "7.2"),
        ("38.4.0", "7.1"),
        ("36.4.7", "6.2.1"),
        ("36.4.3", "6.2"),
        ("36.4.0", "6.1"),
        ("35.4.1", "5.1.2"),
        ("35.40.1", ""),
        ("99.1", ""),
        ("", ""),
    ],
)
def test_the_jetpack_of_a_release(l4t: str, jetpack: str):
    assert boardtext.jetpack_of(l4t) == jetpack


def test_the_words_of_nvpmodel():
    assert boardtext.mode_of("NVPM WARN: power budget is unknown\nNV Power Mode: MAXN_SUPER\n2\n") == (2, "MAXN_SUPER")
    assert boardtext.mode_of("NV Fan Mode:quiet\nNV Power Mode: MODE_30W\n2\n") == (2, "MODE_30W")
    assert boardtext.mode_of("nvpmodel: command not found\n") == (None, "")
    assert boardtext.status_of("pmode:0002 fmode:quiet") == 2
    modes, default = boardtext.modes_of(
        "# < POWER_MODEL ID=7 NAME=OFF >\n< POWER_MODEL NAME=A ID=3 >\nGPU MAX_FREQ 5\n"
    )
    assert modes == [boardtext.Mode(3, "A", 5)] and default is None, "a comment is no mode"


def test_the_words_of_nvidia_smi():
    assert boardtext.smi_clocks_of("1980, 1980, 2619, 2619\n345, 1980, 2619, 2619\n")[0] == 1_980_000_000
    assert boardtext.smi_clocks_of("[N/A], 2100, [N/A], 9501") == (None, 2_100_000_000, None, 9_501_000_000)
    assert boardtext.smi_clocks_of("NVIDIA-SMI has failed") == (None, None, None, None)
    open_module = "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  595.71.05  Release Build\n"
    assert boardtext.driver_of(open_module) == "595.71.05"


PARSERS = (
    boardtext.number,
    boardtext.strings_of,
    boardtext.packages_of,
    boardtext.upstream,
    boardtext.jetpack_of,
    boardtext.cuda_of,
    boardtext.meminfo_of,
    boardtext.swaps_of,
    boardtext.modes_of,
    boardtext.status_of,
    boardtext.mode_of,
    boardtext.driver_of,
    boardtext.smi_clocks_of,
)


def real_texts() -> Sequence[str]:
    files = (f for f in BOARDS.rglob("*") if f.is_file() and f.parent.name != "bin")
    return sorted({f.read_bytes().decode() for f in files})


@st.composite
def damaged(draw: Any) -> str:
    """A real text cut, with noise in it or with a part twice."""
    text = draw(st.sampled_from(real_texts()))
    at = draw(st.integers(0, len(text)))
    end = draw(st.integers(at, len(text)))
    noise = draw(st.one_of(st.just(""), st.text(), st.just("9" * 5000), st.just(text[at:end])))
    return str(text[:at] + noise + text[end:])


@given(st.one_of(st.text(), damaged()))
def test_damaged_text_gives_nothing_but_never_an_error(text: str):
    for parser in PARSERS:
        parser(text)  # type: ignore[operator]
    strings = boardtext.strings_of(text)
    module = boardtext.module_of(strings)
    assert boardtext.soc_of(strings) == "" or boardtext.soc_of(strings).startswith("tegra")
    assert boardtext.dla_cores_of(module) in (None, 0, 1, 2)


@given(st.text(max_size=40).map(lambda t: f"\x00{t}"))
def test_noise_is_unknown(text: str):
    assert boardtext.clock_of(text, text, text, lock=text) == Clock(None, None, None, None)
    assert boardtext.cuda_of(text) == "" and boardtext.upstream(text) == "" and boardtext.driver_of(text) == ""


@given(st.sampled_from(NAMES), st.data())
def test_a_board_with_one_damaged_file_is_still_read(name: str, data: Any):
    tree = {f.relative_to(BOARDS / name): f for f in sorted((BOARDS / name).rglob("*")) if f.is_file()}
    victim = data.draw(st.sampled_from(sorted(tree)))
    noise = data.draw(st.one_of(st.just(b""), st.binary(max_size=60), st.just(b"9" * 5000)))
    real = board.text

    def text(path: Path) -> str:
        return noise.decode("utf-8", "replace") if path == BOARDS / name / victim else real(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(board, "text", text)
        found = board.facts(BOARDS / name, commands_of(BOARDS / name))
    assert set(found) == set(facts_of(name)) and found["clocks"]["state"] in ("locked", "free", "unknown")


clocks = st.builds(
    Clock,
    st.one_of(st.none(), st.integers(1, 9)),
    st.one_of(st.none(), st.integers(1, 9)),
    st.one_of(st.none(), st.integers(1, 9)),
    st.sampled_from([None, True, False]),
)


@given(st.lists(clocks, max_size=5), clocks, clocks)
def test_clocks_are_locked_only_if_all_that_is_known_is(cores: Any, gpu: Clock, emc: Clock):
    cpu = boardtext.together(cores)
    assert (cpu.locked is True) == bool(cores and all(core.locked is True for core in cores))
    assert (cpu.locked is False) == any(core.locked is False for core in cores)
    state = boardtext.state_of(cpu, gpu, emc)
    assert (state == "locked") == bool(cpu.locked and gpu.locked and emc.locked is not False)
    assert (state == "free") == (False in (cpu.locked, gpu.locked, emc.locked))
