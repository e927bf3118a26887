"""One quantiser at work in a fresh process: `python -I quantise.py JOB.json`, in the quantiser's own environment.

Only the standard library, NumPy and the tool itself are imported, so that neither time nor memory of anything else is
counted. Time runs from the FP32 file to the quantised file; what is imported before is told apart.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.util import find_spec
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

_BATCH = 32
"""Images of a run of ONNX Runtime's calibrators and ModelOpt's. What they keep does not depend on it."""


def _step(count: int) -> int:
    """The largest batch that divides the images: these calibrators want all batches alike."""
    return max(n for n in range(1, min(_BATCH, count) + 1) if count % n == 0)


def _images(job: Dict[str, Any], batch: int) -> Iterator[Any]:
    """Batches of the stored images, read one by one, so that not all of them are in memory."""
    import numpy as np

    for start in range(0, job["samples"], batch):
        # Mapped anew each time: pages that were read leave with the map.
        yield np.array(np.load(job["images"], mmap_mode="r")[start : start + batch])


def _ours(job: Dict[str, Any]) -> Callable[[], str]:
    sys.path[:] = job["path"]
    import onnx
    import onnxruntime

    from calib.calibrate import calibrate

    assert onnx and onnxruntime
    out = os.path.join(job["out"], "model.onnx")

    def work() -> str:
        job["found"] = calibrate(onnx=job["onnx"], out=out, **job["arguments"])
        return out

    return work


def _onnxruntime(job: Dict[str, Any]) -> Callable[[], str]:
    from onnxruntime import quantization as q
    from onnxruntime.quantization.shape_inference import quant_pre_process

    options = job["options"]
    out, clean = (os.path.join(job["out"], name) for name in ("model.onnx", "clean.onnx"))
    batches = _images(job, _step(job["samples"]))

    class Reader(q.CalibrationDataReader):  # type: ignore[misc]
        def get_next(self) -> Optional[Dict[str, Any]]:
            """The next batch, None after the last."""
            batch = next(batches, None)
            return None if batch is None else {job["input"]: batch}

    symmetric = options["activation"] == "QInt8"
    extra: Dict[str, Any] = {"ActivationSymmetric": symmetric, "WeightSymmetric": True}
    if symmetric:
        extra["QuantizeBias"] = False  # OpenVINO refuses int8 x int8 with a quantised bias
    if "percentile" in options:
        extra["CalibPercentile"] = options["percentile"]

    def work() -> str:
        quant_pre_process(job["onnx"], clean, skip_symbolic_shape=find_spec("sympy") is None)
        q.quantize_static(
            clean,
            out,
            Reader(),
            quant_format=q.QuantFormat.QDQ,
            op_types_to_quantize=options["operators"],
            per_channel=True,
            reduce_range=options["reduce_range"],
            activation_type=q.QuantType[options["activation"]],
            weight_type=q.QuantType.QInt8,
            calibrate_method=q.CalibrationMethod[options["method"]],
            extra_options=extra,
        )
        os.unlink(clean)
        return out

    return work


def _nncf(job: Dict[str, Any]) -> Callable[[], str]:
    import nncf
    import openvino as ov

    out = os.path.join(job["out"], "model.xml")

    def work() -> str:
        model = ov.Core().read_model(job["onnx"])
        dataset = nncf.Dataset(list(_indices(job)), lambda index: _image(job, index))
        preset = nncf.QuantizationPreset[job["options"]["preset"]]
        quantised = nncf.quantize(model, dataset, preset=preset, subset_size=job["samples"])
        ov.save_model(quantised, out, compress_to_fp16=False)
        return out

    return work


def _modelopt(job: Dict[str, Any]) -> Callable[[], str]:
    import numpy as np
    from modelopt.onnx.quantization import quantize

    out = os.path.join(job["out"], "model.onnx")

    def work() -> str:
        images = np.load(job["images"])
        step = "x".join(str(size) for size in (_step(len(images)), *images.shape[1:]))
        quantize(
            job["onnx"],
            quantize_mode="int8",
            calibration_data={job["input"]: images},
            calibration_shapes=f"{job['input']}:{step}",
            calibration_method=job["options"]["method"],
            calibration_eps=["cpu"],
            high_precision_dtype="fp32",
            output_path=out,
        )
        return out

    return work


def _indices(job: Dict[str, Any]) -> range:
    return range(int(job["samples"]))


def _image(job: Dict[str, Any], index: int) -> Any:
    import numpy as np

    return np.array(np.load(job["images"], mmap_mode="r")[index : index + 1])


TOOLS: Dict[str, Tuple[Callable[[Dict[str, Any]], Callable[[], str]], List[str]]] = {
    "ours": (_ours, ["numpy", "onnx", "onnxruntime", "openvino"]),
    "onnxruntime": (_onnxruntime, ["numpy", "onnx", "onnxruntime"]),
    "nncf": (_nncf, ["numpy", "openvino", "nncf"]),
    "modelopt": (_modelopt, ["numpy", "onnx", "onnxruntime", "torch", "nvidia-modelopt"]),
}
"""What imports a tool and returns its work, and the packages that are recorded."""


def memory(field: str) -> int:
    """`VmHWM` (the most so far) or `VmRSS` (now) of this process, bytes.

    Not `ru_maxrss` on Linux: that of a child begins with the size of the process that started it.
    """
    try:
        with open("/proc/self/status", encoding="ascii") as handle:
            return next(1024 * int(line.split()[1]) for line in handle if line.startswith(field))
    except (OSError, StopIteration):
        import resource

        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # macOS: bytes, and the most so far


def limit_memory(most: int) -> None:
    """Let allocations fail beyond so many bytes of data, before the system ends this or another process (Linux).

    Some calibrators keep every activation of every image.
    """
    if sys.platform == "linux":
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (most, most))


def _versions(names: List[str]) -> Dict[str, str]:
    from importlib import metadata

    found = {}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def run(job: Dict[str, Any]) -> Dict[str, Any]:
    """Do a job.

    Returns:
        `file`, `seconds` (wall) and `cpu_seconds` (all threads) of the work, `import_seconds` before it,
        `start_bytes` (resident before the work), `peak_bytes` (the most resident at any time), `versions`, `found`
        (what our own calibration says of itself).
    """
    begun = time.perf_counter()
    prepare, packages = TOOLS[job["tool"]]
    work = prepare(job)
    imported, cpu = time.perf_counter(), time.process_time()
    start = memory("VmRSS")
    file = work()
    seconds, cpu = time.perf_counter() - imported, time.process_time() - cpu
    return {
        "file": file,
        "seconds": seconds,
        "cpu_seconds": cpu,
        "import_seconds": imported - begun,
        "start_bytes": start,
        "peak_bytes": memory("VmHWM"),
        "versions": _versions(packages),
        "found": job.get("found"),
    }


def main() -> int:
    """Read the job, write its `result` file: what `run` returns, or `{"error"}` in one line."""
    with open(sys.argv[1], encoding="utf-8") as handle:
        job = json.load(handle)
    try:
        limit_memory(job["most_bytes"])
        result = run(job)
    except MemoryError:
        result = {"error": f"more than {job['most_bytes'] / 1e9:.0f} GB of memory would be needed"}
    except Exception as error:  # the boundary: whatever a tool raises becomes a row with the reason
        import traceback

        traceback.print_exc()
        result = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:400]}"}
    with open(job["result"], "w", encoding="utf-8") as handle:
        json.dump(result, handle)
    return 0


if __name__ == "__main__":
    sys.exit(main())
