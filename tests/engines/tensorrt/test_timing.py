"""Timing caches: one file for each device, TensorRT and state of the clocks; nothing measured is lost."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, List

import pytest

from engines.tensorrt import compat, timing

ROOT = Path(__file__).resolve().parents[3]
LOCKED = {"state": "locked", "gpu": {"now_hz": 624, "max_hz": 624}, "emc": {"now_hz": 2133}}
FREE = {"state": "free", "gpu": {"now_hz": 306, "max_hz": 624}, "emc": {"now_hz": 204, "max_hz": 2133}}


def named(**changes: Any) -> str:
    """Name of the file for a device, with changes."""
    about: Dict[str, Any] = {"device": "Orin (nvgpu)", "capability": "8.7", "version": "8.5.2.2", "clocks": LOCKED}
    return timing.file_for(Path("timing.cache"), **{**about, **changes}).name


def test_the_name_tells_the_device_and_keys_the_clocks() -> None:
    assert named().startswith("timing-orin-nvgpu-sm87-8.5.2.2-")
    assert named().endswith(".cache")
    assert named() == named()
    others = [
        named(version="8.5.2.3"),
        named(device="Orin"),
        named(capability="8.9"),
        named(clocks={}),
        named(clocks=FREE),
        named(clocks={**LOCKED, "gpu": {"now_hz": 306, "max_hz": 624}}),
        named(clocks={**LOCKED, "emc": {"now_hz": 204}}),
    ]
    assert len({named(), *others}) == 8


def test_free_clocks_count_by_their_limit_and_not_by_the_moment() -> None:
    assert named(clocks=FREE) == named(clocks={**FREE, "gpu": {"now_hz": 500, "max_hz": 624}})
    assert named(clocks=FREE) != named(clocks={**FREE, "gpu": {"now_hz": 306, "max_hz": 306}})


def test_in_a_folder_the_file_is_inside(tmp_path: Path) -> None:
    file = timing.file_for(tmp_path, "Orin", "8.7", "8.5.2.2", {})
    assert file.parent == tmp_path and file.name.startswith("timing-orin-") and file.suffix == ".cache"
    assert timing.file_for(Path("/"), "Orin", "8.7", "8.5.2.2", {}).parent == Path("/")


def config_of(trt: Any) -> Any:
    """A builder config; its builder lives as long."""
    builder = trt.Builder(compat.logger(trt))
    config = builder.create_builder_config()
    return builder, config


def cache_with(trt: Any, file: Path, *keys: str) -> None:
    """Save a timing cache with these entries, as a build does."""
    _builder, config = config_of(trt)
    assert timing.load(config, file) == []
    config.get_timing_cache()._entries.update({key: f"0x{key}" for key in keys})
    assert timing.save(config, file) == []


def entries(trt: Any, file: Path) -> List[str]:
    """What a file holds."""
    _builder, config = config_of(trt)
    assert timing.load(config, file) == []
    return sorted(config.get_timing_cache()._entries)


@pytest.mark.tensorrt
def test_what_another_build_wrote_meanwhile_stays(trt: Any, gpu: Any, tmp_path: Path) -> None:
    file = tmp_path / "folder" / "t.cache"
    _builder, config = config_of(trt)
    timing.load(config, file)
    cache_with(trt, file, "theirs")
    config.get_timing_cache()._entries["mine"] = "0x1"
    assert timing.save(config, file) == []
    assert entries(trt, file) == ["mine", "theirs"]


@pytest.mark.tensorrt
@pytest.mark.parametrize("content", [b"no cache", b"trtc", None])
def test_a_file_that_is_none_of_ours_is_ignored_and_replaced(trt: Any, gpu: Any, tmp_path: Path, content: Any) -> None:
    file = tmp_path / "t.cache"
    cache_with(trt, file, "one")
    good = file.read_bytes()
    foreign = good[:10] + b"\x07\x00\x02\x00" + good[14:]  # of another device
    file.write_bytes(foreign if content is None else content)
    _builder, config = config_of(trt)
    assert timing.load(config, file) == [timing.IGNORED]
    assert config.get_timing_cache() is not None
    assert timing.save(config, file) == []
    assert entries(trt, file) == []


@pytest.mark.tensorrt
def test_a_file_that_cannot_be_read_or_written_costs_no_build(trt: Any, gpu: Any, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    _builder, config = config_of(trt)
    assert timing.load(config, tmp_path / "file" / "t.cache") == [timing.IGNORED]
    assert timing.save(config, tmp_path / "file" / "t.cache") == [timing.NOT_WRITTEN]


@pytest.mark.tensorrt
def test_a_version_that_gives_no_cache(trt: Any, gpu: Any, tmp_path: Path) -> None:
    class Without:
        def create_timing_cache(self, content: bytes) -> None:
            return None

        def get_timing_cache(self) -> None:
            return None

    assert timing.load(Without(), tmp_path / "t.cache") == [timing.NONE]
    assert timing.save(Without(), tmp_path / "t.cache") == []


_WRITER = """
import sys
from pathlib import Path
import tensorrt as trt
from engines.cuda import Context
from engines.tensorrt import compat, timing

with Context(0):
    builder = trt.Builder(compat.logger(trt))
    config = builder.create_builder_config()
    timing.load(config, Path(sys.argv[1]))
    for number in range(20):
        config.get_timing_cache()._entries[f"{sys.argv[2]}{number}"] = "0x1"
        assert timing.save(config, Path(sys.argv[1])) == []
    del config, builder
"""


@pytest.mark.tensorrt
def test_two_processes_do_not_lose_each_others_tactics(trt: Any, gpu: Any, tmp_path: Path) -> None:
    file = tmp_path / "t.cache"
    words = [[sys.executable, "-c", _WRITER, str(file), name] for name in ("a", "b")]
    running = [subprocess.Popen(one, cwd=str(ROOT)) for one in words]
    assert [one.wait(timeout=120) for one in running] == [0, 0]
    assert entries(trt, file) == sorted(f"{name}{number}" for name in "ab" for number in range(20))
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == '["t.cache", "t.cache.lock"]'
