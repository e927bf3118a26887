"""TensorRT's text calibration cache: what real ones hold is read, all else is refused by line, and sidecars tie it."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import DamagedError, IncompatibleError, UsageError
from engines.tensorrt import cachefile
from engines.tensorrt.cachefile import Cache, parse, render

OF = {
    "model": "a" * 64,
    "data": "d" * 64,
    "preprocess": {"divide": 255},
    "method": "entropy",
    "samples": 512,
    "seed": 0,
}
WHO = ("entropy", "8.5.2.2")
TEXT = b"TRT-8502-EntropyCalibration2\nx: 3c010a14\n"

REAL = b"""TRT-8401-EntropyCalibration2
input: 3caa54fc
input_1:0: 3c010a14
conv1/convolution:0: 3d0b7086
(Unnamed Layer* 64) [Shuffle]_output: 0
366: 0
405: 3c209a08
"""
"""Lines as TensorRT writes them: names with colons and spaces, 0 where it saw no value."""


def test_what_tensorrt_writes_is_read() -> None:
    cache = parse(REAL)
    assert (cache.version, cache.algorithm) == ("8401", "entropy")
    assert list(cache.scales)[1:4] == ["input_1:0", "conv1/convolution:0", "(Unnamed Layer* 64) [Shuffle]_output"]
    assert (
        cache.scales["input_1:0"]
        == struct.unpack(">f", bytes.fromhex("3c010a14"))[0]
        == pytest.approx(1 / 127, rel=1e-3)
    )
    assert cache.scales["366"] == 0
    assert render(cache) == REAL


def test_the_headers_of_all_calibrators_that_have_scales() -> None:
    for word, name in (("MinMaxCalibration", "minmax"), ("EntropyCalibration", "entropy")):
        assert parse(TEXT.replace(b"EntropyCalibration2", word.encode())).algorithm == name
    assert parse(TEXT.rstrip(b"\n")) == parse(TEXT)


NAMES = st.text(st.characters(blacklist_categories=("Cs", "Cc", "Zl", "Zp")), min_size=1).filter(
    lambda name: name == name.strip()
)
SCALES = st.floats(0, width=32, allow_nan=False, allow_infinity=False).map(abs)


@given(st.dictionaries(NAMES, SCALES, min_size=1), st.sampled_from(sorted(cachefile.ALGORITHMS)))
def test_every_cache_comes_back_as_it_was(scales: Dict[str, float], algorithm: str) -> None:
    cache = Cache("8502", algorithm, scales)
    found = parse(render(cache))
    assert found == cache and list(found.scales) == list(scales)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_cache_or_damaged(tail: bytes) -> None:
    for content in (tail, b"TRT-8502-EntropyCalibration2\n" + tail):
        try:
            cache = parse(content)
        except DamagedError:
            continue
        assert parse(render(cache)).scales == cache.scales


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "line 1: .*empty|line 1: a header"),
        (b"x: 3c010a14\n", "line 1: a header"),
        (b"TRT-8502-Other\nx: 3c010a14\n", "line 1: a header"),
        (b"\xef\xbb\xbf" + TEXT, "line 1: a header"),
        (b"TRT-8502-EntropyCalibration2\n", "a header and no tensor"),
        (TEXT + b"y: 3g010a14\n", "line 3: 'tensor: hex'"),
        (TEXT + b"y: 3c010a141\n", "line 3: 'tensor: hex'"),
        (TEXT + b"y: 0x3c01\n", "line 3: 'tensor: hex'"),
        (TEXT + b"y 3c010a14\n", "line 3: 'tensor: hex'"),
        (TEXT + b": 3c010a14\n", "line 3: 'tensor: hex'"),
        (TEXT + b"\ny: 3c010a14\n", "line 3: 'tensor: hex'"),
        (TEXT + b"x: 3c010a14\n", "line 3: tensor 'x' stands there twice"),
        (TEXT + b"y: 7fc00000\n", "line 3: scale nan"),
        (TEXT + b"y: 7f800000\n", "line 3: scale inf"),
        (TEXT + b"y: bc010a14\n", "line 3: scale -0.00787"),
        (TEXT + b"y: 80000000\n", "line 3: scale -0.0"),
        (TEXT + b"\xff: 3c010a14\n", "line 3: not UTF-8"),
        (TEXT.replace(b"\n", b"\r\n"), "line 1: ends in CR LF"),
        (TEXT + b"y\0: 3c010a14\n", "line 3: a control character"),
    ],
)
def test_a_damaged_cache_is_refused_by_line(content: bytes, words: str) -> None:
    with pytest.raises(DamagedError, match=words) as caught:
        parse(content, "net.cache")
    assert caught.value.message.startswith("net.cache") and caught.value.exit_code == 1 and caught.value.hint


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge.cache"
    with open(file, "wb") as handle:
        handle.truncate(1 << 40)
    with pytest.raises(DamagedError, match="larger than"):
        cachefile.read(file)
    with pytest.raises(UsageError, match="no such calibration cache"):
        cachefile.read(tmp_path)


@pytest.mark.parametrize(
    "scales",
    [{"x": -1.0}, {"x": -0.0}, {"x": float("nan")}, {"x": float("inf")}, {"x": 1e39}, {"": 1.0}, {"a\nb": 1.0}],
)
def test_what_a_cache_cannot_hold_is_not_written(scales: Dict[str, float]) -> None:
    with pytest.raises(ValueError):
        render(Cache("8502", "entropy", scales))


@pytest.mark.parametrize(
    ("version", "digits"),
    [("8.5.2.2", "8502"), ("8.6.1", "8601"), ("10.3.0", "100300"), ("10.13.2.6", "101302"), ("8.5.2+double", "8502")],
)
def test_versions_in_the_header(version: str, digits: str) -> None:
    assert cachefile.tag(version) == digits


@pytest.mark.parametrize("version", ["8.5", "", "new", "8.5.222"])
def test_what_is_no_version(version: str) -> None:
    with pytest.raises(UsageError, match="no version"):
        cachefile.tag(version)


def test_a_cache_is_given_back_only_to_what_it_was_measured_on(tmp_path: Path) -> None:
    file = tmp_path / "calibration.cache"
    assert cachefile.require(file, OF, *WHO) is None
    cachefile.write(file, TEXT, OF, *WHO)
    assert cachefile.require(file, OF, *WHO) == TEXT
    assert json.loads(cachefile.sidecar(file).read_text())["schema"] == "optimize.calibration/1"
    wrong: Any
    for wrong, words in (
        (({**OF, "model": "b" * 64}, *WHO), "another model$"),
        (({**OF, "data": "b" * 64, "seed": 1}, *WHO), "another data and seed$"),
        (({**OF, "preprocess": {}}, *WHO), "another preprocess$"),
        ((OF, "minmax", "8.5.2.2"), "algorithm entropy"),
        ((OF, "entropy", "10.3.0"), "tensorrt 8.5.2.2"),
    ):
        with pytest.raises(IncompatibleError, match=words) as caught:
            cachefile.require(file, *wrong)
        assert caught.value.exit_code == 4


def test_a_cache_without_its_sidecar_or_changed_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "calibration.cache"
    cachefile.write(file, TEXT, OF, *WHO)
    file.write_bytes(TEXT + b"y: 3c010a14\n")
    with pytest.raises(DamagedError, match="changed"):
        cachefile.require(file, OF, *WHO)
    cachefile.sidecar(file).write_text('{"schema": "optimize.calibration/1"}')
    with pytest.raises(DamagedError, match="does not say"):
        cachefile.about(file)
    cachefile.sidecar(file).unlink()
    assert cachefile.about(file) is None
    with pytest.raises(IncompatibleError, match="nothing says which model"):
        cachefile.require(file, OF, *WHO)
