"""Keras files of both generations: loaded with their own weights and policy, in every form, leaking nothing."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from engines import child, keras, kerasgeneration
from engines.spec import RunnerSpec

PROBES = str(Path(__file__).parent / "probes")


def installed(name: str) -> bool:
    return importlib.util.find_spec(name) is not None


@pytest.fixture(scope="module", params=["legacy", "keras3"])
def found(request, tmp_path_factory):
    """What `probes/keras_probe.py` saw in a fresh process of one generation."""
    if not installed("tensorflow"):
        pytest.skip("TensorFlow is not installed")
    from engines.device import backend_version

    modern = (backend_version("keras") or "2").startswith("3")
    if request.param == "keras3" and not modern:
        pytest.skip("Keras 3 is not installed")
    if request.param == "legacy" and modern and not installed("tf_keras"):
        pytest.skip("tf-keras is not installed")
    legacy = request.param == "legacy"
    sys.path.append(PROBES)
    try:
        env = {"TF_USE_LEGACY_KERAS": "1" if legacy else "0", "TF_CPP_MIN_LOG_LEVEL": "2"}
        folder = str(tmp_path_factory.mktemp(request.param))
        return child.call("keras_probe:run", {"folder": folder, "legacy": legacy}, env=env)
    finally:
        sys.path.remove(PROBES)


FILES = ("mixed.keras", "mixed.h5")


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("policy", ["saved", "float32"])
def test_weights_are_byte_for_byte_those_of_the_file(found, name, policy):
    assert found[f"{name} {policy}"]["weights"] == found["weights"]


@pytest.mark.parametrize("name", FILES)
def test_float32_leaves_no_half_operation_and_saved_keeps_them(found, name):
    assert found[f"{name} float32"]["half"] == 0
    assert found[f"{name} saved"]["half"] > 5


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("policy", ["saved", "float32"])
def test_the_global_policy_does_not_leak(found, name, policy):
    assert found["imported_policy"] == "mixed_float16"  # what importing the user's file does
    assert found[f"{name} {policy}"]["policy_after"] == "float32"


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("form", ["predict", "function", "xla"])
def test_every_form_gives_what_the_model_gives(found, name, form):
    seen = found[f"{name} {form}"]
    assert np.allclose(seen["scores"], found["mixed_scores"], atol=1e-6 if form != "xla" else 2e-3)
    assert seen["changed"], "a query must see what the bound array holds now"
    assert seen["inputs"] == [[None, 8, 8, 3]]
    assert seen["outputs"] == [["scores", [None, 3], "float32"]]
    assert seen["layout"] == "NHWC"


def test_a_pure_half_model_becomes_float32(found):
    assert found["half"] == [0, ["float32", "float32"]]


def test_the_suffix_does_not_matter(found):
    assert found["renamed"] == 10


@pytest.mark.parametrize("case", ["unnamed", "unnamed h5"])
def test_custom_objects_must_be_named(found, case):
    assert found[case]["error"] == "UsageError"
    assert "'Block'" in found[case]["message"]
    assert "--custom-objects FILE.py:Block" in found[case]["hint"]


def test_lambda_layers_run_only_with_permission(found):
    assert found["lambda"]["error"] == "ModelError"
    assert "--custom-objects" in found["lambda"]["hint"]
    assert found["lambda allowed"] == [[3, 2]]


@pytest.mark.parametrize("form", ["predict", "function"])
def test_several_inputs_and_outputs_have_their_names(found, form):
    assert found[f"two {form}"] == [["a", "b"], {"first": [6, 2], "second": [6, 5]}]
    assert found["two sum"][0] == pytest.approx(found["two sum"][1], rel=1e-5)


@pytest.mark.parametrize("form", ["predict", "function"])
def test_more_samples_than_a_query_takes_are_answered_in_their_order(found, form):
    assert sorted(found[f"two {form} all"]) == ["first", "second"]
    assert max(found[f"two {form} all"].values()) < 1e-4


def test_free_sizes_are_asked_for(found):
    assert found["free"]["error"] == "UsageError"
    assert "--input-shape" in found["free"]["hint"]
    assert found["free given"] == [[None, 8, 8, 3]]
    assert found["misfit"]["error"] == "UsageError"


def test_weights_without_a_model_are_refused(found):
    assert found["weights only"]["error"] == "ModelError"
    assert "weights only" in found["weights only"]["message"]


@pytest.mark.parametrize("form", ["function", "xla"])
def test_savedmodels_give_what_their_keras_model_gives(found, form):
    scores, shapes = found["saved"][form]
    assert np.allclose(scores, found["saved"]["keras"], rtol=1e-4)
    assert shapes == [[None, 8, 8, 3], [None, 2]]


@pytest.mark.parametrize("case", ["callable", "signed"])
def test_other_savedmodels_have_named_outputs(found, case):
    shapes, right, outputs = found[case]
    assert shapes == {"sum": [2], "twice": [2, 8, 8, 3]}
    assert right
    assert outputs == [["sum", [None]], ["twice", [None, 8, 8, 3]]]


@pytest.mark.parametrize("case", ["nothing", "damaged"])
def test_savedmodels_that_cannot_be_called_are_refused(found, case):
    assert found[case]["error"] == "ModelError"


def test_the_users_file_names_its_generation_and_policy(shared):
    pytest.importorskip("h5py")
    spec = RunnerSpec(str(shared / "models" / "resnet34_cifar10_bs64_epochs10.keras"), "keras-hdf5")
    assert kerasgeneration.generation(spec.path, spec.kind) == "legacy"
    assert kerasgeneration.child_env(spec)["TF_USE_LEGACY_KERAS"] == "1"
    assert keras.policy_of(spec) == "mixed_float16"
    assert keras.policy_of(spec.with_(policy="float32")) == "float32"


def test_importing_the_module_imports_no_framework():
    code = "import sys, engines.keras, engines.tensorflow, engines.torch; print(sorted(set(sys.modules) & {%s}))"
    import subprocess

    names = "'tensorflow','torch','keras','tf_keras','h5py'"
    done = subprocess.run([sys.executable, "-c", code % names], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_users_file_runs_in_float32_with_its_own_weights(shared):
    if not installed("tensorflow") or not installed("h5py"):
        pytest.skip("TensorFlow is not installed")
    from engines.device import backend_version

    if (backend_version("keras") or "2").startswith("3") and not installed("tf_keras"):
        pytest.skip("tf-keras is not installed")
    models = shared / "models"
    path = str(models / "resnet34_cifar10_bs64_epochs10.keras")
    code = f"{models / 'train.py'}:ResidualBlock"
    sys.path.append(PROBES)
    try:
        env = kerasgeneration.child_env(RunnerSpec(path, "keras-hdf5"))
        seen = child.call("keras_probe:users_file", {"path": path, "code": code}, env=env)
    finally:
        sys.path.remove(PROBES)
    assert seen["loaded"] == seen["stored"]
    assert len(seen["stored"]) == 182
    assert seen["half"] == 0
    assert 0 < seen["difference"] < 0.02
    assert seen["policy_after"] == "float32"
    assert seen["threads"] == 1
    assert seen["too late"]["error"] == "IncompatibleError"
