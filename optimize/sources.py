"""Recognise a model file by its content, never by its suffix, and fill the RunnerSpec; no framework is imported."""

from __future__ import annotations

import importlib.util
import os
import zipfile
from pathlib import Path
from typing import Any, Callable, Dict, List, NoReturn, Optional, Sequence, Tuple, Union

from engines import kerasfile, tensors, torchfile, userfile
from engines.errors import ModelError, UsageError
from engines.spec import RunnerSpec, TensorSpec
from optimize.zoo import library

TASKS = ("classify", "tensors")

_HDF5 = b"\x89HDF\r\n\x1a\n"
_ZIP = b"PK\x03\x04"

_FOREIGN: Tuple[Tuple[int, bytes, str, str], ...] = (
    (4, b"TFL3", "a TensorFlow Lite model", "give the Keras model or SavedModel that it was converted from"),
    (0, b"ptrt", "a TensorRT engine without its manifest", "give the model; optimize build makes the engine here"),
    (0, b"ftrt", "a TensorRT engine without its manifest", "give the model; optimize build makes the engine here"),
    (
        0,
        b"<?xml",
        "an XML file, perhaps OpenVINO's",
        "give the model that it was converted from, or the bundle's folder",
    ),
    (0, b"\x1f\x8b", "a gzip archive", "unpack it first"),
    (0, b"\x93NUMPY", "a NumPy array", "give the model here, and data with --data"),
    (0, b"\xff\xd8\xff", "an image", "give the model here, and data with --data"),
    (0, b"\x89PNG", "an image", "give the model here, and data with --data"),
    (0, b"\x7fELF", "a program", "give the model file"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the model itself", "git lfs pull"),
    (0, b"<!DOCTYPE html", "a web page: the download went wrong", "download the model again"),
    (0, b"<html", "a web page: the download went wrong", "download the model again"),
)
"""What people give by mistake: offset, magic bytes, what it is, what to do."""

_KNOWN = "a Keras (.keras, .h5, SavedModel), PyTorch (.pt2, TorchScript, state_dict) or ONNX model, or a bundle"


def recognise(
    path: Union[str, Path],
    *,
    custom_objects: Optional[str] = None,
    factory: Optional[str] = None,
    input_shape: Union[str, Sequence[int], None] = None,
    preprocess: Union[str, Dict[str, Any], None] = None,
    task: Optional[str] = None,
) -> RunnerSpec:
    """Tell what `path` holds and describe how to load it.

    Args:
        path: A model file, a SavedModel folder, or a bundle; or the name of a model of a library, such as
            `torchvision:resnet50` or `timm:mobilenetv2_100`, which gets random weights.
        custom_objects: `FILE.py:NAME[,NAME]`, relative to the current folder.
        factory: `FILE.py:NAME`, or the name of a model of the zoo, torchvision or timm.
        input_shape: `3x32x32` or numbers, in the source's own order, without the batch.
        preprocess: Text of `--preprocess`, or what `Preprocess.to_json` gave.
        task: classify (default) or tensors.

    Returns:
        The spec with absolute paths; inputs and outputs only where the file tells without a framework (ONNX).

    Raises:
        UsageError: No such file, a bad option, or one that the model needs and that was not given.
        ModelError: The file is empty, truncated, damaged, or nothing that can be built.
    """
    options: Dict[str, Any] = {}
    if library.named(path) and not Path(path).exists():
        if factory is not None:
            raise UsageError(f"{path} names its module itself", "leave --factory out")
        known = library.fetch(str(path))
        path, factory, options = known["path"], str(path), {"weights": "random"}
        input_shape = input_shape or known["input_shape"]
        preprocess = preprocess or (None if task == "tensors" else known["preprocess"])
    place, kind = kind_of(path)
    shape = parse_shape(input_shape)
    if task is not None and task not in TASKS:
        raise UsageError(f"--task {task}: {' or '.join(TASKS)} is expected")
    spec = RunnerSpec(
        path=str(place),
        kind=kind,
        custom_objects=_user_code(custom_objects, "--custom-objects", kind, "keras"),
        factory=_user_code(_zoo(factory), "--factory", kind, "torch"),
        input_shape=shape,
        preprocess=_preprocess(preprocess),
        task=task or "classify",
        options=options,
    )
    if kind in _CHECKS:
        _CHECKS[kind](spec)
    return _described(spec) if kind == "onnx" else spec


def kind_of(path: Union[str, Path]) -> Tuple[Path, str]:
    """Tell what `path` holds by its first bytes and members, without looking at what it needs.

    Returns:
        The absolute path, and the kind of a `RunnerSpec`.

    Raises:
        UsageError: No such file.
        ModelError: Nothing that is known.
    """
    where = Path(path).expanduser()
    if not where.exists():
        engines_of = ".optimized" in str(path)
        hint = "optimize build MODEL makes such bundles" if engines_of else "check the path of the model"
        raise UsageError(f"no such file or folder: {path}", hint)
    if not (where.is_file() or where.is_dir()):
        raise UsageError(f"{path} is neither a file nor a folder", "check the path of the model")
    place = Path(os.path.abspath(where))  # a link stays: what is built goes beside it
    return place, _folder(place) if place.is_dir() else _file(place)


def parse_shape(value: Union[str, Sequence[int], None]) -> Optional[Tuple[int, ...]]:
    """Read `3x32x32` (or `3,32,32`, or numbers).

    Raises:
        UsageError: Not a shape, or a size below 1.
    """
    if value is None:
        return None
    parts: Sequence[Any] = value.lower().replace(",", "x").split("x") if isinstance(value, str) else value
    try:
        shape = tuple(int(part) for part in parts)
    except (TypeError, ValueError):
        shape = ()
    if not shape or min(shape) < 1:
        raise UsageError(f"--input-shape {value}: not a shape", "for example --input-shape 3x32x32, without the batch")
    return shape


def _preprocess(value: Union[str, Dict[str, Any], None]) -> Optional[Dict[str, Any]]:
    if value is None or isinstance(value, dict):
        return value
    from calib.preprocess import parse

    return parse(value).to_json()


def _zoo(factory: Optional[str]) -> Optional[str]:
    """The zoo's own file for a factory that the zoo has by name: torchvision's ResNets, without torchvision."""
    from optimize import zoo

    return factory and (zoo.factory(factory) or factory)


def _user_code(text: Optional[str], option: str, kind: str, family: str) -> Optional[str]:
    """Make the file absolute after checking that it exists; a bare name (of a model library) is left."""
    if text is None:
        return None
    if not kind.startswith(family) and kind != "bundle":
        what = {"keras": "Keras files", "torch": "a PyTorch state_dict"}[family]
        raise UsageError(f"{option} is for {what}, and this is {kind}", f"leave {option} out")
    if family == "torch" and (library.named(text) or (":" not in text and not text.endswith(".py"))):
        return text
    file, names = userfile.split(text)
    if not file.expanduser().is_file():
        raise UsageError(f"{option} {text}: no such file: {file}", "the path is relative to the current folder")
    return f"{file.expanduser().resolve()}:{','.join(names)}"


def _folder(place: Path) -> str:
    if (place / "manifest.json").is_file():
        return "bundle"
    if (place / "saved_model.pb").is_file() or (place / "saved_model.pbtxt").is_file():
        return "savedmodel"
    names = sorted(item.name for item in place.iterdir())
    if not names:
        raise ModelError(f"{place}: an empty folder", f"give {_KNOWN}")
    if "config.json" in names and "model.weights.h5" in names:
        raise ModelError(f"{place}: a .keras archive that was unpacked", "zip its files again, or give the archive")
    bundles = [name for name in names if (place / name / "manifest.json").is_file()]
    if bundles:
        raise UsageError(f"{place} holds bundles and is none itself", f"give one, such as {place / bundles[0]}")
    models = [name for name in names if name.endswith((".keras", ".h5", ".onnx", ".pt", ".pt2", ".pth"))]
    raise ModelError(
        f"{place}: a folder that holds no SavedModel and no bundle", f"give {models[0] if models else _KNOWN}"
    )


def _file(place: Path) -> str:
    with open(place, "rb") as file:
        head = file.read(64)
    if not head:
        raise ModelError(f"{place}: the file is empty", "copy or save the model again")
    if head.startswith(_HDF5):
        return "keras-hdf5"
    if head.startswith(_ZIP):
        return _zip(place)
    if head.startswith(torchfile.LEGACY_MAGIC):
        return "torch-state-dict"
    for offset, magic, what, hint in _FOREIGN:
        if head[offset:].lower().startswith(magic.lower()):
            raise ModelError(f"{place.name} is {what}, not a model that can be built", hint)
    if head[:1] == b"\x80" and head[1:2] in b"\x02\x03\x04\x05":
        raise ModelError(
            f"{place.name} is a bare pickle, which could run any code; it was not executed",
            "in the training program: torch.save(model.state_dict(), FILE.pt), then give --factory FILE.py:NAME",
        )
    if head[8:10] == b'{"' and int.from_bytes(head[:8], "little") < place.stat().st_size:
        raise ModelError(
            f"{place.name} is a safetensors file: weights without the model",
            "in Python: torch.save(safetensors.torch.load_file(FILE), FILE.pt), then give --factory FILE.py:NAME",
        )
    if head[:1] == b"\x08" and head[1] < 64:  # field 1 of ONNX's ModelProto: ir_version
        return "onnx"
    if not head.strip(b"\0"):
        raise ModelError(f"{place.name} begins with zeros: an unfinished copy", "copy or save the model again")
    raise ModelError(f"{place.name} is nothing that is known", f"give {_KNOWN}")


def _zip(place: Path) -> str:
    try:
        with zipfile.ZipFile(place) as archive:
            members = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError) as error:
        raise ModelError(f"{place}: a truncated or damaged archive ({error})", "copy or save the model again") from None
    found = torchfile.kind(str(place), members)
    if found:
        return found
    if "config.json" in members:
        return "keras-zip"
    if any(name.endswith("model.weights.h5") for name in members):
        raise ModelError(f"{place.name} has no config.json: not a Keras model", "save it with model.save(FILE.keras)")
    if any(name.endswith(".npy") for name in members):
        raise ModelError(f"{place.name} is an .npz file of arrays, not a model", "give data with --data")
    folders = {name.split("/")[0] for name in members if name.endswith(("saved_model.pb", "manifest.json"))}
    hint = "unpack it and give the folder" if folders else "save it with model.save(FILE.keras)"
    raise ModelError(f"{place.name} is a zip archive without config.json or data.pkl: not a model", hint)


def _check_keras(spec: RunnerSpec) -> None:
    if spec.kind == "keras-hdf5" and importlib.util.find_spec("h5py") is None:
        return  # the process that loads it says what is missing
    record = kerasfile.read(spec.path, spec.kind)
    names = userfile.split(spec.custom_objects)[1] if spec.custom_objects else []
    kerasfile.check_safe(spec.path, record.config, [name.split(".")[-1] for name in names])


def _check_torch(spec: RunnerSpec) -> None:
    torchfile.check(spec.path, spec.kind)
    if spec.kind == "torch-state-dict" and not spec.factory:
        raise torchfile.needs_factory(spec.path)
    if spec.kind != "torch-state-dict" and spec.factory:
        raise UsageError(f"--factory is for a state_dict, and {Path(spec.path).name} holds its module", "leave it out")


def _described(spec: RunnerSpec) -> RunnerSpec:
    """Parse an ONNX file and fill in its inputs, outputs and layout."""
    import onnx

    name = Path(spec.path).name

    def unreadable(why: object) -> NoReturn:
        text = " ".join(str(why).split())[:300]
        raise ModelError(f"{name} is not a readable ONNX model: {text}", "copy or export it again")

    if any("\udc80" <= c <= "\udcff" for c in spec.path):
        raise UsageError(f"{spec.path!a}: ONNX's library opens no path that is not UTF-8", "give it another name")
    try:
        model = onnx.load(spec.path, load_external_data=False)
        if not model.graph.node:
            unreadable("its graph is empty")
        if not model.opset_import:
            unreadable("it names no operator set")
        onnx.checker.check_model(spec.path)
    except ModelError:
        raise
    except Exception as error:  # protobuf's DecodeError and the checker's ValidationError have no common base
        unreadable(error)
    weights = {tensor.name for tensor in model.graph.initializer}
    inputs = tuple(_tensor(value) for value in model.graph.input if value.name not in weights)
    outputs = tuple(_tensor(value) for value in model.graph.output)
    if not inputs:
        unreadable("it has no input")
    if spec.input_shape is not None and len(inputs) == 1:
        known = inputs[0].shape[1:]
        if len(known) != len(spec.input_shape) or any(a not in (None, b) for a, b in zip(known, spec.input_shape)):
            given = tensors.text(spec.input_shape)
            raise UsageError(f"--input-shape {given} does not fit {name}, which takes {tensors.text(known)}")
        inputs = (TensorSpec(inputs[0].name, (inputs[0].shape[0], *spec.input_shape), inputs[0].dtype),)
    return spec.with_(inputs=inputs, outputs=outputs, layout=tensors.layout(inputs[0].shape, "NCHW"))


def _tensor(value: Any) -> TensorSpec:
    from onnx import helper

    kind = value.type.tensor_type
    shape: List[Optional[int]] = [dim.dim_value if dim.HasField("dim_value") else None for dim in kind.shape.dim]
    dtype = helper.tensor_dtype_to_np_dtype(kind.elem_type) if kind.elem_type else "float32"
    return TensorSpec(value.name, tuple(shape), str(getattr(dtype, "name", dtype)))


_CHECKS: Dict[str, Callable[[RunnerSpec], None]] = {
    "keras-zip": _check_keras,
    "keras-hdf5": _check_keras,
    "torch-pt2": _check_torch,
    "torch-state-dict": _check_torch,
    "torchscript": _check_torch,
}
"""What each kind is held to before anything of it is loaded."""
