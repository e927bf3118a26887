"""LoadGen itself drives a real engine in each scenario; its own logs are read, and what fails is never swallowed."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict

import pytest

from bench import loadgen
from engines.device import version_of
from engines.errors import DataError, IncompatibleError, OptimizeError, UsageError
from engines.spec import RunnerSpec
from tests.bench.conftest import spec_of

needed = pytest.mark.skipif(not version_of(loadgen.DISTRIBUTION), reason="LoadGen is not installed: " + loadgen.HINT)

ROW = {"p50_ms": 0.2, "images_per_s": 2000.0}
BATCHES = {"single-stream": 1, "multi-stream": 4, "offline": 8, "server": 1}


@pytest.fixture(scope="module")
def driven(model: Path, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Dict[str, Any]:
    """Each scenario once, on test images."""
    folder = tmp_path_factory.mktemp("loadgen")
    found = {}
    for name, batch in BATCHES.items():
        where = folder / name
        found[name] = loadgen.measure(spec_of(model), name, batch, where, ROW, 0.3, qps=200, data=str(images))
        found[name]["folder"] = where
    return found


@needed
@pytest.mark.parametrize("scenario", BATCHES)
def test_each_scenario_is_driven_by_loadgen(driven: Dict[str, Any], scenario: str) -> None:
    found = driven[scenario]
    assert found["tool"] == "MLPerf LoadGen" and found["version"][0].isdigit()
    assert found["scenario"] == scenario and found["queries"] >= 1
    settings = found["settings"]
    assert settings["batch"] == BATCHES[scenario] and settings["min_duration_ms"] == 300
    assert settings["samples_per_query"] == (4 if scenario == "multi-stream" else 1) or scenario == "offline"
    assert settings["performance_sample_count"] == 64
    latencies = found["latencies"]
    quantiles = [latencies[f"{name}_ms"] for name in ("min", "p50", "p90", "p95", "p97", "p99", "p99_9", "max")]
    assert quantiles == sorted(quantiles) and quantiles[0] > 0


@needed
def test_what_is_kept_is_what_loadgen_has_written(driven: Dict[str, Any]) -> None:
    names = {"offline": "Samples per second", "server": "Completed samples per second"}
    for scenario, words in names.items():
        summary = (driven[scenario]["folder"] / "mlperf_log_summary.txt").read_text()
        line = next(line for line in summary.splitlines() if line.startswith(words))
        assert driven[scenario]["samples_per_s"] == pytest.approx(float(line.split(":")[1]), rel=1e-3)
    summary = (driven["single-stream"]["folder"] / "mlperf_log_summary.txt").read_text()
    line = next(line for line in summary.splitlines() if line.startswith("99.00 percentile latency"))
    assert driven["single-stream"]["latencies"]["p99_ms"] == pytest.approx(float(line.split(":")[1]) / 1e6)
    assert f"Result is : {'VALID' if driven['single-stream']['valid'] else 'INVALID'}" in summary
    assert driven["server"]["settings"]["target_qps"] == 200
    assert driven["server"]["settings"]["target_latency_ns"] == 15_000_000


@needed
def test_too_short_a_test_is_invalid_by_loadgens_word(driven: Dict[str, Any]) -> None:
    server = driven["server"]  # some 60 queries, where 99% within a bound needs hundreds
    assert server["valid"] is False and any("early stopping" in what for what in server["missed"])
    assert "more queries" in server["said"]


NET = """
import torch
class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.fc, self.calls = torch.nn.Linear(3, 2), 0
    def forward(self, x):
        self.calls += x.shape[0] == {batch} and bool(x.any())
        if self.calls > 300:
            raise ValueError("one of the later queries fails")
        return self.fc(x)
"""


@needed
@pytest.mark.parametrize(("scenario", "batch"), [("single-stream", 1), ("offline", 2), ("server", 1)])
def test_what_a_query_raises_ends_the_test_and_is_told(tmp_path: Path, scenario: str, batch: int) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(NET.format(batch=batch))
    torch.save(torch.nn.ModuleDict({"fc": torch.nn.Linear(3, 2)}).state_dict(), tmp_path / "net.pt")
    spec = RunnerSpec(
        str(tmp_path / "net.pt"), "torch-state-dict", factory=f"{tmp_path / 'net.py'}:Net", input_shape=(3,)
    )
    slow = {"p50_ms": 0.01, "images_per_s": 50_000.0}
    with pytest.raises(OptimizeError, match="one of the later queries fails"):
        loadgen.measure(spec, scenario, batch, tmp_path / "logs", slow, 60, qps=20_000)


@needed
def test_a_target_that_cannot_be_opened_or_fed_says_so(model: Path, tmp_path: Path) -> None:
    with pytest.raises(OptimizeError, match=r"missing\.onnx"):
        loadgen.measure(spec_of(tmp_path / "missing.onnx"), "offline", 4, tmp_path / "a", ROW, 0.1)
    with pytest.raises((DataError, UsageError), match=r"none\.npz"):
        loadgen.measure(spec_of(model), "offline", 4, tmp_path / "b", ROW, 0.1, data=str(tmp_path / "none.npz"))


def test_logs_without_a_verdict_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(OptimizeError, match="without a verdict"):
        loadgen.parse(tmp_path)
    line = ':::MLLOG {"key": "loadgen_version", "value": "6.0.17 @ d6147c7eb7"}\n'
    (tmp_path / "mlperf_log_detail.txt").write_text(line + ':::MLLOG {"key": "result_val')
    with pytest.raises(OptimizeError, match="without a verdict"):
        loadgen.parse(tmp_path)


def test_a_missing_loadgen_is_told_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loadgen, "DISTRIBUTION", "no such distribution")
    with pytest.raises(IncompatibleError, match="LoadGen") as refused:
        loadgen.require()
    assert "pip install mlcommons-loadgen" in refused.value.hint
