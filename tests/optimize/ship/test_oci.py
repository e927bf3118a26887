"""OCI documents of shipments: equal content, equal digest; and strict to read."""

from __future__ import annotations

import hashlib
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.device import DeviceKey, device_key
from engines.errors import DamagedError
from optimize.ship import oci, shipment
from tests.optimize.ship import small

HERE = device_key("onnxruntime")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory.mktemp("source") / "it", answers=False)


def entry(number: int, **device: Any) -> oci.Entry:
    return oci.Entry(f"sha256:{number:064x}", 100 + number, replace(HERE, **device), "a" * 64, "fp32")


def test_a_variant_is_an_oci_image_manifest_of_its_files(whole: Path) -> None:
    content = oci.variant(whole)
    value = json.loads(content)
    assert value["schemaVersion"] == 2
    assert value["mediaType"] == "application/vnd.oci.image.manifest.v1+json"
    assert value["artifactType"] == "application/vnd.optimize.bundle.v1"
    assert value["config"]["mediaType"] == "application/vnd.optimize.shipment.v1+json"
    assert value["config"]["digest"] == oci.digest_of((whole / shipment.NAME).read_bytes())
    titles = [layer["annotations"]["org.opencontainers.image.title"] for layer in value["layers"]]
    assert set(titles) == {p.name for p in whole.iterdir()} - {shipment.NAME}
    for blob in oci.read_variant(content):
        assert blob.digest == "sha256:" + hashlib.sha256((whole / blob.name).read_bytes()).hexdigest()
        assert blob.size == (whole / blob.name).stat().st_size


def test_a_document_is_canonical(whole: Path) -> None:
    content = oci.variant(whole)
    assert content == json.dumps(json.loads(content), sort_keys=True, separators=(",", ":")).encode()
    assert content == oci.variant(whole)


_words = st.text(min_size=1, max_size=12)
_devices = st.builds(
    DeviceKey,
    backend=st.sampled_from(["tensorrt", "openvino", "onnxruntime"]),
    version=_words,
    os=_words,
    arch=_words,
    features=st.lists(_words, max_size=4).map(tuple),
    gpu=st.text(max_size=8),
)


@given(devices=st.lists(_devices, max_size=6, unique=True), seed=st.integers(0, 99))
def test_an_index_reads_back_and_does_not_depend_on_the_order(devices: List[DeviceKey], seed: int) -> None:
    entries = [oci.Entry(f"sha256:{i:064x}", i + 1, d, "b" * 64, "int8") for i, d in enumerate(devices)]
    content = oci.index(entries)
    mixed = list(entries)
    random.Random(seed).shuffle(mixed)
    assert oci.index(mixed) == content
    found = oci.read_index(content, "model", "latest")
    assert set(found.entries) == set(entries)
    assert found.digest == oci.digest_of(content)


def test_a_platform_is_named_as_oci_does() -> None:
    assert oci.platform(replace(HERE, os="linux", arch="x86_64")) == {"os": "linux", "architecture": "amd64"}
    assert oci.platform(replace(HERE, os="linux", arch="aarch64")) == {"os": "linux", "architecture": "arm64"}


def _index(change: Callable[[Dict[str, Any]], Any]) -> bytes:
    value = json.loads(oci.index([entry(1), entry(2, version="0")]))
    change(value)
    return json.dumps(value).encode()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(mediaType=oci.MANIFEST), "no index"),
        (lambda v: v.update(schemaVersion=1), "schemaVersion"),
        (lambda v: v.update(manifests={}), "no index"),
        (lambda v: v["manifests"][0].update(digest="sha256:zz"), "digest"),
        (lambda v: v["manifests"][0].update(digest="md5:" + "0" * 64), "digest"),
        (lambda v: v["manifests"][0].update(size=5 << 20), "size"),
        (lambda v: v["manifests"][0].pop("annotations"), "annotations"),
        (lambda v: v["manifests"][0]["annotations"].update({oci.DEVICE: "{"}), "JSON"),
        (lambda v: v["manifests"][0]["annotations"].update({oci.DEVICE: "[]"}), "device"),
        (lambda v: v["manifests"][0]["annotations"].update({oci.DEVICE: "{}"}), "device.backend"),
        (lambda v: v["manifests"].append(v["manifests"][0]), "two variants for one device"),
        (lambda v: v["manifests"].extend([v["manifests"][0]] * 1100), "more than 1024"),
    ],
)
def test_an_index_that_is_none_is_refused(change: Callable[[Dict[str, Any]], Any], words: str) -> None:
    with pytest.raises(DamagedError, match=words):
        oci.read_index(_index(change), "model", "latest")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda v: v.update(artifactType="application/vnd.oci.image.config.v1+json"), "no shipment"),
        (lambda v: v.pop("artifactType"), "no shipment"),
        (lambda v: v["config"].update(mediaType="application/vnd.optimize.shipment.v2+json"), "mediaType"),
        (lambda v: v["config"].update(size=5 << 20), "shipment.json is larger"),
        (lambda v: v.update(layers=[]), "layers"),
        (lambda v: v["layers"][0]["annotations"].update({oci.TITLE: "../x"}), "plain file name"),
        (lambda v: v["layers"][0]["annotations"].update({oci.TITLE: "shipment.json"}), "listed twice"),
        (lambda v: v["layers"][0].update(size=-1), "size"),
        (lambda v: v["layers"].extend([{**v["layers"][0], "size": 33 << 30}] * 2), "64 GiB"),
        (lambda v: v["layers"].extend([v["layers"][0]] * 300), "at most 256"),
    ],
)
def test_a_variant_that_is_none_is_refused(whole: Path, change: Callable[[Dict[str, Any]], Any], words: str) -> None:
    value = json.loads(oci.variant(whole))
    change(value)
    with pytest.raises(DamagedError, match=words):
        oci.read_variant(json.dumps(value).encode())


@pytest.mark.parametrize("content", [b"", b"[]", b"\xff\xfe", b"[" * 100000, b'{"a": 1, "a": 2}', b" " * (5 << 20)])
def test_what_is_no_strict_json_is_refused(content: bytes) -> None:
    with pytest.raises(DamagedError):
        oci.read_variant(content)
    with pytest.raises(DamagedError):
        oci.read_index(content, "model", "latest")
