"""Where shipments are kept, as a URL: one table from scheme to what opens it."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Callable, Dict
from urllib.parse import unquote, urlsplit

from engines.errors import UsageError
from optimize.ship.store import Store

FORMS = "DIR, file://, ssh://[USER@]HOST[:PORT]/DIR, s3://BUCKET/PREFIX, oci://HOST[:PORT]/REPOSITORY, oci-layout:DIR"
"""Every form, for help texts and errors."""

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")
_WITH_PASSWORD = re.compile(r"(?P<user>[\w.-]+):[^/@].*@(?P<rest>[\w.-]+(:.*)?)")
"""The form of scp, and a password in it, for which scp has no place."""

_SECRET = re.compile(r"(?P<user>[^/:@\[\]?#]*):(?![0-9]+/).*@", re.DOTALL)
_AS_SCP = re.compile(r"([\w.-]+@)?[\w.-]{2,}:(?!//).*")


def open_store(url: str) -> Store:
    """Open the store that a URL names; connections are made when they are needed.

    Args:
        url: See `FORMS`.

    Raises:
        UsageError: An unknown scheme or a malformed URL.
        IncompatibleError: A package or program that this kind of store needs is missing.
    """
    match = _SCHEME.match(url)
    scheme = match.group(1).lower() if match else ""
    if scheme in _OPENERS:
        return _OPENERS[scheme](url)
    if match and match.group(2):
        raise UsageError(f"{shown(url)}: unknown scheme {scheme}://", f"known are {FORMS}")
    if not url or "\0" in url:
        raise UsageError("an empty path is no place for shipments", f"known are {FORMS}")
    if shown(url) != url and not Path(url).exists():
        host, _, path = shown(url).partition(":")
        raise UsageError(f"{host}: a password has no place in a URL", f"ssh://{host}/~/{path.lstrip('/')}")
    if _AS_SCP.fullmatch(url) and not Path(url).exists():
        host, _, path = url.partition(":")
        raise UsageError(
            f"{url}: a host is written as a URL",
            f"ssh://{host}/{path.lstrip('/') if path.startswith('/') else '~/' + path}, or ./{url} for a folder",
        )
    return _folder(Path(url), url)


def open_source(url: str) -> Store:
    """Open the store that a URL names to read from it.

    Args:
        url: See `FORMS`.

    Raises:
        UsageError: See `open_store`; or there is no such folder.
        IncompatibleError: See `open_store`.
    """
    store = open_store(url)
    if store.root is not None and not os.path.lexists(store.root):
        raise UsageError(f"{store.url}: no such folder", "optimize ship BUNDLE --to URL makes one")
    return store


def shown(url: str) -> str:
    """The URL without what may be secret in it: the password of its user info, its query and fragment.

    A password may hold any character, though it should not: all up to the last `@` is taken for one, unless it begins
    as a port and a path.
    """
    scheme, mark, rest = url.partition("://")
    if not mark:
        scp = _WITH_PASSWORD.fullmatch(url)
        return f"{scp['user']}@{scp['rest']}" if scp and scp["user"].lower() not in _OPENERS else url
    secret = _SECRET.match(rest)
    if secret:
        rest = f"{secret['user']}@{rest[secret.end() :]}"
    return scheme + mark + re.split(r"[?#]", rest, maxsplit=1)[0]


def _folder(path: Path, url: str) -> Store:
    from optimize.ship.stores.folder import open_folder

    if path.is_file():
        raise UsageError(f"{url} is a file, and a store is a folder", "name a folder")
    return open_folder(path, url)


def _file(url: str) -> Store:
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or not parts.path.startswith("/") or parts.query or parts.fragment:
        raise UsageError(f"{shown(url)}: file:///ABSOLUTE/PATH is expected", "or the path alone")
    path = unquote(parts.path)
    if "\0" in path:
        raise UsageError(f"{shown(url)}: a path has no zero byte")
    return _folder(Path(path), url)


def _ssh(url: str) -> Store:
    from optimize.ship.stores.ssh import open_ssh

    return open_ssh(url)


def _s3(url: str) -> Store:
    from optimize.ship.stores.s3 import open_s3

    return open_s3(url)


def _registry(url: str) -> Store:
    from optimize.ship.stores.registry import open_registry

    return open_registry(url)


def _layout(url: str) -> Store:
    from optimize.ship.stores.layout import open_layout

    return open_layout(url)


_OPENERS: Dict[str, Callable[[str], Store]] = {
    "file": _file,
    "ssh": _ssh,
    "s3": _s3,
    "oci": _registry,
    "oci+http": _registry,
    "oci-layout": _layout,
}
"""By scheme; each is given the whole URL."""
