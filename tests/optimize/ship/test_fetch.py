"""From a store: whole under its name or not there, whatever is interrupted, damaged or hostile on the way."""

from __future__ import annotations

import json
import os
import shutil
from collections import namedtuple
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, List

import pytest

import engines
from engines import child
from engines.errors import DamagedError, IncompatibleError, OptimizeError, TrustError, UsageError
from optimize.ship import fetch, oci, send, shipment, trust
from optimize.ship.store import Moved
from optimize.ship.stores.files import FileStore
from optimize.ship.stores.folder import FolderPlace
from tests.optimize.ship import small


class Watched(FileStore):
    """A folder that tells which blobs were asked for, and may break off."""

    def __init__(self, root: Path) -> None:
        super().__init__(FolderPlace(root, "store"))
        self.root = root
        self.asked: List[str] = []
        self.breaks_after = 1 << 60

    def get(self, name: str, digest: str, size: int, target: Path, moved: Moved, limit: int) -> None:
        self.asked.append(digest)
        if self.breaks_after < size:
            with open(self.root / "blobs/sha256" / digest[7:], "rb") as source, open(target, "ab") as out:
                source.seek(out.tell())
                out.write(source.read(self.breaks_after - out.tell()))
            raise OptimizeError("the connection broke")
        super().get(name, digest, size, target, moved, limit)

    def blob(self, digest: str) -> Path:
        return self.root / "blobs/sha256" / digest[7:]


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory.mktemp("source") / "it")


@pytest.fixture
def store(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Watched:
    monkeypatch.setattr(send, "_SETTLE_S", 0.0)
    made = Watched(tmp_path / "store")
    send.publish(made, "it", "latest", [send.put(made, "it", source)])

    def opened(*_: Any, **__: Any) -> Any:
        raise AssertionError("an engine was opened")

    monkeypatch.setattr(engines, "open", opened)
    monkeypatch.setattr(child, "call", opened)
    return made


def _entry(store: Watched) -> oci.Entry:
    return fetch.find(store, "it").entries[0]


def _versions(folder: Path) -> List[str]:
    return [p.name for p in folder.iterdir() if not p.name.startswith(".")]


def test_a_version_appears_under_its_digest_with_every_byte(store: Watched, source: Path, tmp_path: Path) -> None:
    told: List[Any] = []
    path = fetch.fetch(store, "it", _entry(store), tmp_path / "v", progress=lambda *one: told.append(one))
    assert path == tmp_path / "v" / small.variant(source)
    assert {p.name: p.read_bytes() for p in path.iterdir()} == {p.name: p.read_bytes() for p in source.iterdir()}
    assert told[-1][1] == told[-1][2] > 0
    assert sorted(p.name for p in (tmp_path / "v/.incoming").iterdir()) in (["lock"], [])


def test_a_second_time_nothing_is_asked_for(store: Watched, tmp_path: Path) -> None:
    fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    asked = len(store.asked)
    fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    assert len(store.asked) == asked


def test_an_interrupted_download_goes_on_where_it_stopped(store: Watched, source: Path, tmp_path: Path) -> None:
    store.breaks_after = 6000
    with pytest.raises(OptimizeError, match="broke"):
        fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    assert _versions(tmp_path / "v") == []
    part = tmp_path / "v/.incoming" / small.variant(source)
    kept = {p.name: p.stat().st_size for p in part.iterdir()}
    assert 6000 in kept.values()
    store.breaks_after, store.asked = 1 << 60, []
    path = fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    shipment.check(path)
    whole = {name for name, size in kept.items() if size == (source / name).stat().st_size}
    assert len(store.asked) == len(list(source.iterdir())) - len(whole)


@pytest.mark.parametrize("name", ["manifest.json", "model.onnx", "golden.npz", "shipment.json"])
def test_a_flipped_bit_of_any_file_in_the_store_is_refused(
    store: Watched, source: Path, tmp_path: Path, name: str
) -> None:
    blob = store.blob(oci.digest_of((source / name).read_bytes()))
    content = bytearray(blob.read_bytes())
    content[len(content) // 3] ^= 4
    blob.write_bytes(content)
    with pytest.raises(DamagedError, match=f"{name} of it is not what its digest says"):
        fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    assert _versions(tmp_path / "v") == []


@pytest.mark.parametrize("what", ["index", "variant"])
def test_a_flipped_bit_of_a_document_is_refused(store: Watched, tmp_path: Path, what: str) -> None:
    entry = _entry(store)
    blob = store.blob(fetch.find(store, "it").digest if what == "index" else entry.digest)
    content = bytearray(blob.read_bytes())
    content[len(content) // 3] ^= 1
    blob.write_bytes(content)
    with pytest.raises(DamagedError):
        fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    assert not (tmp_path / "v").exists() or _versions(tmp_path / "v") == []


def test_what_is_left_of_another_try_does_no_harm(store: Watched, source: Path, tmp_path: Path) -> None:
    part = tmp_path / "v/.incoming" / small.variant(source)
    part.mkdir(parents=True)
    (part / "model.onnx").write_bytes(b"x" * 10)
    (part / "golden.npz").write_bytes(b"x" * (source / "golden.npz").stat().st_size)
    (part / "manifest.json").symlink_to(tmp_path / "elsewhere")
    (part / "folder").mkdir()
    (part / "evil.py").write_text("x")
    path = fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    shipment.check(path)
    assert not (tmp_path / "elsewhere").exists()


def test_a_damaged_version_is_mended_file_by_file(store: Watched, source: Path, tmp_path: Path) -> None:
    path = fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    (path / "model.onnx").write_bytes(b"damaged")
    (path / "golden.npz").unlink()
    store.asked = []
    assert fetch.fetch(store, "it", _entry(store), tmp_path / "v") == path
    shipment.check(path)
    assert len(store.asked) == 2


@pytest.mark.parametrize("kind", ["a link", "a dangling link", "a file"])
def test_what_is_no_folder_in_place_of_a_version_makes_room_for_it(
    store: Watched, source: Path, tmp_path: Path, kind: str
) -> None:
    target, other = tmp_path / "v" / small.variant(source), tmp_path / "other"
    (tmp_path / "v").mkdir()
    if kind == "a file":
        target.write_text("x")
    else:
        target.symlink_to(other)
    if kind == "a link":
        other.mkdir()
    path = fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    shipment.check(path)
    assert not path.is_symlink()
    assert not other.exists() or list(other.iterdir()) == []


def test_what_does_not_belong_into_a_version_is_removed_and_what_was_there_comes_back(
    store: Watched, tmp_path: Path
) -> None:
    path = fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    (path / "model.onnx").unlink()
    (path / "model.onnx").mkdir()
    (path / "golden.npz").unlink()
    os.mkfifo(path / "golden.npz")
    (path / "evil.py").write_text("x")
    assert fetch.fetch(store, "it", _entry(store), tmp_path / "v") == path
    shipment.check(path)


def test_a_file_with_another_name_elsewhere_is_not_written_through(
    store: Watched, source: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.write_text("mine")
    part = tmp_path / "v/.incoming" / small.variant(source)
    part.mkdir(parents=True)
    os.link(mine, part / "golden.npz")
    fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    assert mine.read_text() == "mine"


def test_links_in_a_circle_in_place_of_the_lock_are_told(store: Watched, tmp_path: Path) -> None:
    (tmp_path / "v/.incoming").mkdir(parents=True)
    (tmp_path / "v/.incoming/lock").symlink_to("lock")
    with pytest.raises(DamagedError, match="where a plain file is expected"):
        fetch.fetch(store, "it", _entry(store), tmp_path / "v")


def test_files_of_another_version_are_taken_from_the_disk(store: Watched, source: Path, tmp_path: Path) -> None:
    fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    other = Path(shutil.copytree(source, tmp_path / "other"))
    value = json.loads((other / shipment.NAME).read_text())
    (other / shipment.NAME).write_text(json.dumps({**value, "created": "2031-01-01T00:00:00Z"}))
    entry = send.put(store, "it", other)
    store.asked = []
    shipment.check(fetch.fetch(store, "it", entry, tmp_path / "v"))
    assert store.asked == [oci.digest_of((other / shipment.NAME).read_bytes())]


def test_an_index_that_tells_of_another_device_is_refused(store: Watched, tmp_path: Path) -> None:
    entry = _entry(store)
    for lie in (
        entry._replace(device=replace(entry.device, features=())),
        entry._replace(model="0" * 64),
        entry._replace(precision="int8"),
    ):
        with pytest.raises(DamagedError, match="the index tells another"):
            fetch.fetch(store, "it", lie, tmp_path / "v")
        assert _versions(tmp_path / "v") == []


def test_a_tag_that_is_not_there_is_told_with_one_that_is(store: Watched) -> None:
    with pytest.raises(UsageError, match="no such shipment") as caught:
        fetch.find(store, "it", "v9")
    assert caught.value.hint == "optimize pull it:latest --from store"


def _put_lie(store: Watched, source: Path, change: Callable[[Any], None]) -> oci.Entry:
    """A variant whose image manifest says something else than shipment.json."""
    value = json.loads(oci.variant(source))
    change(value)
    content = oci.canonical(value)
    store.put_document("it", oci.MANIFEST, content)
    return oci.entry(source, content)


def test_a_manifest_with_other_files_than_the_list_is_refused_before_they_come(
    store: Watched, source: Path, tmp_path: Path
) -> None:
    entry = _put_lie(store, source, lambda value: value["layers"].pop())
    with pytest.raises(DamagedError, match="list other files"):
        fetch.fetch(store, "it", entry, tmp_path / "v")
    assert len(store.asked) == 1


def test_a_size_that_is_a_lie_brings_no_more_than_it(store: Watched, source: Path, tmp_path: Path) -> None:
    def larger(value: Any) -> None:
        value["config"]["size"] += 1

    with pytest.raises(OptimizeError):
        fetch.fetch(store, "it", _put_lie(store, source, larger), tmp_path / "v")
    assert _versions(tmp_path / "v") == []


def test_an_untrusted_one_costs_its_list_and_its_signature_only(store: Watched, source: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key, other = trust.new_key(tmp_path / "key"), trust.new_key(tmp_path / "other")
    signed = Path(shutil.copytree(source, tmp_path / "signed"))
    trust.sign(signed, Path(other["key"]))
    policy = trust.Policy(True, {key["id"]: trust.read_public(Path(key["public"]))})
    for folder, asked in ((source, 1), (signed, 2)):
        store.asked = []
        with pytest.raises(TrustError):
            fetch.fetch(store, "it", send.put(store, "it", folder), tmp_path / "v", policy)
        assert len(store.asked) == asked
        assert _versions(tmp_path / "v") == []


def test_a_full_disk_is_told_before_anything_comes(
    store: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1 << 40, 1 << 40, 1 << 10))
    with pytest.raises(OptimizeError, match="no space left"):
        fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    assert store.asked == []


def test_a_folder_of_downloads_that_leads_elsewhere_is_refused(store: Watched, tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "v/.incoming").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="link"):
        fetch.fetch(store, "it", _entry(store), tmp_path / "v")
    assert os.listdir(tmp_path / "elsewhere") == []


def test_an_unknown_name_tag_or_digest_names_what_is_there(store: Watched, tmp_path: Path) -> None:
    for name, tag in (("other", "latest"), ("it", "v2")):
        with pytest.raises(UsageError, match=f"{name}:{tag}.*there are it:latest"):
            fetch.find(store, name, tag)
    with pytest.raises(UsageError, match="no such shipment"):
        fetch.find(store, "it", digest="sha256:" + "0" * 64)
    with pytest.raises(UsageError, match="holds none yet"):
        fetch.find(Watched(tmp_path / "empty"), "it")


def test_a_store_of_a_newer_version_is_refused(store: Watched) -> None:
    (store.root / "store.json").write_text('{"schema": "optimize.store/2"}')
    with pytest.raises((DamagedError, IncompatibleError), match=r"optimize\.store"):
        fetch.find(Watched(store.root), "it")
