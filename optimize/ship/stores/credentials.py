"""Whom a registry takes us for: as `docker login` and `podman login` have kept it, or from the environment."""

from __future__ import annotations

import base64
import binascii
import os
import re
import subprocess
from pathlib import Path
from typing import Any, Iterator, NamedTuple, Optional, Tuple

from engines import jsonfile
from engines.errors import DamagedError, IncompatibleError, OptimizeError

USER, PASSWORD = "OPTIMIZE_REGISTRY_USER", "OPTIMIZE_REGISTRY_PASSWORD"

_DOCKER_HUB = "https://index.docker.io/v1/"
_PROGRAM = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PATIENCE = 30


class Login(NamedTuple):
    """A user and password; or a token that stands for both, with an empty user."""

    user: str
    secret: str

    def __repr__(self) -> str:
        return f"Login({self.user!r})"

    def basic(self) -> str:
        """Value of the Authorization header."""
        return "Basic " + base64.b64encode(f"{self.user}:{self.secret}".encode()).decode()


def login(host: str) -> Optional[Login]:
    """What to tell a registry; None for nobody.

    Args:
        host: With the port where there is one.

    Raises:
        DamagedError: A file of logins is unreadable.
        OptimizeError: The program that keeps a login fails.
    """
    if os.environ.get(USER) and os.environ.get(PASSWORD):
        return Login(os.environ[USER], os.environ[PASSWORD])
    for path in _files():
        found = _within(path, host)
        if found:
            return found
    return None


def _files() -> Iterator[Path]:
    """In Podman's order, containers-auth.json(5), and then Docker's."""
    if os.environ.get("REGISTRY_AUTH_FILE"):
        yield Path(os.environ["REGISTRY_AUTH_FILE"])
    if os.environ.get("XDG_RUNTIME_DIR"):
        yield Path(os.environ["XDG_RUNTIME_DIR"]) / "containers" / "auth.json"
    yield Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker") / "config.json"


def _within(path: Path, host: str) -> Optional[Login]:
    if not path.is_file():
        return None
    kept = jsonfile.read(path)
    names: Tuple[str, ...] = (host, f"https://{host}", f"https://{host}/v1/", f"https://{host}/v2/")
    if host == "docker.io":
        names = (_DOCKER_HUB, *names)
    helpers, auths = _object(kept, "credHelpers"), _object(kept, "auths")
    for name in names:
        program = helpers.get(name) or (kept.get("credsStore") if name in auths else None)
        if program:
            return _asked(str(program), name)
        entry = auths.get(name)
        if isinstance(entry, dict):
            if isinstance(entry.get("identitytoken"), str) and entry["identitytoken"]:
                return Login("", entry["identitytoken"])
            if isinstance(entry.get("auth"), str) and entry["auth"]:
                return _decoded(entry["auth"], path)
    return None


def _object(value: Any, name: str) -> Any:
    found = value.get(name)
    return found if isinstance(found, dict) else {}


def _decoded(text: str, path: Path) -> Login:
    try:
        user, mark, secret = base64.b64decode(text, validate=True).decode("utf-8").partition(":")
    except (binascii.Error, UnicodeDecodeError):
        mark = ""
    if not mark:
        raise DamagedError(f"{path}: a login in it is not base64 of USER:PASSWORD", "docker login writes it anew")
    return Login(user, secret)


def _asked(program: str, name: str) -> Optional[Login]:
    """Of a credential helper: the name on its input, JSON on its output."""
    command = f"docker-credential-{program}"
    if not _PROGRAM.fullmatch(program):
        raise DamagedError(f"{program!r} is no name of a credential helper")
    try:
        done = subprocess.run([command, "get"], input=name.encode(), capture_output=True, timeout=_PATIENCE)
    except FileNotFoundError:
        raise IncompatibleError(f"the program {command}, which keeps the login for {name}, is missing") from None
    except subprocess.TimeoutExpired:
        raise OptimizeError(f"{command} does not answer within {_PATIENCE} s") from None
    if done.returncode:
        return None
    try:
        kept = jsonfile.loads(done.stdout.decode("utf-8"))
        user, secret = str(kept["Username"]), str(kept["Secret"])
    except (ValueError, KeyError, TypeError):
        raise OptimizeError(f"{command} answers something that is no login") from None
    return Login("" if user == "<token>" else user, secret)
