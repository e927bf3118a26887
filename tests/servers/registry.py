"""A real OCI registry: Debian's `docker-registry`, the reference implementation."""

from __future__ import annotations

import contextlib
import shutil
from pathlib import Path
from typing import Iterator

from tests.servers.process import free_port, served

USER, PASSWORD = "fleet", "never-shown-password"
_HASH = "$2b$04$t0k.eD1QVmEIs2Ksr/y7w.FSlDsPsOrhzqM667qjnqJG.WOgMQw0q"
"""bcrypt of it, as `htpasswd -nbB` makes it."""


def missing() -> str:
    """Why no registry can run here; empty where one can."""
    return (
        "" if shutil.which("docker-registry") else "docker-registry is not installed (apt-get install docker-registry)"
    )


@contextlib.contextmanager
def running(folder: Path, auth: str = "") -> Iterator[str]:
    """Run a registry.

    Args:
        folder: Keeps what is pushed, under `data`.
        auth: YAML of the section `auth`; `htpasswd` for one user with a password.

    Yields:
        Its host and port.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    if auth == "htpasswd":
        (folder / "htpasswd").write_text(f"{USER}:{_HASH}\n")
        auth = f"auth:\n  htpasswd:\n    realm: tests\n    path: {folder}/htpasswd\n"
    (folder / "config.yml").write_text(
        f"version: 0.1\nlog:\n  level: warn\nstorage:\n  filesystem:\n    rootdirectory: {folder}/data\n"
        f"http:\n  addr: 127.0.0.1:{port}\n  secret: of-the-tests\n{auth}"
    )
    with served(["docker-registry", "serve", str(folder / "config.yml")], port, folder / "log"):
        yield f"127.0.0.1:{port}"
