"""A pass that was interrupted goes on to the same bits; a state that does not fit is not used."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from calib import ranges
from calib.checkpoint import Checkpoint
from calib.histogram import TensorRange

TENSORS = ["image", "stem_relu_out", "b1_conv2_out", "flat_out"]
ABOUT = {"graph": "abc", "seed": 0}

Build = Callable[..., Path]


def feeds(images: Any, start: int = 0, batch: int = 8) -> Iterator[Dict[str, Any]]:
    return ({"image": images[k : k + batch]} for k in range(start, len(images), batch))


def same(a: Dict[str, TensorRange], b: Dict[str, TensorRange]) -> bool:
    assert list(a) == list(b)
    for name in a:
        for x, y in ((a[name].values, b[name].values), (a[name].peaks, b[name].peaks)):
            assert (x.counts == y.counts).all() and x.exponent == y.exponent and x.total == y.total
            assert (x.minimum, x.maximum) == (y.minimum, y.maximum)
        assert a[name].averages == b[name].averages
    return True


def interrupted(onnx: Path, images: Any, state: Path, after: int) -> None:
    def stop(what: str, done: int, total: int) -> None:
        if done >= after:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ranges.collect(onnx, TENSORS, feeds(images), stop, checkpoint=Checkpoint(state, ABOUT, every_s=0))


@pytest.mark.parametrize("after", [8, 24, 48])
def test_a_resumed_pass_gives_the_same_bits(resnet: Build, images: Any, tmp_path: Path, after: int) -> None:
    state = tmp_path / "state.npz"
    interrupted(resnet(), images, state, after)
    again = Checkpoint(state, ABOUT)
    assert again.done == after
    found = ranges.collect(resnet(), TENSORS, feeds(images, again.done), checkpoint=again)
    assert same(found, ranges.collect(resnet(), TENSORS, feeds(images)))
    again.remove()
    again.remove()
    assert list(tmp_path.iterdir()) == []


def test_a_state_of_something_else_is_not_used(resnet: Build, images: Any, tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    interrupted(resnet(), images, state, 16)
    assert Checkpoint(state, {**ABOUT, "seed": 1}).done == 0
    assert Checkpoint(tmp_path / "none.npz", ABOUT).done == 0
    other = Checkpoint(state, ABOUT)
    fresh = {"another": TensorRange()}
    assert other.ranges(fresh) is fresh and other.done == 0


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 255), st.booleans())
def test_a_damaged_state_is_not_used(tmp_path_factory: Any, place: float, value: int, cut: bool) -> None:
    state = tmp_path_factory.mktemp("state") / "state.npz"
    seen = TensorRange()
    seen.add(np.linspace(-1, 3, 40, dtype=np.float32).reshape(4, 10), 4)
    Checkpoint(state, ABOUT, every_s=0).reached({"x": seen}, 4)
    content = bytearray(state.read_bytes())
    where = int(place * (len(content) - 1))
    if cut:
        del content[where:]
    else:
        content[where] ^= value
    state.write_bytes(bytes(content))
    found = Checkpoint(state, ABOUT)
    if found.done:  # what was changed was not the state
        assert same(found.ranges({"x": TensorRange()}), {"x": seen})


def test_pauses_are_kept_with_the_state(tmp_path: Path) -> None:
    state = tmp_path / "state.npz"
    scales = {"minmax": {"x": 0.1 + 0.2, "y": 1e-300}}
    for point in (Checkpoint(state, ABOUT, every_s=1000), Checkpoint(None, ABOUT)):
        for images in (85, 170):
            point.reached({"x": TensorRange()}, images)
            point.go_on({"entropy": {}} if images == 85 else scales)
        assert (point.done, point.passed, point.scales) == (170, 170, scales)
    again = Checkpoint(state, ABOUT)
    assert (again.done, again.passed, again.scales) == (170, 170, scales)
    again.ranges({"another": TensorRange()})
    assert (again.done, again.passed, again.scales) == (0, 0, {})
    point.remove()  # there is no file


def test_states_are_written_now_and_then(tmp_path: Path) -> None:
    point = Checkpoint(tmp_path / "state.npz", ABOUT, every_s=1000)
    point.reached({"x": TensorRange()}, 4)
    assert list(tmp_path.iterdir()) == []


def test_the_state_is_no_larger_for_more_images(resnet: Build, images: Any, tmp_path: Path) -> None:
    sizes = []
    for count in (1, 60):
        point = Checkpoint(tmp_path / f"{count}.npz", ABOUT, every_s=0)
        ranges.collect(resnet(), TENSORS, (feed for _ in range(count) for feed in feeds(images)), checkpoint=point)
        sizes.append((tmp_path / f"{count}.npz").stat().st_size)
    assert sizes[0] == sizes[1]
