"""The folder of a node: made, refused, held by one writer, put in order, and told about."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

from engines.errors import DamagedError, NewerError, OptimizeError, UsageError
from optimize.ship import activate as activation
from optimize.ship import journal, link, node, records

Pulled = Callable[..., str]


def test_where_a_node_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("OPTIMIZE_NODE", raising=False)
    assert node.home() == Path.home() / ".local/share/optimize/node"
    monkeypatch.setenv("OPTIMIZE_NODE", str(tmp_path / "a"))
    assert node.home() == tmp_path / "a" and node.home(tmp_path / "b") == tmp_path / "b"


def test_asking_makes_nothing(place: Path) -> None:
    told = node.status(place)
    assert told["active"] is None and told["versions"] == [] and told["problems"] == []
    assert told["policy"] == {"require_signature": False, "keep": 3}
    assert not place.exists()


def test_what_is_no_node_is_refused(place: Path, tmp_path: Path) -> None:
    place.mkdir()
    (place / "thesis.tex").write_text("")
    with pytest.raises(UsageError, match="is no node, and not empty"), node.locked(place):
        pass
    file = tmp_path / "file"
    file.write_text("")
    with pytest.raises(UsageError, match="is a file"):
        node.status(file)


def test_a_newer_schema_is_refused_by_name(place: Path, pulled: Pulled) -> None:
    pulled(1)
    (place / "node.json").write_text('{"schema": "optimize.node/2", "keep": 3}')
    for ask in (node.status, activation.activate):
        with pytest.raises(NewerError, match=r"'optimize\.node/2', this version reads 'optimize\.node/1'") as caught:
            ask(place)
        assert caught.value.exit_code == 4 and "pip install --upgrade" in caught.value.hint


def test_a_lost_policy_is_not_a_lax_one(place: Path, pulled: Pulled) -> None:
    pulled(1)
    (place / "node.json").unlink()
    with pytest.raises(DamagedError, match="whether signatures are required"):
        activation.activate(place)
    assert node.set_policy(place, require_signature=False)["require_signature"] is False
    assert activation.activate(place)["active"]


def test_the_policy_is_changed_field_by_field(place: Path) -> None:
    assert node.set_policy(place, keep=5) == {"require_signature": False, "keep": 5}
    with pytest.raises(UsageError, match="no key is trusted"):
        node.set_policy(place, require_signature=True)
    with pytest.raises(UsageError, match="--keep -1"):
        node.set_policy(place, keep=-1)
    assert node.policy(place) == {"require_signature": False, "keep": 5}


def test_a_second_writer_waits_or_fails(place: Path) -> None:
    order: List[str] = []
    waits = threading.Event()

    def told(what: str, done: int, total: int) -> None:
        order.append(what)
        waits.set()

    def second() -> None:
        with node.locked(place, progress=told):
            order.append("second")

    with node.locked(place):
        with pytest.raises(OptimizeError, match="another command is writing there"), node.locked(place, wait=False):
            pass
        thread = threading.Thread(target=second)
        thread.start()
        assert waits.wait(60)
        order.append("first")
    thread.join()
    assert order == [f"waiting for another command in {place}", "first", "second"]


def test_what_a_killed_writer_left_is_put_in_order(place: Path, pulled: Pulled) -> None:
    first, second = pulled(1), pulled(2)
    activation.activate(place, first)
    records.path_of(place, second).unlink()
    records.path_of(place, "f" * 64).write_text("{}")
    (place / f".active.{'0' * 16}.part").symlink_to("nowhere")
    old = place / "versions" / f".{second}.{'0' * 16}.old"
    old.mkdir()
    whole = (place / "journal.jsonl").read_bytes()
    (place / "journal.jsonl").write_bytes(whole[:-9])
    with node.locked(place):
        pass
    assert not old.exists() and not os.path.lexists(place / f".active.{'0' * 16}.part")
    assert set(records.present(place)) == {first, second} == {p.stem for p in (place / "records").iterdir()}
    found, damaged = journal.lines(place, 10)
    assert damaged == 1 and [line["event"] for line in found] == ["pulled", "pulled", "activated", "removed"]
    assert found[-2]["active"] == first and "the journal did not" in found[-2]["reason"]
    before = (place / "journal.jsonl").read_bytes()
    with node.locked(place):
        pass
    assert (place / "journal.jsonl").read_bytes() == before


def test_the_link_is_the_truth_whatever_the_journal_says(place: Path, pulled: Pulled) -> None:
    first, second = pulled(1), pulled(2)
    activation.activate(place, first)
    journal.add(place, records.next_number(place), "activated", second, variant=second)
    assert node.status(place)["active"]["variant"] == first
    with node.locked(place):
        pass
    line = journal.last(place)
    assert line is not None and line["active"] == first


def test_a_clock_that_jumps_back_changes_no_order(place: Path, pulled: Pulled, monkeypatch: pytest.MonkeyPatch) -> None:
    days = iter(range(28, 0, -1))
    for module in (node, journal, activation):
        monkeypatch.setattr(module, "now", lambda: f"2024-02-{next(days):02d}T00:00:00Z")
    first, second = pulled(1), pulled(2)
    assert activation.activate(place)["active"]["variant"] == second
    assert activation.activate(place, first)["before"]["variant"] == second
    assert activation.rollback(place)["active"]["variant"] == second


def test_an_active_that_is_no_link_to_a_version_is_told(place: Path, pulled: Pulled, tmp_path: Path) -> None:
    first = pulled(1)
    (place / "active").symlink_to(tmp_path)
    told = node.status(place)
    assert told["active"] is None and "not a link to a version" in told["problems"][0]
    with pytest.raises(DamagedError, match="not a link to a version"):
        activation.activate(place)
    (place / "active").unlink()
    (place / "active").mkdir()
    with pytest.raises(DamagedError, match="not a link to a version"):
        link.pointed(place)
    (place / "active").rmdir()
    assert activation.activate(place)["active"]["variant"] == first


def test_an_active_version_that_is_gone_is_told(place: Path, pulled: Pulled) -> None:
    pulled(1)
    (place / "active").symlink_to(f"versions/{'a' * 64}")
    told = node.status(place)
    assert told["active"] is None and f"the active version {'a' * 12} is gone" in told["problems"][0]
    with pytest.raises(UsageError, match="no version is active"), node.using(place):
        pass
    assert activation.activate(place)["active"]


def test_pulling_the_same_again_changes_no_journal(place: Path, pulled: Pulled) -> None:
    first = pulled(1)
    pulled(2)
    pulled(1)
    assert [line["event"] for line in journal.lines(place, 10)[0]] == ["pulled", "pulled"]
    assert records.find(place, None)["variant"] == first
    pulled(1, "other")
    assert journal.lines(place, 10)[0][-1]["tag"] == "other"


def test_status_is_json(place: Path, pulled: Pulled) -> None:
    first = pulled(1)
    activation.activate(place)
    told: Any = json.loads(json.dumps(node.status(place, check=True)))
    assert told["active"]["digest"] == f"sha256:{1:064x}" and told["active"]["verified"] is True
    assert told["active"]["name"] == "linear-fp32" and told["active"]["tag"] == "latest"
    assert told["active"]["path"] == str(place / "active") and told["active"]["damage"] is None
    assert told["active"]["precision"] == "fp32" and told["active"]["device"]["backend"] == "onnxruntime"
    assert [one["variant"] for one in told["versions"]] == [first]


@pytest.mark.parametrize("name", ["lock", "active"])
def test_links_in_a_circle_are_told_as_a_damaged_node(place: Path, pulled: Callable[..., str], name: str) -> None:
    pulled(1)
    (place / name).unlink(missing_ok=True)
    (place / name).symlink_to(name)
    with pytest.raises(DamagedError) as caught, node.locked(place):
        pass
    assert str(place / name) in caught.value.message
