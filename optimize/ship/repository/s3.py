"""A model repository in a bucket, where there are no folders and nothing can be renamed.

Each file appears whole, one after the other, and the configuration last: it names the version that is served, so that
Triton looks into a new one only when all of its files are there.
"""

from __future__ import annotations

import re
from typing import Any, ContextManager, Dict, List, Mapping, Optional

from optimize.ship.repository.place import CONFIG, VERSION, Source, changed
from optimize.ship.store import Moved
from optimize.ship.stores import keys
from optimize.ship.stores.s3 import S3Place

_SERVED = re.compile(r"\bversions: *([1-9][0-9]{0,8})\b")
"""In a configuration: the version that it names. One of ours above it is what an interrupted try has left."""

_SUM = "sha256"
"""Name of the metadata that tells a file's hash: the sum that S3 keeps of a large file is that of its parts."""


class S3Repository:
    """See `place.Repository`."""

    at_once = False

    def __init__(self, place: S3Place) -> None:
        self.place = place
        self.root = place.url

    def alone(self) -> ContextManager[None]:
        """See `Repository.alone`."""
        return self.place.alone()

    def versions(self, model: str) -> List[int]:
        """See `Repository.versions`."""
        begin = f"{model}/"
        found: Dict[int, List[str]] = {}
        for key in self.place.listed(begin):
            name, inside, _ = key[len(begin) :].partition("/")
            if inside and VERSION.fullmatch(name):
                found.setdefault(int(name), []).append(key)
        config = self.config(model)
        named = [int(number) for number in _SERVED.findall((config or b"").decode("utf-8", "replace"))]
        if config is not None and not named:  # another's, which serves what it likes
            return sorted(found)
        served = max(named, default=0)
        return sorted(number for number, held in found.items() if number <= served or not all(map(self._sum, held)))

    def config(self, model: str) -> Optional[bytes]:
        """See `Repository.config`."""
        return self.place.read(f"{model}/{CONFIG}", keys.DOCUMENT)

    def holds(self, model: str, version: int, files: Mapping[str, Source]) -> bool:
        """See `Repository.holds`."""
        begin = f"{model}/{version}/"
        return {key[len(begin) :] for key in self.place.listed(begin)} == set(files) and all(
            self._sum(begin + name) == source.sha256 for name, source in files.items()
        )

    def add(self, model: str, version: int, files: Mapping[str, Source], moved: Moved, limit: int) -> None:
        """See `Repository.add`; what an interrupted try has left is gone on with, or removed."""
        have, begin = 0, f"{model}/{version}/"
        for key in [key for key in self.place.listed(begin) if key[len(begin) :] not in files]:
            self.place.remove(key)
        for name, source in files.items():

            def sent(count: int, before: int = have) -> None:
                moved(before + count)

            key = begin + name
            if self._sum(key) != source.sha256 and not self.place.upload(
                key, source.sha256, source.path, sent, limit, {_SUM: source.sha256}
            ):
                raise changed(source)
            have += source.path.stat().st_size
            moved(have)

    def replace(self, model: str, name: str, data: bytes) -> None:
        """See `Repository.replace`."""
        if self.place.read(f"{model}/{name}", len(data)) != data:
            self.place.write(f"{model}/{name}", data)

    def close(self) -> None:
        """See `Repository.close`."""
        self.place.close()

    def _sum(self, key: str) -> str:
        about: Dict[str, Any] = self.place.about(key) or {}
        return str(about.get("Metadata", {}).get(_SUM, ""))
