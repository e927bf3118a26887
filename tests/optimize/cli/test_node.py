"""`optimize node`: what it prints, as text and as JSON, and how it refuses."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Callable

import pytest

from optimize.ship import node, records
from tests.optimize.cli.terminal import shown_on_a_terminal
from tests.optimize.ship import small
from tests.optimize.ship.conftest import same_process

__all__ = ["same_process"]

Command = Callable[..., Any]


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, same_process: None) -> Path:
    """A node that OPTIMIZE_NODE names, with two versions."""
    home = tmp_path / "node"
    monkeypatch.setenv("OPTIMIZE_NODE", str(home))
    for seed in (1, 2):
        source = small.made(tmp_path / f"shipment{seed}", seed)
        with node.locked(home):
            shutil.copytree(source, records.versions(home) / small.variant(source))
        node.received(home, small.variant(source), "linear-fp32", f"v{seed}", f"sha256:{seed:064x}", "file:///store")
    return home


def test_a_life_of_a_node(optimize_command: Command, place: Path) -> None:
    assert "active: none" in optimize_command("node", "status").stdout
    done = optimize_command("node", "activate", "linear-fp32:v1")
    assert done.exit_code == 0 and "active: linear-fp32:v1 (" in done.stdout and "before: none" in done.stdout
    told = json.loads(optimize_command("node", "activate", "--json").stdout)
    assert told["active"]["tag"] == "v2" and told["active"]["verified"] is True and told["before"]["tag"] == "v1"
    shown = optimize_command("node", "status").stdout
    assert "active: linear-fp32:v2 (" in shown and "before" in shown and "keeps 3 more versions" in shown
    assert optimize_command("node", "rollback").stdout.startswith("active: linear-fp32:v1 (")
    refused = optimize_command("node", "rollback", "--json")
    assert refused.exit_code == 2 and "no version to go back to" in json.loads(refused.stdout)["error"]["message"]
    status = json.loads(optimize_command("node", "status", "--check", "--json").stdout)
    assert (status["active"]["name"], status["active"]["digest"]) == ("linear-fp32", f"sha256:{1:064x}")
    assert status["active"]["verified"] is True and status["active"]["damage"] is None
    assert optimize_command("node", "remove", "linear-fp32:v2").exit_code == 0
    assert optimize_command("node", "remove", "linear-fp32:v2").exit_code == 2
    assert optimize_command("node", "remove").exit_code == 2
    assert "removed 0 unfinished downloads" in optimize_command("node", "remove", "--unfinished").stdout


def test_a_narrow_terminal_is_told_what_it_does_not_show(optimize_command: Command, place: Path) -> None:
    code = """
import sys
from optimize.cli import main
sys.argv = ["optimize", "node", "status"]
main()
"""
    optimize_command("node", "activate", "linear-fp32:v1")
    shown = shown_on_a_terminal(code, 60, talk=False)
    heading = shown.split("──")[0]
    assert all(name in heading for name in ("version", "variant", "golden")) and "passed" in shown
    assert all(one["variant"][:12] in shown for one in node.status(place)["versions"])
    assert "left out, the terminal is narrow: precision, size, pulled (--json has them)" in shown


def test_facts_are_for_a_file_and_said_to_be(optimize_command: Command, place: Path) -> None:
    refused = optimize_command("node", "status", "--facts")
    assert refused.exit_code == 2 and "try: optimize node status --facts --json" in refused.stderr
    assert json.loads(optimize_command("node", "status", "--facts", "--json").stdout)["device"]["cores"] > 0


def test_hints_name_the_folder_of_the_node_that_was_named(
    optimize_command: Command, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "try: optimize node status\n" in optimize_command("node", "remove").stderr
    other = tmp_path / "an other"
    for words, hint in (
        (("remove",), f"optimize node status --node '{other}'"),
        (("rollback",), f"optimize node activate --node '{other}'"),
        (("policy", "--require-signature"), f"optimize node trust add --node '{other}' KEY.pub"),
    ):
        refused = optimize_command("node", *words, "--node", str(other), "--json")
        assert refused.exit_code == 2 and json.loads(refused.stdout or "{}")["error"]["hint"] == hint, words
        assert f"try: {hint}\n" in refused.stderr


def test_a_refusal_says_why_and_what_stays(optimize_command: Command, place: Path) -> None:
    optimize_command("node", "activate", "linear-fp32:v1")
    failed = optimize_command("node", "activate", "--health", "false")
    assert failed.exit_code == 3 and "health check ended with code 1" in failed.stderr
    assert "linear-fp32:v1" in failed.stderr and "is active again" in failed.stderr
    model = place / "versions" / records.find(place, "linear-fp32:v2")["variant"] / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    refused = optimize_command("node", "activate")
    assert refused.exit_code == 1 and "model.onnx" in refused.stderr and "stays active" in refused.stderr
    assert "model.onnx" in optimize_command("node", "status", "--check").stdout
    model = place / "active" / "model.onnx"
    model.write_bytes(model.read_bytes()[:-1])
    assert optimize_command("node", "status").exit_code == 0
    broken = optimize_command("node", "status", "--check")
    assert broken.exit_code == 1 and "the active version" in broken.stderr and "rollback" in broken.stderr


def test_policy_and_trust(optimize_command: Command, place: Path, tmp_path: Path) -> None:
    pytest.importorskip("cryptography")
    from optimize.ship import trust

    assert "signatures: not required" in optimize_command("node", "policy").stdout
    assert optimize_command("node", "policy", "--require-signature").exit_code == 2
    key = trust.new_key(tmp_path / "key")
    done = optimize_command("node", "trust", "add", key["public"])
    assert f"{key['id']} is trusted" in done.stdout and "--require-signature refuses them" in done.stderr
    told = json.loads(optimize_command("node", "policy", "--require-signature", "--keep", 1, "--json").stdout)
    assert told == {"node": str(place), "require_signature": True, "keep": 1}
    refused = optimize_command("node", "activate", "--json")
    assert refused.exit_code == 4 and "not signed" in json.loads(refused.stdout)["error"]["message"]
    assert json.loads(optimize_command("node", "trust", "ls", "--json").stdout)[0]["id"] == key["id"]
    assert optimize_command("node", "trust", "rm", key["id"]).exit_code == 2
    optimize_command("node", "policy", "--no-require-signature")
    assert "trusted no more" in optimize_command("node", "trust", "rm", key["id"]).stdout
    assert "no key is trusted" in optimize_command("node", "trust", "ls").stdout


def test_the_engine_that_is_active_opens_as_a_bundle(optimize_command: Command, place: Path) -> None:
    import optimize

    optimize_command("node", "activate", "linear-fp32:v2")
    with optimize.load(place / "active") as runner:
        assert records.find(place, "linear-fp32:v2")["variant"] in runner.spec.path
