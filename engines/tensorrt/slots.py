"""One query in flight with trtexec's events: copies in, computation and copies out on a stream each."""

from __future__ import annotations

import time
from typing import Any, List, Optional, Tuple

from engines.cuda import Context, Event, Graph, Stream
from engines.tensorrt.binding import Binding

_EVENTS = ("h2d_start", "h2d_end", "compute_start", "compute_end", "d2h_start", "d2h_end")


class Slot:
    """Six events; buffers and streams are shared with the other slots of the same binding.

    Args:
        gpu: Where.
        binding: Buffers and execution context.
        streams: For input, computation and output.
        transfers: Whether the copies belong to a query.
        graph: The captured computation, launched in its place.
        spin: Wait busily.
    """

    def __init__(
        self,
        gpu: Context,
        binding: Binding,
        streams: Tuple[Stream, Stream, Stream],
        transfers: bool,
        graph: Optional[Graph],
        spin: bool,
    ) -> None:
        self._binding, self._streams = binding, streams
        self._transfers, self._graph = transfers, graph
        self._events = {name: gpu.event(blocking=not spin) for name in _EVENTS}
        self._origin = gpu.event()
        self.group: Any = None
        """Shared by slots of the same buffers, which are freed when nothing names it any longer."""

    @property
    def captured(self) -> bool:
        """Whether the computation runs as a CUDA graph."""
        return self._graph is not None

    def start(self) -> Any:
        """An event on the input stream, before any query; what comes after it on the other streams waits for it."""
        origin = self._origin
        origin.record(self._streams[0])
        for stream in self._streams[1:]:
            stream.wait(origin)
        origin.synchronize()
        return origin

    def events(self) -> List[Event]:
        """All that it made, for whoever frees them."""
        return [*self._events.values(), self._origin]

    def enqueue(self) -> Tuple[int, int]:
        """Queue a query; host time in ns before and after the computation's call."""
        with self._binding.one:  # a query in another thread has the same execution context
            return self._enqueue()

    def _enqueue(self) -> Tuple[int, int]:
        events, (source, compute, target) = self._events, self._streams
        self._binding.claim(compute)
        if self._transfers:
            events["h2d_start"].record(source)
            self._binding.copy_in(source)
            events["h2d_end"].record(source)
            compute.wait(events["h2d_end"])
        events["compute_start"].record(compute)
        begun = time.perf_counter_ns()
        if self._graph is not None:
            self._graph.launch(compute)
        else:
            self._binding.execute(compute)
        ended = time.perf_counter_ns()
        events["compute_end"].record(compute)
        if self._transfers:
            target.wait(events["compute_end"])
            events["d2h_start"].record(target)
            self._binding.copy_out(target)
            events["d2h_end"].record(target)
        return begun, ended

    def synchronize(self) -> None:
        """Wait for the query's last event."""
        self._events["d2h_end" if self._transfers else "compute_end"].synchronize()

    def spans(self, origin: Any) -> Tuple[float, float, float, float, float, float]:
        """When each event happened, ms after `origin`, in the order of `bench.spans.Spans`."""
        names = _EVENTS
        if not self._transfers:  # the copies' ends lie on the computation's, as in trtexec
            names = ("compute_start",) * 3 + ("compute_end",) * 3
        first, second, third, fourth, fifth, sixth = (self._events[n].milliseconds_since(origin) for n in names)
        return first, second, third, fourth, fifth, sixth
