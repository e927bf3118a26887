"""What TensorRT needs on an NVIDIA machine: its libraries, bindings that this Python sees, CUDA, pycuda, TensorFlow."""

from __future__ import annotations

import re
from typing import Any, List, Mapping, Tuple

from optimize.doctor.interpreter import Interpreter
from optimize.doctor.row import JETPACK, Row

_VENV = "/usr/bin/python3 -m venv --system-site-packages .venv"
_DESKTOP = "pip install 'optimize-trt[tensorrt]'"

_WHEELS: Tuple[Tuple[Tuple[int, int], str, str], ...] = (
    ((38, 0), "", ""),
    ((36, 4), "2.16.1+nv24.08", "v61"),
    ((36, 0), "2.16.1+nv24.06", "v60"),
    ((35, 4), "2.12.0+nv23.06", "v512"),
    ((35, 0), "2.11.0+nv23.03", "v51"),
)
"""From which L4T on, which TensorFlow NVIDIA built for it, in which folder of its wheels; none from JetPack 7 on."""

_WHEELS_AT = "https://developer.download.nvidia.com/compute/redist/jp"

_NO_WHEEL = "NVIDIA has none for this JetPack: compare with the ONNX model, not with TensorFlow"

_PYCUDA = (("11", "pycuda==2022.2.2"), ("13", "'pycuda>=2026.1'"))
"""By CUDA's major: for 11 later ones want a newer numpy than Python 3.8 has; earlier ones do not build with 13."""

_SYMPTOMS: Tuple[Tuple[str, str, str], ...] = (
    ("static TLS", *2 * ("export LD_PRELOAD=/usr/lib/aarch64-linux-gnu/libgomp.so.1",)),
    (r"np\.bool|numpy", *2 * ("pip install numpy==1.23.5",)),
    (r"lib(nvinfer|nvonnx|nvparsers|cudnn|cublas|cudart|nvdla)", JETPACK, f"{_DESKTOP} --force-reinstall"),
)
"""Words of a failed import, and what helps on a Jetson and on a desktop."""


def tensorflow_wheel(l4t: str) -> Tuple[str, str]:
    """The TensorFlow that NVIDIA built for a Jetson with this L4T: version and command; both empty where none is.

    PyPI's TensorFlow has no CUDA on a Jetson.
    """
    numbers = [int(n) for n in re.findall(r"\d{1,9}", l4t)[:2]]
    release = (numbers[0], numbers[1]) if len(numbers) == 2 else (0, 0)
    version, folder = next(((version, folder) for since, version, folder in _WHEELS if release >= since), ("", ""))
    return version, f"pip install --extra-index-url {_WHEELS_AT}/{folder} tensorflow=={version}" if version else ""


def libnvinfer(found: Mapping[str, Any]) -> Row:
    """TensorRT's own libraries, as the system has them."""
    if found["tensorrt"]:
        return Row("libnvinfer", "ok", found["tensorrt_package"] or found["tensorrt"])
    return Row("libnvinfer", "no", "TensorRT's libraries are not installed", JETPACK)


def bindings(found: Mapping[str, Any], python: Interpreter) -> Row:
    """Whether `import tensorrt` works here; most often a virtual environment hides what JetPack has."""
    if python.tensorrt:
        return _same_version(found, python)
    if python.tensorrt_found:
        return Row("bindings", "no", python.tensorrt_why, _symptom(python.tensorrt_why, found["jetson"]))
    if not found["jetson"]:
        return Row("bindings", "no", "the Python package tensorrt is not installed", _DESKTOP)
    made_for = [one["python"] for one in found["bindings"]]
    if not made_for:
        return Row("bindings", "no", "python3-libnvinfer is not installed", "sudo apt install python3-libnvinfer")
    if python.python not in made_for:
        text = f"JetPack's are for Python {' and '.join(made_for)}, this is Python {python.python}"
        return Row("bindings", "no", text, _VENV)
    if python.venv and not python.sees_system:
        text = "this virtual environment was made without --system-site-packages and cannot see JetPack's"
        return Row("bindings", "no", text, f"{_VENV} (over the old folder: what is installed in it stays)")
    return Row("bindings", "no", f"this Python {python.python} is not the system's, which alone sees JetPack's", _VENV)


def _same_version(found: Mapping[str, Any], python: Interpreter) -> Row:
    """The bindings load whatever libnvinfer there is, and fail later if it is another version."""
    library = found["tensorrt"]
    if not library or python.tensorrt_libraries or _three(library) == _three(python.tensorrt):
        return Row("bindings", "ok", f"tensorrt {python.tensorrt}, seen by this Python {python.python}")
    system = any(_three(one["version"]) == _three(library) for one in found["bindings"])
    fix = f"sudo apt install python3-libnvinfer={found['tensorrt_package'] or library}"
    shadow = "pip uninstall tensorrt (it hides the system's, which fits)"
    text = f"tensorrt {python.tensorrt} does not fit libnvinfer {library}"
    return Row("bindings", "no", text, shadow if system else fix)


def cuda(found: Mapping[str, Any], python: Interpreter) -> List[Row]:
    """The CUDA toolkit, and on a Jetson cuDNN."""
    jetson, out = found["jetson"], []
    toolkit = JETPACK if jetson else "sudo apt install nvidia-cuda-toolkit"
    if found["cuda"]:
        compiler = "" if found["nvcc"] else "; no nvcc in /usr/local/cuda/bin"
        out.append(Row("cuda", "ok", found["cuda"] + compiler, "" if python.pycuda or not compiler else toolkit))
    elif jetson or not python.pycuda:
        out.append(Row("cuda", "no", "no CUDA toolkit in /usr/local/cuda; pycuda is built with it", toolkit))
    if jetson and found["cudnn"]:
        out.append(Row("cudnn", "ok", found["cudnn"]))
    elif jetson and found["tensorrt"].split(".")[0] == "8":
        out.append(Row("cudnn", "no", "not installed; TensorRT 8 loads it", JETPACK))
    elif jetson:
        out.append(Row("cudnn", "ok", "none, which this TensorRT does not need"))
    return out


def pycuda(found: Mapping[str, Any], python: Interpreter) -> Row:
    """pycuda, which is built on the machine against its CUDA."""
    pin = dict(_PYCUDA).get(found["cuda"].split(".")[0], "pycuda")
    where = "PATH=/usr/local/cuda/bin:$PATH CUDA_ROOT=/usr/local/cuda "
    build = f"{where if found['nvcc'] or found['jetson'] else ''}pip install {pin}"
    if not python.pycuda:
        return Row("pycuda", "no", "not installed", build)
    if not python.pycuda_why:
        return Row("pycuda", "ok", python.pycuda)
    if "libcuda.so" in python.pycuda_why:
        return Row("pycuda", "no", python.pycuda_why, "mend the driver, above")
    return Row("pycuda", "no", python.pycuda_why, f"{build} --force-reinstall --no-deps --no-cache-dir")


def tensorflow(found: Mapping[str, Any], python: Interpreter) -> List[Row]:
    """Whether TensorFlow, where it is installed, has the GPU: else a comparison with it flatters TensorRT."""
    if not python.tensorflow:
        return []
    cuda, jetson = python.tensorflow_cuda, found["jetson"]
    fix = tensorflow_wheel(found["l4t"])[1] or _NO_WHEEL if jetson else "pip install 'tensorflow[and-cuda]'"
    if cuda == "" or (cuda is None and jetson and "+nv" not in python.tensorflow):
        pypi = " (TensorFlow from PyPI has none on a Jetson)" if jetson else ""
        return [Row("tf-cuda", "no", f"TensorFlow {python.tensorflow} is built without CUDA{pypi}", fix)]
    if cuda is None:
        state = "ok" if "+nv" in python.tensorflow else "?"
        return [Row("tf-cuda", state, f"TensorFlow {python.tensorflow}, which does not say its CUDA")]
    if jetson and found["cuda"] and found["cuda"].split(".")[0] != cuda.split(".")[0]:
        text = f"TensorFlow {python.tensorflow} is built for CUDA {cuda}, the board has {found['cuda']}"
        return [Row("tf-cuda", "no", text, fix)]
    text = f"TensorFlow {python.tensorflow}, built for CUDA {cuda}; optimize bench --device gpu says whether it loads"
    return [Row("tf-cuda", "ok", text)]


def too_old(found: Mapping[str, Any]) -> Row:
    """JetPack 4, the last one of the original Nano: the board still runs engines, by its own tool."""
    trtexec = found["trtexec"] or "/usr/src/tensorrt/bin/trtexec"
    return Row(
        "trtexec",
        "no",
        f"JetPack {found['jetpack']} has Python 3.6, too old for this project: use the board's own trtexec",
        "on a PC: optimize export MODEL --opset 13 --batch 1 -o model.onnx; here: "
        f"{trtexec} --onnx=model.onnx --fp16 --workspace=512 --saveEngine=model.plan",
    )


def _symptom(why: str, jetson: bool) -> str:
    for words, on_jetson, on_desktop in _SYMPTOMS:
        if re.search(words, why):
            return on_jetson if jetson else on_desktop
    return JETPACK if jetson else f"{_DESKTOP} --force-reinstall"


def _three(version: str) -> List[str]:
    return re.findall(r"\d+", version)[:3]
