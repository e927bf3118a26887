from __future__ import annotations

import json
import subprocess
import sys

import pytest

from bench.peers import quantise

linux = pytest.mark.skipif(sys.platform != "linux", reason="limits and peaks of memory are read from Linux")


@pytest.mark.parametrize(("count", "step"), [(512, 32), (40, 20), (37, 1), (7, 7), (1, 1)])
def test_batches_are_all_alike(count, step):
    assert quantise._step(count) == step


@linux
def test_memory_past_the_limit_is_refused_and_peaks_are_this_process_s():
    code = (
        "import json\n"
        "from bench.peers import quantise as q\n"
        "start = q.memory('VmRSS')\n"
        "block = bytearray(64 << 20); del block\n"
        "peak, now = q.memory('VmHWM'), q.memory('VmRSS')\n"
        "q.limit_memory(256 << 20)\n"
        "try:\n"
        "    bytearray(1 << 30)\n"
        "except MemoryError:\n"
        "    print(json.dumps([start, peak, now]))\n"
    )
    ours = bytearray(256 << 20)  # what starts it is larger than it ever gets
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, check=True)
    start, peak, now = json.loads(done.stdout)
    assert start + (60 << 20) < peak < len(ours) and now < peak


def test_whatever_a_tool_raises_is_told_in_one_line(tmp_path):
    job = {"tool": "nothing", "most_bytes": 4 << 30, "result": str(tmp_path / "result.json")}
    (tmp_path / "job.json").write_text(json.dumps(job))
    done = subprocess.run(
        [sys.executable, "-I", quantise.__file__, str(tmp_path / "job.json")], stderr=subprocess.PIPE, text=True
    )
    assert done.returncode == 0 and "Traceback" in done.stderr  # the log has the rest
    assert json.loads((tmp_path / "result.json").read_text()) == {"error": "KeyError: 'nothing'"}
