"""The CUDA cases on the driver for tests, which loads no kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.device import overhead
from tests.device.cuda_cases import CASES
from tests.device.kernel import PTX, VectorAdd
from tests.device.world import Absent, Case, run

pytestmark = pytest.mark.tensorrt

KERNELS = ("cuda.kernel", "cuda.kernel_graph")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_case_holds_or_says_what_is_missing(case: Case, cuda_ledger: Any, tmp_path: Path) -> None:
    found = run(case, None, tmp_path)
    assert (found["status"], found["why"]) == (
        ("absent", "this driver loads no kernels (CUDA_ERROR_NOT_SUPPORTED)") if case.name in KERNELS else ("held", "")
    )
    if case.name == "cuda.loop_overhead":
        assert found["seen"]["pairs"] == 3 and not found["seen"]["kernel"]
        for name, _, _ in overhead.WAYS:
            assert set(found["seen"][name]) == {"ours", "plain", "added", "enqueue_added"}


def test_without_a_kernel_the_reason_is_told(cuda_ledger: Any) -> None:
    from engines.cuda import Context

    with Context(0), pytest.raises(Absent, match="loads no kernels"):
        VectorAdd()


def test_the_kernel_targets_the_oldest_jetson() -> None:
    """Compute capability 5.3 is that of the Nano; newer ones take its PTX."""
    assert b".target sm_53" in PTX and PTX.count(b"{") == PTX.count(b"}")


def test_without_a_compiler_the_reason_is_told(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert overhead.program(tmp_path) == (None, "no C++ compiler (g++)")


def test_a_loop_that_fails_is_told(cuda_ledger: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing program, and one that ends with an error."""
    program, why = overhead.program(tmp_path)
    assert program is not None, why
    with pytest.raises(overhead.OptimizeError, match="the C\\+\\+ loop ended with 1"):
        overhead._plain(program, str(tmp_path / "missing.ptx"), 0.01, 1, True)
