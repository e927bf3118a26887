"""A store in a folder of a host that is reached by SSH and needs nothing of ours: `sh` and a few programs do."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import select
from pathlib import Path
from typing import (
    IO,
    Callable,
    Collection,
    ContextManager,
    Dict,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
)
from urllib.parse import unquote, urlsplit

from engines.errors import DamagedError, OptimizeError, UsageError
from optimize.ship.store import Moved
from optimize.ship.stores import keys
from optimize.ship.stores.files import FileStore
from optimize.ship.stores.flow import blocks, each, paced, receive
from optimize.ship.stores.sshclient import Connection, printed
from optimize.ship.stores.sshwords import Host

_HOST = re.compile(r"[A-Za-z0-9_:%][A-Za-z0-9_.:%-]*")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@+-]*")

_HASH = re.compile(r"[0-9a-f]{64}")

_UNIT = 1 << 16
"""Bytes of the unit that `dd` counts in: an upload goes on at a multiple of it."""

_RESUMED = 1 << 20
"""Bytes up to which a file is sent from its start whatever is there of it: to ask takes about as long."""

_SMALL = 16 << 20
"""Bytes up to which a file goes through the shell that is there, which costs less than an `ssh` of its own."""

_LOOK_S = 0.02
"""How often a file is looked at that is being sent."""

_SIZES = 'for f in "$@"; do if [ -f "$f" ]; then wc -c < "$f" || exit 1; else echo none; fi; done'
_READ = 'if [ -f "$1" ]; then echo found; head -c "$2" "$1"; elif [ -e "$1" ]; then echo other; fi'
_LIST = (
    'cd "$1" && for f in refs/*/*.json; do if [ -f "$f" ]; then '
    'printf "%s " "$f"; head -c 4096 "$f" | tr -d "[:cntrl:]"; echo; fi; done'
)
_FETCH = '[ -f "$1" ] || { if [ -e "$1" ]; then exit 0; fi; }; tail -c "+$2" "$1"'
"""Nothing of a FIFO, which `tail` would wait for."""

SYNC = 'synced() { sync "$1" 2> /dev/null || sync; }; '
"""Without names it syncs everything, which is all that an old `sync` can do."""

MADE = 'made() { [ -d "$1" ] || mkdir -p "$1"; }; '
"""The shell sees by itself that a folder is there: a program more costs about as much as a question does."""

PLACED = 'placed() { if [ -d "$2" ]; then echo "$2: Is a directory" >&2; return 1; fi; mv -f "$1" "$2"; }; '
"""`mv` moves into a folder that has the name."""

_WRITE = (
    SYNC + MADE + PLACED + 'made "$1" && { cat > "$2" && [ "$(wc -c < "$2")" -eq "$4" ] && synced "$2" && '
    'placed "$2" "$3" && synced "$1" || { rm -f "$2"; exit 1; }; }'
)
"""Folder, temporary file, file, bytes: input that ends early, with the connection, changes nothing."""

HASHED = (
    'hashed() { { [ "${2:-1000000}" -lt 1000000 ] && sha256sum < "$1"; } || openssl dgst -sha256 -r < "$1" || '
    'sha256sum < "$1" || shasum -a 256 < "$1"; } 2> /dev/null; '
)
"""`$1`: file; `$2`: its bytes, where they are known. The first program that is there and does not fail. OpenSSL takes
longer to start, and uses the processor's instructions: on a board four times as fast."""

_WHOLE = (
    HASHED + 'cd "$1" || exit 1; shift; for f in "$@"; do if [ -f "$f" ]; then sum=$(hashed "$f"); '
    'echo "${sum%% *}"; else echo none; fi; done'
)
"""Folder, files: a line for each."""

_DIGIT = "[0-9a-f]"
_SWEEP = (
    f'cd "$1" 2> /dev/null && find blobs refs -type f '
    f'\\( -name ".{_DIGIT * 64}.part" -o -name ".?*.{_DIGIT * 16}.part" \\) '
    "-mtime +0 -exec rm -f {} + 2> /dev/null; :"
)
"""See `keys.is_part`. `+0` is more than a day by the far clock, find(1). What cannot be removed stays."""

_SEND = (
    SYNC + MADE + PLACED + HASHED + 'made "$1" && if [ -L "$2" ] || [ -p "$2" ]; then rm -f "$2"; fi || exit 1; '
    f'{{ {{ [ "$4" = 0 ] || dd bs={_UNIT} skip="$4" count=0 <&3 > /dev/null; }} && cat >&3; }} 3<> "$2" || exit 1; '
    'there() { [ -f "$3" ] && case "$(hashed "$3" "$5")" in "$6 "*) echo whole;; *) false;; esac; }; '
    'if [ "$(wc -c 2> /dev/null < "$2" || echo 0)" -lt "$5" ]; then there "$@"; exit 0; fi; '
    'sum=$({ synced "$2" && echo synced; } | { hashed "$2" "$5"; cat; }); '
    'case "$sum" in "$6 "*synced) { placed "$2" "$3" || { if [ -e "$2" ]; then exit 1; fi; [ -f "$3" ]; }; } && '
    'synced "$1" && echo whole;; '
    '"$6 "*) exit 1;; *" "*) rm -f "$2"; there "$@" || echo damaged;; '
    '*) there "$@" || { if [ -e "$2" ]; then echo "sha256sum: not found" >&2; exit 1; fi; echo damaged; };; esac'
)
"""Folder, part, blob, units to skip, bytes, hash. Writes by offset, so that two writers of one blob do no harm: the
quicker one moves what both have written, and the other finds it there (unless its file has changed since it was hashed,
and ends up in what was checked: `pull` refuses that, `ship --verify` mends it). Neither a link nor a FIFO is written
to.

`dd` only moves to the place, since `cat` is quicker. Hashed while it is synced: the one needs the processor, the other
the disk.
"""


Said = Callable[[], bytes]
"""Waits for what a script says at its end."""


class Upload(NamedTuple):
    """A file, and where on the host it goes.

    Attributes:
        sha256: In hex.
        source: The file.
        folder, part, target: There: its folder, the file while it is not whole, and the file.
    """

    sha256: str
    source: Path
    folder: str
    part: str
    target: str


def open_ssh(url: str) -> FileStore:
    """The store that `ssh://[user@]host[:port]/path` names; `/~/path` lies in the user's home folder.

    Raises:
        UsageError: A malformed URL.
    """
    return FileStore(place_of(url))


def place_of(url: str) -> SshPlace:
    """The folder that such a URL names, of whatever it is; see `open_ssh`."""
    host, root, shown = _parse(url)
    return SshPlace(Connection(host, shown), root, shown)


def _parse(url: str) -> Tuple[Host, str, str]:
    from optimize.ship.url import shown

    safe = shown(url)
    if any(not c.isprintable() for c in url):  # urlsplit leaves some of them out
        raise UsageError(f"{safe}: a URL without control characters is expected")
    parts = urlsplit(url)
    place, _, _ = parts.netloc.rpartition("@")
    user = unquote(place) if place else None
    if user is not None and ":" in user:
        raise UsageError(f"{safe}: a password has no place in a URL", "ssh-copy-id, or an agent: ssh-add")
    try:
        name, port = parts.hostname or "", parts.port
    except ValueError:
        raise UsageError(f"{safe}: the port is no number up to 65535") from None
    if not _HOST.fullmatch(name) or (user is not None and not _USER.fullmatch(user)):
        raise UsageError(f"{safe}: ssh://[USER@]HOST[:PORT]/DIR is expected", "ssh://jetson@192.168.55.1/~/models")
    path = unquote(parts.path)
    if parts.query or parts.fragment or len(path) < 2:
        raise UsageError(f"{safe}: the folder is missing", f"{safe.rstrip('/')}/~/models, in the home folder there")
    if any(not c.isprintable() or c == "\\" for c in path):
        raise UsageError(f"{safe}: a path without control characters and backslashes is expected")
    # Relative to where a login begins, which is the home folder.
    root = "." + path[2:] if path == "/~" or path.startswith("/~/") else path
    return Host(name, user, port), root.rstrip("/"), safe


class SshPlace:
    """See `files.Place`."""

    near = False
    folder: Optional[Path] = None

    def __init__(self, connection: Connection, root: str, url: str) -> None:
        self.connection = connection
        self.root = root
        self.url = url

    def sizes(self, names: Collection[str]) -> Dict[str, int]:
        """See `Place.sizes`."""
        told = self._sizes(*(self._path(key) for key in names))
        return {key: size for key, size in zip(names, told) if size is not None}

    def whole(self, sources: Mapping[str, Path]) -> Dict[str, bool]:
        """See `Place.whole`: the far side hashes, if it has a program for that."""
        names = [keys.hexadecimal(digest) for digest in sources]
        lines = self.connection.ask(_WHOLE, self._path(keys.BLOBS), *names).decode("ascii", "replace").split("\n")
        told = zip(sources, names, lines)
        return {digest: line == name for digest, name, line in told if _HASH.fullmatch(line)}

    def send(self, sources: Mapping[str, Path], moved: Moved, limit: int) -> List[str]:
        """See `Place.send`."""
        folder = self._path(keys.BLOBS)
        files = {
            Upload(keys.hexadecimal(one), source, folder, self._path(keys.part(one)), self._path(keys.blob(one))): one
            for one, source in sources.items()
        }
        return [files[file] for file in self.upload(list(files), moved, limit)]

    def upload(self, files: Sequence[Upload], moved: Moved, limit: int) -> List[Upload]:
        """Send files, going on with what is there of each; durable and checked before it appears.

        While the far side checks a large one and syncs it to its disk, those that follow through the shell are on their
        way. One large file at a time: `sshd` may serve no more than two sessions of a connection (`MaxSessions`), and
        what goes beyond them logs in anew.

        Args:
            files: Which, and to where.
            moved, limit: See `Place.send`.

        Returns:
            Those that arrived with another hash: nothing of them is kept.

        Raises:
            OptimizeError: See `Connection.ask`; or a transfer ended early.
        """
        damaged: List[Upload] = []
        begun: List[Tuple[Upload, Said]] = []

        def checked() -> None:
            while begun:
                damaged.extend(self._damaged(*begun.pop(0)))

        with contextlib.ExitStack() as stack:
            for file, source, told in each({file: file.source for file in files}, moved):
                with open(source, "rb", buffering=0) as handle:
                    begun.append((file, self._begin(stack, checked, file, handle, told, limit)))
            checked()
        return damaged

    def _begin(
        self,
        stack: contextlib.ExitStack,
        checked: Callable[[], None],
        file: Upload,
        handle: IO[bytes],
        moved: Moved,
        limit: int,
    ) -> Said:
        """Send what the host lacks of a file; what `_SEND` says then may be asked later.

        `stack` ends what runs, and `checked` waits for the files before, to have their session.
        """
        whole = os.fstat(handle.fileno()).st_size
        (there,) = self._sizes(file.part) if whole > _RESUMED else (None,)
        units = min(there or 0, whole) // _UNIT
        have = handle.seek(units * _UNIT)
        words = (file.folder, file.part, file.target, str(units), str(whole), file.sha256)
        if whole - have <= _SMALL and not limit:
            data = handle.read(_SMALL)
            said = self.connection.ask(_SEND, *words, data=data, given=lambda count: moved(have + count))
            return lambda: said
        checked()
        with contextlib.ExitStack() as running:
            process = running.enter_context(self.connection.started(_SEND, *words, source=None if limit else handle))
            assert process.stdout is not None
            if process.stdin is None:  # `ssh` reads the file itself: how far it is, is the place that both have in it
                while handle.tell() < whole and not select.select([process.stdout], [], [], _LOOK_S)[0]:
                    moved(min(handle.tell(), whole))
                moved(min(handle.tell(), whole))
            else:
                for block in paced(blocks(handle, limit), limit):
                    process.stdin.write(block)
                    have += len(block)
                    moved(have)
                process.stdin.close()
            rest = stack.enter_context(running.pop_all())

            def asked() -> bytes:
                with rest:
                    return printed(process, _UNIT)
                return b""

            return asked
        return lambda: b""  # it ended before it had read all, and told no error

    def _damaged(self, file: Upload, asked: Said) -> List[Upload]:
        """The file, if it arrived damaged."""
        said = asked().strip()
        if said not in (b"whole", b"damaged"):
            raise OptimizeError(f"{self.url}: the transfer ended early", "run the same command again: it goes on there")
        return [file] if said == b"damaged" else []

    def fetch(self, digest: str, size: int, target: Path, moved: Moved, limit: int) -> None:
        """See `Place.fetch`."""

        def start(offset: int) -> Iterator[bytes]:
            with self.connection.started(_FETCH, self._path(keys.blob(digest)), str(offset + 1)) as process:
                assert process.stdout is not None
                yield from blocks(process.stdout, limit)

        receive(start, size, target, moved, limit, f"{self.url}: {digest}")

    def read(self, key: str, limit: int) -> Optional[bytes]:
        """See `Place.read`."""
        mark = b"found\n"
        found = self.connection.ask(_READ, self._path(key), str(limit + 1), limit=limit + 1 + len(mark))
        if found == b"other\n":
            raise DamagedError(f"{self.url}: {key}: a folder or special file, where a plain file is expected")
        return found[len(mark) :] if found.startswith(mark) else None

    def write(self, key: str, data: bytes) -> None:
        """See `Place.write`."""
        path = self._path(key)
        folder, _, name = path.rpartition("/")
        part = f"{folder}/.{name}.{secrets.token_hex(8)}.part"
        self.connection.ask(_WRITE, folder, part, path, str(len(data)), data=data)

    def refs(self) -> List[Tuple[str, bytes]]:
        """See `Place.refs`."""
        found = []
        for line in self.connection.ask(_LIST, self.root or "/", limit=16 << 20).splitlines():
            key, _, data = line.partition(b" ")
            found.append((key.decode("utf-8", "replace"), data))
        return found

    def sweep(self) -> None:
        """See `Place.sweep`."""
        self.connection.ask(_SWEEP, self.root or "/")

    def alone(self) -> ContextManager[None]:
        """See `Place.alone`: nobody can be kept away."""
        return contextlib.nullcontext()

    def close(self) -> None:
        """See `Place.close`."""
        self.connection.close()

    def _sizes(self, *paths: str) -> List[Optional[int]]:
        said = [line.strip() for line in self.connection.ask(_SIZES, *paths).splitlines()]
        if len(said) != len(paths):
            raise DamagedError(f"{self.url}: the far side answers {len(said)} lines where {len(paths)} are expected")
        return [None if line == b"none" else self._number(line) for line in said]

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _number(self, text: bytes) -> int:
        words = text.decode("ascii", "replace").strip()
        if not re.fullmatch(r"[0-9]{1,18}", words):
            raise DamagedError(f"{self.url}: the far side answers {words[:60]!r} where a number is expected")
        return int(words)
