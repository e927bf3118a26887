"""Calibration's memory does not depend on the number of images: peak RSS of child processes, at 224x224."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

_CHILD = """
import resource, sys
sys.path[0] = sys.argv[1]
from calib import graph, placement, ranges
from calib.budget import batch_size
from calib.calibrate import image_input
from calib.datasets import open_dataset
from calib.feeds import batches
from calib.preprocess import parse
model = graph.load(sys.argv[2])
tensors = placement.points(model, "openvino").measured()
image = image_input(model, sys.argv[2])
dataset = open_dataset("synthetic", "train", int(sys.argv[3]))
feeds = batches(dataset, parse("resize=224,unit"), image.layout, image.size, batch_size(model, tensors, image))
seen = ranges.collect(sys.argv[2], tensors, ({image.spec.name: x} for x, _ in feeds))
assert len(seen) == len(tensors) > 20
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


_FREED = """
import sys, numpy as np
sys.path[0] = sys.argv[1]
from calib.memory import release
def rss(): return int(next(l for l in open("/proc/self/status") if l.startswith("RssAnon")).split()[1])
np.ones(24 << 20, np.uint8)  # freed, after which blocks below that size come from the heap
release()
before = rss()
held = [np.ones(1 << 20, np.uint8) for _ in range(64)]
last = np.ones(1 << 20, np.uint8)
del held
kept = rss() - before
release()
print(kept, rss() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc")
def test_freed_memory_goes_back() -> None:
    words = [sys.executable, "-c", _FREED, str(ROOT)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    kept, left = map(int, done.stdout.split())
    assert left < 8 << 10 and (left < kept or kept < 8 << 10), done.stdout


_FORGOTTEN = """
import sys
from pathlib import Path
sys.path[0] = sys.argv[1]
import numpy as np
from calib.datasets.cifar import read_binary, RECORD
from calib.memory import forget
def mapped(): return int(next(l for l in open("/proc/self/status") if l.startswith("RssFile")).split()[1])
before = mapped()
planes, labels = read_binary(Path(sys.argv[2]))
first = mapped() - before
total = int(planes.sum(dtype=np.int64))
read = mapped() - before
forget(planes)
after = mapped() - before
assert int(planes.sum(dtype=np.int64)) == total == 7 * planes.size
print(first, read, after)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="/proc")
def test_pages_of_a_data_set_go_back(tmp_path: Path) -> None:
    (tmp_path / "a.bin").write_bytes(bytes([7]) * 3073 * 4000)
    words = [sys.executable, "-c", _FORGOTTEN, str(ROOT), str(tmp_path / "a.bin")]
    first, read, after = map(int, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split())
    assert read > 10_000 and max(first, after) < 4_000, (first, read, after)  # kB, of 12,292


@pytest.fixture(scope="module")
def resnet18_at_224(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The zoo's ResNet-18 with random weights, exported for 224x224 images."""
    pytest.importorskip("torch", reason="PyTorch is not installed (make setup TORCH=1)")
    import optimize
    from optimize.api import zoo_make

    folder = tmp_path_factory.mktemp("resnet18")
    weights = zoo_make("resnet18", "torch", "imagenet", 1000, 224, 0, folder / "resnet18.pt")
    done = optimize.export(weights, folder / "resnet18.onnx", verify=False, factory="resnet18", input_shape="3x224x224")
    return Path(done["onnx"])


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss in KiB, as Linux gives it")
def test_2048_images_take_the_memory_of_64(resnet18_at_224: Path) -> None:
    peaks = {}
    for count in (64, 2048):
        words = [sys.executable, "-c", _CHILD, str(ROOT), str(resnet18_at_224), str(count)]
        peaks[count] = int(subprocess.run(words, check=True, capture_output=True, text=True).stdout) / 1024
    print(f"peak RSS in MiB: {peaks}")
    assert peaks[2048] - peaks[64] < 30, peaks
