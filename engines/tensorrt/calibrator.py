"""TensorRT's own INT8 calibration: batches fed through one device buffer, and every exception of a callback kept.

TensorRT swallows what a callback raises and goes on with the batches it has had. Here the exception is kept and raised
after the build, and the number of batches is checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable, Dict, Mapping, Optional

import numpy as np
import numpy.typing as npt

from engines import jsonfile
from engines.cuda import Context
from engines.errors import BuildError, DamagedError, IncompatibleError

SCHEMA = "optimize.calibration-cache/1"

ALGORITHMS: Dict[str, str] = {"entropy": "IInt8EntropyCalibrator2", "minmax": "IInt8MinMaxCalibrator"}
"""Name -> the base class."""


def sidecar(cache: Path) -> Path:
    """The file that says what a calibration cache belongs to."""
    return cache.with_name(cache.name + ".json")


def read_cache(cache: Path, identity: str, algorithm: str, version: str) -> Optional[bytes]:
    """A calibration cache that was measured for exactly this: None where there is none.

    Args:
        cache: TensorRT's text; `sidecar` of it must say the same identity.
        identity: SHA-256 of model, data and preprocessing.
        algorithm: One of `ALGORITHMS`.
        version: Of TensorRT.

    Raises:
        IncompatibleError: It belongs to another model, data set, algorithm or TensorRT; names which.
        DamagedError: It is not what its sidecar says.
    """
    if not cache.exists():
        return None
    other = "give another file, or remove this one"
    if not sidecar(cache).exists():
        raise IncompatibleError(f"{cache}: nothing says which model it was measured on ({sidecar(cache).name})", other)
    about = jsonfile.read(sidecar(cache), SCHEMA)
    for name, wanted in (("identity", identity), ("algorithm", algorithm), ("tensorrt", version)):
        if about.get(name) != wanted:
            what = "another model, data set or preprocessing" if name == "identity" else f"{name} {about.get(name)}"
            raise IncompatibleError(f"{cache}: calibrated for {what}", other)
    content = cache.read_bytes()
    if jsonfile.sha256(cache) != about.get("sha256"):
        raise DamagedError(f"{cache}: it changed since it was written", other)
    return content


def write_cache(cache: Path, content: bytes, identity: str, algorithm: str, version: str) -> None:
    """Write a calibration cache and its sidecar, each atomically, the sidecar last."""
    cache.parent.mkdir(parents=True, exist_ok=True)
    sidecar(cache).unlink(missing_ok=True)
    with jsonfile.replacing_file(cache) as part:
        part.write_bytes(content)
    about = {"identity": identity, "algorithm": algorithm, "tensorrt": version, "sha256": jsonfile.sha256(cache)}
    jsonfile.write(sidecar(cache), {"schema": SCHEMA, **about})


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
        feeds: By input name, all images first, of the network's types.
        batch: Images fed at a time; what does not fill the last batch is left out.
        algorithm: One of `ALGORITHMS`.
        cached: Content of a calibration cache, which makes feeding needless.

    Raises:
        BuildError: Fewer images than one batch.
    """
    count = min(len(array) for array in feeds.values()) // batch
    if count < 1:
        raise BuildError(f"the calibrator needs {batch} images at least", "more --samples, or a smaller batch")

    class Calibrator(getattr(trt, ALGORITHMS[algorithm])):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.failed: Optional[BaseException] = None
            self.fed = 0
            self.written = b""
            self._stream = gpu.stream()
            self._host = {n: gpu.host((batch, *a.shape[1:]), a.dtype) for n, a in feeds.items()}
            self._device = {n: gpu.allocate(host.array.nbytes) for n, host in self._host.items()}

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

        def _next(self, names: Any) -> Any:
            unknown = [name for name in names if name not in feeds]
            if unknown:
                raise BuildError(f"no calibration images for the input {', '.join(unknown)}")
            if self.fed == count:
                return None
            with gpu.current():
                for name in names:  # TensorRT copies exactly len(names) addresses
                    start = self.fed * batch
                    np.copyto(self._host[name].array, feeds[name][start : start + batch])
                    gpu.to_device(self._device[name].address, self._host[name].array, self._stream)
                self._stream.synchronize()
            self.fed += 1
            return [self._device[name].address for name in names]

        def read_calibration_cache(self, *rest: Any) -> Any:
            return cached  # this module's frame keeps it alive

        def write_calibration_cache(self, cache: Any, *rest: Any) -> None:
            self._keep(lambda: setattr(self, "written", bytes(cache)))  # the memory is TensorRT's: copied here

        def finish(self, built: bool) -> None:
            """Free the buffers; raise what a callback raised, or that fewer batches were fed than there are.

            Raises:
                BuildError: Calibration ended early.
            """
            for thing in [*self._device.values(), *self._host.values(), self._stream]:
                thing.free()
            if self.failed is not None:
                raise self.failed
            if built and cached is None and self.fed != count:
                raise BuildError(f"TensorRT calibrated on {self.fed} of {count} batches", "build again with --force")

    return Calibrator()
