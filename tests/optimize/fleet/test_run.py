"""The commands on boards that are OpenSSH servers on loopback."""

from __future__ import annotations

import base64
import contextlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Callable, Dict, List, Tuple

import pytest

from bench import runs
from engines import jsonfile, manifest
from engines.errors import IncompatibleError, OptimizeError, PartialError, TrustError, UsageError
from optimize.cli.fleet import _show as show
from optimize.fleet import journal, playbook
from optimize.fleet import run as fleets
from optimize.fleet.boards import Board
from optimize.ship import trust
from tests.doubles.cuda import build
from tests.servers import registry, s3, sshd

ROOT = Path(__file__).resolve().parents[3]

BENCH = "[bench]\nquick = true\nduration = '50ms'\nwarmup = '10ms'\n"


def boards(found: Dict[str, Any]) -> Dict[str, Dict[str, Any]]:
    return {one["board"]: one for one in found["boards"]}


def done(one: Dict[str, Any]) -> List[str]:
    return [step["step"] for step in one["steps"] if step["state"] == "done"]


def lines(work: Path, **wanted: str) -> List[Dict[str, Any]]:
    """Lines of the journal that have these values."""
    found = [json.loads(line) for line in (work / "journal.jsonl").read_text().splitlines()]
    return [line for line in found if all(line.get(name) == value for name, value in wanted.items())]


def test_a_board_of_each_kind_says_what_it_is_and_a_dead_one_is_lost(fleet, plan, optimize_command):
    fleet.host("orin").optimize().start()
    fleet.host("nano").nano().start()
    fleet.host("off")
    done = optimize_command("fleet", "check", "-i", fleet.inventory(), plan(), "--json")
    assert done.exit_code == 5, done.stderr
    found = json.loads(done.stdout)
    told = boards(found)
    assert told["orin"]["by"] == "optimize" and told["orin"]["why"] == ""
    assert told["orin"]["python"] == ".".join(map(str, sys.version_info[:3]))
    assert told["nano"]["by"] == "trtexec" and told["nano"]["class"].startswith("trtexec8.2.1-sm53")
    assert told["off"]["lost"] and "refused" in told["off"]["why"]
    assert [one["boards"] for one in found["classes"]] == [["orin"], ["nano"]]
    assert "1 of 3 boards were lost or failed: off" in found["error"]["message"]
    assert not list((fleet.hosts["orin"].files).iterdir())  # but for the empty folder nothing is changed there


def test_a_board_with_odd_answers_is_left_behind_and_the_others_go_on(fleet, plan, optimize_command):
    fleet.host("good").optimize().start()
    odd = """{"facts": ["x"], "backends": [{"name": "\\ud800"}]}"""
    fleet.host("odd").optimize(before=f"echo '{odd}'; exit 0").start()
    done = optimize_command("fleet", "check", "-i", fleet.inventory(), plan())
    assert done.exit_code == 5, done.stderr
    assert "odd: left behind: probe: what it tells of itself is not understood: doctor.facts" in done.stderr
    assert "probe on good, odd ..." in done.stderr and "odd has answered" in done.stderr
    assert "good has answered, 2 of 2" in done.stderr or "odd has answered, 2 of 2" in done.stderr
    assert ": good" in done.stdout


def test_what_a_run_has_activated_is_shown(tmp_path, capsys):
    serving = {"name": "net-fp16", "tag": "latest", "variant": "sha256:" + "0" * 64}
    campaign: Any = SimpleNamespace(
        boards=[Board(name, "optimize") for name in ("a", "[/b]")],
        serving={"a": serving},
        failed={},
        lost=[],
        journal=journal.Journal(tmp_path / "journal.jsonl"),
        plan=SimpleNamespace(path="plan.toml"),
        ansible=SimpleNamespace(inventory="hosts.yml", version="2.19.0"),
        work=tmp_path,
    )
    found = fleets._told(campaign)
    assert [one["active"] for one in found["boards"]] == [serving, None]
    show(found)
    shown = capsys.readouterr().out
    assert "net-fp16:latest" in shown and "[/b]" in shown


def test_a_limit_that_gives_no_board_and_an_inventory_that_is_none(fleet, plan, tmp_path):
    fleet.host("a")
    inventory = fleet.inventory()
    with pytest.raises(UsageError, match="with --limit nobody"):
        fleets.check(plan(), inventory, "nobody")
    with pytest.raises(UsageError, match="no such inventory"):
        fleets.check(plan(), tmp_path / "hosts.yml")
    broken = tmp_path / "hosts.yml"
    broken.write_text("boards: [")
    with pytest.raises(UsageError):
        fleets.check(plan(), broken)


def test_a_host_key_that_is_not_known_is_refused(fleet, plan):
    host = fleet.host("a").optimize()
    host.start()
    inventory = fleet.inventory()
    (fleet.folder / "known_hosts").write_text("")
    found = fleets.check(plan(), inventory)
    assert boards(found)["a"]["lost"] and "key verification failed" in boards(found)["a"]["why"]
    with pytest.raises(OptimizeError, match="1 of 1 boards"):
        fleets.outcome(found)


def test_without_ansible_the_command_says_what_to_install(plan, tmp_path, optimize_command, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    (tmp_path / "inventory.yml").write_text("all: {hosts: {a: }}")
    done = optimize_command("fleet", "check", "-i", tmp_path / "inventory.yml", plan())
    assert done.exit_code == 4
    assert "ansible-playbook is not found" in done.stderr and "optimize-trt[fleet]" in done.stderr


@pytest.mark.parametrize("version", ["2.15.1", "2.20.0", ""])
def test_another_ansible_is_refused(tmp_path, monkeypatch, version):
    program = tmp_path / "ansible-playbook"
    program.write_text(f"#!/bin/sh\necho 'ansible-playbook [core {version}]'\n" if version else "#!/bin/sh\necho 2.9\n")
    program.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(IncompatibleError):
        playbook.program()


def test_a_run_file_that_a_broken_connection_left_on_its_board_is_collected(fleet, plan, tmp_path, monkeypatch):
    host = fleet.host("orin").optimize()
    host.start()
    asked, inventory = plan(), fleet.inventory()
    work = tmp_path / "plan.fleet"
    key = "0123456789abcdef"
    journal.Journal(work / "journal.jsonl").add("orin", "bench", key, journal.BEGUN)
    host.files.mkdir()
    sample = {"schema": runs.SCHEMA, "created": "2026-01-01T00:00:00Z", "environment": {}, "rows": []}
    runs.write(host.files / f"runs-{key[:12]}.json", sample)
    monkeypatch.chdir(tmp_path)  # a folder that is named from here is the same for Ansible
    found = fleets.collect(asked.name, inventory, out=work.name)
    assert found["fetched"] == ["orin"]
    assert runs.read(work / "runs/orin.json") == sample
    assert fleets.collect(asked, inventory)["fetched"] == []  # it is known to be here


def test_a_key_that_cannot_sign_is_told_before_any_board_is_asked(fleet, plan, tmp_path):
    pytest.importorskip("cryptography")
    fleet.host("a")
    asked, inventory = plan("sign = 'release'"), fleet.inventory()
    with pytest.raises(UsageError, match="release: no such key"):
        fleets.run(asked, inventory)
    trust.new_key(tmp_path / "release")
    (tmp_path / "release").chmod(0o644)
    with pytest.raises(TrustError, match="others can read"):
        fleets.run(asked, inventory)
    with pytest.raises(UsageError, match="the private one signs"):
        fleets.run(plan("sign = 'release.pub'"), inventory)


@pytest.mark.slow
def test_nodes_that_require_a_signature_take_what_the_plan_s_key_has_signed(fleet, plan, tmp_path):
    pytest.importorskip("cryptography")
    keys = {name: trust.new_key(tmp_path / name) for name in ("release", "other")}
    for host, key in (("trusts", "release"), ("mistrusts", "other")):
        fleet.host(host).optimize().start()
        for words in (["trust", "add", f"{tmp_path / key}.pub"], ["policy", "--require-signature"]):
            subprocess.run([fleet.hosts[host].folder / "bin/optimize", "node", *words], check=True)
    inventory = fleet.inventory()
    unsigned = fleets.run(plan("precision = 'fp32'\nbatch = [1]\nactivate = 'fp32'", BENCH), inventory)
    for name in ("trusts", "mistrusts"):
        assert "not signed" in boards(unsigned)[name]["failed"]
    signed = plan("precision = 'fp32'\nbatch = [1]\nactivate = 'fp32'\nsign = 'release'", BENCH)
    found = fleets.run(signed, inventory)
    told = boards(found)
    assert done(told["trusts"])[-1] == "activate" and not told["trusts"]["failed"]
    assert f"signed by key {keys['release']['id']}, which is not trusted here" in told["mistrusts"]["failed"]
    (kind,) = found["classes"]
    assert [one["signed_by"] for one in kind["bundles"]] == [keys["release"]["id"]]
    work = Path(found["out"])
    assert len(lines(work, subject=kind["class"], step="build", state="done")) == 1  # to sign is not to build again
    status = fleets.status(signed, inventory)
    assert status["classes"][0]["bundles"] == kind["bundles"]
    active = {one["board"]: one["active"] for one in status["boards"]}
    assert active["trusts"]["variant"] in kind["bundles"][0]["variant"] and active["mistrusts"] is None
    secret = (tmp_path / "release").read_text().splitlines()[1].encode()
    seen = [path for path in (tmp_path / "f", work) for path in path.rglob("*") if path.is_file()]
    assert len(seen) > 50 and not [path for path in seen if secret in path.read_bytes()]


def ssh_store(tmp_path: Path, stack: contextlib.ExitStack) -> Tuple[str, Dict[str, str], str]:
    server = stack.enter_context(sshd.running(tmp_path / "store"))
    url = f"{server.url}{tmp_path}/engines"
    return url, {"OPTIMIZE_SSH_CONFIG": str(server.config)}, f"export OPTIMIZE_SSH_CONFIG={server.config}"


def bucket(tmp_path: Path, stack: contextlib.ExitStack) -> Tuple[str, Dict[str, str], str]:
    import boto3

    address = stack.enter_context(s3.running(tmp_path / "store"))
    keys = {name.lower(): value for name, value in s3.KEYS.items()}
    boto3.client("s3", endpoint_url=address, region_name="us-east-1", **keys).create_bucket(Bucket="models")
    aws = "".join(f"{name} = {value}\n" for name, value in {**keys, "endpoint_url": address}.items())
    (tmp_path / "aws").write_text(f"[default]\n{aws}")
    own = f"mkdir -p $HOME/.aws; cp {tmp_path}/aws $HOME/.aws/config"
    return "s3://models/engines", {**s3.KEYS, "AWS_ENDPOINT_URL": address}, own


def repository(tmp_path: Path, stack: contextlib.ExitStack) -> Tuple[str, Dict[str, str], str]:
    host = stack.enter_context(registry.running(tmp_path / "store", "htpasswd"))
    auth = base64.b64encode(f"{registry.USER}:{registry.PASSWORD}".encode()).decode()
    (tmp_path / "login").write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    own = f"mkdir -p $HOME/.docker; cp {tmp_path}/login $HOME/.docker/config.json"
    told = {"OPTIMIZE_REGISTRY_USER": registry.USER, "OPTIMIZE_REGISTRY_PASSWORD": registry.PASSWORD}
    return f"oci://{host}/engines", told, own


STORES = {
    "ssh": (ssh_store, sshd.missing, "host key"),
    "s3": (bucket, s3.missing, "credentials are missing"),
    "oci": (repository, registry.missing, "credentials are missing"),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", STORES)
def test_boards_pull_from_a_store_with_credentials_of_their_own(fleet, plan, tmp_path, monkeypatch, kind):
    """The control node's credentials do not reach them: a board without is left behind, and no secret is written."""
    made, missing, words = STORES[kind]
    if missing():
        pytest.skip(missing())
    with contextlib.ExitStack() as stack:
        url, told, own = made(tmp_path, stack)
        for name, value in told.items():
            monkeypatch.setenv(name, value)
        fleet.host("knows").optimize(before=own).start()
        fleet.host("stranger").optimize(before="export AWS_EC2_METADATA_DISABLED=true").start()
        asked = plan(f"precision = 'fp32'\nbatch = [1]\nactivate = 'fp32'\nstore = '{url}'", BENCH)
        found = fleets.run(asked, fleet.inventory())
    one, other = boards(found).values()
    assert done(one) == ["pull", "bench", "activate"] and not one["failed"]
    assert other["failed"].startswith("pull: ") and words in other["failed"] and not other["lost"]
    assert not (fleet.hosts["stranger"].files / "store.tar").exists()  # nothing was carried there
    work = Path(found["out"])
    secrets = [s3.KEYS["AWS_SECRET_ACCESS_KEY"].encode(), registry.PASSWORD.encode()]
    written = [path.read_bytes() for path in work.rglob("*") if path.is_file()]
    assert not [text for text in [*written, json.dumps(found).encode()] for secret in secrets if secret in text]


@pytest.mark.slow
def test_nanos_are_served_by_raw_alone(fleet, plan, cifar):
    """The oldest boards: what is built on one runs on both, and its times come back as run files."""
    for name in ("nano1", "nano2"):
        fleet.host(name).nano().start()
    asked = plan(f"precision = ['fp32', 'int8']\nbatch = [1, 8]\ndata = '{cifar}'\npreprocess = 'unit'")
    found = fleets.run(asked, fleet.inventory())
    fleets.outcome(found)
    (kind,) = found["classes"]
    assert kind["boards"] == ["nano1", "nano2"] and kind["builder"] == "nano1"
    assert [one["precision"] for one in kind["bundles"]] == ["fp32", "fp32", "int8", "int8"]
    for name in ("nano1", "nano2"):
        run = runs.read(Path(found["out"]) / "runs" / f"{name}.json")
        assert [(row["precision"], row["batch"]) for row in run["rows"]] == [
            (precision, batch) for precision in ("fp32", "int8") for batch in (1, 8)
        ]
        assert all(row["device"]["compute_ms"]["median"] > 0 and row["layers"] for row in run["rows"])
        assert run["environment"]["board"] == "NVIDIA Jetson Nano Developer Kit"
        assert b'"calibrated": true' in (fleet.hosts[name].files / "int8-b8.plan").read_bytes()
    plans = [(fleet.hosts[name].files / "fp32-b1.plan").read_bytes() for name in ("nano1", "nano2")]
    assert plans[0] == plans[1]
    before = len(lines(Path(found["out"])))
    fleets.run(asked, fleet.inventory())
    assert len(lines(Path(found["out"]))) == before


def pythons() -> List[str]:
    """Pythons of other environments that have what the project needs: `OPTIMIZE_TEST_PYTHONS`, paths with colons."""
    return [path for path in os.environ.get("OPTIMIZE_TEST_PYTHONS", "").split(os.pathsep) if path]


def another_runtime(folder: Path) -> Path:
    """A folder that makes this Python say it had other releases of the runtimes: a double of another environment."""
    for name in ("openvino", "onnxruntime"):
        made = folder / f"{name}-0.0.1.dist-info"
        made.mkdir(parents=True)
        (made / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")
    return folder


def broken_tensorrt(folder: Path) -> Path:
    """A TensorRT whose library is of another release than its bindings."""
    package = folder / "tensorrt"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise ImportError('libnvinfer.so.8: cannot open shared object file')\n")
    return folder


DIES = """case $1 in bench) exec {python} -c '
import os, psutil
server = psutil.Process(int(open("{pid}").read()))
for one in [*server.children(recursive=True), server]:
    if one.pid != os.getpid():
        one.kill()
os.kill(os.getpid(), 9)' ;; esac"""


def by_hand(host: Any, model: Path, tmp_path: Path, backend: str) -> Dict[str, str]:
    """Build keys of the same build, typed on the board itself, by precision."""
    out = tmp_path / f"by-hand-{host.name}"
    words = ["build", model, "--precision", "fp32,fp16", "--batch", "1,8", "--backend", backend, "-o", out, "--json"]
    command = [host.folder / "bin/optimize", *words]
    told = subprocess.run([str(w) for w in command], stdout=subprocess.PIPE, check=True, cwd=tmp_path).stdout
    paths = [Path(one["path"]) for one in json.loads(told)["bundles"]]
    return {about["precision"]: about["build_key"] for about in map(manifest.read, paths)}


@pytest.mark.slow
def test_a_fleet_with_a_lost_board_a_full_disk_and_a_wrong_tensorrt(
    fleet: Any, plan: Callable[..., Path], tmp_path: Path
):
    """Two classes, each built once; what goes wrong on one board is told and the others are done; then it resumes."""
    others = pythons()
    second = others[0] if others else sys.executable
    doubles = [] if others else [another_runtime(tmp_path / "other")]
    a1 = fleet.host("a1").optimize(others[2] if len(others) > 2 else sys.executable)
    killed = fleet.host("a2")
    killed.optimize(before=DIES.format(python=sys.executable, pid=killed.folder / "sshd.pid"))
    b1 = fleet.host("b1").optimize(second, paths=doubles)
    full = fleet.host("b2").optimize(others[1] if len(others) > 1 else second, paths=doubles)
    driver = f"export LD_LIBRARY_PATH={build.library().parent}"  # a double of CUDA's: TensorRT is looked for behind it
    wrong = fleet.host("wrong").optimize(before=driver, paths=[broken_tensorrt(tmp_path / "trt")])
    full.files.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(full.files)], stderr=subprocess.PIPE
    )
    if mounted.returncode:
        pytest.skip(f"a full disk needs a mount: {mounted.stderr.decode().strip()}")
    try:
        for host in (a1, killed, b1, full, wrong):
            host.start()
        nano = fleet.host("nano").nano()
        nano.start()
        asked = plan("precision = ['fp32', 'fp16']\nbatch = [1, 8]\nactivate = 'fastest'", BENCH)
        inventory = fleet.inventory()
        found = fleets.run(asked, inventory, progress=print)
    finally:
        subprocess.run(["umount", "-l", str(full.files)], check=True)
    print(json.dumps(found, indent=1))
    told = boards(found)
    with pytest.raises(PartialError) as error:
        fleets.outcome(found)
    assert "a2, b2, wrong" in error.value.message
    assert told["a2"]["lost"] and re.search("refused|closed|reset", told["a2"]["failed"])
    assert not told["b2"]["lost"] and "no space left" in told["b2"]["failed"].lower()
    assert not told["wrong"]["lost"] and "libnvinfer.so.8" in told["wrong"]["failed"]
    for name in ("a1", "b1"):
        assert done(told[name]) == ["pull", "bench", "activate"]
        assert told[name]["active"]["tag"] == "latest"
    assert done(told["nano"]) == ["bench"]
    work = Path(found["out"])
    assert sorted(path.stem for path in (work / "runs").glob("*.json")) == ["a1", "b1", "nano"]
    report = runs.read(work / "report/runs.json")
    assert {row["target"].partition(":")[0] for row in report["rows"]} == {"a1", "b1", "nano"}
    assert (work / "report/report.html").is_file()

    # the power is back, the disk has room, and TensorRT is gone: only what is not done is done
    killed.optimize().start()
    wrong.optimize()
    found = fleets.run(asked, inventory, progress=print)
    fleets.outcome(found)
    told = boards(found)
    assert all(done(told[name])[-3:] == ["pull", "bench", "activate"] for name in ("a1", "a2", "b1", "b2", "wrong"))
    for name in ("a1", "b1", "nano"):
        assert len(lines(work, subject=name, step="bench", state="done")) == 1
    kinds = {tuple(one["boards"]): one for one in found["classes"]}
    assert set(kinds) == {("a1", "a2", "wrong"), ("b1", "b2"), ("nano",)}
    for kind in kinds.values():
        assert len(lines(work, subject=kind["class"], step="build", state="done")) == 1

    # every node of a class holds the same bytes, and a build by hand on one board has the same keys
    for names, model in ((("a1", "a2", "wrong"), a1), (("b1", "b2"), b1)):
        kind, alike = kinds[names], 0
        for bundle in kind["bundles"]:
            place = work / "classes" / kind["class"] / "shipments" / bundle["variant"].partition(":")[2]
            shipped = {path.name: jsonfile.sha256(path) for path in place.iterdir()}
            for name in names:
                there = fleet.hosts[name].files / "shipments" / bundle["name"]
                assert {path.name: jsonfile.sha256(path) for path in there.iterdir()} == shipped
                alike += len(shipped)
        active = {(fleet.hosts[name].home / "node/active").resolve().name for name in names}
        assert len(active) == 1 and f"sha256:{active.pop()}" in [one["variant"] for one in kind["bundles"]]
        keys = by_hand(model, tmp_path / "tiny.onnx", tmp_path, kind["device"]["backend"])
        assert keys == {one["precision"]: one["build_key"] for one in kind["bundles"]}
        print(f"{kind['class']}: {alike} files alike on {', '.join(names)}; by hand the same build keys {keys}")

    status = fleets.status(asked, inventory)
    active = {one["board"]: one["active"] for one in status["boards"]}
    assert all(active[name]["verified"] for name in ("a1", "a2", "b1", "b2"))
