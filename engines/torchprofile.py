"""Where the time of a PyTorch model goes, by torch.profiler: its operators, under the modules that call them."""

from __future__ import annotations

import contextlib
from typing import Any, Callable, Dict, Iterator, List, Sequence, Tuple

import numpy as np

from engines.tensors import PRECISIONS

_QUERY, _MODULE = "optimize query ", "optimize module "
"""How the marks begin that stand between the operators in the profile: a query, and a module's own time."""

_WARMUP = 3
"""Queries before those that are timed: TorchScript looks at two, then compiles."""

_CPP = {"float": "float32", "double": "float64", "c10::half": "float16", "c10::bfloat16": "bfloat16"}
"""Types as C++ names them; a quantised tensor's is `c10::QInt8`."""


def layers(torch: Any, module: Any, inputs: Sequence[Any], queries: int) -> List[Dict[str, Any]]:
    """Time each operator that a module calls, with all that it calls in turn.

    TorchScript does not tell its modules: its operators are numbered in the order they run.

    Args:
        torch: The package.
        module: In evaluation mode.
        inputs: Tensors of one query.
        queries: How many are timed.

    Returns:
        As `engines.spec.Runner.profile`: the name is the module's path.
    """
    profiler = torch.profiler
    with torch.inference_mode(), _marked(torch, module) as run:
        for _ in range(_WARMUP):
            run(*inputs)
        with profiler.profile(activities=[profiler.ProfilerActivity.CPU], record_shapes=True) as done:
            for number in range(queries):
                with profiler.record_function(f"{_QUERY}{number}"):
                    run(*inputs)
    events = [(e.name(), *_times(e), e.start_thread_id(), e.dtypes()) for e in done.profiler.kineto_results.events()]
    return summary(events, queries)


def _times(event: Any) -> Tuple[int, int]:
    """Start and end in nanoseconds; before PyTorch 2.4 the profile tells microseconds."""
    if hasattr(event, "start_ns"):
        return event.start_ns(), event.start_ns() + event.duration_ns()
    return 1000 * event.start_us(), 1000 * (event.start_us() + event.duration_us())


def summary(events: Sequence[Tuple[str, int, int, int, Sequence[str]]], queries: int) -> List[Dict[str, Any]]:
    """The layers in a profile.

    Args:
        events: (name, start and end in ns, thread, C++ types of the arguments) of operators and marks; an event is
            inside another where its time is, on the same thread.
        queries: How many are in it.

    Returns:
        One layer for each operator that no other operator calls: medians over the queries, in the order they run.
    """
    times: Dict[Tuple[str, str, int], Dict[int, float]] = {}
    precisions: Dict[Tuple[str, str, int], str] = {}
    open_: Dict[int, List[Tuple[int, str]]] = {}
    counts: Dict[Tuple[int, str, str], int] = {}
    for name, start, end, thread, dtypes in sorted(events, key=lambda e: (e[1], -e[2])):
        around = open_.setdefault(thread, [])
        while around and around[-1][0] <= start:
            around.pop()
        names = [label for _, label in around]
        around.append((end, name))
        if "::" not in name or any("::" in label for label in names):
            continue
        query = next((int(label[len(_QUERY) :]) for label in names if label.startswith(_QUERY)), None)
        if query is None:
            continue
        path = next((label[len(_MODULE) :] for label in reversed(names) if label.startswith(_MODULE)), "")
        kind = name.split("::")[-1]
        number = counts.get((query, path, kind), 0)
        counts[query, path, kind] = number + 1
        key = (path, kind, number)
        times.setdefault(key, {})[query] = (end - start) / 1e6
        precisions.setdefault(key, _precision(dtypes))
    return [
        {
            "name": (path or kind) + (f"_{number}" if number else ""),
            "type": kind,
            "precision": precisions[path, kind, number],
            "ms": float(np.median([ms.get(query, 0.0) for query in range(queries)])),
        }
        for (path, kind, number), ms in times.items()
    ]


def _precision(dtypes: Sequence[str]) -> str:
    """Of the first tensor among an operator's arguments."""
    names = [_CPP.get(dtype.lower(), dtype.lower().replace("c10::q", "")) for dtype in dtypes]
    return next((PRECISIONS[name] for name in names if name in PRECISIONS), "")


@contextlib.contextmanager
def _marked(torch: Any, module: Any) -> Iterator[Callable[..., Any]]:
    """A call of the module that marks in the profile which of its modules is running."""
    if hasattr(torch.fx, "GraphModule") and isinstance(module, torch.fx.GraphModule):
        yield _interpreted(torch, module)
        return
    if isinstance(module, torch.jit.ScriptModule):
        yield module
        return
    marks: List[Any] = []

    def enter(path: str) -> Callable[..., None]:
        def hook(*_: Any) -> None:
            marks.append(torch.profiler.record_function(_MODULE + path))
            marks[-1].__enter__()

        return hook

    def leave(*_: Any) -> None:
        marks.pop().__exit__(None, None, None)

    handles = []
    for path, one in module.named_modules():
        if path:
            handles += [one.register_forward_pre_hook(enter(path)), one.register_forward_hook(leave)]
    try:
        yield module
    finally:
        for handle in handles:
            handle.remove()


def _interpreted(torch: Any, module: Any) -> Callable[..., Any]:
    """An exported program has lost its modules, but its nodes remember them: run it node by node."""

    # PyTorch is only known when it runs, so its classes are Any here
    class Marking(torch.fx.Interpreter):  # type: ignore[misc]
        def run_node(self, node: Any) -> Any:
            stack = list((node.meta.get("nn_module_stack") or {}).values())
            path = str(stack[-1][0]) if stack else ""
            with torch.profiler.record_function(_MODULE + path):
                return super().run_node(node)

    return Marking(module).run  # type: ignore[no-any-return]
