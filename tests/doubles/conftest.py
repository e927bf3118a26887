"""What the tests of the doubles share."""

from __future__ import annotations

from typing import Any, Iterator

import pytest


@pytest.fixture
def gpu(cuda_ledger: Any) -> Iterator[Any]:
    """The primary context of GPU 0, current for the test."""
    from engines.cuda import Context

    with Context(0) as opened:
        yield opened
