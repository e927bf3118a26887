"""What `ssh` and the programs of a far host say, and what it means here."""

from __future__ import annotations

import re
from typing import NamedTuple, Optional, Type

from engines.errors import IncompatibleError, OptimizeError
from engines.text import plain

_FAILED = 255
"""Exit status of `ssh` itself, ssh(1); any other is the command's."""

_AGAIN = "run the same command again: it goes on where it stopped"

_COUNTS = re.compile(r"^[0-9+]+ records (in|out)$|^[0-9]+ bytes.* copied")
"""What `dd` says when all is well."""


class Host(NamedTuple):
    """Whom to talk to; None for what the user's configuration says."""

    name: str
    user: Optional[str] = None
    port: Optional[int] = None

    def command(self) -> str:
        """What a user types to get there."""
        port = f" -p {self.port}" if self.port else ""
        return f"ssh{port} {self.user + '@' if self.user else ''}{self.name}"

    def known(self) -> str:
        """Its name in a file of known hosts, for a shell."""
        return f"'[{self.name}]:{self.port}'" if self.port else self.name


class _Meaning(NamedTuple):
    pattern: str
    error: Type[OptimizeError]
    message: str
    hint: str


_OF_SSH = (
    _Meaning(
        "IDENTIFICATION HAS CHANGED",
        IncompatibleError,
        "the host key is another one than before, this may be another machine",
        "if you know why it changed: ssh-keygen -R {known}, then {ssh} to see and accept the new one",
    ),
    _Meaning(
        "Host key verification failed|No .* host key is known",
        IncompatibleError,
        "the host key is not known",
        "{ssh} once, to see its fingerprint and accept it",
    ),
    _Meaning(
        r"Permission denied \(|Too many authentication failures",
        IncompatibleError,
        "the host does not let you in",
        "{ssh} must work first: ssh-add, or ssh-copy-id",
    ),
    _Meaning(
        "Could not resolve hostname|Connection refused|Connection timed out|No route to host|Network is unreachable",
        OptimizeError,
        "the host cannot be reached",
        "check its name, the port and that it is on: {ssh}",
    ),
    _Meaning(
        "Connection (to .* )?(closed|reset)|Broken pipe|not responding|mux_client|control socket",
        OptimizeError,
        "the connection was lost",
        _AGAIN,
    ),
)
"""OpenSSH speaks English only. The first that is found counts."""

_OF_PROGRAMS = (
    _Meaning(
        "No space left|quota exceeded|File too large",
        OptimizeError,
        "the disk there is full",
        f"free some space there, then {_AGAIN}",
    ),
    _Meaning(
        "Permission denied|Operation not permitted",
        IncompatibleError,
        "no permission there",
        "choose a folder that this user may write to, or another user",
    ),
    _Meaning("Read-only file system", IncompatibleError, "the disk there is read-only", "choose another folder"),
    _Meaning("Not a directory|File exists|Is a directory", OptimizeError, "a file is in the way", "another folder"),
    _Meaning(
        "not found",
        IncompatibleError,
        "a program is missing there",
        "sh, dd, head, mkdir, mv, sha256sum, tail, tr and wc are needed, as every Linux has them",
    ),
)
"""In the C locale."""


def refusal(host: Host, shown: str, status: int, text: str) -> OptimizeError:
    """The error for a command that failed.

    Args:
        host: Whom it was for.
        shown: The URL, for the message.
        status: Exit status of `ssh`.
        text: What it wrote to its standard error.
    """
    for pattern, error, message, hint in _OF_SSH if status == _FAILED else _OF_PROGRAMS:
        found = re.search(f"^.*({pattern}).*$", text, re.MULTILINE)
        if found:
            hint = hint.format(ssh=host.command(), known=host.known())
            return error(f"{shown}: {message} ({shortened(found.group())})", hint)
    said = shortened(text)
    if status == _FAILED and not said:  # a program whose connection another `ssh` held says nothing when that ends
        return OptimizeError(f"{shown}: the connection was lost", _AGAIN)
    if status == _FAILED:
        return OptimizeError(f"{shown}: ssh failed: {said}", f"{host.command()} must work first")
    return OptimizeError(f"{shown}: a command there failed with status {status}: {said or 'it says nothing'}")


def shortened(text: str) -> str:
    """The last lines of what a program says, short enough for a message."""
    lines = [line.strip(" @") for line in text.splitlines() if line.strip(" @") and not _COUNTS.search(line)]
    return plain("; ".join(lines[-3:]))[:300]
