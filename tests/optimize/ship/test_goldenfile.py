"""Golden arrays on the disk: read back as written, and nothing else is believed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Any, List

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import DamagedError
from engines.spec import TensorSpec
from optimize.ship import goldenfile

IMAGE = [TensorSpec("image/with:name", (None, 2, 2))]
SCORES = [TensorSpec("scores", (None, 3))]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    goldenfile.write(tmp_path / "golden.npz", [_array(IMAGE)], {"engine": [_array(SCORES)]})
    return tmp_path / "golden.npz"


def _array(specs: List[TensorSpec], n: int = 5) -> Any:
    return np.arange(n * 12, dtype=np.float32)[: n * int(np.prod(specs[0].shape[1:]))].reshape(n, *specs[0].shape[1:])


def _with(path: Path, name: str, content: bytes, compress: int = zipfile.ZIP_STORED) -> None:
    """Write the archive again with one member more or another one."""
    with zipfile.ZipFile(path) as archive:
        kept = {one: archive.read(one) for one in archive.namelist() if one != name}
    with zipfile.ZipFile(path, "w") as archive:
        for one, old in kept.items():
            archive.writestr(one, old)
        archive.writestr(name, content, compress)


def _npy(array: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


@given(
    dtype=st.sampled_from(["float32", "float16", "float64", "uint8", "int8", "int32", "int64", "bool"]),
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=4),
    n=st.integers(1, 5),
)
def test_arrays_come_back_as_they_were(
    tmp_path_factory: pytest.TempPathFactory, dtype: str, shape: List[int], n: int
) -> None:
    path = tmp_path_factory.mktemp("golden") / "golden.npz"
    array = np.random.default_rng(n).integers(0, 2, (n, *shape)).astype(dtype)
    specs = [TensorSpec("x", (None, *shape), dtype)]
    goldenfile.write(path, [array], {"float": [array]})
    inputs, engine, float_ = goldenfile.read(path, n, specs, specs)
    assert engine is None and float_ is not None
    for one in (inputs[0], float_[0]):
        assert one.dtype == array.dtype
        np.testing.assert_array_equal(one, array)


def test_the_same_arrays_give_the_same_bytes(path: Path, tmp_path: Path) -> None:
    goldenfile.write(tmp_path / "again.npz", [_array(IMAGE)], {"engine": [_array(SCORES)]})
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_a_free_axis_takes_any_size(path: Path) -> None:
    assert goldenfile.read(path, 5, [TensorSpec("image", (None, None, 2))], SCORES)[0][0].shape == (5, 2, 2)


@pytest.mark.parametrize(
    "array",
    [
        _array(SCORES, 4),
        _array(SCORES).astype(np.float64),
        np.asfortranarray(_array(SCORES)),
        np.array([{"a": 1}] * 5, dtype=object),
        np.zeros(5, [("a", "f4")]),
    ],
    ids=["fewer", "another type", "another order", "objects", "records"],
)
def test_another_array_is_refused(path: Path, array: Any) -> None:
    _with(path, "engine.0.npy", _npy(array))
    with pytest.raises(DamagedError, match="golden"):
        goldenfile.read(path, 5, IMAGE, SCORES)


def test_a_header_that_promises_more_than_there_is_asks_for_no_memory(path: Path) -> None:
    content = _npy(_array(SCORES)).replace(b"(5, 3)", b"(5, 999999999)", 1)
    _with(path, "engine.0.npy", content)
    with pytest.raises(DamagedError, match=r"header|hold"):
        goldenfile.read(path, 5, IMAGE, SCORES)


def test_a_compressed_member_is_refused_before_it_is_unpacked(path: Path) -> None:
    _with(path, "engine.0.npy", _npy(np.zeros((5, 300000), np.float32)), zipfile.ZIP_DEFLATED)
    with pytest.raises(DamagedError, match=r"compressed|larger than it is"):
        goldenfile.read(path, 5, IMAGE, SCORES)


def test_a_member_that_nobody_asked_for_is_refused(path: Path) -> None:
    _with(path, "../../evil.npy", _npy(_array(SCORES)))
    with pytest.raises(DamagedError, match="nobody asked for"):
        goldenfile.read(path, 5, IMAGE, SCORES)


def test_a_member_given_twice_is_refused(path: Path) -> None:
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning):
        archive.writestr("engine.0.npy", _npy(_array(SCORES)))
    with pytest.raises(DamagedError, match="twice"):
        goldenfile.read(path, 5, IMAGE, SCORES)


@pytest.mark.parametrize("content", [b"", b"PK\3\4", b"not a zip at all" * 99])
def test_what_is_no_archive_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(DamagedError, match="golden"):
        goldenfile.read(path, 5, IMAGE, SCORES)


def test_an_archive_without_inputs_is_refused(tmp_path: Path) -> None:
    goldenfile.write(tmp_path / "golden.npz", [], {"engine": [_array(SCORES)]})
    with pytest.raises(DamagedError, match="no inputs"):
        goldenfile.read(tmp_path / "golden.npz", 5, IMAGE, SCORES)
