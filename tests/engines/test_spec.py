"""RunnerSpec travels as JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import DamagedError, UsageError
from engines.spec import FORMS, KINDS, RunnerSpec, TensorSpec

sizes = st.none() | st.integers(1, 4096)
tensors = st.lists(
    st.builds(
        TensorSpec, st.text(min_size=1), st.lists(sizes, max_size=5).map(tuple), st.sampled_from(["float32", "int64"])
    ),
    max_size=3,
).map(tuple)


@st.composite
def specs(draw: Any) -> RunnerSpec:
    kind = draw(st.sampled_from(KINDS))
    return RunnerSpec(
        path=draw(st.text()),
        kind=kind,
        custom_objects=draw(st.none() | st.text()),
        input_shape=draw(st.none() | st.lists(st.integers(1, 512), max_size=4).map(tuple)),
        layout=draw(st.sampled_from(["", "NHWC", "NCHW"])),
        preprocess=draw(st.none() | st.just({"text": "unit"})),
        inputs=draw(tensors),
        outputs=draw(tensors),
        form=draw(st.sampled_from(("", *FORMS.get(kind, ())))),
        threads=draw(st.integers(0, 64)),
        options=draw(st.dictionaries(st.text(), st.integers() | st.text(), max_size=3)),
    )


@given(specs())
def test_a_spec_survives_json(spec: RunnerSpec):
    assert RunnerSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


def test_unknown_fields_are_ignored():
    value = {**RunnerSpec("m", "onnx").to_json(), "later": 1}
    assert RunnerSpec.from_json(value) == RunnerSpec("m", "onnx")


@pytest.mark.parametrize(
    "value",
    [
        {},
        {"path": "m"},
        {"path": "m", "kind": "onnx", "inputs": [{"name": "x"}]},
        {"path": "m", "kind": "onnx", "inputs": 3},
    ],
)
def test_what_is_no_spec(value: Any):
    with pytest.raises(DamagedError, match="not a runner spec"):
        RunnerSpec.from_json(value)


def test_kinds_and_forms_are_checked():
    with pytest.raises(UsageError, match="unknown kind of model 'pdf'"):
        RunnerSpec("m", "pdf")
    with pytest.raises(UsageError, match=r"an? onnx model cannot be run as 'xla'; forms: none"):
        RunnerSpec("m", "onnx", form="xla")
    assert RunnerSpec("m", "keras-zip").with_(form="xla").form == "xla"
