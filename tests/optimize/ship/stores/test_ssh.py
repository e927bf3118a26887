"""What only SSH can do wrong, against OpenSSH's own server."""

from __future__ import annotations

import contextlib
import os
import shutil
import stat
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, List, Type

import psutil
import pytest

from engines.errors import DamagedError, IncompatibleError, OptimizeError, UsageError
from optimize.ship.repository import ssh as ssh_repository
from optimize.ship.store import Store
from optimize.ship.stores import ssh as ssh_store
from optimize.ship.stores import sshshell
from optimize.ship.url import open_store
from tests.optimize.ship.stores.conftest import blob_of, still
from tests.servers import sshd
from tests.servers.process import free_port


def refused(url: str, error: Type[OptimizeError], words: str, hint: str, code: int) -> None:
    store = open_store(url)
    with pytest.raises(error, match=words) as caught:
        store.resolve("net", "latest")
    store.close()
    assert hint in caught.value.hint
    assert caught.value.exit_code == code


def cut(server: sshd.Sshd, at: int) -> Callable[[int], None]:
    """Ends every connection of a server when so much has been sent."""

    def moved(count: int) -> None:
        if count >= at:
            for child in psutil.Process(server.pid).children(recursive=True):
                with contextlib.suppress(psutil.NoSuchProcess):
                    if child.name().startswith("sshd"):
                        child.kill()

    return moved


def part_of(folder: Path, digest: str) -> Path:
    return folder / "blobs" / "sha256" / f".{digest[7:]}.part"


def test_a_cut_connection_is_told_and_the_next_try_goes_on(ssh: sshd.Sshd, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 24 << 20)
    store = open_store(f"{ssh.url}{tmp_path}/store")
    with pytest.raises(OptimizeError) as caught:
        # a limit is kept in blocks, so they are seen
        store.put("net", {blob.digest: blob.path}, cut(ssh, 12 << 20), 1 << 30)
    assert caught.value.exit_code == 1 and "run the same command again" in caught.value.hint
    store.close()
    left = part_of(tmp_path / "store", blob.digest)
    assert 1 << 20 < left.stat().st_size < 24 << 20
    there = left.stat().st_size
    again = open_store(f"{ssh.url}{tmp_path}/store")
    moved: List[int] = []
    again.put("net", {blob.digest: blob.path}, moved.append, 0)
    again.close()
    assert min(moved) > there - (1 << 16)
    assert (tmp_path / "store" / "blobs" / "sha256" / blob.digest[7:]).read_bytes() == blob.data
    assert not left.exists()


def test_a_large_file_is_read_by_ssh_itself_and_goes_on_where_it_stopped(ssh: sshd.Sshd, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, (24 << 20) + 7)
    part = part_of(tmp_path / "store", blob.digest)
    part.parent.mkdir(parents=True)
    part.write_bytes(blob.data[: 1 << 20])
    store = open_store(f"{ssh.url}{tmp_path}/store")
    moved: List[int] = []
    store.put("net", {blob.digest: blob.path}, moved.append, 0)
    store.close()
    assert moved == sorted(moved) and moved[0] >= 1 << 20 and moved[-1] == len(blob.data)
    assert part.with_name(blob.digest[7:]).read_bytes() == blob.data
    assert not part.exists()


def test_a_part_that_was_damaged_is_sent_anew(ssh: sshd.Sshd, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 400_000)
    part = part_of(tmp_path / "store", blob.digest)
    part.parent.mkdir(parents=True)
    part.write_bytes(b"\0" * 300_000)
    store = open_store(f"{ssh.url}{tmp_path}/store")
    store.put("net", {blob.digest: blob.path}, still, 0)
    store.close()
    assert part.with_name(blob.digest[7:]).read_bytes() == blob.data


@pytest.mark.parametrize("size", [5_000, 2_000_000])
@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_a_link_or_fifo_in_place_of_a_part_is_not_written_to(
    ssh: sshd.Sshd, tmp_path: Path, size: int, limit: int
) -> None:
    store = open_store(f"{ssh.url}{tmp_path}/store")
    victim = tmp_path / "victim"
    victim.write_text("mine")
    for make in (os.mkfifo, lambda path: path.symlink_to(victim)):
        blob = blob_of(tmp_path, size)
        part = part_of(tmp_path / "store", blob.digest)
        part.parent.mkdir(parents=True, exist_ok=True)
        make(part)
        store.put("net", {blob.digest: blob.path}, still, limit)
        assert part.with_name(blob.digest[7:]).read_bytes() == blob.data
        assert not part.is_symlink() and not part.with_name(blob.digest[7:]).is_symlink()
    assert victim.read_text() == "mine"
    store.close()


@pytest.mark.parametrize("limit", [0, 1 << 30])
def test_a_folder_in_place_of_a_file_is_told(ssh: sshd.Sshd, tmp_path: Path, limit: int) -> None:
    store = open_store(f"{ssh.url}{tmp_path}/store")
    blob = blob_of(tmp_path, 5_000)
    (tmp_path / "store/blobs/sha256" / blob.digest[7:]).mkdir(parents=True)
    with pytest.raises(OptimizeError, match="a file is in the way"):
        store.put("net", {blob.digest: blob.path}, still, limit)
    (tmp_path / "store/refs/net/v1.json").mkdir(parents=True)
    with pytest.raises(OptimizeError, match="a file is in the way"):
        store.tag("net", "v1", "application/json", b"{}")
    assert [path.name for path in (tmp_path / "store/refs").rglob("*")] == ["net", "v1.json"]
    store.close()


def test_writers_of_one_blob_do_no_harm(ssh: sshd.Sshd, tmp_path: Path) -> None:
    blobs, together = [blob_of(tmp_path, 3_000_000) for _ in range(5)], threading.Barrier(3)

    def write(_: int) -> None:
        store = open_store(f"{ssh.url}{tmp_path}/store")
        for blob in blobs:
            together.wait(60)
            store.put("net", {blob.digest: blob.path}, still, 1 << 30)
        store.close()

    with ThreadPoolExecutor(3) as writers:
        list(writers.map(write, range(3)))
    for blob in blobs:
        assert (tmp_path / "store" / "blobs" / "sha256" / blob.digest[7:]).read_bytes() == blob.data


def test_no_script_has_what_a_login_shell_may_take_for_its_own() -> None:
    known = {**vars(ssh_store), **{f"{name}_OF_MODELS": value for name, value in vars(ssh_repository).items()}}
    scripts = [value for name, value in known.items() if name.isupper() and isinstance(value, str)]
    assert len(scripts) >= 12
    for script in (*scripts, sshshell._SCRIPT):
        assert not set("'!\n") & set(script), script


def test_one_connection_serves_every_command(ssh: sshd.Sshd, tmp_path: Path) -> None:
    log = ssh.folder / "log"
    before = log.read_text().count("Accepted publickey")
    store = open_store(f"{ssh.url}{tmp_path}/store")
    blob = blob_of(tmp_path, 100)
    store.put("net", {blob.digest: blob.path}, still, 0)
    assert store.refs() == []
    store.close()
    assert log.read_text().count("Accepted publickey") == before + 1


@pytest.mark.parametrize("folder", ["-rf", "a b", "it's", 'say "no"', "$(touch x)", "*", "&& exit 3", "ümlaut"])
def test_a_folder_of_any_name_is_safe(ssh: sshd.Sshd, tmp_path: Path, folder: str) -> None:
    from urllib.parse import quote

    store = open_store(f"{ssh.url}{tmp_path}/{quote(folder)}")
    digest = store.tag("net", "latest", "application/json", b"{}")
    assert store.resolve("net", "latest") == digest
    assert [ref.digest for ref in store.refs()] == [digest]
    store.close()
    assert (tmp_path / folder / "store.json").is_file()


@pytest.mark.parametrize(
    ("rest", "words"),
    [
        ("/a%0Ab", "control characters"),
        ("/a%00b", "control characters"),
        ("/a%5Cb", "backslashes"),
        ("", "the folder is missing"),
        ("/", "the folder is missing"),
        ("/x?y=1", "the folder is missing"),
    ],
)
def test_a_path_that_no_shell_should_see_is_refused(rest: str, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        open_store(f"ssh://host{rest}")


@pytest.mark.parametrize("place", ["-oProxyCommand=touch x", "user@-oProxyCommand=x", "-l@host", "host:99999", "a b"])
def test_a_host_that_is_an_option_is_refused(place: str) -> None:
    with pytest.raises(UsageError):
        open_store(f"ssh://{place}/models")


def test_a_password_in_the_url_is_refused_and_not_shown() -> None:
    with pytest.raises(UsageError, match="no place in a URL") as caught:
        open_store("ssh://me:never-shown@host/models")
    assert "never-shown" not in str(caught.value) + caught.value.hint


def test_a_host_that_is_not_there_is_told(ssh: sshd.Sshd) -> None:
    port = free_port()
    refused(f"ssh://127.0.0.1:{port}/x", OptimizeError, "cannot be reached .*Connection refused", f"ssh -p {port}", 1)
    refused("ssh://no-such-host.invalid/x", OptimizeError, "cannot be reached", "ssh no-such-host.invalid", 1)


def test_a_host_key_that_changed_is_refused(ssh: sshd.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = (ssh.folder / "user.pub").read_text().split()[:2]
    (tmp_path / "known").write_text(f"[127.0.0.1]:{ssh.port} {' '.join(other)}\n")
    config = tmp_path / "config"
    config.write_text(ssh.config.read_text().replace(str(ssh.known_hosts), str(tmp_path / "known")))
    monkeypatch.setenv("OPTIMIZE_SSH_CONFIG", str(config))
    words = "another one than before"
    refused(f"{ssh.url}/x", IncompatibleError, words, f"ssh-keygen -R '[127.0.0.1]:{ssh.port}'", 4)


def test_a_host_key_that_is_not_known_is_refused(
    ssh: sshd.Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config"
    config.write_text(ssh.config.read_text().replace(str(ssh.known_hosts), str(tmp_path / "none")))
    monkeypatch.setenv("OPTIMIZE_SSH_CONFIG", str(config))
    refused(f"{ssh.url}/x", IncompatibleError, "host key is not known", "to see its fingerprint", 4)


def test_a_user_who_may_not_log_in_is_told(ssh: sshd.Sshd) -> None:
    url = f"ssh://nobody@127.0.0.1:{ssh.port}/x"
    refused(url, IncompatibleError, "does not let you in", f"ssh -p {ssh.port} nobody@127.0.0.1", 4)


def test_a_missing_client_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    refused("ssh://host/x", IncompatibleError, "program ssh is missing", "openssh-client", 4)


def test_an_account_that_prints_by_itself_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if sshd.missing():
        pytest.skip(sshd.missing())
    with sshd.running(tmp_path / "sshd", command='echo Welcome; eval "$SSH_ORIGINAL_COMMAND"') as server:
        monkeypatch.setenv("OPTIMIZE_SSH_CONFIG", str(server.config))
        refused(f"{server.url}/x", IncompatibleError, "prints where a program.*: Welcome", ".bashrc", 4)


def written(store: Store) -> None:
    try:
        store.put_document("net", "application/json", b"{}")
    finally:
        store.close()


def test_a_folder_without_permission_is_told(ssh: sshd.Sshd) -> None:
    with pytest.raises(IncompatibleError, match="no permission there") as caught:
        written(open_store(f"{ssh.url}/sys/store"))  # where not even root may write
    assert caught.value.exit_code == 4


def test_a_file_where_the_folder_should_be_is_told(ssh: sshd.Sshd, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OptimizeError, match="a file is in the way"):
        written(open_store(f"{ssh.url}{tmp_path}/file/store"))


@pytest.mark.parametrize("size", [3 << 20, 7 << 20])
def test_a_full_disk_there_is_told_and_nothing_appears(ssh: sshd.Sshd, tmp_path: Path, size: int) -> None:
    blob = blob_of(tmp_path, size)
    part = part_of(tmp_path / "store", blob.digest)
    part.parent.mkdir(parents=True)
    try:
        os.mknod(part, 0o666 | stat.S_IFCHR, os.makedev(1, 7))  # /dev/full, full(4): no space left at every write
    except PermissionError:
        pytest.skip("only root makes devices, and /dev/full is one")
    store = open_store(f"{ssh.url}{tmp_path}/store")
    with pytest.raises(OptimizeError, match=r"the disk there is full.*No space left on device") as caught:
        store.put("net", {blob.digest: blob.path}, still, 0)
    assert caught.value.exit_code == 1 and "free some space" in caught.value.hint
    assert not store.sizes("net", [blob.digest])
    store.close()


def test_a_document_that_ends_early_changes_nothing(ssh: sshd.Sshd, tmp_path: Path) -> None:
    store = open_store(f"{ssh.url}{tmp_path}/store")
    digest = store.tag("net", "latest", "application/json", b"{}")
    place = store.place  # type: ignore[attr-defined]
    path = f"{tmp_path}/store/refs/net"
    with pytest.raises(OptimizeError):
        place.connection.ask(ssh_store._WRITE, path, f"{path}/.part", f"{path}/latest.json", "100", data=b"{")
    assert store.resolve("net", "latest") == digest
    store.close()
    assert os.listdir(path) == ["latest.json"]


def test_a_limit_is_kept_in_blocks(ssh: sshd.Sshd, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 100_000)
    moved: List[int] = []
    store = open_store(f"{ssh.url}{tmp_path}/store")
    store.put("net", {blob.digest: blob.path}, moved.append, 400_000)
    store.close()
    assert moved == [50_000, 100_000]


def test_a_file_is_checked_there_while_the_next_is_sent(tmp_path: Path) -> None:
    if sshd.missing():
        pytest.skip(sshd.missing())
    first, second = blob_of(tmp_path, 20 << 20), blob_of(tmp_path, 5_000)
    blobs = tmp_path / "store" / "blobs" / "sha256"
    tools = tmp_path / "tools"
    tools.mkdir()
    hashes = tools / "openssl"  # of a large file; it ends when the second one is there, or with no hash
    hashes.write_text(
        f"#!/bin/sh\ni=0; until [ -e {blobs / second.digest[7:]} ]; do i=$((i+1)); [ $i -lt 300 ] || exit 1; "
        f'sleep 0.1; done\nexec {shutil.which("openssl")} "$@"\n'
    )
    hashes.chmod(0o755)
    moved: List[int] = []
    path = f"PATH={tools}:{os.environ['PATH']}"
    with sshd.running(tmp_path / "server", path) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMIZE_SSH_CONFIG", str(server.config))
        store = open_store(f"{server.url}{tmp_path}/store")
        store.put("net", {blob.digest: blob.path for blob in (first, second)}, moved.append, 0)
        store.close()
    assert moved == sorted(moved) and moved[-1] == len(first.data) + len(second.data)
    for blob in (first, second):
        assert (blobs / blob.digest[7:]).read_bytes() == blob.data


def test_two_sessions_of_one_login_are_enough(tmp_path: Path) -> None:
    if sshd.missing():
        pytest.skip(sshd.missing())
    blobs = [blob_of(tmp_path, size) for size in (20 << 20, 18 << 20, 300_000)]
    running = sshd.running(tmp_path / "server", server="MaxSessions 2\n")
    with running as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMIZE_SSH_CONFIG", str(server.config))
        store = open_store(f"{server.url}{tmp_path}/store")
        store.put("net", {blob.digest: blob.path for blob in blobs}, still, 0)
        assert len(store.sizes("net", [blob.digest for blob in blobs])) == 3
        store.close()
    assert (server.folder / "log").read_text().count("Accepted publickey") == 1


def test_of_many_files_the_damaged_ones_are_sent_anew(ssh: sshd.Sshd, tmp_path: Path) -> None:
    blobs = [blob_of(tmp_path, size) for size in (20 << 20, 400_000, 18 << 20, 0, 10, 17 << 20, 300_000)]
    for blob in blobs[1:3]:
        part = part_of(tmp_path / "store", blob.digest)
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(b"\0" * 300_000)
    store = open_store(f"{ssh.url}{tmp_path}/store")
    moved: List[int] = []
    store.put("net", {blob.digest: blob.path for blob in blobs}, moved.append, 0)
    store.close()
    assert sum(len(blob.data) for blob in blobs) in moved
    for blob in blobs:
        assert (tmp_path / "store" / "blobs" / "sha256" / blob.digest[7:]).read_bytes() == blob.data
    blobs[2].path.write_bytes(b"\1" * (18 << 20))
    other = open_store(f"{ssh.url}{tmp_path}/other")
    with pytest.raises(DamagedError, match=f"{blobs[2].path.name} does not arrive there as {blobs[2].digest}"):
        other.put("net", {blob.digest: blob.path for blob in blobs}, still, 0)
    right = {blob.digest: len(blob.data) for blob in blobs if blob is not blobs[2]}
    assert other.sizes("net", [blob.digest for blob in blobs]) == right
    other.close()


def test_where_one_file_fails_no_process_is_left(ssh: sshd.Sshd, tmp_path: Path) -> None:
    first, second = blob_of(tmp_path, 20 << 20), blob_of(tmp_path, 5_000)
    (tmp_path / "store/blobs/sha256" / second.digest[7:]).mkdir(parents=True)
    before = psutil.Process().children(recursive=True)
    store = open_store(f"{ssh.url}{tmp_path}/store")
    with pytest.raises(OptimizeError, match="a file is in the way"):
        store.put("net", {blob.digest: blob.path for blob in (first, second)}, still, 0)
    store.close()
    assert psutil.Process().children(recursive=True) == before
    again = open_store(f"{ssh.url}{tmp_path}/store")
    again.put("net", {first.digest: first.path}, still, 0)
    assert again.sizes("net", [first.digest]) == {first.digest: len(first.data)}
    again.close()


def test_a_program_that_fails_to_hash_leaves_it_to_the_next(tmp_path: Path) -> None:
    if sshd.missing():
        pytest.skip(sshd.missing())
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "openssl").write_text("#!/bin/sh\necho error while loading shared libraries >&2\nexit 127\n")
    (tools / "openssl").chmod(0o755)
    blob = blob_of(tmp_path, 2_000_000)
    path = f"PATH={tools}:{os.environ['PATH']}"
    with sshd.running(tmp_path / "server", path) as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMIZE_SSH_CONFIG", str(server.config))
        store = open_store(f"{server.url}{tmp_path}/store")
        store.put("net", {blob.digest: blob.path}, still, 0)
        assert store.whole("net", {blob.digest: blob.path}) == {blob.digest: True}
        store.close()


def test_a_host_without_a_program_that_hashes_checks_nothing(tmp_path: Path) -> None:
    if sshd.missing():
        pytest.skip(sshd.missing())
    tools = tmp_path / "tools"
    tools.mkdir()
    for name in ("sh", "cat", "dd", "head", "mkdir", "mv", "rm", "tail", "tr", "wc", "sync"):
        (tools / name).symlink_to(shutil.which(name) or "/nowhere")
    blob = blob_of(tmp_path, 1000)
    there = tmp_path / "store/blobs/sha256" / blob.digest[7:]
    there.parent.mkdir(parents=True)
    there.write_bytes(blob.data)
    (tmp_path / "store/store.json").write_text('{"schema": "optimize.store/1"}')
    with sshd.running(tmp_path / "server", f"PATH={tools}") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPTIMIZE_SSH_CONFIG", str(server.config))
        store = open_store(f"{server.url}{tmp_path}/store")
        assert store.whole("net", {blob.digest: blob.path}) == {}
        store.sweep()  # without `find` there is nothing to sweep with
        other = blob_of(tmp_path, 1000)
        with pytest.raises(IncompatibleError, match=r"a program is missing there.*sha256sum"):
            store.put("net", {other.digest: other.path}, still, 0)
        store.close()
