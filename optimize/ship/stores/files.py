"""A store made of files in one layout (`keys.py`), wherever they lie: in a folder, on an SSH host, in a bucket."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Collection, ContextManager, Dict, Iterable, List, Mapping, Optional, Protocol, Tuple

from engines.errors import DamagedError
from optimize.ship.store import AGAIN, Moved, Ref
from optimize.ship.stores import keys


class Place(Protocol):
    """What differs between a folder, an SSH host and a bucket. Keys are relative paths of `keys.py`."""

    url: str
    folder: Optional[Path]
    """See `Store.root`."""
    near: bool
    """See `Store`."""

    def sizes(self, names: Collection[str]) -> Dict[str, int]:
        """Bytes of those files that are there, by key."""

    def whole(self, sources: Mapping[str, Path]) -> Dict[str, bool]:
        """See `Store.whole`."""

    def send(self, sources: Mapping[str, Path], moved: Moved, limit: int) -> List[str]:
        """Send blobs, going on where an earlier try stopped; each is durable and checked before it appears.

        Returns:
            Digests of those that arrived with another hash: nothing of them is kept.
        """

    def fetch(self, digest: str, size: int, target: Path, moved: Moved, limit: int) -> None:
        """See `Store.get`."""

    def read(self, key: str, limit: int) -> Optional[bytes]:
        """A small file; None where there is none. One byte more than `limit` of a larger one."""

    def write(self, key: str, data: bytes) -> None:
        """Make or replace a small file in one step, durable when this returns."""

    def refs(self) -> Iterable[Tuple[str, bytes]]:
        """Key and content of every file below `refs`."""

    def sweep(self) -> None:
        """See `Store.sweep`."""

    def alone(self) -> ContextManager[None]:
        """See `Store.alone`."""

    def close(self) -> None:
        """See `Store.close`."""


class FileStore:
    """See `optimize.ship.store.Store`."""

    def __init__(self, place: Place) -> None:
        self.place = place
        self.url = place.url
        self.near = place.near
        self.root: Optional[Path] = place.folder
        self._known: Optional[bool] = None

    def sizes(self, name: str, digests: Collection[str]) -> Dict[str, int]:
        """See `Store.sizes`."""
        named = {keys.blob(digest): digest for digest in digests}
        there = self.place.sizes(named) if named and self._is_store() else {}
        return {named[key]: size for key, size in there.items()}

    def whole(self, name: str, sources: Mapping[str, Path]) -> Dict[str, bool]:
        """See `Store.whole`."""
        return self.place.whole(sources) if sources and self._is_store() else {}

    def put(self, name: str, sources: Mapping[str, Path], moved: Moved, limit: int) -> None:
        """See `Store.put`."""
        self._make()
        send_checked(self.place, sources, moved, limit)

    def get(self, name: str, digest: str, size: int, target: Path, moved: Moved, limit: int) -> None:
        """See `Store.get`."""
        keys.hexadecimal(digest)
        self._is_store()
        self.place.fetch(digest, size, target, moved, limit)

    def put_document(self, name: str, media_type: str, text: bytes) -> str:
        """See `Store.put_document`."""
        self._make()
        digest = "sha256:" + hashlib.sha256(text).hexdigest()
        self.place.write(keys.blob(digest), text)
        return digest

    def get_document(self, name: str, digest: str, limit: int) -> bytes:
        """See `Store.get_document`."""
        data = self.place.read(keys.blob(digest), limit) if self._is_store() else None
        return whole(data, digest, limit, self.url)

    def resolve(self, name: str, tag: str) -> Optional[str]:
        """See `Store.resolve`."""
        key = keys.ref(name, tag)
        data = self.place.read(key, keys.DOCUMENT) if self._is_store() else None
        return None if data is None else keys.from_ref(data, f"{self.url}: {key}")

    def tag(self, name: str, tag: str, media_type: str, text: bytes) -> str:
        """See `Store.tag`."""
        key = keys.ref(name, tag)
        digest = self.put_document(name, media_type, text)
        self.place.write(key, keys.to_ref(digest))
        return digest

    def refs(self) -> List[Ref]:
        """See `Store.refs`."""
        found = []
        for key, data in self.place.refs() if self._is_store() else ():
            name, tag = keys.named(key)
            if name:
                found.append(Ref(name, tag, keys.from_ref(data, f"{self.url}: {key}")))
        return sorted(found)

    def sweep(self) -> None:
        """See `Store.sweep`."""
        self.place.sweep()

    def alone(self) -> ContextManager[None]:
        """See `Store.alone`."""
        return self.place.alone()

    def close(self) -> None:
        """See `Store.close`."""
        self.place.close()

    def _is_store(self) -> bool:
        """Whether something was kept here already; raises where that was a newer version."""
        if self._known is None:
            data = self.place.read(keys.STORE, keys.DOCUMENT)
            if data is not None:
                keys.document(data, keys.STORE_SCHEMA, f"{self.url}: {keys.STORE}")
            self._known = data is not None
        return self._known

    def _make(self) -> None:
        if not self._is_store():
            self.place.write(keys.STORE, keys.text({"schema": keys.STORE_SCHEMA}))
            self._known = True


def send_checked(place: Place, sources: Mapping[str, Path], moved: Moved, limit: int) -> None:
    """Send blobs; see `Store.put`."""
    damaged = place.send(sources, moved, limit)
    if damaged:  # once more, from the start: what was left of an earlier try may have been damaged
        damaged = place.send({digest: sources[digest] for digest in damaged}, moved, limit)
    if damaged:
        raise DamagedError(
            f"{place.url}: {sources[damaged[0]].name} does not arrive there as {damaged[0]}",
            "it changes while it is sent, or the connection or the disk there damages it: check it with sha256sum",
        )


def whole(data: Optional[bytes], digest: str, limit: int, url: str) -> bytes:
    """A document, checked.

    Raises:
        DamagedError: It is missing, larger than `limit` bytes, or has another digest.
    """
    if data is None:
        raise DamagedError(f"{url}: {digest} is missing there", AGAIN)
    if len(data) > limit:
        raise DamagedError(f"{url}: {digest} is larger than {limit} bytes, no document of optimize")
    if hashlib.sha256(data).hexdigest() != keys.hexadecimal(digest):
        raise DamagedError(f"{url}: {digest} has another content than its name says", AGAIN)
    return data
