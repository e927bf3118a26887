"""KServe v2 over HTTP and gRPC, by MLServer in this process, until it is told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import importlib.util
import socket
import sys
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

from engines import kserve
from engines.errors import IncompatibleError, OptimizeError, UsageError
from engines.spec import Progress, quiet
from optimize.serving import GRPC_PORT, HOST, HTTP_PORT, NEWEST_PYTHON, limits
from optimize.serving import models as opening
from optimize.serving.models import Model
from optimize.ship.tritonconfig import QUEUE_DELAY_US
from optimize.version import VERSION

_EXTENSIONS = [kserve.BINARY, kserve.STATISTICS, "model_configuration", "model_repository"]

_INSTALL = "pip install 'optimize-trt[serve]'"

_LOOPBACK = ("127.", "::1", "localhost")

_HOSTS = "--host with a name or an address of this machine, such as 127.0.0.1 or ::1"

_STOP_S = 10
"""Seconds for HTTP requests under way when it is told to stop; MLServer gives gRPC 5."""


class Address(NamedTuple):
    """Where a server listens."""

    host: str
    http_port: int
    grpc_port: int


Ready = Callable[["Server"], None]


class Server(NamedTuple):
    """Engines that are open, and where they will be asked."""

    address: Address
    models: Sequence[Model]

    def run(self, ready: Ready = lambda server: None, verbose: bool = False) -> List[Dict[str, Any]]:
        """Answer until SIGTERM, SIGINT or SIGQUIT; what was asked whole by then is answered, within 10 s (gRPC: 5 s).

        Args:
            ready: Called once requests are answered.
            verbose: Let MLServer log requests and more.

        Returns:
            The statistics of each model, in Triton's form.

        Raises:
            OptimizeError: The server failed.
        """
        try:
            asyncio.run(_run(self, verbose, ready))
        except (OSError, RuntimeError, SystemExit) as error:  # uvicorn leaves by SystemExit where it cannot listen
            raise OptimizeError(f"the server failed: {error or type(error).__name__}", "run again with -v") from None
        return [one.batcher.statistics.to_json(one.name, opening.VERSION)["model_stats"][0] for one in self.models]


@contextlib.contextmanager
def prepared(
    bundles: Sequence[Path],
    name: Optional[str] = None,
    host: str = HOST,
    http_port: int = HTTP_PORT,
    grpc_port: int = GRPC_PORT,
    batches: Sequence[int] = (),
    threads: int = 0,
    delay_us: int = QUEUE_DELAY_US,
    progress: Progress = quiet,
) -> Iterator[Server]:
    """Open engines for a server; they are closed afterwards.

    Args:
        bundles, name, batches, threads, delay_us: See `optimize.serving.models.opened`.
        host: Name or address to listen on, IPv6 as it is or in brackets. Nobody is asked who they are: beyond loopback,
            that is the network's work.
        http_port, grpc_port: 0 takes a free one.
        progress: Told what happens.

    Raises:
        UsageError: No host of this machine, or a port is taken, or cannot be had; or see `opened`.
        IncompatibleError: MLServer is missing; or see `opened`.
    """
    if importlib.util.find_spec("mlserver") is None:
        newest = "python{}.{}".format(*NEWEST_PYTHON)
        if sys.version_info[:2] > NEWEST_PYTHON:
            words, fix = "has no version for this Python: the newest is for", f"{newest} -m {_INSTALL}"
        else:
            words, fix = "is not installed: there are versions from python3.8 to", _INSTALL
        raise IncompatibleError(f"the Python package mlserver, which serves, {words} {newest}", fix)
    address = _free(host[1:-1] if host[:1] + host[-1:] == "[]" else host, http_port, grpc_port)
    with opening.opened(bundles, name, batches, threads, delay_us, progress) as models:
        yield Server(address, models)


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    return host.startswith(_LOOPBACK)


def _free(host: str, http_port: int, grpc_port: int) -> Address:
    """The ports, after it is known that they are free: an engine takes longer to open than this."""
    found = []
    held = []
    try:
        for option, port in (("--http-port", http_port), ("--grpc-port", grpc_port)):
            family, where = _resolved(host, port)
            try:
                one = socket.socket(family, socket.SOCK_STREAM)
                held.append(one)
                one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                one.bind(where)
            except OSError as error:
                fix = _HOSTS if error.errno == errno.EADDRNOTAVAIL else f"{option} with another port"
                raise UsageError(f"{option} {port} on {host}: {error.strerror or error}", fix) from None
            found.append(int(one.getsockname()[1]))
    finally:
        for one in held:
            one.close()
    return Address(host, *found)


def _resolved(host: str, port: int) -> Tuple[int, Any]:
    """The address family and the address of a host and a port."""
    try:
        if not host:
            raise OSError("no host is named")  # it would be every address there is
        family, _, _, _, where = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"--host {host}: {getattr(error, 'strerror', None) or error}", _HOSTS) from None
    return family, where


async def _run(serving: Server, verbose: bool, ready: Ready) -> None:
    try:
        from mlserver import MLServer, Settings
    except Exception as error:  # where its protobuf does not fit, it raises an error of that package's own
        raise IncompatibleError(f"the Python package mlserver does not load: {error}", _INSTALL) from None
    from optimize.serving import runtime
    from optimize.serving.extensions import Extensions

    address, models = serving
    runtime.MODELS.clear()
    runtime.MODELS.update({one.name: one for one in models})

    class Ours(Settings):  # type: ignore[misc]  # MLServer is not there where types are checked
        # uvicorn waits for requests that are under way, and without a limit for one that never comes whole
        _custom_rest_server_settings = {"timeout_graceful_shutdown": _STOP_S}  # noqa: RUF012  (MLServer's own name)

    asked: Dict[str, Any] = {
        "_env_file": None,  # a file `.env` of the working folder is not ours
        "debug": verbose,
        "http_port": address.http_port,
        "grpc_port": address.grpc_port,
        "grpc_max_message_length": limits.message(models),
        "parallel_workers": 0,
        "metrics_endpoint": None,
        "kafka_enabled": False,
        "server_name": "optimize",
        "server_version": VERSION,
        "extensions": _EXTENSIONS,
        "model_repository_implementation": "optimize.serving.runtime.Repository",
        "load_models_at_startup": False,
        "logging_settings": _logging(verbose),
    }
    server = MLServer(Ours(host=address.host, **asked))
    if ":" in address.host:  # MLServer writes HOST:PORT for gRPC, which needs brackets around IPv6
        server._grpc_server._settings = Ours(host=f"[{address.host}]", **asked)
    app = server._rest_server._app  # MLServer has no public way to its application
    app.add_middleware(Extensions, models=runtime.LOADED)
    telling = asyncio.ensure_future(_tell(serving, ready))
    try:
        await server.start([runtime.settings(one) for one in models])
    finally:
        telling.cancel()


async def _tell(serving: Server, ready: Ready) -> None:
    """Call `ready` once the server answers."""
    address, models = serving
    loop = asyncio.get_running_loop()
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104  (asked, not listened on)
    where = kserve.Place(host, address.http_port, False, "", "")

    def answers() -> bool:
        connection = kserve.Connection(where, patience_s=5.0)
        try:
            for model in models:
                connection.ask("GET", kserve.path(model.name, "ready"))
            return True
        except OptimizeError:
            return False
        finally:
            connection.close()

    while not await loop.run_in_executor(None, answers):
        await asyncio.sleep(0.05)
    ready(serving)


def _logging(verbose: bool) -> Dict[str, Any]:
    """Logs go to stderr, and only with `-v`: MLServer logs a traceback for each wrong request."""
    level = "INFO" if verbose else "CRITICAL"
    names = ("mlserver", "mlserver.rest", "mlserver.grpc", "uvicorn", "uvicorn.error", "uvicorn.access")
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"plain": {"format": "%(asctime)s %(name)s %(levelname)s %(message)s"}},
        "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "plain", "stream": "ext://sys.stderr"}},
        "loggers": {name: {"level": level, "handlers": ["stderr"], "propagate": False} for name in names},
    }
