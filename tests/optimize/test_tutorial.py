"""docs/tutorial.md: its commands, one after the other, as a reader would type them."""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Tuple

import pytest

from tests.optimize.conftest import coloured
from tests.servers.process import free_port

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"

MARKS = ("board", "ssh", "serve", "serve, in the background")
"""What may stand behind `#` at the end of a command, as the page explains it."""

MODEL = """
import numpy as np
import tensorflow as tf
keras = tf.keras
keras.utils.set_random_seed(0)
data = np.load("images.npz")
image = keras.Input((32, 32, 3), name="image")
x = keras.layers.Conv2D(16, 3, strides=2, padding="same", activation="relu")(image)
x = keras.layers.ReLU()(keras.layers.Add()([x, keras.layers.Conv2D(16, 3, padding="same")(x)]))
model = keras.Model(image, keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(x)))
model.compile(keras.optimizers.Adam(0.02), keras.losses.SparseCategoricalCrossentropy(from_logits=True))
model.fit(data["train_images"] / np.float32(255), data["train_labels"], epochs=15, batch_size=40, verbose=0)
model.save("resnet34.keras")
"""


class Command(NamedTuple):
    """A line of the page, its mark, and the output that the page shows."""

    words: str
    mark: str
    shown: List[str]


def commands(page: str) -> List[Command]:
    """The commands of a page: indented lines that begin with `$`, and under each what it prints."""
    found: List[Command] = []
    for line in page.splitlines():
        if line.startswith("    $ "):
            words, _, mark = line[6:].partition(" # ")
            found.append(Command(words.strip(), mark.strip(), []))
        elif line.startswith("    ") and found:
            found[-1].shown.append(line[4:])
    return found


def says(output: str, shown: List[str]) -> str:
    """The first line shown that is not printed, in this order; `...` stands for anything on one line."""
    rest = output
    for line in shown:
        pattern = ".*?".join(re.escape(part.strip()) for part in line.split("..."))
        match = re.search(pattern.replace(r"\ ", r"\s+"), rest)
        if match is None:
            return line
        rest = rest[match.end() :]
    return ""


class Reader:
    """Who types the commands: a home, a folder, and `optimize` on the path."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder = folder / "here"
        self.replaced: Dict[str, str] = {}
        self.servers: List[Tuple[subprocess.Popen, Path]] = []
        for name in ("here", "home", "bin"):
            (folder / name).mkdir()
        start = "import sys; sys.path[0] = sys.argv.pop(1); from optimize.cli import main; main()"
        command = folder / "bin" / "optimize"
        words = " ".join(map(shlex.quote, [sys.executable, "-c", start, str(ROOT)]))
        command.write_text(f'#!/bin/sh\nexec {words} "$@"\n')
        command.chmod(0o755)
        monkeypatch.setenv("PATH", f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("HOME", str(folder / "home"))
        monkeypatch.delenv("OPTIMIZE_NODE", raising=False)

    def files(self) -> None:
        """What the page says that you need, small."""
        import numpy as np

        (train, train_labels), (test, test_labels) = coloured(400, 1), coloured(200, 2)
        arrays = {"train_images": train, "train_labels": train_labels}
        arrays.update(test_images=test, test_labels=test_labels)
        np.savez(str(self.folder / "images.npz"), **arrays)
        subprocess.run([sys.executable, "-c", MODEL], cwd=self.folder, check=True, capture_output=True)

    def types(self, command: Command) -> None:
        """Run it, and hold what it prints against what the page shows."""
        words = command.words
        for old, new in self.replaced.items():
            words = words.replace(old, new)
        if command.mark.endswith("in the background"):
            self.starts(words)
            return
        done = subprocess.run(
            ["bash", "-c", words], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, f"{words}\n{done.stdout}"
        missing = says(done.stdout, command.shown)
        assert not missing, f"{words}\nthe page shows: {missing}\n{done.stdout}"

    def starts(self, words: str) -> None:
        """Run a command that goes on until Ctrl-C, and wait until it says so."""
        log = self.folder / "log"
        with open(log, "wb") as out:
            process = subprocess.Popen(["bash", "-c", f"exec {words}"], cwd=self.folder, stdout=out, stderr=out)
        self.servers.append((process, log))
        while "Ctrl-C stops it" not in log.read_text():
            assert process.poll() is None, log.read_text()
            time.sleep(0.05)

    def leaves(self) -> None:
        """Ctrl-C in what is running still."""
        for process, log in self.servers:
            process.send_signal(signal.SIGINT)
            assert process.wait() in (0, 130), log.read_text()


@pytest.fixture
def reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Somebody in an empty folder with a model and images."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is missing")
    pytest.importorskip("cryptography")
    one = Reader(tmp_path, monkeypatch)
    one.files()
    yield one
    for process, _ in one.servers:
        if process.poll() is None:
            process.kill()
        process.wait()


def test_every_mark_of_the_page_is_one_that_it_explains() -> None:
    page = PAGE.read_text(encoding="utf-8")
    found = commands(page)
    assert {one.mark for one in found} == {"", *MARKS}
    assert all(f"`# {mark.partition(',')[0]}`" in page for mark in MARKS)
    assert len([one for one in found if not one.mark]) > 12
    verbs = {tuple(one.words.split()[1:3]) for one in found if one.words.startswith("optimize")}
    assert {("node", "activate"), ("node", "rollback"), ("key", "new"), ("serve", "--node")} <= verbs


@pytest.mark.parametrize(
    ("output", "shown", "missing"),
    [
        ("a 1\nb 2\n", ["a ...", "b 2"], ""),
        ("a 1\nb 2\n", ["b 2", "a ..."], "a ..."),
        ("made in 3.5 s", ["made in ... s"], ""),
        ("made in 3.5 s", ["made in ... ms"], "made in ... ms"),
        ("a.b", ["a...b"], ""),
        ("ab", ["a.b"], "a.b"),
    ],
)
def test_output_is_held_against_the_page(output: str, shown: List[str], missing: str) -> None:
    assert says(output, shown) == missing


@pytest.mark.journey
@pytest.mark.skipif(os.name != "posix", reason="commands of a POSIX shell")
def test_the_commands_do_what_the_page_says(reader: Reader) -> None:
    for command in commands(PAGE.read_text(encoding="utf-8")):
        if not command.mark:
            reader.types(command)


@pytest.mark.slow
@pytest.mark.skipif(os.name != "posix", reason="commands of a POSIX shell")
def test_the_commands_with_a_host_and_a_server(reader: Reader, ssh: Any, tmp_path: Path) -> None:
    """All but those of a board, the store on an SSH server."""
    if importlib.util.find_spec("mlserver") is None:
        pytest.skip("mlserver is not installed: pip install 'optimize-trt[serve]'")
    (tmp_path / "node").mkdir()
    reader.replaced = {
        "scp ": f"scp -F {shlex.quote(str(ssh.config))} -P {ssh.port} ",
        "NODE:": f"127.0.0.1:{tmp_path / 'node'}",
        "ssh://STORE/srv": f"{ssh.url}{tmp_path}",
        "8000": str(free_port()),
        "8001": str(free_port()),
    }
    for command in commands(PAGE.read_text(encoding="utf-8")):
        if command.mark != "board":
            reader.types(command)
    reader.leaves()
    assert (tmp_path / "node" / "release.pub").is_file()
