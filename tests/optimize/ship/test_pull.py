"""From a build here to a node there: the variant that fits, or one that is built; into a node or a folder."""

from __future__ import annotations

import json
import shutil
import threading
from pathlib import Path
from typing import Any, Callable, Dict

import onnx
import pytest

import optimize
from engines import manifest
from engines.errors import DamagedError, GateError, IncompatibleError, ModelError, OptimizeError, TrustError, UsageError
from optimize.ship import activate, lock, node, oci, pull, send, shipment, trust
from tests.optimize.ship import small


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_SETTLE_S", 0.0)


@pytest.fixture
def shipped(tmp_path: Path, same_process: None) -> Dict[str, Any]:
    """A small engine for this device in the store `store`."""
    return send.ship([small.bundle(tmp_path / "it")], str(tmp_path / "store"))


@pytest.fixture
def foreign(built: Any, tmp_path: Path) -> Callable[[str], Path]:
    """`foreign("int8")`: the real bundle of that precision with its build, made for a machine that this is not."""

    def make(precision: str) -> Path:
        bundle = next(one.path for one in built.bundles if one.precision == precision)
        out = tmp_path / "tiny.optimized"
        shutil.copytree(bundle.parent / ".optimize", out / ".optimize")
        shutil.copytree(bundle, out / bundle.name)
        about = manifest.read(out / bundle.name)
        manifest.write(out / bundle.name, {**about, "device": {**about["device"], "arch": "riscv64"}})
        return out / bundle.name

    return make


def test_a_node_gets_what_fits_and_activates_it(shipped: Dict[str, Any], tmp_path: Path) -> None:
    home = tmp_path / "node"
    done = optimize.pull("linear-fp32", str(tmp_path / "store"), node=home)
    assert (done["name"], done["tag"], done["digest"]) == ("linear-fp32", "latest", shipped["digest"])
    assert done["variant"] == shipped["variants"][0]["variant"]
    assert not done["built"]
    assert [one["why_not"] for one in done["variants"]] == [None]
    status = node.status(home)
    assert status["active"] is None
    assert status["versions"][0]["url"] == str(tmp_path / "store")
    activate.activate(home)
    assert node.status(home)["active"]["digest"] == shipped["digest"]


def test_by_its_digest_a_shipment_has_no_tag(shipped: Dict[str, Any], tmp_path: Path) -> None:
    done = pull.pull(f"linear-fp32@{shipped['digest']}", str(tmp_path / "store"), node=tmp_path / "node")
    assert (done["tag"], done["digest"]) == (None, shipped["digest"])


def test_a_folder_becomes_the_shipment_and_is_a_bundle(shipped: Dict[str, Any], tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = pull.pull("linear-fp32", str(tmp_path / "store"), out=out)
    assert done["node"] is None
    assert Path(done["path"]) == out
    shipment.check(out)
    with optimize.load(out) as engine:
        assert engine.inputs[0].name == "image"
    assert {p.name for p in tmp_path.iterdir()} == {"it", "store", "out"}
    stamp = (out / "model.onnx").stat().st_ino
    pull.pull("linear-fp32", str(tmp_path / "store"), out=out)
    assert (out / "model.onnx").stat().st_ino == stamp


def test_pulls_to_one_folder_wait_for_each_other(shipped: Dict[str, Any], tmp_path: Path) -> None:
    together, done = threading.Barrier(4), []

    def one() -> None:
        together.wait()
        done.append(pull.pull("linear-fp32", str(tmp_path / "store"), out=tmp_path / "out")["variant"])

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert done == [shipped["variants"][0]["variant"]] * 4
    shipment.check(tmp_path / "out")
    assert {p.name for p in tmp_path.iterdir()} == {"it", "store", "out"}


def test_a_pull_that_is_not_to_wait_says_that_another_writes(shipped: Dict[str, Any], tmp_path: Path) -> None:
    with lock.held(tmp_path / ".out.pull"), pytest.raises(OptimizeError, match="another command is writing"):
        pull.pull("linear-fp32", str(tmp_path / "store"), out=tmp_path / "out", wait=False)


def test_a_folder_of_something_else_is_left_alone(shipped: Dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("x")
    with pytest.raises(UsageError, match="is there and is no shipment"):
        pull.pull("linear-fp32", str(tmp_path / "store"), out=tmp_path / "out")
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["thesis.txt"]


def test_another_devices_variant_is_brought_by_its_key(tmp_path: Path, same_process: None) -> None:
    here = small.bundle(tmp_path / "here")
    about = manifest.read(here)
    there = small.bundle(tmp_path / "there", 1, device={**about["device"], "arch": "aarch64"})
    send.ship([here, there], str(tmp_path / "store"))
    done = pull.pull("linear-fp32", str(tmp_path / "store"), for_=str(there), out=tmp_path / "out")
    assert done["device"]["arch"] == "aarch64"
    assert [bool(one["why_not"]) for one in done["variants"]] == [False, True]
    told = pull.variants("linear-fp32", str(tmp_path / "store"))
    assert [one["device"]["arch"] for one in told["variants"]] == [about["device"]["arch"], "aarch64"]
    assert "aarch64" in told["variants"][1]["why_not"]


def test_where_nothing_fits_the_error_says_why_of_each_and_the_node_notes_it(
    tmp_path: Path, same_process: None
) -> None:
    device = manifest.read(small.bundle(tmp_path / "here"))["device"]
    bundles = [
        small.bundle(tmp_path / str(i), i, device={**device, **change})
        for i, change in enumerate(({"arch": "aarch64"}, {"os": "darwin"}))
    ]
    send.ship(bundles, str(tmp_path / "store"))
    with pytest.raises(IncompatibleError, match=r"aarch64.*\(arch\)") as caught:
        pull.pull("linear-fp32", str(tmp_path / "store"), node=tmp_path / "node")
    assert "darwin" in caught.value.message
    assert "--allow-build" in caught.value.hint
    events = [json.loads(text) for text in (tmp_path / "node/journal.jsonl").read_text().splitlines()]
    assert events[-1]["event"] == "refused"
    assert "no variant fits" in events[-1]["reason"]


def test_a_node_that_requires_signatures_refuses_and_keeps_nothing(shipped: Dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    home, key = tmp_path / "node", trust.new_key(tmp_path / "key")
    with node.locked(home):
        shutil.copyfile(key["public"], home / "trust" / f"{key['id']}.pub")
    node.set_policy(home, require_signature=True)
    with pytest.raises(TrustError, match="not signed"):
        pull.pull("linear-fp32", str(tmp_path / "store"), node=home)
    assert node.status(home)["versions"] == []
    send.ship([tmp_path / "it"], str(tmp_path / "store"), sign=key["key"])
    assert pull.pull("linear-fp32", str(tmp_path / "store"), node=home)["signed_by"] == key["id"]


def test_a_folder_may_ask_for_a_signature_too(shipped: Dict[str, Any], tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    key = trust.new_key(tmp_path / "key")
    with pytest.raises(TrustError, match=r"^linear-fp32: not signed") as caught:
        pull.pull("linear-fp32", str(tmp_path / "store"), out=tmp_path / "out", trusted=[key["public"]])
    assert "no --trust" in caught.value.hint
    assert not (tmp_path / "out").exists()
    send.ship([tmp_path / "it"], str(tmp_path / "store"), sign=key["key"])
    done = pull.pull("linear-fp32", str(tmp_path / "store"), out=tmp_path / "out", trusted=[key["public"]])
    assert done["signed_by"] == key["id"]


def test_options_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    for more, words in (
        ({"out": "x", "node": "y"}, "two places"),
        ({"trusted": ["k"]}, "goes with -o"),
        ({"allow_build": True, "for_": json.dumps(_key())}, "builds for this device"),
        ({"limit": -1}, "bytes a second"),
    ):
        with pytest.raises(UsageError, match=words):
            pull.pull("linear-fp32", str(tmp_path / "store"), **more)  # type: ignore[arg-type]


def _key() -> Dict[str, Any]:
    from engines.device import device_key

    return device_key("onnxruntime").to_json()


@pytest.mark.parametrize(
    ("precision", "images"), [("fp32", False), pytest.param("int8", False, marks=pytest.mark.slow), ("int8", True)]
)
def test_where_nothing_fits_one_is_built_from_the_graph_and_gives_the_golden_answers(
    foreign: Callable[[str], Path], tmp_path: Path, cifar: Path, precision: str, images: bool
) -> None:
    store, home = str(tmp_path / "store"), tmp_path / "node"
    send.ship([foreign(precision)], store, data=str(cifar) if images else None)
    done = pull.pull(f"tiny-{precision}", store, node=home, allow_build=True)
    assert done["built"]
    assert done["device"] == manifest.read(Path(done["path"]))["device"]
    assert done["device"]["arch"] != "riscv64"
    value = shipment.check(Path(done["path"]))
    assert value["golden"]["latency_ms"] is not None
    assert value["provenance"]["origin"]["model"]["name"] == "tiny.onnx"
    assert oci.digest_of(oci.variant(Path(done["path"]))) == done["variant"]
    calibration = manifest.read(Path(done["path"]))["calibration"]
    if precision == "int8":
        assert calibration["method"]["name"] != "imported" if images else calibration["method"]["name"] == "imported"
    activate.activate(home)
    assert node.status(home)["active"]["verified"]
    assert [p.name for p in (home / "versions/.incoming").iterdir() if p.is_dir()] == []


def test_what_was_built_but_answers_otherwise_is_refused(
    foreign: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send.ship([foreign("fp32")], str(tmp_path / "store"))
    figures = {"passed": False, "reasons": ["batch 1: cosine 0.1"]}
    monkeypatch.setattr(pull.golden, "against_float", lambda *_: figures)
    with pytest.raises(GateError, match=r"cosine 0\.1"):
        pull.pull("tiny-fp32", str(tmp_path / "store"), node=tmp_path / "node", allow_build=True)
    assert node.status(tmp_path / "node")["versions"] == []


def test_without_a_graph_none_is_built(tmp_path: Path, same_process: None) -> None:
    device = manifest.read(small.bundle(tmp_path / "here"))["device"]
    send.ship([small.bundle(tmp_path / "it", device={**device, "arch": "aarch64"})], str(tmp_path / "store"))
    with pytest.raises(IncompatibleError, match="none carries the float graph"):
        pull.pull("linear-fp32", str(tmp_path / "store"), out=tmp_path / "out", allow_build=True)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("elsewhere", ["../secret", "model.onnx"])
def test_a_shipment_can_name_no_code_and_no_other_file(tmp_path: Path, elsewhere: str) -> None:
    """Its manifest may say what it likes, and its graph may say that its weights lie elsewhere."""
    more = {"custom_objects": "block.py:Block", "factory": "net.py:net"}
    origin = small.bundle(tmp_path / "it", **more)
    spec = manifest.runner_spec(origin)
    assert manifest.read(origin)["factory"] and spec.custom_objects is None and spec.factory is None
    (tmp_path / "secret").write_bytes(bytes(4 * 1920))
    model = onnx.load(str(origin / "model.onnx"))
    (weight,) = model.graph.initializer
    onnx.external_data_helper.set_external_data(weight, elsewhere)
    weight.ClearField("raw_data")
    (origin / "graph.onnx").write_bytes(model.SerializeToString())
    with pytest.raises((DamagedError, ModelError), match=r"its weights are in other files|not a readable ONNX model"):
        pull.build_from(origin, tmp_path / "built")
    assert not (tmp_path / "built").exists()


def test_the_package_and_the_function_are_both_called_ship(tmp_path: Path, same_process: None) -> None:
    done = optimize.ship([small.bundle(tmp_path / "it")], str(tmp_path / "store"))
    assert done["name"] == "linear-fp32"
    assert "ship" in optimize.__all__
