"""What only a registry can do wrong, against docker-registry."""

from __future__ import annotations

import base64
import http.server
import json
import os
import subprocess
import threading
import uuid
from pathlib import Path
from typing import Iterator, List

import pytest

from engines.errors import IncompatibleError, OptimizeError, UsageError
from optimize.ship.stores.credentials import Login
from optimize.ship.url import open_store
from tests.optimize.ship.stores.conftest import blob_of, still
from tests.servers import registry
from tests.servers.process import free_port
from tests.servers.proxy import breaking


@pytest.fixture()
def url(registry_host: str) -> str:
    return f"oci://{registry_host}/lab/r{uuid.uuid4().hex}"


@pytest.fixture(scope="module")
def locked(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A registry that wants a password."""
    if registry.missing():
        pytest.skip(registry.missing())
    with registry.running(tmp_path_factory.mktemp("locked"), "htpasswd") as host:
        yield host


def log_in(folder: Path, host: str, user: str, password: str) -> None:
    """As `docker login` keeps it."""
    (folder / "docker").mkdir()
    word = base64.b64encode(f"{user}:{password}".encode()).decode()
    (folder / "docker" / "config.json").write_text(json.dumps({"auths": {host: {"auth": word}}}))


def test_an_upload_goes_on_after_the_chunks_that_the_registry_has(url: str, tmp_path: Path) -> None:
    blob, aside = blob_of(tmp_path, 40 << 20), tmp_path / "aside"

    def taken_away(count: int) -> None:
        if count == 32 << 20:
            blob.path.rename(aside)

    with pytest.raises(OptimizeError):
        open_store(url).put("net", {blob.digest: blob.path}, taken_away, 0)
    aside.rename(blob.path)
    moved: List[int] = []
    store = open_store(url)
    store.put("net", {blob.digest: blob.path}, moved.append, 0)
    assert moved[0] > 32 << 20 and moved[-1] == 40 << 20
    assert store.sizes("net", [blob.digest]) == {blob.digest: 40 << 20}
    assert not list((tmp_path / "cache").rglob("*.json"))


def test_a_cut_connection_is_told_and_the_next_try_succeeds(url: str, registry_host: str, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 24 << 20)
    with breaking(int(registry_host.rpartition(":")[2]), 20 << 20) as port:
        through = url.replace(registry_host, f"127.0.0.1:{port}")
        with pytest.raises(OptimizeError, match="the connection was lost") as caught:
            open_store(through).put("net", {blob.digest: blob.path}, still, 0)
        assert caught.value.exit_code == 1 and "goes on" in caught.value.hint
    store = open_store(url)
    assert not store.sizes("net", [blob.digest])
    store.put("net", {blob.digest: blob.path}, still, 0)
    store.get("net", blob.digest, 24 << 20, tmp_path / "back", still, 0)
    assert (tmp_path / "back").read_bytes() == blob.data


def test_an_upload_that_the_registry_has_forgotten_begins_anew(url: str, tmp_path: Path) -> None:
    blob, aside = blob_of(tmp_path, 40 << 20), tmp_path / "aside"

    def taken_away(count: int) -> None:
        if count == 16 << 20:
            blob.path.rename(aside)

    with pytest.raises(OptimizeError):
        open_store(url).put("net", {blob.digest: blob.path}, taken_away, 0)
    aside.rename(blob.path)
    (kept,) = (tmp_path / "cache").rglob("*.json")
    value = json.loads(kept.read_text())
    forgotten = value["location"].replace("uploads/", f"uploads/{uuid.uuid4()}x")
    kept.write_text(json.dumps({**value, "location": forgotten}))
    moved: List[int] = []
    open_store(url).put("net", {blob.digest: blob.path}, moved.append, 0)
    assert moved[0] <= 1 << 20 and moved[-1] == 40 << 20


def test_missing_credentials_are_told(locked: str) -> None:
    with pytest.raises(IncompatibleError, match="credentials are missing") as caught:
        open_store(f"oci://{locked}/lab").resolve("net", "latest")
    assert caught.value.hint == f"docker login {locked}" and caught.value.exit_code == 4


def test_refused_credentials_are_told_and_never_shown(locked: str, tmp_path: Path) -> None:
    log_in(tmp_path, locked, registry.USER, "another-secret")
    with pytest.raises(IncompatibleError, match="refused or have expired") as caught:
        open_store(f"oci://{locked}/lab").resolve("net", "latest")
    assert "another-secret" not in str(caught.value) + caught.value.hint + repr(Login("me", "another-secret"))


def test_a_login_of_docker_opens_the_registry(locked: str, tmp_path: Path) -> None:
    log_in(tmp_path, locked, registry.USER, registry.PASSWORD)
    blob = blob_of(tmp_path, 1000)
    store = open_store(f"oci://{locked}/lab")
    store.put("net", {blob.digest: blob.path}, still, 0)
    assert store.sizes("net", [blob.digest]) == {blob.digest: 1000}


def test_the_environment_opens_the_registry(locked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMIZE_REGISTRY_USER", registry.USER)
    monkeypatch.setenv("OPTIMIZE_REGISTRY_PASSWORD", registry.PASSWORD)
    assert open_store(f"oci://{locked}/lab").refs() == []


def test_a_program_that_keeps_the_login_is_asked(locked: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    helper = tmp_path / "bin" / "docker-credential-tests"
    helper.parent.mkdir()
    answer = json.dumps({"Username": registry.USER, "Secret": registry.PASSWORD})
    helper.write_text(f"#!/bin/sh\nread host; test \"$host\" = {locked} && echo '{answer}'\n")
    helper.chmod(0o755)
    monkeypatch.setenv("PATH", f"{helper.parent}:{os.environ['PATH']}")
    (tmp_path / "docker").mkdir()
    (tmp_path / "docker" / "config.json").write_text(json.dumps({"credHelpers": {locked: "tests"}}))
    assert open_store(f"oci://{locked}/lab").resolve("net", "latest") is None


def test_a_password_does_not_follow_to_another_server(registry_host: str, tmp_path: Path) -> None:
    """A registry that sends us elsewhere for its blobs, as those in front of buckets do."""
    seen = []
    elsewhere = {}

    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            if self.path.startswith("/v2/"):
                if not self.headers.get("Authorization"):
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="x"')
                else:
                    self.send_response(307)
                    self.send_header("Location", f"http://localhost:{elsewhere['port']}/blob")
                self.send_header("Content-Length", "0")
                self.end_headers()
            else:
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

        def log_message(self, *words: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        elsewhere["port"] = server.server_port
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host = f"127.0.0.1:{server.server_port}"
        log_in(tmp_path, host, "me", "never-shown")
        open_store(f"oci://{host}/lab").get("net", "sha256:" + "0" * 64, 2, tmp_path / "back", still, 0)
        server.shutdown()
    assert [path[:4] for path, _ in seen] == ["/v2/", "/v2/", "/blo"]
    assert seen[1][1] is not None and seen[2][1] is None


@pytest.mark.parametrize("realm", ["http://HOST/token", "file:///etc/hostname"])
def test_a_token_is_fetched_from_where_the_registry_says_by_http_alone(realm: str, tmp_path: Path) -> None:
    class Answer(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = b"{}"
            if self.path.startswith("/token?"):
                asked.append(self.path)
                body = b'{"token": "t1"}'
                self.send_response(200)
            elif self.headers.get("Authorization") == "Bearer t1":
                self.send_response(404)
            else:
                self.send_response(401)
                where = realm.replace("HOST", f"127.0.0.1:{server.server_port}")
                self.send_header("WWW-Authenticate", f'Bearer realm="{where}",service="s",scope="repository:lab:pull"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *words: object) -> None:
            pass

    asked: List[str] = []
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        store = open_store(f"oci://127.0.0.1:{server.server_port}/lab")
        if realm.startswith("http"):
            assert store.resolve("net", "latest") is None and len(asked) == 1 and "service=s" in asked[0]
        else:
            with pytest.raises(IncompatibleError, match="no address of HTTP"):
                store.resolve("net", "latest")
        server.shutdown()


def test_a_registry_that_is_not_there_is_told() -> None:
    with pytest.raises(OptimizeError, match=r"the registry cannot be reached .*refused") as caught:
        open_store(f"oci://127.0.0.1:{free_port()}/lab").resolve("net", "latest")
    assert caught.value.hint and caught.value.exit_code == 1


def test_a_registry_with_a_full_disk_is_told(tmp_path: Path) -> None:
    if registry.missing():
        pytest.skip(registry.missing())
    data = tmp_path / "registry" / "data"
    data.mkdir(parents=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "none", str(data)], capture_output=True).returncode:
        pytest.skip("a small file system cannot be mounted here")
    try:
        with registry.running(tmp_path / "registry") as host:
            store, blob = open_store(f"oci://{host}/lab"), blob_of(tmp_path, 4 << 20)
            with pytest.raises(OptimizeError, match="the disk there is full") as caught:
                store.put("net", {blob.digest: blob.path}, still, 0)
            assert caught.value.exit_code == 1 and "free some space" in caught.value.hint
            assert not store.sizes("net", [blob.digest])
    finally:
        subprocess.run(["umount", str(data)], check=True)


@pytest.mark.parametrize(
    "url", ["oci://", "oci://host/UPPER", "oci://host/../x", "oci://host/a?b", "oci://-x/a", "oci://host:1:2/a"]
)
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError, match="is expected"):
        open_store(url)


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="no place in this URL") as caught:
        open_store("oci://me:never-shown@host/lab")
    assert caught.value.hint == "docker login host"
    assert "never-shown" not in str(caught.value)
