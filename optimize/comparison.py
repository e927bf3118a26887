"""`optimize compare`: run files beside a reference."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

from engines.errors import UsageError

PathLike = Union[str, Path]


def compare(reference: PathLike, others: Sequence[PathLike], force: bool = False) -> Dict[str, Any]:
    """Compare run files with a reference.

    Args:
        reference: Run file of `bench`.
        others: Those that are compared with it.
        force: Compare unlike machines, states, models and data all the same.

    Returns:
        See `bench.compare.compare`; `reference` is the file.

    Raises:
        UsageError: A file that is not there, or nothing in common.
        DamagedError: Not a run file.
        IncompatibleError: Unlike, without `force`.
    """
    from bench import compare as comparing
    from bench import runs

    for path in (reference, *others):
        if not Path(path).is_file():
            raise UsageError(f"{path}: no such run file", "optimize bench TARGET... -o runs.json")
    read = [(str(path), runs.read(Path(path))) for path in others]
    return {**comparing.compare(runs.read(Path(reference)), read, force), "reference": str(reference)}


def broken(found: Dict[str, Any], slower: Optional[str], drop: Optional[float]) -> List[Tuple[str, str]]:
    """Limits that cells break, as (run, words).

    Args:
        found: Of `compare`.
        slower: Such as `5%` or `0.05`.
        drop: Points of top-1.

    Raises:
        UsageError: Not a share, or negative points.
    """
    from bench.compare import failures

    if drop is not None and not 0 <= drop <= 100:
        raise UsageError(f"--fail-drop {drop:g}: points from 0 to 100 are expected")
    share = None if slower is None else _share(slower)
    return [(run["name"], words) for run in found["runs"] for words in failures(run, share, drop)]


def _share(text: str) -> float:
    match = re.fullmatch(r"(\d+(?:\.\d*)?|\.\d+)(%?)", text.strip())
    if match is None:
        raise UsageError(f"--fail-slower {text}: a share such as 5% or 0.05 is expected")
    return float(match.group(1)) / (100 if match.group(2) else 1)
