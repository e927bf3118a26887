"""What only a bucket can do wrong, against moto's S3 server."""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Iterator, List

import pytest

from engines.errors import IncompatibleError, OptimizeError, UsageError
from optimize.ship.stores import keys, s3words
from optimize.ship.url import open_store
from tests.optimize.ship.stores.conftest import blob_of, still
from tests.servers import s3
from tests.servers.plugin import S3
from tests.servers.process import free_port
from tests.servers.proxy import breaking


@pytest.fixture()
def url(bucket: S3) -> str:
    return f"s3://{bucket.bucket}/{uuid.uuid4().hex}"


@pytest.fixture()
def strict(bucket: S3) -> Iterator[None]:
    """A server that checks credentials, as real ones do."""
    s3.authorise_after(bucket.address, 0)
    yield
    s3.authorise_after(bucket.address, 1 << 40)


def test_a_cut_connection_is_told_and_the_next_try_sends_only_the_parts_that_lack(
    url: str, bucket: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = blob_of(tmp_path, 20 << 20)
    with breaking(int(bucket.address.rpartition(":")[2]), 10 << 20) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
        with pytest.raises(OptimizeError, match=r"connection was lost|cannot be reached") as caught:
            open_store(url).put("net", {blob.digest: blob.path}, still, 0)
        assert caught.value.exit_code == 1 and caught.value.hint
    monkeypatch.setenv("AWS_ENDPOINT_URL", bucket.address)
    again, moved = open_store(url), []  # type: ignore[var-annotated]
    assert not again.sizes("net", [blob.digest])
    again.put("net", {blob.digest: blob.path}, moved.append, 0)
    assert moved[0] == 8 << 20 and moved[1] < 9 << 20  # the first part was there
    again.get("net", blob.digest, 20 << 20, tmp_path / "back", still, 0)
    assert (tmp_path / "back").read_bytes() == blob.data


def test_what_was_sent_in_parts_is_checked_too(url: str, bucket: S3, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 17 << 20)
    store = open_store(url)
    store.put("net", {blob.digest: blob.path}, still, 0)
    key = f"{url.rpartition('/')[2]}/blobs/sha256/{blob.digest[7:]}"
    assert len(bucket.client.head_object(Bucket="models", Key=key)["ETag"].strip('"').partition("-")[2]) == 1
    assert store.whole("net", {blob.digest: blob.path}) == {blob.digest: True}
    other = blob_of(tmp_path, 17 << 20)
    assert store.whole("net", {blob.digest: other.path}) == {blob.digest: False}


def test_an_object_without_a_sum_is_not_judged(url: str, bucket: S3, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 1000)
    store = open_store(url)
    store.put("net", {blob.digest: blob.path}, still, 0)
    key = f"{url.rpartition('/')[2]}/blobs/sha256/{blob.digest[7:]}"
    bucket.client.put_object(Bucket="models", Key=key, Body=blob.data, ChecksumAlgorithm="CRC32")
    assert store.whole("net", {blob.digest: blob.path}) == {}


def test_uploads_that_nobody_went_on_with_for_a_day_are_ended(
    url: str, bucket: S3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def begun() -> int:
        return len(
            bucket.client.list_multipart_uploads(Bucket="models", Prefix=url.rpartition("/")[2]).get("Uploads", [])
        )

    prefix = f"{url.rpartition('/')[2]}/blobs/sha256"
    for name in ("0" * 64, "1" * 64):
        words = {"Bucket": "models", "Key": f"{prefix}/{name}"}
        upload = bucket.client.create_multipart_upload(**words)["UploadId"]
        bucket.client.upload_part(**words, UploadId=upload, PartNumber=1, Body=b"x" * 1000)
    store = open_store(url)
    store.sweep()
    assert begun() == 2, "they are young"
    monkeypatch.setattr(keys, "FORGOTTEN_S", -1)
    store.sweep()
    assert begun() == 0


def test_parts_of_another_content_are_not_taken_over(url: str, bucket: S3, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 9 << 20)
    key = f"{url.rpartition('/')[2]}/blobs/sha256/{blob.digest[7:]}"
    upload = bucket.client.create_multipart_upload(Bucket="models", Key=key)["UploadId"]
    bucket.client.upload_part(Bucket="models", Key=key, UploadId=upload, PartNumber=1, Body=b"x" * (8 << 20))
    store = open_store(url)
    store.put("net", {blob.digest: blob.path}, still, 0)
    store.get("net", blob.digest, 9 << 20, tmp_path / "back", still, 0)
    assert (tmp_path / "back").read_bytes() == blob.data


def test_nothing_of_a_large_blob_with_another_hash_is_left(url: str, bucket: S3, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 9 << 20)
    with pytest.raises(OptimizeError, match="does not arrive"):
        open_store(url).put("net", {"sha256:" + "0" * 64: blob.path}, still, 0)
    prefix = url.rpartition("/")[2]
    found = bucket.client.list_multipart_uploads(Bucket="models").get("Uploads", [])
    assert not [upload for upload in found if upload["Key"].startswith(prefix)]


def test_progress_tells_each_byte_once(url: str, tmp_path: Path) -> None:
    blob = blob_of(tmp_path, 500_000)
    moved: List[int] = []
    open_store(url).put("net", {blob.digest: blob.path}, moved.append, 0)
    assert len(moved) == len(set(moved)) and moved == sorted(moved) and moved[-1] == 500_000


def test_a_bucket_that_is_not_there_is_told(bucket: S3) -> None:
    with pytest.raises(UsageError, match="there is no such bucket") as caught:
        open_store("s3://another-bucket/x").resolve("net", "latest")
    assert "aws s3" in caught.value.hint


@pytest.mark.usefixtures("strict")
def test_refused_credentials_are_told_and_never_shown(url: str) -> None:
    with pytest.raises(IncompatibleError, match="the credentials are refused") as caught:
        open_store(url).resolve("net", "latest")
    assert caught.value.exit_code == 4
    shown = str(caught.value) + caught.value.hint
    assert all(value not in shown for value in s3.KEYS.values())


def test_missing_credentials_are_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in s3.KEYS:
        monkeypatch.delenv(name)
    with pytest.raises(IncompatibleError, match="credentials are missing") as caught:
        open_store(url).resolve("net", "latest")
    assert "AWS_PROFILE" in caught.value.hint and caught.value.exit_code == 4


def test_a_profile_that_is_not_there_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(IncompatibleError, match=r"credentials are missing .ProfileNotFound"):
        open_store(url)


def test_a_server_that_is_not_there_is_told(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{free_port()}")
    with pytest.raises(OptimizeError, match="the server cannot be reached") as caught:
        open_store(url).resolve("net", "latest")
    assert "AWS_ENDPOINT_URL" in caught.value.hint and caught.value.exit_code == 1


def test_a_newer_store_is_refused(url: str, bucket: S3) -> None:
    key = f"{url.rpartition('/')[2]}/store.json"
    bucket.client.put_object(Bucket="models", Key=key, Body=b'{"schema":"optimize.store/2"}')
    with pytest.raises(IncompatibleError, match="newer version of optimize"):
        open_store(url).resolve("net", "latest")


@pytest.mark.parametrize(
    "url", ["s3://", "s3://a", "s3://b_/x", "s3://bucket/../x", "s3://bucket/a?b=c", "s3://u:p@bucket/x"]
)
def test_a_malformed_url_is_refused(url: str) -> None:
    with pytest.raises(UsageError):
        open_store(url)


@pytest.mark.parametrize(
    ("name", "words", "code"),
    [
        ("ExpiredToken", "have expired", 4),
        ("RequestTimeTooSkewed", "clock", 4),
        ("AccessDenied", "no permission", 4),
        ("QuotaExceeded", "full", 1),
        ("SomethingElse", "SomethingElse: said", 1),
    ],
)
def test_what_a_server_answers_is_put_into_words(name: str, words: str, code: int) -> None:
    error = s3words.refusal("s3://bucket", name, "said\n")
    assert words in error.message and error.exit_code == code
