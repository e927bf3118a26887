"""What every kind of store does alike, on real servers."""

from __future__ import annotations

import hashlib
import json
import os
import time
from pathlib import Path
from typing import List

import pytest

from engines.errors import DamagedError, OptimizeError, UsageError
from optimize.ship.store import Ref, Store
from optimize.ship.url import open_store
from tests.optimize.ship.stores.conftest import KINDS, blob_of, still

pytestmark = pytest.mark.parametrize("kind", KINDS)

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"
NOWHERE = "sha256:" + "0" * 64
EMPTY = "sha256:" + hashlib.sha256(b"{}").hexdigest()


def published(store: Store, folder: Path, name: str, tag: str, word: str) -> str:
    """A shipment with nothing but an empty configuration, told from others by a word; digest of its index."""
    (folder / "config").write_bytes(b"{}")
    store.put(name, {EMPTY: folder / "config"}, still, 0)
    config = {"mediaType": "application/vnd.optimize.shipment.v1+json", "digest": EMPTY, "size": 2}
    words = {"schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [], "annotations": {"word": word}}
    manifest = json.dumps(words, sort_keys=True).encode()
    digest = store.put_document(name, MANIFEST, manifest)
    assert digest == "sha256:" + hashlib.sha256(manifest).hexdigest()
    entry = {"mediaType": MANIFEST, "digest": digest, "size": len(manifest)}
    index = json.dumps({"schemaVersion": 2, "mediaType": INDEX, "manifests": [entry]}).encode()
    return store.tag(name, tag, INDEX, index)


def test_an_empty_store_has_nothing(store: Store) -> None:
    assert store.refs() == []
    assert store.resolve("resnet34-fp16", "latest") is None
    assert not store.sizes("resnet34-fp16", [NOWHERE])


@pytest.mark.parametrize("size", [0, 1, 65537, 3_000_001])
def test_a_blob_comes_back_as_it_was_sent(store: Store, tmp_path: Path, size: int) -> None:
    blob = blob_of(tmp_path, size)
    moved: List[int] = []
    store.put("net", {blob.digest: blob.path}, moved.append, 0)
    assert store.sizes("net", [blob.digest]) == {blob.digest: size}
    assert moved == sorted(moved) and (not moved or moved[-1] == size)
    store.get("net", blob.digest, size, tmp_path / "back", still, 0)
    assert (tmp_path / "back").read_bytes() == blob.data


def test_a_download_goes_on_where_it_stopped(store: Store, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 2_500_000)
    store.put("net", {blob.digest: blob.path}, still, 0)
    (tmp_path / "back").write_bytes(blob.data[:1_234_567])
    moved: List[int] = []
    store.get("net", blob.digest, len(blob.data), tmp_path / "back", moved.append, 0)
    assert min(moved) > 1_234_567
    assert (tmp_path / "back").read_bytes() == blob.data


def test_no_more_is_written_than_promised(store: Store, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 300_000)
    store.put("net", {blob.digest: blob.path}, still, 0)
    with pytest.raises(DamagedError, match="larger than the 100000 bytes"):
        store.get("net", blob.digest, 100_000, tmp_path / "back", still, 0)
    assert (tmp_path / "back").stat().st_size <= 100_000


def test_a_blob_that_is_smaller_than_promised_is_told(store: Store, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 1000)
    store.put("net", {blob.digest: blob.path}, still, 0)
    with pytest.raises(OptimizeError, match="ended after 1000 of 1001 bytes"):
        store.get("net", blob.digest, 1001, tmp_path / "back", still, 0)


def test_what_has_another_hash_does_not_appear(store: Store, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 70_000)
    with pytest.raises(DamagedError, match="does not arrive there as sha256:0000") as caught:
        store.put("net", {NOWHERE: blob.path}, still, 0)
    assert caught.value.hint
    assert not store.sizes("net", [NOWHERE])


def test_sizes_are_told_of_what_is_there(store: Store, tmp_path: Path) -> None:
    blobs = [blob_of(tmp_path, size) for size in (5_000, 0, 70_000)]
    for blob in blobs:
        store.put("net", {blob.digest: blob.path}, still, 0)
    asked = [blobs[2].digest, NOWHERE, blobs[0].digest, blobs[1].digest]
    assert store.sizes("net", asked) == {blob.digest: len(blob.data) for blob in blobs}
    assert store.sizes("net", []) == {}


def test_what_is_damaged_there_is_known_and_sent_anew(kind: str, store: Store, url: str, tmp_path: Path) -> None:
    """A registry keeps its blobs itself, and tells nothing of them."""
    good, bad, lacking = (blob_of(tmp_path, size) for size in (5_000, 70_000, 10))
    assert store.whole("net", {good.digest: good.path}) == {}
    for blob in (good, bad):
        store.put("net", {blob.digest: blob.path}, still, 0)
    sources = {blob.digest: blob.path for blob in (good, bad, lacking)}
    if kind == "registry":
        assert store.whole("net", sources) == {}
        return
    assert store.whole("net", sources) == {good.digest: True, bad.digest: True}
    damage(kind, url, tmp_path, bad.digest)
    assert store.whole("net", sources) == {good.digest: True, bad.digest: False}
    store.put("net", {bad.digest: bad.path}, still, 0)
    assert store.whole("net", sources) == {good.digest: True, bad.digest: True}
    store.get("net", bad.digest, 70_000, tmp_path / "back", still, 0)
    assert (tmp_path / "back").read_bytes() == bad.data


def damage(kind: str, url: str, folder: Path, digest: str) -> None:
    """Other bytes of the same size in the place of a blob."""
    if kind == "s3":
        import boto3

        bucket, _, prefix = url[len("s3://") :].partition("/")
        words = {"Bucket": bucket, "Key": f"{prefix}/blobs/sha256/{digest[7:]}"}
        boto3.client("s3", region_name="us-east-1").put_object(**words, Body=b"x" * 70_000, ChecksumAlgorithm="SHA256")
    else:
        (folder / "the store/blobs/sha256" / digest[7:]).write_bytes(b"x" * 70_000)


def test_what_was_left_a_day_ago_is_swept(kind: str, store: Store, tmp_path: Path) -> None:
    published(store, tmp_path, "net", "latest", "x")
    blobs = tmp_path / "the store/blobs/sha256"
    old, young = blobs / f".{'0' * 64}.part", blobs / f".{'1' * 64}.part"
    if blobs.is_dir():
        for path, age in ((old, 90_000), (young, 80_000)):
            path.write_bytes(b"x")
            os.utime(path, (time.time() - age, time.time() - age))
    store.sweep()
    assert not old.exists() and young.exists() == blobs.is_dir()
    assert store.resolve("net", "latest") is not None


def test_an_empty_store_is_swept(store: Store) -> None:
    store.sweep()
    assert store.refs() == []


def test_a_name_points_to_the_index_that_was_kept_last(store: Store, tmp_path: Path) -> None:
    first = published(store, tmp_path, "net", "latest", "first")
    assert store.resolve("net", "latest") == first
    second = published(store, tmp_path, "net", "latest", "second")
    assert store.resolve("net", "latest") == second != first
    assert json.loads(store.get_document("net", second, 1 << 20))["mediaType"] == INDEX
    assert store.sizes("net", [second]) == {second: len(store.get_document("net", second, 1 << 20))}
    assert store.get_document("net", first, 1 << 20)


def test_all_names_and_tags_are_listed(store: Store, tmp_path: Path) -> None:
    made = [
        Ref(name, tag, published(store, tmp_path, name, tag, name)) for name, tag in (("a", "v1"), ("b.c-d", "V_2"))
    ]
    assert store.refs() == made


def test_a_document_over_the_limit_or_missing_is_refused(store: Store, tmp_path: Path) -> None:
    digest = published(store, tmp_path, "net", "latest", "x" * 5000)
    with pytest.raises(DamagedError, match="larger than 10 bytes"):
        store.get_document("net", digest, 10)
    with pytest.raises(DamagedError, match="is missing there"):
        store.get_document("net", NOWHERE, 10)


def test_names_tags_and_digests_that_lead_out_are_refused(store: Store, tmp_path: Path) -> None:
    for name in ("../../etc", "..", "a/b", "-rf", "A", "", "a\nb", "a" * 129, "a b", "$(x)"):
        with pytest.raises(UsageError, match="is no name"):
            store.resolve(name, "latest")
        with pytest.raises(UsageError, match="is no name"):
            store.tag(name, "latest", INDEX, b"{}")
    for tag in ("../x", ".hidden", "-rf", "", "a/b", "a" * 129, "a\0b"):
        with pytest.raises(UsageError, match="is no tag"):
            store.resolve("net", tag)
    for digest in ("sha256:../../../etc/passwd", "sha256:" + "A" * 64, "md5:" + "0" * 32, "0" * 64):
        with pytest.raises(DamagedError, match="is no digest"):
            store.get("net", digest, 10, tmp_path / "back", still, 0)
        with pytest.raises(DamagedError, match="is no digest"):
            store.sizes("net", [digest])


def test_what_one_connection_keeps_another_finds(url: str, tmp_path: Path) -> None:
    writer, reader = open_store(url), open_store(url)
    try:
        digest = published(writer, tmp_path, "net", "v1", "x")
        assert reader.resolve("net", "v1") == digest
        assert reader.url == writer.url
    finally:
        writer.close()
        reader.close()
