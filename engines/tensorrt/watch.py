"""A build that can be watched and stopped: TensorRT works in a thread of its own, the caller's stays free."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from typing import Any, Callable, Dict, List, Optional, Tuple

from engines.cuda import Context
from engines.spec import Progress

_Told = Optional[Tuple[str, int, int]]


def monitor(trt: Any, what: str, told: Callable[[_Told], None]) -> Any:
    """An IProgressMonitor that passes on the steps of each phase; once `stop` is set, it asks TensorRT to stop.

    It calls nothing that may fail: TensorRT, which calls it from threads of its own, would swallow the exception.
    """

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.stop = False
            self._steps: Dict[str, int] = {}

        def phase_start(self, phase_name: str, parent_phase: Optional[str], num_steps: int) -> None:
            self._steps[phase_name] = num_steps
            told((f"{what}: {phase_name}", 0, num_steps))

        def step_complete(self, phase_name: str, step: int) -> bool:
            told((f"{what}: {phase_name}", step + 1, self._steps.get(phase_name, 0)))
            return not self.stop

        def phase_finish(self, phase_name: str) -> None:
            steps = self._steps.pop(phase_name, 0)
            told((f"{what}: {phase_name}", steps, steps))

    return Monitor()


def run(
    trt: Any, gpu: Context, config: Any, call: Callable[[], Any], progress: Progress, what: str, every: float = 1.0
) -> Any:
    """Run a build, telling its steps (where the version has a progress monitor) or the seconds that have gone.

    Ctrl-C, and an exception of `progress`, stop the build at its next step; a version without a monitor cannot stop,
    and is waited for. Either way nothing of TensorRT runs any more when this returns or raises.

    Args:
        trt: The module.
        gpu: Its context is made current for the build.
        config: Gets the monitor.
        call: Builds; it blocks, without Python's lock.
        progress: Called in the caller's thread only.
        what: What is being built, in a word or two.
        every: Seconds between two lines where there is no monitor.

    Returns:
        What `call` returned.

    Raises:
        KeyboardInterrupt: Ctrl-C.
        BaseException: What `call` or `progress` raised.
    """
    told: queue.SimpleQueue[_Told] = queue.SimpleQueue()
    watcher = None
    if hasattr(config, "progress_monitor"):
        watcher = monitor(trt, what, told.put)
        config.progress_monitor = watcher
    result: List[Any] = []
    failed: List[BaseException] = []

    def work() -> None:
        try:
            with gpu.current():
                result.append(call())
        except BaseException as error:  # raised again in the caller's thread
            failed.append(error)
        finally:
            told.put(None)

    thread = threading.Thread(target=work, name="tensorrt-build", daemon=True)
    begun = time.monotonic()
    thread.start()
    try:
        progress(what, 0, 0)
        _follow(told, progress, lambda: f"{what} ({time.monotonic() - begun:.0f} s)", every, watcher is not None)
    except BaseException:
        if watcher is not None:
            watcher.stop = True
        raise
    finally:
        while thread.is_alive():  # its CUDA context must outlive the build, whatever the user presses
            with contextlib.suppress(KeyboardInterrupt):
                thread.join(0.2)
    if failed:
        raise failed[0]
    return result[0]


def _follow(
    told: queue.SimpleQueue[_Told], progress: Progress, elapsed: Callable[[], str], every: float, steps: bool
) -> None:
    """Pass on what is told until the build is over."""
    while True:
        try:
            line = told.get(timeout=every)
        except queue.Empty:
            if not steps:
                progress(elapsed(), 0, 0)
            continue
        if line is None:
            return
        progress(*line)
