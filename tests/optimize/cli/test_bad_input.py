"""Bad input: one clear line, the exit code of the table, and nothing left half-written."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Callable

import numpy as np
import onnx
import pytest

ROOT = Path(__file__).resolve().parents[3]
Run = Callable[..., Any]


def refused(result: Any, code: int, *words: str) -> None:
    assert result.exit_code == code, result.stderr or result.output
    errors = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, result.stderr
    assert "Traceback" not in result.stderr
    for word in words:
        assert word in result.stderr, f"{word!r} is not in: {result.stderr}"


def nothing_left(folder: Path) -> None:
    """No bundle, no temporary file."""
    left = [p for p in folder.rglob("*") if p.suffix in (".part", ".old") or p.name == "manifest.json"]
    assert left == []


@pytest.mark.parametrize("command", ["build", "export", "inspect", "bench"])
def test_missing_file(optimize_command: Run, command: str) -> None:
    refused(optimize_command(command, "nowhere.keras"), 2, "nowhere.keras")


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("empty.keras", b""),
        ("noise.keras", b"\x00\x01\x02 not a model"),
        ("cut.keras", b"\x89HDF\r\n\x1a\n" + b"\0" * 64),
        ("cut.onnx", b"\x08\x08\x12\x07pytorch"),
        ("text.pt", b"hello\n"),
    ],
)
def test_unreadable_models(optimize_command: Run, tmp_path: Path, name: str, content: bytes) -> None:
    if content.startswith(b"\x89HDF"):
        pytest.importorskip("h5py")
    model = tmp_path / name
    model.write_bytes(content)
    refused(optimize_command("build", model, "--precision", "fp16", "--no-progress"), 1, name)
    nothing_left(tmp_path)


def test_truncated_onnx(optimize_command: Run, tmp_path: Path, tiny_onnx: Path) -> None:
    model = tmp_path / "cut.onnx"
    model.write_bytes(tiny_onnx.read_bytes()[:-500])
    refused(optimize_command("build", model), 1, "cut.onnx")
    nothing_left(tmp_path)


def test_zip_that_is_no_model(optimize_command: Run, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "photos.keras", "w") as archive:
        archive.writestr("readme.txt", "hello")
    refused(optimize_command("build", tmp_path / "photos.keras"), 1, "photos.keras")


def test_pickle_that_wants_to_run_code(optimize_command: Run, tmp_path: Path) -> None:
    class Harmful:
        def __reduce__(self) -> Any:
            return os.system, (f"touch {tmp_path / 'was-run'}",)

    (tmp_path / "weights.pt").write_bytes(pickle.dumps(Harmful()))
    refused(optimize_command("build", tmp_path / "weights.pt", "--factory", "resnet18"), 1, "weights.pt")
    assert not (tmp_path / "was-run").exists()


def test_unsupported_operator(optimize_command: Run, tmp_path: Path, tiny_onnx: Path) -> None:
    model = onnx.load(str(tiny_onnx))
    node = next(n for n in model.graph.node if n.name == "relu2")
    node.op_type, node.domain = "Sparkle", "com.example"
    model.opset_import.append(onnx.helper.make_opsetid("com.example", 1))
    onnx.save(model, str(tmp_path / "odd.onnx"))
    refused(optimize_command("build", tmp_path / "odd.onnx"), 1, "Sparkle")
    nothing_left(tmp_path)


def test_fixed_batch(optimize_command: Run, tmp_path: Path, tiny_onnx: Path) -> None:
    model = onnx.load(str(tiny_onnx))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, str(tmp_path / "four.onnx"))
    result = optimize_command("build", tmp_path / "four.onnx", "--batch", "1,64")
    assert result.exit_code in (1, 2)
    refused(result, result.exit_code, "batch", "4")
    nothing_left(tmp_path)


def test_int8_without_data(optimize_command: Run, tiny_onnx: Path) -> None:
    refused(optimize_command("build", tiny_onnx, "--precision", "int8"), 2, "INT8", "--data")


def test_max_drop_without_data(optimize_command: Run, tiny_onnx: Path) -> None:
    refused(optimize_command("build", tiny_onnx, "--max-drop", "1"), 2, "--max-drop", "--data")


@pytest.mark.parametrize("batch", ["0", "-1", "1,0", "many"])
def test_bad_batch(optimize_command: Run, tiny_onnx: Path, batch: str) -> None:
    refused(optimize_command("build", tiny_onnx, f"--batch={batch}"), 2, "--batch")
    refused(optimize_command("bench", tiny_onnx, f"--batch={batch}"), 2, "--batch")


def test_backend_that_is_not_here(optimize_command: Run, tiny_onnx: Path) -> None:
    refused(optimize_command("build", tiny_onnx, "--backend", "tensorrt"), 4, "tensorrt")
    refused(optimize_command("build", tiny_onnx, "--backend", "abacus"), 2, "abacus")


def test_no_model_at_all(optimize_command: Run) -> None:
    refused(optimize_command("build"), 2, "optimize build MODEL")


def _noise(count: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, (count, 32, 32, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda d: (d / "test_batch.bin").write_bytes(b"\1" * 3000), ["test_batch.bin"]),
        (lambda d: (d / "test_batch.bin").write_bytes(b""), []),
        (lambda d: np.savez(d / "d.npz", x=_noise(40)[:, :20, :20], y=np.arange(40) % 10), ["20x20", "32x32"]),
        (lambda d: np.savez(d / "d.npz", x=_noise(40), y=np.arange(40)), ["label", "10 classes"]),
        (lambda d: np.savez(d / "d.npz", x=np.zeros((0, 32, 32, 3), np.uint8), y=np.zeros(0, int)), []),
        (lambda d: None, []),
    ],
)
def test_bad_data(
    optimize_command: Run, tmp_path: Path, tiny_onnx: Path, make: Callable[[Path], Any], words: list
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    make(folder)
    data = folder / "d.npz" if (folder / "d.npz").exists() else folder
    result = optimize_command("build", tiny_onnx, "--precision", "int8", "--data", data, "-o", tmp_path / "out")
    refused(result, 1, *words)
    nothing_left(tmp_path / "out")


def test_missing_data(optimize_command: Run, tiny_onnx: Path, tmp_path: Path) -> None:
    refused(optimize_command("build", tiny_onnx, "--data", tmp_path / "nowhere"), 2, "nowhere")


def test_json_errors_are_json(optimize_command: Run, tiny_onnx: Path) -> None:
    result = optimize_command("build", tiny_onnx, "--precision", "int8", "--json")
    assert json.loads(result.stdout)["error"]["exit_code"] == 2


def test_output_folder_not_writable(tiny_onnx: Path, tmp_path: Path) -> None:
    """As another user: root may write anywhere."""
    if sys.platform != "linux" or os.geteuid() != 0 or shutil.which("setpriv") is None:
        folder = tmp_path / "locked"
        folder.mkdir(mode=0o500)
        if os.geteuid() == 0:
            pytest.skip("root may write anywhere, and setpriv is not here")
        done = _optimize("build", tiny_onnx, "-o", folder / "out")
    else:
        done = _optimize("build", tiny_onnx, "-o", "/proc/optimize-out")
    assert done.returncode in (2, 4), done.stderr
    assert "error: " in done.stderr and "Traceback" not in done.stderr


def test_disk_full(tiny_onnx: Path, tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    if (
        shutil.which("mount") is None
        or subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=24k", "tmpfs", str(small)], capture_output=True
        ).returncode
    ):
        pytest.skip("a small tmpfs cannot be mounted here")
    try:
        done = _optimize("build", tiny_onnx, "--precision", "fp32", "-o", small / "out", "--no-progress")
        assert done.returncode == 1, done.stderr
        assert "no space left" in done.stderr and "Traceback" not in done.stderr
        nothing_left(small)
    finally:
        subprocess.run(["umount", str(small)], check=True)


def test_a_flipped_byte(optimize_command: Run, built: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(built.bundles[0].path, bundle)
    engine = max((p for p in bundle.iterdir() if p.name != "manifest.json"), key=lambda p: p.stat().st_size)
    content = bytearray(engine.read_bytes())
    content[len(content) // 2] ^= 1
    engine.write_bytes(content)
    refused(optimize_command("bench", bundle, "--quick", "-o", tmp_path / "r.json"), 1, engine.name)
    assert not (tmp_path / "r.json").exists()


def test_made_for_another_device(optimize_command: Run, built: Any, tmp_path: Path) -> None:
    bundle = tmp_path / "bundle"
    shutil.copytree(built.bundles[0].path, bundle)
    about = json.loads((bundle / "manifest.json").read_text())
    about["device"]["arch"] = "riscv64"
    (bundle / "manifest.json").write_text(json.dumps(about))
    refused(optimize_command("bench", bundle, "--quick", "-o", tmp_path / "r.json"), 4, "riscv64")
    image = tmp_path / "i.png"
    image.write_bytes(b"")
    refused(optimize_command("predict", bundle, image), 4, "riscv64")


def _optimize(*words: object) -> subprocess.CompletedProcess:
    code = "import sys; sys.path[0] = sys.argv.pop(1); from optimize.cli import main; main()"
    return subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *map(str, words)], capture_output=True, text=True, cwd="/"
    )


def test_options_outside_a_table_of_the_configuration_are_refused(
    optimize_command: Callable[..., Any], tiny_onnx: Path
) -> None:
    Path("optimize.toml").write_text('precision = "int8"\n[build]\nbatch = "1"\n')
    result = optimize_command("build", tiny_onnx, "--dry-run")
    assert result.exit_code == 2 and "'precision' stands in no table" in result.stderr


def test_a_bundle_of_another_file_is_not_replaced_unasked(
    optimize_command: Callable[..., Any], tiny_onnx: Path, tmp_path: Path
) -> None:
    words = ["--precision", "fp32", "--batch", "1", "-o", tmp_path / "out", "--backend", "onnxruntime"]
    assert optimize_command("build", tiny_onnx, *words).exit_code == 0
    other = tmp_path / "other.onnx"
    other.write_bytes(tiny_onnx.read_bytes())
    refused(optimize_command("build", other, *words), 2, "was built from tiny.onnx, not other.onnx")
    assert optimize_command("build", other, *words, "--force").exit_code == 0


def test_an_image_of_another_size_is_named(optimize_command: Callable[..., Any], built: Any, tmp_path: Path) -> None:
    from PIL import Image

    Image.new("RGB", (200, 224)).save(tmp_path / "large.png")
    result = optimize_command("predict", built.bundles[0].path, tmp_path / "large.png")
    refused(result, 1, "large.png", "build the bundle again")


def test_a_model_of_nothing_but_nan_is_called_broken_itself(
    optimize_command: Run, tiny_onnx: Path, tmp_path: Path
) -> None:
    model = onnx.load(str(tiny_onnx))
    for item in model.graph.initializer:
        if item.name == "b3":
            item.CopyFrom(onnx.numpy_helper.from_array(np.full(item.dims, np.nan, np.float32), "b3"))
    made = next(node.output[0] for node in model.graph.node if "b3" in node.input)
    onnx.save(model, str(tmp_path / "nan.onnx"))
    done = optimize_command("build", tmp_path / "nan.onnx", "--precision", "fp32", "--batch", "1", "--no-progress")
    refused(
        done,
        1,
        "nan.onnx itself is broken",
        "no finite number",
        f"the first tensor with NaN or an infinity is {made!r}",
    )
    nothing_left(tmp_path)
