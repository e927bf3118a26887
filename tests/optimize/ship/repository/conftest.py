"""Bundles of two files that nobody loads, and every place that a model repository can be in."""

from __future__ import annotations

import os
import uuid
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, NamedTuple

import pytest

from engines import jsonfile, manifest
from tests.optimize.ship import small

KINDS = ("folder", "ssh", "s3")


class Place(NamedTuple):
    """A place, as a user names it and as others see it."""

    url: str
    files: Callable[[], Dict[str, bytes]]
    """Every file that Triton sees there."""
    put: Callable[[Dict[str, bytes]], None]
    """Put files there, as another would."""


@pytest.fixture
def bundle(tmp_path: Path) -> Callable[..., Path]:
    """`bundle(size)`: a new engine of an XML file and so many bytes beside it."""

    def make(size: int = 5_000) -> Path:
        folder = small.bundle(tmp_path / f"bundle-{uuid.uuid4().hex}")
        (folder / "model.onnx").unlink()
        (folder / "model.xml").write_text(f"<net id='{uuid.uuid4().hex}'/>")
        (folder / "model.bin").write_bytes(os.urandom(size))
        value = jsonfile.read(folder / manifest.NAME)
        device = {**value["device"], "backend": "openvino", "version": "2026.4.1"}
        files = [
            {"path": name, "sha256": jsonfile.sha256(folder / name), "bytes": (folder / name).stat().st_size}
            for name in ("model.xml", "model.bin")
        ]
        manifest.write(folder, {**value, "backend": "openvino", "device": device, "files": files})
        return folder

    return make


@pytest.fixture
def place(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Place]:
    """An empty repository."""
    folder = tmp_path / "the models"

    def on_disk() -> Dict[str, bytes]:
        found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
        return {name: path.read_bytes() for name, path in found.items()}

    def write(files: Dict[str, bytes]) -> None:
        for name, data in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)

    if kind == "s3":
        bucket: Any = request.getfixturevalue("bucket")
        prefix = uuid.uuid4().hex

        def in_bucket() -> Dict[str, bytes]:
            listed = bucket.client.list_objects_v2(Bucket=bucket.bucket, Prefix=f"{prefix}/").get("Contents", [])
            got = {one["Key"]: bucket.client.get_object(Bucket=bucket.bucket, Key=one["Key"]) for one in listed}
            return {key[len(prefix) + 1 :]: answer["Body"].read() for key, answer in got.items()}

        def upload(files: Dict[str, bytes]) -> None:
            for name, data in files.items():
                bucket.client.put_object(Bucket=bucket.bucket, Key=f"{prefix}/{name}", Body=data)

        yield Place(f"triton:s3://{bucket.bucket}/{prefix}", in_bucket, upload)
    elif kind == "ssh":
        yield Place(f"triton:{request.getfixturevalue('ssh').url}{folder}", on_disk, write)
    else:
        yield Place(f"triton:{folder}", on_disk, write)
