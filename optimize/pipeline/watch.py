"""Whether the files that a build reads are still those that it began with.

A build reads its model, the user's code and the data many times over minutes, and files what it makes under what they
held at the beginning. A file that changes meanwhile would leave a result under another content's name.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, Optional

from engines.errors import DataError, ModelError
from engines.spec import RunnerSpec
from optimize.pipeline.inputs import source_files, source_inputs
from optimize.pipeline.listing import Listing, Stamp, list_data, stamp

_AGAIN = "run the command again"


class Watch:
    """What a build began with.

    Attributes:
        source: See `optimize.pipeline.inputs.source_inputs`.
        data: What identifies the data set; empty without one.
    """

    def __init__(self, spec: RunnerSpec, data: Optional[str]) -> None:
        """Read the source whole, and list the data.

        Raises:
            ModelError: The source changed meanwhile.
            UsageError: No such data set.
        """
        self._spec, self._reference = spec, data
        self._stamps = _stamps(spec)
        self.source: Dict[str, Any] = source_inputs(spec)
        self.source_unchanged()
        self._listing: Optional[Listing] = list_data(data) if data else None

    @property
    def data(self) -> str:
        """What identifies the data set; empty without one."""
        return self._listing.identity if self._listing else ""

    def unchanged(self) -> None:
        """Refuse a source or data that changed: see `source_unchanged` and `data_unchanged`."""
        self.source_unchanged()
        self.data_unchanged()

    def source_unchanged(self) -> None:
        """Refuse a model or a user's file that is another than at the beginning; one that was only touched is not.

        Raises:
            ModelError: It names the files that changed.
        """
        now = _stamps(self._spec)
        if now == self._stamps:
            return
        names = sorted(n for n in {*now, *self._stamps} if now.get(n) != self._stamps.get(n))
        try:
            same = source_inputs(self._spec) == self.source
        except OSError:
            same = False
        if not same or _stamps(self._spec) != now:
            raise ModelError(f"{_named(names)} changed while it was being read", _AGAIN)
        self._stamps = now

    def data_unchanged(self) -> None:
        """Refuse data of which a file was written, added, removed or replaced since the beginning.

        A data set that was not on this machine may have been fetched meanwhile: from then on it must stay as it is.

        Raises:
            DataError: It names the file that changed last.
        """
        if self._reference is None or self._listing is None:
            return
        before, now = self._listing, list_data(self._reference)
        if before.newest is None and now.newest is not None:
            self._listing = now
        elif now.identity != before.identity:
            # what is gone, or came from elsewhere with its times, leaves no newer file
            newer = now.newest is not None and before.newest is not None and now.newest[0] > before.newest[0]
            what = now.newest[1] if newer and now.newest else self._reference
            raise DataError(f"{what} changed while it was being read", _AGAIN)


def _stamps(spec: RunnerSpec) -> Dict[str, Optional[Stamp]]:
    return {str(file): _stamp(file) for file in source_files(spec)}


def _stamp(file: Path) -> Optional[Stamp]:
    try:
        return stamp(os.stat(file))
    except OSError:
        return None


def _named(names: List[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
