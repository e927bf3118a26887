"""Facts of an NVIDIA board or desktop, read from files and the output of two commands. Nothing is imported or changed.

Every function takes the folder that stands for `/`, so that a copied tree of a board's files is read as the board is.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Sequence, Tuple

from engines import boardtext as read
from engines.boardtext import Clock
from engines.device import l4t_of

Run = Callable[[Sequence[str]], str]
"""Runs a command and returns what it prints on stdout; empty where there is no such command."""

_PACKAGES = (
    "nvidia-jetpack*",
    "nvidia-l4t-core",
    "libnvinfer*",
    "python3-libnvinfer*",
    "libcudnn*",
    "cuda-cudart-*",
)
_DPKG = ("dpkg-query", "-W", "-f=${Package}\t${Version}\t${db:Status-Status}\n", *_PACKAGES)
_NVPMODEL = ("nvpmodel", "-q")
_SMI = (
    "nvidia-smi",
    "--query-gpu=clocks.sm,clocks.max.sm,clocks.mem,clocks.max.mem",
    "--format=csv,noheader,nounits",
)

_GPU = re.compile(r"(?:.*\.)?(?:ga10b|gv11b|gp10b|gm20b|gpu)|gpu-gpc-\d+")
"""Folder of a GPU in /sys/class/devfreq, or the name of its device-tree node: `17000000.ga10b`, `57000000.gpu`."""

_DEBUG = "sys/kernel/debug"
_EMC: Tuple[Tuple[str, str, str, str], ...] = (
    ("sys/class/devfreq/bwmgr/cur_freq", "sys/class/devfreq/bwmgr/min_freq", "sys/class/devfreq/bwmgr/max_freq", ""),
    (
        f"{_DEBUG}/bpmp/debug/clk/emc/rate",
        f"{_DEBUG}/bpmp/debug/clk/emc/min_rate",
        f"{_DEBUG}/bpmp/debug/clk/emc/max_rate",
        f"{_DEBUG}/bpmp/debug/clk/emc/mrq_rate_locked",
    ),
    (
        f"{_DEBUG}/clk/override.emc/clk_rate",
        f"{_DEBUG}/tegra_bwmgr/emc_min_rate",
        f"{_DEBUG}/tegra_bwmgr/emc_max_rate",
        f"{_DEBUG}/clk/override.emc/clk_state",
    ),
)
"""Memory clock now, lowest, highest and lock: of Thor; of Xavier and Orin; of the Nano. Debugfs is for root alone."""

_EMC_CAP = ("sys/kernel/nvpmodel_clk_cap/emc", "sys/kernel/nvpmodel_emc_cap/emc_iso_cap")
"""The power mode's cap of the memory clock, which anyone may read; 0 is none."""

_TRTEXEC = "usr/src/tensorrt/bin/trtexec"


def output(words: Sequence[str]) -> str:
    """Run a command of the system and return its stdout; empty where it is missing, hangs or prints nothing."""
    try:
        done = subprocess.run(
            list(words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=10,
            env={**os.environ, "LC_ALL": "C"},
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def text(path: Path) -> str:
    """Text of a file; empty where there is none or it must not be read."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except (OSError, ValueError):
        return ""


def present(root: Path = Path("/")) -> bool:
    """Whether this is an NVIDIA board, or a machine whose NVIDIA driver is loaded."""
    marks = ("etc/nv_tegra_release", "proc/driver/nvidia/version", "dev/nvidia0")
    return any(os.path.exists(root / mark) for mark in marks) or bool(read.soc_of(_compatible(root)))


def facts(root: Path = Path("/"), run: Run = output) -> Dict[str, Any]:
    """What the board is and which of NVIDIA's libraries it has.

    Args:
        root: Stands for `/`.
        run: Runs `dpkg-query`, `nvpmodel` and `nvidia-smi`.

    Returns:
        `jetson` (else a desktop), `model`, `module` (part number), `soc`, `compute_capability` (of the board's chip),
        `dla_cores` (None: unknown), `l4t`, `jetpack` and `jetpack_by` (`dpkg` or `l4t`), `driver` (of a desktop),
        `tensorrt` (of the libnvinfer package or file) with `tensorrt_package`, `bindings` (`python`, `version` of each
        Python that the system's TensorRT bindings are for) with `bindings_package`, `trtexec` (path or empty), `cuda`,
        `nvcc` (bool), `cudnn`, `memory` (`total_bytes`, `available_bytes`, `swap_bytes`, `swap_free_bytes`,
        `zram_bytes` of the swap, `shared` with the GPU), `power` (see `power`) and `clocks` (see `clocks`).
        What is not known is empty or None.
    """
    packages = read.packages_of(run(_DPKG))
    compatible = _compatible(root)
    soc, module = read.soc_of(compatible), read.module_of(compatible)
    l4t = l4t_of(text(root / "etc/nv_tegra_release"))
    if not l4t and "nvidia-l4t-core" in packages:
        l4t = read.upstream(packages["nvidia-l4t-core"])
    jetpack = read.upstream(packages.get("nvidia-jetpack", ""))
    tensorrt_package = _first(packages, r"libnvinfer\d+")
    cuda = root / "usr/local/cuda"
    return {
        "jetson": bool(soc or l4t),
        "model": text(root / "proc/device-tree/model").strip("\0\n "),
        "module": module,
        "soc": soc,
        "compute_capability": read.SOC.get(soc, ""),
        "dla_cores": read.dla_cores_of(module),
        "l4t": l4t,
        "jetpack": jetpack or read.jetpack_of(l4t),
        "jetpack_by": "dpkg" if jetpack else "l4t" if read.jetpack_of(l4t) else "",
        "driver": read.driver_of(text(root / "proc/driver/nvidia/version")),
        "tensorrt": read.upstream(tensorrt_package) or _library(root, "libnvinfer.so"),
        "tensorrt_package": tensorrt_package,
        "bindings": bindings(root),
        "bindings_package": packages.get("python3-libnvinfer", ""),
        "trtexec": f"/{_TRTEXEC}" if os.path.exists(root / _TRTEXEC) else "",
        "cuda": read.cuda_of(text(cuda / "version.json"))
        or read.cuda_of(text(cuda / "version.txt"))
        or read.upstream(_first(packages, r"cuda-cudart-\d+-\d+")),
        "nvcc": os.path.exists(cuda / "bin/nvcc"),
        "cudnn": read.upstream(_first(packages, r"libcudnn\d+(?:-cuda-\d+)?")) or _library(root, "libcudnn.so"),
        "memory": memory(root, bool(soc)),
        "power": power(root, run),
        "clocks": clocks(root, run),
    }


def bindings(root: Path = Path("/")) -> List[Dict[str, str]]:
    """The system's TensorRT bindings: `python` (such as `3.8`) and `version` of each, from python3-libnvinfer."""
    out = []
    for package in sorted(root.glob("usr/lib/python3*/dist-packages/tensorrt/__init__.py")):
        packages = package.parent.parent
        found = (
            re.fullmatch(r"tensorrt-([\d.]+)\.(?:dist|egg)-info", p.name) for p in sorted(packages.glob("tensorrt-*"))
        )
        version = next((one.group(1) for one in found if one), "")
        out.append({"python": packages.parent.name[len("python") :], "version": version})
    return out


def memory(root: Path = Path("/"), shared: bool = False) -> Dict[str, Any]:
    """Bytes of memory and swap; `shared`: the GPU uses the same memory, but never the swap."""
    sizes = read.meminfo_of(text(root / "proc/meminfo"))
    swaps = read.swaps_of(text(root / "proc/swaps"))
    return {
        "total_bytes": sizes.get("MemTotal"),
        "available_bytes": sizes.get("MemAvailable"),
        "swap_bytes": sizes.get("SwapTotal"),
        "swap_free_bytes": sizes.get("SwapFree"),
        "zram_bytes": sum(size for name, size in swaps.items() if name.startswith("/dev/zram")),
        "shared": shared,
    }


def links(root: Path = Path("/")) -> List[Dict[str, Any]]:
    """Network links that are up: `name`, and `mbps` as the driver tells it (None where it does not, as of wireless)."""
    found = []
    for link in sorted((root / "sys/class/net").glob("*")):
        if link.name == "lo" or text(link / "operstate").strip() != "up":
            continue
        speed = text(link / "speed").strip()
        found.append({"name": link.name, "mbps": int(speed) if speed.isdecimal() and int(speed) else None})
    return found


def power(root: Path = Path("/"), run: Run = output) -> Dict[str, Any]:
    """The power mode.

    The file that nvpmodel keeps is read first, since anyone may read it; then nvpmodel is asked.

    Returns:
        `id` and `name` of the mode in force (None and empty where there is none), `default` (its id), `modes` (`id`,
        `name`, `gpu_max_hz` of each that this board has under this release).
    """
    modes, default = read.modes_of(text(root / "etc/nvpmodel.conf"))
    name, mode = "", read.status_of(text(root / "var/lib/nvpmodel/status"))
    if mode is None:
        mode, name = read.mode_of(run(_NVPMODEL)) if _is_tegra(root) else (None, "")
    names = {one.id: one.name for one in modes}
    return {
        "id": mode,
        "name": name or names.get(-1 if mode is None else mode, ""),
        "default": default,
        "modes": [one._asdict() for one in modes],
    }


def clocks(root: Path = Path("/"), run: Run = output) -> Dict[str, Any]:
    """The clocks, to be recorded with a build or a run.

    Returns:
        `state` (`locked`, `free` or `unknown`) and `cpu`, `gpu`, `emc` (memory; of the GPU on a desktop), each with
        `now_hz`, `min_hz`, `max_hz` (the limits in force) and `locked`; None is what cannot be read. Root alone reads
        the memory clock of Xavier and Orin: without it the cap of the power mode stands in for the highest.
    """
    cores = [_cpu(folder) for folder in _cpu_folders(root)]
    cpu = read.together([core for core in cores if core != _UNKNOWN])  # a core that is off tells nothing
    gpu, emc = _gpu(root), _emc(root)
    if gpu == _UNKNOWN and os.path.exists(root / "proc/driver/nvidia/version"):
        now, most, memory_now, memory_most = read.smi_clocks_of(run(_SMI))
        gpu, emc = Clock(now, None, most, None), Clock(memory_now, None, memory_most, None)
    return {
        "state": read.state_of(cpu, gpu, emc),
        "cpu": cpu._asdict(),
        "gpu": gpu._asdict(),
        "emc": emc._asdict(),
    }


_UNKNOWN = Clock(None, None, None, None)


def _compatible(root: Path) -> Tuple[str, ...]:
    return read.strings_of(text(root / "proc/device-tree/compatible"))


def _is_tegra(root: Path) -> bool:
    return bool(read.soc_of(_compatible(root))) or os.path.exists(root / "etc/nv_tegra_release")


def _first(packages: Mapping[str, str], pattern: str) -> str:
    """Version of the newest package whose whole name matches: libnvinfer8 may stay beside libnvinfer10."""
    found = [version for name, version in packages.items() if re.fullmatch(pattern, name)]
    return max(found, key=_order, default="")


def _order(version: str) -> Tuple[int, ...]:
    return tuple(int(n) for n in read.upstream(version).split(".") if n.isdigit() and len(n) < 10)


def _library(root: Path, name: str) -> str:
    """Version in the name of a library's file, such as libnvinfer.so.8.5.2, where no package tells it."""
    found = (re.search(r"\.so\.(\d+(?:\.\d+){2,})$", p.name) for p in root.glob(f"usr/lib/*-linux-gnu/{name}.*"))
    return max((one.group(1) for one in found if one), key=_order, default="")


def _cpu_folders(root: Path) -> List[Path]:
    folders = sorted(root.glob("sys/devices/system/cpu/cpufreq/policy[0-9]*"))
    return folders or sorted(root.glob("sys/devices/system/cpu/cpu[0-9]*/cpufreq"))


def _cpu(folder: Path) -> Clock:
    now, low, high = (text(folder / f"scaling_{which}_freq") for which in ("cur", "min", "max"))
    return read.clock_of(now, low, high, unit=1000)


def _gpu(root: Path) -> Clock:
    for folder in sorted(root.glob("sys/class/devfreq/*")):
        node = text(folder / "device/of_node/name").strip("\0\n ")
        if _GPU.fullmatch(folder.name) or (node and _GPU.fullmatch(node)):
            now, low, high = (text(folder / f"{which}_freq") for which in ("cur", "min", "max"))
            return read.clock_of(now, low, high)
    return _UNKNOWN


def _emc(root: Path) -> Clock:
    for *paths, lock in _EMC:
        now, low, high = (text(root / path) for path in paths)
        found = read.clock_of(now, low, high, lock=text(root / lock) if lock else "")
        if found != _UNKNOWN:
            return found
    caps = (read.clock_of("", "", text(root / path)) for path in _EMC_CAP)
    return next((cap for cap in caps if cap != _UNKNOWN), _UNKNOWN)
