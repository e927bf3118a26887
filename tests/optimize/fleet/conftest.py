"""Boards made of OpenSSH servers on loopback: each has a port, keys, a home and programs of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

ROOT = Path(__file__).resolve().parents[3]
NANO = ROOT / "tests/boards/nano-jp4"

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"


def _program(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


@dataclass
class Host:
    """A board: a folder with everything that it has, and its server."""

    name: str
    folder: Path
    port: int
    variables: Dict[str, Any] = field(default_factory=dict)
    server: Optional[subprocess.Popen[bytes]] = None

    @property
    def home(self) -> Path:
        return self.folder / "home"

    @property
    def files(self) -> Path:
        """The fleet's folder there."""
        return self.home / "fleet"

    def optimize(self, python: str = sys.executable, before: str = "", paths: List[Path] = []) -> Host:  # noqa: B006
        """Give it this project, run by a Python; `before` is shell code that sees the words of the command."""
        path = os.pathsep.join(map(str, [*paths, ROOT]))
        home = (
            f"export HOME={self.home} PYTHONPATH={path} XDG_CACHE_HOME={self.home}/cache OPTIMIZE_NODE={self.home}/node"
        )
        _program(
            self.folder / "bin/optimize", f'{home}\n{before}\nexec {python} -P -m optimize "$@"'.replace(" -P", "")
        )
        self.variables["ansible_python_interpreter"] = python
        return self

    def nano(self) -> Host:
        """Make it an original Jetson Nano: a Python that nothing can use, and a double of its trtexec."""
        bin_ = self.folder / "bin"
        _program(bin_ / "python3", "echo 3.6.9")
        _program(bin_ / "dpkg-query", f"cat {NANO}/commands/dpkg-query")
        double = ROOT / "tests/doubles/trtexec82.py"
        _program(bin_ / "trtexec", f'exec {sys.executable} {double} "$@"')
        self.variables.update(
            optimize_root=str(NANO),
            optimize_trtexec=str(bin_ / "trtexec"),
            ansible_python_interpreter="/nonexistent/python",
        )
        return self

    def start(self, around: List[str] = []) -> None:  # noqa: B006
        """Start its server."""
        words = [*around, SSHD, "-D", "-e", "-f", str(self.folder / "sshd_config")]
        with open(self.folder / "sshd.log", "ab") as log:
            self.server = subprocess.Popen(
                words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", self.port)) == 0:
                    return
            assert self.server.poll() is None, (self.folder / "sshd.log").read_text()
            time.sleep(0.05)
        raise AssertionError("the server does not answer")

    def kill(self) -> None:
        """Cut its power: the server and all that it has started end at once."""
        import psutil

        if self.server is None or self.server.poll() is not None:
            return
        tree = psutil.Process(self.server.pid)
        for one in [*tree.children(recursive=True), tree]:
            with contextlib.suppress(psutil.NoSuchProcess):
                one.kill()
        self.server.wait()


class Fleet:
    """Hosts and their inventory."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hosts: Dict[str, Host] = {}
        self.key = folder / "id"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(self.key)], check=True)

    def host(self, name: str) -> Host:
        """Make a host that is not started yet."""
        folder = self.folder / name
        (folder / "home").mkdir(parents=True)
        (folder / "bin").mkdir()
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "host_key")], check=True)
        path = f"{folder}/bin:/usr/bin:/bin:/usr/sbin:/sbin"
        lines = [
            f"Port {port}",
            "ListenAddress 127.0.0.1",
            f"HostKey {folder}/host_key",
            f"AuthorizedKeysFile {self.key}.pub",
            f"PidFile {folder}/sshd.pid",
            "StrictModes no",
            "UsePAM no",
            "PasswordAuthentication no",
            "KbdInteractiveAuthentication no",
            f"SetEnv HOME={folder}/home PATH={path}",
            "Subsystem sftp internal-sftp",
        ]
        (folder / "sshd_config").write_text("\n".join(lines) + "\n")
        host = Host(name, folder, port)
        host.variables.update(
            ansible_host="127.0.0.1",
            ansible_port=port,
            ansible_remote_tmp=f"{folder}/home/.ansible",
            optimize_command=f"{folder}/bin/optimize",
            optimize_folder=f"{folder}/home/fleet",
        )
        self.hosts[name] = host
        return host

    def inventory(self) -> Path:
        """Write the inventory of all hosts, with strict host keys."""
        import json

        known = self.folder / "known_hosts"
        known.write_text(
            "".join(f"[127.0.0.1]:{h.port} {(h.folder / 'host_key.pub').read_text()}" for h in self.hosts.values())
        )
        arguments = (
            f"-o UserKnownHostsFile={known} -o StrictHostKeyChecking=yes -o IdentitiesOnly=yes -o ConnectTimeout=5"
        )
        common = {"ansible_ssh_private_key_file": str(self.key), "ansible_ssh_common_args": arguments}
        hosts = {name: host.variables for name, host in self.hosts.items()}
        path = self.folder / "inventory.yml"  # JSON is YAML
        path.write_text(json.dumps({"boards": {"hosts": hosts, "vars": common}}, indent=1))
        return path


@pytest.fixture
def fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Fleet]:
    """An empty fleet; its servers end with the test."""
    from optimize.fleet import playbook

    if not os.access(SSHD, os.X_OK):
        pytest.skip("no OpenSSH server: apt-get install openssh-server")
    try:
        playbook.program()
    except Exception as error:
        pytest.skip(f"{error}: pip install 'optimize-trt[fleet]'")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)
    monkeypatch.setenv("ANSIBLE_HOME", str(tmp_path / "ansible"))
    (tmp_path / "f").mkdir()
    made = Fleet(tmp_path / "f")
    with tempfile.TemporaryDirectory(dir="/tmp") as sockets:  # a socket's path is short, and TMPDIR may not be
        monkeypatch.setenv("ANSIBLE_SSH_CONTROL_PATH_DIR", sockets)
        yield made
        for host in made.hosts.values():
            host.kill()


@pytest.fixture
def plan(tmp_path: Path, tiny_onnx: Path) -> Callable[..., Path]:
    """Write a plan for the small model: `plan("precision = 'fp32'")`."""

    def write(text: str = "", tables: str = "") -> Path:
        model = tmp_path / "tiny.onnx"
        shutil.copy(tiny_onnx, model)
        path = tmp_path / "plan.toml"
        quiet = "" if "[quiet]" in tables else "[quiet]\nload = 1000.0\ncelsius = 200.0\nwait = '0s'\n"
        path.write_text(f"model = 'tiny.onnx'\nbackend = 'auto'\n{text}\n{tables}\n{quiet}")
        return path

    return write
