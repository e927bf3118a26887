"""Activation on real engines: the link moves when all is well, and not otherwise."""

from __future__ import annotations

import os
import threading
from pathlib import Path
from typing import Any, Callable, List

import pytest

from engines import jsonfile
from engines.errors import DamagedError, GateError, IncompatibleError, OptimizeError, TrustError, UsageError
from optimize.ship import activate as activation
from optimize.ship import golden, journal, link, node, records, trust, trusted

Pulled = Callable[..., str]


def events(place: Path) -> List[str]:
    found, damaged = journal.lines(place, 100)
    assert not damaged
    assert [line["sequence"] for line in found] == sorted({line["sequence"] for line in found})
    return [line["event"] for line in found]


def test_the_version_pulled_last_is_activated_by_default(place: Path, pulled: Pulled) -> None:
    pulled(1)
    second = pulled(2)
    done = activation.activate(place)
    assert done["active"]["variant"] == second and done["active"]["verified"] and done["before"] is None
    assert done["active"]["golden"]["against"] == "engine" and done["active"]["health"] == "passed"
    assert os.readlink(place / "active") == f"versions/{second}"
    assert (place / "active" / "model.onnx").is_file()
    assert events(place) == ["pulled", "pulled", "activated"]
    assert journal.last(place)["active"] == second  # type: ignore[index]


def test_rollback_goes_back_and_then_one_further_back(place: Path, pulled: Pulled) -> None:
    first, second, third = pulled(1), pulled(2), pulled(3)
    for variant in (first, second, third):
        activation.activate(place, variant[:12])
    assert activation.rollback(place)["active"]["variant"] == second
    done = activation.rollback(place)
    assert done["active"]["variant"] == first and done["before"] is None
    with pytest.raises(UsageError, match="no version to go back to"):
        activation.rollback(place)
    activation.activate(place, third[:12])
    assert activation.rollback(place)["active"]["variant"] == first
    assert events(place)[-3:] == ["rolled-back", "activated", "rolled-back"]


def test_rollback_needs_no_journal_and_no_record_alone(place: Path, pulled: Pulled) -> None:
    first, second = pulled(1), pulled(2)
    activation.activate(place, first[:12])
    activation.activate(place, second[:12])
    (place / "journal.jsonl").write_bytes(os.urandom(500))
    assert node.status(place)["rollback"] == first
    assert activation.rollback(place)["active"]["variant"] == first
    activation.activate(place, second[:12])
    for record in (place / "records").iterdir():
        record.write_text("{")
    assert node.status(place)["rollback"] == first
    assert activation.rollback(place)["active"]["variant"] == first


@pytest.mark.parametrize("file", ["model.onnx", "manifest.json", "golden.npz", "shipment.json"])
def test_one_flipped_bit_is_refused_and_the_old_one_stays(place: Path, pulled: Pulled, file: str) -> None:
    first, second = pulled(1), pulled(2)
    activation.activate(place, first[:12])
    path = place / "versions" / second / file
    content = bytearray(path.read_bytes())
    at = content.index(b"0.1.0") + 4 if file == "shipment.json" else len(content) // 2
    content[at] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedError, match=r"was refused: .*; linear-fp32:latest .* stays active") as caught:
        activation.activate(place)
    assert file in caught.value.message
    assert link.pointed(place) == first
    line = journal.last(place)
    assert line is not None and (line["event"], line["variant"], line["active"]) == ("refused", second, first)
    assert file in line["reason"]
    assert node.status(place, check=True)["versions"][0]["damage"]


def test_other_answers_than_recorded_are_refused(place: Path, pulled: Pulled, monkeypatch: pytest.MonkeyPatch) -> None:
    first, _ = pulled(1), pulled(2)
    activation.activate(place, first[:12])
    monkeypatch.setattr(golden, "_beyond", lambda figures, tolerance: ["the answers differ"])
    with pytest.raises(GateError, match=r"batch 1: the answers differ.* stays active"):
        activation.activate(place)
    assert link.pointed(place) == first and events(place)[-1] == "refused"


def test_an_engine_of_another_device_is_refused(place: Path, pulled: Pulled) -> None:
    first = pulled(1)
    activation.activate(place)
    device = {**node.status(place)["active"]["device"], "version": "0.0.1"}
    other = pulled(2, answers=False, device=device)
    with pytest.raises(IncompatibleError, match=r"will not run here: .*0\.0\.1"):
        activation.activate(place, other[:12])
    assert link.pointed(place) == first


def test_signatures_are_asked_of_every_activation(place: Path, pulled: Pulled, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    first, second = pulled(1), pulled(2)
    activation.activate(place, first[:12])
    ours, theirs = (trust.new_key(tmp_path / name) for name in ("ours", "theirs"))
    trusted.add(place, Path(ours["public"]))
    node.set_policy(place, require_signature=True)
    with pytest.raises(TrustError, match="not signed"):
        activation.activate(place, second[:12])
    version = place / "versions" / second
    trust.sign(version, Path(theirs["key"]))
    with pytest.raises(TrustError, match=f"signed by key {theirs['id']}, which is not trusted here"):
        activation.activate(place, second[:12])
    trust.sign(version, Path(ours["key"]))
    with pytest.raises(DamagedError, match="changed since it was pulled"):
        activation.activate(place, second[:12])
    assert link.pointed(place) == first and events(place)[-3:] == ["refused"] * 3
    with pytest.raises(TrustError):
        activation.activate(place, first[:12])


def test_a_failed_health_check_goes_back_by_itself(place: Path, pulled: Pulled) -> None:
    first, second = pulled(1), pulled(2)
    with pytest.raises(GateError, match="ended with code 1: it said nothing; no version is active"):
        activation.activate(place, first[:12], health="false")
    assert link.pointed(place) is None and not os.path.lexists(place / "active")
    activation.activate(place, first[:12], health="sh -c 'test -f $OPTIMIZE_ACTIVE/model.onnx'")
    with pytest.raises(GateError, match=r"code 3: too hot; .* is active again"):
        activation.activate(place, second[:12], health="sh -c 'echo too hot; exit 3'")
    assert link.pointed(place) == first and records.read(place, second)["health"].startswith("failed: ")
    with pytest.raises(GateError, match=r"longer than 0\.2 s"):
        activation.activate(place, second[:12], health="sleep 60", patience=0.2)
    with pytest.raises(GateError, match="does not start"):
        activation.activate(place, second[:12], health="/no/such/program")
    assert link.pointed(place) == first
    assert events(place)[-2:] == ["activated", "rolled-back"]
    with pytest.raises(UsageError):
        activation.activate(place, second[:12], health="'")


def test_an_activation_cut_before_its_health_check_is_finished_or_undone(place: Path, pulled: Pulled) -> None:
    first, second = pulled(1), pulled(2)
    activation.activate(place, first[:12])
    activation.activate(place, second[:12])
    records.write(place, {**records.read(place, second), "health": "pending"})
    assert "interrupted before its health check" in " ".join(node.status(place)["problems"])
    with pytest.raises(GateError, match="is active again"):
        activation.activate(place, second[:12], health="false")
    assert link.pointed(place) == first
    activation.activate(place, second[:12])
    with pytest.raises(GateError, match="stays active, and is not well"):
        activation.activate(place, second[:12], health="false")
    assert link.pointed(place) == second


def test_an_interrupt_in_the_health_check_goes_back(
    place: Path, pulled: Pulled, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = pulled(1), pulled(2)
    activation.activate(place, first[:12])

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(activation, "_check_health", interrupted)
    with pytest.raises(KeyboardInterrupt):
        activation.activate(place, second[:12])
    assert link.pointed(place) == first and events(place)[-1] == "rolled-back"


def test_without_golden_answers_nothing_is_verified(place: Path, pulled: Pulled) -> None:
    pulled(1, answers=False)
    active = activation.activate(place)["active"]
    assert not active["verified"] and active["golden"]["against"] == "none"


def test_readers_always_find_a_whole_version_while_it_switches(place: Path, pulled: Pulled) -> None:
    variants = [pulled(seed) for seed in (1, 2)]
    activation.activate(place)
    known = {v: jsonfile.sha256(place / "versions" / v / "model.onnx") for v in variants}
    stop, seen, wrong = threading.Event(), set(), []

    def read() -> None:
        while not stop.is_set():
            try:
                with link.using(place) as path:
                    seen.add(path.name)
                    if jsonfile.sha256(path / "model.onnx") != known[path.name]:
                        wrong.append(path.name)
            except (OSError, OptimizeError) as error:
                wrong.append(repr(error))

    readers = [threading.Thread(target=read) for _ in range(2)]
    for one in readers:
        one.start()
    for turn in range(40):
        with node.locked(place):
            link.point(place, variants[turn % 2])
    stop.set()
    for one in readers:
        one.join()
    assert not wrong and seen == set(variants)
