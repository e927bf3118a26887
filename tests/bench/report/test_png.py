from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from bench.report import png
from engines.errors import IncompatibleError, UsageError
from tests.bench.report import made


@pytest.fixture
def matplotlib():
    return pytest.importorskip("matplotlib", reason="matplotlib is not installed (the report extra)")


def pixels(run):
    from PIL import Image

    return np.asarray(Image.open(io.BytesIO(png.image(run))).convert("RGB"))


def test_the_picture_has_bars_of_every_batch(matplotlib):
    one, two = (pixels(made.run(batches=batches, threads=(None,))) for batches in ((1,), (1, 8)))
    assert two.shape[0] > 1.9 * one.shape[0] and one.shape[1] == two.shape[1] > 1000
    blue = (one == np.array([0x00, 0x72, 0xB2])).all(axis=2)
    assert blue.sum() > 1000 and (one != 255).any(axis=2).mean() < 0.5


@pytest.mark.parametrize("word", ["$x^2$", "$", "\\frac{", "\\$a$", "<b>", "\n\0", "量"])
@pytest.mark.filterwarnings("ignore:Glyph")
def test_any_name_is_drawn_as_it_is(matplotlib, word):
    assert pixels(made.run(batches=(1,), threads=(None,), samples=3, word=word)).size


def test_rows_with_gaps(matplotlib):
    run = made.run(batches=(1,), threads=(None,))
    run["rows"][0].update(samples_ms=[], images_per_s=None)
    run["rows"][1].update(p50_ms=None)
    assert pixels(run).size
    with pytest.raises(UsageError, match="no row"):
        png.image({**run, "rows": run["rows"][1:2]})


def test_without_matplotlib_it_says_what_to_install(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(IncompatibleError) as raised:
        png.image(made.run(batches=(1,), threads=(None,)))
    assert "pip install 'optimize-trt[report]'" in raised.value.hint
