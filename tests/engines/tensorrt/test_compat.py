"""What each version can do, asked by name."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from engines.errors import IncompatibleError
from engines.tensorrt import compat


@pytest.mark.tensorrt
def test_each_version_is_told_by_what_it_has(trt: Any, surface: str, cuda_ledger: Any) -> None:
    major = int(surface.split(".")[0])
    assert compat.tensorrt() is trt
    assert compat.version() == trt.__version__
    assert compat.weakly_typed(trt) is (major < 11)
    assert compat.strongly_typed_only(trt) is (major == 11)
    assert compat.can_strongly_type(trt) is (major >= 10)
    assert compat.has_calibrator(trt) is (major < 11)
    assert compat.flag(trt, "TF32") is trt.BuilderFlag.TF32
    assert (compat.flag(trt, "INT8") is None) is (major == 11)
    assert compat.flag(trt, "NOTHING") is None


@pytest.mark.tensorrt
def test_network_flags(trt: Any, surface: str, cuda_ledger: Any) -> None:
    kinds = trt.NetworkDefinitionCreationFlag
    batch = 1 << int(kinds.EXPLICIT_BATCH) if hasattr(kinds, "EXPLICIT_BATCH") else 0
    assert compat.network_flags(trt) == batch
    strong = 1 << int(kinds.STRONGLY_TYPED) if hasattr(kinds, "STRONGLY_TYPED") else 0
    assert compat.network_flags(trt, strongly_typed=True) == batch | strong


@pytest.mark.tensorrt
def test_types_by_a_table_of_our_own(trt: Any, cuda_ledger: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(dtype: Any) -> Any:
        raise AttributeError("module 'numpy' has no attribute 'bool'")

    monkeypatch.setattr(trt, "nptype", never)
    types = {"FLOAT": "float32", "HALF": "float16", "INT8": "int8", "INT32": "int32", "BOOL": "bool"}
    for name, numpy_name in types.items():
        assert compat.dtype_name(trt, getattr(trt.DataType, name)) == numpy_name
    if hasattr(trt.DataType, "BF16"):
        with pytest.raises(IncompatibleError, match="BF16"):
            compat.dtype_name(trt, trt.DataType.BF16)


@pytest.mark.tensorrt
def test_a_log_keeps_errors_and_warnings(trt: Any, cuda_ledger: Any) -> None:
    log = compat.logger(trt)
    severity = trt.ILogger.Severity
    assert log.errors() == "TensorRT gave no reason"
    log.log(severity.VERBOSE, "details")
    log.log(severity.WARNING, "slow\n tactic")
    assert log.errors() == "slow tactic"
    for text in ("first", "second", "second", "third", "fourth"):
        log.log(severity.ERROR, text)
    assert log.errors() == "second; third; fourth"
    assert [name for name, _ in log.lines] == ["WARNING", *["ERROR"] * 5]


@pytest.mark.tensorrt
def test_plugins_are_registered_once_with_a_logger_that_stays(
    trt: Any, cuda_ledger: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []
    monkeypatch.setattr(trt, "init_libnvinfer_plugins", lambda logger, name: calls.append((logger, name)))
    logs = [compat.logger(trt) for _ in range(2)]
    assert [name for _, name in calls] == [""]
    assert isinstance(calls[0][0], trt.Logger)
    assert calls[0][0] not in logs


@pytest.mark.parametrize("error", [ImportError("no module"), OSError("libnvinfer.so.8: cannot open")])
def test_a_tensorrt_that_does_not_load(monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    class Broken:
        def find_spec(self, name: str, path: Any = None, target: Any = None) -> None:
            if name == "tensorrt":
                raise error

    monkeypatch.delitem(sys.modules, "tensorrt", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Broken(), *sys.meta_path])
    with pytest.raises(IncompatibleError, match="does not load") as caught:
        compat.tensorrt()
    assert caught.value.hint == "optimize doctor"
