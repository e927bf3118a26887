"""`optimize serve`: an engine for others to ask, on a node without Triton."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import List, Optional, Sequence

import typer
from typing_extensions import Annotated

from engines.spec import TensorSpec
from optimize.cli import options
from optimize.cli.console import answer, interruptible, line, progress, say, warn
from optimize.serving import GRPC_PORT, HOST, HTTP_PORT


def serve(
    bundles: Annotated[
        Optional[List[Path]], typer.Argument(metavar="[BUNDLE...]", help="Engine bundles; none with --node.")
    ] = None,
    node: Annotated[
        Optional[Path], typer.Option("--node", metavar="DIR", help="Serve the active engine of this node.")
    ] = None,
    name: Annotated[
        Optional[str], typer.Option("--name", help="What clients ask for [default: the model and its precision].")
    ] = None,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = HOST,
    http_port: Annotated[int, typer.Option("--http-port", min=0, max=65535, help="0 takes a free one.")] = HTTP_PORT,
    grpc_port: Annotated[int, typer.Option("--grpc-port", min=0, max=65535, help="0 takes a free one.")] = GRPC_PORT,
    batch: Annotated[
        Optional[List[str]],
        typer.Option("--batch", metavar="1,8,64", help="Batch sizes to run [default: the bundle's]."),
    ] = None,
    delay: Annotated[
        str, typer.Option("--delay", help="How long a request may wait for others while the engine is idle.")
    ] = "0.1ms",
    threads: options.Threads = 0,
) -> None:
    """Serve engines by KServe v2 over HTTP and gRPC until Ctrl-C."""
    from optimize import api
    from optimize.cli.console import VOICE
    from optimize.serving.server import Server, is_loopback

    def ready(serving: Server) -> None:
        host, http_port, grpc_port = serving.address
        base = f"http://[{host}]:{http_port}" if ":" in host else f"http://{host}:{http_port}"
        for model in serving.models:
            say(f"serving {model.name} at {base}/{model.name}, gRPC at port {grpc_port}")
            say(f"  it takes {_tensors(model.inputs)}, and gives {_tensors(model.outputs)}")
        say(f"next: optimize bench {base}/{serving.models[0].name} --batch 1")
        if not is_loopback(host):
            warn(f"warning: whoever reaches {host} may ask: there is no password and no encryption")
        say("Ctrl-C stops it")

    with interruptible(), contextlib.ExitStack() as stack:
        with progress() as report:
            serving = stack.enter_context(
                api.serve(
                    bundles or (),
                    node=node,
                    name=name,
                    host=host,
                    http_port=http_port,
                    grpc_port=grpc_port,
                    batch=batch or (),
                    delay=delay,
                    threads=threads,
                    progress=report,
                )
            )
        done = serving.run(ready, VOICE.verbose)

    def show() -> None:
        for one in done:
            stats = one["inference_stats"]
            line(
                f"{one['name']}: {stats['success']['count']} requests answered, {stats['fail']['count']} refused or "
                f"failed; {one['inference_count']} samples in {one['execution_count']} batches"
            )

    answer(done, show)


def _tensors(specs: Sequence[TensorSpec]) -> str:
    sizes = ("x".join("N" if size is None else str(size) for size in one.shape) for one in specs)
    return ", ".join(f"{one.name} ({one.dtype} {size})" for one, size in zip(specs, sizes))
