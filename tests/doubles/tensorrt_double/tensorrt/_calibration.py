"""Calibration with a caller's calibrator: batches are read from device memory, ranges measured, the cache exchanged.

The ranges are the double's own statistics, not NVIDIA's: the largest absolute value for min-max, and for entropy the
largest over the batches of each batch's 99.9th percentile.
"""

from __future__ import annotations

import struct
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

import numpy as np

from tensorrt import _driver
from tensorrt._check import swallowed
from tensorrt._dtypes import numpy_of
from tensorrt._graph import floats, session
from tensorrt._log import error, say
from tensorrt._real import TAG

_NAMES = {
    "ENTROPY_CALIBRATION_2": "EntropyCalibration2",
    "ENTROPY_CALIBRATION": "EntropyCalibration",
    "MINMAX_CALIBRATION": "MinMaxCalibration",
    "LEGACY_CALIBRATION": "LegacyCalibration",
}


def write_cache(algorithm: str, scales: Mapping[str, float]) -> bytes:
    """The text of a calibration cache: a header, then each tensor's scale as the hex digits of its float32."""
    lines = [f"{TAG}-{_NAMES[algorithm]}"]
    lines += [f"{name}: {struct.pack('>f', scale).hex()}" for name, scale in scales.items()]
    return ("\n".join(lines) + "\n").encode()


def read_cache(content: bytes, algorithm: str) -> Optional[Dict[str, float]]:
    """The scales of a cache, or None where it is of another version or algorithm."""
    head, *lines = content.decode(errors="replace").splitlines() or [""]
    if head != f"{TAG}-{_NAMES[algorithm]}":
        return None
    scales = {}
    for line in lines:
        name, colon, digits = line.rpartition(": ")
        if colon:
            scales[name] = struct.unpack(">f", bytes.fromhex(digits))[0]
    return scales


def calibrate(
    model: Any, inputs: Sequence[Any], shapes: Mapping[str, Sequence[int]], calibrator: Any, logger: Any
) -> Optional[Dict[str, float]]:
    """Scales of a model's tensors.

    Args:
        model: The ONNX model.
        inputs: The network's inputs.
        shapes: The shape of one batch of each, from the calibration profile.
        calibrator: The caller's.
        logger: The builder's.

    Returns:
        Scale of each tensor by name, or None where calibration failed.
    """
    algorithm = swallowed("get_algorithm", lambda: calibrator.get_algorithm().name, "ENTROPY_CALIBRATION_2")
    cached = swallowed("read_calibration_cache", calibrator.read_calibration_cache, None)
    if cached is not None and len(memoryview(cached)):
        scales = read_cache(bytes(cached), algorithm)
        if scales is not None:
            say(logger, "INFO", "Reading Calibration Cache for calibrator: " + _NAMES[algorithm])
            return scales
        say(logger, "WARNING", "Calibration cache is of another TensorRT version or algorithm: calibrating anew")
    swallowed("get_batch_size", calibrator.get_batch_size, 0)
    say(logger, "INFO", "Starting Calibration.")
    scales = _measure(model, inputs, shapes, calibrator, algorithm, logger)
    if not scales:
        error(
            logger,
            "Calibration failure occurred with no scaling factors detected. This could be due to no int8 calibrator or "
            "insufficient custom scales for network layers.",
        )
        return None
    content = bytearray(write_cache(algorithm, scales))
    lent = memoryview(content).toreadonly()
    swallowed("write_calibration_cache", lambda: calibrator.write_calibration_cache(lent), None)
    lent.release()  # the memory is TensorRT's and gone after the call: who keeps the view, keeps nothing
    return scales


def _measure(
    model: Any, inputs: Sequence[Any], shapes: Mapping[str, Sequence[int]], calibrator: Any, algorithm: str, logger: Any
) -> Dict[str, float]:
    runner, names = _exposing(model)
    wanted = [one._name for one in inputs]
    ranges: Dict[str, float] = {}
    number = 0
    while True:
        addresses = swallowed("get_batch", lambda: calibrator.get_batch(list(wanted)), None)
        if not addresses:
            break
        feeds, why = _fetch(addresses, inputs, shapes)
        if why:
            error(logger, why, 1, "Cuda Runtime")
            return {}
        values = {**feeds, **dict(zip(names, runner.run(list(names), feeds)))}
        for name, array in values.items():
            if array.size and array.dtype == np.float32:
                ranges[name] = max(ranges.get(name, 0.0), _range(array, algorithm))
        say(logger, "INFO", f"  Calibrated batch {number} in 0 seconds.")
        number += 1
    return {name: float(np.float32(max(top, 1e-12) / 127.0)) for name, top in ranges.items()}


def _range(array: Any, algorithm: str) -> float:
    sizes = np.abs(array[np.isfinite(array)])
    if not sizes.size:
        return 0.0
    return float(sizes.max() if algorithm == "MINMAX_CALIBRATION" else np.quantile(sizes, 0.999))


def _fetch(addresses: Any, inputs: Sequence[Any], shapes: Mapping[str, Sequence[int]]) -> Tuple[Dict[str, Any], str]:
    """One batch from device memory, as it is there now."""
    if len(addresses) != len(inputs):
        return {}, f"an illegal memory access was encountered: {len(addresses)} addresses for {len(inputs)} inputs"
    feeds = {}
    for address, one in zip(addresses, inputs):
        dtype, shape = numpy_of(one._kind), tuple(shapes[one._name])
        nbytes = int(np.prod(shape)) * dtype.itemsize
        if not isinstance(address, int) or not _driver.holds(address, nbytes):
            return {}, f"an illegal memory access was encountered: {nbytes} bytes of {one._name} at {address!r}"
        feeds[one._name] = np.frombuffer(_driver.read(address, nbytes), dtype).reshape(shape)
    return feeds, ""


def _exposing(model: Any) -> Tuple[Any, List[str]]:
    """A session that gives every float tensor of the model, and their names."""
    import onnx

    made = onnx.ModelProto()
    made.CopyFrom(model)
    have = {value.name for value in made.graph.output}
    known = floats(made)
    for node in made.graph.node:
        for name in node.output:
            if name in known and name not in have:
                made.graph.output.append(onnx.helper.make_tensor_value_info(name, 1, None))
                have.add(name)
    return session(made), [value.name for value in made.graph.output if value.name in known]
