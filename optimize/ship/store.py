"""What every place that keeps shipments can do: blobs by their digest, and names that point to an index."""

from __future__ import annotations

from pathlib import Path
from typing import Callable, Collection, ContextManager, Dict, List, Mapping, NamedTuple, Optional, Protocol

AGAIN = "ship it again with --verify: what is damaged there is sent anew"
"""What helps where a store does not hold what it should."""

Moved = Callable[[int], None]
"""Told how many bytes are there after each block that was moved."""


class Ref(NamedTuple):
    """A name and tag of a store, and the digest of the index that they point to."""

    name: str
    tag: str
    digest: str


class Store(Protocol):
    """A folder, an SSH host, a bucket or a registry. Blobs and documents are named by `sha256:<64 hex>`.

    A blob appears whole and with the right hash or not at all; names change in one step.

    Attributes:
        url: Without what may be secret in it.
        root: The folder of this machine that it is; None elsewhere.
        near: What is there is read from a disk of this machine: to hash it costs no more than what is sent does anyway.
    """

    url: str
    root: Optional[Path]
    near: bool

    def sizes(self, name: str, digests: Collection[str]) -> Dict[str, int]:
        """Bytes of those blobs and documents that are whole there, by digest."""

    def whole(self, name: str, sources: Mapping[str, Path]) -> Dict[str, bool]:
        """Whether blobs that are there are still what their digest says, by digest; nothing of them is moved.

        A disk damages what was right when it came. Those of which the place cannot tell are left out.

        Args:
            name: Of the shipment.
            sources: The same files here, by digest, for places that know other sums of theirs.
        """

    def put(self, name: str, sources: Mapping[str, Path], moved: Moved, limit: int) -> None:
        """Send files, going on where an earlier try stopped; each is checked at the far side before it appears.

        What is there of their digests is replaced: whoever calls this has asked for `sizes`. All of them are there and
        durable when this returns; in what order they appear is the place's affair.

        Args:
            name: Of the shipment; a registry keeps blobs by it.
            sources: The files, by digest.
            moved: Told how many bytes of all of them are there.
            limit: Bytes per second; 0 for none.

        Raises:
            DamagedError: One does not arrive as what it is.
            OptimizeError: The place failed; what was sent is kept there.
        """

    def get(self, name: str, digest: str, size: int, target: Path, moved: Moved, limit: int) -> None:
        """Append to the file `target` what it lacks of a blob of `size` bytes; the caller checks its hash.

        Never writes more than `size` bytes into it.
        """

    def put_document(self, name: str, media_type: str, text: bytes) -> str:
        """Keep an OCI manifest, and return its digest."""

    def get_document(self, name: str, digest: str, limit: int) -> bytes:
        """Read a document of at most `limit` bytes and check its digest."""

    def resolve(self, name: str, tag: str) -> Optional[str]:
        """Digest of the index that a name points to; None where there is none."""

    def tag(self, name: str, tag: str, media_type: str, text: bytes) -> str:
        """Keep an index and let the name point to it, in one step, durable when this returns; returns its digest."""

    def refs(self) -> List[Ref]:
        """Every name and tag there; only one name's in a registry that does not list them."""

    def sweep(self) -> None:
        """Remove what interrupted uploads have left that nobody has gone on with for a day.

        What is younger may be of another ship at work, or one that is going to be resumed.
        """

    def alone(self) -> ContextManager[None]:
        """Keep other writers of names away meanwhile, where that can be done."""

    def close(self) -> None:
        """End connections."""
