"""OpenVINO on a CPU: builds `model.xml` + `model.bin` from ONNX, and runs them as benchmark_app does.

Precision is never left to the plugin: on a CPU with bfloat16 units it would run a plain FP32 graph in bfloat16.
"""

from __future__ import annotations

from collections import OrderedDict
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

import numpy as np

from engines import fakequantize, irfile, onnxfile
from engines.backend import hint
from engines.backend import unavailable as _unavailable
from engines.device import backend_version, cpu_features
from engines.errors import BuildError, ModelError, OptimizeError, UsageError
from engines.spec import Feeds, LayerTimes, Progress, Query, Runner, RunnerSpec, TensorSpec, quiet
from engines.tensors import checked, layout, text

NAME = "openvino"
HINT = hint(NAME)

_FAST_16: Tuple[Tuple[str, str], ...] = (
    ("amx_bf16", "bf16"),
    ("avx512_bf16", "bf16"),
    ("amx_fp16", "f16"),
    ("avx512_fp16", "f16"),
    ("asimdhp", "f16"),
)
"""CPU feature -> the 16-bit float it multiplies faster than float32, the faster first. The plugin's own capability
list is no proof: it names BF16 where it is only emulated."""

_CAPABILITY = {"bf16": "BF16", "f16": "FP16"}

_PRECISIONS = {"u8": "int8", "i8": "int8"}

_NO_COMPUTE = {
    "Input",
    "Output",
    "Const",
    "Constant",
    "Reorder",
    "Reshape",
    "Transpose",
    "Convert",
    "ShapeOf",
    "Concatenation",
    "Concat",
    "Split",
    "StridedSlice",
    "Slice",
    "Gather",
    "Pad",
    "Tile",
    "Broadcast",
    "Unsqueeze",
    "Squeeze",
    "FakeQuantize",
    "Quantize",
    "Dequantize",
    "MemoryInput",
    "MemoryOutput",
}
"""Execution-graph layers that move or convert data. All others (Convolution, FullyConnected, MatMul, Eltwise, Pooling,
Reduce, Subgraph, ...) compute, and their precision counts."""

_WHOLE = {"i32", "i64", "boolean", "dynamic", "undefined"}

_RECORDED = ("streams", "inference_threads")

_COMPILED_KEPT = 4
"""Compiled shapes kept by a runner: each holds a packed copy of the weights."""

_COLD = 3
"""Queries of a compiled model before its layers are timed: the first makes kernels."""


def unavailable() -> str:
    """See `engines.backend.unavailable`."""
    return _unavailable(NAME)


def fast_16bit(capabilities: Sequence[str], features: Sequence[str]) -> str:
    """The 16-bit float that is fast here: bf16, f16 or '' where there is none.

    Args:
        capabilities: OPTIMIZATION_CAPABILITIES of the CPU plugin.
        features: Of `engines.device.cpu_features`.
    """
    for feature, precision in _FAST_16:
        if feature in features and _CAPABILITY[precision] in capabilities:
            return precision
    return ""


def build(
    onnx: Path,
    out: Path,
    precision: str,
    batches: Sequence[int],
    options: Optional[Dict[str, Any]] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Turn an ONNX graph into `model.xml` and `model.bin`; see `engines.backend.Backend.build`.

    Every batch is compiled once, so that an engine that is written also loads. Weights of fp16 are stored as float16.
    `options["inference_precision"]` overrides what the precision means on this CPU.

    Raises:
        OSError: The disk did not take the files; see `engines.irfile.save`.
    """
    import openvino as ov

    given = dict(options or {})
    progress("reading the graph", 0, 0)
    graph = onnxfile.load(onnx)
    onnxfile.check_precision(onnx, graph, precision)
    onnxfile.check_batches(onnx, graph, batches)
    core = ov.Core()
    fast = fast_16bit(core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"), cpu_features())
    wanted = given.get("inference_precision") or ("f32" if precision == "fp32" else fast or "f32")
    flags = ["no-fast-fp16"] if precision == "fp16" and not fast else []
    threads = int(given.get("threads", 0))
    try:
        model = core.read_model(str(onnx))
        _name_ports(model, graph)
        fakequantize.fuse(model)
        for done, batch in enumerate(batches):
            progress(f"compiling batch {batch}", done, len(batches))
            shapes = [(batch, *_rest(port)) for port in model.inputs]
            compiled = _compile(core, model, shapes, wanted, threads)
            if done == 0:
                layers = _layers(compiled)
                reported = _reported(compiled)
            del compiled
    except RuntimeError as error:
        raise onnxfile.refusal(onnx, f"OpenVINO {backend_version(NAME)}", graph, error) from None
    if reported["inference_precision"] != wanted:
        flags.append(f"inference-precision-{reported['inference_precision']}")
    progress("writing the engine", len(batches), len(batches))
    # Scales of a quantized graph would lose digits as float16; its int8 weights are small already.
    irfile.save(model, out, precision == "fp16", onnx.stat().st_size)
    recorded = {"inference_precision": wanted, "hint": "latency", **{k: reported[k] for k in _RECORDED}}
    if threads:
        recorded["threads"] = threads
    return {
        "files": list(irfile.FILES),
        "options": recorded,
        "achieved": onnxfile.counts(layers),
        "layers": layers,
        "flags": flags,
    }


def load(spec: RunnerSpec) -> Runner:
    """Load `model.xml` or an ONNX file; float32 unless `spec.options["inference_precision"]` says otherwise.

    Raises:
        ModelError: Not a whole file, or it holds an operator that OpenVINO lacks.
        FileNotFoundError: No such file.
    """
    import openvino as ov

    path = Path(spec.path)
    with open(path, "rb"):
        pass
    if path.suffix == ".onnx":
        onnxfile.load(path)  # the frontends of OpenVINO write to the terminal about a file that none of them reads
    core = ov.Core()
    try:
        model = core.read_model(str(path))
    except RuntimeError as error:
        raise _unreadable(path, error) from None
    if path.suffix == ".onnx":
        fakequantize.fuse(model)
    return _OpenVINORunner(spec, core, model)


def _unreadable(path: Path, error: Exception) -> OptimizeError:
    if path.suffix == ".onnx":
        graph = onnxfile.load(path)
        refused = onnxfile.refusal(path, f"OpenVINO {backend_version(NAME)}", graph, error)
        return ModelError(refused.message, refused.hint)
    return ModelError(f"{path}: not a whole OpenVINO model ({onnxfile.first_line(error)})", "build it again")


def _name_ports(model: Any, graph: Any) -> None:
    """Leave each input and output only the name that ONNX gives it, where a tensor has gathered several."""
    names = [value.name for value in graph.graph.output]
    taken = {name for port in model.inputs for name in port.get_names()}
    for port, name in zip(model.outputs, names):
        if name in port.get_names() and name not in taken and len(set(names) & port.get_names()) == 1:
            port.get_tensor().set_names({name})


def _rest(port: Any) -> Tuple[int, ...]:
    """A port's sizes after the batch, -1 where free."""
    return tuple(-1 if dim.is_dynamic else dim.get_length() for dim in list(port.partial_shape)[1:])


def _compile(
    core: Any,
    model: Any,
    shapes: Sequence[Tuple[int, ...]],
    precision: str,
    threads: int,
    timed: bool = False,
    streams: int = 1,
) -> Any:
    """Compile a copy of the model (it shares the weights) for exact input shapes: faster than free ones.

    `timed`: its requests tell the time of each layer. `streams`: requests that run at the same time, each on its share
    of the threads.
    """
    import openvino as ov

    copy = model.clone()
    copy.reshape({port: ov.PartialShape(list(shape)) for port, shape in zip(copy.inputs, shapes)})
    settings: Dict[str, Any] = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": precision}
    if threads:
        settings["INFERENCE_NUM_THREADS"] = threads
    if timed:
        settings["PERF_COUNT"] = True
    if streams > 1:
        settings["NUM_STREAMS"] = streams
    return core.compile_model(copy, "CPU", settings)


def _reported(compiled: Any) -> Dict[str, Any]:
    """What the compiled model itself says it runs with."""
    return {
        "inference_precision": str(compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()),
        "streams": int(compiled.get_property("NUM_STREAMS")),
        "inference_threads": int(compiled.get_property("INFERENCE_NUM_THREADS")),
    }


def _layers(compiled: Any) -> List[Dict[str, Any]]:
    """The computing layers of the execution graph, in order, with the precision that each runs in.

    `names` are those of the layers that were fused into one.
    """
    return [
        {**about, "names": fused}
        for about, fused in _nodes(compiled)
        if about["type"] not in _NO_COMPUTE and about["precision"] not in _WHOLE
    ]


def _nodes(compiled: Any) -> Iterator[Tuple[Dict[str, Any], List[str]]]:
    """Every node of the execution graph (`name`, `type`, `precision`), in order, and what was fused into it."""
    for node in compiled.get_runtime_model().get_ordered_ops():
        info = node.get_rt_info()
        words = ("layerType", "runtimePrecision", "originalLayersNames")
        kind, precision, fused = (str(getattr(info[word], "value", info[word])) for word in words)
        about = {"name": node.get_friendly_name(), "type": kind, "precision": _PRECISIONS.get(precision, precision)}
        yield about, fused.split(",")


def _tensor(port: Any, wanted: Optional[str]) -> TensorSpec:
    names = port.get_names()
    name = wanted if wanted in names else min(names, key=lambda one: (len(one), one)) if names else None
    shape = tuple(None if dim.is_dynamic else int(dim.get_length()) for dim in port.partial_shape)
    return TensorSpec(
        name or str(port.get_node().get_friendly_name()), shape, np.dtype(port.element_type.to_dtype()).name
    )


def _request(compiled: Any, arrays: Sequence[np.ndarray[Any, Any]]) -> Any:
    """An infer request that reads these arrays; it only borrows their memory."""
    import openvino as ov

    request = compiled.create_infer_request()
    for index, array in enumerate(arrays):
        request.set_input_tensor(index, ov.Tensor(array, shared_memory=True))
    return request


def _means(request: Any) -> Dict[Tuple[str, str], float]:
    """Mean time of each layer since the model was compiled, in ms, by name and type, in the order they run."""
    found: Dict[Tuple[str, str], float] = {}
    for one in request.get_profiling_info():
        if one.status == one.Status.EXECUTED:
            key = one.node_name, one.node_type
            found[key] = found.get(key, 0.0) + 1e3 * one.real_time.total_seconds()
    return found


class _OpenVINORunner(Runner):
    """Compiles the model for each set of input shapes when it is first bound, and keeps the last few."""

    def __init__(self, spec: RunnerSpec, core: Any, model: Any) -> None:
        self._core, self._model = core, model
        self._precision = str(spec.options.get("inference_precision") or "f32")
        self._threads = spec.threads or int(spec.options.get("threads", 0))
        self._streams = int(spec.options.get("streams", 1))
        self._compiled: OrderedDict[Tuple[Tuple[int, ...], ...], Any] = OrderedDict()
        self.inputs = self._ports(model.inputs, spec.inputs)
        self.outputs = self._ports(model.outputs, spec.outputs)
        self.spec = spec.with_(
            inputs=self.inputs,
            outputs=self.outputs,
            layout=spec.layout or (layout(self.inputs[0].shape, "NCHW") if self.inputs else ""),
        )

    @staticmethod
    def _ports(ports: Sequence[Any], wanted: Sequence[TensorSpec]) -> Tuple[TensorSpec, ...]:
        names: List[Optional[str]] = [w.name for w in wanted] if len(wanted) == len(ports) else [None] * len(ports)
        return tuple(_tensor(port, name) for port, name in zip(ports, names))

    def _for(self, shapes: Tuple[Tuple[int, ...], ...]) -> Any:
        if shapes in self._compiled:
            self._compiled.move_to_end(shapes)
            return self._compiled[shapes]
        compiled = self._made(shapes)
        while len(self._compiled) >= _COMPILED_KEPT:
            self._compiled.popitem(last=False)
        self._compiled[shapes] = compiled
        return compiled

    def _made(self, shapes: Tuple[Tuple[int, ...], ...], timed: bool = False) -> Any:
        tuned = self.spec.options.get("tuned", {}).get(str(shapes[0][0]) if shapes and shapes[0] else "", {})
        threads = self._threads or (int(tuned.get("threads", 0)) if self._streams == 1 else 0)
        try:
            return _compile(self._core, self._model, shapes, self._precision, threads, timed, self._streams)
        except RuntimeError as error:
            if self.spec.path.endswith(".onnx"):
                raise _unreadable(Path(self.spec.path), error) from None
            given = ", ".join(text(shape) for shape in shapes)
            raise BuildError(f"{self.spec.path}: does not compile for {given}: {onnxfile.first_line(error)}") from None

    def bind(self, feeds: Feeds) -> Query:
        """See `Runner.bind`: one infer request, its tensors on the host arrays, set once."""
        import openvino as ov

        arrays = checked(self.inputs, feeds)
        compiled = self._for(tuple(array.shape for array in arrays))
        request = _request(compiled, arrays)
        results: Dict[str, np.ndarray[Any, Any]] = {}
        free: List[Tuple[str, int]] = []
        for index, (port, tensor) in enumerate(zip(compiled.outputs, self.outputs)):
            if port.partial_shape.is_dynamic:
                free.append((tensor.name, index))  # the content decides the size: read after each query
                continue
            results[tensor.name] = np.empty(tuple(port.shape), tensor.dtype)
            request.set_output_tensor(index, ov.Tensor(results[tensor.name], shared_memory=True))
        # Measured: infer() takes 8 µs around the network (7 µs by the private class); start_async and wait 110 µs.
        run = request.infer  # the request only borrows the arrays, so the query keeps them

        def query(_borrowed: Any = arrays) -> Dict[str, np.ndarray[Any, Any]]:
            run(share_outputs=True)
            return results

        def query_free(_borrowed: Any = arrays) -> Dict[str, np.ndarray[Any, Any]]:
            run(share_outputs=True)
            return {**results, **{name: request.get_output_tensor(index).data for name, index in free}}

        return query_free if free else query

    profiled = "mean"

    def layer_times(self, feeds: Feeds, queries: int) -> LayerTimes:
        """See `Runner.layer_times`: OpenVINO counts means over all queries so far (see `profile`)."""
        raise UsageError(
            f"{self.spec.path}: OpenVINO tells means of its layers, and not the times of each query",
            "an engine of ONNX Runtime or TensorRT tells them: optimize build MODEL --backend onnxruntime",
        )

    def profile(self, feeds: Feeds, queries: int = 20) -> List[Dict[str, Any]]:
        """See `Runner.profile`: OpenVINO's performance counts, of a compiled model of its own.

        The CPU plugin's `real_time` is the mean over all executions since the model was compiled, cut to whole µs
        (seen: 979, 653, 490, 392, ... µs where only the first was slow). So two counts are taken, after the first
        queries, which make kernels, and after the last; `ms` is the mean of those between.
        """
        arrays = checked(self.inputs, feeds)
        compiled = self._made(tuple(array.shape for array in arrays), timed=True)
        request = _request(compiled, arrays)
        counts = []
        for count in (_COLD, queries):
            for _ in range(count):
                request.infer(share_outputs=True)
            counts.append(_means(request))
        cold, all_ = counts
        precisions = {about["name"]: about["precision"] for about, _ in _nodes(compiled)}
        return [
            {
                "name": name,
                "type": kind,
                "precision": precisions.get(name, ""),
                "ms": max(((_COLD + queries) * mean - _COLD * cold.get((name, kind), 0.0)) / queries, 0.0),
            }
            for (name, kind), mean in all_.items()
        ]

    def achieved(self) -> Dict[str, int]:
        """Computing layers by precision, in the execution graph of the shapes bound last (else of batch 1)."""
        if not self._compiled:
            shapes = tuple(tuple(1 if n is None else n for n in tensor.shape) for tensor in self.inputs)
            self._for(shapes)
        return onnxfile.counts(_layers(next(reversed(self._compiled.values()))))

    def close(self) -> None:
        """See `Runner.close`."""
        self._compiled.clear()
        self._model = None
