"""What `optimize doctor` says: of this machine, and of boards by trees of their files."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any, Dict, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines import backend, board, device, driver
from engines.driver import Gpu
from optimize import doctor
from optimize.doctor import interpreter, nvidia, software
from optimize.doctor.interpreter import Interpreter
from optimize.doctor.row import JETPACK, Row

BOARDS = Path(__file__).resolve().parent.parent / "boards"
NAMES = sorted(folder.name for folder in BOARDS.iterdir() if folder.is_dir())
ORIN = Gpu("Orin", "8.7", True, "11.4")
VENV = "/usr/bin/python3 -m venv --system-site-packages .venv"
MISSING = "the Python package tensorrt is not installed"


def facts_of(name: str) -> Dict[str, Any]:
    def run(words: Sequence[str]) -> str:
        return board.text(BOARDS / name / "commands" / words[0])

    return board.facts(BOARDS / name, run)


def rows_of(name: str, python: Interpreter, **found: Any) -> Dict[str, Row]:
    rows = nvidia.rows({**facts_of(name), **found}, python, ORIN)
    assert len({row.name for row in rows}) == len(rows)
    return {row.name: row for row in rows}


def ready(name: str) -> Interpreter:
    """A Python on that board in which everything is there."""
    found = facts_of(name)
    own = found["bindings"][0] if found["bindings"] else {"python": "3.11", "version": "10.3.0"}
    return Interpreter(
        own["python"],
        tensorrt=own["version"],
        tensorrt_found=True,
        pycuda="2022.2.2",
        tensorrt_libraries=not found["l4t"],
    )


# the state of each line where all of JetPack is seen, and every line that names a command
GOOD: Dict[str, Any] = {
    "xavier-nx-jp5": ({}, []),
    "orin-nano-jp5.1.2": ({"memory": "no", "clocks": "no"}, ["memory", "clocks"]),
    "orin-nano-jp6.2": ({}, ["power"]),
    "agx-orin-jp6.1": ({"jetpack": "?", "clocks": "no"}, ["jetpack", "power", "clocks"]),
    "thor-jp7": ({}, []),
    "rtx-desktop": ({"clocks": "?"}, ["clocks"]),
    "nano-jp4": ({"memory": "no", "clocks": "no", "trtexec": "no"}, ["memory", "clocks", "trtexec"]),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_board_in_order_names_only_what_can_be_better(name: str):
    states, fixes = GOOD[name]
    rows = rows_of(name, ready(name))
    assert {row.name: row.state for row in rows.values() if row.state != "ok"} == states
    assert [row.name for row in rows.values() if row.fix] == fixes


JETSON = ["board", "l4t", "jetpack", "driver", "libnvinfer", "bindings", "cuda", "cudnn", "pycuda"]
JETSON += ["memory", "power", "clocks"]


@pytest.mark.parametrize("name", NAMES)
def test_which_lines_a_machine_has(name: str):
    rows = list(rows_of(name, ready(name)))
    if name == "nano-jp4":
        assert rows == ["board", "l4t", "jetpack", "libnvinfer", "memory", "power", "clocks", "trtexec"]
    elif name == "rtx-desktop":
        assert rows == ["driver", "bindings", "cuda", "pycuda", "memory", "clocks"]
    else:
        assert rows == JETSON


def test_the_lines_of_the_users_board():
    rows = rows_of("orin-nano-jp5.1.2", ready("orin-nano-jp5.1.2"))
    assert {name: row.text for name, row in rows.items()} == {
        "board": "NVIDIA Orin Nano Developer Kit (tegra234, compute capability 8.7, no DLA)",
        "l4t": "35.4.1",
        "jetpack": "5.1.2",
        "driver": "Orin, compute capability 8.7, CUDA 11.4",
        "libnvinfer": "8.5.2-1+cuda11.4",
        "bindings": "tensorrt 8.5.2.2, seen by this Python 3.8",
        "cuda": "11.4.19",
        "cudnn": "8.6.0.166",
        "pycuda": "2022.2.2",
        "memory": "8.0 GB, shared by CPU and GPU; 5.6 GB free; swap 4.0 GB, 4.0 of it zram: "
        "a build may be killed without swap on the disk",
        "power": "15W (0)",
        "clocks": "float, and engines and times with them: CPU 730 to 1510, GPU 306 to 625, memory up to 2133 MHz",
    }
    assert rows["clocks"].fix.startswith("sudo jetson_clocks")
    assert rows["memory"].fix.startswith("sudo fallocate -l 8G /swapfile && ")


@pytest.mark.parametrize(
    "python, says, fix",
    [
        (
            Interpreter("3.8", venv=True, sees_system=False, tensorrt_why=MISSING),
            "this virtual environment was made without --system-site-packages and cannot see JetPack's",
            VENV,
        ),
        (
            Interpreter("3.11", venv=True, sees_system=True, tensorrt_why=MISSING),
            "JetPack's are for Python 3.8, this is Python 3.11",
            VENV,
        ),
        (
            Interpreter("3.8", sees_system=False, tensorrt_why=MISSING),
            "this Python 3.8 is not the system's, which alone sees JetPack's",
            VENV,
        ),
        (
            Interpreter("3.8", tensorrt_found=True, tensorrt_why="libcudnn.so.8: cannot open shared object file"),
            "libcudnn.so.8: cannot open shared object file",
            JETPACK,
        ),
        (
            Interpreter("3.8", tensorrt_found=True, tensorrt_why="cannot allocate memory in static TLS block"),
            "cannot allocate memory in static TLS block",
            "export LD_PRELOAD=/usr/lib/aarch64-linux-gnu/libgomp.so.1",
        ),
        (
            Interpreter("3.8", tensorrt_found=True, tensorrt_why="module 'numpy' has no attribute 'bool'"),
            "module 'numpy' has no attribute 'bool'",
            "pip install numpy==1.23.5",
        ),
        (
            Interpreter("3.8", tensorrt="10.3.0", tensorrt_found=True),
            "tensorrt 10.3.0 does not fit libnvinfer 8.5.2",
            "pip uninstall tensorrt (it hides the system's, which fits)",
        ),
    ],
)
def test_bindings_that_this_python_cannot_use(python: Interpreter, says: str, fix: str):
    row = rows_of("orin-nano-jp5.1.2", python)["bindings"]
    assert (row.state, row.text) == ("no", says)
    assert row.fix.startswith(fix)


def test_bindings_that_are_not_there():
    python = Interpreter("3.8", tensorrt_why=MISSING)
    row = rows_of("orin-nano-jp5.1.2", python, bindings=[], bindings_package="")["bindings"]
    assert row.fix == "sudo apt install python3-libnvinfer"
    old = rows_of("orin-nano-jp5.1.2", Interpreter("3.8", tensorrt="8.5.2.2", tensorrt_found=True), tensorrt="8.6.2")
    assert old["bindings"].text == "tensorrt 8.5.2.2 does not fit libnvinfer 8.6.2"
    assert old["bindings"].fix == "sudo apt install python3-libnvinfer=8.5.2-1+cuda11.4"
    desktop = rows_of("rtx-desktop", Interpreter("3.11", tensorrt_why=MISSING))["bindings"]
    assert desktop == Row("bindings", "no", MISSING, "pip install 'optimize-trt[tensorrt]'")


def test_wheels_that_bring_libnvinfer_fit_whatever_the_system_has():
    python = Interpreter("3.11", tensorrt="10.16.1.11", tensorrt_found=True, tensorrt_libraries=True)
    assert rows_of("rtx-desktop", python, tensorrt="8.6.1")["bindings"].state == "ok"


@pytest.mark.parametrize(
    "name, fix",
    [
        ("xavier-nx-jp5", "v512 tensorflow==2.12.0+nv23.06"),
        ("orin-nano-jp5.1.2", "v512 tensorflow==2.12.0+nv23.06"),
        ("orin-nano-jp6.2", "v61 tensorflow==2.16.1+nv24.08"),
        ("thor-jp7", "NVIDIA has none for this JetPack"),
        ("rtx-desktop", "pip install 'tensorflow[and-cuda]'"),
    ],
)
def test_tensorflow_without_cuda_names_the_one_with(name: str, fix: str):
    row = rows_of(name, ready(name)._replace(tensorflow="2.13.1", tensorflow_cuda=""))["tf-cuda"]
    assert row.state == "no" and "built without CUDA" in row.text and fix in row.fix


def test_tensorflow_with_cuda():
    def row(version: str, cuda: Any) -> Row:
        python = ready("orin-nano-jp5.1.2")._replace(tensorflow=version, tensorflow_cuda=cuda)
        return rows_of("orin-nano-jp5.1.2", python)["tf-cuda"]

    good = row("2.12.0+nv23.06", "11.4")
    assert good.state == "ok" and good.text.startswith("TensorFlow 2.12.0+nv23.06, built for CUDA 11.4")
    assert "bench --device gpu" in good.text  # what it is built for does not say that it loads
    assert row("2.12.0+nv23.06", None).state == "ok"
    assert row("2.13.1", None).state == "no", "PyPI's on a board says nothing and has none"
    assert row("2.16.1+nv24.08", "12.6").text.endswith("built for CUDA 12.6, the board has 11.4.19")


@pytest.mark.parametrize(
    "l4t, version",
    [("35.3.1", "2.11.0+nv23.03"), ("35.6.4", "2.12.0+nv23.06"), ("36.3.0", "2.16.1+nv24.06"), ("39.2", ""), ("", "")],
)
def test_the_tensorflow_of_each_release(l4t: str, version: str):
    assert software.tensorflow_wheel(l4t)[0] == version
    assert (version in software.tensorflow_wheel(l4t)[1]) and bool(version) == bool(software.tensorflow_wheel(l4t)[1])


def test_cuda_cudnn_and_pycuda_that_are_missing():
    bare = Interpreter("3.8", tensorrt_why=MISSING)
    rows = rows_of("orin-nano-jp5.1.2", bare, cuda="", nvcc=False, cudnn="", tensorrt="", tensorrt_package="")
    assert {name: rows[name].fix for name in ("libnvinfer", "cuda")} == {"libnvinfer": JETPACK, "cuda": JETPACK}
    assert rows_of("orin-nano-jp5.1.2", bare, cudnn="")["cudnn"].fix == JETPACK
    assert rows_of("orin-nano-jp6.2", bare, cudnn="")["cudnn"].state == "ok", "TensorRT 10 does without"
    assert rows_of("orin-nano-jp5.1.2", bare, nvcc=False)["cuda"].fix == JETPACK, "pycuda is built with it"
    where = "PATH=/usr/local/cuda/bin:$PATH CUDA_ROOT=/usr/local/cuda pip install "
    wanted = {"orin-nano-jp5.1.2": "pycuda==2022.2.2", "orin-nano-jp6.2": "pycuda", "thor-jp7": "'pycuda>=2026.1'"}
    assert {name: rows_of(name, bare)["pycuda"].fix for name in wanted} == {n: where + w for n, w in wanted.items()}


def test_pycuda_that_does_not_load():
    python = ready("orin-nano-jp6.2")
    no_driver = python._replace(pycuda_why="pycuda does not load: libcuda.so.1: cannot open shared object file")
    assert rows_of("orin-nano-jp6.2", no_driver)["pycuda"].fix == "mend the driver, above"
    stale = python._replace(pycuda_why="pycuda does not load: undefined symbol: cuCtxCreate_v4")
    assert "--force-reinstall" in rows_of("orin-nano-jp6.2", stale)["pycuda"].fix


@pytest.mark.parametrize(
    "name, why, container, fix",
    [
        ("orin-nano-jp5.1.2", "libcuda.so.1 is not here", False, "sudo apt install --reinstall nvidia-l4t-cuda"),
        ("orin-nano-jp5.1.2", "(cuInit gives 100)", False, "sudo usermod -aG video,render $USER"),
        ("orin-nano-jp5.1.2", "libcuda.so.1 is not here", True, "start the container by docker run --runtime nvidia"),
        ("rtx-desktop", "libcuda.so.1 is not here", True, "start the container by docker run --gpus all"),
        ("rtx-desktop", "(cuInit gives 999)", False, "nvidia-smi says more"),
    ],
)
def test_a_driver_without_a_gpu(name: str, why: str, container: bool, fix: str):
    rows = nvidia.rows(facts_of(name), ready(name), None, why, container)
    (row,) = (row for row in rows if row.name == "driver")
    assert row.state == "no" and row.text == why and row.fix.startswith(fix)


def test_the_label_of_a_power_mode_is_not_believed():
    found = facts_of("orin-nano-jp6.2")
    gpu = {"now_hz": 306_000_000, "min_hz": 306_000_000, "max_hz": 1_020_000_000, "locked": False}
    row = rows_of("orin-nano-jp6.2", ready("orin-nano-jp6.2"), clocks={**found["clocks"], "gpu": gpu})["power"]
    assert row.state == "no" and row.fix.startswith("sudo nvpmodel -m 1")
    assert row.text == "25W (1), but the GPU may run to 1020 MHz, not to the mode's 918"


def test_power_and_memory_that_nobody_tells():
    none: Dict[str, Any] = {"id": None, "name": "", "default": None, "modes": []}
    sizes = ("total_bytes", "available_bytes", "swap_bytes", "swap_free_bytes", "zram_bytes")
    nothing: Dict[str, Any] = {**dict.fromkeys(sizes), "shared": True}
    rows = rows_of("orin-nano-jp6.2", ready("orin-nano-jp6.2"), power=none, memory=nothing)
    assert (rows["power"].state, rows["memory"].state) == ("?", "?")
    full = {**facts_of("orin-nano-jp6.2")["memory"], "available_bytes": 900_000_000}
    row = rows_of("orin-nano-jp6.2", ready("orin-nano-jp6.2"), memory=full)["memory"]
    assert row.state == "no" and "sudo init 3" in row.fix


def test_the_original_nano_is_sent_to_its_own_trtexec():
    row = rows_of("nano-jp4", Interpreter("3.8", tensorrt_why=MISSING))["trtexec"]
    assert "JetPack 4.6.1 has Python 3.6" in row.text
    assert "/usr/src/tensorrt/bin/trtexec --onnx=model.onnx --fp16" in row.fix
    assert "optimize export MODEL --opset 13 --batch 1 -o model.onnx" in row.fix
    tensorrt = doctor.examine(root=BOARDS / "nano-jp4", run=lambda words: "", python=Interpreter("3.8"))["backends"][0]
    assert (tensorrt["works"], tensorrt["fix"]) == (False, "") and tensorrt["why"].endswith("the board's own trtexec")


def test_a_container_is_told_to_mount_the_release():
    rows = nvidia.rows({**facts_of("orin-nano-jp6.2"), "l4t": ""}, ready("orin-nano-jp6.2"), ORIN, "", True)
    (row,) = (row for row in rows if row.name == "l4t")
    assert row.state == "no" and "-v /etc/nv_tegra_release:/etc/nv_tegra_release:ro" in row.fix


pythons = st.builds(
    Interpreter,
    st.sampled_from(["3.8", "3.10", "3.12"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "8.5.2.2", "10.3.0", "10.3.0+double", "?"]),
    st.text(max_size=20),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "2022.2.2"]),
    st.text(max_size=20),
    st.sampled_from(["", "2.12.0+nv23.06", "2.13.1"]),
    st.sampled_from([None, "", "11.4"]),
)
gpus = st.sampled_from([None, ORIN])


@given(st.sampled_from(NAMES), pythons, gpus, st.booleans(), st.data())
def test_what_is_wrong_always_comes_with_a_command(name: str, python: Interpreter, gpu: Any, inside: bool, data: Any):
    found = facts_of(name)
    for lost in data.draw(st.sets(st.sampled_from(["tensorrt", "cuda", "cudnn", "l4t", "jetpack", "jetpack_by"]))):
        found[lost] = ""
    for row in nvidia.rows(found, python, gpu, "no GPU", inside):
        assert row.state in ("ok", "no", "?") and len(row.name) < 12
        assert row.fix or row.state != "no", row


# This machine


def test_a_machine_without_nvidia_says_nothing_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver, "ask", lambda index=0: (None, "there is none"))
    found = doctor.examine(root=tmp_path)
    assert found["board"] is None
    assert set(found) == {
        "facts", "features", "backends", "parts", "board", "disk_free_bytes", "writable", "ok", "chosen", "fix"
    }  # fmt: skip
    words = "\n".join(doctor.lines(found))
    assert "clocks" not in words and "jetpack" not in words.lower()


@pytest.mark.parametrize("name", NAMES)
def test_the_whole_report_of_a_board(name: str):
    def run(words: Sequence[str]) -> str:
        return board.text(BOARDS / name / "commands" / words[0])

    found = doctor.examine(root=BOARDS / name, run=run, python=ready(name))
    assert json.loads(json.dumps(found)) == found
    assert {"name", "works", "text", "fix"} == set(found["board"]["checks"][0])
    words = doctor.lines(found)
    states = {True: "ok", False: "no", None: "?"}
    for check in found["board"]["checks"]:
        assert f"{check['name']:12}{states[check['works']]:4}{check['text']}" in words
        assert not check["fix"] or f"            {check['fix']}" in words


def test_a_tensorrt_that_is_installed_but_does_not_load_is_not_chosen(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(backend, "unavailable", lambda name: "")

    def chosen(python: Interpreter) -> Any:
        found = doctor.examine(root=BOARDS / "rtx-desktop", run=lambda words: "", python=python)
        return found["chosen"], {one["name"]: one for one in found["backends"]}["tensorrt"]

    monkeypatch.setattr(driver, "ask", lambda index=0: (ORIN, ""))
    assert chosen(ready("rtx-desktop"))[0] == "tensorrt"
    broken = ready("rtx-desktop")._replace(tensorrt="", tensorrt_why="libnvinfer.so.10: cannot open shared object file")
    other, tensorrt = chosen(broken)
    assert other == "openvino" and not tensorrt["works"]
    assert tensorrt["why"] == broken.tensorrt_why and tensorrt["fix"].startswith("pip install")


@pytest.mark.tensorrt
def test_this_interpreter_where_tensorrt_and_pycuda_load(trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(driver, "ask", driver.ask.__wrapped__)  # what this process asked before is kept for later
    version = device.tensorrt_version.__wrapped__
    for module in (device, backend, interpreter):
        monkeypatch.setattr(module, "tensorrt_version", version)
    found = doctor.examine(root=tmp_path)
    checks = {check["name"]: check for check in found["board"]["checks"]}
    assert all(checks[name]["works"] for name in nvidia.NEEDED), checks
    assert checks["bindings"]["text"].startswith(f"tensorrt {trt.__version__}, ")
    assert found["backends"][0]["version"] == trt.__version__ and found["chosen"] == "tensorrt"


def test_a_jetson_is_not_sent_to_pypi_for_tensorflow(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(doctor, "version_of", lambda package: "")

    def parts(name: str) -> Dict[str, str]:
        found = doctor.examine(root=BOARDS / name, run=lambda words: "", python=ready(name))
        return {part["name"]: part["fix"] for part in found["parts"]}

    assert parts("orin-nano-jp5.1.2")["tensorflow"].endswith("tensorflow==2.12.0+nv23.06")
    assert "tf-keras" not in parts("orin-nano-jp5.1.2")
    assert parts("orin-nano-jp6.2")["tf-keras"] == "pip install 'tf-keras==2.16.*'"
    assert parts("rtx-desktop")["tensorflow"] == "pip install 'optimize-trt[tensorflow]'"


def test_this_interpreter():
    seen = interpreter.look()
    assert seen.python == "{}.{}".format(*sys.version_info[:2])
    assert seen.venv == (sys.prefix != sys.base_prefix)
    assert bool(seen.tensorrt) or seen.tensorrt_why


def test_a_virtual_environment_by_its_configuration(tmp_path: Path):
    config = tmp_path / "pyvenv.cfg"
    assert not interpreter.sees_system(config)
    config.write_text("home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.8.10\n")
    assert not interpreter.sees_system(config)
    config.write_text("home = /usr/bin\ninclude-system-site-packages = true\nversion = 3.8.10\n")
    assert interpreter.sees_system(config)


@pytest.mark.parametrize(
    "text, cuda",
    [
        ("build_info = OrderedDict([('cuda_version', '12.5.1'), ('is_cuda_build', True)])", "12.5.1"),
        ('build_info = {"is_cuda_build": True, "cuda_version": "11.4"}', "11.4"),
        ("build_info = OrderedDict([('is_cuda_build', False), ('is_rocm_build', False)])", ""),
        ("build_info = OrderedDict([('is_cuda_build', True)])", None),
        ("", None),
    ],
)
def test_the_cuda_of_a_tensorflow(text: str, cuda: Any):
    assert interpreter.cuda_of_tensorflow(text) == cuda


def test_a_module_that_does_not_load_says_why():
    assert interpreter._does_not_load("json") == ""
    assert "no_such_module" in interpreter._does_not_load("no_such_module")


def test_nothing_heavy_is_imported():
    heavy = ("tensorrt", "pycuda", "tensorflow", "torch", "onnx", "onnxruntime", "openvino")
    code = (
        "import sys, pathlib\n"
        "from optimize import doctor\n"
        f"found = doctor.examine(root=pathlib.Path({str(BOARDS / 'orin-nano-jp6.2')!r}), run=lambda words: '')\n"
        "assert found['board']\n"
        f"print([name for name in {heavy!r} if name in sys.modules])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, check=True)
    assert done.stdout.split() == [b"[]"]


def test_the_pip_of_a_command_is_that_of_this_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    folder = tmp_path / ".venv" / "bin"
    folder.mkdir(parents=True)
    python, pip = folder / "python", folder / "pip"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")

    def told(command: str) -> str:
        return interpreter.own_pip(command, str(folder.parent), str(python))

    assert told("pip install onnxruntime") == ".venv/bin/python -m pip install onnxruntime"
    assert told("CUDA_ROOT=/c pip install x") == "CUDA_ROOT=/c .venv/bin/python -m pip install x"
    plain = "make setup TORCH=1 (the CPU build; a plain pip install brings CUDA)"
    assert told(plain) == plain
    held = folder.parent / "constraints.txt"
    held.touch()
    assert told("pip install x") == f".venv/bin/python -m pip install -c {held} x"
    assert told("pip uninstall x") == ".venv/bin/python -m pip uninstall x"
    pip.touch(0o755)
    monkeypatch.setenv("PATH", str(folder))
    assert told("pip uninstall x") == "pip uninstall x"
