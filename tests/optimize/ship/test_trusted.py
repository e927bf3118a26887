"""The trust store of a node."""

from __future__ import annotations

from pathlib import Path
from typing import Dict

import pytest

from engines.errors import DamagedError, UsageError
from optimize.ship import node, trust, trusted


@pytest.fixture
def keys(tmp_path: Path) -> Dict[str, Dict[str, str]]:
    pytest.importorskip("cryptography")
    return {name: trust.new_key(tmp_path / name) for name in ("one", "two")}


def test_keys_come_and_go(place: Path, keys: Dict[str, Dict[str, str]]) -> None:
    one, two = keys["one"], keys["two"]
    assert trusted.listed(place) == []
    assert trusted.add(place, Path(one["public"]))["new"]
    assert not trusted.add(place, Path(one["public"]))["new"]
    trusted.add(place, Path(two["public"]))
    assert {k["id"]: k["line"] for k in trusted.listed(place)} == {k["id"]: k["line"] for k in (one, two)}
    node.set_policy(place, require_signature=True)
    assert trusted.remove(place, one["id"])["left"] == [two["id"]]
    with pytest.raises(UsageError, match="the last key, and signatures are required"):
        trusted.remove(place, two["id"])
    node.set_policy(place, require_signature=False)
    assert trusted.remove(place, two["id"])["left"] == []
    with pytest.raises(UsageError, match="not trusted here; there are none"):
        trusted.remove(place, "../node")


def test_a_private_key_is_no_key_to_trust(place: Path, keys: Dict[str, Dict[str, str]]) -> None:
    with pytest.raises(DamagedError, match="no public key"):
        trusted.add(place, Path(keys["one"]["key"]))
    with pytest.raises(UsageError, match="no such key"):
        trusted.add(place, place / "none.pub")
    assert not place.exists()
