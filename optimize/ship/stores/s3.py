"""A store in a bucket: of Amazon S3, or of any server that speaks its protocol (`AWS_ENDPOINT_URL`).

A large blob goes up in parts, which the server keeps and nobody else sees until it is told that they are all there: a
later try asks for them and goes on. The server checks the SHA-256 of each part; the hash of them all is checked here
before they become one object.
"""

from __future__ import annotations

import base64
import contextlib
import datetime
import hashlib
import io
import re
import time
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Any, Collection, ContextManager, Dict, Iterator, List, Mapping, Optional, Tuple
from urllib.parse import unquote, urlsplit

from engines.errors import DamagedError, UsageError
from optimize.ship.store import AGAIN, Moved
from optimize.ship.stores import keys
from optimize.ship.stores.files import FileStore
from optimize.ship.stores.flow import BLOCK, each, receive
from optimize.ship.stores.s3words import translated

PART = 8 << 20
"""Bytes of a part: 5 MiB at least and 10,000 of them at most, by S3's limits; so up to 80 GiB."""

_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,61}[A-Za-z0-9]")
_GONE = ("404", "NoSuchKey", "NoSuchUpload", "NotFound")


def open_s3(url: str) -> FileStore:
    """The store that `s3://bucket/prefix` names; credentials and region as for `aws`.

    Raises:
        UsageError: A malformed URL.
        IncompatibleError: The package boto3 is missing.
    """
    return FileStore(place_of(url))


def place_of(url: str) -> S3Place:
    """The part of a bucket that such a URL names, of whatever it is; see `open_s3`."""
    from optimize.ship.url import shown

    parts, safe = urlsplit(url), shown(url)
    prefix = unquote(parts.path).strip("/")
    if not _BUCKET.fullmatch(parts.netloc) or parts.query or parts.fragment:
        raise UsageError(f"{safe}: s3://BUCKET/PREFIX is expected", "credentials come from the environment or ~/.aws")
    if any(not c.isprintable() for c in prefix) or ".." in prefix.split("/") or "//" in prefix:
        raise UsageError(f"{safe}: a prefix of plain words between slashes is expected")
    return S3Place(parts.netloc, prefix + "/" if prefix else "", safe)


class S3Place:
    """See `files.Place`."""

    near = False
    folder: Optional[Path] = None

    def __init__(self, bucket: str, prefix: str, url: str) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self.url = url
        with translated(url):
            self._client = _client()
        self._body: Optional[_Body] = None
        # A body is read once to be signed, and once to be sent: only the second counts.
        self._client.meta.events.register_first("request-created.s3", lambda **_: self._sending(False))
        self._client.meta.events.register_last("request-created.s3", lambda **_: self._sending(True))

    def sizes(self, names: Collection[str]) -> Dict[str, int]:
        """See `Place.sizes`."""
        told = {key: self._asked("head_object", Key=self.prefix + key) for key in names}
        return {key: int(found["ContentLength"]) for key, found in told.items() if found is not None}

    def whole(self, sources: Mapping[str, Path]) -> Dict[str, bool]:
        """See `Place.whole`: by the sum that the server keeps of what was sent, or of its parts.

        It tells whether the object is another one by now. That the disks there keep it is the server's to see to.
        """
        found = {}
        for digest, source in sources.items():
            told = self.about(keys.blob(digest)) or {}
            if "ChecksumSHA256" in told:
                found[digest] = told["ChecksumSHA256"].partition("-")[0] == _sum_of(source)
        return found

    def send(self, sources: Mapping[str, Path], moved: Moved, limit: int) -> List[str]:
        """See `Place.send`."""
        return [
            digest
            for digest, source, told in each(sources, moved)
            if not self.upload(keys.blob(digest), keys.hexadecimal(digest), source, told, limit)
        ]

    def upload(
        self,
        name: str,
        sha256: str,
        source: Path,
        moved: Moved,
        limit: int,
        metadata: Optional[Mapping[str, str]] = None,
    ) -> bool:
        """Send a file, going on with the parts of it that are there; checked before it appears.

        Args:
            name: Below the prefix.
            sha256: Of the file, in hex.
            source, moved, limit: See `Place.send`.
            metadata: That the object has.

        Returns:
            False where the file has another hash: nothing of it is kept.
        """
        key, size, notes = self.prefix + name, source.stat().st_size, {"Metadata": metadata} if metadata else {}
        with open(source, "rb") as handle:
            if size <= PART:
                data = handle.read(PART + 1)
                if hashlib.sha256(data).hexdigest() != sha256:
                    return False
                self._give("put_object", data, 0, moved, limit, Key=key, ChecksumAlgorithm="SHA256", **notes)
                return True
            upload, there = self._upload(key, notes)
            whole, parts = hashlib.sha256(), []
            for number in range(1, -(-size // PART) + 1):
                data = handle.read(PART)
                whole.update(data)
                part: Dict[str, Any] = {"PartNumber": number, "ChecksumSHA256": _checksum(data)}
                start = (number - 1) * PART
                if _is(there.get(number, {}), data, part["ChecksumSHA256"]):
                    part["ETag"] = there[number]["ETag"]
                    moved(start + len(data))
                else:
                    words = {"Key": key, "UploadId": upload, "PartNumber": number}
                    part["ETag"] = self._give("upload_part", data, start, moved, limit, **words)["ETag"]
                parts.append(part)
        if whole.hexdigest() != sha256:
            self._asked("abort_multipart_upload", Key=key, UploadId=upload)
            return False
        self._ask("complete_multipart_upload", Key=key, UploadId=upload, MultipartUpload={"Parts": parts})
        return True

    def fetch(self, digest: str, size: int, target: Path, moved: Moved, limit: int) -> None:
        """See `Place.fetch`."""

        def start(offset: int) -> Iterator[bytes]:
            found = self._asked("get_object", Key=self.prefix + keys.blob(digest), Range=f"bytes={offset}-")
            if found is None:
                raise DamagedError(f"{self.url}: {digest} is missing there", AGAIN)
            with contextlib.closing(found["Body"]) as body, translated(self.url):
                yield from iter(lambda: body.read(BLOCK), b"")

        receive(start, size, target, moved, limit, f"{self.url}: {digest}")

    def read(self, key: str, limit: int) -> Optional[bytes]:
        """See `Place.read`."""
        found = self._asked("get_object", Key=self.prefix + key)
        if found is None:
            return None
        with contextlib.closing(found["Body"]) as body, translated(self.url):
            data: bytes = body.read(limit + 1)
            return data

    def write(self, key: str, data: bytes) -> None:
        """See `Place.write`."""
        self._ask("put_object", Key=self.prefix + key, Body=data, ChecksumSHA256=_checksum(data))

    def refs(self) -> Iterator[Tuple[str, bytes]]:
        """See `Place.refs`."""
        for key in self.listed(f"{keys.REFS}/"):
            data = self.read(key, keys.DOCUMENT)
            if data is not None:
                yield key, data

    def about(self, key: str) -> Optional[Dict[str, Any]]:
        """What the server tells of an object, its SHA-256 and metadata among it; None where there is none."""
        return self._asked("head_object", Key=self.prefix + key, ChecksumMode="ENABLED")

    def remove(self, key: str) -> None:
        """Remove an object."""
        self._asked("delete_object", Key=self.prefix + key)

    def listed(self, begin: str) -> Iterator[str]:
        """Every key that begins so, less the prefix."""
        words: Dict[str, Any] = {"Prefix": self.prefix + begin}
        while True:
            page = self._ask("list_objects_v2", **words)
            for item in page.get("Contents", []):
                yield item["Key"][len(self.prefix) :]
            if not page.get("IsTruncated"):
                return
            words["ContinuationToken"] = page["NextContinuationToken"]

    def sweep(self) -> None:
        """See `Place.sweep`: by the server's own clock, where it tells one."""
        page: Dict[str, Any] = {"IsTruncated": True}
        while page.get("IsTruncated"):
            marks = {name: page[f"Next{name}"] for name in ("KeyMarker", "UploadIdMarker") if page.get(f"Next{name}")}
            page = self._ask("list_multipart_uploads", Prefix=self.prefix + keys.BLOBS, **marks)
            told = page["ResponseMetadata"]["HTTPHeaders"].get("date")
            now = parsedate_to_datetime(told) if told else datetime.datetime.now(datetime.timezone.utc)
            for item in page.get("Uploads", []):
                words = {name: item[name] for name in ("Key", "UploadId")}
                parts = self._parts(**words) or {}
                last = max([item["Initiated"], *(part["LastModified"] for part in parts.values())])
                if (now - last).total_seconds() > keys.FORGOTTEN_S:
                    self._asked("abort_multipart_upload", **words)

    def alone(self) -> ContextManager[None]:
        """See `Place.alone`: nobody can be kept away."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """See `Place.close`."""
        self._client.close()

    def _upload(self, key: str, notes: Mapping[str, Any]) -> Tuple[str, Dict[int, Dict[str, Any]]]:
        """An upload of this key that was begun, or a new one; the parts that it has, by number."""
        found = self._ask("list_multipart_uploads", Prefix=key).get("Uploads", [])
        for upload in (item["UploadId"] for item in found if item["Key"] == key):
            there = self._parts(Key=key, UploadId=upload)
            if there is not None:
                return upload, there
        begun = self._ask("create_multipart_upload", Key=key, ChecksumAlgorithm="SHA256", **notes)
        return begun["UploadId"], {}

    def _parts(self, **upload: str) -> Optional[Dict[int, Dict[str, Any]]]:
        """The parts that an upload has, by number; None where it is gone."""
        found: Dict[int, Dict[str, Any]] = {}
        words: Dict[str, Any] = dict(upload)
        page: Optional[Dict[str, Any]] = {"IsTruncated": True}
        while page and page.get("IsTruncated"):
            page = self._asked("list_parts", **words)
            for part in page.get("Parts", []) if page else []:
                found[part["PartNumber"]] = part
            words["PartNumberMarker"] = max(found, default=0)
        return None if page is None else found

    def _give(self, call: str, data: bytes, start: int, moved: Moved, limit: int, **words: Any) -> Dict[str, Any]:
        self._body = _Body(data, start, moved, limit)
        try:
            return self._ask(call, Body=self._body, ChecksumSHA256=_checksum(data), **words)
        finally:
            self._body = None

    def _sending(self, now: bool) -> None:
        if self._body is not None:
            self._body.sending = now

    def _asked(self, call: str, **words: Any) -> Optional[Dict[str, Any]]:
        """The answer; None where there is no such object."""
        from botocore.exceptions import ClientError

        with translated(self.url):
            try:
                return self._called(call, **words)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") in _GONE:
                    return None
                raise

    def _ask(self, call: str, **words: Any) -> Dict[str, Any]:
        with translated(self.url):
            return self._called(call, **words)

    def _called(self, call: str, **words: Any) -> Dict[str, Any]:
        answer: Dict[str, Any] = getattr(self._client, call)(Bucket=self.bucket, **words)
        return answer


class _Body(io.BytesIO):
    """Bytes that tell how many of them were sent, and are sent no faster than asked."""

    def __init__(self, data: bytes, start: int, moved: Moved, limit: int) -> None:
        super().__init__(data)
        self.sending = False
        self._start, self._moved, self._limit = start, moved, limit
        self._began = 0.0

    def read(self, size: Optional[int] = -1) -> bytes:
        """As of any file."""
        if not self.sending:
            return super().read(size)
        if self.tell() == 0:
            self._began = time.monotonic()
        elif self._limit:
            time.sleep(max(0.0, self._began + self.tell() / self._limit - time.monotonic()))
        data = super().read(size)
        if data:
            self._moved(self._start + self.tell())
        return data


def _client() -> Any:
    import boto3
    from botocore.config import Config

    words: Dict[str, Any] = {"connect_timeout": 20, "read_timeout": 60, "retries": {"mode": "standard"}}
    # Servers other than Amazon's refuse the checksums that newer versions add by themselves; ours are asked for.
    newer = {"request_checksum_calculation": "when_required", "response_checksum_validation": "when_required"}
    session = boto3.session.Session()
    try:
        config = Config(**words, **newer)
    except TypeError:  # botocore before 1.36
        config = Config(**words)
    return session.client("s3", config=config, region_name=session.region_name or "us-east-1")


def _is(part: Dict[str, Any], data: bytes, checksum: str) -> bool:
    """Whether a part on the server is these bytes; a server that lists no checksums has MD5 as its tag."""
    if "ChecksumSHA256" in part:
        return bool(part["ChecksumSHA256"] == checksum)
    return str(part.get("ETag")).strip('"') == hashlib.md5(data).hexdigest()  # noqa: S324  (SHA-256 follows)


def _sum_of(source: Path) -> str:
    """What S3 keeps as the SHA-256 of a file that was sent to it: of one in parts, that of their sums.

    Their number follows, after a dash, from Amazon's server and not from all. Source: "Checking object integrity",
    composite checksums, in the manual of Amazon S3.
    """
    with open(source, "rb") as handle:
        sums: List[bytes] = [hashlib.sha256(data).digest() for data in iter(lambda: handle.read(PART), b"")]
    return base64.b64encode(sums[0]).decode() if len(sums) == 1 else _checksum(b"".join(sums))


def _checksum(data: bytes) -> str:
    return base64.b64encode(hashlib.sha256(data).digest()).decode()
