"""Shipments small enough to be moved hundreds of times: a linear classifier on ONNX Runtime, made without a build."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Dict

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from engines import jsonfile, manifest
from engines.device import device_key
from optimize.ship import golden, oci, shipment

SHAPE = (3, 8, 8)
CLASSES = 10


def graph(seed: int) -> onnx.ModelProto:
    """Flatten and Gemm, with weights of a seed."""
    weight = np.random.default_rng(seed).normal(0, 0.1, (CLASSES, int(np.prod(SHAPE)))).astype(np.float32)
    made = helper.make_model(
        helper.make_graph(
            [
                helper.make_node("Flatten", ["image"], ["flat"], "flatten"),
                helper.make_node("Gemm", ["flat", "weight"], ["scores"], "dense", transB=1),
            ],
            "linear",
            [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", *SHAPE])],
            [helper.make_tensor_value_info("scores", TensorProto.FLOAT, ["batch", CLASSES])],
            [numpy_helper.from_array(weight, "weight")],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
    )
    made.ir_version = 8
    return made


def bundle(folder: Path, seed: int = 0, name: str = "linear", **changes: Any) -> Path:
    """A bundle for this machine as `optimize build` leaves one."""
    folder.mkdir(parents=True)
    file = folder / "model.onnx"
    onnx.save(graph(seed), str(file))
    sha256 = jsonfile.sha256(file)
    value: Dict[str, Any] = {
        "schema": manifest.SCHEMA,
        "name": f"{name}-fp32",
        "created": "2024-05-01T12:00:00Z",
        "version": "0.1.0",
        "model": {"name": name, "kind": "onnx", "sha256": hashlib.sha256(name.encode()).hexdigest()},
        "backend": "onnxruntime",
        "precision": "fp32",
        "achieved": {"f32": 1},
        "layers": [{"name": "dense", "type": "Gemm", "precision": "f32"}],
        "files": [{"path": file.name, "sha256": sha256, "bytes": file.stat().st_size}],
        "device": device_key("onnxruntime").to_json(),
        "inputs": [{"name": "image", "shape": [None, *SHAPE], "dtype": "float32"}],
        "outputs": [{"name": "scores", "shape": [None, CLASSES], "dtype": "float32"}],
        "layout": "NCHW",
        "task": "classify",
        "preprocess": {"text": "unit"},
        "classes": [f"class{index}" for index in range(CLASSES)],
        "batches": [1, 4],
        "options": {},
        "onnx": {"sha256": sha256, "opset": 17},
        "calibration": None,
        "accuracy": None,
        "check": None,
        "gate": None,
        "build_key": f"seed {seed}",
        "flags": [],
        "seconds": 0.1,
    }
    manifest.write(folder, {**value, **changes})
    return folder


def made(folder: Path, seed: int = 0, name: str = "linear", answers: bool = True, **changes: Any) -> Path:
    """A shipment of such a bundle, with golden answers of its own engine, run in this process."""
    bundle(folder, seed, name, **changes)
    roles = {manifest.NAME: "manifest", "model.onnx": "engine"}
    noted = None
    if answers:
        noted = golden._record(str(folder), None, str(folder / "golden.npz"), None, None, True)
        roles["golden.npz"] = "golden"
    about = manifest.read(folder)

    def listed(file: str) -> Dict[str, Any]:
        return {"path": file, "sha256": jsonfile.sha256(folder / file), "bytes": (folder / file).stat().st_size}

    value = {
        "schema": shipment.SCHEMA,
        "name": about["name"],
        "created": "2024-05-01T12:00:00Z",
        "manifest": {key: value for key, value in listed(manifest.NAME).items() if key != "path"},
        "files": [{**listed(file), "role": role} for file, role in roles.items()],
        "device": about["device"],
        "model": {key: about["model"][key] for key in ("name", "sha256")},
        "precision": about["precision"],
        "golden": noted,
        "provenance": {"optimize": "0.1.0"},
    }
    shipment.validate(value)
    (folder / shipment.NAME).write_bytes(oci.canonical(value))
    return folder


def variant(folder: Path) -> str:
    """The name of a shipment among versions: the hash of its image manifest."""
    return oci.digest_of(oci.variant(folder)).split(":")[1]
