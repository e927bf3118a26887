"""A wire that breaks: what is sent through it is passed on until so many bytes went by, then both ends are closed."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import Iterator


@contextlib.contextmanager
def breaking(port: int, after: int) -> Iterator[int]:
    """Pass connections on to a port of this machine, until `after` bytes went there; then refuse all.

    Yields:
        The port to connect to.
    """
    listener = socket.create_server(("127.0.0.1", 0))
    left = [after]
    lock = threading.Lock()

    def pump(source: socket.socket, sink: socket.socket, counted: bool) -> None:
        with contextlib.suppress(OSError):
            while True:
                data = source.recv(1 << 16)
                if not data:
                    break
                if counted:
                    with lock:
                        left[0] -= len(data)
                    if left[0] < 0:
                        break
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def accept() -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = listener.accept()
                if left[0] < 0:
                    near.close()
                    continue
                far = socket.create_connection(("127.0.0.1", port))
                for words in ((near, far, True), (far, near, False)):
                    threading.Thread(target=pump, args=words, daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    try:
        yield int(listener.getsockname()[1])
    finally:
        listener.close()
