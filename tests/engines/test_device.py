"""Device keys: read from real texts of boards, compared field by field."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import device
from engines.device import DeviceKey
from engines.errors import DamagedError

XEON = """processor\t: 0
model name\t: Intel(R) Xeon(R) Processor
flags\t\t: fpu sse4_2 avx avx2 f16c fma avx512f avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16
processor\t: 1
flags\t\t: fpu sse4_2 avx avx2 f16c fma avx512f avx512_vnni avx512_bf16 amx_tile amx_int8 amx_bf16
"""
ORIN = """processor\t: 0
Features\t: fp asimd evtstrm aes pmull sha1 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp
CPU part\t: 0xd42
"""
MIXED = "Features\t: fp asimd asimddp\n\nFeatures\t: fp asimd\n"
L4T = "# R35 (release), REVISION: 4.1, GCID: 33958178, BOARD: t186ref, EABI: aarch64, DATE: Tue Aug  1 2023\n"

KEY = DeviceKey("openvino", "2024.4.0", "linux", "x86_64", ("avx2", "avx512_vnni"))


def test_features_of_real_cpus():
    assert "amx_bf16" in device.features_of(XEON, "x86_64")
    assert "fpu" not in device.features_of(XEON, "x86_64")
    assert device.features_of(ORIN, "aarch64") == ("asimd", "asimddp", "asimdhp", "fphp")
    assert device.features_of(MIXED, "aarch64") == ("asimd",), "an engine may land on either core"
    assert device.features_of("", "x86_64") == ()
    assert device.features_of(XEON, "riscv64") == ()


def test_l4t_of_a_jetson():
    assert device.l4t_of(L4T) == "35.4.1"
    assert device.l4t_of("") == ""


def test_the_key_of_this_machine():
    key = device.device_key("onnxruntime")
    assert key.version == device.backend_version("onnxruntime")
    assert key.os in ("linux", "darwin", "windows")
    assert key.arch
    assert DeviceKey.from_json(json.loads(json.dumps(key.to_json()))) == key
    assert device.mismatch(key, key) == ""


words = st.text(min_size=1, max_size=8)
keys = st.builds(DeviceKey, words, words, words, words, st.lists(words).map(tuple), st.text(), st.text())


@given(keys)
def test_a_key_survives_json_and_fits_itself(key: DeviceKey):
    assert DeviceKey.from_json(json.loads(json.dumps(key.to_json()))) == key
    assert device.mismatch(key, key) == ""


@pytest.mark.parametrize(
    "change, words",
    [
        ({"backend": "onnxruntime"}, "made with onnxruntime, asked to run on openvino"),
        ({"os": "darwin"}, "made for darwin, this machine is linux (os)"),
        ({"arch": "aarch64"}, "made for aarch64, this machine is x86_64 (arch)"),
        ({"compute_capability": "8.7"}, "made for 8.7, this machine is none (compute_capability)"),
        ({"gpu": "Orin, 16 SM"}, "made for Orin, 16 SM, this machine is none (gpu)"),
        ({"l4t": "35.4.1"}, "made for 35.4.1, this machine is none (l4t)"),
        ({"features": ("avx2", "amx_bf16", "amx_int8")}, "lacks: amx_bf16, amx_int8 (features)"),
        ({"version": "2024.3.0"}, "made with openvino 2024.3.0, this machine has 2024.4.0 (version)"),
    ],
)
def test_each_difference_is_named_with_both_values(change: Any, words: str):
    assert words in device.mismatch(replace(KEY, **change), KEY)


def test_more_features_than_needed_fit():
    assert device.mismatch(replace(KEY, features=("avx2",)), KEY) == ""


@given(keys, keys)
def test_only_a_superset_of_features_may_differ(one: DeviceKey, other: DeviceKey):
    fits = device.mismatch(one, other) == ""
    assert fits == (
        set(one.features) <= set(other.features) and replace(one, features=()) == replace(other, features=())
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        {},
        {**KEY.to_json(), "arch": 3},
        {**KEY.to_json(), "features": "avx2"},
        {**KEY.to_json(), "features": [1]},
    ],
)
def test_what_is_no_key(value: Any):
    with pytest.raises(DamagedError, match="device"):
        DeviceKey.from_json(value)


def test_versions_are_read_without_importing():
    assert device.version_of("no-such-package") == ""
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from engines import backend, device, manifest; device.device_key('openvino'); device.facts(); "
            "backend.choose('auto'); "
            "heavy = ('numpy', 'onnx', 'onnxruntime', 'openvino', 'tensorflow', 'torch'); "
            "print([m for m in heavy if m in sys.modules])",
        ],
        cwd=str(Path(__file__).resolve().parents[2]),
        stdout=subprocess.PIPE,
        check=True,
    )
    assert done.stdout.decode().strip() == "[]"


def test_facts_name_the_machine_and_no_person():
    import getpass
    import platform

    facts = device.facts()
    text = json.dumps(facts, allow_nan=False)
    assert facts["cpu"]
    assert facts["cores"] >= 1
    assert facts["memory_bytes"] > 1 << 28
    assert facts["packages"]["numpy"]
    if len(platform.node()) > 3:
        assert platform.node() not in text
    if getpass.getuser() != "root":
        assert getpass.getuser() not in text
