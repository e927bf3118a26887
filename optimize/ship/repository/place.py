"""What differs between the places of a model repository, and which of them a URL names."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Callable, ContextManager, Dict, List, Mapping, NamedTuple, Optional, Protocol
from urllib.parse import unquote, urlsplit

from engines.errors import DamagedError, OptimizeError, UsageError
from optimize.ship.store import Moved
from optimize.ship.url import shown

SCHEME = "triton:"

FORMS = "triton:DIR, triton:ssh://[USER@]HOST[:PORT]/DIR, triton:s3://BUCKET/PREFIX"

VERSION = re.compile(r"[1-9][0-9]{0,8}")

LARGEST_VERSION = 999_999_999

CONFIG = "config.pbtxt"


class Source(NamedTuple):
    """A file of a bundle that goes into a version, and the SHA-256 that its manifest tells."""

    path: Path
    sha256: str


class Repository(Protocol):
    """A place that models are put into, each a folder with its versions and its configuration.

    Attributes:
        root: As `tritonserver --model-repository` takes it, where it can.
        at_once: A version appears in one step. Where it does not, the configuration must name the one that is served,
            so that nobody looks into another before all of it is there.
    """

    root: str
    at_once: bool

    def alone(self) -> ContextManager[None]:
        """Keep other writers away for as long as this is open, where the place can.

        Raises:
            UsageError: The place is none.
        """

    def versions(self, model: str) -> List[int]:
        """Numbers that are taken, ascending; what was left long ago by an interrupted writer is removed.

        Raises:
            UsageError: What has the model's name cannot be written to.
        """

    def config(self, model: str) -> Optional[bytes]:
        """The configuration that is there, if any."""

    def holds(self, model: str, version: int, files: Mapping[str, Source]) -> bool:
        """Whether a version has these files, and no others."""

    def add(self, model: str, version: int, files: Mapping[str, Source], moved: Moved, limit: int) -> None:
        """Put a version there that is not there yet, its bytes held against their hashes on the way.

        Args:
            model: Its name.
            version: Its number.
            files: By their names in it.
            moved: Told the bytes.
            limit: Bytes per second; 0 for none.

        Raises:
            DamagedError: A file is not what its hash says; the version does not appear.
            OptimizeError: Another wrote this version meanwhile, which stays.
            OptimizeError, OSError: The place failed; the version does not appear.
        """

    def replace(self, model: str, name: str, data: bytes) -> None:
        """Make or replace a small file beside the versions, in one step."""

    def close(self) -> None:
        """End connections."""


def open_repository(target: str) -> Repository:
    """The repository that a URL names, with or without `triton:` before it.

    Raises:
        UsageError: None of `FORMS`.
        IncompatibleError: A package or program that this place needs is missing.
    """
    rest = target[len(SCHEME) :] if target.startswith(SCHEME) else target
    scheme, mark, _ = rest.partition("://")
    if not mark:
        return _folder(rest)
    if scheme.lower() not in _OPENERS:
        raise UsageError(f"{shown(rest)}: Triton reads no repository from {scheme}://", f"known are {FORMS}")
    return _OPENERS[scheme.lower()](rest)


def _folder(path: str) -> Repository:
    from optimize.ship.repository.folder import FolderRepository

    if not path or "\0" in path:
        raise UsageError("triton: names no folder", "--to triton:models")
    return FolderRepository(Path(os.path.abspath(os.path.expanduser(path))))


def _file(url: str) -> Repository:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost"):
        raise UsageError(f"file://{parts.netloc}: a folder of this machine is expected", "triton:DIR")
    return _folder(unquote(parts.path))


def _ssh(url: str) -> Repository:
    from optimize.ship.repository.ssh import SshRepository
    from optimize.ship.stores.ssh import place_of

    return SshRepository(place_of(url))


def _s3(url: str) -> Repository:
    from optimize.ship.repository.s3 import S3Repository
    from optimize.ship.stores.s3 import place_of

    return S3Repository(place_of(url))


_OPENERS: Dict[str, Callable[[str], Repository]] = {"file": _file, "ssh": _ssh, "s3": _s3}


def changed(source: Source) -> DamagedError:
    """The bundle may have been built anew meanwhile."""
    return DamagedError(f"{source.path}: changed while it was copied", "run the same command again")


def taken(where: str, model: str, version: int) -> OptimizeError:
    """Another writer was quicker."""
    return OptimizeError(
        f"{where}: version {version} of {model} was written by another meanwhile", "run the same command again"
    )
