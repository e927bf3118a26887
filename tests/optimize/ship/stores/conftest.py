"""Blobs to send, and every kind of store to send them to."""

from __future__ import annotations

import hashlib
import os
import uuid
from pathlib import Path
from typing import Iterator, NamedTuple

import pytest

from optimize.ship.store import Store
from optimize.ship.url import open_store

KINDS = ("folder", "file", "layout", "ssh", "s3", "registry")


class Blob(NamedTuple):
    """A file to send."""

    path: Path
    digest: str
    data: bytes


def blob_of(folder: Path, size: int) -> Blob:
    data = os.urandom(size)
    path = folder / f"blob-{uuid.uuid4().hex}"
    path.write_bytes(data)
    return Blob(path, "sha256:" + hashlib.sha256(data).hexdigest(), data)


def still(count: int) -> None:
    """Progress that nobody looks at."""


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's is read or written."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path / "docker"))
    for name in ("REGISTRY_AUTH_FILE", "XDG_RUNTIME_DIR", "OPTIMIZE_REGISTRY_USER", "OPTIMIZE_REGISTRY_PASSWORD"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture()
def url(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> str:
    """Of an empty store of this kind."""
    place = tmp_path / "the store"
    if kind == "ssh":
        return f"{request.getfixturevalue('ssh').url}{place}"
    if kind == "s3":
        return f"s3://{request.getfixturevalue('bucket').bucket}/{uuid.uuid4().hex}"
    if kind == "registry":
        return f"oci://{request.getfixturevalue('registry_host')}/lab/r{uuid.uuid4().hex}"
    return {"folder": str(place), "file": f"file://{tmp_path}/the%20store", "layout": f"oci-layout:{place}"}[kind]


@pytest.fixture()
def store(url: str) -> Iterator[Store]:
    """An empty store."""
    opened = open_store(url)
    yield opened
    opened.close()
