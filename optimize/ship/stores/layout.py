"""A store in an OCI image layout: a folder that `skopeo`, `oras` and registries' own tools read as it is.

Blobs lie as in a folder (`folder.py`); what differs is that all names stand in one `index.json`.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Collection, ContextManager, Dict, List, Mapping, Optional

from filelock import FileLock

from engines import jsonfile
from engines.errors import DamagedError, IncompatibleError, UsageError
from optimize.ship.store import Moved, Ref
from optimize.ship.stores import keys
from optimize.ship.stores.files import send_checked, whole
from optimize.ship.stores.folder import FolderPlace

_MARK = "oci-layout"
_VERSION = "1.0.0"
_INDEX = "index.json"
_INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
_NAME = "org.opencontainers.image.ref.name"


def open_layout(url: str) -> LayoutStore:
    """The store that `oci-layout:DIR` names.

    Raises:
        UsageError: No folder is named.
    """
    path = url.partition(":")[2]
    if path.startswith("//") or not path or "\0" in path:
        from optimize.ship.url import shown

        raise UsageError(f"{shown(url)}: oci-layout:DIR is expected", "oci-layout:./models")
    return LayoutStore(Path(path), url)


class LayoutStore:
    """See `optimize.ship.store.Store`. A name and tag are `name:tag` in the index."""

    near = True

    def __init__(self, root: Path, url: str) -> None:
        self.url = url
        self.root: Optional[Path] = root
        self._root = root
        self._place = FolderPlace(root, url)

    def sizes(self, name: str, digests: Collection[str]) -> Dict[str, int]:
        """See `Store.sizes`."""
        named = {keys.blob(digest): digest for digest in digests}
        return {named[key]: size for key, size in self._place.sizes(named).items()}

    def whole(self, name: str, sources: Mapping[str, Path]) -> Dict[str, bool]:
        """See `Store.whole`."""
        return self._place.whole(sources)

    def put(self, name: str, sources: Mapping[str, Path], moved: Moved, limit: int) -> None:
        """See `Store.put`."""
        self._make()
        send_checked(self._place, sources, moved, limit)

    def get(self, name: str, digest: str, size: int, target: Path, moved: Moved, limit: int) -> None:
        """See `Store.get`."""
        self._place.fetch(digest, size, target, moved, limit)

    def put_document(self, name: str, media_type: str, text: bytes) -> str:
        """See `Store.put_document`."""
        self._make()
        digest = "sha256:" + hashlib.sha256(text).hexdigest()
        self._place.write(keys.blob(digest), text)
        return digest

    def get_document(self, name: str, digest: str, limit: int) -> bytes:
        """See `Store.get_document`."""
        return whole(self._place.read(keys.blob(digest), limit), digest, limit, self.url)

    def resolve(self, name: str, tag: str) -> Optional[str]:
        """See `Store.resolve`."""
        keys.ref(name, tag)
        return next((ref.digest for ref in self.refs() if (ref.name, ref.tag) == (name, tag)), None)

    def tag(self, name: str, tag: str, media_type: str, text: bytes) -> str:
        """See `Store.tag`."""
        keys.ref(name, tag)
        digest = self.put_document(name, media_type, text)
        entry = {
            "mediaType": media_type,
            "digest": digest,
            "size": len(text),
            "annotations": {_NAME: f"{name}:{tag}"},
        }
        with FileLock(str(self._root / ".index.lock")):
            others = [one for one in self._entries() if _named(one) != f"{name}:{tag}"]
            index = {"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": [*others, entry]}
            self._place.write(_INDEX, keys.text(index))
        return digest

    def refs(self) -> List[Ref]:
        """See `Store.refs`; what other tools have put there under other names is passed over."""
        found = []
        for entry in self._entries():
            name, _, tag = _named(entry).partition(":")
            if keys.named(f"{keys.REFS}/{name}/{tag}.json")[0]:
                digest = str(entry.get("digest"))
                keys.hexadecimal(digest)
                found.append(Ref(name, tag, digest))
        return sorted(found)

    def sweep(self) -> None:
        """See `Store.sweep`."""
        self._place.sweep()

    def alone(self) -> ContextManager[None]:
        """See `Store.alone`."""
        return self._place.alone()

    def close(self) -> None:
        """See `Store.close`."""

    def _entries(self) -> List[Dict[str, Any]]:
        self._is_layout()
        data = self._place.read(_INDEX, keys.DOCUMENT)
        if data is None:
            return []
        try:
            value = jsonfile.loads(data.decode("utf-8"))
            entries = value["manifests"]
            if value["schemaVersion"] != 2 or not all(isinstance(entry, dict) for entry in entries):
                raise ValueError("schemaVersion 2 is expected")
        except (ValueError, KeyError, TypeError) as error:
            raise DamagedError(f"{self.url}: {_INDEX} is no index of an OCI image layout ({error})") from None
        return list(entries)

    def _is_layout(self) -> bool:
        """Whether there is one already; raises where it is of another version."""
        data = self._place.read(_MARK, keys.DOCUMENT)
        if data is None:
            return False
        try:
            version = str(jsonfile.loads(data.decode("utf-8"))["imageLayoutVersion"])
        except (ValueError, KeyError, TypeError):
            raise DamagedError(f"{self.url}: {_MARK} is no mark of an OCI image layout") from None
        if version.partition(".")[0] != _VERSION.partition(".")[0]:
            raise IncompatibleError(
                f"{self.url}: an image layout of version {version[:20]}; this version reads {_VERSION}",
                "pip install --upgrade optimize-trt",
            )
        return True

    def _make(self) -> None:
        if not self._is_layout():
            self._place.write(_MARK, keys.text({"imageLayoutVersion": _VERSION}))
            self._place.write(_INDEX, keys.text({"schemaVersion": 2, "mediaType": _INDEX_TYPE, "manifests": []}))


def _named(entry: Dict[str, Any]) -> str:
    annotations = entry.get("annotations")
    return str(annotations.get(_NAME, "")) if isinstance(annotations, dict) else ""
