"""`optimize serve`, asked as clients do."""

from __future__ import annotations

import gzip
import json
import signal
import socket
import sys
import time
import zlib
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from engines import jsonfile, kserve, manifest
from engines.errors import OptimizeError, UsageError
from engines.spec import RunnerSpec


def until(happened, seconds=120.0):
    """Wait for something that another process does."""
    end = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < end
        time.sleep(0.05)


def stats(url):
    """The statistics of a served model."""
    where = kserve.place(url)
    connection = kserve.Connection(where)
    try:
        return connection.json("GET", kserve.path(where.model, "stats"))["model_stats"][0]
    finally:
        connection.close()


def asked(url, feeds, binary=True, name=None):
    """One request on a connection of its own: the outputs."""
    where = kserve.place(url)
    connection = kserve.Connection(where)
    try:
        about = {"parameters": {"binary_data_output": True}} if binary else {}
        body, headers = kserve.encode(feeds, "inputs", binary, about)
        got, text = connection.ask("POST", kserve.path(name or where.model, "infer"), body, headers)
        value, raw = kserve.split(text, got.get(kserve.HEADER.lower()))
        return kserve.decode(value["outputs"], raw)
    finally:
        connection.close()


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("count", [1, 3, 8])
def test_the_server_answers_what_the_engine_answers(serving, images, scores, binary, count):
    found = asked(serving.url, {"image": images[:count]}, binary)
    assert found["scores"].dtype == np.float32
    np.testing.assert_allclose(found["scores"], scores[:count], atol=1e-5)


def test_many_clients_at_a_time_lose_nothing_and_the_statistics_count_them(serving, images, scores):
    before = stats(serving.url)

    def ask(number):
        index = number % 8
        found = asked(serving.url, {"image": images[index : index + 1]})["scores"]
        return np.allclose(found[0], scores[index], atol=1e-4)

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(ask, range(256)))
    after = stats(serving.url)
    assert after["inference_count"] - before["inference_count"] == 256
    assert after["execution_count"] - before["execution_count"] <= 256
    told = after["inference_stats"]
    parts = sum(told[key]["ns"] for key in ("queue", "compute_input", "compute_infer", "compute_output"))
    assert 0 < parts <= told["success"]["ns"] and sum(one["compute_infer"]["count"] for one in after["batch_stats"]) > 0


def test_tritons_own_clients_are_answered(serving, images, scores):
    http, grpc = pytest.importorskip("tritonclient.http"), pytest.importorskip("tritonclient.grpc")
    host = serving.url.partition("//")[2].partition("/")[0]
    for module, address in ((http, host), (grpc, serving.grpc)):
        client = module.InferenceServerClient(address)
        tensor = module.InferInput("image", [8, 3, 32, 32], "FP32")
        tensor.set_data_from_numpy(images)
        assert client.is_server_live() and client.is_server_ready() and client.is_model_ready("tiny")
        found = client.infer("tiny", [tensor], outputs=[module.InferRequestedOutput("scores")]).as_numpy("scores")
        np.testing.assert_allclose(found, scores, atol=1e-5)
        with pytest.raises(module.InferenceServerException, match="unknown"):
            client.infer("unknown", [tensor])
        client.close()
    client = http.InferenceServerClient(host)
    assert client.get_model_config("tiny")["max_batch_size"] == 8
    assert [one["state"] for one in client.get_model_repository_index()] == ["READY"]
    assert client.get_inference_statistics("tiny")["model_stats"][0]["name"] == "tiny"
    client.close()


JSON = {"Content-Type": "application/json"}

WRONG = [
    ({"image": np.zeros((1, 3, 32, 31), np.float32)}, "has the shape"),
    ({"image": np.zeros((1, 3, 32, 32), np.float64)}, "is float32"),
    ({"image": np.zeros((9, 3, 32, 32), np.float32)}, "at most 8"),
    ({"pixels": np.zeros((1, 3, 32, 32), np.float32)}, "the model takes image"),
]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("feeds, words", WRONG)
def test_a_wrong_request_is_refused_with_the_reason(serving, feeds, words, binary):
    with pytest.raises(UsageError, match=rf"{words}.*\(HTTP 400\)"):
        asked(serving.url, feeds, binary)


@pytest.mark.parametrize("header", [False, True])
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("word", ["null", "true", '"1"'])
def test_what_is_no_number_is_not_answered(serving, word, nested, header):
    """With Triton's header and without: two ways into the server."""
    data = f"[{', '.join(['0.5'] * 3071)}, {word}]"
    body = '{"inputs": [{"name": "image", "shape": [1, 3, 32, 32], "datatype": "FP32", "data": %s}]}' % (
        f"[{data}]" if nested else data
    )
    headers = {**JSON, kserve.HEADER: str(len(body))} if header else JSON
    where = kserve.place(serving.url)
    with pytest.raises(UsageError, match=r"numbers of float32 are expected \(HTTP 400\)"):
        kserve.Connection(where).ask("POST", kserve.path(where.model, "infer"), body.encode(), headers)


@pytest.mark.parametrize("binary", [True, False])
def test_an_unknown_model_is_told(serving, images, binary):
    with pytest.raises(UsageError, match=r"nothing.*\(HTTP 404\)"):
        asked(serving.url, {"image": images}, binary, "nothing")


@pytest.mark.parametrize(
    "body, headers, status",
    [
        (b"{", {kserve.HEADER: "1"}, 400),
        (b"{}", {kserve.HEADER: "7"}, 400),
        (b"{}", {kserve.HEADER: "x"}, 400),
        (b"{}", {kserve.HEADER: "9" * 5000}, 400),
        (b'{"inputs": 1}', {kserve.HEADER: "13"}, 400),
        (b"\x1f\x8b", {kserve.HEADER: "2", "Content-Encoding": "gzip"}, 400),
        (bytes(3 << 20), {kserve.HEADER: "2"}, 413),
        (b" " * (3 << 20), JSON, 413),
        (gzip.compress(bytes(64 << 20), mtime=0), {kserve.HEADER: "2", "Content-Encoding": "gzip"}, 413),
        (gzip.compress(b" " * (64 << 20), mtime=0), {**JSON, "Content-Encoding": "gzip"}, 413),
        (zlib.compress(b"{}")[:-1], {**JSON, "Content-Encoding": "deflate"}, 400),
        (b"{}", {**JSON, "Content-Encoding": "br"}, 415),
        (b"{", JSON, 422),
    ],
)
def test_hostile_bodies_are_refused_and_the_server_goes_on(serving, images, body, headers, status):
    where = kserve.place(serving.url)
    with pytest.raises(OptimizeError, match=rf"HTTP {status}"):
        kserve.Connection(where).ask("POST", kserve.path(where.model, "infer"), body, headers)
    assert asked(serving.url, {"image": images[:1]})["scores"].shape == (1, 10)


def test_the_name_of_a_compression_may_be_written_in_capitals(serving, images, scores):
    where = kserve.place(serving.url)
    for binary in (True, False):
        body, headers = kserve.encode({"image": images}, "inputs", binary)
        more = {**headers, "Content-Encoding": "GZIP"}
        _, text = kserve.Connection(where).ask("POST", kserve.path("tiny", "infer"), gzip.compress(body), more)
        found = kserve.decode(json.loads(text)["outputs"], memoryview(b""))["scores"]
        np.testing.assert_allclose(found, scores, atol=1e-5)


@pytest.mark.parametrize("path", ["/v2/repository/index", "/v2/models/other/infer", "/nowhere"])
def test_what_is_for_no_model_may_be_small_only(serving, path):
    where = kserve.place(serving.url)
    with pytest.raises(OptimizeError, match="HTTP 413"):
        kserve.Connection(where).ask("POST", path, b" " * ((1 << 20) + 1), JSON)


def test_the_largest_batch_fits_in_its_longest_words(serving, scores):
    """JSON with as many characters as a number can have, over the whole of the largest batch; and compressed."""
    where = kserve.place(serving.url)
    data = ", ".join(["-2.2250738585072014e-308"] * (8 * 3 * 32 * 32))
    body = f'{{"inputs": [{{"name": "image", "shape": [8, 3, 32, 32], "datatype": "FP32", "data": [{data}]}}]}}'
    for content, headers in (
        (body.encode(), JSON),
        (gzip.compress(body.encode()), {**JSON, "Content-Encoding": "gzip"}),
    ):
        _, text = kserve.Connection(where).ask("POST", kserve.path(where.model, "infer"), content, headers)
        assert kserve.decode(json.loads(text)["outputs"], memoryview(b""))["scores"].shape == scores.shape


@pytest.mark.parametrize("compression", [None, "gzip"])
def test_a_message_of_grpc_has_a_limit_too(serving, images, compression):
    grpc = pytest.importorskip("tritonclient.grpc")
    client = grpc.InferenceServerClient(serving.grpc)
    tensor = grpc.InferInput("image", [1000, 3, 32, 32], "FP32")
    tensor.set_data_from_numpy(np.zeros((1000, 3, 32, 32), np.float32))
    with pytest.raises(grpc.InferenceServerException, match=r"RESOURCE_EXHAUSTED|larger than max"):
        client.infer("tiny", [tensor], compression_algorithm=compression)
    client.close()
    assert asked(serving.url, {"image": images[:1]})["scores"].shape == (1, 10)


@pytest.mark.parametrize("algorithm", ["gzip", "deflate"])
def test_compressed_requests_are_answered(serving, images, scores, algorithm):
    http = pytest.importorskip("tritonclient.http")
    client = http.InferenceServerClient(serving.url.partition("//")[2].partition("/")[0])
    for binary in (True, False):
        tensor = http.InferInput("image", [8, 3, 32, 32], "FP32")
        tensor.set_data_from_numpy(images, binary_data=binary)
        found = client.infer("tiny", [tensor], request_compression_algorithm=algorithm).as_numpy("scores")
        np.testing.assert_allclose(found, scores, atol=1e-5)
    client.close()


def test_a_model_that_was_unloaded_is_not_answered_until_it_is_loaded_again(serving, images):
    from optimize.ship import triton

    server = serving.url.rpartition("/")[0]
    triton.unload(server, ["tiny"])
    with pytest.raises(UsageError, match="HTTP 404"):
        asked(serving.url, {"image": images})
    (listed,) = triton.load(server, ["tiny"])
    assert listed["state"] == "READY" and asked(serving.url, {"image": images})["scores"].shape == (8, 10)
    with pytest.raises(UsageError, match="other"):
        triton.load(server, ["other"])


def test_a_model_that_is_loaded_anew_is_answered_in_every_way(serving, images, scores):
    from optimize.ship import triton

    where = kserve.place(serving.url)
    server = serving.url.rpartition("/")[0]
    connection = kserve.Connection(where)
    for _ in range(2):
        assert triton.load(server, ["tiny"])[0]["state"] == "READY"
        for binary in (True, False):
            np.testing.assert_allclose(asked(serving.url, {"image": images}, binary)["scores"], scores, atol=1e-5)
        connection.ask("GET", kserve.path("tiny", "ready"))
    triton.unload(server, ["tiny"])
    for binary in (True, False):
        with pytest.raises(UsageError, match="HTTP 404"):
            asked(serving.url, {"image": images}, binary)
    with pytest.raises(UsageError, match="HTTP 404"):
        connection.ask("GET", kserve.path("tiny", "ready"))
    connection.close()
    triton.load(server, ["tiny"])


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_when_it_is_told_to_and_says_what_it_did(server, bundle, images, how):
    running = server(bundle)
    asked(running.url, {"image": images[:1]})
    code, told = running.stop(how)
    assert code == 0 and [one["inference_count"] for one in told] == [1]
    assert "Traceback" not in "".join(running.said)


def test_requests_under_way_are_answered_when_it_stops(server, bundle, images):
    running = server(bundle, "--delay", "5s", "--batch", "8")  # time for all of them on a busy machine
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(asked, running.url, {"image": images[:1]}) for _ in range(4)]
        until(lambda: _waits(running))
        code, told = running.stop()
        assert all(answer.result(60)["scores"].shape == (1, 10) for answer in waiting)
    assert code == 0 and told[0]["inference_count"] == 4


@pytest.mark.slow
def test_a_request_that_never_comes_whole_does_not_hold_the_server(server, bundle):
    """The client sends one byte of its body and stays; only then is the server told to stop."""
    running = server(bundle)
    where = kserve.place(running.url)
    head = f"POST {kserve.path(where.model, 'infer')} HTTP/1.1\r\nHost: x\r\nContent-Length: 5000\r\n\r\n{{"
    with socket.create_connection((where.host, where.port)) as client:
        client.sendall(head.encode())
        until(lambda: _waits(running, 1))
        code, told = running.stop()
        assert code == 0 and told[0]["inference_count"] == 0
    assert "Traceback" not in "".join(running.said)


@pytest.mark.parametrize("host", ["::1", "[::1]", "::"])
def test_a_host_of_ipv6_is_listened_on(server, bundle, images, scores, host):
    grpc = pytest.importorskip("tritonclient.grpc")
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("no IPv6 here")
    running = server(bundle, "--name", "tiny", "--host", host)
    assert f"http://[{host.strip('[]')}]:" in running.url
    np.testing.assert_allclose(asked(running.url, {"image": images})["scores"], scores, atol=1e-5)
    client = grpc.InferenceServerClient(running.grpc)
    tensor = grpc.InferInput("image", [8, 3, 32, 32], "FP32")
    tensor.set_data_from_numpy(images)
    np.testing.assert_allclose(client.infer("tiny", [tensor]).as_numpy("scores"), scores, atol=1e-5)
    client.close()
    assert running.stop()[0] == 0


@pytest.mark.parametrize("host", ["no.such.host.invalid", "[127.0.0.1", "192.0.2.1", "a" * 70, ""])
def test_a_host_that_is_not_of_this_machine_is_told_as_such(needs_mlserver, optimize_command, bundle, host):
    done = optimize_command("serve", bundle, "--host", host, "--http-port", 0, "--grpc-port", 0)
    assert done.exit_code == 2 and host in done.stderr and "--host with a name or an address" in done.stderr


def _waits(running, clients=4):
    """Whether requests have reached the server: its connections are open, and nothing is answered yet."""
    import psutil

    return sum(one.status == "ESTABLISHED" for one in psutil.Process(running.process.pid).net_connections()) >= clients


@pytest.mark.parametrize("option", ["--http-port", "--grpc-port"])
def test_a_port_that_is_taken_is_told_before_an_engine_is_opened(needs_mlserver, optimize_command, bundle, option):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        other = "--grpc-port" if option == "--http-port" else "--http-port"
        done = optimize_command("serve", bundle, option, port, other, 0)
    assert done.exit_code == 2 and f"{option} {port} on 127.0.0.1: Address already in use" in done.stderr


def test_a_bundle_that_does_not_fit_is_refused_before_it_is_loaded(needs_mlserver, optimize_command, bundle, tmp_path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(bundle, copy)
    value = json.loads((copy / "manifest.json").read_text())
    value["device"]["arch"] = "vax"
    (copy / "manifest.json").write_text(json.dumps(value))
    done = optimize_command("serve", copy, "--http-port", 0, "--grpc-port", 0)
    assert done.exit_code == 4 and "will not run here" in done.stderr
    value["device"]["arch"] = json.loads((bundle / "manifest.json").read_text())["device"]["arch"]
    (copy / "manifest.json").write_text(json.dumps(value))
    engine = next(path for path in copy.iterdir() if path.suffix in (".bin", ".onnx"))
    engine.write_bytes(engine.read_bytes()[:-1] + b"\0")
    done = optimize_command("serve", copy, "--http-port", 0, "--grpc-port", 0)
    assert done.exit_code == 1 and "changed since it was built" in done.stderr


@pytest.mark.parametrize("words", [[], ["BUNDLE", "--node", "."], ["BUNDLE", "BUNDLE"], ["BUNDLE", "--name", "a/b"]])
def test_what_is_served_must_be_clear(needs_mlserver, optimize_command, bundle, words):
    ports = ["--http-port", 0, "--grpc-port", 0]
    done = optimize_command("serve", *[bundle if word == "BUNDLE" else word for word in words], *ports)
    assert done.exit_code == 2 and "error: " in done.stderr


def test_without_mlserver_the_command_that_installs_it_is_named(optimize_command, bundle, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "mlserver" else find(name, *rest)
    )
    known = sys.version_info[:2] <= (3, 12)
    done = optimize_command("serve", bundle)
    assert done.exit_code == 4 and "pip install 'optimize-trt[serve]'" in done.stderr
    assert ("python3.12 -m pip" in done.stderr) != known and ("has no version for this Python" in done.stderr) != known
    monkeypatch.setattr("optimize.serving.server.NEWEST_PYTHON", (3, 7))
    done = optimize_command("serve", bundle)
    assert done.exit_code == 4 and "try: python3.7 -m pip install 'optimize-trt[serve]'" in done.stderr


def test_a_bench_of_a_server_tells_network_queue_and_compute(serving, optimize_command, tmp_path, cifar):
    done = optimize_command(
        *("bench", serving.url, "--quick", "--duration", "50ms", "--warmup", "0", "--batch", "1,8", "--data", cifar),
        *("-o", tmp_path / "runs.json"),
    )
    assert done.exit_code == 0, done.stderr
    rows = json.loads((tmp_path / "runs.json").read_text())["rows"]
    assert [row["batch"] for row in rows] == [1, 8]
    for row in rows:
        assert row["target"] == "tiny" and row["precision"] == "fp32" and "served by optimize" in row["backend"]
        shares = row["served"]
        known = sum(shares[key] for key in ("network_ms", "queue_ms", "compute_ms", "input_ms", "output_ms"))
        assert 0 < known <= shares["wall_ms"] * 1.001 and row["top1"] > 0.9 and row["size_bytes"] is None
    assert "tiny: of" in done.stdout and "network" in done.stdout


def test_several_streams_of_a_bench_fill_the_batches(serving, optimize_command, tmp_path):
    done = optimize_command(
        *("bench", serving.url, "--quick", "--duration", "200ms", "--warmup", "0", "--batch", "1", "--streams", "8"),
        *("-o", tmp_path / "runs.json"),
    )
    assert done.exit_code == 0, done.stderr
    (row,) = json.loads((tmp_path / "runs.json").read_text())["rows"]
    assert row["streams"] == 8 and row["served"]["batch"] >= 1


@pytest.mark.parametrize(
    "change, code, words",
    [
        (lambda url: url.rpartition("/")[0] + "/other", 2, "/tiny"),
        (lambda url: url.rpartition("/")[0], 2, "names no model"),
        (lambda url: "http://127.0.0.1:9/tiny", 1, "does not answer"),
    ],
)
def test_a_bench_of_what_is_not_there_is_told_in_one_line(serving, optimize_command, change, code, words):
    done = optimize_command("bench", change(serving.url), "--quick")
    assert done.exit_code == code and words in done.stderr and "Traceback" not in done.stderr


def test_a_server_killed_in_the_middle_of_a_bench_leaves_what_was_measured(server, bundle, tmp_path):
    import subprocess

    running = server(bundle, "--name", "tiny")
    out = tmp_path / "runs.json"
    command = [sys.executable, "-m", "optimize", "bench", running.url, str(bundle), "--batch", "1", "--rounds", "3"]
    bench = subprocess.Popen([*command, "--duration", "300ms", "-o", str(out)], stderr=subprocess.PIPE, text=True)
    partial = out.with_name("runs.json.partial")
    until(lambda: partial.exists() and '"samples_ms"' in partial.read_text())
    running.process.kill()
    _, said = bench.communicate(timeout=300)
    assert bench.returncode == 5 and "does not answer" in said and "Traceback" not in said
    assert {row["target"] for row in json.loads(out.read_text())["rows"]} >= {"tiny"}


def test_the_runner_of_a_server_is_like_any_other(serving, images, scores):
    import engines

    with engines.open(RunnerSpec(path=serving.url, kind="served")) as runner:
        assert [one.name for one in runner.inputs] == ["image"] and runner.inputs[0].shape == (None, 3, 32, 32)
        first, second = runner.bind({"image": images}), runner.bind({"image": images[:1].copy()})
        np.testing.assert_allclose(first()["scores"], scores, atol=1e-5)
        np.testing.assert_allclose(second()["scores"], scores[:1], atol=1e-5)
        before = runner.statistics()
        first()
        assert runner.statistics()["requests"] == before["requests"] + 1
        with pytest.raises(UsageError, match="has the shape"):
            runner.bind({"image": images[0]})


@pytest.mark.slow
def test_a_runner_that_was_idle_longer_than_the_server_keeps_a_connection_asks_again(serving, images):
    import engines

    with engines.open(RunnerSpec(path=serving.url, kind="served")) as runner:
        query = runner.bind({"image": images})
        before = query()["scores"], runner.statistics()["requests"]
        time.sleep(7)  # MLServer's HTTP server closes what was idle for 5 s
        np.testing.assert_array_equal(query()["scores"], before[0])
        time.sleep(7)
        assert runner.statistics()["requests"] == before[1] + 1


def another(bundle, folder):
    """A copy whose engine has a byte more."""
    import shutil

    copy = shutil.copytree(bundle, folder / "another")
    about = manifest.read(copy)
    first = about["files"][0]
    with open(copy / first["path"], "ab") as handle:
        handle.write(b"\n")
    first.update(sha256=jsonfile.sha256(copy / first["path"]), bytes=first["bytes"] + 1)
    manifest.write(copy, about)
    return copy


def test_a_repository_is_written_and_its_model_loaded_in_one_command(serving, bundle, optimize_command, tmp_path):
    pytest.importorskip("tritonclient.grpc")
    words = ["ship", bundle, "--to", f"triton:{tmp_path / 'models'}", "--name", "tiny"]
    done = optimize_command(*words, "--load", serving.url.rpartition("/")[0], "--json")
    assert done.exit_code == 0, done.stderr
    assert [one["state"] for one in json.loads(done.stdout)["loaded"]] == ["READY"]
    words_of_another = ["ship", another(bundle, tmp_path), *words[2:]]
    missed = optimize_command(*words_of_another, "--load", serving.url.rpartition("/")[0])
    assert missed.exit_code == 1 and "serves as tiny is not the one that was written" in missed.stderr
    failed = optimize_command(*words[:-1], "other", "--load", serving.url.rpartition("/")[0])
    assert failed.exit_code == 2 and "other" in failed.stderr


def test_the_active_engine_of_a_node_is_served(server, bundle, images, scores, tmp_path):
    import shutil

    variant = "0" * 64
    shutil.copytree(bundle, tmp_path / "node" / "versions" / variant)
    (tmp_path / "node" / "active").symlink_to(f"versions/{variant}")
    running = server("--node", tmp_path / "node")
    np.testing.assert_allclose(asked(running.url, {"image": images})["scores"], scores, atol=1e-5)
    assert running.stop()[0] == 0


def test_a_node_without_an_active_engine_is_told(needs_mlserver, optimize_command, tmp_path):
    done = optimize_command("serve", "--node", tmp_path, "--http-port", 0, "--grpc-port", 0)
    assert done.exit_code == 2 and "no version is active" in done.stderr
