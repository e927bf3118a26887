from __future__ import annotations

import numpy as np
import pytest

from bench import accuracy
from engines.errors import DataError, UsageError
from engines.spec import RunnerSpec


def spec(model, **about):
    return RunnerSpec(str(model), "onnx", backend="onnxruntime", layout="NHWC", threads=1, **about).to_json()


def test_accuracy_of_a_known_model(model, images, tmp_path):
    done = accuracy.evaluate(spec(model), str(images), str(tmp_path / "s.npz"), batch=16, batches=[1, 7])
    assert done["top1"] == pytest.approx(50 / 70)
    assert done["n"] == done["dataset"]["n"] == 70
    assert len(done["dataset"]["sha256"]) == 64
    assert [(c["batch"], c["n"], c["agreement"]) for c in done["batches"]] == [(1, 70, 1.0), (7, 70, 1.0)]
    with np.load(done["predictions"]) as kept:
        assert kept["scores"].dtype == np.float32 and kept["scores"].shape == (70, 10)
        assert (kept["scores"].argmax(1) == kept["labels"]).sum() == 50
    assert [p.name for p in tmp_path.iterdir()] == ["s.npz"]


@pytest.mark.parametrize("batch", [1, 32, 70, 100])
def test_the_padded_tail_does_not_count(model, images, tmp_path, batch):
    done = accuracy.evaluate(spec(model), str(images), str(tmp_path / "s.npz"), batch=batch)
    assert (done["n"], done["top1"]) == (70, pytest.approx(50 / 70))


def test_only_so_many_images(model, images, tmp_path):
    done = accuracy.evaluate(spec(model), str(images), str(tmp_path / "s.npz"), batch=8, images=20)
    assert done["n"] == 20


def test_a_fixed_batch_is_used_as_it_is(tmp_path, images, model):
    import onnx

    fixed = onnx.load(str(model))
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 3
    onnx.save(fixed, str(tmp_path / "fixed.onnx"))
    done = accuracy.evaluate(spec(tmp_path / "fixed.onnx"), str(images), str(tmp_path / "s.npz"), batch=64)
    assert (done["batch"], done["n"], done["top1"]) == (3, 70, pytest.approx(50 / 70))


def test_labels_beyond_the_classes(model, tmp_path):
    x = np.zeros((30, 8, 8, 3), np.uint8)
    np.savez(tmp_path / "d.npz", x_test=x, y_test=np.arange(30), x_train=x, y_train=np.arange(30))
    with pytest.raises(DataError, match="10 classes"):
        accuracy.evaluate(spec(model), str(tmp_path / "d.npz"), str(tmp_path / "s.npz"), batch=8)
    assert not (tmp_path / "s.npz").exists()


def test_unlabelled_images_leave_accuracy_unmeasured(model, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3), dtype=np.uint8))
    done = accuracy.evaluate(spec(model), str(tmp_path / "d.npz"), str(tmp_path / "s.npz"), batch=8)
    assert done["top1"] is None and done["top5"] is None
    again = accuracy.compare(tmp_path / "s.npz", tmp_path / "s.npz")
    assert (again["agreement"], again["top1_drop"], again["mcnemar_p"], again["worst_classes"]) == (
        1.0,
        None,
        None,
        None,
    )


def test_what_is_no_classifier_is_refused(tmp_path, images):
    from onnx import TensorProto, helper, save

    ports = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", 4]) for n in ("a", "b")]
    graph = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "g", ports[:1], ports[1:])
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), str(tmp_path / "g.onnx"))
    with pytest.raises(UsageError, match="no classifier"):
        accuracy.evaluate(spec(tmp_path / "g.onnx"), str(images), str(tmp_path / "s.npz"), batch=8)


def written(path, scores, labels, sha256="x"):
    np.savez(path, scores=np.asarray(scores, np.float32), labels=np.asarray(labels, np.int64), sha256=np.array(sha256))
    return path


def test_comparing_two_results(tmp_path):
    labels = [0, 1, 2, 0]
    before = written(tmp_path / "a.npz", np.eye(3)[[0, 1, 2, 1]], labels)
    after = written(tmp_path / "b.npz", 0.5 * np.eye(3)[[0, 2, 1, 1]], labels)
    found = accuracy.compare(before, after)
    assert found["agreement"] == 0.5
    assert found["top1_drop"] == pytest.approx(50)
    assert found["max_abs"] == pytest.approx(1.0)
    low, high = found["drop_interval"]
    assert -100 <= low < 50 < high <= 100
    assert (found["lost"], found["won"], found["mcnemar_p"], found["top5_drop"]) == (2, 0, 0.5, None)
    assert found["agreement_interval"] == pytest.approx([0.15, 0.85], abs=0.001)
    named = accuracy.compare(before, after, ["cat", "dog"])["worst_classes"]
    assert [(one["name"], one["n"], one["before"], one["after"]) for one in named] == [("dog", 1, 1, 0), ("2", 1, 1, 0)]


def test_the_drop_of_the_first_five(tmp_path):
    labels = np.zeros(8, int)
    before = np.tile(-np.arange(7.0), (8, 1))
    after = before.copy()
    after[:2, 0], after[2, 0] = -9, -3.5  # two leave the first five, one the first place only
    found = accuracy.compare(written(tmp_path / "a.npz", before, labels), written(tmp_path / "b.npz", after, labels))
    assert (found["top1_drop"], found["top5_drop"]) == (37.5, 25.0)
    assert found["top5_drop_interval"][0] < 25 < found["top5_drop_interval"][1]


def test_other_images_are_not_compared(tmp_path):
    one = written(tmp_path / "a.npz", np.eye(3), [0, 1, 2])
    for name, labels, sha in (("b", [0, 1, 1], "x"), ("c", [0, 1, 2], "y")):
        with pytest.raises(DataError, match="same images"):
            accuracy.compare(one, written(tmp_path / f"{name}.npz", np.eye(3), labels, sha))


def test_scores_that_are_not_finite_are_wrong_and_not_hidden(tmp_path):
    broken = np.eye(3)
    broken[0, 0] = np.nan
    labels = np.arange(3)
    assert accuracy.top(broken, labels, 1) == pytest.approx(2 / 3)
    assert accuracy.predictions(broken).tolist() == [-1, 1, 2]
    found = accuracy.compare(
        written(tmp_path / "a.npz", np.eye(3), labels), written(tmp_path / "b.npz", broken, labels)
    )
    assert found["top1_drop"] == pytest.approx(100 / 3)
    assert found["max_abs"] == pytest.approx(float(np.finfo(np.float32).max))


def test_top_k_counts_ties_in_order():
    scores = np.array([[1.0, 1.0, 0.0], [0.0, 2.0, 1.0]])
    assert accuracy.top(scores, np.array([1, 2]), 1) == 0
    assert accuracy.top(scores, np.array([1, 2]), 2) == 1
    assert accuracy.top(scores, None, 1) is None


def test_preprocessing_is_told_by_accuracy_on_training_images(model, images):
    found = accuracy.choose_preprocess(spec(model), str(images))
    assert found["preprocess"] == "unit"
    assert found["accuracies"]["unit"] == 1.0
    assert set(found["accuracies"]) == set(accuracy.CANDIDATES)
    assert found["doubt"] == "the preprocessing is not told apart by 40 training images (unit 100.0%, raw 100.0%)"
    assert accuracy.choose_preprocess(spec(model), str(images), ["imagenet"])["preprocess"] == "imagenet"


def test_without_labels_the_first_candidate_stands(model, tmp_path):
    np.savez(tmp_path / "d.npz", x=np.random.default_rng(0).integers(0, 255, (60, 8, 8, 3), dtype=np.uint8))
    assert accuracy.choose_preprocess(spec(model), str(tmp_path / "d.npz")) == {
        "preprocess": "unit",
        "accuracies": {},
        "doubt": "",
    }


def test_preprocessing_that_accuracy_does_not_tell_apart_is_doubted():
    right = np.arange(512) < 300
    worse = np.arange(512) < 200
    assert accuracy._doubt("unit", {"unit": right, "raw": worse}, 10) == ""
    close = accuracy._doubt("unit", {"unit": right, "raw": worse, "tf": np.roll(right, 3)}, 10)
    assert close == "the preprocessing is not told apart by 512 training images (unit 58.6%, tf 58.6%)"
    guess = np.arange(512) < 51
    assert "than guessing" in accuracy._doubt("unit", {"unit": guess, "raw": np.zeros(512, bool)}, 10)
    assert accuracy._doubt("unit", {"unit": right}, 10) == ""
