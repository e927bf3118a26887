"""moto's S3 server. It counts nothing of what real ones do with space, and checks credentials only where told to."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import urllib.request
from pathlib import Path
from typing import Iterator

from tests.servers.process import free_port, served

KEYS = {"AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST", "AWS_SECRET_ACCESS_KEY": "never-shown-secret"}


def missing() -> str:
    """Why no server can run here; empty where one can."""
    for name in ("boto3", "moto", "flask", "flask_cors"):
        if importlib.util.find_spec(name) is None:
            return f"{name} is not installed (pip install boto3 'moto[s3]' flask flask-cors)"
    return ""


@contextlib.contextmanager
def running(folder: Path) -> Iterator[str]:
    """Run a server; yields its address."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    env = {**KEYS, "PYTHONPATH": ":".join(part for part in sys.path if part)}
    with served([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)], port, folder / "log", env):
        yield f"http://127.0.0.1:{port}"


def authorise_after(address: str, count: int) -> None:
    """Check credentials from the request after the next `count` ones on."""
    request = urllib.request.Request(
        f"{address}/moto-api/reset-auth", data=str(count).encode(), headers={"Content-Type": "text/plain"}
    )
    with urllib.request.urlopen(request) as answer:
        assert answer.status == 200
