"""What is hidden is nowhere in the result, whatever stands around it; what a report is for stays."""

from __future__ import annotations

import math
import re
import string
from pathlib import Path
from typing import Any, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.device import redact

NAMES = st.text(string.ascii_letters + string.digits + "-_.äß ", min_size=2, max_size=20).filter(
    lambda name: bool(name.strip(" .-_")) and name == name.strip()
)
TEXTS = st.text(max_size=200)
HIDDEN = {"user": ["marie.curie", "Al"], "host": ["orin-nano-7"], "serial": ["1421323012345"], "path": ["/home/m c"]}


def bare(value: str) -> str:
    """Without what stands in the place of something."""
    return re.sub(redact._PLACE, "\0", value)


@given(TEXTS, NAMES, TEXTS)
def test_a_long_name_is_nowhere(before: str, name: str, after: str) -> None:
    if len(name) >= redact._SHORT:
        found = redact.text(before + name + after, {"user": [name]})
        assert name.lower() not in bare(found).lower()


@given(TEXTS, NAMES, TEXTS)
def test_a_short_name_is_hidden_as_a_word(before: str, name: str, after: str) -> None:
    found = bare(redact.text(f"{before} {name} {after}", {"user": [name]}))
    assert not re.search(f"(?<![0-9A-Za-z]){re.escape(name)}(?![0-9A-Za-z])", found, re.IGNORECASE)


@given(
    TEXTS.filter(lambda text: "Q7" not in text),  # what the name is known by
    st.sampled_from(["/", "/home/", "/opt/secrets/", "~/", "C:\\Users\\", "\\\\server\\"]),
    NAMES,
)
def test_nothing_of_a_path_without_blanks_stays(before: str, start: str, name: str) -> None:
    name = name.replace(" ", "_") + "Q7"
    assert "Q7" not in bare(redact.text(f"{before} {start}{name}/weights.plan", {}))


@given(
    st.one_of(
        TEXTS, st.lists(st.sampled_from(["marie.curie", "/", "al", "<", ">", "path", "a0" * 9, ":", "~", ".", " "]))
    )
)
def test_again_gives_the_same_and_one_line_that_can_be_written(value: Any) -> None:
    once = redact.text("".join(value), HIDDEN)
    assert redact.text(once, HIDDEN) == once
    assert once.isprintable()
    once.encode("utf-8")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.just("for marie.curie at orin-nano-7"),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS | st.just("/home/m c/x"), inner, max_size=4),
    max_leaves=20,
)


def strings(value: Any) -> List[str]:
    if isinstance(value, dict):
        return [*value, *(text for one in value.values() for text in strings(one))]
    if isinstance(value, list):
        return [text for one in value for text in strings(one)]
    return [value] if isinstance(value, str) else []


@given(JSON)
def test_a_whole_value_holds_nothing_of_it(value: Any) -> None:
    found = redact.tree(value, HIDDEN)
    for text in strings(found):
        for name in ("marie.curie", "orin-nano-7", "1421323012345", "/home/m c"):
            assert name not in bare(text).lower()


@pytest.mark.parametrize(
    ("value", "found"),
    [
        ("in /home/m c/work/model.plan:12", "in <path>:12"),
        ("MARIE.CURIE@example.org wrote", "<user><mail> wrote"),
        ("mc@example.org wrote", "<mail> wrote"),
        ("user=marie.curie on orin-nano-7.local", "user=<user> on <host>.local"),
        ("Al calibrates, al", "<user> calibrates, <user>"),
        ("https://me:secret@host/x?y", "<url>"),
        ("at GPU-3b1f9a0c-1d2e-4f50-8a61-0123456789ab", "at <id>"),
        ("48:b0:2d:1a:2b:3c up", "<address> up"),
        ("fe80::4ab0:2dff:fe1a:2b3c%eth0", "<address>"),
        ("192.168.55.1, 172.16.0.9", "<address>, <address>"),
        ("serial 1421323012345", "serial <serial>"),
        ("number 98765432109876", "number <number>"),
        ("key 0123456789abcdef0123", "key <hex>"),
        ("line\nwith \x1b[31m colour", "line with  [31m colour"),
        ("..\\x or ../secret/of", "..\\x or <path>"),
    ],
)
def test_what_it_looks_like(value: str, found: str) -> None:
    assert redact.text(value, HIDDEN) == found


@pytest.mark.parametrize(
    "value",
    [
        "NVIDIA Orin Nano Developer Kit",
        "TensorRT 10.13.3.9 and 8.5.2.2, CUDA 11.4, L4T 35.4.1",
        "TRT-8502-EntropyCalibration2",
        "H2D and D2H in ms/query, and/or 3x8x8",
        'In node 1 [NoSuchOperator -> "odd"]: UNSUPPORTED_NODE',
        "conv1 + relu1",
        "Row major linear FP32 format (kLINEAR)",
        "IExecutionContext::enqueueV3: Error Code 3: API Usage Error",
    ],
)
def test_what_a_report_is_for_stays(value: str) -> None:
    assert redact.text(value, HIDDEN) == value


def test_keys_of_ours_and_numbers_stay_and_nan_goes() -> None:
    value: Dict[str, Any] = {"batch 1: difference": math.nan, "a": [1, 2.5, math.inf, True, None], "/home/x": "y"}
    assert redact.tree(value, {"user": ["batch"]}) == {
        "batch 1: difference": None,
        "a": [1, 2.5, None, True, None],
        "<path>": "y",
    }


def test_what_a_machine_is_called_is_read_from_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.node", lambda: "orin-nano-7.lab.example")
    monkeypatch.setattr("socket.gethostname", lambda: "localhost")
    monkeypatch.setattr("getpass.getuser", lambda: "marie.curie")
    serial = tmp_path / "proc/device-tree/serial-number"
    serial.parent.mkdir(parents=True)
    serial.write_text("1421323012345\0")
    found = redact.secrets(tmp_path, {"USER": "nvidia", "SUDO_USER": "pierre", "HOSTNAME": "bench-2"})
    assert found["host"] == ["orin-nano-7.lab.example", "bench-2", "orin-nano-7"]
    assert "pierre" in found["user"] and "marie.curie" in found["user"] and "nvidia" not in found["user"]
    assert found["serial"] == ["1421323012345"]
    assert str(Path.home()) in found["path"] or len(str(Path.home())) <= 3
    assert not any(one.startswith("127.") for one in found["address"])


def test_an_account_without_a_name_hides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("uid not found: 12345")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert redact._account() == []
