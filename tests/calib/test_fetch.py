from __future__ import annotations

import gzip
import hashlib
import http.server
import io
import socket
import tarfile
import threading
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Tuple

import numpy as np
import pytest

from calib.datasets import open_dataset
from calib.datasets.fetch import FOLDER, fetch_cifar10
from engines.errors import DataError, IncompatibleError, UsageError


def batch(n: int, seed: int) -> bytes:
    records = np.random.default_rng(seed).integers(0, 256, (n, 3073), np.uint8)
    records[:, 0] = np.arange(n) % 10
    return records.tobytes()


def archive(changes: Optional[Dict[str, Any]] = None) -> bytes:
    members: Dict[str, Any] = {f"data_batch_{n}.bin": batch(20, n) for n in range(1, 6)}
    members.update({"test_batch.bin": batch(30, 9), "batches.meta.txt": b"a\n", "readme.html": b"<p>"})
    members.update(changes or {})
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as tar:
        top = tarfile.TarInfo(FOLDER)
        top.type = tarfile.DIRTYPE
        tar.addfile(top)
        for name, content in members.items():
            info = tarfile.TarInfo(name if "/" in name else f"{FOLDER}/{name}")
            if isinstance(content, tarfile.TarInfo):
                content.name = info.name
                tar.addfile(content)
            elif content is not None:
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
    return out.getvalue()


WHOLE = archive()
MD5 = hashlib.md5(WHOLE).hexdigest()


class Server:
    """A loopback server whose answers a test decides: `breaks`: the bytes that each answer sends before it ends."""

    def __init__(self) -> None:
        self.content = WHOLE
        self.ranges = True
        self.breaks: List[int] = []
        self.status: List[int] = []
        self.asked: List[Tuple[str, str]] = []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                wanted = self.headers.get("Range") or ""
                outer.asked.append((self.path, wanted))
                if outer.status:
                    self.send_error(outer.status.pop(0))
                    return
                begin = int(wanted[len("bytes=") : -1]) if wanted and outer.ranges else 0
                if begin >= len(outer.content):
                    self.send_error(416)
                    return
                body = outer.content[begin:]
                self.send_response(206 if begin else 200)
                if begin:
                    self.send_header("Content-Range", f"bytes {begin}-{len(outer.content) - 1}/{len(outer.content)}")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body[: outer.breaks.pop(0)] if outer.breaks else body)

            def log_message(self, *words: Any) -> None:
                pass

        self.http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/cifar.tar.gz"
        threading.Thread(target=self.http.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    made = Server()
    yield made
    made.http.shutdown()
    made.http.server_close()


def left(cache: Path) -> List[str]:
    return sorted(p.name for p in cache.iterdir() if p.name != "cifar10.lock")


def test_it_is_fetched_once_and_can_be_opened(server: Server, tmp_path: Path) -> None:
    said: List[Tuple[str, int, int]] = []
    folder = fetch_cifar10(server.url, MD5, tmp_path / "c", lambda *words: said.append(words))
    assert folder == tmp_path / "c" / FOLDER and left(tmp_path / "c") == [FOLDER]
    assert (folder / "data_batch_1.bin").read_bytes() == batch(20, 1)
    assert ("downloading CIFAR-10", len(WHOLE), len(WHOLE)) in said
    assert len(open_dataset(str(folder), "train")) == 100 and len(open_dataset(str(folder), "test")) == 30
    assert fetch_cifar10(server.url, MD5, tmp_path / "c") == folder
    assert len(server.asked) == 1


def test_a_broken_connection_is_resumed_where_it_broke(server: Server, tmp_path: Path) -> None:
    server.breaks = [1000, 5000]
    fetch_cifar10(server.url, MD5, tmp_path)
    assert [wanted for _, wanted in server.asked] == ["", "bytes=1000-", "bytes=6000-"]


def test_a_later_call_carries_on_and_a_server_without_ranges_starts_again(server: Server, tmp_path: Path) -> None:
    server.breaks = [100] * 4
    with pytest.raises(DataError, match="broke off") as caught:
        fetch_cifar10(server.url, MD5, tmp_path)
    assert "--data DIR" in caught.value.hint and "--data synthetic" in caught.value.hint
    assert (tmp_path / "cifar-10-binary.tar.gz.part").read_bytes() == WHOLE[:400]
    server.ranges = False
    fetch_cifar10(server.url, MD5, tmp_path)
    assert server.asked[-1][1] == "bytes=400-" and left(tmp_path) == [FOLDER]


def test_a_wrong_checksum_is_never_used(server: Server, tmp_path: Path) -> None:
    server.content = archive({"test_batch.bin": batch(30, 10)})
    with pytest.raises(DataError, match="wrong checksum"):
        fetch_cifar10(server.url, MD5, tmp_path)
    assert left(tmp_path) == []


def test_the_piece_of_another_file_is_thrown_away(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz.part").write_bytes(b"something else")
    fetch_cifar10(server.url, MD5, tmp_path)
    assert [wanted for _, wanted in server.asked] == ["bytes=14-", ""]
    assert left(tmp_path) == [FOLDER]


def test_a_complete_piece_is_checked_and_used(server: Server, tmp_path: Path) -> None:
    (tmp_path / "cifar-10-binary.tar.gz.part").write_bytes(WHOLE)
    fetch_cifar10(server.url, MD5, tmp_path)
    assert left(tmp_path) == [FOLDER]


def test_what_servers_answer(server: Server, tmp_path: Path) -> None:
    server.status = [404]
    with pytest.raises(DataError, match="404") as caught:
        fetch_cifar10(server.url, MD5, tmp_path)
    assert "--data synthetic" in caught.value.hint
    server.status = [503]
    fetch_cifar10(server.url, MD5, tmp_path)
    assert left(tmp_path) == [FOLDER]


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/x"
    with pytest.raises(DataError, match="cannot be downloaded") as caught:
        fetch_cifar10(url, MD5, tmp_path)
    assert "--data DIR" in caught.value.hint and "--data synthetic" in caught.value.hint
    for bad in ("file:///etc/passwd", "ftp://127.0.0.1/x", "x"):
        with pytest.raises(UsageError, match="http"):
            fetch_cifar10(bad, MD5, tmp_path)


def link(kind: bytes, target: str) -> tarfile.TarInfo:
    info = tarfile.TarInfo()
    info.type, info.linkname = kind, target
    return info


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"../evil.bin": b"x"}, "unexpected member"),
        ({f"{FOLDER}/../evil.bin": b"x"}, "unexpected member"),
        ({"/abs/evil.bin": b"x"}, "unexpected member"),
        ({f"{FOLDER}/evil.bin": b"x"}, "unexpected member"),
        ({"test_batch.bin": link(tarfile.SYMTYPE, "/etc/passwd")}, "unexpected member"),
        ({"test_batch.bin": link(tarfile.LNKTYPE, f"{FOLDER}/data_batch_1.bin")}, "unexpected member"),
        ({"test_batch.bin": b"x" * 3072}, "3072 bytes"),
        ({"test_batch.bin": b""}, "0 bytes"),
        ({"readme.html": b"x" * 30730001}, "30730001 bytes"),
        ({"test_batch.bin": None}, "batches are missing"),
    ],
)
def test_only_what_belongs_there_is_unpacked(server: Server, tmp_path: Path, changes: Any, words: str) -> None:
    server.content = archive(changes)
    with pytest.raises(DataError, match=words):
        fetch_cifar10(server.url, hashlib.md5(server.content).hexdigest(), tmp_path / "c")
    assert left(tmp_path / "c") == ["cifar-10-binary.tar.gz.part"]
    assert left(tmp_path) == ["c"]


@pytest.mark.parametrize(
    "content",
    [b"no archive", WHOLE[:-200], gzip.compress(b"no tar" * 200)],
    ids=["no archive", "cut short", "no tar"],  # the contents hold the time, and all workers must name a test alike
)
def test_damaged_archives(server: Server, tmp_path: Path, content: bytes) -> None:
    server.content = content
    with pytest.raises(DataError, match=r"damaged|missing"):
        fetch_cifar10(server.url, hashlib.md5(content).hexdigest(), tmp_path)
    assert FOLDER not in left(tmp_path)


def test_a_cache_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(IncompatibleError, match="cannot be written") as caught:
        fetch_cifar10("http://127.0.0.1:9/x", MD5, tmp_path / "file" / "cache")
    assert "OPTIMIZE_CACHE" in caught.value.hint


def test_two_at_once_download_once(server: Server, tmp_path: Path) -> None:
    threads = [threading.Thread(target=fetch_cifar10, args=(server.url, MD5, tmp_path)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1 and left(tmp_path) == [FOLDER]


def test_open_dataset_fetches_what_is_nowhere(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calib.datasets import fetch

    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("OPTIMIZE_DATA", raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("OPTIMIZE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("OPTIMIZE_CIFAR10_URL", server.url)
    with pytest.raises(DataError, match="wrong checksum"):  # a mirror is held to the published checksum
        open_dataset("cifar10", "test")
    monkeypatch.setattr(fetch, "MD5", MD5)
    assert len(open_dataset("cifar10", "test")) == 30
    server.http.shutdown()
    assert len(open_dataset("cifar10", "train")) == 100
