"""ONNX Runtime on a CPU: the bundle is an ONNX file, optimised when it is loaded; queries run through one IOBinding."""

from __future__ import annotations

import bisect
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any, Dict, List, Optional, Sequence, Tuple, Union

import numpy as np

from engines import onnxfile, scratch
from engines.backend import hint
from engines.backend import unavailable as _unavailable
from engines.device import backend_version
from engines.errors import BuildError, ModelError
from engines.spec import Feeds, LayerTimes, Progress, Query, Runner, RunnerSpec, TensorSpec, quiet
from engines.tensors import checked, layout

NAME = "onnxruntime"
HINT = hint(NAME)

_UNASKED = ["WeightBiasQuantization"]
"""It would quantise the weights of layers that were left in float, with one scale for all channels."""

_PROVIDERS = ["CPUExecutionProvider"]

_EVENTS, _COLD = 50_000, 3
"""Nodes that one session runs while it is profiled, since its trace is read as a whole, and queries of it before."""

_DTYPES: Dict[str, str] = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int8)": "int8",
    "tensor(uint16)": "uint16",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(bool)": "bool",
}

_NO_COMPUTE = {
    "QuantizeLinear",
    "DequantizeLinear",
    "Cast",
    "Constant",
    "ConstantOfShape",
    "Identity",
    "Reshape",
    "Flatten",
    "Transpose",
    "Squeeze",
    "Unsqueeze",
    "Shape",
    "Gather",
    "Concat",
    "Slice",
    "Split",
    "Pad",
    "Expand",
    "ReorderInput",
    "ReorderOutput",
}
"""Operators that move or convert data; all others compute, and their precision counts."""

_KERNEL = "_kernel_time"
"""What follows the name of a node in the profile, in the event of its computation."""

_INT8 = {"MatMulInteger", "ConvInteger", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention", "QGemm"}
_INT8_TO_FLOAT = {"DequantizeLinear", "DynamicQuantizeMatMul", "MatMulIntegerToFloat", "QAttention"}


def unavailable() -> str:
    """See `engines.backend.unavailable`."""
    return _unavailable(NAME)


def build(
    onnx: Path,
    out: Path,
    precision: str,
    batches: Sequence[int],
    options: Optional[Dict[str, Any]] = None,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Write `model.onnx`, after it has been loaded and optimised once; see `engines.backend.Backend.build`.

    The CPU kernels have no fast 16-bit float: fp16 stores weights as float16 and computes in float32, and is flagged.
    """
    import onnx as onnx_package

    given = dict(options or {})
    progress("reading the graph", 0, 0)
    graph = onnxfile.load(onnx)
    onnxfile.check_precision(onnx, graph, precision)
    onnxfile.check_batches(onnx, graph, batches)
    target = out / "model.onnx"
    if precision == "fp16":
        onnxfile.halve_weights(graph)
    if precision == "fp16" or onnxfile.is_external(onnx):
        onnx_package.save(graph, str(target))  # external data moves into the file
    else:
        shutil.copyfile(onnx, target)  # the very bytes that were checked
    threads = int(given.get("threads", 0))
    progress("optimising the graph", 0, 0)
    try:
        try:
            layers = _layers(str(target), threads)
        except Exception as error:  # its exceptions have no common class of their own
            graph.ir_version = _known_ir(error)
            onnx_package.save(graph, str(target))
            layers = _layers(str(target), threads)
    except Exception as error:
        raise onnxfile.refusal(onnx, f"ONNX Runtime {backend_version(NAME)}", graph, error) from None
    recorded: Dict[str, Any] = {"provider": "cpu", "graph_optimization": "all", "spinning": True}
    if threads:
        recorded["threads"] = threads
    return {
        "files": ["model.onnx"],
        "options": recorded,
        "achieved": onnxfile.counts(layers),
        "layers": layers,
        "flags": ["no-fast-fp16"] if precision == "fp16" else [],
    }


def load(spec: RunnerSpec) -> Runner:
    """Load an ONNX file.

    Raises:
        ModelError: Not a whole ONNX file, or it holds an operator that ONNX Runtime lacks.
        FileNotFoundError: No such file.
    """
    threads = spec.threads or int(spec.options.get("threads", 0))
    return _ONNXRuntimeRunner(spec, _session(Path(spec.path), threads), threads)


def _settings(threads: int, trace: str = "") -> Any:
    """Default session options: all graph optimisations, spinning threads, one query at a time.

    `trace`: how the names of two files begin: the optimised graph, and the time of each of its nodes.
    """
    import onnxruntime

    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4
    settings.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_ALL
    settings.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    if threads:
        settings.intra_op_num_threads = threads
    if trace:
        settings.enable_profiling, settings.profile_file_prefix = True, trace
        settings.optimized_model_filepath = f"{trace}.onnx"
    return settings


def _start(model: Union[str, bytes], settings: Any) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(model, settings, providers=_PROVIDERS, disabled_optimizers=_UNASKED)


def _known_ir(error: Exception) -> int:
    """The newest IR version that the runtime knows, where that was its complaint; else the complaint goes on.

    A lower IR version changes how a file is read, not what its graph computes.
    """
    found = re.search(r"max supported IR version: (\d+)", str(error))
    if not found:
        raise error
    return int(found.group(1))


def _session(path: Path, threads: int, trace: str = "") -> Any:
    with open(path, "rb"):
        pass
    try:
        try:
            return _start(str(path), _settings(threads, trace))
        except Exception as error:  # its exceptions have no common class of their own
            newest = _known_ir(error)
        graph = onnxfile.load(path)
        graph.ir_version = newest
        return _start(graph.SerializeToString(), _settings(threads, trace))
    except Exception as error:
        refused = onnxfile.refusal(path, f"ONNX Runtime {backend_version(NAME)}", onnxfile.load(path), error)
        raise ModelError(refused.message, refused.hint) from None


def _layers(model: Union[str, bytes], threads: int) -> List[Dict[str, Any]]:
    """The computing nodes of the graph as the runtime has optimised it for this CPU, in order, with their precision."""
    import onnx

    with scratch.folder() as folder:
        settings = _settings(threads)
        settings.optimized_model_filepath = str(Path(folder, "optimized.onnx"))
        _start(model, settings)
        return precisions(onnx.load(settings.optimized_model_filepath))


def precisions(graph: Any) -> List[Dict[str, Any]]:
    """`name`, `type` and `precision` of the computing nodes of an optimised graph, followed from tensor to tensor.

    `names` are the tensors that a node makes: the runtime renames nodes, and leaves tensors their names.
    """
    from onnx import TensorProto

    kinds = {TensorProto.FLOAT16: "f16", TensorProto.DOUBLE: "f64", TensorProto.INT8: "int8", TensorProto.UINT8: "int8"}
    of = {t.name: kinds.get(t.data_type, "f32") for t in graph.graph.initializer}
    of.update({v.name: kinds.get(v.type.tensor_type.elem_type, "f32") for v in graph.graph.input})
    found = []
    for node in graph.graph.node:
        kind = node.op_type
        if kind.startswith("QLinear") or kind in _INT8:
            runs = "int8"
        else:
            runs = next((of[name] for name in node.input if name in of), "f32")
        gives = "int8" if kind == "QuantizeLinear" else "f32" if kind in _INT8_TO_FLOAT else runs
        if kind == "QGemm" and len(node.input) < 9:  # without the zero point of its output, it gives floats
            gives = "f32"
        if kind == "Cast":
            to = next(attribute.i for attribute in node.attribute if attribute.name == "to")
            gives = kinds.get(to, "f32")
        of.update(dict.fromkeys(node.output, gives))
        if kind not in _NO_COMPUTE:
            name = node.name or node.output[0]
            found.append({"name": name, "type": kind, "precision": runs, "names": list(node.output)})
    return found


def _tensor(value: Any) -> TensorSpec:
    shape = tuple(size if isinstance(size, int) and size >= 0 else None for size in value.shape)
    if value.type not in _DTYPES:
        raise ModelError(
            f"{value.name}: a {value.type} cannot be fed or fetched", "export the model with plain tensors"
        )
    return TensorSpec(value.name, shape, _DTYPES[value.type])


class _ONNXRuntimeRunner(Runner):
    """One session for all batches."""

    device = "cpu"

    def __init__(self, spec: RunnerSpec, session: Any, threads: int) -> None:
        self._session, self._threads = session, threads
        self.inputs = tuple(_tensor(value) for value in session.get_inputs())
        self.outputs = tuple(_tensor(value) for value in session.get_outputs())
        self.spec = spec.with_(
            inputs=self.inputs,
            outputs=self.outputs,
            layout=spec.layout or (layout(self.inputs[0].shape, "NCHW") if self.inputs else ""),
        )

    def bind(self, feeds: Feeds) -> Query:
        """See `Runner.bind`: an IOBinding on the host arrays, made once; outputs are preset where their size is known.

        An output's size is known where only its batch is free. Others are read after each query.
        """
        import onnxruntime

        arrays = checked(self.inputs, feeds)
        binding = self._session.io_binding()
        for tensor, array in zip(self.inputs, arrays):
            binding.bind_input(tensor.name, "cpu", 0, array.dtype.type, array.shape, array.ctypes.data)
        names = [tensor.name for tensor in self.outputs]
        for name in names:
            binding.bind_output(name, "cpu")
        settings = onnxruntime.RunOptions()
        settings.log_severity_level = 4
        run = self._session.run_with_iobinding
        self._run(run, binding, settings)
        first: Dict[str, np.ndarray[Any, Any]] = dict(zip(names, binding.copy_outputs_to_cpu()))
        batch = arrays[0].shape[0] if arrays and arrays[0].ndim else 1
        preset = all(
            first[t.name].shape[:1] == (batch,) and None not in t.shape[1:] and t.dtype != "bool" for t in self.outputs
        )
        if not preset:

            def query_free(_borrowed: Any = arrays) -> Dict[str, np.ndarray[Any, Any]]:
                binding.clear_binding_outputs()  # else the sizes of the query before are expected again
                for name in names:
                    binding.bind_output(name, "cpu")
                run(binding, settings)
                return dict(zip(names, binding.copy_outputs_to_cpu()))

            return query_free
        results = {name: np.empty_like(value, order="C") for name, value in first.items()}
        binding.clear_binding_outputs()
        for name, value in results.items():
            binding.bind_output(name, "cpu", 0, value.dtype.type, value.shape, value.ctypes.data)

        def query(_borrowed: Any = arrays) -> Dict[str, np.ndarray[Any, Any]]:
            run(binding, settings)
            return results

        return query

    def _run(self, run: Any, binding: Any, settings: Any) -> None:
        try:
            run(binding, settings)
        except Exception as error:  # its exceptions have no common class of their own
            raise BuildError(f"{self.spec.path}: does not run: {onnxfile.first_line(error)}") from None

    def layer_times(self, feeds: Feeds, queries: int) -> LayerTimes:
        """See `Runner.layer_times`: ONNX Runtime's own profile, of sessions of their own."""
        import onnx

        checked(self.inputs, feeds)
        nodes = len(onnx.load(self.spec.path, load_external_data=False).graph.node)
        most = max(_EVENTS // max(nodes, 1), 1)
        wall: List[float] = []
        times: Dict[Tuple[str, str, str], np.ndarray[Any, Any]] = {}
        known: Dict[str, str] = {}
        while len(wall) < queries:
            count = min(most, queries - len(wall))
            with scratch.folder() as folder:
                trace = str(Path(folder, "trace"))
                session = _session(Path(self.spec.path), self._threads, trace)
                for number in range(_COLD + count):
                    start = time.perf_counter_ns()
                    session.run(None, dict(feeds))
                    if number >= _COLD:
                        wall.append((time.perf_counter_ns() - start) / 1e6)
                events = json.loads(Path(session.end_profiling()).read_text(encoding="utf-8"))
                known = known or {one["name"]: one["precision"] for one in precisions(onnx.load(f"{trace}.onnx"))}
            begun = sorted(one["ts"] for one in events if one.get("name") == "model_run")[_COLD:]
            for one in events:
                number = bisect.bisect_right(begun, one["ts"]) - 1
                if number >= 0 and one.get("cat") == "Node" and one["name"].endswith(_KERNEL):
                    name = one["name"][: -len(_KERNEL)]
                    key = name, one["args"]["op_name"], str(one["args"].get("node_index"))  # names need not be unique
                    column = times.setdefault(key, np.zeros(queries))
                    column[len(wall) - count + number] += one["dur"] / 1e3
        layers = [{"name": name, "type": kind, "precision": known.get(name, "")} for name, kind, _ in times]
        return LayerTimes(layers, np.array(list(times.values())).reshape(-1, queries).T, np.array(wall))

    def achieved(self) -> Dict[str, int]:
        """Computing nodes by precision, in the graph as it was optimised for this CPU."""
        return onnxfile.counts(_layers(self.spec.path, self._threads))

    def close(self) -> None:
        """See `Runner.close`."""
        self._session = None
