"""Calibration caches of ours hold every tensor's range; those of others make the Q/DQ graph where they fit it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Callable, Dict, List

import numpy as np
import onnx
import onnxruntime
import pytest

from calib import cache, ranges
from calib.check import check_qdq
from calib.preprocess import parse
from engines import manifest
from engines.errors import BuildError, DataError, IncompatibleError, ModelError, UsageError
from engines.tensorrt import cachefile

Build = Callable[..., Path]
UNIT = parse("resize=16,unit").to_json()


def write(model: Path, data: str, out: Path, **options: Any) -> Dict[str, Any]:
    given = {"preprocess": UNIT, "tensorrt": "8.5.2", "samples": 40, **options}
    return cache.write(str(model), data, out=str(out), **given)


@pytest.fixture(scope="module")
def written(resnet: Build, data: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of the ResNet by the largest values."""
    out = tmp_path_factory.mktemp("cache") / "net.cache"
    write(resnet(head="matmul"), data, out, method="minmax")
    return out


@pytest.fixture
def model(resnet: Build) -> Path:
    return resnet(head="matmul")


def test_every_float_tensor_has_the_scale_that_numpy_finds(model: Path, data: str, written: Path) -> None:
    from calib.datasets import open_dataset
    from calib.feeds import batches
    from calib.preprocess import Preprocess

    found = cachefile.read(written)
    graph = onnx.load(str(model))
    made = {name for node in graph.graph.node for name in node.output}
    assert set(found.scales) == {"image", *made}  # also what is merged away elsewhere: a MatMul before its bias
    del graph.graph.output[:]
    graph.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in sorted(made))
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    dataset = open_dataset(data, "calibration", 40, 0)
    ((x, _),) = batches(dataset, Preprocess.from_json(UNIT), "NHWC", (16, 16), 40)
    values = {"image": x, **dict(zip(sorted(made), session.run(sorted(made), {"image": x})))}
    for name, scale in found.scales.items():
        assert scale == pytest.approx(float(np.abs(values[name]).max()) / 127, rel=1e-5), name


def test_the_sidecar_says_what_it_was_measured_on(model: Path, data: str, tmp_path: Path) -> None:
    out = tmp_path / "new" / "net.cache"
    told: List[Any] = []
    done = write(model, data, out, method="percentile:99.5", seed=3, progress=lambda *a: told.append(a))
    about = cachefile.about(out)
    assert about and json.loads(cachefile.sidecar(out).read_text())["schema"] == "optimize.calibration/1"
    assert about["of"]["model"] == cachefile.jsonfile.sha256(model) and about["of"]["preprocess"] == UNIT
    assert (about["of"]["method"], about["of"]["samples"], about["of"]["seed"]) == ("percentile:99.5", 40, 3)
    assert about["of"]["data"] == done["dataset"]["sha256"]
    assert cachefile.require(out, about["of"], "entropy", "8.5.2") == out.read_bytes()
    assert done["header"] == "TRT-8502-EntropyCalibration2"  # the only one that trtexec --calib reads
    assert told[-1][1:] == (40, 40) and sorted(p.name for p in out.parent.iterdir()) == ["net.cache", "net.cache.json"]
    again = write(model, data, tmp_path / "again.cache", method="percentile:99.5", seed=3)
    assert again["of"] == done["of"] and Path(again["cache"]).read_bytes() == out.read_bytes()


def test_an_interrupted_pass_goes_on(
    model: Path, data: str, written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, state = tmp_path / "net.cache", tmp_path / "state.npz"
    monkeypatch.setattr("calib.checkpoint.EVERY_S", 0.0)
    monkeypatch.setattr(cache, "batch_size", lambda *a: 8)
    seen: List[int] = []

    def stop(what: str, done: int, total: int) -> None:
        seen.append(done)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(model, data, out, method="minmax", state=str(state), progress=stop)
    assert state.exists() and not out.exists()
    write(model, data, out, method="minmax", state=str(state), progress=lambda what, done, total: seen.append(done))
    assert seen == [8, 16, 24, 32, 40] and not state.exists()
    assert cachefile.read(out).scales == pytest.approx(cachefile.read(written).scales, rel=1e-5)


@pytest.mark.parametrize(
    ("options", "error"),
    [({"samples": 0}, UsageError), ({"method": "best"}, UsageError), ({"tensorrt": "new"}, UsageError)],
)
def test_bad_options(model: Path, data: str, tmp_path: Path, options: Dict[str, Any], error: Any) -> None:
    with pytest.raises(error):
        write(model, data, tmp_path / "c", **options)
    assert not list(tmp_path.iterdir())


def test_a_model_that_gives_no_number_is_named(model: Path, data: str, tmp_path: Path) -> None:
    broken = onnx.load(str(model))
    for item in broken.graph.initializer:
        if item.name == "b0_conv1_b":
            value = onnx.numpy_helper.to_array(item).copy()
            value[0] = np.nan
            item.CopyFrom(onnx.numpy_helper.from_array(value, item.name))
    onnx.save(broken, str(tmp_path / "broken.onnx"))
    with pytest.raises(DataError, match="b0_conv1_out"):
        write(tmp_path / "broken.onnx", data, tmp_path / "c")


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
def test_a_cache_makes_the_graph_of_its_scales(
    model: Path, data: str, written: Path, tmp_path: Path, target: str
) -> None:
    done = cache.quantised(str(model), str(written), target, str(tmp_path / "q.onnx"))
    assert check_qdq(tmp_path / "q.onnx", target) == []
    assert json.loads(json.dumps(done)) == done and done["keep_float"] == [] and done["imported"]["missing"] == []
    assert done["imported"]["of"]["method"] == "minmax" and done["samples"] == 40
    x = np.random.default_rng(0).random((64, 4, 4, 3), np.float32).repeat(4, 1).repeat(4, 2)
    before, after = (ranges.session(p, simulate=True).run(None, {"image": x})[0] for p in (model, tmp_path / "q.onnx"))
    assert np.abs(before - after).mean() < 0.05
    with pytest.raises(ModelError, match="already quantised"):
        cache.quantised(str(tmp_path / "q.onnx"), str(written), target, str(tmp_path / "again.onnx"))
    with pytest.raises(ModelError, match="already quantised"):
        write(tmp_path / "q.onnx", data, tmp_path / "c")


def cut(written: Path, out: Path, *names: str, zero: bool = False) -> Path:
    """The same cache, of an older project without sidecar, that lacks some tensors or saw nothing of them."""
    found = cachefile.read(written)
    scales = {n: 0.0 if n in names else s for n, s in found.scales.items() if zero or n not in names}
    out.write_bytes(cachefile.render(cachefile.Cache("7103", "minmax", scales)))
    return out


@pytest.mark.parametrize("target", ["tensorrt", "openvino", "onnxruntime"])
@pytest.mark.parametrize("zero", [False, True])
def test_layers_of_an_unknown_tensor_stay_float(
    model: Path, written: Path, tmp_path: Path, target: str, zero: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache, "LEAST", 0.8)  # the graph is small
    older = cut(written, tmp_path / "older.cache", "b1_relu1_out", zero=zero)
    done = cache.quantised(str(model), str(older), target, str(tmp_path / "q.onnx"))
    assert done["imported"]["missing"] == ["b1_relu1_out"] and "b1_conv2" in done["keep_float"]
    assert (done["imported"]["header"], done["imported"]["of"]) == ("TRT-7103-MinMaxCalibration", None)
    assert (done["samples"], done["dataset"]["n"]) == (0, 0)
    assert check_qdq(tmp_path / "q.onnx", target) == []
    names = {
        i for node in onnx.load(str(tmp_path / "q.onnx")).graph.node if node.name == "b1_conv2" for i in node.input
    }
    assert "b1_conv2_w" in names
    fit = cache.fitted(str(model), str(older), str(tmp_path / "fitted.cache"), target)
    assert fit.pop("cache") == str(tmp_path / "fitted.cache") and fit == {key: done[key] for key in fit}
    assert "b1_relu1_out" not in cachefile.read(tmp_path / "fitted.cache").scales


def test_a_cache_of_another_graph_is_refused(model: Path, mixed_cnn: Path, written: Path, tmp_path: Path) -> None:
    for target in ("tensorrt", "onnxruntime"):
        with pytest.raises(IncompatibleError, match=r"no scale for \d \('relu_out'.*90%"):
            cache.quantised(str(mixed_cnn), str(written), target, str(tmp_path / "q.onnx"))
    other = cut(written, tmp_path / "o.cache", "b0_relu1_out", "b1_relu1_out", "b2_relu1_out")
    with pytest.raises(IncompatibleError, match="b0_relu1_out"):
        cache.fitted(str(model), str(other), str(tmp_path / "fitted.cache"))
    assert [p.name for p in tmp_path.iterdir()] == ["o.cache"]


def test_what_is_never_negative_is_told_by_the_operators(model: Path, mixed_cnn: Path) -> None:
    from calib import graph as graphs

    found = cache.nonnegative(graphs.load(model))
    assert {"stem_relu_out", "pool_out", "b0_relu1_out", "b2_relu2_out", "gap_out", "flat_out"} <= set(found)
    assert not {"b0_add_out", "stem_out", "image", "head_add_out"} & set(found)
    assert "swish_out" not in cache.nonnegative(graphs.load(mixed_cnn))


def test_nothing_to_quantise(written: Path, tmp_path: Path) -> None:
    node = onnx.helper.make_node("Relu", ["image"], ["y"])
    ports = [onnx.helper.make_tensor_value_info(n, 1, ["N", 3, 8, 8]) for n in ("image", "y")]
    graph = onnx.helper.make_graph([node], "g", ports[:1], ports[1:])
    opset = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=8), str(tmp_path / "g.onnx"))
    with pytest.raises(BuildError, match="constant weight"):
        cache.fitted(str(tmp_path / "g.onnx"), str(written), str(tmp_path / "fitted.cache"))


def test_a_manifest_holds_an_imported_calibration(model: Path, written: Path, tmp_path: Path) -> None:
    for file in (written, cut(written, tmp_path / "older.cache")):
        manifest._FIELDS["calibration"](
            "calibration", cache.fitted(str(model), str(file), str(tmp_path / "fitted.cache"))
        )


def test_a_cache_by_the_names_of_the_source_is_given_the_graphs_own(model: Path, written: Path, tmp_path: Path) -> None:
    found = cachefile.read(written)
    names = {name: f"StatefulPartitionedCall/{name}:0" for name in found.scales if name != "image"}
    theirs = tmp_path / "theirs.cache"
    # names of the graph stand there too, for other tensors: by one naming or the other, never by both
    mine = {"b0_relu1_out": 1.0, "b1_relu1_out": 1.0}
    scales = {**{names.get(name, name): scale for name, scale in found.scales.items()}, **mine}
    theirs.write_bytes(cachefile.render(found._replace(scales=scales)))
    done = cache.fitted(str(model), str(theirs), str(tmp_path / "fitted.cache"), names=names)
    assert done["imported"]["missing"] == []
    fitted = cachefile.read(tmp_path / "fitted.cache").scales
    assert fitted == {name: scale for name, scale in found.scales.items() if name in fitted}
    assert set(found.scales) - set(fitted) == {"head_out"}  # a MatMul that is one with its bias
    cache.quantised(str(model), str(theirs), "openvino", str(tmp_path / "a.onnx"), names=names)
    cache.quantised(str(model), str(written), "openvino", str(tmp_path / "b.onnx"))
    one, two = (onnx.load(str(tmp_path / name)) for name in ("a.onnx", "b.onnx"))
    assert one.graph == two.graph
