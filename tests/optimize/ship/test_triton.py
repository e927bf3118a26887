"""A model repository out of bundles: whole, as Triton reads it, and never half-written."""

from __future__ import annotations

import http.server
import json
import shutil
import threading

import pytest

import optimize
from engines import jsonfile
from engines.errors import DamagedError, OptimizeError, UsageError
from optimize.ship import triton

pytest.importorskip("tritonclient.grpc")


@pytest.fixture
def bundle(built, tmp_path):
    """A copy of the fp16 engine, which tests may change."""
    source = next(one.path for one in built.bundles if one.precision == "fp16")
    return shutil.copytree(source, tmp_path / "bundle")


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


def test_a_bundle_becomes_a_model_that_triton_finds(bundle, tmp_path):
    done = triton.write_repository([bundle], f"triton:{tmp_path / 'models'}")
    (model,) = done["models"]
    engine = [f"tiny-fp16/1/{name}" for name in ("model.bin", "model.xml")]
    assert (model["name"], model["version"]) == ("tiny-fp16", 1) and model["copied"] > 0
    assert names(tmp_path / "models") == [*engine, "tiny-fp16/config.pbtxt", "tiny-fp16/labels.txt"]
    for name in ("model.bin", "model.xml"):
        assert jsonfile.sha256(tmp_path / "models/tiny-fp16/1" / name) == jsonfile.sha256(bundle / name)
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    text = (tmp_path / "models/tiny-fp16/config.pbtxt").read_text()
    assert text_format.Parse(text, model_config_pb2.ModelConfig()).max_batch_size == 8
    labels = (tmp_path / "models/tiny-fp16/labels.txt").read_text().splitlines()
    assert labels == [f"colour{index}" for index in range(10)]


def test_the_same_engine_again_copies_nothing_and_another_becomes_the_next_version(built, bundle, tmp_path):
    target = str(tmp_path / "models")
    triton.write_repository([bundle], target, "m")
    again = triton.write_repository([bundle], target, "m", queue_delay_us=777)["models"][0]
    assert (again["version"], again["copied"]) == (1, 0)
    assert "777" in (tmp_path / "models/m/config.pbtxt").read_text()
    other = next(one.path for one in built.bundles if one.precision == "int8")
    assert triton.write_repository([other], target, "m")["models"][0]["version"] == 2
    assert sorted(path.name for path in (tmp_path / "models/m").iterdir()) == ["1", "2", "config.pbtxt", "labels.txt"]


@pytest.mark.parametrize(
    ("status", "answer", "refused"),
    [
        (404, b"", False),
        (403, b"", False),
        (500, b"", False),
        (200, b"no JSON", False),
        (200, b"[]", False),
        (200, b'{"parameters": [1]}', False),
        (200, b'{"parameters": {"theirs": {"string_value": "x"}}}', False),
        (200, b'{"parameters": {"optimize.engine_sha256": {"string_value": "ab"}}}', False),
        (200, b'{"parameters": {"optimize.engine_sha256": {"string_value": "cd"}}}', True),
        (200, b'{"parameters": {"optimize.build_key": {"string_value": "older"}}}', True),
    ],
)
def test_a_server_that_serves_another_engine_is_told_and_one_that_tells_nothing_is_believed(status, answer, refused):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.reply(status, answer)

        def do_POST(self):
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.reply(200, b'[{"name": "m", "state": "READY"}]' if self.path.endswith("index") else b"")

        def reply(self, code, content):
            self.send_response(code)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            if refused:
                with pytest.raises(OptimizeError, match="serves as m is not the one that was written"):
                    triton.load(url, ["m"], engines={"m": "ab"})
            else:
                assert triton.load(url, ["m"], engines={"m": "ab"})[0]["state"] == "READY"
        finally:
            server.shutdown()


def test_clients_are_told_when_images_must_come_otherwise(bundle, tmp_path):
    from calib.preprocess import parse
    from engines import manifest

    target = str(tmp_path / "models")
    assert not triton.write_repository([bundle], target, "m")["models"][0]["remarks"]
    value = manifest.read(bundle)
    manifest.write(bundle, {**value, "preprocess": {**parse("tf").to_json(), "inferred": True}})
    (remark,) = triton.write_repository([bundle], target, "m")["models"][0]["remarks"]
    assert remark == "clients must send images otherwise than to the version before: tf, not unit"
    assert not triton.write_repository([bundle], target, "m")["models"][0]["remarks"]
    config = tmp_path / "models/m/config.pbtxt"
    for wrong in ('"text"', '{\\"mean\\": [1' + 400 * "0" + "]}"):
        lines = config.read_text().split("\n")
        at = next(index for index, line in enumerate(lines) if "optimize.preprocess" in line) + 2
        assert "string_value" in lines[at]
        lines[at] = f'    string_value: "{wrong}"' if wrong[0] == "{" else f"    string_value: {wrong}"
        config.write_text("\n".join(lines))
        assert not triton.write_repository([bundle], target, "m")["models"][0]["remarks"]


def test_plans_apart_become_models_apart(bundle, tmp_path, monkeypatch):
    from engines import manifest

    value = json.loads((bundle / "manifest.json").read_text())
    for batch in (1, 8):
        (bundle / f"model-b{batch}.plan").write_bytes(b"plan of %d" % batch)
    files = [
        {"path": name, "sha256": jsonfile.sha256(bundle / name), "bytes": (bundle / name).stat().st_size}
        for name in ("model-b1.plan", "model-b8.plan")
    ]
    plans = {"1": "model-b1.plan", "8": "model-b8.plan"}
    device = {**value["device"], "backend": "tensorrt", "version": "8.5.2"}
    manifest.write(
        bundle, {**value, "backend": "tensorrt", "device": device, "files": files, "options": {"plans": plans}}
    )
    done = triton.write_repository([bundle], str(tmp_path / "models"), "m")
    assert [one["name"] for one in done["models"]] == ["m-b1", "m-b8"]
    assert (tmp_path / "models/m-b8/1/model.plan").read_bytes() == b"plan of 8"


def test_a_damaged_bundle_leaves_nothing(bundle, tmp_path):
    (bundle / "model.bin").write_bytes(b"x")
    with pytest.raises(DamagedError, match=r"model\.bin"):
        triton.write_repository([bundle], str(tmp_path / "models"))
    assert not (tmp_path / "models").exists()


def test_a_bundle_that_changes_while_it_is_copied_is_refused_and_the_old_version_stays(
    built, bundle, tmp_path, monkeypatch
):
    target = tmp_path / "models"
    triton.write_repository([next(one.path for one in built.bundles if one.precision == "int8")], str(target), "m")
    before = {name: (target / name).read_bytes() for name in names(target)}
    real = shutil.copyfile

    def changed(source, copy):
        real(source, copy)
        copy.write_bytes(copy.read_bytes() + b"x")

    monkeypatch.setattr(shutil, "copyfile", changed)
    with pytest.raises(DamagedError, match="changed while it was copied"):
        triton.write_repository([bundle], str(target), "m")
    assert {name: (target / name).read_bytes() for name in names(target)} == before


def test_a_full_disk_leaves_the_old_version(built, bundle, tmp_path, monkeypatch):
    target = tmp_path / "models"
    triton.write_repository([next(one.path for one in built.bundles if one.precision == "int8")], str(target), "m")
    before = names(target)

    def full(source, copy):
        copy.write_bytes(b"part")
        raise OSError(28, "No space left on device", str(copy))

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space"):
        triton.write_repository([bundle], str(target), "m")
    assert names(target) == before


def test_bundles_of_one_name_and_names_that_escape_are_refused(bundle, tmp_path):
    target = str(tmp_path / "models")
    with pytest.raises(UsageError, match="are both tiny-fp16"):
        triton.write_repository([bundle, bundle], target)
    for name in ("../out", "", ".hidden", "a/b", "x" * 129):
        with pytest.raises(UsageError, match="no name of a model"):
            triton.write_repository([bundle], target, name or " ")
    with pytest.raises(UsageError, match="--name is for one"):
        triton.write_repository([bundle, bundle], target, "m")
    assert not (tmp_path / "models").exists()


def test_a_server_that_is_not_there_is_told():
    with pytest.raises(OptimizeError, match="does not answer"):
        triton.load("http://127.0.0.1:9", ["m"])


def test_python_ships_there_by_the_same_function(bundle, tmp_path):
    done = optimize.ship([bundle], to=f"triton:{tmp_path / 'models'}", name="m", limit=100 << 20)
    assert done["repository"] == str(tmp_path / "models") and done["models"][0]["copied"] > 0
    assert optimize.ship([bundle], to=f"triton:file://{tmp_path / 'models'}", name="m")["models"][0]["copied"] == 0
    for more in ({"tag": "v1"}, {"sign": "key"}, {"data": "cifar10"}, {"verify": True}):
        with pytest.raises(UsageError, match="for stores"):
            optimize.ship([bundle], to=f"triton:{tmp_path / 'models'}", **more)
    with pytest.raises(UsageError, match="--bandwidth"):
        optimize.ship([bundle], to=f"triton:{tmp_path / 'models'}", limit=-1)
    with pytest.raises(UsageError, match="--load"):
        optimize.ship([bundle], to=str(tmp_path / "store"), load="http://127.0.0.1:9")


def test_the_command_writes_a_repository_and_says_what_is_next(bundle, optimize_command, tmp_path):
    done = optimize_command("ship", bundle, "--to", f"triton:{tmp_path / 'models'}", "--name", "m")
    assert done.exit_code == 0, done.stderr
    assert "/m/1: " in done.stdout and "tritonserver --model-repository=" in done.stderr
    assert (tmp_path / "models/m/config.pbtxt").is_file()
    again = optimize_command("ship", bundle, "--to", f"triton:{tmp_path / 'models'}", "--name", "m", "--json")
    assert json.loads(again.stdout)["models"][0]["copied"] == 0


@pytest.mark.parametrize(
    "words", [["--to", "triton:models", "--tag", "v1"], ["--to", "models", "--load", "http://127.0.0.1:9"]]
)
def test_options_that_do_not_go_together_are_refused(bundle, optimize_command, words):
    done = optimize_command("ship", bundle, *words)
    assert done.exit_code == 2 and "Triton" in done.stderr
