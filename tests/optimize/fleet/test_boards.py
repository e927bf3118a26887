from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from optimize.fleet import boards, playbook

ROOT = Path(__file__).resolve().parents[3]
FACTS = playbook.FILES / "roles/optimize_board/files/facts.sh"
QUIET = playbook.FILES / "roles/optimize_board/files/quiet.sh"

KEY: Dict[str, Any] = {
    "backend": "tensorrt",
    "version": "8.5.2.2",
    "os": "linux",
    "arch": "aarch64",
    "features": [],
    "compute_capability": "8.7",
    "l4t": "35.4.1",
    "gpu": "Orin, 8 SM",
}


OLD = "folder /f\npython 3.6.9\ntrtexec /bin/t\narch aarch64\n"
PACKAGE = "@file dpkg-query\nlibnvinfer8\t{}\tinstalled\n@end\n"


def told(key: Dict[str, Any] = KEY, works: bool = True, **more: Any) -> Dict[str, Any]:
    return {
        "facts": "folder /u/fleet\narch aarch64\npython 3.8.10\noptimize /usr/bin/optimize\nflock /usr/bin/flock\n",
        "doctor": {"backends": [{"name": key["backend"], "works": works, "why": "too old", "fix": "mend it"}]},
        "show": {"backends": [key]},
        **more,
    }


def test_boards_of_one_device_key_are_one_class():
    found = [boards.examine(name, told()) for name in ("a", "b")]
    other = boards.examine("c", told({**KEY, "version": "10.3.0"}))
    grouped = boards.classes([*found, other])
    assert [[board.name for board in group] for group in grouped.values()] == [["a", "b"], ["c"]]
    first, second = grouped
    assert first.startswith("tensorrt8.5.2.2-sm87-l4t35.4.1-") and second.startswith("tensorrt10.3.0-sm87-")


def test_a_class_differs_wherever_the_key_does():
    kinds = {boards.examine("a", told({**KEY, name: "x"})).kind for name in KEY if name not in ("backend", "features")}
    assert len(kinds | {boards.examine("a", told()).kind}) == len(KEY) - 1


def test_a_board_whose_backend_does_not_work_says_why_and_what_to_do():
    found = boards.examine("a", told(works=False))
    assert not found.usable and not found.lost
    assert found.kind == "" and boards.classes([found]) == {}
    asked = boards.examine("a", told(works=False), "tensorrt")
    assert (asked.why, asked.fix) == ("too old", "mend it")


@pytest.mark.parametrize(
    ("why", "jetson", "usable"),
    [
        ("the Python package tensorrt does not load: libnvinfer.so.8 is missing", False, False),
        ("the NVIDIA driver's library libcuda.so.1 is not here", True, False),
        ("the NVIDIA driver's library libcuda.so.1 is not here", False, True),
        ("the Python package tensorrt is not installed", False, True),
    ],
)
def test_a_board_for_tensorrt_is_not_measured_on_its_processor_where_that_does_not_work(why, jetson, usable):
    states = [
        {"name": "tensorrt", "works": False, "why": why, "fix": "mend it"},
        {"name": "onnxruntime", "works": True},
    ]
    cpu = {**KEY, "backend": "onnxruntime", "compute_capability": "", "l4t": ""}
    doctor = {"backends": states, "board": {"facts": {"jetson": jetson}}}
    found = boards.examine("a", {**told(), "doctor": doctor, "show": {"backends": [cpu]}})
    assert found.usable == usable
    if not usable:
        assert (found.why, found.fix) == (why, "mend it")
        asked = boards.examine("a", {**told(), "doctor": doctor, "show": {"backends": [cpu]}}, "onnxruntime")
        assert asked.usable  # but where the plan says so it is


def test_a_board_that_does_not_answer_is_lost():
    found = boards.examine("a", {"unreachable": True, "error": "no route to host"})
    assert found.lost and "no route" in found.why


def test_a_board_without_optimize_and_with_a_new_python_is_told_what_to_install():
    facts = "folder /home/u/f\npython 3.10.12\noptimize \ntrtexec /usr/src/tensorrt/bin/trtexec\n"
    found = boards.examine("a", {"facts": facts})
    assert not found.usable and "optimize_command" in found.fix


def facts_of(root: Path, tmp_path: Path, bin_: Path) -> str:
    path = f"{bin_}:/usr/bin:/bin"
    words = ["sh", str(FACTS), "optimize", str(tmp_path / "fleet"), "", str(root)]
    return subprocess.run(words, env={"PATH": path}, stdout=subprocess.PIPE, check=True).stdout.decode()


@pytest.fixture
def nano(tmp_path) -> str:
    """What the facts of an original Jetson Nano come to, as its shell prints them."""
    root, bin_ = ROOT / "tests/boards/nano-jp4", tmp_path / "bin"
    bin_.mkdir()
    for name, text in {
        "python3": "echo 3.6.9",
        "dpkg-query": f"cat {root}/commands/dpkg-query",
        "trtexec": "true",
    }.items():
        (bin_ / name).write_text(f"#!/bin/sh\n{text}\n")
        (bin_ / name).chmod(0o755)
    return facts_of(root, tmp_path, bin_)


def test_an_original_nano_is_served_by_its_trtexec(nano, tmp_path):
    found = boards.examine("nano", {"facts": nano})
    assert found.usable and found.by == boards.TRTEXEC
    assert (found.key.version, found.key.compute_capability, found.key.l4t) == ("8.2.1", "5.3", "32.7.1")
    assert found.kind.startswith("trtexec8.2.1-sm53-l4t32.7.1-")
    assert found.folder == str(tmp_path / "fleet")
    assert found.environment["board"] == "NVIDIA Jetson Nano Developer Kit"
    assert found.environment["before"]["power_mode"] == "MAXN"
    assert found.environment["memory_bytes"] == 4059288 * 1024


def test_an_original_nano_cannot_build_for_another_backend(nano):
    found = boards.examine("nano", {"facts": nano}, "openvino")
    assert not found.usable and "openvino" in found.why


def test_facts_of_this_machine_are_read_from_its_own_shell(tmp_path):
    text = facts_of(Path("/"), tmp_path, Path("/usr/local/bin"))
    assert f"folder {tmp_path}/fleet" in text.splitlines()
    assert boards.examine("here", {"facts": text}).python.startswith(("3.", ""))


@pytest.mark.parametrize(
    "facts",
    [
        "folder /f\n@file /etc/passwd\nx\n@end\n",
        "folder /f\n@file ../../x\nx\n@end\n",
        "folder /f; rm -rf /\noptimize /bin/o\n",
        "folder /f\noptimize /bin/{{ lookup('pipe', 'id') }}\n",
        "x" * (2 << 20),
        f"{OLD}@file a\n@end\n@file a/b\n@end\n",
        f"{OLD}@file a/b\n@end\n@file a\n@end\n",
        f"{OLD}@file A\n@end\n@file a/b\n@end\n",
        f"{OLD}@file {'n' * 300}\n@end\n",
        f"{OLD}@file {'n/' * 3000}n\n@end\n",
        f"{OLD}@file ./a/.\n@end\n",
        f"{OLD}@file \udc80\n@end\n",
        OLD + "".join(f"@file {number}\n@end\n" for number in range(5000)),
        f"{OLD}{PACKAGE.format('9' * 5000)}",
        f"{OLD}{PACKAGE.format('٨.٢')}",
        f"{OLD}arch {'a' * 5000}\n{PACKAGE.format('8.2.1')}",
        "folder /f\npython 3.²\ntrtexec /bin/t\n",
        f"folder /f\npython 3.{'1' * 5000}\ntrtexec /bin/t\n",
        "folder /f\npython 3.\noptimize /bin/o\n",
        f"folder /{'f' * 5000}\noptimize /bin/o\n",
    ],
)
def test_a_board_that_lies_is_left_out(facts):
    found = boards.examine("bad", {"facts": facts})
    assert not found.usable and found.why


@pytest.mark.parametrize("cores", ["²", "4" * 5000, "-1", ""])
def test_a_number_of_cores_that_is_none_is_not_known(cores):
    found = boards.examine("a", {"facts": f"{OLD}cores {cores}\n{PACKAGE.format('8.2.1-1')}"})
    assert found.usable and found.environment["cores"] is None


def test_text_that_is_not_unicode_is_kept_as_far_as_it_is():
    sent = "@file proc/device-tree/model\nNano\udc80 \x1b[31m\n@end\n"
    found = boards.examine("a", {"facts": f"{OLD}kernel 4.9\udcff\n{sent}{PACKAGE.format('8.2.1-1')}"})
    assert found.usable and found.environment["board"].startswith("Nano")
    assert json.dumps(found.environment, ensure_ascii=False).encode().isascii()


@pytest.mark.parametrize(
    "more",
    [
        {"doctor": {"facts": ["x"], "backends": []}},
        {"doctor": {"facts": {"python": ["3.8"]}, "backends": []}},
        {"doctor": {"backends": [{"name": ["tensorrt"], "works": True}]}},
        {"doctor": {"backends": [{"name": "tensorrt", "works": "yes"}]}},
        {"doctor": {"backends": [{"name": "tensorrt", "works": False}], "board": []}},
        {"doctor": {"backends": [{"name": "tensorrt", "works": False}], "board": {"facts": "jetson"}}},
        {"doctor": {"backends": {}}},
        {"show": {"backends": ["tensorrt"]}},
        {"show": {"backends": [{**KEY, "version": "8" * 5000}]}},
        {"show": {"backends": [{**KEY, "version": "8.5\ud800"}]}},
        {"show": {"backends": [{**KEY, "gpu": "Orin\n"}]}},
        {"show": {"backends": [{**KEY, "features": ["\ud800"]}]}},
    ],
)
def test_a_board_whose_answers_are_of_another_form_is_left_out_with_the_reason(more):
    found = boards.examine("a", {**told(), **more})
    assert not found.usable and found.why.startswith("what it tells of itself is not understood") and found.fix
    assert len(found.why) <= 300


_json = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["name", "works", "why", "python", "facts", "jetson", *KEY]), inner, max_size=4
        )
    ),
    max_leaves=8,
)
_document = st.dictionaries(st.sampled_from(["facts", "board", "backends", "fix"]), _json)
_near = st.sampled_from(sorted(KEY)).flatmap(lambda name: _json.map(lambda value: {**KEY, name: value}))
_lines = st.lists(
    st.sampled_from(["@file a", "@file a/b", "@file proc/device-tree/model", "@file dpkg-query", "@end", OLD])
    | st.builds("{} {}".format, st.sampled_from(["python", "cores", "@file", "optimize", "arch"]), st.text()),
    max_size=12,
).map("\n".join)


@given(_lines, _document, _document | _near.map(lambda key: {"backends": [key]}))
def test_odd_answers_are_left_out_and_never_end_the_command(lines, doctor, show):
    old = f"{OLD}{lines}\n{PACKAGE.format('8.2.1-1')}"
    for answers in ({"facts": old}, {**told(), "doctor": doctor}, {**told(), "show": show}):
        found = boards.examine("a", answers)
        assert found.usable == bool(found.kind) == (not found.why) and len(found.kind) < 250
        json.dumps([found.to_json(), found.environment], ensure_ascii=False).encode()


@given(st.text(max_size=300), st.dictionaries(st.text(max_size=5), st.integers()), st.text(max_size=20))
def test_whatever_a_board_tells_is_understood_or_refused(facts, value, name):
    for document in (value, {"backends": [value]}, {"backends": value}):
        for head in ("", "folder /f\noptimize /bin/o\n", "folder /f\npython 3.6.9\ntrtexec /bin/t\n"):
            found = boards.examine(name, {"facts": head + facts, "doctor": document, "show": document})
            assert not found.usable or found.key is not None
            json.dumps(found.to_json())


def quiet(root: Path, load: float, celsius: float) -> subprocess.CompletedProcess[bytes]:
    words = ["sh", str(QUIET), str(load), str(celsius), "0", str(root)]
    return subprocess.run(words, capture_output=True)


def test_a_board_is_quiet_below_both_limits(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("0.02 0.30 0.50 1/200 4000\n")
    zone = tmp_path / "sys/class/thermal/thermal_zone0"
    zone.mkdir(parents=True)
    (zone / "temp").write_text("45500\n")
    done = quiet(tmp_path, 0.5, 70)
    assert done.returncode == 0 and done.stdout.split()[1] == b"45.5"
    assert quiet(tmp_path, 0.5, 45).returncode == playbook.BUSY
    assert quiet(tmp_path, 0.001, 70).returncode == playbook.BUSY


def test_zones_that_tell_nothing_do_not_make_a_board_hot(tmp_path):
    (tmp_path / "proc").mkdir()
    (tmp_path / "proc/loadavg").write_text("0.00 0.00 0.00 1/200 4000\n")
    assert quiet(tmp_path, 0.5, 70).returncode == 0
