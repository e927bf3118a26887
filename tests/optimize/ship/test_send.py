"""To a store: only what it lacks, under a name that loses nobody's variant."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping

import pytest

from calib.preprocess import parse
from engines.device import device_key
from engines.errors import DamagedError, NewerError, OptimizeError, UsageError
from engines.spec import A_LINE
from optimize.ship import fetch, oci, send, shipment, trust
from optimize.ship.stores.files import FileStore
from optimize.ship.stores.folder import FolderPlace, open_folder
from tests.optimize.ship import small

HERE = device_key("onnxruntime")


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    return open_folder(tmp_path / "store", "store")


@pytest.fixture(autouse=True)
def in_this_process(same_process: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_SETTLE_S", 0.02)


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """`bundle(seed, ...)`: as `optimize build` leaves it, in an output folder with its `.optimize/`."""

    def make(seed: int = 0, place: str = "linear.optimized", **changes: Any) -> Path:
        (tmp_path / place / ".optimize").mkdir(parents=True, exist_ok=True)
        return small.bundle(tmp_path / place / f"fp32-{seed}", seed, **changes)

    return make


def _blob(folder: Path, content: bytes) -> Path:
    return folder / "store/blobs/sha256" / oci.digest_of(content)[7:]


def _flipped(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def _entry(number: int, model: str = "a", precision: str = "fp32", **device: Any) -> oci.Entry:
    return oci.Entry(f"sha256:{number:064x}", 100, replace(HERE, **device), model * 64, precision)


def test_a_bundle_arrives_whole_under_its_default_name(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = bundle()
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    done = send.ship([source], str(tmp_path / "store"))
    assert (done["name"], done["tag"]) == ("linear-fp32", "latest")
    (one,) = done["variants"]
    assert one["sent_bytes"] == one["bytes"] > 0
    assert one["device"] == HERE.to_json()
    store = open_folder(tmp_path / "store", "store")
    index = fetch.find(store, "linear-fp32")
    assert index.digest == done["digest"]
    path = fetch.fetch(store, "linear-fp32", index.entries[0], tmp_path / "versions")
    assert shipment.check(path)["golden"]["latency_ms"]["batch"] == 1
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


def test_a_shipment_keeps_its_name_wherever_it_goes(bundle: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc")
    from optimize.serving import models

    send.ship([bundle()], str(tmp_path / "store"), "gate-3")
    store = open_folder(tmp_path / "store", "store")
    path = fetch.fetch(store, "gate-3", fetch.find(store, "gate-3").entries[0], tmp_path / "versions")
    assert send.ship([path], str(tmp_path / "other"))["name"] == "gate-3"
    assert send.ship([path], f"triton:{tmp_path / 'models'}")["models"][0]["name"] == "gate-3"
    with models.opened([path]) as served:
        assert [one.name for one in served] == ["gate-3"]


def test_shipping_again_sends_nothing_and_gives_the_same_digest(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = bundle()
    first = send.ship([source], str(tmp_path / "store"))
    second = send.ship([source], str(tmp_path / "store"))
    assert second["digest"] == first["digest"]
    assert second["variants"][0]["sent_bytes"] == 0
    other = send.ship([source], str(tmp_path / "other"))
    assert other["digest"] == first["digest"]


def test_one_changed_file_is_all_that_is_sent_of_the_large_ones(bundle: Callable[..., Path], tmp_path: Path) -> None:
    large = "x" * 300_000
    send.ship([bundle(0, layers=[{"name": large, "type": "Gemm", "precision": "f32"}])], str(tmp_path / "store"))
    there = {p.name for p in (tmp_path / "store/blobs/sha256").iterdir()}
    sent = send.ship([small.bundle(tmp_path / "linear.optimized/again", 0, flags=["other"])], str(tmp_path / "store"))
    fresh = {p.name for p in (tmp_path / "store/blobs/sha256").iterdir()} - there
    assert (Path(tmp_path / "linear.optimized/again/model.onnx")).stat().st_size > 7000
    sizes = sum((tmp_path / "store/blobs/sha256" / name).stat().st_size for name in fresh)
    index = next(name for name in fresh if f"sha256:{name}" == sent["digest"])
    assert sizes - (tmp_path / "store/blobs/sha256" / index).stat().st_size == sent["variants"][0]["sent_bytes"]
    assert f"{oci.digest_of((tmp_path / 'linear.optimized/again/model.onnx').read_bytes())[7:]}" in there


def test_a_bundle_far_from_its_build_ships_all_the_same(tmp_path: Path) -> None:
    heard: List[str] = []
    done = send.ship(
        [small.bundle(tmp_path / "alone")], str(tmp_path / "store"), progress=lambda what, *_: heard.append(what)
    )
    assert done["variants"][0]["bytes"] > 0
    assert any("no float graph beside the bundle" in text for text in heard)


def test_a_shipment_that_was_pulled_goes_on_as_it_came(bundle: Callable[..., Path], tmp_path: Path) -> None:
    first = send.ship([bundle()], str(tmp_path / "one"))
    store = open_folder(tmp_path / "one", "one")
    path = fetch.fetch(store, "linear-fp32", fetch.find(store, "linear-fp32").entries[0], tmp_path / "versions")
    second = send.ship([path], str(tmp_path / "two"))
    assert second["digest"] == first["digest"]


def test_variants_of_several_devices_ship_at_once_and_later_ones_join(
    bundle: Callable[..., Path], tmp_path: Path, store: FileStore
) -> None:
    devices = [{**HERE.to_json(), "version": version} for version in ("1.0", "2.0")]
    two = [bundle(seed, device=device) for seed, device in enumerate(devices)]
    send.ship(two, str(tmp_path / "store"))
    send.ship([bundle(9)], str(tmp_path / "store"))
    versions = {entry.device.version for entry in fetch.find(store, "linear-fp32").entries}
    assert versions == {"1.0", "2.0", HERE.version}


def test_variants_that_take_images_otherwise_do_not_go_together_and_are_told_where_they_meet(
    bundle: Callable[..., Path], tmp_path: Path, store: FileStore
) -> None:
    heard: List[str] = []

    def ship(*bundles: Path) -> List[str]:
        heard.clear()
        send.ship(bundles, str(tmp_path / "store"), progress=lambda what, *_: heard.append(what))
        return [text for text in heard if "otherwise" in text]

    there = {**HERE.to_json(), "version": "1.0"}
    old, here = bundle(0, device=there, preprocess=parse("caffe").to_json()), bundle(1)
    with pytest.raises(UsageError, match=r"fp32-1 takes images otherwise than .*fp32-0 \(unit, not .*mean=103"):
        ship(old, here)
    assert not (tmp_path / "store").exists()
    assert not ship(old)

    def broken(what: str, *_: Any) -> None:
        if "otherwise" in what:
            raise OSError("the reader has left")

    with pytest.raises(OSError, match="the reader has left"):
        send.ship([here], str(tmp_path / "store"), progress=broken)
    (told,) = ship(here)
    assert "than linear-fp32:latest for onnxruntime 1.0, " in told and "(unit, not order=bgr" in told
    assert len(fetch.find(store, "linear-fp32").entries) == 2
    assert not ship(bundle(2, device=there, preprocess=parse("mean=0;std=1").to_json()))  # unit in other words


def test_a_variant_that_is_damaged_there_keeps_no_other_from_shipping(
    bundle: Callable[..., Path], tmp_path: Path, store: FileStore
) -> None:
    heard: List[str] = []
    old = bundle(0, device={**HERE.to_json(), "version": "1.0"}, preprocess=parse("unit").to_json())
    send.ship([old], str(tmp_path / "store"))
    (entry,) = fetch.find(store, "linear-fp32").entries
    content = (old / "manifest.json").read_bytes()
    blob = _blob(tmp_path, content)
    other = content.replace(b'"scale": 255.0', b'"scale": 1.0  ')
    assert other != content
    document = _blob(tmp_path, store.get_document("linear-fp32", entry.digest, shipment.LARGEST_DOCUMENT))
    damages: List[Callable[[], Any]] = [
        lambda: blob.write_bytes(other),
        lambda: blob.write_bytes(content[:100]),
        blob.unlink,
        lambda: _flipped(document),
        document.unlink,
    ]
    for seed, damage in enumerate(damages, 1):
        damage()
        send.ship([bundle(seed)], str(tmp_path / "store"), progress=lambda what, *_: heard.append(what))
        assert len(fetch.find(store, "linear-fp32").entries) == 2
    assert not [text for text in heard if "otherwise" in text]


def test_the_engine_that_a_name_had_before_is_told_and_still_there(
    bundle: Callable[..., Path], tmp_path: Path, store: FileStore
) -> None:
    heard: List[str] = []
    first = send.ship([bundle(0)], str(tmp_path / "store"))
    send.ship([bundle(1)], str(tmp_path / "store"), progress=lambda what, *_: heard.append(what))
    (told,) = [text for text in heard if "gets another engine" in text]
    assert told.endswith(f"before: linear-fp32@{first['digest']}")
    assert fetch.find(store, "linear-fp32", digest=first["digest"]).entries
    heard.clear()
    send.ship(
        [bundle(2, "more.optimized")], str(tmp_path / "store"), tag="v2", progress=lambda what, *_: heard.append(what)
    )
    assert not [text for text in heard if "gets another engine" in text]


def test_the_same_device_is_replaced_and_another_model_drops_the_old_ones_aloud(
    bundle: Callable[..., Path], tmp_path: Path, store: FileStore
) -> None:
    send.ship([bundle(0)], str(tmp_path / "store"), name="it")
    second = send.ship([bundle(1)], str(tmp_path / "store"), name="it")
    (entry,) = fetch.find(store, "it").entries
    assert entry.digest == second["variants"][0]["variant"]
    heard: List[str] = []

    def progress(what: str, done: int, total: int) -> None:
        heard.extend([what] if total == A_LINE else [])

    foreign = {**HERE.to_json(), "version": "1.0"}
    other = small.bundle(tmp_path / "other", 2, "other", device=foreign)
    send.ship([other], str(tmp_path / "store"), name="it", progress=progress)
    assert [one.device.version for one in fetch.find(store, "it").entries] == ["1.0"]
    assert any("no longer has the variants of another model" in text for text in heard)


@pytest.mark.parametrize("tag", ["latest", "v1.2"])
def test_a_digest_finds_an_index_that_its_tag_has_left(
    bundle: Callable[..., Path], tmp_path: Path, store: FileStore, tag: str
) -> None:
    first = send.ship([bundle(0)], str(tmp_path / "store"), tag=tag)
    send.ship([bundle(1)], str(tmp_path / "store"), tag=tag)
    assert fetch.find(store, "linear-fp32", tag).digest != first["digest"]
    found = fetch.find(store, "linear-fp32", digest=first["digest"])
    assert [entry.digest for entry in found.entries] == [one["variant"] for one in first["variants"]]


def test_many_who_publish_at_once_lose_nobody(tmp_path: Path) -> None:
    wrong: List[BaseException] = []

    def publish(number: int) -> None:
        try:
            mine = open_folder(tmp_path / "store", "store")
            send.publish(mine, "it", "latest", [_entry(number, version=str(number))])
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    found = fetch.find(open_folder(tmp_path / "store", "store"), "it")
    assert {entry.device.version for entry in found.entries} == {str(number) for number in range(6)}


def test_a_slow_writer_takes_nobody_away(tmp_path: Path) -> None:
    writing = threading.Event()

    class Slow(FileStore):
        def tag(self, name: str, tag: str, media_type: str, text: bytes) -> str:
            writing.set()
            time.sleep(0.7)  # longer than another waits before it reads its name back
            return super().tag(name, tag, media_type, text)

    slow = Slow(FolderPlace(tmp_path / "store", "store"))
    thread = threading.Thread(target=send.publish, args=(slow, "it", "latest", [_entry(1, version="slow")]))
    thread.start()
    writing.wait()
    quick = open_folder(tmp_path / "store", "store")
    send.publish(quick, "it", "latest", [_entry(2, version="quick")])
    thread.join()
    assert {entry.device.version for entry in fetch.find(quick, "it").entries} == {"slow", "quick"}


class _Robbed(FileStore):
    """Another writer, who read the index before us, puts theirs over ours so many times."""

    times = 1

    def tag(self, name: str, tag: str, media_type: str, text: bytes) -> str:
        found = super().tag(name, tag, media_type, text)
        if self.times:
            self.times -= 1
            super().tag(name, tag, media_type, oci.index([_entry(7, version="theirs")]))
        return found


def test_a_variant_that_another_writer_took_away_is_published_again(tmp_path: Path) -> None:
    store = _Robbed(FolderPlace(tmp_path / "store", "store"))
    send.publish(store, "it", "latest", [_entry(1)])
    assert {entry.device.version for entry in fetch.find(store, "it").entries} == {HERE.version, "theirs"}


def test_a_variant_that_another_writer_replaced_stays_theirs(tmp_path: Path) -> None:
    class Replaced(FileStore):
        def tag(self, name: str, tag: str, media_type: str, text: bytes) -> str:
            super().tag(name, tag, media_type, text)
            return super().tag(name, tag, media_type, oci.index([_entry(7)]))

    store = Replaced(FolderPlace(tmp_path / "store", "store"))
    send.publish(store, "it", "latest", [_entry(1)])
    assert fetch.find(store, "it").entries == (_entry(7),)


def test_publishing_gives_up_where_others_never_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_TRIES", 3)
    monkeypatch.setattr(send, "_SETTLE_S", 0.0)
    store = _Robbed(FolderPlace(tmp_path / "store", "store"))
    store.times = 99
    with pytest.raises(OptimizeError, match="by others all the time"):
        send.publish(store, "it", "latest", [_entry(1)])


def test_what_cannot_be_shipped_is_told_before_any_work(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source, to = bundle(), str(tmp_path / "store")
    for bundles, words in (
        ([], "no bundle"),
        ([tmp_path / "nothing"], "not an engine bundle"),
        ([source, bundle(1)], "same device"),
        ([source, small.bundle(tmp_path / "x", 2, "other")], "another model"),
        ([source.parent], f"it holds some: {source.name}"),
    ):
        with pytest.raises(UsageError, match=words) as caught:
            send.ship(bundles, to)
    assert caught.value.hint == f"optimize ship {source} --to {to}"
    for more in ({"name": "../x"}, {"name": "Upper"}, {"tag": ".."}, {"limit": -1}):
        with pytest.raises(UsageError):
            send.ship([source], to, **more)  # type: ignore[arg-type]
    assert not (tmp_path / "store").exists()


def test_a_damaged_bundle_is_not_shipped(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = bundle()
    with open(source / "model.onnx", "r+b") as file:
        file.seek(50)
        file.write(b"\0\0")
    with pytest.raises(DamagedError, match=r"model\.onnx"):
        send.ship([source], str(tmp_path / "store"))
    assert not (tmp_path / "store/refs").exists()


def test_a_prepared_shipment_that_was_damaged_is_made_again(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = bundle()
    send.ship([source], str(tmp_path / "store"))
    (made,) = (tmp_path / "linear.optimized/.optimize/shipments").iterdir()
    (made / "golden.npz").write_bytes(b"x")
    done = send.ship([source], str(tmp_path / "two"))
    store = open_folder(tmp_path / "two", "two")
    shipment.check(fetch.fetch(store, done["name"], fetch.find(store, done["name"]).entries[0], tmp_path / "v"))


def test_a_shipment_is_signed_where_a_key_is_given(bundle: Callable[..., Path], tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key = trust.new_key(tmp_path / "key")
    raw = trust.read_public(Path(key["public"]))
    source = bundle()
    done = send.ship([source], str(tmp_path / "store"), sign=key["key"])
    store = open_folder(tmp_path / "store", "store")
    policy = trust.Policy(True, {key["id"]: raw})
    path = fetch.fetch(store, "linear-fp32", fetch.find(store, "linear-fp32").entries[0], tmp_path / "v", policy)
    assert shipment.check(path, policy)["signed_by"] == key["id"]
    assert done["variants"][0]["variant"] == f"sha256:{path.name}"
    Path(key["key"]).write_text("no key")
    with pytest.raises(DamagedError, match="no key to sign with"):
        send.ship([source], str(tmp_path / "store2"), sign=key["key"], progress=lambda *told: pytest.fail(str(told)))
    unsigned = send.ship([bundle(0, "again.optimized")], str(tmp_path / "store2"))
    assert unsigned["digest"] != done["digest"]


def test_provenance_says_what_built_the_engine(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = bundle()
    send.ship([source], str(tmp_path / "store"))
    (made,) = (tmp_path / "linear.optimized/.optimize/shipments").iterdir()
    record: Dict[str, Any] = shipment.read(made)["provenance"]
    about = json.loads((source / "manifest.json").read_text())
    assert record["optimize"] == about["version"]
    assert record["built"] == about["created"]
    assert record["model"] == about["model"]
    assert record["graph"] == about["onnx"]["sha256"]
    assert record["build_key"] == about["build_key"]
    assert record["packages"]["onnxruntime"] == about["device"]["version"]


@pytest.mark.parametrize("damage", ["flipped", "shortened"])
def test_shipping_again_mends_what_the_folder_has_damaged(
    bundle: Callable[..., Path], tmp_path: Path, store: FileStore, damage: str
) -> None:
    source = bundle()
    first = send.ship([source], str(tmp_path / "store"))
    blob = _blob(tmp_path, (source / "model.onnx").read_bytes())
    if damage == "flipped":
        _flipped(blob)
    else:
        blob.write_bytes(blob.read_bytes()[:-1])
    with pytest.raises(OptimizeError, match=r"model\.onnx|ended after 7\d+ of") as caught:
        fetch.fetch(store, "linear-fp32", fetch.find(store, "linear-fp32").entries[0], tmp_path / "one")
    if damage == "flipped":
        assert "--verify" in (caught.value.hint or "")
    heard: List[str] = []
    again = send.ship([source], str(tmp_path / "store"), progress=lambda what, *_: heard.append(what))
    (one,) = again["variants"]
    assert again["digest"] == first["digest"] and one["mended"] == ["model.onnx"] and one["unverified"] == []
    assert one["sent_bytes"] == (source / "model.onnx").stat().st_size
    assert any("damaged in" in text and "model.onnx" in text for text in heard)
    shipment.check(fetch.fetch(store, "linear-fp32", fetch.find(store, "linear-fp32").entries[0], tmp_path / "two"))


def test_without_verify_only_the_size_is_looked_at(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = bundle()
    send.ship([source], str(tmp_path / "store"))
    blob = _blob(tmp_path, (source / "model.onnx").read_bytes())
    _flipped(blob)
    (one,) = send.ship([source], str(tmp_path / "store"), verify=False)["variants"]
    assert one["mended"] == [] and one["sent_bytes"] == 0
    assert blob.read_bytes() != (source / "model.onnx").read_bytes()


def test_what_a_newer_version_has_published_is_not_written_anew(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = bundle()
    send.ship([source], str(tmp_path / "store"), name="net")
    ref = tmp_path / "store/refs/net/latest.json"
    ref.write_text(ref.read_text().replace("optimize.ref/1", "optimize.ref/2"))
    newer = ref.read_text()
    for verify in (None, True):
        with pytest.raises(NewerError, match=r"optimize\.ref/2"):
            send.ship([source], str(tmp_path / "store"), name="net", verify=verify)
    assert ref.read_text() == newer


@pytest.mark.parametrize("which", ["variant", "index", "name"])
def test_documents_of_a_store_are_mended_too(
    bundle: Callable[..., Path], tmp_path: Path, store: FileStore, which: str
) -> None:
    source = bundle()
    first = send.ship([source], str(tmp_path / "store"))
    digest = {"variant": first["variants"][0]["variant"], "index": first["digest"], "name": ""}[which]
    reference = tmp_path / "store/refs/linear-fp32/latest.json"
    _flipped(tmp_path / "store/blobs/sha256" / digest[7:] if digest else reference)
    heard: List[str] = []
    with pytest.raises(DamagedError):
        entry = fetch.find(store, "linear-fp32").entries[0]
        fetch.fetch(store, "linear-fp32", entry, tmp_path / "one")
    again = send.ship([source], str(tmp_path / "store"), progress=lambda what, *_: heard.append(what))
    assert again["digest"] == first["digest"]
    assert any("ship the variants of other devices again" in text for text in heard) == (which != "variant")
    shipment.check(fetch.fetch(store, "linear-fp32", fetch.find(store, "linear-fp32").entries[0], tmp_path / "two"))


def test_parts_that_nobody_went_on_with_for_a_day_are_swept_and_younger_ones_stay(
    bundle: Callable[..., Path], tmp_path: Path
) -> None:
    source = bundle()
    send.ship([source], str(tmp_path / "store"))
    blobs, names = tmp_path / "store/blobs/sha256", tmp_path / "store/refs/linear-fp32"
    old = [
        blobs / f".{'0' * 64}.part",
        blobs / f".{'1' * 64}.0123456789abcdef.part",
        names / f".latest.json.{'0' * 16}.part",
    ]
    young = [blobs / f".{'2' * 64}.part", names / f".latest.json.{'1' * 16}.part"]
    kept = [blobs / "notes.part", tmp_path / "store/other.part", tmp_path / "store/.git.part"]  # not of ours
    now = time.time()
    for path, age in [*((p, 90_000) for p in [*old, *kept]), *((p, 80_000) for p in young)]:
        path.write_bytes(b"x")
        os.utime(path, (now - age, now - age))
    send.ship([source], str(tmp_path / "store"))
    assert [path.exists() for path in [*old, *young, *kept]] == [False] * 3 + [True] * 5


def test_an_old_part_of_what_is_shipped_now_is_gone_on_with(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = bundle()
    data = (source / "model.onnx").read_bytes()
    part = _blob(tmp_path, data).with_name(f".{oci.digest_of(data)[7:]}.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(data[:5000])
    os.utime(part, (1e9, 1e9))
    begun: List[int] = []
    real = FolderPlace.send

    def send_(self: FolderPlace, sources: Mapping[str, Path], moved: Callable[[int], None], limit: int) -> List[str]:
        begun.append(part.stat().st_size)
        return real(self, sources, moved, limit)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FolderPlace, "send", send_)
        send.ship([source], str(tmp_path / "store"))
    assert begun == [5000] and not part.exists()
    assert _blob(tmp_path, data).read_bytes() == data


def test_a_read_only_build_folder_is_no_hindrance(bundle: Callable[..., Path], tmp_path: Path) -> None:
    source = bundle()
    shutil.rmtree(tmp_path / "linear.optimized/.optimize")
    done = send.ship([source], str(tmp_path / "store"))
    assert done["variants"][0]["sent_bytes"] > 0
    assert {p.name for p in (tmp_path / "linear.optimized").iterdir()} == {source.name}
