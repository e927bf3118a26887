"""What Triton is told of a bundle, held against Triton's own message."""

from __future__ import annotations

import pytest

from engines import manifest
from engines.errors import IncompatibleError
from optimize.ship import tritonconfig

MANIFEST = {
    "name": "resnet34-int8",
    "backend": "openvino",
    "precision": "int8",
    "achieved": {"int8": 36},
    "device": {"backend": "openvino", "version": "2024.4.0"},
    "inputs": [{"name": "image", "shape": [None, 32, 32, 3], "dtype": "float32"}],
    "outputs": [{"name": "scores", "shape": [None, 10], "dtype": "float32"}],
    "layout": "NHWC",
    "task": "classify",
    "preprocess": {"text": "unit"},
    "classes": ["cat", "dog"],
    "batches": [64, 1],
    "options": {"inference_precision": "bf16", "threads": 6},
    "model": {"name": "resnet34.keras", "sha256": "ab" * 32},
    "build_key": "key",
    "files": [{"path": "model.xml", "sha256": "cd" * 32, "bytes": 1}],
}


def parsed(value):
    """The message that Triton reads from the text."""
    text_format = pytest.importorskip("google.protobuf.text_format")
    found = pytest.importorskip("tritonclient.grpc.model_config_pb2")
    return text_format.Parse(tritonconfig.text(value), found.ModelConfig())


def config(batch=None, **changes):
    return tritonconfig.config({**MANIFEST, **changes}, "m", batch, queue_delay_us=250)


def test_what_was_written_is_read_again():
    pytest.importorskip("tritonclient.grpc")
    value = config()
    assert tritonconfig.read(tritonconfig.text(value).encode())["parameters"] == value["parameters"]
    assert tritonconfig.read(b"no config") == tritonconfig.read(b"\xff") == {}


def test_an_engine_that_answers_any_batch_is_put_together_by_triton():
    found = parsed(config())
    assert (found.name, found.backend, found.default_model_filename) == ("m", "openvino", "model.xml")
    assert (
        found.max_batch_size == 64 and list(found.input[0].dims) == [32, 32, 3] and list(found.output[0].dims) == [10]
    )
    assert (
        found.input[0].data_type
        == found.input[0].DESCRIPTOR.file.enum_types_by_name["DataType"].values_by_name["TYPE_FP32"].number
    )
    assert list(found.dynamic_batching.preferred_batch_size) == [64]
    assert found.dynamic_batching.max_queue_delay_microseconds == 250
    assert [(one.name, one.batch_size) for one in found.model_warmup] == [("batch 1", 1), ("batch 64", 64)]
    assert list(found.model_warmup[1].inputs["image"].dims) == [32, 32, 3]
    assert found.output[0].label_filename == tritonconfig.LABELS
    assert found.instance_group[0].kind == found.instance_group[0].KIND_CPU
    settings = {key: value.string_value for key, value in found.parameters.items()}
    assert settings["INFERENCE_NUM_THREADS"] == "6" and settings["HINT_BF16"] == "YES"
    assert settings["optimize.precision"] == "int8" and settings["optimize.preprocess"] == '{"text":"unit"}'
    assert settings["optimize.engine_sha256"] == manifest.identity(MANIFEST)["engine_sha256"]


def test_a_plan_with_a_profile_for_each_of_some_batches_is_asked_batch_by_batch():
    found = parsed(config(backend="tensorrt", options={}))
    assert found.platform == "tensorrt_plan" and found.max_batch_size == 0
    assert list(found.input[0].dims) == [-1, 32, 32, 3] and list(found.output[0].dims) == [-1, 10]
    assert not found.HasField("dynamic_batching")
    (group,) = found.instance_group
    assert group.kind == group.KIND_GPU and list(group.profile) == ["0", "1"]
    assert [list(one.inputs["image"].dims) for one in found.model_warmup] == [[1, 32, 32, 3], [64, 32, 32, 3]]
    assert {one.batch_size for one in found.model_warmup} == {0}


def test_a_plan_whose_profiles_leave_no_gap_is_put_together():
    found = parsed(config(backend="tensorrt", options={}, batches=[1, 2, 3, 4]))
    assert found.max_batch_size == 4 and list(found.dynamic_batching.preferred_batch_size) == [2, 3, 4]
    assert list(found.instance_group[0].profile) == ["0", "1", "2", "3"]


def test_one_of_several_plans_has_its_batch_among_the_dimensions():
    found = parsed(config(64, backend="tensorrt", options={"plans": {"1": "model-b1.plan", "64": "model-b64.plan"}}))
    assert found.max_batch_size == 0 and list(found.input[0].dims) == [64, 32, 32, 3]
    assert not found.instance_group[0].profile and [one.name for one in found.model_warmup] == ["batch 64"]


def test_an_engine_of_a_fixed_batch_keeps_its_shape():
    tensors = [{"name": "image", "shape": [8, 3, 32, 32], "dtype": "float16"}]
    found = parsed(config(backend="onnxruntime", inputs=tensors, batches=[8]))
    assert found.max_batch_size == 0 and list(found.input[0].dims) == [8, 3, 32, 32]
    assert found.platform == "onnxruntime_onnx" and found.parameters["intra_op_thread_count"].string_value == "6"


def test_batch_one_alone_needs_no_queue():
    found = parsed(config(batches=[1]))
    assert found.max_batch_size == 1 and not found.HasField("dynamic_batching")


@pytest.mark.parametrize("dtype", sorted(tritonconfig.TYPES))
def test_every_dtype_has_its_word(dtype):
    found = parsed(config(inputs=[{"name": "x", "shape": [None, 4], "dtype": dtype}], task="tensors"))
    assert len(found.input) == 1 and not found.output[0].label_filename


def test_what_is_not_the_same_in_triton_is_told():
    plan = tritonconfig.remarks({**MANIFEST, "backend": "tensorrt", "device": {"version": "8.5.2"}})
    assert plan[0] == "a plan loads only in a Triton that has tensorrt 8.5.2" and "batches of 1, 64" in plan[1]
    assert (
        "cannot be held to float32" in tritonconfig.remarks({**MANIFEST, "options": {"inference_precision": "f32"}})[0]
    )
    assert tritonconfig.remarks(MANIFEST) == []


def test_without_tritons_message_the_command_that_installs_it_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "tritonclient.grpc", None)
    with pytest.raises(IncompatibleError, match="tritonclient") as error:
        tritonconfig.text(config())
    assert error.value.hint == "pip install 'optimize-trt[triton]'"
