"""`optimize ship`, `pull` and `key` on the command line."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

from engines import manifest
from optimize.ship import send
from tests.optimize.ship import small


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(send, "_SETTLE_S", 0.0)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small.bundle(tmp_path_factory.mktemp("cli") / "it")


def test_ship_says_what_it_sent_and_the_next_command(
    optimize_command: Callable[..., Any], bundle: Path, tmp_path: Path
) -> None:
    done = optimize_command("ship", bundle, "--to", tmp_path / "store")
    assert done.exit_code == 0
    assert "linear-fp32:latest  sha256:" in done.stdout
    assert "sent" in done.stdout
    assert f"optimize pull linear-fp32 --from {tmp_path / 'store'}" in done.stderr


def test_ship_and_pull_answer_in_json(optimize_command: Callable[..., Any], bundle: Path, tmp_path: Path) -> None:
    done = optimize_command("ship", bundle, "--to", tmp_path / "store", "--name", "it", "--tag", "v1", "--json")
    shipped: Dict[str, Any] = json.loads(done.stdout)
    assert (shipped["name"], shipped["tag"]) == ("it", "v1")
    assert shipped["digest"].startswith("sha256:")
    pulled = optimize_command("pull", "it:v1", "--from", tmp_path / "store", "--node", tmp_path / "node", "--json")
    assert pulled.exit_code == 0
    value = json.loads(pulled.stdout)
    assert value["digest"] == shipped["digest"]
    assert (Path(value["path"]) / "shipment.json").is_file()


def test_a_dry_run_brings_nothing(optimize_command: Callable[..., Any], bundle: Path, tmp_path: Path) -> None:
    optimize_command("ship", bundle, "--to", tmp_path / "store")
    done = optimize_command("pull", "linear-fp32", "--from", tmp_path / "store", "--node", tmp_path / "n", "--dry-run")
    assert "onnxruntime" in done.stdout and "fits" in done.stdout
    assert not (tmp_path / "n").exists()


@pytest.mark.parametrize("more", [[], ["--json"]])
def test_a_dry_run_where_nothing_fits_ends_as_a_pull_does(
    optimize_command: Callable[..., Any], tmp_path: Path, more: List[str]
) -> None:
    bundle = small.bundle(tmp_path / "it")
    device = manifest.read(bundle)["device"]
    send.ship([small.bundle(tmp_path / "other", device={**device, "arch": "riscv64"})], str(tmp_path / "store"))
    words = ["pull", "linear-fp32", "--from", tmp_path / "store", "--node", tmp_path / "n", *more]
    dry, real = optimize_command(*words, "--dry-run"), optimize_command(*words)
    assert (dry.exit_code, real.exit_code) == (4, 4)
    assert dry.stderr == real.stderr and "--allow-build" in dry.stderr
    assert "riscv64" in dry.stdout
    if more:
        value = json.loads(dry.stdout)
        assert value["variants"] and value["error"] == json.loads(real.stdout)["error"]
    assert optimize_command(*words, "--dry-run", "--allow-build").exit_code == 0


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["pull", "it", "--from", "STORE"], 2, "no such folder"),
        (["pull", "../it", "--from", "STORE"], 2, "no name of a shipment"),
        (["pull", "it", "--from", "gopher://host/x"], 2, "unknown scheme gopher"),
        (["pull", "it", "--from", "STORE", "--for", "orin"], 2, "no device key"),
        (["pull", "it", "--from", "STORE", "-o", "x", "--node", "y"], 2, "two places"),
        (["ship", "nothing", "--to", "STORE"], 2, "not an engine bundle"),
        (["ship", "BUNDLE", "--to", "STORE", "--name", "../x"], 2, "no name of a shipment"),
        (["ship", "BUNDLE", "--to", "STORE", "--bandwidth", "fast"], 2, "a bandwidth such as"),
        (["ship", "BUNDLE", "--to", "STORE", "--sign", "nothing.key"], 2, "no such key"),
        (["key", "show", "nothing.key"], 2, "no such key"),
    ],
)
def test_bad_input_is_told_in_one_line(
    optimize_command: Callable[..., Any], bundle: Path, tmp_path: Path, words: Any, code: int, message: str
) -> None:
    places = {"STORE": tmp_path / "store", "BUNDLE": bundle}
    done = optimize_command(*(places.get(word, word) for word in words))
    assert done.exit_code == code, done.stderr
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_a_damaged_bundle_exits_1_and_a_device_that_is_another_4(
    optimize_command: Callable[..., Any], bundle: Path, tmp_path: Path
) -> None:
    optimize_command("ship", bundle, "--to", tmp_path / "store")
    about = json.loads((bundle / "manifest.json").read_text())
    (tmp_path / "key.json").write_text(json.dumps({**about["device"], "arch": "riscv64"}))
    store = tmp_path / "store"
    done = optimize_command("pull", "linear-fp32", "--from", store, "--for", tmp_path / "key.json", "-o", "out")
    assert done.exit_code == 4
    assert "riscv64" in done.stderr
    for blob in (tmp_path / "store/blobs/sha256").iterdir():
        if blob.read_bytes() == (bundle / "model.onnx").read_bytes():
            blob.write_bytes(b"x" * blob.stat().st_size)
    done = optimize_command("pull", "linear-fp32", "--from", store, "-o", "out")
    assert done.exit_code == 1
    assert "model.onnx" in done.stderr


def test_keys_are_made_and_shown(optimize_command: Callable[..., Any], bundle: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    made = json.loads(optimize_command("key", "new", tmp_path / "release", "--json").stdout)
    shown = json.loads(optimize_command("key", "show", tmp_path / "release.pub", "--json").stdout)
    assert shown == {"id": made["id"], "line": made["line"]}
    text = optimize_command("key", "show", tmp_path / "release").stdout
    assert made["line"] in text and "PRIVATE" not in text
    again = optimize_command("key", "new", tmp_path / "release")
    assert again.exit_code == 2
    store = tmp_path / "store"
    optimize_command("ship", bundle, "--to", store, "--sign", tmp_path / "release")
    done = optimize_command(
        "pull", "linear-fp32", "--from", store, "-o", tmp_path / "out", "--trust", tmp_path / "release.pub"
    )
    assert f"signed by {made['id']}" in done.stdout
