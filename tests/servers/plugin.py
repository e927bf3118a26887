"""Real servers on the loopback interface, one of each for all tests; those that lack the program skip, and say so."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Iterator, NamedTuple

import pytest

from tests.servers import registry, s3, sshd


class S3(NamedTuple):
    """A server and a bucket in it."""

    address: str
    bucket: str
    client: Any


def _needed(reason: str) -> None:
    if reason:
        pytest.skip(reason)


@pytest.fixture(scope="session")
def ssh_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[sshd.Sshd]:
    """OpenSSH's server."""
    _needed(sshd.missing())
    with sshd.running(tmp_path_factory.mktemp("sshd")) as server:
        yield server


@pytest.fixture()
def ssh(ssh_server: sshd.Sshd, monkeypatch: pytest.MonkeyPatch) -> sshd.Sshd:
    """The same, as this user's `ssh` finds it."""
    monkeypatch.setenv("OPTIMIZE_SSH_CONFIG", str(ssh_server.config))
    return ssh_server


@pytest.fixture(scope="session")
def s3_address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """moto's S3 server."""
    _needed(s3.missing())
    with s3.running(tmp_path_factory.mktemp("s3")) as address:
        yield address


@pytest.fixture()
def bucket(s3_address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> S3:
    """The same, with a bucket, as the environment tells it."""
    import boto3

    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_DEFAULT_REGION", "AWS_REGION"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {**s3.KEYS, "AWS_ENDPOINT_URL": s3_address, "AWS_EC2_METADATA_DISABLED": "true"}.items():
        monkeypatch.setenv(name, value)
    for name in ("config", "credentials"):
        variable = "AWS_CONFIG_FILE" if name == "config" else "AWS_SHARED_CREDENTIALS_FILE"
        monkeypatch.setenv(variable, str(tmp_path / f"no-{name}"))
    client = boto3.client("s3", region_name="us-east-1")
    client.create_bucket(Bucket="models")
    return S3(s3_address, "models", client)


@pytest.fixture(scope="session")
def registry_host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """docker-registry, open to everybody; its host and port."""
    _needed(registry.missing())
    with registry.running(tmp_path_factory.mktemp("registry")) as host:
        yield host
