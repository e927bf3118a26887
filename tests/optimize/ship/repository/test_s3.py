"""What only a bucket can do wrong, against moto's S3 server."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Callable, List

import pytest

from engines.errors import OptimizeError
from optimize.ship import triton
from optimize.ship.repository.place import open_repository
from tests.servers.plugin import S3

pytest.importorskip("tritonclient.grpc")


def test_the_configuration_comes_last_and_what_is_whole_is_not_sent_again(
    bucket: S3, bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    prefix, source = uuid.uuid4().hex, bundle(9 << 20)
    target = f"triton:s3://{bucket.bucket}/{prefix}"
    (model,) = triton._models(source, "m", 100)
    repository = open_repository(target)
    given: List[str] = []
    real = repository.place._called  # type: ignore[attr-defined]  # of S3 alone

    def called(call: str, **words: object) -> object:
        if call in ("put_object", "complete_multipart_upload"):
            given.append(str(words["Key"])[len(prefix) + 1 :])
            if given == ["m/1/model.bin", "m/1/model.xml"]:
                raise OptimizeError("the connection was lost")
        return real(call, **words)

    monkeypatch.setattr(repository.place, "_called", called)  # type: ignore[attr-defined]  # of S3 alone
    with pytest.raises(OptimizeError, match="was lost"):
        triton._write(repository, model, lambda count: None, 0)
    given[:] = [""]
    assert triton._write(repository, model, lambda count: None, 0)[0] == 1
    assert given == ["", "m/1/model.xml", "m/labels.txt", "m/config.pbtxt"]
    assert repository.holds("m", 1, model.files)
    repository.close()


def test_versions_of_another_are_never_written_over(bucket: S3, bundle: Callable[..., Path]) -> None:
    prefix = uuid.uuid4().hex
    bucket.client.put_object(Bucket=bucket.bucket, Key=f"{prefix}/m/3/model.xml", Body=b"theirs")
    done = triton.write_repository([bundle()], f"triton:s3://{bucket.bucket}/{prefix}", "m")
    assert done["models"][0]["version"] == 4
    assert bucket.client.get_object(Bucket=bucket.bucket, Key=f"{prefix}/m/3/model.xml")["Body"].read() == b"theirs"
