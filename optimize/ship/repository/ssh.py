"""A model repository in a folder of an SSH host: a hidden folder becomes a version in one rename.

Triton looks into folders only whose name is a number. What an interrupted upload has left is gone on with.
"""

from __future__ import annotations

import hashlib
from typing import ContextManager, List, Mapping, Optional

from optimize.ship.repository.place import CONFIG, VERSION, Source, changed, taken
from optimize.ship.store import Moved
from optimize.ship.stores import keys
from optimize.ship.stores.ssh import HASHED, SYNC, SshPlace, Upload

_VERSIONS = (
    'cd "$1" 2> /dev/null || exit 0; for f in [1-9]*; do if [ -e "$f" ] || [ -L "$f" ]; then echo "$f"; fi; done'
)

_LEFT = 'cd "$1" 2> /dev/null && find . -name ".*.part" -mtime +0 -prune -exec rm -rf {} + 2> /dev/null; :'
"""More than a day old, find(1): what is younger may be of another who is at work."""

_SUMS = (
    HASHED + 'cd "$1" 2> /dev/null || exit 0; for f in * .[A-Za-z0-9]*; do if [ -f "$f" ]; then '
    'if [ -L "$f" ]; then echo "none $f"; else sum=$(hashed "$f"); echo "${sum%% *} $f"; fi; '
    'elif [ -e "$f" ] || [ -L "$f" ]; then echo "none $f"; fi; done'
)

_APPEAR = (
    SYNC + 'chmod 755 "$2" && if [ -e "$3" ] || [ -L "$3" ]; then echo taken; '
    'else synced "$2" && mv "$2" "$3" && rm -f "$3"/.*.part && synced "$1"; fi'
)
"""Folder of the model, hidden folder, version. What another began in the hidden folder would stay in the version."""


class SshRepository:
    """See `place.Repository`."""

    at_once = True

    def __init__(self, place: SshPlace) -> None:
        self.place = place
        self.root = place.root or "/"

    def alone(self) -> ContextManager[None]:
        """See `Repository.alone`."""
        return self.place.alone()

    def versions(self, model: str) -> List[int]:
        """See `Repository.versions`."""
        self.place.connection.ask(_LEFT, self._path(model))
        lines = self.place.connection.ask(_VERSIONS, self._path(model)).decode("utf-8", "replace").splitlines()
        return sorted(int(line) for line in lines if VERSION.fullmatch(line))

    def config(self, model: str) -> Optional[bytes]:
        """See `Repository.config`."""
        return self.place.read(f"{model}/{CONFIG}", keys.DOCUMENT)

    def holds(self, model: str, version: int, files: Mapping[str, Source]) -> bool:
        """See `Repository.holds`."""
        return self._sums(self._path(model, str(version))) == sorted(_line(*item) for item in files.items())

    def add(self, model: str, version: int, files: Mapping[str, Source], moved: Moved, limit: int) -> None:
        """See `Repository.add`."""
        what = hashlib.sha256(repr(sorted((name, one.sha256) for name, one in files.items())).encode()).hexdigest()
        part = self._path(model, f".{version}.{what[:16]}.part")
        there = self._sums(part)
        sizes = {name: source.path.stat().st_size for name, source in files.items()}
        lacking = {
            Upload(source.sha256, source.path, part, f"{part}/.{name}.part", f"{part}/{name}"): source
            for name, source in files.items()
            if _line(name, source) not in there
        }
        have = sum(sizes[name] for name, source in files.items() if _line(name, source) in there)

        def sent(count: int) -> None:
            moved(have + count)

        damaged = self.place.upload(list(lacking), sent, limit)
        if damaged:  # once more: what was left of an earlier try may have been damaged
            damaged = self.place.upload(damaged, sent, limit)
        if damaged:
            raise changed(lacking[damaged[0]])
        moved(sum(sizes.values()))
        if self.place.connection.ask(_APPEAR, self._path(model), part, self._path(model, str(version))):
            raise taken(self.place.url, model, version)

    def replace(self, model: str, name: str, data: bytes) -> None:
        """See `Repository.replace`."""
        if self.place.read(f"{model}/{name}", len(data)) != data:
            self.place.write(f"{model}/{name}", data)

    def close(self) -> None:
        """See `Repository.close`."""
        self.place.close()

    def _sums(self, folder: str) -> List[str]:
        """A line for each file in a folder, sorted; none where there is no such folder."""
        return sorted(self.place.connection.ask(_SUMS, folder).decode("utf-8", "replace").splitlines())

    def _path(self, *names: str) -> str:
        return "/".join((self.place.root, *names))


def _line(name: str, source: Source) -> str:
    return f"{source.sha256} {name}"
