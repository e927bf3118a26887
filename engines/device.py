"""What this machine is: the key an engine is tied to, and the facts recorded with every run. No backend is imported."""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Tuple

from engines import driver
from engines.errors import DamagedError, OptimizeError

_CPUINFO: Dict[str, Tuple[str, ...]] = {
    "x86_64": (
        "sse4_2",
        "f16c",
        "fma",
        "avx2",
        "avx_vnni",
        "avx_vnni_int8",
        "avx_ne_convert",
        "avx512f",
        "avx512bw",
        "avx512dq",
        "avx512vl",
        "avx512_vnni",
        "avx512_bf16",
        "avx512_fp16",
        "amx_tile",
        "amx_int8",
        "amx_bf16",
        "amx_fp16",
    ),
    "aarch64": ("asimd", "fphp", "asimdhp", "asimddp", "asimdfhm", "sve", "sve2", "bf16", "svebf16", "i8mm", "svei8mm"),
}
"""Flags of /proc/cpuinfo that decide which kernels a backend picks, and with them speed and numbers."""

_SYSCTL: Dict[str, str] = {
    "hw.optional.AdvSIMD": "asimd",
    "hw.optional.arm.FEAT_FP16": "asimdhp",
    "hw.optional.arm.FEAT_DotProd": "asimddp",
    "hw.optional.arm.FEAT_FHM": "asimdfhm",
    "hw.optional.arm.FEAT_BF16": "bf16",
    "hw.optional.arm.FEAT_I8MM": "i8mm",
    "hw.optional.sse4_2": "sse4_2",
    "hw.optional.f16c": "f16c",
    "hw.optional.fma": "fma",
    "hw.optional.avx2_0": "avx2",
    "hw.optional.avx512f": "avx512f",
    "hw.optional.avx512bw": "avx512bw",
    "hw.optional.avx512dq": "avx512dq",
    "hw.optional.avx512vl": "avx512vl",
}
"""macOS says the same under other names."""

_ARCH = {"amd64": "x86_64", "x64": "x86_64", "arm64": "aarch64"}

_DISTRIBUTIONS: Dict[str, Tuple[str, ...]] = {
    "tensorrt": ("tensorrt", "tensorrt-cu11", "tensorrt-cu12", "tensorrt-cu13"),
    "openvino": ("openvino",),
    "onnxruntime": ("onnxruntime", "onnxruntime-gpu", "onnxruntime-openvino", "onnxruntime-directml"),
    "tensorflow": ("tensorflow", "tensorflow-cpu", "tensorflow-intel", "tensorflow-macos"),
}
"""Distributions that provide a package; one of its own name elsewhere."""

_PACKAGES = (
    "numpy",
    "tensorflow",
    "keras",
    "tf-keras",
    "torch",
    "torchvision",
    "onnx",
    "onnxruntime",
    "openvino",
    "tf2onnx",
    "tensorrt",
    "pycuda",
)

_ON_GPU = ("compute_capability", "gpu", "l4t")

_MUST_EQUAL = ("os", "arch", "compute_capability", "gpu", "l4t")


def version_of(package: str) -> str:
    """Version of an installed package by its distribution's name, without importing it; empty where not installed."""
    for name in _DISTRIBUTIONS.get(package, (package,)):
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return ""


def backend_version(name: str) -> str:
    """Full version of a backend, without importing it here; empty where it is not installed."""
    return tensorrt_version()[0] if name == "tensorrt" else version_of(name)


@functools.lru_cache(maxsize=None)
def tensorrt_version() -> Tuple[str, str]:
    """Version of the TensorRT that `import tensorrt` gives, or empty and why.

    The metadata of an installed distribution tells it at once, if that distribution is the one that would be imported;
    else a child process imports it, since a library that is missing may end the process.
    """
    found = importlib.util.find_spec("tensorrt")
    if found is None or found.origin is None:
        return "", "the Python package tensorrt is not installed"
    for name in _DISTRIBUTIONS["tensorrt"]:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        if os.path.realpath(str(distribution.locate_file("tensorrt/__init__.py"))) == os.path.realpath(found.origin):
            return distribution.version, ""
    from engines import child

    try:
        return str(child.call("engines.device:import_version", {"package": "tensorrt"})), ""
    except OptimizeError as error:
        return "", f"the Python package tensorrt does not load: {error.message}"


@functools.lru_cache(maxsize=None)
def import_error(package: str) -> str:
    """Why a package that is installed does not import, tried in a child process; empty where it does."""
    from engines import child

    try:
        child.call("engines.device:import_version", {"package": package})
    except OptimizeError as error:
        return error.message
    return ""


DOUBLE = "+double"
"""Ends the version of a stand-in for a backend's library, which computes right and tells nothing of its speed."""


def import_version(package: str, progress: Any = None) -> str:
    """`__version__` of a package, by importing it: for a child process."""
    try:
        return str(importlib.import_module(package).__version__)
    except (ImportError, AttributeError) as error:
        raise OptimizeError(str(error)) from None


def arch() -> str:
    """Instruction set as Linux names it: x86_64, aarch64, armv7l."""
    machine = platform.machine().lower()
    return _ARCH.get(machine, machine)


def features_of(cpuinfo: str, machine: str) -> Tuple[str, ...]:
    """The flags that matter in the text of /proc/cpuinfo, sorted; those that every core of a mixed CPU has."""
    known = set(_CPUINFO.get(machine, ()))
    lines = re.findall(r"^(?:flags|Features)\s*:(.*)$", cpuinfo, re.MULTILINE)
    if not lines:
        return ()
    return tuple(sorted(known.intersection(*(set(line.split()) for line in lines))))


@functools.lru_cache(maxsize=1)
def cpu_features() -> Tuple[str, ...]:
    """Features of this CPU that decide speed or numbers, such as `amx_bf16`, `avx512_vnni`, `asimddp`.

    Read from /proc/cpuinfo on Linux and sysctl on macOS; empty on Windows.
    """
    if sys.platform.startswith("linux"):
        return features_of(_text(Path("/proc/cpuinfo")), arch())
    if sys.platform == "darwin":
        found = (feature for name, feature in _SYSCTL.items() if _sysctl(name) == "1")
        return tuple(sorted(set(found)))
    return ()


def l4t_of(release: str) -> str:
    """L4T version, such as `35.4.1`, in the text of /etc/nv_tegra_release; empty on other boards."""
    found = re.search(r"R(\d+)\s*\(release\),\s*REVISION:\s*([\d.]+)", release)
    return f"{found.group(1)}.{found.group(2)}" if found else ""


def device_key(backend: str) -> DeviceKey:
    """What an engine that `backend` builds here is tied to."""
    on_gpu = backend == "tensorrt"
    gpu = driver.gpu() if on_gpu else None
    return DeviceKey(
        backend=backend,
        version=backend_version(backend),
        os=platform.system().lower(),
        arch=arch(),
        features=() if on_gpu else cpu_features(),
        compute_capability=gpu.compute_capability if gpu else "",
        l4t=l4t() if on_gpu else "",
        gpu=gpu.model if gpu else "",
    )


def l4t() -> str:
    """L4T version of this board; empty on other machines."""
    return l4t_of(_text(Path("/etc/nv_tegra_release")))


def mismatch(made_for: DeviceKey, here: DeviceKey, what: str = "this machine") -> str:
    """Why an engine will not run on `here`, which is called `what`, naming the field and both values; empty where it
    fits. A CPU with more features than the engine was made for fits.
    """
    if made_for.backend != here.backend:
        return f"made with {made_for.backend}, asked to run on {here.backend}"
    for field in _MUST_EQUAL:
        there, this = getattr(made_for, field), getattr(here, field)
        if there != this:
            return f"made for {there or 'none'}, {what} is {this or 'none'} ({field})"
    lacking = sorted(set(made_for.features) - set(here.features))
    if lacking:
        return f"made for CPU features that {what} lacks: {', '.join(lacking)} (features)"
    if made_for.version != here.version:
        return f"made with {made_for.backend} {made_for.version}, {what} has {here.version or 'none'} (version)"
    return ""


def facts() -> Dict[str, Any]:
    """The environment of a run: nothing in it names the host, its user or a serial number.

    Returns:
        `cpu` (model name), `features` (see `cpu_features`), `cores` (logical, usable by this process),
        `physical_cores`, `memory_bytes`, `os`, `kernel`, `arch`, `board` (of a single-board computer, else empty),
        `l4t`, `gpu` (of `engines.driver`), `python`, `packages` (those installed, by name), `container`. What cannot be
        read is None or empty.
    """
    import psutil

    gpu = driver.gpu()
    return {
        "cpu": _cpu_model(),
        "features": list(cpu_features()),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "physical_cores": psutil.cpu_count(logical=False),
        "memory_bytes": int(psutil.virtual_memory().total),
        "os": platform.system().lower(),
        "kernel": platform.release(),
        "arch": arch(),
        "board": _text(Path("/proc/device-tree/model")).rstrip("\0\n"),
        "l4t": l4t(),
        "gpu": gpu._asdict() if gpu else None,
        "python": platform.python_version(),
        "packages": {name: version for name, version in ((p, version_of(p)) for p in _PACKAGES) if version},
        "container": in_container(),
    }


def _cpu_model() -> str:
    if sys.platform == "darwin":
        return _sysctl("machdep.cpu.brand_string")
    found = re.search(r"^(?:model name|Hardware|Model)\s*:\s*(.+)$", _text(Path("/proc/cpuinfo")), re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or arch()


def in_container() -> bool:
    """Whether this runs in Docker, Podman, LXC or Kubernetes."""
    marks = (Path("/.dockerenv"), Path("/run/.containerenv"))
    words = ("docker", "containerd", "kubepods", "lxc", "libpod")
    return any(mark.exists() for mark in marks) or any(word in _text(Path("/proc/1/cgroup")) for word in words)


def _text(path: Path) -> str:
    """Text of a system file; empty where there is none or it must not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _sysctl(name: str) -> str:
    done = subprocess.run(["/usr/sbin/sysctl", "-n", name], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    return done.stdout.decode("utf-8", "replace").strip() if done.returncode == 0 else ""


@dataclass(frozen=True)
class DeviceKey:
    """What an engine is tied to.

    Attributes:
        backend, version: The backend and its full version.
        os: linux, darwin or windows.
        arch: As `arch` names it.
        features: See `cpu_features`; the engine may use all of them.
        compute_capability: Of the GPU, such as `8.7`; empty for CPU engines.
        l4t: Jetson Linux release of a TensorRT engine; empty elsewhere.
        gpu: Model of the GPU, such as `Orin, 8 SM`: a plan's tactics are chosen for it; empty for CPU engines.
    """

    backend: str
    version: str
    os: str
    arch: str
    features: Tuple[str, ...]
    compute_capability: str = ""
    l4t: str = ""
    gpu: str = ""

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return {**asdict(self), "features": list(self.features)}

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> DeviceKey:
        """Read what `to_json` wrote; unknown fields are ignored.

        Raises:
            DamagedError: A field is missing or of another type.
        """
        if not isinstance(value, Mapping):
            raise DamagedError("device: an object is expected")
        words: Dict[str, str] = {}
        for name in ("backend", "version", "os", "arch", *_ON_GPU):
            word: Optional[Any] = value.get(name, "" if name in _ON_GPU else None)
            if not isinstance(word, str):
                raise DamagedError(f"device.{name}: a word is expected, not {word!r}")
            words[name] = word
        features: List[Any] = value["features"] if isinstance(value.get("features"), (list, tuple)) else [None]
        if not all(isinstance(one, str) for one in features):
            raise DamagedError("device.features: a list of words is expected")
        return DeviceKey(features=tuple(features), **words)
