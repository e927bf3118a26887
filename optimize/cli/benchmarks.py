"""`optimize bench`, `optimize profile` and `optimize report`."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Dict, List, Optional

import typer
from typing_extensions import Annotated

from engines.errors import PartialError, UsageError
from engines.terminal import Column
from optimize.cli import options
from optimize.cli.console import answer, console, document, interruptible, line, progress, say, table, warn


def bench(
    targets: Annotated[
        List[str],
        typer.Argument(metavar="TARGET...", help="Engine bundles, ONNX files, originals, http://NODE:8000/MODEL."),
    ],
    batch: Annotated[Optional[List[str]], options.batches("Batch sizes to measure")] = None,
    baseline: Annotated[
        Optional[Path], typer.Option("--baseline", metavar="MODEL", help="The original, measured in each of --forms.")
    ] = None,
    forms: Annotated[
        Optional[List[str]],
        typer.Option(
            "--forms",
            help="How originals run: predict, function, xla, eager, compile [default: predict,function,eager].",
        ),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="Where originals run: auto, cpu, gpu or cpu,gpu.")] = "auto",
    backend: Annotated[
        str, typer.Option("--backend", help="What runs ONNX files: auto, openvino or onnxruntime.")
    ] = "auto",
    threads: Annotated[
        Optional[List[str]],
        typer.Option("--threads", metavar="1,3,6", help="CPU threads, everything with each [default: the runtime's]."),
    ] = None,
    streams: Annotated[
        Optional[List[str]],
        typer.Option("--streams", metavar="1,2,4", help="Queries at a time, everything with each [default: 1]."),
    ] = None,
    warmup: Annotated[
        str, typer.Option("--warmup", help="Unmeasured time before each batch size in each round.")
    ] = "200ms",
    rounds: Annotated[int, typer.Option("--rounds", min=1, help="Fresh processes per target; 5 give a verdict.")] = 5,
    duration: Annotated[str, typer.Option("--duration", help="Measured time of each batch size in each round.")] = "1s",
    iterations: Annotated[
        int, typer.Option("--iterations", min=1, help="Runs of each batch size in each round, at least.")
    ] = 10,
    quick: Annotated[bool, typer.Option("--quick", help="One round: a ratio, no verdict.")] = False,
    images: Annotated[
        Optional[int], typer.Option("--images", min=1, help="Test images for accuracy and passes [default: all].")
    ] = None,
    data: Annotated[Optional[str], options.data("Test images to measure accuracy on.")] = None,
    io: Annotated[
        str,
        typer.Option("--io", help="TensorRT: copy, or zero-copy into memory that the GPU shares."),
    ] = "copy",
    cuda_graph: Annotated[bool, typer.Option("--cuda-graph", help="TensorRT: launch a captured CUDA graph.")] = False,
    spin: Annotated[bool, typer.Option("--spin", help="TensorRT: wait for the GPU busily.")] = False,
    transfers: Annotated[
        bool,
        typer.Option("--transfers/--no-transfers", help="TensorRT: count copies in the pass by events, as trtexec."),
    ] = True,
    energy: Annotated[
        bool, typer.Option("--energy", help="Measure energy too, in a pass of its own, by the power sensors.")
    ] = False,
    load: Annotated[
        Optional[List[str]],
        typer.Option(
            "--load",
            help="Loads that MLPerf LoadGen drives afterwards: single-stream, multi-stream, offline, server.",
        ),
    ] = None,
    load_duration: Annotated[
        Optional[str], typer.Option("--load-duration", help="Of each load, at least [default: 10s; --quick: 1s].")
    ] = None,
    load_qps: Annotated[
        Optional[float],
        typer.Option("--load-qps", help="Images a second that server asks [default: half of what was measured]."),
    ] = None,
    load_latency: Annotated[
        str, typer.Option("--load-latency", help="Bound of server for 99% of its queries.")
    ] = "15ms",
    tune: Annotated[
        bool, typer.Option("--tune", help="Find the CPU threads and streams that suit each engine; kept in its bundle.")
    ] = False,
    passes: Annotated[
        int, typer.Option("--passes", min=0, help="Time whole passes over the test images too, as many.")
    ] = 0,
    lock_clocks: Annotated[
        bool, typer.Option("--lock-clocks", help="Hold the machine's clocks meanwhile, and give them back.")
    ] = False,
    power_modes: Annotated[
        Optional[List[str]],
        typer.Option("--power-mode", metavar="15W,MAXN", help="Jetson: measure in each mode, clocks held."),
    ] = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Time the layers of each engine too, for the report.")
    ] = False,
    usage: Annotated[
        bool, typer.Option("--usage", help="Show busy share and memory too; GPUs are watched in a pass of their own.")
    ] = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Measure everything, also what an interrupted run has kept.")
    ] = False,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="runs.json", help="The run file to write.")] = Path(
        "runs.json"
    ),
    *,
    source: Dict[str, Any],
) -> None:
    """Measure engines against the original, in fresh alternating processes.

    Exit code 5 where some targets could not be measured; the others are kept.
    """
    from optimize import api

    with interruptible("finished cells are kept", Path(f"{out}.partial")), progress() as report:
        run, failures = api.bench(
            targets,
            batch=batch or ["1,64"],
            baseline=baseline,
            forms=forms,
            backend=backend,
            threads=threads or ["0"],
            streams=streams or ["1"],
            warmup=warmup,
            rounds=1 if quick else rounds,
            duration=duration,
            iterations=iterations,
            images=images,
            data=data,
            device=device,
            io=io,
            cuda_graph=cuda_graph,
            spin=spin,
            transfers=transfers,
            energy=energy,
            passes=passes,
            tune=tune,
            lock_clocks=lock_clocks,
            power_modes=power_modes or [],
            usage=usage,
            layers=layers,
            fresh=fresh,
            load=load or (),
            load_duration=load_duration or ("1s" if quick else "10s"),
            load_qps=load_qps,
            load_latency=load_latency,
            out=out,
            command=" ".join(["optimize", *map(shlex.quote, sys.argv[1:])]),
            progress=report,
            **source,
        )

    def show() -> None:
        from bench.report.table import render

        render(run, console())

    answer(run, show)
    if load:
        say("loads: asked and timed by MLPerf LoadGen with this project's settings; they are not MLPerf results")
    from optimize.benchmark import file_of

    modes = [mode for word in power_modes or [""] for mode in word.split(",")]
    files = " ".join(shlex.quote(str(file_of(out, mode))) for mode in modes)
    say(f"run file: {files}   next: optimize report {files} -f md")
    if failures:
        for name, message in failures:
            warn(f"error: {name}: {message}")
        raise PartialError(f"{len(failures)} of the targets could not be measured; the others are kept in {out}")


def profile(
    engine: Annotated[Path, typer.Argument(metavar="TARGET", help="Engine bundle, ONNX file or original.")],
    batch: Annotated[
        Optional[int], typer.Option("--batch", min=1, help="Images in a query [default: the bundle's smallest].")
    ] = None,
    top: Annotated[int, typer.Option("--top", min=1, help="Layers to print, the slowest first.")] = 20,
    queries: Annotated[int, typer.Option("--queries", min=1, help="Queries that are timed.")] = 50,
    trace: Annotated[
        Optional[Path], typer.Option("--trace", metavar="FILE", help="Write a trace that Perfetto opens.")
    ] = None,
    backend: Annotated[
        str, typer.Option("--backend", help="What runs an ONNX file: auto, openvino or onnxruntime.")
    ] = "auto",
    threads: options.Threads = 0,
    form: Annotated[
        Optional[str],
        typer.Option("--form", help="How an original runs: predict, function, eager [default: function or eager]."),
    ] = None,
    data: Annotated[Optional[str], options.data("Test images to feed [default: random ones].")] = None,
    *,
    source: Dict[str, Any],
) -> None:
    """Time and precision of each layer of an engine or original."""
    from optimize import api

    with progress() as said:
        found = api.profile(
            engine,
            batch=batch,
            queries=queries,
            data=data,
            backend=backend,
            threads=threads,
            form=form,
            trace=trace,
            progress=said,
            **source,
        )
    answer(found, lambda: _show_layers(found, top), asked=True)
    for text in found["warnings"]:
        warn(f"warning: {text}")
    if trace:
        say(f"trace: {trace}   open it at https://ui.perfetto.dev or chrome://tracing")


def _show_layers(found: Dict[str, Any], top: int) -> None:
    layers = sorted(found["layers"], key=lambda layer: -float(layer["ms"]))
    runs = " ".join(filter(None, (found["backend"], found["form"])))
    title = f"{found['name']} ({runs}), batch {found['batch']}"
    rows = [
        [layer["name"], layer["type"], layer["precision"], f"{layer['ms']:.4f}", f"{100 * layer['share']:.1f}%"]
        for layer in layers[:top]
    ]
    rest = layers[top:]
    if rest:
        ms, part = (sum(float(layer[key]) for layer in rest) for key in ("ms", "share"))
        others = f"{len(rest)} others (--top {len(layers)} shows them)"
        rows.append([others, "", "", f"{ms:.4f}", f"{100 * part:.1f}%"])
    columns = [
        *(Column(name, least=12) for name in ("layer", "type", "precision")),
        *(Column(name, right=True) for name in ("ms", "share")),
    ]
    table(columns, rows, title, leave_out=("type", "precision"))
    line(
        f"{len(layers)} layers take {found['layers_ms']:.4g} ms; a whole query that is not profiled takes "
        f"{found['query_ms']:.4g} ms ({found['statistic']}s and median of {found['queries']})"
    )


def report(
    runs: Annotated[
        List[Path], typer.Argument(metavar="RUN...", help="Run files of optimize bench or wcet, or a choice of select.")
    ],
    formats: Annotated[
        Optional[List[str]],
        typer.Option("-f", "--format", help="md, html, csv, json, svg, png; repeat or use commas [default: md]."),
    ] = None,
    out: Annotated[
        Optional[Path],
        typer.Option(
            "-o", "--out", metavar="DIR|-", help="Folder to write to [default: .]; - prints one format on stdout."
        ),
    ] = None,
) -> None:
    """Write report.md, .html, .csv, .json, .svg or .png from run files."""
    from optimize import reporting

    wanted = formats or (["html"] if reporting.is_choice(runs) else ["md"])
    if str(out) != "-":
        written = reporting.report(runs, formats=wanted, out=out)
        answer({"written": [str(p) for p in written]}, [str(p) for p in written])
        return
    texts = reporting.report_texts(runs, wanted)
    if len(texts) != 1:
        raise UsageError(f"-o - prints one format, and {len(texts)} are asked: {', '.join(texts)}", "-f md, or -o DIR")
    ((name, text),) = texts.items()
    answer({"format": name, "text": text}, lambda: document(text), asked=True)
