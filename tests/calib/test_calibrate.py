"""The stage `calibrate`: from an FP32 graph and images to the Q/DQ graph of the best method."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import pytest

from calib import graph as graphs
from calib.calibrate import calibrate, image_input, saturates
from calib.check import check_qdq
from calib.preprocess import parse
from engines import child
from engines.errors import BuildError, DataError, ModelError, UsageError

Build = Callable[..., Path]


def arguments(onnx: Path, data: str, out: Path, **changes: Any) -> Dict[str, Any]:
    base = {
        "onnx": str(onnx),
        "data": data,
        "preprocess": parse("resize=16,unit").to_json(),
        "layout": "NHWC",
        "target": "onnxruntime",
        "out": str(out),
        "samples": 60,
    }
    return {**base, **changes}


def chosen_name(result: Dict[str, Any]) -> str:
    method = result["method"]
    value = method["percentile"] if method["percentile"] is not None else method.get("momentum")
    return method["name"] if value is None else f"{method['name']}:{value:g}"


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_the_best_method_is_written(resnet: Build, data: str, tmp_path: Path, target: str) -> None:
    told: List[Any] = []
    out = tmp_path / "new" / "int8.onnx"
    result = calibrate(**arguments(resnet(), data, out, target=target), progress=lambda *a: told.append(a))
    assert json.loads(json.dumps(result)) == result
    assert check_qdq(out, target) == [] and result["onnx"] == str(out)
    name = chosen_name(result)
    measured = [c for c in result["candidates"] if c["images"] == 120]
    chosen = next(c for c in measured if c["method"] == name)
    assert chosen["error"] == min(c["error"] for c in measured)
    assert chosen["agreement"] > 0.8 and chosen["top1"] is not None
    assert len(result["candidates"]) == 11 and result["samples"] == 60 and result["holdout"] == 120
    assert result["keep_float"] == []  # what a search starts from
    notes = {item.key: item.value for item in graphs.load(out).metadata_props}
    assert notes["optimize.calibration.method"] == name and notes["optimize.calibration.samples"] == "60"
    assert notes["optimize.calibration.data_sha256"] == result["dataset"]["sha256"]
    assert {what for what, _, _ in told} >= {"ranges", "method minmax", "bias correction"}
    assert [item.name for item in out.parent.iterdir()] == ["int8.onnx"]


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_corrected_biases_are_kept_only_where_that_is_better(
    resnet: Build, data: str, tmp_path: Path, target: str
) -> None:
    coarse = coarse_weights(resnet(), tmp_path / "coarse.onnx")
    result = calibrate(**arguments(coarse, data, tmp_path / "q.onnx", target=target, methods=["minmax"]))
    tried, before = result["bias_correction"], result["candidates"][0]
    assert tried["tried"] and tried["layers"] == result["weights"] and tried["images"] == 60
    better = tried["agreement"] >= before["agreement"] and tried["error"] < before["error"]
    assert tried["kept"] is better is True  # rounding that is one-sided is taken off
    notes = {item.key: item.value for item in graphs.load(tmp_path / "q.onnx").metadata_props}
    assert notes["optimize.calibration.bias_correction"] == "mean"
    assert check_qdq(tmp_path / "q.onnx", target) == []


def coarse_weights(source: Path, out: Path) -> Path:
    """Every channel gets one large weight, so that the others round to few steps, all of them upwards."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(source))
    for item in model.graph.initializer:
        value = numpy_helper.to_array(item).copy()
        if value.ndim == 4 and value.shape[1] > 3:
            step = 2 * np.abs(value).max()
            value = (np.abs(value) / step).round(1) * step + 0.006 * step
            value[:, 0, 0, 0] = step
            item.CopyFrom(numpy_helper.from_array((value * 0.3).astype(np.float32), item.name))
    onnx.save(model, str(out))
    return out


def test_an_interrupted_pass_goes_on_and_ends_in_the_same_file(
    resnet: Build, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = tmp_path / "ranges.npz"
    job = {"methods": ["average:0.9", "minmax"], "samples": 100}
    monkeypatch.setattr("calib.budget.pauses", lambda *a: [32, 64, 100])
    monkeypatch.setattr("calib.calibrate._GAIN", math.inf)
    plain = calibrate(**arguments(resnet(), data, tmp_path / "a.onnx", **job))
    assert plain["samples"] == 100

    def stop(what: str, done: int, total: int) -> None:
        if what == "ranges" and done >= 96:
            raise KeyboardInterrupt

    again: List[Any] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("calib.checkpoint.EVERY_S", 0.0)
        with pytest.raises(KeyboardInterrupt):
            calibrate(**arguments(resnet(), data, tmp_path / "b.onnx", **job, state=str(state)), progress=stop)
    assert state.exists()
    resumed = calibrate(
        **arguments(resnet(), data, tmp_path / "b.onnx", **job, state=str(state)),
        progress=lambda what, done, total: again.append(done if what == "ranges" else what),
    )
    assert again[0] == 100 and not state.exists()  # what the pauses had told was not measured again
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()
    assert {**plain, "onnx": ""} == {**resumed, "onnx": ""}


@pytest.mark.parametrize(("gain", "samples"), [(0.0, 64), (math.inf, 100)])
def test_the_pass_ends_where_more_images_do_not_help(
    resnet: Build, data: str, tmp_path: Path, gain: float, samples: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("calib.budget.pauses", lambda *a: [32, 64, 96, 100])
    monkeypatch.setattr("calib.calibrate._GAIN", gain)
    told: List[int] = []
    result = calibrate(
        **arguments(resnet(), data, tmp_path / "paused.onnx", samples=100, methods=["minmax", "entropy"]),
        progress=lambda what, done, total: told.append(done) if what == "ranges" else None,
    )
    assert told == [stop for stop in (32, 64, 96, 100) if stop <= samples]  # no image twice
    assert result["samples"] == samples
    monkeypatch.setattr("calib.budget.pauses", lambda *a: [samples])
    again = arguments(resnet(), data, tmp_path / "plain.onnx", samples=100, methods=["minmax", "entropy"])
    plain = calibrate(**again)
    assert (tmp_path / "paused.onnx").read_bytes() == (tmp_path / "plain.onnx").read_bytes()
    assert {**plain, "onnx": ""} == {**result, "onnx": ""}


def test_one_image_is_enough(resnet: Build, data: str, tmp_path: Path) -> None:
    result = calibrate(**arguments(resnet(), data, tmp_path / "q.onnx", samples=1))
    assert result["samples"] == 1 and check_qdq(tmp_path / "q.onnx", "onnxruntime") == []


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
@pytest.mark.parametrize("weights", [0.0, 0.5])
def test_a_dead_and_a_constant_channel(resnet: Build, data: str, tmp_path: Path, target: str, weights: float) -> None:
    """All weights of a channel zero, with and without a bias: its result is a constant, and its scale stays legal."""
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(resnet()))
    for item in model.graph.initializer:
        if item.name in ("b1_conv1_w", "b1_conv1_b", "head_w"):
            value = numpy_helper.to_array(item).copy()
            value[0] = 0.0 if item.name != "b1_conv1_b" else weights
            item.CopyFrom(numpy_helper.from_array(value, item.name))
    onnx.save(model, str(tmp_path / "dead.onnx"))
    result = calibrate(**arguments(tmp_path / "dead.onnx", data, tmp_path / "q.onnx", target=target))
    assert max(c["agreement"] for c in result["candidates"]) > 0.8


def test_an_infinite_weight_names_the_first_tensor_it_spoils(resnet: Build, data: str, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    model = onnx.load(str(resnet()))
    item = next(item for item in model.graph.initializer if item.name == "b1_conv1_w")
    value = numpy_helper.to_array(item).copy()
    value[3, 0, 0, 0] = np.inf
    item.CopyFrom(numpy_helper.from_array(value, item.name))
    onnx.save(model, str(tmp_path / "bad.onnx"))
    with pytest.raises(DataError, match="'b1_relu1_out' holds NaN or an infinity"):
        calibrate(**arguments(tmp_path / "bad.onnx", data, tmp_path / "q.onnx", target="tensorrt"))


def test_the_same_seed_gives_the_same_file(resnet: Build, data: str, tmp_path: Path) -> None:
    for name in ("a.onnx", "b.onnx"):
        calibrate(**arguments(resnet(), data, tmp_path / name, methods=["peaks:90"], seed=3))
    assert (tmp_path / "a.onnx").read_bytes() == (tmp_path / "b.onnx").read_bytes()


def test_it_runs_as_a_child_with_openvino(resnet: Build, data: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino")
    job = arguments(resnet(), data, tmp_path / "q.onnx", target="openvino", methods=["minmax"])
    result = child.call("calib.calibrate:calibrate", job)
    assert result["method"] == {"name": "minmax", "percentile": None} and Path(result["onnx"]).exists()
    assert result["candidates"][0]["agreement"] > 0.8


def test_a_fixed_batch_and_channels_first(resnet: Build, data: str, tmp_path: Path) -> None:
    source = resnet(layout="NCHW", batch=7)
    result = calibrate(**arguments(source, data, tmp_path / "q.onnx", layout="NCHW", methods=["minmax"]))
    assert result["candidates"][0]["agreement"] > 0.8


def test_tensors_are_compared_by_direction(mixed_cnn: Path, data: str, tmp_path: Path) -> None:
    job = arguments(mixed_cnn, data, tmp_path / "q.onnx", layout="NCHW", task="tensors", methods=["minmax", "mse"])
    result = calibrate(**job)
    assert all(0.9 < c["agreement"] <= 1 and c["top1"] is None for c in result["candidates"])


def test_kept_nodes(resnet: Build, data: str, tmp_path: Path) -> None:
    result = calibrate(
        **arguments(resnet(), data, tmp_path / "q.onnx", methods=["minmax"], keep_float=["stem", "head"])
    )
    assert result["weights"] == 7


def test_mistakes_come_before_any_work(resnet: Build, data: str, tmp_path: Path) -> None:
    out = tmp_path / "q.onnx"
    with pytest.raises(UsageError, match="samples 0"):
        calibrate(**arguments(resnet(), data, out, samples=0))
    with pytest.raises(UsageError, match="kl"):
        calibrate(**arguments(resnet(), data, out, methods=["kl"]))
    with pytest.raises(UsageError, match="tflite"):
        calibrate(**arguments(resnet(), data, out, target="tflite"))
    with pytest.raises(UsageError, match="nowhere"):
        calibrate(**arguments(resnet(), str(tmp_path / "nowhere"), out))
    with pytest.raises(BuildError, match="no Conv"):
        calibrate(**arguments(resnet(), data, out, keep_float=[n.name for n in graphs.load(resnet()).graph.node]))
    calibrate(**arguments(resnet(), data, out, methods=["minmax"]))
    with pytest.raises(ModelError, match="already quantised"):
        calibrate(**arguments(out, data, tmp_path / "again.onnx"))


@pytest.mark.parametrize(("layout", "given", "size"), [("NHWC", "", (16, 16)), ("NCHW", "NCHW", (16, 16))])
def test_the_input_is_read_from_the_graph(resnet: Build, layout: str, given: str, size: Any) -> None:
    found = image_input(graphs.load(resnet(layout=layout)), "m.onnx", given)
    assert (found.spec.name, found.layout, found.size, found.batch) == ("image", layout, size, 0)
    assert image_input(graphs.load(resnet(batch=7)), "m.onnx").batch == 7


def test_inputs_that_are_no_image_are_refused(resnet: Build) -> None:
    model = graphs.load(resnet())
    extra = model.graph.input.add()
    extra.CopyFrom(model.graph.input[0])
    extra.name = "second"
    with pytest.raises(UsageError, match="2 inputs"):
        image_input(model, "m.onnx")
    model = graphs.load(resnet())
    del model.graph.input[0].type.tensor_type.shape.dim[3]
    with pytest.raises(UsageError, match="no float32 image batch"):
        image_input(model, "m.onnx")
    model = graphs.load(resnet())
    model.graph.input[0].type.tensor_type.shape.dim[3].dim_value = 5
    with pytest.raises(UsageError, match="layout"):
        image_input(model, "m.onnx")


@pytest.mark.parametrize(
    ("machine", "features", "expected"),
    [
        ("x86_64", ("avx2",), True),
        ("x86_64", ("avx2", "avx_vnni"), False),
        ("AMD64", ("avx512f", "avx512_vnni"), False),
        ("aarch64", ("asimddp",), False),
    ],
)
def test_saturation_is_a_matter_of_x86_without_vnni(
    monkeypatch: pytest.MonkeyPatch, machine: str, features: Any, expected: bool
) -> None:
    import platform

    import engines.device

    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(engines.device, "cpu_features", lambda: features)
    assert saturates() is expected


@pytest.mark.slow
@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_a_trained_model_keeps_its_accuracy(shared: Path, tmp_path: Path, target: str) -> None:
    """ResNet-20 with pad shortcuts: at most 1 point of top-1 lost on all test images."""
    import onnxruntime

    from calib.datasets import open_dataset
    from calib.feeds import batches

    source = _export_resnet20(shared / "models", tmp_path)
    folder = str(shared / "data" / "cifar-10-batches-bin")
    job = arguments(source, folder, tmp_path / "q.onnx", preprocess=parse("imagenet").to_json(), layout="NCHW")
    result = calibrate(**{**job, "target": target, "samples": 512})
    tests = open_dataset(folder, "test")
    right = {}
    for path in (source, result["onnx"]):
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        feed = batches(tests, parse("imagenet"), "NCHW", (32, 32), 100)
        right[path] = sum(int((session.run(None, {"image": x})[0].argmax(1) == y).sum()) for x, y in feed)
    assert right[source] / len(tests) == pytest.approx(0.8103, abs=0.001)
    assert right[result["onnx"]] >= right[source] - 0.01 * len(tests)


def _export_resnet20(models: Path, out: Path) -> Path:
    torch = pytest.importorskip("torch")
    names: Dict[str, Any] = {}
    exec((models / "resnet_cifar.py").read_text(), names)
    net = names["resnet20"]()
    net.load_state_dict(torch.load(str(models / "resnet20_cifar10.pt"), weights_only=True))
    path = out / "resnet20.onnx"
    free = {"image": {0: "N"}}
    options: Dict[str, Any] = {"opset_version": 17, "input_names": ["image"], "dynamic_axes": free, "dynamo": False}
    torch.onnx.export(net.eval(), torch.zeros(1, 3, 32, 32), str(path), **options)
    return path
