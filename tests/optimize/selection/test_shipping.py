"""From run files or a repository to the engine that was judged, in a store or a repository of Triton."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import optimize
from engines import jsonfile, manifest
from engines.device import DeviceKey, device_key
from engines.errors import DamagedError, IncompatibleError, UsageError
from optimize import device as machine
from optimize.selection import choice
from optimize.selection.choose import select
from optimize.ship import fetch, send, shipment
from optimize.ship.stores.folder import open_folder
from tests.optimize.ship import small
from tests.optimize.ship.conftest import stay_here

from .conftest import Write, noisy, row

HERE = device_key("onnxruntime")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_SETTLE_S", 0.0)
    stay_here(monkeypatch)


def accuracy(top1: float) -> Dict[str, Any]:
    dataset = {"name": "cifar10", "n": 10_000, "sha256": "ab" * 32}
    return {"top1": top1, "top1_drop": None, "agreement": None, "dataset": dataset}


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """The most accurate."""
    return small.bundle(tmp_path / "large", 1, "large", accuracy=accuracy(0.95))


@pytest.fixture
def little(tmp_path: Path) -> Path:
    """The quicker one, a little less accurate."""
    return small.bundle(tmp_path / "little", 2, "little", accuracy=accuracy(0.94))


def measured(bundle: Path, top1: float, ms: float, seed: int, **more: Any) -> Dict[str, Any]:
    about = {"path": str(bundle), **manifest.identity(manifest.read(bundle))}
    return row(bundle.name, top1, noisy(ms, seed=seed), backend="onnxruntime", bundle=about, size_bytes=9, **more)


@pytest.fixture
def runs(large: Path, little: Path, write: Write) -> Path:
    """Ten rounds of both: `little` saves half of the time."""
    return write([measured(large, 0.95, 10, 1), measured(little, 0.94, 5, 2)], cpu="A CPU")


def shipped_engine(url: Path, name: str, tag: str, out: Path) -> Path:
    store = open_folder(url, str(url))
    return fetch.fetch(store, name, fetch.find(store, name, tag).entries[0], out)


def device_file(path: Path, *keys: DeviceKey, model: str = "A CPU") -> Path:
    about = {"model": model, "backends": [key.to_json() for key in keys]}
    path.write_text(json.dumps({**machine.show(), **about}))
    return path


def test_what_passes_is_shipped_and_is_the_engine_that_was_judged(runs: Path, little: Path, tmp_path: Path) -> None:
    out = tmp_path / "choice.json"
    found = optimize.select([runs], ship_to=str(tmp_path / "store"), ship_as="edge:v1", out=out)
    assert (found["chosen"], found["verdict"]) == ("little", "PASS")
    told = found["shipped"]
    assert (told["name"], told["tag"], told["from"]) == ("edge", "v1", str(little))
    assert {key: told[key] for key in ("build_key", "engine_sha256")} == manifest.identity(manifest.read(little))
    path = shipped_engine(tmp_path / "store", "edge", "v1", tmp_path / "versions")
    assert (path / "model.onnx").read_bytes() == (little / "model.onnx").read_bytes()
    assert shipment.check(path)["name"] == "edge" and f"sha256:{path.name}" == told["variants"][0]["variant"]
    assert choice.read(out)["shipped"] == told
    with pytest.raises(DamagedError, match="nothing was chosen"):
        choice.validate(
            {**found, **dict.fromkeys(("chosen", "baseline", "saving", "interval")), "rejected": every(found)}
        )
    with pytest.raises(DamagedError, match=r"shipped\.engine_sha256"):
        choice.validate({**found, "shipped": {**told, "engine_sha256": "x"}})


def every(found: Dict[str, Any]) -> List[Dict[str, str]]:
    return [{"target": one["target"], "reason": ""} for one in found["candidates"]]


def test_what_does_not_pass_stays_unless_it_is_asked_for(runs: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    found = select([runs], min_saving="80%", ship_to=str(store))
    assert found["verdict"] == "FAIL" and found["shipped"] is None and not store.exists()
    found = select([runs], min_saving="80%", ship_to=str(store), ship_anyway=True)
    assert found["verdict"] == "FAIL" and found["shipped"]["name"] == "little-fp32"
    none = select([runs], limit_memory="1B", ship_to=str(tmp_path / "none"), ship_anyway=True)
    assert none["chosen"] is None and none["shipped"] is None and not (tmp_path / "none").exists()


@pytest.mark.parametrize("change", ["built anew", "another key"])
def test_another_engine_than_was_judged_is_not_shipped(runs: Path, little: Path, tmp_path: Path, change: str) -> None:
    shutil.rmtree(little)
    changes: Dict[str, Any] = {} if change == "built anew" else {"build_key": "x"}
    small.bundle(little, 3 if change == "built anew" else 2, "little", **changes)
    with pytest.raises(IncompatibleError, match="built anew since") as caught:
        select([runs], ship_to=str(tmp_path / "store"))
    assert "optimize bench" in (caught.value.hint or "") and not (tmp_path / "store").exists()


def test_a_bundle_that_is_gone_damaged_or_unknown_is_told(
    runs: Path, large: Path, little: Path, tmp_path: Path, write: Write
) -> None:
    store = str(tmp_path / "store")
    (little / "model.onnx").write_bytes(b"x" * (little / "model.onnx").stat().st_size)
    with pytest.raises(DamagedError, match=r"model\.onnx"):
        select([runs], ship_to=store)
    shutil.rmtree(little)
    with pytest.raises(UsageError, match="not on this machine"):
        select([runs], ship_to=store)
    old = write([measured(large, 0.95, 10, 1), row("little", 0.94, noisy(5, seed=2))], "old.json", cpu="A CPU")
    with pytest.raises(UsageError, match="its run tells of none"):
        select([old], ship_to=store)


def test_only_what_the_repository_holds_for_the_device_can_be_chosen(
    runs: Path, large: Path, little: Path, tmp_path: Path
) -> None:
    source = str(tmp_path / "store")
    send.ship([large], source)
    reasons = {one["target"]: one["reason"] for one in select([runs], source=source)["rejected"]}
    assert reasons == {"little": f"{source} does not hold this build"}
    send.ship([little], source)
    shutil.rmtree(little)  # the one in the repository is enough
    found = select([runs], source=source, ship_to=str(tmp_path / "edge"))
    assert found["chosen"] == "little" and found["shipped"]["from"] == source
    path = shipped_engine(tmp_path / "edge", "little-fp32", "latest", tmp_path / "versions")
    assert manifest.identity(manifest.read(path))["build_key"] == "seed 2"
    again = select([runs], source=source, ship_to=source, ship_as="little-fp32:edge")["shipped"]
    assert again["variants"][0]["sent_bytes"] == 0, "it is there, and gets one more name"
    only = select([runs], source=source, names=["large-fp32"])
    assert only["chosen"] == "large" and only["verdict"] == "FAIL"


def test_a_nodes_facts_leave_out_what_it_cannot_run(runs: Path, large: Path, little: Path, tmp_path: Path) -> None:
    source = str(tmp_path / "store")
    send.ship([large], source)
    send.ship([little], source)
    fits = device_file(tmp_path / "fits.json", HERE)
    assert select([runs], source=source, device=fits)["chosen"] == "little"
    other = device_file(tmp_path / "other.json", DeviceKey.from_json({**HERE.to_json(), "version": "0.1"}))
    found = select([runs], source=source, device=other)
    assert found["chosen"] is None and found["verdict"] == "FAIL" and "version" in found["why"]
    status = {"node": "/n", "active": None, "device": json.loads(fits.read_text())}
    (tmp_path / "status.json").write_text(json.dumps(status))
    assert select([runs], source=source, device=tmp_path / "status.json")["chosen"] == "little"
    (tmp_path / "status.json").write_text(json.dumps({"node": "/n", "active": None}))
    with pytest.raises(DamagedError, match="not what its machine is"):
        select([runs], source=source, device=tmp_path / "status.json")


def test_a_repository_alone_tells_candidates_by_what_was_recorded_there(
    large: Path, little: Path, tmp_path: Path
) -> None:
    source = str(tmp_path / "store")
    send.ship([large], source)
    send.ship([little], source)
    send.ship([large], source, tag="again")
    found = select(source=source, device="this-device", policy="greedy", ship_to=str(tmp_path / "edge"))
    assert (found["chosen"], found["verdict"]) == ("large-fp32:again", "PASS")
    assert {one["target"]: one["top1"] for one in found["candidates"]} == {
        "large-fp32:again": 0.95,
        "little-fp32:latest": 0.94,
    }, "an engine of two names is one candidate"
    assert all(one["origin"] == "imported" and one["ms_per_image"] > 0 for one in found["candidates"])
    assert found["interval"] is None and "replicates: all" in found["unknown"]
    assert any(text.startswith("times on this device") for text in found["unknown"])
    assert found["shipped"]["name"] == "large-fp32"
    with pytest.raises(UsageError, match="for which device"):
        select(source=source)
    with pytest.raises(UsageError, match="no such shipment"):
        select(source=source, names=["nothing"], device="this-device")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="holds no engine"):
        select(source=str(tmp_path / "empty"), device="this-device")


def test_the_choice_goes_into_a_repository_of_triton(runs: Path, little: Path, tmp_path: Path) -> None:
    pytest.importorskip("tritonclient.grpc")
    found = select([runs], ship_to=f"triton:{tmp_path / 'models'}", ship_as="edge")
    assert found["shipped"]["models"][0]["name"] == "edge"
    assert (tmp_path / "models/edge/1/model.onnx").read_bytes() == (little / "model.onnx").read_bytes()


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"ship_as": "x"}, "--ship-as"),
        ({"ship_anyway": True}, "--ship-anyway"),
        ({"names": ["x"]}, "--name is of a repository"),
        ({"ship_to": "store", "load": "http://h:1"}, "--load is for"),
        ({"ship_to": "triton:models", "sign": "key"}, "--sign is for stores"),
        ({"ship_to": "store", "ship_as": "../x"}, "no name of a shipment"),
    ],
)
def test_options_that_do_not_go_together_are_refused(runs: Path, more: Dict[str, Any], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        select([runs], **more)


def test_the_command_ships_and_says_so(runs: Path, tmp_path: Path, optimize_command: Callable[..., Any]) -> None:
    done = optimize_command("select", runs, "--ship-to", tmp_path / "store", "--ship-as", "edge", "--json")
    assert done.exit_code == 0, done.stderr
    found: Dict[str, Any] = json.loads(done.stdout)
    assert found["shipped"]["name"] == "edge"
    done = optimize_command("select", runs, "--ship-to", tmp_path / "store")
    assert (
        done.exit_code == 0 and "shipped little (build seed 2)" in done.stdout and "little-fp32:latest" in done.stdout
    )
    done = optimize_command("select", runs, "--ship-to", tmp_path / "none", "--min-saving", "80%")
    assert done.exit_code == 3 and "nothing was shipped" in done.stderr and not (tmp_path / "none").exists()
    done = optimize_command("select", "--from", tmp_path / "store", "--device", "this-device", "--policy", "greedy")
    said: List[str] = done.stdout.splitlines()
    assert done.exit_code == 2 and not said, "one engine is no choice"
    status = optimize_command("node", "status", "--node", tmp_path / "node", "--facts", "--json")
    (tmp_path / "node.json").write_text(status.stdout)
    assert jsonfile.read(tmp_path / "node.json")["device"]["backends"]
