"""The engines that are served, open before the server starts: what is wrong with one is told before anyone may ask."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence

from engines import manifest
from engines.errors import UsageError
from engines.spec import Progress, RunnerSpec, TensorSpec, quiet
from optimize.serving.batcher import Batcher
from optimize.ship import tritonconfig
from optimize.ship.prepare import default_name
from optimize.ship.triton import check_name

VERSION = "1"
"""Of every model here: a server of one bundle has one."""


class Model(NamedTuple):
    """An engine that is served.

    Attributes:
        name: That clients ask for.
        bundle: Its folder.
        batcher: What answers.
        platform: What runs it, in Triton's words.
        inputs, outputs: With the batch free.
        config: In Triton's form.
    """

    name: str
    bundle: Path
    batcher: Batcher
    platform: str
    inputs: Sequence[TensorSpec]
    outputs: Sequence[TensorSpec]
    config: Dict[str, Any]


@contextlib.contextmanager
def opened(
    bundles: Sequence[Path],
    name: Optional[str] = None,
    batches: Sequence[int] = (),
    threads: int = 0,
    delay_us: int = tritonconfig.QUEUE_DELAY_US,
    progress: Progress = quiet,
) -> Iterator[List[Model]]:
    """Check, open and warm up engines; they are closed afterwards, when what waits has been answered.

    Args:
        bundles: Folders.
        name: Of the model, for one bundle; by default that of the shipment, or `<model>-<precision>`.
        batches: Sizes to run, for engines that answer any; by default those of the manifest.
        threads: CPU threads; 0 as in the bundle.
        delay_us: How long a request may wait for others while the engine is idle, microseconds.
        progress: Told what happens.

    Raises:
        UsageError: No bundle, a bad name or two of one name, or a batch that an engine does not answer.
        DamagedError, IncompatibleError: See `engines.manifest.runner_spec`; before anything is loaded.
    """
    if name is not None and len(bundles) != 1:
        raise UsageError("--name is for one bundle", "leave --name out")
    if not bundles:
        raise UsageError("no bundle was given", "optimize build MODEL --precision fp16")
    names: Dict[str, Path] = {}
    for bundle in bundles:
        word = check_name(name or default_name(bundle))
        if word in names:
            raise UsageError(f"{names[word]} and {bundle} are both {word}", "serve them apart, each with --name")
        names[word] = bundle
        manifest.runner_spec(bundle)
    with contextlib.ExitStack() as stack:
        found: List[Model] = []
        for word, bundle in names.items():
            progress(f"opening {word}", len(found), len(names))
            model = _open(word, bundle, batches, threads, delay_us, progress)
            stack.callback(model.batcher.close)
            found.append(model)
        yield found


def _open(name: str, bundle: Path, batches: Sequence[int], threads: int, delay_us: int, progress: Progress) -> Model:
    import engines

    about = manifest.read(bundle)
    spec = RunnerSpec(path=str(bundle.resolve()), kind="bundle", threads=threads, task=about["task"])
    runner = engines.open(spec)
    try:
        sizes = sorted(set(batches)) or list(runner.batches) or sorted(about["batches"])
        if runner.batches and not set(sizes) <= set(runner.batches):
            known = ", ".join(map(str, runner.batches))
            raise UsageError(f"{bundle} answers batches of {known}", f"--batch {known.replace(' ', '')}")
        batcher = Batcher(runner, sizes, delay_us / 1e6, progress)
    except BaseException:
        runner.close()
        raise
    outputs = [TensorSpec(one.name, (None, *one.shape[1:]), one.dtype) for one in runner.outputs]
    config = tritonconfig.config(about, name, queue_delay_us=delay_us)
    config["max_batch_size"] = batcher.most  # requests are put together here, whatever the engine
    platform = config.get("platform") or config["backend"]
    return Model(name, bundle, batcher, platform, batcher.inputs, outputs, config)
