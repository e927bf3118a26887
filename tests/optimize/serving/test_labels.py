"""The proof: a server gives 1,000 CIFAR-10 test images the labels of `optimize predict`, alone and under 64 clients."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Callable, List

import numpy as np
import pytest
from PIL import Image

import engines
import optimize
from calib.datasets import open_dataset
from calib.preprocess import Preprocess, apply
from engines import manifest
from engines.spec import RunnerSpec

COUNT, CLIENTS = 1000, 64


@pytest.fixture(scope="module")
def resnet(shared: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shared ResNet-34 as an fp32 engine for batches of 1 and 64."""
    pytest.importorskip("tensorflow")
    models = shared / "models"
    done = optimize.build(
        models / "resnet34_cifar10_bs64_epochs10.keras",
        "fp32",
        (1, CLIENTS),
        out=tmp_path_factory.mktemp("resnet34"),
        custom_objects=f"{models / 'train.py'}:ResidualBlock",
        preprocess="unit",
    )
    return Path(done.bundles[0].path)


@pytest.mark.slow
def test_a_server_gives_the_labels_of_predict_and_loses_nothing(
    needs_mlserver: None, shared: Path, resnet: Path, server: Callable[..., Any], tmp_path: Path
) -> None:
    data = open_dataset(str(shared / "data" / "cifar-10-batches-bin"), "test", samples=COUNT)
    pixels = data.images(np.arange(COUNT))
    files: List[Path] = []
    for number, image in enumerate(pixels):
        files.append(tmp_path / f"{number}.png")
        Image.fromarray(image).save(files[-1])
    expected = [one["top"][0]["index"] for one in optimize.predict(resnet, files, top=1)]

    about = manifest.read(resnet)
    size = (32, 32)
    feeds = apply(Preprocess.from_json(about["preprocess"]), pixels, about["layout"], size)
    name, output = about["inputs"][0]["name"], about["outputs"][0]["name"]
    running = server(resnet, "--name", "resnet34")
    own = threading.local()
    opened = []

    def label(number: int) -> int:
        if not hasattr(own, "runner"):
            own.runner = engines.open(RunnerSpec(path=running.url, kind="served"))
            opened.append(own.runner)
        return int(own.runner.infer({name: feeds[number : number + 1]})[output][0].argmax())

    alone = [label(number) for number in range(COUNT)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        together = list(pool.map(label, range(COUNT)))
    for runner in opened:
        runner.close()
    code, (told,) = running.stop()

    assert alone == expected and together == expected
    assert code == 0 and told["inference_stats"]["fail"]["count"] == 0
    assert told["inference_stats"]["success"]["count"] == told["inference_count"] == 2 * COUNT
    print(f"{COUNT} labels alike at batch 1 and with {CLIENTS} clients: {told['execution_count']} batches")
    assert told["execution_count"] < 2 * COUNT  # what came together was computed together
