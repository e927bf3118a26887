"""`bench --load`: LoadGen's findings in the rows that they belong to, its logs beside the run file."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from bench import loadgen, runs
from engines.device import version_of
from engines.errors import UsageError
from optimize import loads

needed = pytest.mark.skipif(not version_of(loadgen.DISTRIBUTION), reason="LoadGen is not installed: " + loadgen.HINT)
_SHORT = ("--rounds", "1", "--warmup", "10ms", "--duration", "20ms", "--load-duration", "200ms", "-o", "r.json")


@needed
@pytest.mark.journey
def test_rows_get_the_loads_of_their_batch(optimize_command: Any, built: Any) -> None:
    bundle = built.bundles[0].path
    done = optimize_command("bench", bundle, "--batch", "1,8", "--load", "single-stream,multi-stream,offline", *_SHORT)
    assert done.exit_code == 0, done.stderr
    assert done.stderr.count("not MLPerf results") == 1
    assert "offline by MLPerf LoadGen" in " ".join(done.stdout.split())
    run = runs.read(Path("r.json"))
    found = {row["batch"]: row["load"] for row in run["rows"]}
    assert {batch: [one["scenario"] for one in some] for batch, some in found.items()} == {
        1: ["single-stream"],
        8: ["multi-stream", "offline"],
    }
    assert found[8][0]["settings"]["samples_per_query"] == 8
    for one in (one for some in found.values() for one in some):
        assert one["logs"].startswith("r.loadgen/")
        assert (Path(one["logs"]) / "mlperf_log_summary.txt").is_file()
    offline = found[8][1]
    assert offline["samples_per_s"] > 0 and offline["settings"]["target_qps"] > 0
    assert run["settings"]["load"] == ["single-stream", "multi-stream", "offline"]
    shown = optimize_command("report", "r.json", "-f", "md", "-o", "-").stdout
    assert shown.count("samples/s") == 1


@needed
@pytest.mark.journey
def test_a_target_that_fails_under_load_leaves_its_times(optimize_command: Any, tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    (tmp_path / "net.py").write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__(); self.fc = torch.nn.Linear(3, 2)\n"
        "    def forward(self, x):\n"
        f"        import os; assert not os.path.exists({str(tmp_path / 'here' / 'r.loadgen')!r}), 'no load'\n"
        "        return self.fc(x)\n"
    )
    torch.save(torch.nn.ModuleDict({"fc": torch.nn.Linear(3, 2)}).state_dict(), tmp_path / "net.pt")
    source = ("--factory", f"{tmp_path / 'net.py'}:Net", "--input-shape", "3", "--task", "tensors")
    target = tmp_path / "net.pt"
    done = optimize_command("bench", target, *source, "--batch", "1", "--load", "server", *_SHORT, "--json")
    assert done.exit_code == 5, done.stderr
    told = json.loads(done.stdout)
    assert "no load" in told["failures"][0]["message"] and "server" in told["failures"][0]["target"]
    assert told["rows"][0]["p50_ms"] > 0 and "load" not in told["rows"][0]


def test_scenarios_are_read_and_refused() -> None:
    assert loads.loads((), 1.0, None, 0.01) is None
    asked = loads.loads(["offline,server", "offline"], 2.0, 50.0, 0.01)
    assert asked == loads.Loads(("offline", "server"), 2.0, 50.0, 0.01)
    with pytest.raises(UsageError, match="--load poisson: single-stream, multi-stream, offline, server are known"):
        loads.loads(["poisson"], 1.0, None, 0.01)
    for numbers in ((0.0, None, 0.01), (1.0, 0.0, 0.01), (1.0, None, 0.0), (1.0, float("inf"), 0.01)):
        with pytest.raises(UsageError, match="more than 0"):
            loads.loads(["server"], *numbers)


def test_nothing_is_measured_where_a_load_cannot_be(
    optimize_command: Any, built: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = built.bundles[0].path
    monkeypatch.setattr(loadgen, "version_of", lambda name: "6.0")
    refused = optimize_command("bench", bundle, "--batch", "8", "--load", "server", *_SHORT)
    assert refused.exit_code == 2 and "--batch 1" in refused.stderr
    monkeypatch.setattr(loadgen, "version_of", lambda name: "")
    missing = optimize_command("bench", bundle, "--load", "offline", *_SHORT)
    assert missing.exit_code == 4 and "pip install mlcommons-loadgen" in missing.stderr
    assert not Path("r.json").exists()
