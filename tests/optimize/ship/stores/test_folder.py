"""What only a folder can do wrong."""

from __future__ import annotations

import os
import resource
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import List

import pytest

from engines.errors import DamagedError, IncompatibleError, OptimizeError, UsageError
from optimize.ship.url import open_store
from tests.optimize.ship.stores.conftest import blob_of, still


class Cut(Exception):
    """Stops a transfer."""


def part_of(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / f".{digest[7:]}.part"


def test_a_stopped_copy_goes_on(tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 5 << 20)

    def stop(count: int) -> None:
        if count >= 3 << 20:
            raise Cut

    store = open_store(str(tmp_path / "store"))
    with pytest.raises(Cut):
        store.put("net", {blob.digest: blob.path}, stop, 0)
    assert not store.sizes("net", [blob.digest])
    moved: List[int] = []
    store.put("net", {blob.digest: blob.path}, moved.append, 0)
    assert moved == [4 << 20, 5 << 20]
    assert not part_of(tmp_path / "store", blob.digest).exists()


@pytest.mark.parametrize("left", [b"\0" * 1000, b"\0" * 90_000])
def test_a_part_that_was_damaged_or_is_too_long_is_copied_anew(tmp_path: Path, left: bytes) -> None:
    blob = blob_of(tmp_path, 70_000)
    part = part_of(tmp_path / "store", blob.digest)
    part.parent.mkdir(parents=True)
    part.write_bytes(left)
    store = open_store(str(tmp_path / "store"))
    store.put("net", {blob.digest: blob.path}, still, 0)
    assert part.with_name(blob.digest[7:]).read_bytes() == blob.data


def test_a_damaged_part_does_not_stand_for_a_damaged_blob(tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 70_000)
    part = part_of(tmp_path / "store", blob.digest)
    part.parent.mkdir(parents=True)
    for path in (part, part.with_name(blob.digest[7:])):
        path.write_bytes(b"\0" * 70_000)
    open_store(str(tmp_path / "store")).put("net", {blob.digest: blob.path}, still, 0)
    assert part.with_name(blob.digest[7:]).read_bytes() == blob.data


def test_a_fifo_in_place_of_a_part_is_told(tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 100)
    part = part_of(tmp_path / "store", blob.digest)
    part.parent.mkdir(parents=True)
    os.mkfifo(part)
    with pytest.raises(DamagedError, match="special file") as caught:
        open_store(str(tmp_path / "store")).put("net", {blob.digest: blob.path}, still, 0)
    assert caught.value.hint.startswith("rm ")


def test_a_file_is_no_store(tmp_path: Path) -> None:
    (tmp_path / "net.onnx").write_bytes(b"x")
    with pytest.raises(UsageError, match="is a file, and a store is a folder"):
        open_store(str(tmp_path / "net.onnx"))


def test_writers_of_one_blob_do_no_harm(tmp_path: Path) -> None:
    blob, together = blob_of(tmp_path, 8 << 20), threading.Barrier(4)

    def write(_: int) -> None:
        together.wait(60)
        open_store(str(tmp_path / "store")).put("net", {blob.digest: blob.path}, still, 0)

    with ThreadPoolExecutor(4) as writers:
        list(writers.map(write, range(4)))
    assert (tmp_path / "store" / "blobs" / "sha256" / blob.digest[7:]).read_bytes() == blob.data


def test_a_writer_whose_file_has_changed_does_not_spoil_what_another_has_checked(tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 6 << 20)
    changed = tmp_path / "changed"
    changed.write_bytes(blob.data[: 3 << 20] + b"\1" * (3 << 20))
    begun, other = threading.Event(), threading.Event()

    def slowly(count: int) -> None:
        if count >= 2 << 20:
            begun.set()
            assert other.wait(60)

    def write() -> None:
        open_store(str(tmp_path / "store")).put("net", {blob.digest: changed}, slowly, 0)

    with ThreadPoolExecutor(1) as writers:
        first = writers.submit(write)
        try:
            assert begun.wait(60)
            open_store(str(tmp_path / "store")).put("net", {blob.digest: blob.path}, still, 0)
        finally:
            other.set()
        first.result(60)
    blobs = tmp_path / "store" / "blobs" / "sha256"
    assert (blobs / blob.digest[7:]).read_bytes() == blob.data
    assert [path.name for path in blobs.iterdir()] == [blob.digest[7:]]


def test_a_link_left_in_place_of_a_part_is_not_followed(tmp_path: Path) -> None:
    blob, victim = blob_of(tmp_path, 100), tmp_path / "victim"
    victim.write_text("mine")
    part = part_of(tmp_path / "store", blob.digest)
    part.parent.mkdir(parents=True)
    part.symlink_to(victim)
    with pytest.raises(DamagedError, match="too many levels of symbolic links"):
        open_store(str(tmp_path / "store")).put("net", {blob.digest: blob.path}, still, 0)
    assert victim.read_text() == "mine"


def test_a_full_disk_is_told_and_nothing_appears(tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 3 << 20)
    store = open_store(str(tmp_path / "store"))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, hard))
    try:
        with pytest.raises(OptimizeError, match="file too large") as caught:
            store.put("net", {blob.digest: blob.path}, still, 0)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "free some space" in caught.value.hint and caught.value.exit_code == 1
    assert not store.sizes("net", [blob.digest])
    store.put("net", {blob.digest: blob.path}, still, 0)


def test_a_folder_without_permission_is_told() -> None:
    with pytest.raises(IncompatibleError, match=r"permitted|permission denied|read-only") as caught:
        open_store("/sys/store").put_document("net", "application/json", b"{}")  # where not even root may write
    assert caught.value.exit_code == 4 and caught.value.hint


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ('{"schema":"optimize.store/2"}', IncompatibleError, "newer version of optimize"),
        ('{"schema":"optimize.store/1","schema":"optimize.store/1"}', DamagedError, "duplicate key"),
        ('{"schema":"another/1"}', DamagedError, "this version reads 'optimize.store/1'"),
        ("[]", DamagedError, "this version reads 'optimize.store/1'"),
        ("\0", DamagedError, "not valid JSON"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, text: str, error: type, words: str) -> None:
    (tmp_path / "store.json").write_text(text)
    store = open_store(str(tmp_path))
    for act in (store.refs, lambda: store.resolve("net", "v1"), lambda: store.put_document("net", "", b"{}")):
        with pytest.raises(error, match=words):
            act()  # type: ignore[operator]


@pytest.mark.parametrize("digest", ['"sha256:../../../../etc/passwd"', "null", "7", '"sha256:"'])
def test_a_name_that_points_out_of_the_store_is_refused(tmp_path: Path, digest: str) -> None:
    store = open_store(str(tmp_path))
    store.tag("net", "v1", "application/json", b"{}")
    (tmp_path / "refs" / "net" / "v1.json").write_text(f'{{"schema":"optimize.ref/1","digest":{digest}}}')
    with pytest.raises(DamagedError, match="digest"):
        store.resolve("net", "v1")


def test_a_document_with_a_flipped_bit_is_refused(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    digest = store.tag("net", "v1", "application/json", b'{"a":1}')
    (tmp_path / "blobs" / "sha256" / digest[7:]).write_bytes(b'{"a":3}')
    with pytest.raises(DamagedError, match="another content than its name says"):
        store.get_document("net", digest, 100)


def test_other_files_among_the_names_are_passed_over(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    digest = store.tag("net", "v1", "application/json", b"{}")
    for name in (".v1.json.0123456789abcdef.part", "notes.txt", "..json", "a b.json"):
        (tmp_path / "refs" / "net" / name).write_text("x")
    (tmp_path / "refs" / "UPPER").mkdir()
    (tmp_path / "refs" / "UPPER" / "v1.json").write_text("x")
    assert [(ref.name, ref.tag, ref.digest) for ref in store.refs()] == [("net", "v1", digest)]


def test_what_is_no_plain_file_is_not_there_and_does_not_hang(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.tag("net", "v1", "application/json", b"{}")
    digest = "sha256:" + "1" * 64
    os.mkfifo(tmp_path / "blobs" / "sha256" / digest[7:])
    assert not store.sizes("net", [digest])
    assert store.whole("net", {digest: tmp_path}) == {}
    for read in (
        lambda: store.get_document("net", digest, 100),
        lambda: store.get("net", digest, 100, tmp_path / "out", still, 0),
    ):
        with pytest.raises(DamagedError, match="where a plain file is expected"):
            read()


@pytest.mark.parametrize("name", ["store.json", "refs/net/v1.json"])
def test_a_special_file_in_place_of_a_name_is_damage_and_does_not_hang(tmp_path: Path, name: str) -> None:
    open_store(str(tmp_path)).tag("net", "v1", "application/json", b"{}")
    (tmp_path / name).unlink()
    os.mkfifo(tmp_path / name)
    with pytest.raises(DamagedError, match="where a plain file is expected"):
        open_store(str(tmp_path)).resolve("net", "v1")


@pytest.mark.parametrize("name", ["blobs", "refs", "store.json"])
def test_links_in_a_circle_are_told_as_a_damaged_store(tmp_path: Path, name: str) -> None:
    (tmp_path / name).symlink_to(name)
    with pytest.raises(DamagedError):
        open_store(str(tmp_path)).tag("net", "v1", "application/json", b"{}")


def test_a_folder_in_place_of_a_blob_is_told_as_a_damaged_store(tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 100)
    store = open_store(str(tmp_path / "store"))
    (tmp_path / "store/blobs/sha256" / blob.digest[7:]).mkdir(parents=True)
    store.put_document("net", "application/json", b"{}")
    with pytest.raises(DamagedError, match="where a plain file is expected"):
        store.get("net", blob.digest, 100, tmp_path / "out", still, 0)
    with pytest.raises(DamagedError, match="the store is damaged") as caught:
        store.put("net", {blob.digest: blob.path}, still, 0)
    assert blob.digest[7:] in caught.value.hint


def test_others_may_read_what_a_user_keeps(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        store, blob = open_store(str(tmp_path / "store")), blob_of(tmp_path, 10)
        store.put("net", {blob.digest: blob.path}, still, 0)
    finally:
        os.umask(mask)
    kept = tmp_path / "store" / "blobs" / "sha256" / blob.digest[7:]
    assert stat.S_IMODE(kept.stat().st_mode) == 0o644


def test_the_sweep_removes_what_is_ours_only(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    store.tag("net", "v1", "application/json", b"{}")
    ours = [
        f"blobs/sha256/.{'a' * 64}.part",
        f"blobs/sha256/.{'a' * 64}.{'b' * 16}.part",
        ".store.json.0123456789abcdef.part",
        "refs/net/.v1.json.0123456789abcdef.part",
    ]
    others = [".git.part", ".notes.part", "blobs/sha256/.mine.part", "refs/net/.mine.0123.part"]
    for name in (*ours, *others):
        (tmp_path / name).write_text("x")
        os.utime(tmp_path / name, (0, 0))
    store.sweep()
    assert not any((tmp_path / name).exists() for name in ours)
    assert all((tmp_path / name).exists() for name in others)
