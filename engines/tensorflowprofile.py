"""Where the time of a TensorFlow function goes, by TensorFlow's own profiler: the operations of its optimised graph.

The profiler's trace is read here, since TensorBoard's plugin, which would, is no part of TensorFlow.
"""

from __future__ import annotations

import bisect
from pathlib import Path
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import numpy as np

from engines import scratch
from engines.errors import IncompatibleError, OptimizeError
from engines.spec import Query
from engines.tensors import PRECISIONS

_QUERY = "optimize query "
"""How the mark of a query begins in the trace."""

_CALLS = {"PartitionedCall", "StatefulPartitionedCall", "While", "StatelessWhile", "If", "StatelessIf", "Case"}
"""Operations that run others, which are in the trace themselves."""

_OPERATIONS = 2
"""From this level on, TensorFlow's tracer of the host tells operations (tensorflow/core/profiler, TraceMeLevel)."""


def layers(query: Query, function: Any, queries: int, device: str) -> List[Dict[str, Any]]:
    """Time each operation of a function.

    Args:
        query: Runs the function and waits for its results.
        function: The concrete function, which knows the types.
        queries: How many are timed, after one that is not.
        device: cpu, or gpu: the time is then that of an operation's kernels there, not of their launch.

    Returns:
        As `engines.spec.Runner.profile`. Operations that do not need each other may run at the same time; what XLA has
        compiled is one operation.

    Raises:
        IncompatibleError: The trace tells no operation.
    """
    import tensorflow as tf

    profiler = tf.profiler.experimental
    options = profiler.ProfilerOptions(host_tracer_level=_OPERATIONS, python_tracer_level=0, device_tracer_level=1)
    query()
    with scratch.folder() as folder:
        profiler.start(str(folder), options)
        try:
            for number in range(queries):
                with profiler.Trace(f"{_QUERY}{number}"):
                    query()
        finally:
            profiler.stop()
        traces = sorted(Path(folder).rglob("*.xplane.pb"))
        if not traces:
            raise OptimizeError(f"TensorFlow {tf.__version__} has written no trace")
        space = _space()
        space.ParseFromString(traces[0].read_bytes())
    found = summary(space, types(tf, function.graph.as_graph_def()), queries, device)
    if not found:
        why = ": CUPTI is missing, or not allowed to this user" if device == "gpu" else ""
        raise IncompatibleError(f"TensorFlow {tf.__version__} has traced no operation on the {device}{why}")
    return found


def _space() -> Any:
    """An empty trace; its format has moved within TensorFlow."""
    try:
        from tensorflow.tsl.profiler.protobuf import xplane_pb2
    except ImportError:  # TensorFlow 2.11 and older
        from tensorflow.core.profiler.protobuf import xplane_pb2
    return xplane_pb2.XSpace()


def types(tf: Any, graph: Any) -> Dict[str, str]:
    """Type of the tensors of each node, by its name; those of the functions that a graph calls too."""
    nodes = [*graph.node, *(node for function in graph.library.function for node in function.node_def)]
    found = {}
    for node in nodes:
        attribute = next((node.attr[name] for name in ("T", "dtype", "DstT") if name in node.attr), None)
        if attribute is not None and attribute.type:
            found[node.name] = str(tf.dtypes.as_dtype(attribute.type).name)
    return found


def summary(space: Any, dtypes: Mapping[str, str], queries: int, device: str) -> List[Dict[str, Any]]:
    """The layers in a trace: medians over the queries, in the order in which they first begin.

    Args:
        space: `XSpace` of TensorFlow's profiler.
        dtypes: Type of the tensors of each operation.
        queries: How many are marked in it.
        device: cpu or gpu.
    """
    host = [plane for plane in space.planes if plane.name == "/host:CPU"]
    marks = {name: start for plane in host for name, _, start, _ in _events(plane) if name.startswith(_QUERY)}
    starts = [marks[f"{_QUERY}{number}"] for number in range(queries)]
    planes = [plane for plane in space.planes if plane.name.startswith("/device:GPU")] if device == "gpu" else host
    operations = [event for plane in planes for event in _operations(plane, device)]
    times: Dict[Tuple[str, str], List[float]] = {}
    for name, kind, start, ps in sorted(operations, key=lambda one: one[2]):
        query = bisect.bisect_right(starts, start) - 1
        if query >= 0 and kind not in _CALLS:
            times.setdefault((name, kind), [0.0] * queries)[query] += ps / 1e9
    return [
        {"name": name, "type": kind, "precision": _precision(name, dtypes), "ms": float(np.median(ms))}
        for (name, kind), ms in times.items()
    ]


def _events(plane: Any) -> Iterator[Tuple[str, Any, int, Any]]:
    """Name, metadata, start in ps and the event itself."""
    for line in plane.lines:
        for event in line.events:
            about = plane.event_metadata[event.metadata_id]
            yield about.name, about, 1000 * line.timestamp_ns + event.offset_ps, event


def _operations(plane: Any, device: str) -> Iterator[Tuple[str, str, int, int]]:
    """Name and type of an operation, start and duration in ps; a kernel on the GPU carries its operation's name."""
    for name, about, start, event in _events(plane):
        if device == "gpu":
            name = next((_text(plane, one) for one in event.stats if _stat(plane, one) == "tf_op"), "")
        elif not about.display_name:
            continue
        operation, _, kind = name.rpartition(":")
        if operation:
            yield operation, kind, start, event.duration_ps


def _stat(plane: Any, stat: Any) -> str:
    return str(plane.stat_metadata[stat.metadata_id].name)


def _text(plane: Any, stat: Any) -> str:
    return str(stat.str_value or plane.stat_metadata[stat.ref_value].name)


def _precision(name: str, dtypes: Mapping[str, str]) -> str:
    """A function that was put in the place of its call has given its nodes longer names: the last parts are its own."""
    parts = name.split("/")
    known = ("/".join(parts[start:]) for start in range(len(parts)))
    dtype = next((dtypes[one] for one in known if one in dtypes), "")
    return PRECISIONS.get(dtype, "")
