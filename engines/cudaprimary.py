"""The primary context of a GPU in one thread: shared by all who open it there, and gone from the stack with the last.

pycuda keeps a stack of contexts for each thread beside the driver's and pops whatever lies on top, which may be another
engine's context or the user's own. So each push is a place here, and who leaves takes away that place, wherever it is.
"""

from __future__ import annotations

import ctypes
import threading
from typing import Any, Callable, Dict, List, Optional

from engines.cudaerrors import check, library, translated


def current() -> Optional[int]:
    """Handle of the context that is current in this thread, for the driver."""
    handle = ctypes.c_void_p()
    check(library().cuCtxGetCurrent(ctypes.byref(handle)), "asking for the current context")
    return handle.value


def _push(handle: Optional[int]) -> None:
    if handle is not None:
        check(library().cuCtxPushCurrent_v2(ctypes.c_void_p(handle)), "making the context current")


def _pop() -> None:
    popped = ctypes.c_void_p()
    check(library().cuCtxPopCurrent_v2(ctypes.byref(popped)), "leaving the context")


def _stranger(driver: Any) -> bool:
    """Whether the driver's current context is not the one that pycuda believes it is."""
    top = driver.Context.get_current()
    return top is not None and current() != int(top.handle)


class _Here(threading.local):
    """What this thread holds."""

    def __init__(self) -> None:
        self.primaries: Dict[int, Primary] = {}
        self.places: List[Place] = []
        """From the first push to the last."""


_here = _Here()


class Place:
    """A push of a primary context, for one user or several."""

    def __init__(self, primary: Primary, covering: bool) -> None:
        self.primary = primary
        self.covering = covering
        """It lies on a context that pycuda does not know of, with one of pycuda's between, for it to pop and push."""
        self.users = 1

    def leave(self) -> None:
        """One user less; the last takes the place from the stack, and what was current besides stays so.

        Raises:
            CudaError: The driver refuses.
        """
        self.users -= 1
        if self.users:
            return
        index = next(index for index, place in enumerate(_here.places) if place is self)
        del _here.places[index]
        driver = self.primary.driver
        try:
            self._take_away(driver, sum(place.primary is self.primary for place in _here.places[index:]))
        except driver.Error as error:
            raise translated(error, "leaving the context") from error
        finally:
            self.primary.release()

    def _take_away(self, driver: Any, later: int) -> None:
        """Pop it.

        Args:
            driver: The module `pycuda.driver`.
            later: So many places of the same context lie above it.
        """
        stack, mine = driver.Context, self.primary.raw
        aside = current() if _stranger(driver) else None  # above ours, for the driver only, or in its stead
        if aside is not None:
            _pop()
            if _stranger(driver):
                _push(int(stack.get_current().handle))
        lifted: List[Any] = []
        top = stack.get_current()
        while top is not None:
            stack.pop()
            if top is mine and not later:
                break
            later -= top is mine
            lifted.append(top)
            top = stack.get_current()
        if top is None:  # given up by its own thread meanwhile: pycuda has forgotten it, and the driver has not
            if aside == self.primary.handle:
                aside = None
            elif current() == self.primary.handle:
                _pop()
        elif self.covering and not lifted:
            _pop()
        for one in reversed(lifted):
            one.push()
        _push(aside)


class Primary:
    """pycuda's object for the primary context of a GPU, which belongs to the thread that made it.

    There is one for each GPU and thread. Of two, each would be another context to pycuda, though the handle is the
    same, and what one made could not be freed while the other lies above it.
    """

    def __init__(self, driver: Any, device: int) -> None:
        self.driver, self._device, self._thread = driver, device, threading.get_ident()
        self.raw: Any = driver.Device(device).retain_primary_context()
        self.handle = int(self.raw.handle)

    def is_current(self) -> bool:
        """Whether work that is queued in this thread goes there."""
        return current() == self.handle

    def checker(self) -> Callable[[], bool]:
        """An `is_current` at half the price, since it is paid in each query, for callers that keep one another out."""
        found, ask, mine = ctypes.c_void_p(), library().cuCtxGetCurrent, self.handle
        where = ctypes.byref(found)

        def is_current() -> bool:
            return ask(where) == 0 and found.value == mine

        return is_current

    def is_on_top(self) -> bool:
        """Whether it is, and pycuda makes what is made now for this very object."""
        return self.driver.Context.get_current() is self.raw and self.is_current()

    def enter(self) -> Place:
        """Make it current in this thread, if it is not.

        Raises:
            pycuda.driver.Error: The driver refuses.
        """
        if self.is_on_top() and _here.places and _here.places[-1].primary is self:
            _here.places[-1].users += 1
            return _here.places[-1]
        covering = _stranger(self.driver)
        if covering:  # pycuda pops one before it pushes one: let it be its own
            _push(int(self.driver.Context.get_current().handle))
        self.raw.push()
        place = Place(self, covering)
        _here.places.append(place)
        return place

    def release(self) -> None:
        """Give the context up, if this thread made it and has no place of it any more.

        pycuda pushes it once more for that and counts on the driver to pop it, which a primary context never is ("does
        not pop the context from the stack in any circumstances", driver API, cuDevicePrimaryCtxRelease): so it is
        popped here, or it would stay current in this thread.
        """
        if threading.get_ident() != self._thread or any(place.primary is self for place in _here.places):
            return
        _here.primaries.pop(self._device, None)
        raw, self.raw = self.raw, None
        before = current()
        try:
            raw.detach()
        except self.driver.Error as error:
            raise translated(error, "giving up the context") from error
        if current() != self.handle:
            return
        _pop()
        if current() != before:  # it was not one too many
            _push(self.handle)


def opened(driver: Any, device: int) -> Place:
    """A place of a GPU's primary context, current in this thread.

    Raises:
        pycuda.driver.Error: The driver refuses.
    """
    primary = _here.primaries.get(device)
    if primary is None:
        primary = _here.primaries[device] = Primary(driver, device)
    try:
        return primary.enter()
    except BaseException:
        primary.release()
        raise
