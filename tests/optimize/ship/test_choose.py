"""Which variant a device gets, and why not the others."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.device import DeviceKey, device_key
from engines.errors import DamagedError, UsageError
from optimize.ship import choose, oci
from tests.optimize.ship import small

ORIN = DeviceKey("tensorrt", "8.5.2.2", "linux", "aarch64", (), "8.7", "35.4.1", "Orin, 8 SM")


def _entry(number: int, device: DeviceKey) -> oci.Entry:
    return oci.Entry(f"sha256:{number:064x}", 100, device, "a" * 64, "fp16")


def _index(*devices: DeviceKey) -> oci.Index:
    return oci.Index("model", "latest", "sha256:" + "0" * 64, tuple(_entry(i, d) for i, d in enumerate(devices)))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"version": "10.3.0"}, "made with tensorrt 10.3.0, the other device has 8.5.2.2"),
        ({"l4t": "36.3.0"}, "L4T|l4t"),
        ({"compute_capability": "7.2"}, "compute_capability"),
        ({"gpu": "Orin, 16 SM"}, "Orin, 16 SM"),
        ({"arch": "x86_64"}, "arch"),
        ({"backend": "openvino"}, "made with openvino"),
        ({"backend": "coreml"}, "no backend 'coreml'"),
    ],
)
def test_every_other_device_is_told_why_not(change: Any, words: str) -> None:
    found = choose.choose(_index(replace(ORIN, **change), ORIN), [ORIN])
    assert found.entry == _entry(1, ORIN)
    ((_, why),) = found.others
    assert re.search(words, why)


def test_nothing_fits_says_so_of_each() -> None:
    found = choose.choose(_index(replace(ORIN, version="10.3.0"), replace(ORIN, arch="x86_64")), [ORIN])
    assert found.entry is None
    assert len(found.others) == 2
    assert choose.choose(_index(), [ORIN]) == choose.Choice(None, [])


def test_this_device_takes_what_its_backend_runs() -> None:
    here = device_key("onnxruntime")
    found = choose.choose(_index(replace(here, version="0.1"), here))
    assert found.entry == _entry(1, here)
    assert "(version)" in found.others[0][1]


def test_of_several_that_fit_the_one_that_uses_most_of_the_cpu_is_taken() -> None:
    here = replace(device_key("onnxruntime"), features=("avx2", "fma"))
    plain = replace(here, features=())
    found = choose.choose(_index(plain, here), [here])
    assert found.entry == _entry(1, here)
    assert "is preferred" in found.others[0][1]


def test_a_backend_that_is_missing_here_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    made_for = replace(device_key("onnxruntime"), version="1.0")
    monkeypatch.setattr(choose, "unavailable", lambda name: f"the Python package {name} is not installed")
    assert choose.why_not(_entry(0, made_for)) == "the Python package onnxruntime is not installed"


def test_a_key_is_a_bundle_a_file_or_json(tmp_path: Path) -> None:
    here = device_key("onnxruntime")
    bundle = small.bundle(tmp_path / "bundle")
    (tmp_path / "key.json").write_text(json.dumps(ORIN.to_json()))
    assert choose.keys_of("this-device") is None
    assert choose.keys_of(str(bundle)) == (here,)
    assert choose.keys_of(str(bundle / "manifest.json")) == (here,)
    assert choose.keys_of(str(tmp_path / "key.json")) == (ORIN,)
    assert choose.keys_of(json.dumps(ORIN.to_json())) == (ORIN,)


def test_a_key_is_what_another_device_tells_of_itself(tmp_path: Path) -> None:
    here = device_key("onnxruntime")
    shown = {"model": "Orin Nano", "backends": [ORIN.to_json(), here.to_json()]}
    for name, value in (("device.json", shown), ("node.json", {"active": None, "device": shown})):
        (tmp_path / name).write_text(json.dumps(value))
        assert choose.keys_of(str(tmp_path / name)) == (ORIN, here)
    found = choose.choose(_index(replace(ORIN, backend="openvino"), ORIN), (ORIN, here))
    assert found.entry == _entry(1, ORIN)
    assert found.others[0][1] == "made with openvino, the other device has tensorrt, onnxruntime"
    (tmp_path / "bare.json").write_text(json.dumps({"device": {"backends": []}}))
    with pytest.raises(UsageError, match="without a backend"):
        choose.keys_of(str(tmp_path / "bare.json"))


def test_a_folder_of_bundles_is_told_as_such(tmp_path: Path) -> None:
    small.bundle(tmp_path / "linear.optimized" / "fp32")
    with pytest.raises(UsageError, match=r"linear\.optimized: no bundle, it holds some: fp32") as error:
        choose.keys_of(str(tmp_path / "linear.optimized"))
    assert error.value.hint.endswith("linear.optimized/fp32")


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    for text in ("orin", "{not json", ""):
        with pytest.raises(UsageError, match="--for"):
            choose.keys_of(text)
    with pytest.raises(DamagedError, match=r"--for {}: device\.backend"):
        choose.keys_of("{}")
    (tmp_path / "other.json").write_text('{"device": {"os": "linux"}}')
    with pytest.raises(DamagedError, match=r"other\.json: device\.backend"):
        choose.keys_of(str(tmp_path / "other.json"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("resnet34-fp16", ("resnet34-fp16", "latest", None)),
        ("resnet34-fp16:v1.2", ("resnet34-fp16", "v1.2", None)),
        ("a@sha256:" + "0" * 64, ("a", "latest", "sha256:" + "0" * 64)),
        ("a:b@sha256:" + "f" * 64, ("a", "b", "sha256:" + "f" * 64)),
    ],
)
def test_a_reference_is_a_name_a_tag_and_a_digest(text: str, found: Any) -> None:
    assert choose.parse_reference(text) == found


@pytest.mark.parametrize(
    "text",
    ["", ":", "A", "../x", "a/b", "/a", "a:", "a:.b", "a:b/c", "a@", "a@sha256:0", "a@md5:" + "0" * 64, "a" * 129],
)
def test_a_name_that_could_leave_a_folder_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="no name of a shipment"):
        choose.parse_reference(text)


@given(st.text(max_size=40))
def test_any_text_is_a_reference_or_refused(text: str) -> None:
    try:
        name, tag, _ = choose.parse_reference(text)
    except UsageError:
        return
    for part in (name, tag):
        assert part not in (".", "..") and not set(part) & set("/\\\0\n")


def test_devices_are_described_in_words() -> None:
    assert choose.describe(ORIN) == ("tensorrt 8.5.2.2, linux aarch64, Orin, 8 SM (compute capability 8.7), L4T 35.4.1")
    assert choose.describe(replace(ORIN, gpu="", compute_capability="", l4t="", features=("a",))).endswith(
        "1 CPU features"
    )
