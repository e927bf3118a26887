"""A real server: `optimize serve` in a process of its own, on free ports of loopback."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Callable, Iterator, List, NamedTuple

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent.parent.parent


class Running(NamedTuple):
    """A server that answers."""

    process: subprocess.Popen[str]
    url: str
    grpc: str
    said: List[str]

    def stop(self, how: int = signal.SIGTERM) -> Any:
        """Ask it to end; its exit code and what it answers as JSON."""
        self.process.send_signal(how)
        out, rest = self.process.communicate(timeout=300)
        self.said.append(rest)
        return self.process.returncode, json.loads(out) if out.strip() else None


@contextlib.contextmanager
def start(folder: Path, *words: object) -> Iterator[Running]:
    """`optimize serve WORDS`; what still runs afterwards is killed."""
    command = [sys.executable, "-m", "optimize", "serve", *map(str, words), "--http-port", "0", "--grpc-port", "0"]
    process = subprocess.Popen(
        [*command, "--json"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said: List[str] = []
    try:
        for text in process.stderr:
            said.append(text)
            found = re.search(r"at (http://[^ ]+), gRPC at port (\d+)", text)
            if found:
                host = re.sub(r"^http://(.*):\d+/.*$", r"\1", found.group(1))
                yield Running(process, found.group(1), f"{host}:{found.group(2)}", said)
                break
        else:
            raise AssertionError("".join(said))
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate()


@pytest.fixture(scope="session")
def needs_mlserver() -> None:
    """Skip where MLServer is missing: Python 3.13 has none."""
    if importlib.util.find_spec("mlserver") is None:
        pytest.skip("mlserver is not installed: pip install 'optimize-trt[serve]'")


@pytest.fixture(scope="session")
def bundle(built: Any) -> Path:
    """The fp32 engine of the small classifier, for batches of 1 and 8."""
    return next(one.path for one in built.bundles if one.precision == "fp32")


@pytest.fixture(scope="session")
def serving(needs_mlserver: None, bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One server for the tests that leave it as it was."""
    with start(tmp_path_factory.mktemp("serving"), bundle, "--name", "tiny") as running:
        yield running


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """Eight images, as the small classifier takes them."""
    return np.random.default_rng(0).random((8, 3, 32, 32), dtype=np.float32)


@pytest.fixture(scope="session")
def scores(bundle: Path, images: np.ndarray) -> np.ndarray:
    """What the engine itself answers."""
    import optimize

    with optimize.load(bundle) as runner:
        return runner.infer({"image": images})["scores"]


@pytest.fixture
def server(needs_mlserver: None, tmp_path: Path) -> Iterator[Callable[..., Running]]:
    """Start a server of one's own: `server(BUNDLE, "--name", "m")`."""
    with contextlib.ExitStack() as stack:
        yield lambda *words: stack.enter_context(start(tmp_path, *words))
