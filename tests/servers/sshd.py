"""OpenSSH's own server, with keys, a configuration and known hosts of its own; nothing of the user's is read."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import subprocess
from pathlib import Path
from typing import Iterator, NamedTuple, Optional

from tests.servers.process import free_port, served


class Sshd(NamedTuple):
    """A running server, and the client's configuration that reaches it."""

    port: int
    config: Path
    known_hosts: Path
    folder: Path
    pid: int

    @property
    def url(self) -> str:
        """Up to the folder."""
        return f"ssh://127.0.0.1:{self.port}"


def missing() -> str:
    """Why no server can run here; empty where one can."""
    for name in ("ssh", "ssh-keygen", "sshd"):
        if _program(name) is None:
            return f"{name} is not installed (apt-get install openssh-server)"
    if os.geteuid() == 0 and not os.access("/run", os.W_OK):
        return "sshd needs /run/sshd when root runs it"
    return ""


def _program(name: str) -> Optional[str]:
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


@contextlib.contextmanager
def running(
    folder: Path, environment: str = "", command: str = "", config: str = "", server: str = ""
) -> Iterator[Sshd]:
    """Run a server.

    Args:
        folder: Empty; keys, configurations and the log go there.
        environment: For `SetEnv` of the server, as `PATH=/somewhere`.
        command: For `ForceCommand` of the server.
        config: More lines of the client's configuration.
        server: More lines of the server's.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    for name in ("host", "user"):
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
    (folder / "authorized").write_bytes((folder / "user.pub").read_bytes())
    known = folder / "known_hosts"
    kind, key = (folder / "host.pub").read_text().split()[:2]
    known.write_text(f"[127.0.0.1]:{port} {kind} {key}\n")
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1:{port}\nHostKey {folder}/host\nPidFile none\nAuthorizedKeysFile {folder}/authorized\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"
        f"PermitRootLogin yes\nAllowUsers {getpass.getuser()}\nSubsystem sftp internal-sftp\n"
        # Where it is 1 or more, bash does not read the user's .bashrc.
        + f"SetEnv SHLVL=1 {environment}\n"
        + (f"ForceCommand {command}\n" if command else "")
        + server
    )
    (folder / "config").write_text(
        f"Host *\nUserKnownHostsFile {known}\nGlobalKnownHostsFile /dev/null\nIdentityFile {folder}/user\n"
        f"IdentitiesOnly yes\nIdentityAgent none\nBatchMode yes\nStrictHostKeyChecking yes\n{config}\n"
    )
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
    program = _program("sshd")
    assert program is not None
    with served([program, "-D", "-e", "-f", str(folder / "sshd_config")], port, folder / "log") as process:
        yield Sshd(port, folder / "config", known, folder, process.pid)
