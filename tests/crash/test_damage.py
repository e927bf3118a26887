"""A flipped bit in any file of a shipment, and signatures by the wrong key: refused by name, and the old one stays."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, Callable, Dict, Tuple

import pytest

from engines.errors import DamagedError, OptimizeError, TrustError
from optimize.ship import activate as activation
from optimize.ship import fetch, journal, node, oci, pull, send, trust, trusted
from optimize.ship.url import open_store
from tests.crash.worlds import CASES, NEW, Case, World

WorldOf = Callable[[Case], World]

PLACES = (0.0, 0.37, 0.99)
"""Where in a file a bit is flipped, as shares of its length."""


def flip(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(bytes(content))


def reason(world: World) -> str:
    line = journal.last(world.place)
    assert line is not None and line["event"] == "refused" and line["active"] == world.old
    return str(line["reason"])


@pytest.mark.usefixtures("same_process")
def test_a_bit_flipped_in_any_file_of_the_store(world_of: WorldOf, record_property: Any) -> None:
    world = world_of(CASES["pull"])
    store = open_store(str(world.store))
    index = fetch.find(store, "linear-fp32")
    variant = index.entries[0].digest
    digests = {"the index": index.digest, "the image manifest": variant}
    for blob in oci.read_variant(store.get_document("linear-fp32", variant, 1 << 20)):
        digests[blob.name] = blob.digest
    count = 0
    for digest in digests.values():
        for where in PLACES:
            world.reset()
            CASES["pull"].prepare(world)
            flip(world.store / "blobs" / "sha256" / digest.split(":")[1], where)
            with pytest.raises(DamagedError):
                pull.pull("linear-fp32", str(world.store), node=world.place)
            world.sound({world.old})
            assert world.new not in {one["variant"] for one in node.status(world.place)["versions"]}
            count += 1
    record_property("count", ["pulled with one bit flipped in the store", count])


@pytest.mark.usefixtures("same_process")
def test_a_bit_flipped_in_any_file_of_the_node(world_of: WorldOf, record_property: Any) -> None:
    world = world_of(CASES["activate"])
    names = sorted(path.name for path in (world.place / "versions" / world.new).iterdir())
    for name in names:
        for where in PLACES:
            world.reset()
            flip(world.place / "versions" / world.new / name, where)
            with pytest.raises(DamagedError, match=r"was refused: .* stays active") as caught:
                activation.activate(world.place, world.new)
            assert name in caught.value.message and name in reason(world)
            told = node.status(world.place, check=True)
            assert told["active"]["variant"] == world.old and told["active"]["damage"] is None
    record_property("count", ["activated with one bit flipped on the node", len(names) * len(PLACES)])


@pytest.mark.usefixtures("same_process")
def test_a_damaged_version_is_mended_by_pulling_it_again(world_of: WorldOf) -> None:
    world = world_of(CASES["activate"])
    shutil.copy(*(world.store / "refs" / "linear-fp32" / f"{name}.json" for name in ("next", "latest")))
    flip(world.place / "versions" / world.new / "model.onnx", 0.5)
    pull.pull("linear-fp32", str(world.store), node=world.place)
    assert activation.activate(world.place)["active"]["variant"] == world.new


@pytest.fixture
def keys(tmp_path: Path) -> Dict[str, Dict[str, str]]:
    pytest.importorskip("cryptography")
    return {name: trust.new_key(tmp_path / name) for name in ("ours", "theirs")}


@pytest.mark.usefixtures("same_process")
@pytest.mark.parametrize(
    "by, why",
    [
        (None, "not signed"),
        ("theirs", "signed by key .*, which is not trusted here"),
        ("forged", "signature by key .* is not of this shipment.json"),
    ],
)
def test_what_is_not_signed_by_a_trusted_key_is_not_pulled(
    world_of: WorldOf,
    keys: Dict[str, Dict[str, str]],
    by: Any,
    why: str,
    tmp_path: Path,
    record_property: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(send, "_SETTLE_S", 0.0)
    world = world_of(CASES["pull"])
    trusted.add(world.place, Path(keys["ours"]["public"]))
    node.set_policy(world.place, require_signature=True)
    signed = tmp_path / "signed"
    shutil.copytree(world.shipments[NEW], signed)
    if by == "theirs":
        trust.sign(signed, Path(keys["theirs"]["key"]))
    if by == "forged":  # by our key, over another shipment
        other = tmp_path / "other"
        shutil.copytree(world.shipments[NEW], other)
        (other / "shipment.json").write_bytes((other / "shipment.json").read_bytes() + b" ")
        trust.sign(other, Path(keys["ours"]["key"]))
        shutil.copy(other / trust.NAME, signed / trust.NAME)
    send.ship([signed], str(world.store), "linear-fp32")
    with pytest.raises(TrustError, match=why) as caught:
        pull.pull("linear-fp32", str(world.store), node=world.place)
    assert isinstance(caught.value, OptimizeError) and caught.value.exit_code == 4
    assert caught.value.message[:40] in reason(world)
    told: Tuple[Any, ...] = (node.status(world.place)["active"]["variant"], len(node.status(world.place)["versions"]))
    assert told == (world.old, 2)
    record_property("count", ["pulled with a signature that is none of ours", 1])


@pytest.mark.usefixtures("same_process")
def test_what_a_trusted_key_has_signed_is_taken(
    world_of: WorldOf, keys: Dict[str, Dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(send, "_SETTLE_S", 0.0)
    world = world_of(CASES["pull"])
    trusted.add(world.place, Path(keys["ours"]["public"]))
    node.set_policy(world.place, require_signature=True)
    send.ship([world.shipments[NEW]], str(world.store), "linear-fp32", sign=keys["ours"]["key"])
    done = pull.pull("linear-fp32", str(world.store), node=world.place)
    assert done["signed_by"] == keys["ours"]["id"]
    assert activation.activate(world.place)["active"]["variant"] == done["variant"].split(":")[1]
