from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path

import pytest

from engines.errors import DamagedError, GateError, OptimizeError
from optimize.fleet import playbook, publish
from optimize.fleet.plan import read as read_plan
from optimize.ship import oci, shipment, trust
from tests.optimize.ship import small

HEX = "a" * 64


@pytest.fixture
def plan(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"a model")
    (tmp_path / "plan.toml").write_text("model = 'net.onnx'")
    return read_plan(tmp_path / "plan.toml")


def built(value, rc=0, message=""):
    return playbook.Answer(False, message, [{"rc": rc, "stdout": json.dumps(value), "stderr": ""}], {})


def bundle(precision="fp16", passed=None, path="/home/u/fleet/out/fp16-tensorrt8.5.2"):
    gate = None if passed is None else {"passed": passed, "reasons": ["drop 3 points"]}
    return {"precision": precision, "path": path, "gate": gate}


def test_what_failed_its_gate_is_not_shipped(plan):
    found = publish.bundles(built({"bundles": [bundle(passed=True), bundle("int8", False)]}, 3, "int8: drop"), plan)
    assert found["names"] == {"net-fp16": "fp16-tensorrt8.5.2"}
    assert found["failures"] == {"int8": "drop 3 points"}


def test_a_class_without_an_engine_that_passed_is_a_gate(plan):
    value = {"bundles": [bundle("int8", False)], "error": {"message": "int8: drop", "hint": "", "exit_code": 3}}
    with pytest.raises(GateError):
        publish.bundles(built(value, 3, "int8: drop"), plan)


@pytest.mark.parametrize("path", ["..", "/", "out/{{ x }}", "out/a b", "out/-rf"])
def test_a_board_s_name_of_a_bundle_is_a_plain_one(plan, path):
    with pytest.raises(DamagedError):
        publish.bundles(built({"bundles": [bundle(path=path)]}), plan)


@pytest.mark.parametrize("stdout", ["", "[]", '{"bundles": 3}', '{"bundles": [3]}'])
def test_an_answer_without_a_bundle_is_an_error(plan, stdout):
    answer = playbook.Answer(False, "", [{"rc": 0, "stdout": stdout, "stderr": ""}], {})
    with pytest.raises(OptimizeError):
        publish.bundles(answer, plan)


def archive(path: Path, *members: tarfile.TarInfo, content: bytes = b"x") -> Path:
    with tarfile.open(path, "w") as out:
        for member in members:
            member.size = len(content) if member.isreg() else 0
            out.addfile(member, io.BytesIO(content))
    return path


def test_a_store_is_unpacked(tmp_path):
    names = ["./store.json", f"./blobs/sha256/{HEX}", "./refs/net-fp16/latest.json"]
    publish._unpack(archive(tmp_path / "a.tar", *map(tarfile.TarInfo, names)), tmp_path / "out")
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {"store.json", f"blobs/sha256/{HEX}", "refs/net-fp16/latest.json"}


def link(kind: bytes) -> tarfile.TarInfo:
    member = tarfile.TarInfo(f"blobs/sha256/{HEX}")
    member.type, member.linkname = kind, "/etc/passwd"
    return member


@pytest.mark.parametrize(
    "member",
    [
        *map(tarfile.TarInfo, ["../x", "/etc/x", "blobs/sha256/../../x", "blobs/sha256/zz", "refs/../x.json", "other"]),
        link(tarfile.SYMTYPE),
        link(tarfile.LNKTYPE),
        link(tarfile.CHRTYPE),
        link(tarfile.FIFOTYPE),
    ],
    ids=lambda member: f"{member.name[:24]}-{member.type.decode()}",
)
def test_nothing_else_is_taken_out_of_an_archive(tmp_path, member):
    made = archive(tmp_path / "a.tar", member)
    with pytest.raises(DamagedError):
        publish._unpack(made, tmp_path / "out")
    assert not [path for path in (tmp_path / "out").rglob("*") if not path.is_dir()]
    assert not (tmp_path / "x").exists()


def test_a_name_that_is_twice_in_an_archive_and_a_cut_one(tmp_path):
    made = archive(tmp_path / "a.tar", tarfile.TarInfo("store.json"), tarfile.TarInfo("store.json"))
    with pytest.raises(DamagedError):
        publish._unpack(made, tmp_path / "out")
    (tmp_path / "b.tar").write_bytes(made.read_bytes()[:700])
    with pytest.raises(DamagedError):
        publish._unpack(tmp_path / "b.tar", tmp_path / "out2")


def test_an_archive_that_did_not_come(tmp_path):
    with pytest.raises(DamagedError):
        publish._unpack(tmp_path / "none.tar", tmp_path / "out")


def test_a_class_s_shipments_are_signed_beside_the_unsigned_ones(tmp_path):
    pytest.importorskip("cryptography")
    key = tmp_path / "release"
    trust.new_key(key)
    place = small.made(tmp_path / "class/shipments/plain")
    variant = oci.digest_of(oci.variant(place))
    before = {"names": {"linear": "out"}, "variants": {"linear": {"variant": variant, "folder": "plain"}}}
    found = publish.signed(tmp_path / "class", before, key)
    again = publish.signed(tmp_path / "class", before, key)
    one = found["variants"]["linear"]
    assert found == again and one["variant"] != variant and one["signed_by"] == trust.signer(key)
    policy = trust.Policy(True, {one["signed_by"]: trust.read_public(tmp_path / "release.pub")})
    shipped = tmp_path / "class/shipments" / one["folder"]
    assert shipment.check(shipped, policy)["signed_by"] == one["signed_by"]
    assert publish.whole(tmp_path / "class", found) and publish.whole(tmp_path / "class", before)
    assert sorted(publish.files(tmp_path / "class", found)["linear"]) == sorted(
        [*publish.files(tmp_path / "class", before)["linear"], trust.NAME]
    )


def sums(*lines: str) -> playbook.Answer:
    return playbook.Answer(False, "", [{"rc": 0, "stdout": "\n".join(lines), "stderr": ""}], {})


def test_a_board_holds_the_build_if_every_hash_is_the_same():
    expected = {"net-fp16": {"manifest.json": HEX, "model.plan": "b" * 64}}
    lines = [f"{HEX}  shipments/net-fp16/manifest.json", f"{'b' * 64}  shipments/net-fp16/model.plan"]
    noise = [f"{HEX}  shipments/.net-fp16.lock", "sha256sum: x: Permission denied"]
    found = publish.pulled(sums(*lines, *noise), expected)
    assert found == {"places": {"net-fp16": "shipments/net-fp16"}, "files": 2}


@pytest.mark.parametrize(
    "lines",
    [
        [],
        [f"{HEX}  shipments/net-fp16/manifest.json"],
        [f"{HEX}  shipments/net-fp16/manifest.json", f"{HEX}  shipments/net-fp16/model.plan"],
        [f"{HEX}  shipments/other/manifest.json", f"{'b' * 64}  shipments/other/model.plan"],
        [f"{HEX}  shipments/net-fp16/{name}" for name in ("manifest.json", "more")]
        + [f"{'b' * 64}  shipments/net-fp16/model.plan"],
    ],
)
def test_one_byte_or_one_file_more_is_another_build(lines):
    expected = {"net-fp16": {"manifest.json": HEX, "model.plan": "b" * 64}}
    with pytest.raises(DamagedError):
        publish.pulled(sums(*lines), expected)


@pytest.mark.parametrize("reasons", [3, "worse", None, []])
def test_a_gate_whose_reasons_are_of_another_form_was_not_met(plan, reasons):
    bundle = {"precision": "fp16", "path": "out/x", "gate": {"passed": False, "reasons": reasons}}
    good = {"precision": "fp32", "path": "out/y"}
    text = json.dumps({"bundles": [bundle, good]})
    found = publish.bundles(playbook.Answer(False, "", [{"rc": 3, "stdout": text, "stderr": ""}], {}), plan)
    assert found["failures"] == {"fp16": "the gate was not met"} and len(found["names"]) == 1


def test_a_node_that_serves_something_else_is_told():
    def answer(active):
        return playbook.Answer(False, "", [{"rc": 0, "stdout": json.dumps({"active": active}), "stderr": ""}], {})

    about = {"name": "net-fp16", "tag": "latest", "digest": "sha256:" + HEX, "variant": HEX, "verified": "golden"}
    assert publish.active(answer(about), "net-fp16", {"variant": "sha256:" + HEX}) == about
    for active in (None, {}, {**about, "variant": "b" * 64}, 3, "net", [about], {**about, "name": [1]}):
        with pytest.raises(DamagedError):
            publish.active(answer(active), "net-fp16", {"variant": "sha256:" + HEX})
