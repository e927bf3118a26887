from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engines.errors import DamagedError
from optimize.selection import choice
from optimize.selection.choose import select

from .conftest import TABLES

WHOLE: Dict[str, Any] = select([TABLES / "nuc.json"])


def changed(**fields: Any) -> Dict[str, Any]:
    return {**copy.deepcopy(WHOLE), **fields}


def test_unknown_extra_fields_are_kept(tmp_path: Path) -> None:
    choice.write(tmp_path / "c.json", changed(more=1))
    assert choice.read(tmp_path / "c.json") == changed(more=1)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"schema": "optimize.choice/2"}, "update optimize|this version reads"),
        ({"chosen": "ResNet-9"}, "not among the candidates"),
        ({"chosen": None}, "rejected"),
        ({"rejected": []}, "every candidate but the chosen one"),
        ({"rejected": [{"target": "ResNet-101", "reason": "x"}] * 2}, "every candidate"),
        ({"front": ["ResNet-9"]}, "front"),
        ({"interval": [0.7, 0.8]}, "low, saving, high"),
        ({"interval": [0.6]}, "interval"),
        ({"interval": [0.6, 0.65, 0.7]}, "low and high"),
        ({"verdict": "pass"}, "PASS"),
        ({"saving": 1.5}, "saving"),
        ({"saving": None}, "there together"),
        ({"scope": None}, "scope"),
        ({"unknown": "everything"}, "unknown"),
        ({"runs": []}, "runs"),
        ({"candidates": []}, "candidates"),
        ({"terms": ["waiting"]}, "terms"),
    ],
)
def test_what_is_wrong_is_named(fields: Dict[str, Any], words: str) -> None:
    with pytest.raises(DamagedError, match=words):
        choice.validate(changed(**fields))


@pytest.mark.parametrize("field", [key for key in WHOLE if key not in ("schema", "left_out", "shipped")])
def test_a_field_that_is_missing_is_named(field: str) -> None:
    value = changed()
    del value[field]
    with pytest.raises(DamagedError, match=field):
        choice.validate(value)


def test_a_file_that_is_damaged_names_itself(tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    path.write_text(json.dumps(changed(verdict="perhaps")))
    with pytest.raises(DamagedError, match=r"c\.json"):
        choice.read(path)
    path.write_text(json.dumps(changed())[:-5])
    with pytest.raises(DamagedError):
        choice.read(path)


@pytest.mark.journey
@given(st.data())
def test_any_field_of_any_other_type_is_refused_or_read(data: st.DataObject) -> None:
    """Never anything but DamagedError: a hostile file gets no further."""
    value = changed()
    key = data.draw(st.sampled_from(sorted(value)))
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=5,
    )
    value[key] = data.draw(json_values)
    try:
        choice.validate(value)
    except DamagedError as error:
        assert error.message
