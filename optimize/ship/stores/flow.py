"""Bytes on their way: in blocks, no faster than asked, and never more than promised."""

from __future__ import annotations

import time
from pathlib import Path
from typing import IO, Callable, Iterable, Iterator, Mapping, Tuple, TypeVar

from engines.errors import DamagedError, OptimizeError
from optimize.ship.store import Moved

BLOCK = 1 << 20

_Key = TypeVar("_Key")


def block_size(limit: int) -> int:
    """Bytes moved at a time: at a low limit less, so that progress shows eight times a second."""
    return BLOCK if not limit else max(1 << 10, min(BLOCK, limit // 8))


def blocks(source: IO[bytes], limit: int = 0) -> Iterator[bytes]:
    """The rest of an open file."""
    size = block_size(limit)
    return iter(lambda: source.read(size), b"")


def paced(pieces: Iterable[bytes], limit: int) -> Iterator[bytes]:
    """Blocks as they come, with pauses that keep the mean at or below `limit` bytes per second; 0 for none."""
    started, passed = time.monotonic(), 0
    for piece in pieces:
        yield piece
        passed += len(piece)
        if limit:
            time.sleep(max(0.0, started + passed / limit - time.monotonic()))


def each(sources: Mapping[_Key, Path], moved: Moved) -> Iterator[Tuple[_Key, Path, Moved]]:
    """Files one after another, and whom to tell of each one's bytes so that `moved` hears the sum of all."""
    before = 0
    for key, source in sources.items():

        def told(count: int, before: int = before) -> None:
            moved(before + count)

        size = source.stat().st_size
        yield key, source, told
        before += size


def receive(
    start: Callable[[int], Iterator[bytes]], size: int, target: Path, moved: Moved, limit: int, what: str
) -> None:
    """Append to a file what it lacks of `size` bytes.

    Args:
        start: Gives the blocks from an offset on.
        size: That the file has in the end.
        target: The file; what is there already is kept.
        moved: Told of progress.
        limit: Bytes per second; 0 for none.
        what: The blob and its store, for messages.

    Raises:
        DamagedError: More bytes came than promised; none of them is written.
        OptimizeError: Fewer came.
    """
    with open(target, "ab") as sink:
        have = sink.tell()
        if have < size:
            for piece in paced(start(have), limit):
                if have + len(piece) > size:
                    raise DamagedError(f"{what}: larger than the {size} bytes that were promised")
                sink.write(piece)
                have += len(piece)
                moved(have)
        if have < size:
            raise OptimizeError(
                f"{what}: ended after {have} of {size} bytes", "run the same command again: it goes on there"
            )
    moved(have)
