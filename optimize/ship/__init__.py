"""Engines on their way to inference nodes: shipments, the places that keep them, and what a node does with them."""

from __future__ import annotations

import sys
from types import ModuleType

TYPE_CHECKING = False  # as in `optimize`, which every command starts with
if TYPE_CHECKING:
    from typing import Any


class _Package(ModuleType):
    """`optimize.ship(...)` is a function of the Python API, and `optimize.ship` this package once it is imported."""

    def __call__(self, *args: Any, **options: Any) -> Any:
        """See `optimize.ship.send.ship`."""
        from optimize.ship.send import ship

        return ship(*args, **options)


sys.modules[__name__].__class__ = _Package
