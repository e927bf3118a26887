"""What is shipped, what it requires, and what an import costs."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path
from typing import Any, Dict, Iterator, List, Set

import pytest
from packaging.requirements import Requirement
from packaging.version import Version

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from optimize.version import VERSION

ROOT = Path(__file__).resolve().parent.parent
FLOORS = ("engines", "calib", "bench", "optimize")
EXTRAS = {
    "tensorflow",
    "torch",
    "openvino",
    "tensorrt",
    "report",
    "suites",
    "loadgen",
    "fleet",
    "s3",
    "serve",
    "triton",
    "trust",
    "servers",
    "dev",
}
HEAVY = [
    "tensorflow",
    "keras",
    "tf_keras",
    "tf2onnx",
    "torch",
    "openvino",
    "onnxruntime",
    "onnx",
    "h5py",
    "matplotlib",
    "tensorrt",
    "pycuda",
    "mlserver",
    "tritonclient",
    "grpc",
]
# Classes of a framework can only be written where it is imported; these modules are themselves imported when needed.
OF_A_FRAMEWORK = ("optimize.zoo.torch_", "optimize.serving.runtime", "bench.peers.drawn")
"""How the names of modules begin that are imported where their framework is, and nowhere else."""
WITHOUT_NUMPY = [
    "optimize",
    "optimize.cli",
    "optimize.cli.app",
    *(f"engines.{name}" for name in ["errors", "jsonfile", "spec", "child", "open", "device", "manifest", "backend"]),
]
LINUX = {"sys_platform": "linux", "platform_system": "Linux", "os_name": "posix"}
MACHINES: Dict[str, Dict[str, str]] = {
    "x86-64 Linux": {**LINUX, "platform_machine": "x86_64"},
    "Linux aarch64": {**LINUX, "platform_machine": "aarch64"},
    "macOS": {"sys_platform": "darwin", "platform_system": "Darwin", "os_name": "posix", "platform_machine": "arm64"},
    "Windows": {"sys_platform": "win32", "platform_system": "Windows", "os_name": "nt", "platform_machine": "AMD64"},
}
PYTHONS = ("3.8", "3.9", "3.10", "3.11", "3.12", "3.13")


def modules() -> Iterator[str]:
    """Every module of the four floors, by its dotted name."""
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            if parts[-1] != "__main__":
                yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imported_by(names: List[str], folder: Path) -> Set[str]:
    """Top-level modules that a fresh Python has loaded after it imported `names`."""
    code = (
        "import importlib, sys\n"
        "sys.path.insert(0, sys.argv[1])\n"
        "for name in sys.argv[2:]: importlib.import_module(name)\n"
        "print(*{name.partition('.')[0] for name in sys.modules})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(ROOT), *names], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    )
    return set(done.stdout.split())


@pytest.fixture(scope="module")
def project() -> Dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@pytest.fixture(scope="module")
def readme() -> str:
    path = ROOT / "README.md"
    if not path.is_file():
        pytest.skip("README.md is not there yet")
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory, readme: str) -> Path:
    """The wheel, built from a copy, since setuptools leaves folders beside its sources."""
    if Version(importlib.metadata.version("setuptools")) < Version("64"):
        pytest.skip("setuptools is older than 64")
    copy, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheel")
    for name in (*FLOORS, "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("bench-old", "calib_notes", "demo"):
        (copy / name).mkdir()
        (copy / name / "__init__.py").touch()
    code = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(out)], cwd=copy, check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return path


def test_wheel_holds_the_four_packages_whole_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = {name for name in archive.namelist() if ".dist-info/" not in name}
    sources = {
        path.relative_to(ROOT).as_posix()
        for floor in FLOORS
        for path in (ROOT / floor).rglob("*")
        if path.suffix in (".py", ".css", ".js", ".yml", ".j2", ".sh") or path.name == "py.typed"
    }
    assert {name.partition("/")[0] for name in files} == set(FLOORS)
    assert sources <= files
    assert {f"{floor}/py.typed" for floor in FLOORS} <= files
    assert not [name for name in files if "test" in Path(name).name]


def test_wheel_metadata(wheel: Path, readme: str) -> None:
    with zipfile.ZipFile(wheel) as archive:
        info = f"optimize_trt-{VERSION}.dist-info"
        metadata = Parser().parsestr(archive.read(f"{info}/METADATA").decode("utf-8"))
        entry_points = archive.read(f"{info}/entry_points.txt").decode("utf-8")
        assert any(name.startswith(info) and name.endswith("/LICENSE") for name in archive.namelist())
    assert (metadata["Name"], metadata["Version"]) == ("optimize-trt", VERSION)
    assert metadata["Requires-Python"] == ">=3.8"
    assert metadata["License"] == "Apache-2.0"
    assert set(metadata.get_all("Provides-Extra")) >= EXTRAS
    assert metadata.get_payload().strip() == readme.strip()
    assert entry_points.split() == ["[console_scripts]", "optimize", "=", "optimize.cli:main"]


def test_the_command_runs_from_the_wheel(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "site")
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import optimize; from optimize.cli import main\n"
        "assert optimize.__file__.startswith(sys.path[0]), optimize.__file__\n"
        "sys.exit(main())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "site"), "--help"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    for command in ("build", "bench", "demo", "doctor", "verify", "export"):
        assert command in done.stdout


def test_the_version_has_one_source(project: Dict[str, Any]) -> None:
    import optimize

    assert "version" in project["dynamic"] and "version" not in project
    assert optimize.__version__ == VERSION
    texts = [ROOT / "pyproject.toml", *(path for floor in FLOORS for path in (ROOT / floor).rglob("*.py"))]
    assert [p.name for p in texts if f'"{VERSION}"' in p.read_text(encoding="utf-8")] == ["version.py"]
    newest = re.search(r"^## (\S+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert newest is not None and newest.group(1) in (VERSION, "Unreleased")


def test_every_folder_of_code_is_a_package() -> None:
    """import-linter passes over a folder without `__init__.py`, and so would the rule of the floors."""
    folders = {path.parent for floor in FLOORS for path in (ROOT / floor).rglob("*.py")}
    assert [str(f.relative_to(ROOT)) for f in sorted(folders) if not (f / "__init__.py").is_file()] == []


def test_no_import_brings_a_framework(tmp_path: Path) -> None:
    assert not imported_by([name for name in modules() if not name.startswith(OF_A_FRAMEWORK)], tmp_path) & set(HEAVY)


def test_the_command_and_the_foundation_import_without_numpy(tmp_path: Path) -> None:
    assert not imported_by(WITHOUT_NUMPY, tmp_path) & {"numpy", *HEAVY}


def required(project: Dict[str, Any], extra: str, machine: str, python: str) -> Dict[str, Requirement]:
    environment = {**MACHINES[machine], "python_version": python, "python_full_version": python + ".0", "extra": extra}
    found = [Requirement(text) for text in project["optional-dependencies"][extra]]
    return {r.name: r for r in found if r.marker is None or r.marker.evaluate(environment)}


def test_extras_are_named(project: Dict[str, Any]) -> None:
    assert set(project["optional-dependencies"]) == EXTRAS
    bounds = [Requirement(t) for texts in project["optional-dependencies"].values() for t in texts]
    assert [r.name for r in bounds if not {s.operator for s in r.specifier} & {">=", "=="}] == []


@pytest.mark.parametrize("machine", MACHINES)
@pytest.mark.parametrize("python", PYTHONS)
def test_tensorflow_comes_once_and_never_over_nvidias(project: Dict[str, Any], machine: str, python: str) -> None:
    """JetPack 5 has Python 3.8 and JetPack 6 Python 3.10; TensorFlow is NVIDIA's on both."""
    found = required(project, "tensorflow", machine, python)
    jetson = machine == "Linux aarch64" and python in ("3.8", "3.10")
    assert len({"tensorflow", "tensorflow-cpu"} & set(found)) == (0 if jetson else 1)
    modern = Version(python) >= Version("3.10")
    assert ("tf-keras" in found) == (modern and not jetson)
    assert found["tf2onnx"].specifier.contains("1.17.0") == modern
    assert found["tf2onnx"].specifier.contains("1.16.1") == (not modern)
    if machine == "x86-64 Linux" and python == "3.8":
        assert found["tensorflow-cpu"].specifier.contains("2.12.1")


@pytest.mark.parametrize("python", PYTHONS)
def test_tensorrt_is_never_installed_on_a_jetson(project: Dict[str, Any], python: str) -> None:
    assert required(project, "tensorrt", "Linux aarch64", python) == {}
    assert set(required(project, "tensorrt", "x86-64 Linux", python)) == {"tensorrt", "pycuda"}


def test_jetpack5_constraints_are_within_the_bounds(project: Dict[str, Any]) -> None:
    lines = (ROOT / "constraints" / "jetpack5.txt").read_text(encoding="utf-8").splitlines()
    pins = {r.name: r for r in (Requirement(line) for line in lines if line and not line.startswith("#"))}
    assert {"numpy", "tensorflow-cpu", "tf2onnx", "onnx", "onnxruntime"} <= set(pins)
    bounds = {r.name: r for r in map(Requirement, project["dependencies"])}
    bounds.update(required(project, "tensorflow", "x86-64 Linux", "3.8"))
    bounds.update(required(project, "openvino", "x86-64 Linux", "3.8"))
    for name in set(pins) & set(bounds):
        (pin,) = pins[name].specifier
        assert bounds[name].specifier.contains(pin.version), name


def targets() -> Set[str]:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    return set(re.findall(r"^([a-z][a-z-]*):", text, re.MULTILINE))


def test_make_has_every_target_that_the_readme_names(readme: str) -> None:
    named = set(re.findall(r"^\s*(?:\$ )?make ([a-z][a-z-]*)", readme, re.MULTILINE))
    named |= set(re.findall(r"`make ([a-z][a-z-]*)", readme))
    assert {"demo", "test"} <= named <= targets()


_OF_MAKE = ("MAKEFLAGS", "MFLAGS", "MAKEOVERRIDES", "MAKELEVEL", "EXTRAS", "TORCH", "TORCH_SPEC", "PIP_OPTIONS")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not on this machine")
def test_make_setup_asks_for_the_cpu_build_of_torch_only_when_told(tmp_path: Path) -> None:
    def plan(*words: str) -> str:
        command = ["make", "--dry-run", "setup", f"VENV={tmp_path / 'venv'}", f"PYTHON={sys.executable}", *words]
        # `make test EXTRAS=...` hands its variables down; this make must see none of them
        env = {k: v for k, v in os.environ.items() if k not in _OF_MAKE}
        return subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout

    assert "tensorflow,openvino,report,dev" in plan()
    assert "torch==" not in plan() and "torch==" not in plan("TORCH=0")
    build = "+cpu" if sys.platform == "linux" else ""
    assert f"'torch==2.13.0{build}'" in plan("TORCH=1")
    assert "'torch==2.4.1'" in plan("TORCH=1", "TORCH_SPEC=torch==2.4.1")
    held = tmp_path / "venv" / "constraints.txt"
    assert str(held) not in plan()
    held.parent.mkdir()
    held.touch()  # as install-jetson.sh leaves it
    assert f"install -qq -c {held} -e" in plan()
