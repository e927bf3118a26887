"""What Triton is told of a bundle, as `config.pbtxt`: tensors, batches, what runs it and where.

A configuration is made as the plain JSON form of Triton's own protobuf message (`model_config.proto`), which is also
what `optimize serve` answers on `/v2/models/MODEL/config`; `text` turns it into the text form through that message.
Rules of the fields: https://github.com/triton-inference-server/server/blob/main/docs/user_guide/model_configuration.md
"""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional, Sequence

from engines.errors import IncompatibleError
from engines.manifest import identity
from engines.served import PREFIX

TYPES: Dict[str, str] = {
    "bool": "TYPE_BOOL",
    "uint8": "TYPE_UINT8",
    "uint16": "TYPE_UINT16",
    "uint32": "TYPE_UINT32",
    "uint64": "TYPE_UINT64",
    "int8": "TYPE_INT8",
    "int16": "TYPE_INT16",
    "int32": "TYPE_INT32",
    "int64": "TYPE_INT64",
    "float16": "TYPE_FP16",
    "float32": "TYPE_FP32",
    "float64": "TYPE_FP64",
}

RUNS: Dict[str, Dict[str, str]] = {
    "tensorrt": {"backend": "tensorrt", "platform": "tensorrt_plan", "default_model_filename": "model.plan"},
    "onnxruntime": {"backend": "onnxruntime", "platform": "onnxruntime_onnx", "default_model_filename": "model.onnx"},
    "openvino": {"backend": "openvino", "default_model_filename": "model.xml"},
}
"""Triton's backend of each of ours, and the file that it loads; OpenVINO's takes model.bin from beside model.xml."""

LABELS = "labels.txt"

MARK = f"{PREFIX}build_key"
"""In every configuration of this project, and in no other."""

QUEUE_DELAY_US = 100
"""Microseconds that a request may wait for others; Triton's manual starts there."""


def config(
    manifest: Dict[str, Any], name: str, batch: Optional[int] = None, queue_delay_us: int = QUEUE_DELAY_US
) -> Dict[str, Any]:
    """The configuration of a model.

    Where the engine takes any batch up to its largest, Triton puts requests together. A TensorRT plan has a profile for
    each batch that it was built for: Triton would make batches in between, which no profile takes, so that a plan gets
    its batch among the dimensions and every request is a batch of its own. Only where the profiles leave no gap (1, 2,
    3 ... n) are requests put together there.

    Args:
        manifest: Of the bundle.
        name: Of the model in the repository.
        batch: Of a plan that is one of several in its bundle (`--split-batches`, DLA).
        queue_delay_us: How long a request may wait for others.
    """
    backend, batches = manifest["backend"], [batch] if batch else sorted(manifest["batches"])
    puts_together = batch is None and _together(manifest, batches)
    most = batches[-1] if puts_together else 0
    value: Dict[str, Any] = {"name": name, **RUNS[backend], "max_batch_size": most}
    value["input"] = [_tensor(one, batches, most) for one in manifest["inputs"]]
    value["output"] = [_tensor(one, batches, most) for one in manifest["outputs"]]
    if manifest["classes"] and manifest["task"] == "classify":
        value["output"][0]["label_filename"] = LABELS
    value["instance_group"] = [_instances(backend, batches)]
    if puts_together and most > 1:
        value["dynamic_batching"] = {
            "preferred_batch_size": [size for size in batches if size > 1],
            "max_queue_delay_microseconds": queue_delay_us,
        }
    value["model_warmup"] = [_warmup(manifest["inputs"], size, most) for size in batches]
    value["parameters"] = {
        key: {"string_value": text} for key, text in {**_settings(manifest), **_about(manifest)}.items()
    }
    return value


def text(value: Mapping[str, Any]) -> str:
    """A configuration as the text of `config.pbtxt`, written and read again by Triton's own message.

    Raises:
        IncompatibleError: The package that holds the message is missing.
    """
    from google.protobuf import json_format, text_format

    try:
        from tritonclient.grpc import model_config_pb2
    except ImportError as error:
        raise IncompatibleError(
            f"Triton's configuration is written by the Python package tritonclient, which does not load: {error}",
            "pip install 'optimize-trt[triton]'",
        ) from None
    message = json_format.ParseDict(dict(value), model_config_pb2.ModelConfig())
    found: str = text_format.MessageToString(message)
    if text_format.Parse(found, model_config_pb2.ModelConfig()) != message:
        raise AssertionError("config.pbtxt does not read back as what was written")
    return found


def read(content: bytes) -> Dict[str, Any]:
    """A `config.pbtxt` in the plain JSON form; empty where it is none."""
    from google.protobuf import json_format, text_format
    from tritonclient.grpc import model_config_pb2

    try:
        message = text_format.Parse(content, model_config_pb2.ModelConfig())
    except (UnicodeDecodeError, text_format.ParseError):
        return {}
    found: Dict[str, Any] = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return found


def _together(manifest: Mapping[str, Any], batches: Sequence[int]) -> bool:
    """Whether any number of samples up to the largest batch may be asked at once."""
    free = all(one["shape"] and one["shape"][0] is None for one in (*manifest["inputs"], *manifest["outputs"]))
    gapless = list(batches) == list(range(1, batches[-1] + 1))
    return free and (manifest["backend"] != "tensorrt" or gapless)


def _tensor(one: Mapping[str, Any], batches: Sequence[int], most: int) -> Dict[str, Any]:
    """Name, type and dimensions, -1 where free; without the batch where Triton counts it itself."""
    shape = list(one["shape"])
    if most:
        sizes = shape[1:]
    else:
        first = [batches[0] if len(batches) == 1 else -1] if shape and shape[0] is None else shape[:1]
        sizes = [*first, *shape[1:]]
    return {"name": one["name"], "data_type": TYPES[one["dtype"]], "dims": [-1 if n is None else n for n in sizes]}


def _instances(backend: str, batches: Sequence[int]) -> Dict[str, Any]:
    if backend != "tensorrt":
        return {"count": 1, "kind": "KIND_CPU"}
    group: Dict[str, Any] = {"count": 1, "kind": "KIND_GPU"}
    if len(batches) > 1:
        group["profile"] = [str(index) for index in range(len(batches))]
    return group


def _warmup(inputs: Sequence[Mapping[str, Any]], batch: int, most: int) -> Dict[str, Any]:
    """One request of each batch before the model counts as ready, of random data."""
    found = {}
    for one in inputs:
        sizes = [1 if n is None else n for n in one["shape"]]
        dims = sizes[1:] if most else [batch, *sizes[1:]] if one["shape"] and one["shape"][0] is None else sizes
        fill = "random_data" if one["dtype"].startswith("float") else "zero_data"
        found[one["name"]] = {"data_type": TYPES[one["dtype"]], "dims": dims, fill: True}
    return {"name": f"batch {batch}", "batch_size": batch if most else 0, "inputs": found}


def _settings(manifest: Mapping[str, Any]) -> Dict[str, str]:
    """What the backend in Triton must know to run the engine as it was measured."""
    options, backend = manifest["options"], manifest["backend"]
    threads = options.get("threads")
    if backend == "onnxruntime":
        return {"intra_op_thread_count": str(threads)} if threads else {}
    if backend != "openvino":
        return {}
    found = {"PERFORMANCE_HINT": "LATENCY", "NUM_STREAMS": "1"}
    if threads:
        found["INFERENCE_NUM_THREADS"] = str(threads)
    if options.get("inference_precision") == "bf16":
        found["HINT_BF16"] = "YES"
    return found


def _about(manifest: Dict[str, Any]) -> Dict[str, str]:
    """What this project knows of the engine, for its own served bench and for an operator who looks."""
    told = {
        "precision": manifest["precision"],
        "achieved": manifest["achieved"],
        "device": manifest["device"],
        "model_sha256": manifest["model"]["sha256"],
        **identity(manifest),
        "layout": manifest["layout"],
        "task": manifest["task"],
        "preprocess": manifest["preprocess"],
    }
    return {
        PREFIX + key: value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"))
        for key, value in told.items()
    }


def remarks(manifest: Mapping[str, Any]) -> List[str]:
    """What is not the same in Triton as it was measured, in lines for the user."""
    found = []
    device = manifest["device"]
    made = f"{manifest['backend']} {device.get('version', '')}".strip()
    if manifest["backend"] == "tensorrt":
        found.append(f"a plan loads only in a Triton that has {made}")
        if len(manifest["batches"]) > 1 and not _together(manifest, sorted(manifest["batches"])):
            sizes = ", ".join(map(str, sorted(manifest["batches"])))
            found.append(f"requests must be batches of {sizes}: the plan has a profile for each, and none in between")
    if manifest["backend"] == "openvino" and manifest["options"].get("inference_precision") == "f32":
        found.append("Triton's OpenVINO backend cannot be held to float32: a CPU with BF16 units computes in that")
    return found
