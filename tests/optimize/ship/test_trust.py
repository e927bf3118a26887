"""Signatures: by a trusted key over exactly this list, or refused with the reason."""

from __future__ import annotations

import json
import os
import shutil
import stat
from pathlib import Path
from typing import Tuple

import pytest

from engines.errors import DamagedError, TrustError, UsageError
from optimize.ship import shipment, trust
from tests.optimize.ship import small

pytest.importorskip("cryptography")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.made(tmp_path_factory.mktemp("source") / "it", answers=False)


@pytest.fixture
def whole(source: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(source, tmp_path / "it"))


@pytest.fixture
def key(tmp_path: Path) -> Tuple[Path, bytes]:
    """A private key, and the public one that belongs to it."""
    made = trust.new_key(tmp_path / "keys" / "release")
    return Path(made["key"]), trust.read_public(Path(made["public"]))


def _policy(*keys: bytes, required: bool = True) -> trust.Policy:
    return trust.Policy(required, {trust.key_id(raw): raw for raw in keys})


def test_a_key_is_readable_by_its_owner_only_and_never_overwritten(key: Tuple[Path, bytes]) -> None:
    path, raw = key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    shown = trust.show_key(path)
    assert shown == trust.show_key(path.with_name("release.pub"))
    assert shown["id"] == trust.key_id(raw)
    assert trust.parse_public(shown["line"] + " alice's laptop") == raw
    with pytest.raises(UsageError, match="never overwritten"):
        trust.new_key(path)


def test_a_shipment_signed_by_a_trusted_key_is_taken(whole: Path, key: Tuple[Path, bytes]) -> None:
    path, raw = key
    assert trust.sign(whole, path) == trust.key_id(raw)
    assert shipment.check(whole, _policy(raw))["signed_by"] == trust.key_id(raw)
    assert shipment.check(whole)["signed_by"] is None


def test_signing_twice_gives_the_same_bytes(whole: Path, key: Tuple[Path, bytes]) -> None:
    trust.sign(whole, key[0])
    before = (whole / trust.NAME).read_bytes()
    trust.sign(whole, key[0])
    assert (whole / trust.NAME).read_bytes() == before


def test_an_unsigned_one_is_refused_where_a_signature_is_required(whole: Path, key: Tuple[Path, bytes]) -> None:
    with pytest.raises(TrustError, match="not signed"):
        shipment.check(whole, _policy(key[1]))
    assert shipment.check(whole, _policy(key[1], required=False))["signed_by"] is None


@pytest.mark.parametrize("required", [True, False])
def test_another_key_is_refused_also_where_none_is_required(
    whole: Path, key: Tuple[Path, bytes], tmp_path: Path, required: bool
) -> None:
    other = trust.new_key(tmp_path / "other")
    trust.sign(whole, Path(other["key"]))
    with pytest.raises(TrustError, match=f"signed by key {other['id']}.*trusted: {trust.key_id(key[1])}") as caught:
        shipment.check(whole, _policy(key[1], required=required))
    assert caught.value.exit_code == 4


def test_a_signature_under_the_id_of_another_key_is_refused(
    whole: Path, key: Tuple[Path, bytes], tmp_path: Path
) -> None:
    trust.sign(whole, Path(trust.new_key(tmp_path / "other")["key"]))
    value = json.loads((whole / trust.NAME).read_text())
    (whole / trust.NAME).write_text(json.dumps({**value, "key": trust.key_id(key[1])}))
    with pytest.raises(TrustError, match="not of this shipment"):
        shipment.check(whole, _policy(key[1]))


def test_a_list_that_changed_after_it_was_signed_is_refused(whole: Path, key: Tuple[Path, bytes]) -> None:
    trust.sign(whole, key[0])
    value = json.loads((whole / shipment.NAME).read_text())
    (whole / shipment.NAME).write_text(json.dumps({**value, "created": "2030-01-01T00:00:00Z"}))
    with pytest.raises(TrustError, match="not of this shipment"):
        shipment.check(whole, _policy(key[1]))


def test_the_signature_of_another_shipment_is_refused(whole: Path, key: Tuple[Path, bytes], tmp_path: Path) -> None:
    other = small.made(tmp_path / "other", 1, answers=False)
    trust.sign(other, key[0])
    shutil.copyfile(other / trust.NAME, whole / trust.NAME)
    with pytest.raises(TrustError):
        shipment.check(whole, _policy(key[1]))


@pytest.mark.parametrize("content", [b"", b"{}", b"x" * 70000, b'{"schema": "optimize.signature/1", "key": 1}'])
def test_a_signature_file_that_is_none_is_refused(whole: Path, key: Tuple[Path, bytes], content: bytes) -> None:
    (whole / trust.NAME).write_bytes(content)
    with pytest.raises(DamagedError):
        shipment.check(whole, _policy(key[1]))


def test_a_signature_behind_a_link_is_refused(whole: Path, key: Tuple[Path, bytes], tmp_path: Path) -> None:
    trust.sign(whole, key[0])
    (whole / trust.NAME).rename(tmp_path / "elsewhere")
    (whole / trust.NAME).symlink_to(tmp_path / "elsewhere")
    with pytest.raises(DamagedError, match="link"):
        shipment.check(whole, _policy(key[1]))


def test_a_key_that_others_can_read_does_not_sign(whole: Path, key: Tuple[Path, bytes]) -> None:
    os.chmod(key[0], 0o640)
    with pytest.raises(TrustError, match="others can read"):
        trust.sign(whole, key[0])


def test_what_is_no_private_key_is_told_and_never_shown(whole: Path, key: Tuple[Path, bytes], tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="public key"):
        trust.sign(whole, key[0].with_name("release.pub"))
    with pytest.raises(UsageError, match="no such key"):
        trust.sign(whole, tmp_path / "nothing")
    broken = tmp_path / "broken"
    broken.write_text(key[0].read_text().replace("PRIVATE", "SECRET"))
    broken.chmod(0o600)
    with pytest.raises(DamagedError) as caught:
        trust.sign(whole, broken)
    assert key[0].read_text().splitlines()[1] not in caught.value.message


def test_a_trust_store_holds_keys_under_their_own_ids(key: Tuple[Path, bytes], tmp_path: Path) -> None:
    store = tmp_path / "trust"
    assert trust.trusted(store) == {}
    store.mkdir()
    line = trust.public_line(key[1])
    (store / f"{trust.key_id(key[1])}.pub").write_text(line + "\n")
    assert trust.trusted(store) == {trust.key_id(key[1]): key[1]}
    (store / f"{'0' * 16}.pub").write_text(line + "\n")
    with pytest.raises(DamagedError, match="the key in it is"):
        trust.trusted(store)


@pytest.mark.parametrize("text", ["", "ssh-ed25519 AAAA", "optimize-ed25519", "optimize-ed25519 AAAA", "a\nb\nc"])
def test_what_is_no_public_key_is_refused(text: str) -> None:
    with pytest.raises(DamagedError, match="no public key"):
        trust.parse_public(text)
