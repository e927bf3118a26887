"""A store in an OCI registry: Docker's own, or any that keeps to the distribution specification."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from pathlib import Path
from typing import IO, Any, Collection, ContextManager, Dict, Iterator, List, Mapping, Optional, Set, Tuple
from urllib.parse import urljoin, urlsplit

from engines import jsonfile
from engines.errors import DamagedError, IncompatibleError, OptimizeError, UsageError
from optimize.ship.store import AGAIN, Moved, Ref
from optimize.ship.stores import keys
from optimize.ship.stores.files import whole
from optimize.ship.stores.flow import BLOCK, block_size, each, paced, receive
from optimize.ship.stores.registryhttp import Http, Refused

CHUNK = 16 << 20
"""Bytes of a request of an upload that can be resumed: what a cut connection costs on a registry that keeps no more."""

_DOCUMENTS = ", ".join(
    f"application/vnd.{kind}"
    for kind in (
        "oci.image.index.v1+json",
        "oci.image.manifest.v1+json",
        "docker.distribution.manifest.list.v2+json",
        "docker.distribution.manifest.v2+json",
    )
)
_BYTES = "application/octet-stream"
_UPLOAD_SCHEMA = "optimize.upload/1"
_REPOSITORY = re.compile(r"([a-z0-9]+(([._]|__|-+)[a-z0-9]+)*/)*[a-z0-9]+(([._]|__|-+)[a-z0-9]+)*")
_HOST = re.compile(r"\[[0-9a-fA-F:]+\](:[0-9]{1,5})?|[A-Za-z0-9][A-Za-z0-9.-]*(:[0-9]{1,5})?")
_LOOPBACK = re.compile(r"localhost|127\.[0-9.]+|\[::1\]")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="?next"?')
_UNSUPPORTED = (400, 404, 405, 411, 416, 501)
"""What registries answer to a part of a blob that take none."""


def open_registry(url: str) -> RegistryStore:
    """The store that `oci://host[:port]/repository` names; `oci+http://` where the registry has no TLS.

    A registry on this machine is taken to have none, as Docker does.

    Raises:
        UsageError: A malformed URL.
    """
    from optimize.ship.url import shown

    safe, parts = shown(url), urlsplit(url)
    repository = parts.path.strip("/")
    if "@" in parts.netloc:
        raise UsageError(f"{safe}: a user has no place in this URL", f"docker login {parts.netloc.rpartition('@')[2]}")
    fits = _HOST.fullmatch(parts.netloc) and (not repository or _REPOSITORY.fullmatch(repository))
    if not fits or parts.query or parts.fragment:
        raise UsageError(f"{safe}: oci://HOST[:PORT]/REPOSITORY is expected, in lower case")
    host = parts.netloc
    bare = parts.scheme == "oci+http" or _LOOPBACK.fullmatch(re.sub(r":[0-9]+$", "", host))
    place = "registry-1.docker.io" if host == "docker.io" else host
    return RegistryStore(Http(f"{'http' if bare else 'https'}://{place}", host, safe), repository, safe)


class RegistryStore:
    """See `optimize.ship.store.Store`."""

    near = False
    root: Optional[Path] = None

    def __init__(self, http: Http, repository: str, url: str) -> None:
        self.url = url
        self._http = http
        self._prefix = f"{repository}/" if repository else ""
        self._names: Set[str] = set()

    def sizes(self, name: str, digests: Collection[str]) -> Dict[str, int]:
        """See `Store.sizes`."""
        there = {}
        for digest in digests:
            keys.hexadecimal(digest)
            for kind, headers in (("blobs", {}), ("manifests", {"Accept": _DOCUMENTS})):
                found = self._head(name, f"{kind}/{digest}", headers)
                if found is not None:
                    there[digest] = int(found["Content-Length"])
                    break
        return there

    def whole(self, name: str, sources: Mapping[str, Path]) -> Dict[str, bool]:
        """See `Store.whole`; a registry answers for its blobs by itself, and tells no sum."""
        return {}

    def put(self, name: str, sources: Mapping[str, Path], moved: Moved, limit: int) -> None:
        """See `Store.put`."""
        for digest, source, told in each(sources, moved):
            self._put(name, digest, source, told, limit)

    def _put(self, name: str, digest: str, source: Path, moved: Moved, limit: int) -> None:
        size = source.stat().st_size
        kept = _kept(self.url, name, digest)
        try:
            for _ in range(2):  # the second time from the start: what was left of an earlier try may be of no use
                if self._sent(name, digest, source, size, moved, limit, kept):
                    return
        except Refused as error:
            raise self._not_taken(error, source, digest) from None
        raise DamagedError(f"{self.url}: {source.name} does not arrive there as {digest}")

    def get(self, name: str, digest: str, size: int, target: Path, moved: Moved, limit: int) -> None:
        """See `Store.get`."""
        what = f"{self.url}: {digest}"
        keys.hexadecimal(digest)

        def start(offset: int) -> Iterator[bytes]:
            headers = {"Range": f"bytes={offset}-"} if offset else {}
            try:
                answer = self._ask("GET", name, f"blobs/{digest}", headers)
            except Refused as error:
                raise (DamagedError(f"{what} is missing there", AGAIN) if error.status == 404 else error) from None
            with answer:
                skip = offset if answer.status == 200 else 0  # a registry may send all of it
                while True:
                    block = self._http.read(answer, min(skip, BLOCK) if skip else block_size(limit))
                    if not block:
                        return
                    if skip:
                        skip -= len(block)
                    else:
                        yield block

        receive(start, size, target, moved, limit, what)

    def put_document(self, name: str, media_type: str, text: bytes) -> str:
        """See `Store.put_document`."""
        digest = "sha256:" + hashlib.sha256(text).hexdigest()
        self._publish(name, digest, media_type, text)
        return digest

    def get_document(self, name: str, digest: str, limit: int) -> bytes:
        """See `Store.get_document`."""
        keys.hexadecimal(digest)
        try:
            headers = {"Accept": _DOCUMENTS}
            data = self._http.text(self._path(name, f"manifests/{digest}"), self._scope(name, False), limit, headers)[0]
        except Refused as error:
            if error.status != 404:
                raise
            return whole(None, digest, limit, self.url)
        return whole(data, digest, limit, self.url)

    def resolve(self, name: str, tag: str) -> Optional[str]:
        """See `Store.resolve`."""
        found = self._head(name, f"manifests/{keys.tag(tag)}", {"Accept": _DOCUMENTS})
        if found is None:
            return None
        digest = found.get("Docker-Content-Digest")
        if digest is None:
            raise OptimizeError(
                f"{self.url}: the registry does not tell the digest of {name}:{tag}", "name it @sha256:…"
            )
        keys.hexadecimal(digest)
        return str(digest)

    def tag(self, name: str, tag: str, media_type: str, text: bytes) -> str:
        """See `Store.tag`."""
        self._publish(name, keys.tag(tag), media_type, text)
        return "sha256:" + hashlib.sha256(text).hexdigest()

    def refs(self) -> List[Ref]:
        """See `Store.refs`."""
        try:
            listed = [
                found[len(self._prefix) :]
                for found in self._listed("/v2/_catalog?n=1000", "registry:catalog:*", "repositories")
                if found.startswith(self._prefix)
            ]
        except (Refused, IncompatibleError):
            listed = sorted(self._names)  # many registries list nothing of what they have
        found = []
        for name in listed:
            if not keys.is_name(name):
                continue
            for tag in self._listed(self._path(name, "tags/list?n=1000"), self._scope(name, False), "tags"):
                digest = self.resolve(name, tag)
                if digest:
                    found.append(Ref(name, tag, digest))
        return sorted(found)

    def sweep(self) -> None:
        """See `Store.sweep`; a registry ends uploads by itself."""

    def alone(self) -> ContextManager[None]:
        """See `Store.alone`: nobody can be kept away."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """See `Store.close`."""

    def _path(self, name: str, rest: str) -> str:
        return f"/v2/{self._prefix}{keys.name(name)}/{rest}"

    def _scope(self, name: str, push: bool) -> str:
        return f"repository:{self._prefix}{name}:pull{',push' if push else ''}"

    def _ask(self, method: str, name: str, rest: str, headers: Dict[str, str]) -> Any:
        return self._http.ask(method, self._path(name, rest), self._scope(name, False), headers)

    def _head(self, name: str, rest: str, headers: Dict[str, str]) -> Any:
        """Headers of what is there; None where it is not."""
        self._names.add(name)
        try:
            with self._ask("HEAD", name, rest, headers) as answer:
                return answer.headers
        except Refused as error:
            if error.status != 404:
                raise
            return None

    def _publish(self, name: str, reference: str, media_type: str, text: bytes) -> None:
        path, scope = self._path(name, f"manifests/{reference}"), self._scope(name, True)
        headers = {"Content-Type": media_type}
        self._http.ask("PUT", path, scope, headers, lambda: iter([text]), len(text)).close()

    def _listed(self, path: str, scope: str, field: str) -> Iterator[str]:
        """Words of a list in pages."""
        for _ in range(1000):
            try:
                data, headers = self._http.text(path, scope, keys.DOCUMENT)
            except Refused as error:
                if error.status == 404 and field == "tags":
                    return
                raise
            value = jsonfile.loads(data.decode("utf-8"))
            yield from (word for word in (value.get(field) or []) if isinstance(word, str))
            more = _NEXT.search(headers.get("Link", ""))
            if not more:
                return
            path = urljoin(self._http.base + path, more.group(1))

    def _sent(self, name: str, digest: str, source: Path, size: int, moved: Moved, limit: int, kept: Path) -> bool:
        """Send a blob; False where the registry has something else than expected, and it is worth another try."""
        scope = self._scope(name, True)
        location, have = self._resumed(kept, scope)
        resumed = bool(have)
        chunk = CHUNK
        if not location:
            location, chunk = self._begun(name, scope)
        if size > chunk:
            while have < size:
                length = min(chunk, size - have)
                headers = {"Content-Type": _BYTES, "Content-Range": f"{have}-{have + length - 1}"}
                body = _Range(source, have, length, moved, limit)
                try:
                    with self._http.ask("PATCH", location, scope, headers, body, length) as answer:
                        location = urljoin(location, answer.headers["Location"])
                except Refused as error:
                    kept.unlink(missing_ok=True)
                    if resumed:
                        return False
                    if have or error.status not in _UNSUPPORTED:
                        raise
                    location, _ = self._begun(name, scope)  # then in one piece
                    break
                have += length
                jsonfile.write(kept, {"schema": _UPLOAD_SCHEMA, "location": location, "sent": have})
        body = _Range(source, have, size - have, moved, limit)
        target = f"{location}{'&' if '?' in location else '?'}digest={digest}"
        try:
            self._http.ask("PUT", target, scope, {"Content-Type": _BYTES}, body, size - have).close()
        except Refused:
            if resumed:
                return False
            raise
        finally:
            kept.unlink(missing_ok=True)
        return True

    def _begun(self, name: str, scope: str) -> Tuple[str, int]:
        """Where a new upload goes, and the bytes of a request."""
        with self._http.ask("POST", self._path(name, "blobs/uploads/"), scope) as answer:
            least = answer.headers.get("OCI-Chunk-Min-Length", "0")
            chunk = max(CHUNK, int(least) if least.isdigit() else 0)
            return urljoin(self._http.base, answer.headers["Location"]), chunk

    def _resumed(self, kept: Path, scope: str) -> Tuple[str, int]:
        """Where an upload that was begun goes on, and what the registry has of it."""
        if not kept.is_file():
            return "", 0
        try:
            value = jsonfile.read(kept, _UPLOAD_SCHEMA)
            location, sent = str(value["location"]), int(value["sent"])
            with self._http.ask("GET", location, scope) as answer:
                there = re.fullmatch(r"(?:bytes=)?0-([0-9]+)", answer.headers.get("Range", ""))
                location = urljoin(location, answer.headers.get("Location", location))
        except (Refused, DamagedError, KeyError, ValueError):
            kept.unlink(missing_ok=True)
            return "", 0
        # Distribution 2 says 0-0 whatever it has, and takes only what follows it.
        last = int(there.group(1)) if there else 0
        return location, last + 1 if last else sent

    def _not_taken(self, error: Refused, source: Path, digest: str) -> OptimizeError:
        if "DIGEST_INVALID" in error.message:
            return DamagedError(
                f"{self.url}: {source.name} does not arrive there as {digest}",
                "it changes while it is sent, or the connection damages it: check it with sha256sum",
            )
        return error


class _Range:
    """Bytes of a file, as a body that can be sent again."""

    def __init__(self, source: Path, start: int, length: int, moved: Moved, limit: int) -> None:
        self._source, self._start, self._length, self._moved, self._limit = source, start, length, moved, limit

    def __call__(self) -> Iterator[bytes]:
        with open(self._source, "rb") as handle:
            handle.seek(self._start)
            for block in paced(_first(handle, self._length, block_size(self._limit)), self._limit):
                yield block
                self._moved(handle.tell())


def _first(handle: IO[bytes], left: int, step: int) -> Iterator[bytes]:
    """The next `left` bytes of a file, in blocks."""
    while left > 0:
        block = handle.read(min(step, left))
        if not block:
            return
        left -= len(block)
        yield block


def _kept(url: str, name: str, digest: str) -> Path:
    """The file that remembers where an upload goes on; of no use after some days, when the registry forgets it."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "optimize" / "uploads"
    cache.mkdir(parents=True, exist_ok=True, mode=0o700)
    return cache / (hashlib.sha256(f"{url}\n{name}\n{digest}".encode()).hexdigest()[:32] + ".json")
