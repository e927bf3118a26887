"""The table of contract cases: what our code relies on of CUDA and TensorRT, each tried and told as JSON.

One table serves TensorRT 8.5 to 11: what a version lacks is asked by name, and told as absent. The same cases run on a
board and on the stand-ins, so that what a board told can be held against them.
"""

from __future__ import annotations

import fnmatch
from typing import Dict, List, Sequence

from tests.device import build_cases, cuda_cases, engine_cases, parse_cases, run_cases
from tests.device.world import Case

CASES: Dict[str, Case] = {
    case.name: case
    for case in [
        *cuda_cases.CASES,
        *parse_cases.CASES,
        *build_cases.CASES,
        *engine_cases.CASES,
        *run_cases.CASES,
    ]
}
"""By name, in the order in which they run."""


def chosen(patterns: Sequence[str], with_tensorrt: bool) -> List[str]:
    """Names of the cases that match one of the patterns (`build.*`; all where none is given) and can run."""
    return [
        name
        for name, case in CASES.items()
        if (with_tensorrt or case.needs == "cuda")
        and (not patterns or any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns))
    ]
