from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Dict

import pytest

from engines.device import device_key
from engines.errors import DamagedError, IncompatibleError, UsageError
from optimize import device as machine
from optimize.selection import feasible
from optimize.selection.choose import select

from .conftest import Write, noisy, row

KEY = {"backend": "openvino", "version": "2026.4.1", "os": "linux", "arch": "aarch64", "features": ["asimd"]}


def device(path: Path, **more: Any) -> Path:
    value: Dict[str, Any] = {
        "model": "A CPU",
        "cores": 4,
        "memory": {"total_bytes": 8 << 30, "available_bytes": 2 << 30},
        "state": {"others_share": 0.05, "load": [0.2, 0.2, 0.2]},
        "links": [{"name": "eth0", "mbps": 1000}, {"name": "wlan0", "mbps": None}],
        "backends": [KEY],
        **more,
    }
    path.write_text(json.dumps(value))
    return path


ENVIRONMENT = {
    "cpu": "A CPU",
    "os": "linux",
    "arch": "aarch64",
    "features": ["asimd"],
    "packages": {"openvino": "2026.4.1", "onnxruntime": "1.19"},
}


def rows(**more: Any) -> Any:
    return [row("a", 0.95, noisy(10), size_bytes=9, **more), row("b", 0.94, noisy(5, seed=1), size_bytes=4, **more)]


def reasons(found: Dict[str, Any]) -> Dict[str, str]:
    return {one["target"]: one["reason"] for one in found["rejected"]}


def test_a_device_that_fits_limits_nothing(write: Write, tmp_path: Path) -> None:
    found = select([write(rows(), **ENVIRONMENT)], device=device(tmp_path / "d.json"), max_load="50%")
    assert found["verdict"] == "PASS" and found["device"] == {"model": "A CPU"}
    assert "memory that it takes (its size was held against the limit): all" in found["unknown"]


def test_what_a_process_took_is_held_against_the_free_memory(write: Write, tmp_path: Path) -> None:
    taken = {"busy": None, "busy_by": None, "cpus": 1.0, "memory_delta_bytes": 1}
    big = rows(usage={**taken, "peak_rss_bytes": 3 << 30})
    big[1]["usage"] = {**taken, "peak_rss_bytes": 1 << 30}
    found = select([write(big, **ENVIRONMENT)], device=device(tmp_path / "d.json"))
    assert found["baseline"] == "b" and reasons(found)["a"] == (
        "does not fit: took 3072 MiB, the device has free 2048 MiB"
    )
    lower = select([write(big, **ENVIRONMENT)], device=device(tmp_path / "d.json"), limit_memory="512MiB")
    assert "the limit is 512 MiB" in reasons(lower)["b"] and lower["chosen"] is None


@pytest.mark.parametrize(
    ("key", "backend", "words"),
    [
        ({**KEY, "version": "2024.4.0"}, "openvino", "made with openvino 2026.4.1, this machine has 2024.4.0"),
        ({**KEY, "arch": "x86_64"}, "openvino", "(arch)"),
        ({**KEY, "features": []}, "openvino", "lacks: asimd"),
        (KEY, "onnxruntime", "the device has no onnxruntime"),
    ],
)
def test_engines_of_another_backend_or_version(
    write: Write, tmp_path: Path, key: Dict[str, Any], backend: str, words: str
) -> None:
    both = rows(backend=backend)
    found = select([write(both, **ENVIRONMENT)], device=device(tmp_path / "d.json", backends=[key]))
    assert found["chosen"] is None and all(words in reason for reason in reasons(found).values())
    original = [dict(one, role="original", form="eager", backend="torch") for one in both]
    assert select([write(original, **ENVIRONMENT)], device=device(tmp_path / "d.json"))["chosen"] == "b eager"


def test_a_tensorrt_engine_needs_its_gpu(write: Write, tmp_path: Path) -> None:
    gpu = {"name": "Orin", "compute_capability": "8.7", "integrated": True, "driver": "11.4", "multiprocessors": 8}
    there = {**ENVIRONMENT, "packages": {"tensorrt": "8.5.2.2"}, "l4t": "35.4.1", "gpu": gpu}
    key = {
        **{"backend": "tensorrt", "version": "8.5.2.2", "os": "linux", "arch": "aarch64", "features": []},
        **{"compute_capability": "8.7", "l4t": "35.4.1", "gpu": "Orin, 8 SM"},
    }
    runs = write(rows(backend="tensorrt"), **there)
    assert select([runs], device=device(tmp_path / "d.json", backends=[key]))["verdict"] == "PASS"
    newer = select([runs], device=device(tmp_path / "d.json", backends=[{**key, "l4t": "36.4.0"}]))
    assert reasons(newer)["a"] == "made for 35.4.1, this machine is 36.4.0 (l4t)"


def test_background_load(write: Write, tmp_path: Path) -> None:
    busy = device(tmp_path / "d.json", state={"others_share": 0.6})
    found = select([write(rows(), **ENVIRONMENT)], device=busy, max_load="50%")
    assert found["chosen"] is None and "others take 60% of its processor, 50% are allowed" in reasons(found)["a"]
    told = select([write(rows(), **ENVIRONMENT)], device=busy)
    assert "times under the device's background load: others take 60% of its processor" in told["unknown"]
    of_a_minute = device(tmp_path / "d.json", state={"others_share": None, "load": [3.0, 1, 1]})
    assert select([write(rows(), **ENVIRONMENT)], device=of_a_minute, max_load="70%")["chosen"] is None
    blind = select([write(rows(), **ENVIRONMENT)], device=device(tmp_path / "d.json", state={}), max_load="50%")
    assert "background load of the device (--device DEVICE.json)" in blind["unknown"]


def test_the_bandwidth_of_the_devices_link(write: Write, tmp_path: Path) -> None:
    found = select([write(rows(), **ENVIRONMENT)], device=device(tmp_path / "d.json"), bandwidth="link")
    assert found["asked"]["bandwidth_mbps"] == 1000
    with pytest.raises(UsageError, match="no link"):
        select([write(rows())], device=device(tmp_path / "d.json", links=[]), bandwidth="link")


def test_times_of_another_device_are_refused(write: Write, tmp_path: Path) -> None:
    with pytest.raises(IncompatibleError, match="was measured on A CPU, the device is Orin Nano"):
        select([write(rows(), **ENVIRONMENT)], device=device(tmp_path / "d.json", model="Orin Nano"))
    assert select([write(rows())], device=device(tmp_path / "d.json", model="Orin Nano"))["verdict"] == "PASS"


@pytest.mark.parametrize(
    "more",
    [
        {"memory": {"total_bytes": "much", "available_bytes": None}},
        {"model": 7},
        {"state": None},
        {"backends": [{"backend": "openvino"}]},
        {"cores": 0},
        {"state": {"load": ["busy"]}},
        {"state": {"others_share": 7}},
        {"links": [{"name": "eth0", "mbps": "fast"}]},
    ],
)
def test_a_damaged_device_file(tmp_path: Path, more: Dict[str, Any]) -> None:
    with pytest.raises(DamagedError, match=r"d\.json"):
        feasible.read(device(tmp_path / "d.json", **more))


def test_this_machines_own_state_is_a_device_file(tmp_path: Path) -> None:
    path = tmp_path / "here.json"
    path.write_text(json.dumps(machine.show()))
    found = feasible.read(path)
    assert found["memory"]["available_bytes"] > 0 and found["cores"] > 0
    keys = {key["backend"]: key for key in found["backends"]}
    assert keys["onnxruntime"] == device_key("onnxruntime").to_json()
