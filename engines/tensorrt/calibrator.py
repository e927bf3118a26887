"""TensorRT's own INT8 calibration: batches fed through one device buffer, and every exception of a callback kept.

TensorRT swallows what a callback raises and goes on with the batches it has had. Here the exception is kept and raised
after the build, and the number of batches is checked.
"""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import numpy as np
import numpy.typing as npt

from engines.cuda import Context
from engines.errors import BuildError, DataError, UsageError
from engines.spec import TensorSpec

ALGORITHMS: Dict[str, str] = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
"""Name, one of those in `cachefile.ALGORITHMS`, -> the base class."""


def read_feeds(path: Path, inputs: Sequence[TensorSpec], batch: int) -> Dict[str, npt.NDArray[Any]]:
    """Calibration images as the network takes them.

    Args:
        path: An `.npz` with one array for each input, all images first.
        inputs: The network's.
        batch: Images fed at a time.

    Raises:
        DataError: No such file, an input without array, another size or type, or fewer images than one batch.
    """
    again = "run optimize build again with --force"
    try:
        with np.load(path, allow_pickle=False) as stored:
            feeds = {name: stored[name] for name in stored.files}
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path}: no calibration images can be read ({error})", again) from None
    for one in inputs:
        if one.name not in feeds:
            raise DataError(f"{path}: no calibration images for the input {one.name}", again)
        array, wanted = feeds[one.name], one.shape[1:]
        fits = array.ndim == len(one.shape) and all(b is None or a == b for a, b in zip(array.shape[1:], wanted))
        if not fits or array.dtype != one.dtype:
            raise DataError(
                f"{path}: {array.dtype} images of {array.shape[1:]} for the input {one.name}, which takes {one.dtype} "
                f"of {wanted}",
                again,
            )
        if len(array) < batch:
            raise DataError(
                f"{path}: {len(array)} calibration images, and {batch} are fed at a time", "give more --samples"
            )
    return {one.name: feeds[one.name] for one in inputs}


def make(
    trt: Any,
    gpu: Context,
    feeds: Mapping[str, npt.NDArray[Any]],
    batch: int,
    algorithm: str = "entropy",
    cached: Optional[bytes] = None,
) -> Any:
    """A calibrator for `config.int8_calibrator`; keep it until the build is over, then call `finish`.

    Args:
        trt: The module.
        gpu: Where the buffers are; open until `finish` was called.
        feeds: By input name, all images first, of the network's types: see `read_feeds`. Empty where only `cached`
            counts.
        batch: Images fed at a time; what does not fill the last batch is left out.
        algorithm: One of `ALGORITHMS`.
        cached: Content of a calibration cache, which makes feeding needless.

    Returns:
        The calibrator. `count` is the number of batches there are, `fed` that of those which TensorRT took, `written`
        the cache that it made.

    Raises:
        UsageError: An unknown algorithm.
        CudaMemoryError: No room for the buffers.
    """
    if algorithm not in ALGORITHMS:
        raise UsageError(f"unknown calibration algorithm {algorithm!r}; known: {', '.join(ALGORITHMS)}")
    batches = min((len(array) for array in feeds.values()), default=0) // batch

    class Calibrator(getattr(trt, ALGORITHMS[algorithm])):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.failed: Optional[BaseException] = None
            self.count, self.fed = batches, 0
            self.written = b""
            self._things: List[Any] = []
            self._host: Dict[str, Any] = {}
            self._device: Dict[str, Any] = {}
            try:
                self._stream = self._own(gpu.stream())
                for name, array in feeds.items():
                    self._host[name] = self._own(gpu.host((batch, *array.shape[1:]), array.dtype))
                    self._device[name] = self._own(gpu.allocate(self._host[name].array.nbytes))
            except BaseException:
                self._free()
                raise

        def _own(self, thing: Any) -> Any:
            self._things.append(thing)
            return thing

        def _free(self) -> None:
            while self._things:
                self._things.pop().free()

        def _keep(self, call: Callable[[], Any]) -> Any:
            if self.failed is not None:
                return None
            try:
                return call()
            except BaseException as error:  # TensorRT would swallow it: `finish` raises it
                self.failed = error
                return None

        def get_batch_size(self) -> int:
            return batch

        def get_batch(self, names: Any, *rest: Any) -> Any:
            return self._keep(lambda: self._next(list(names)))

        def _next(self, names: List[str]) -> Any:
            if not feeds:
                raise BuildError("TensorRT does not take the calibration cache and asks for images", "--data cifar10")
            unknown = [name for name in names if name not in feeds]
            if unknown:
                raise BuildError(f"no calibration images for the input {', '.join(unknown)}")
            if self.fed == self.count:
                return None
            with gpu.current():
                for name in names:  # TensorRT copies exactly len(names) addresses
                    start = self.fed * batch
                    np.copyto(self._host[name].array, feeds[name][start : start + batch])
                    gpu.to_device(self._device[name].address, self._host[name].array, self._stream)
                self._stream.synchronize()
            self.fed += 1
            return [int(self._device[name].address) for name in names]

        def read_calibration_cache(self, *rest: Any) -> Any:
            return cached  # this function's frame keeps it alive

        def write_calibration_cache(self, cache: Any, *rest: Any) -> None:
            self._keep(lambda: setattr(self, "written", bytes(cache)))  # the memory is TensorRT's: copied here

        def finish(self, built: bool) -> None:
            """Free the buffers; raise what a callback raised, or that fewer batches were fed than there are.

            Args:
                built: TensorRT made a plan; where it did not, its own reason counts.

            Raises:
                BuildError: Calibration ended early.
            """
            self._free()
            if self.failed is not None:
                raise self.failed
            if built and self.fed != self.count and (self.fed or cached is None):
                raise BuildError(
                    f"TensorRT calibrated on {self.fed} of {self.count} batches", "build again with --force"
                )

    return Calibrator()
