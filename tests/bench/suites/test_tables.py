"""Suite files: those that come with the project hold what their sources say, and damaged ones are refused."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any, Dict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.suites import tables
from engines import jsonfile
from engines.errors import DamagedError, UsageError

WHOLE = {name: jsonfile.read(tables.FOLDER / f"{name}.json") for name in tables.names()}

NANO = {
    "resnet50": 36,
    "mobilenet-v2": 64,
    "ssd-mobilenet-v2-300x300": 39,
    "ssd-mobilenet-v2-480x272": 27,
    "ssd-mobilenet-v2-960x544": 8,
    "ssd-resnet18-300x300": 18,
    "ssd-resnet18-480x272": 16,
    "ssd-resnet18-960x544": 5,
    "inception-v4": 11,
    "tiny-yolo-v3": 25,
    "openpose": 14,
    "vgg19": 10,
    "super-resolution": 15,
    "unet": 18,
}
"""Images/s at FP16 and batch 1, as NVIDIA published them."""


def published(name: str) -> Dict[str, float]:
    return {cell["name"]: cell["published"] for cell in tables.read(name)["cells"]}


def test_the_jetson_nanos_table_is_whole() -> None:
    assert published("jetson-nano") == NANO
    about = tables.read("jetson-nano")
    assert {(c["precision"], c["batch"], c["quantity"]) for c in about["cells"]} == {("fp16", 1, "images_per_s")}
    assert about["conditions"]["power_mode"] is None  # the table does not say


def test_the_figures_of_other_tables() -> None:
    orin = published("orin-nano")
    assert (orin["resnet50-fp16-b1"], orin["resnet50-fp16-b8"], orin["resnet18-int8-b8"]) == (1.814, 8.816, 1.927)
    assert published("mlperf-orin")["orin-nx-v3.1-offline"] == 2640.51
    assert published("resnet34-cifar10-orin-nano")["gpu"] == 17.61
    assert published("resnet-family-edge")["rtx3080ti-resnet152-time"] == 30.79
    user = {name: value / NANO[name] for name, value in published("jetson-nano-reproduced").items() if name in NANO}
    assert 0.8 < user["openpose"] < 0.82 and 0.94 < user["inception-v4"] < 0.95


@pytest.mark.parametrize("name", tables.names())
def test_a_suite_is_named_as_its_file_and_says_where_it_is_from(name: str) -> None:
    found = tables.read(name)
    assert found["name"] == name
    for cell in found["cells"]:
        assert set(cell["conditions"]) == set(found["conditions"])
        assert cell["made"] or len(cell["why"].split()) > 4, "what is not made says why"
        assert cell["batch"] or not cell["made"], "a batch that is not stated cannot be measured"


def test_conditions_of_a_cell_stand_before_those_of_the_suite() -> None:
    cells = {cell["name"]: cell["conditions"] for cell in tables.read("mlperf-orin")["cells"]}
    assert cells["orin-nx-v3.1-offline"]["modules"] == ["p3767-0000"]
    assert cells["agx-orin-v3.1-singlestream"]["modules"] == ["p3701"]
    assert cells["orin-nx-v3.1-offline"]["processor"] == "GPU and DLA"


def test_the_sides_of_an_image() -> None:
    assert tables.sides(300) == (300, 300) and tables.sides([272, 480]) == (272, 480)
    cells = {cell["name"]: cell["made"] for cell in tables.read("jetson-nano")["cells"]}
    for name, made in cells.items():
        width, _, height = name.rpartition("-")[2].partition("x")
        if height:
            assert tables.sides(made["size"]) == (int(height), int(width)), "a table names the width first"


def test_a_file_of_ones_own(tmp_path: Path) -> None:
    value = copy.deepcopy(WHOLE["jetson-nano"])
    value["cells"] = value["cells"][:1]
    value["cells"][0].update(made={"file": "nets/mine.onnx", "size": None}, more="kept")
    jsonfile.write(tmp_path / "my.json", value)
    (cell,) = tables.read(tmp_path / "my.json")["cells"]
    assert cell["made"]["file"] == str((tmp_path / "nets/mine.onnx").resolve())
    assert cell["more"] == "kept"


def test_the_page_names_every_suite_and_its_example_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "suites.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in page for name in tables.names())
    assert all(f"`{word}`" in page for word in (*tables.QUANTITIES, *tables.TIMED))
    example = page[page.index('    {"schema"') :].split("\n\n")[0]
    (tmp_path / "my.json").write_text(example)
    assert tables.read(tmp_path / "my.json")["cells"][0]["quantity"] == "median_ms"


@pytest.mark.parametrize("name", ["jetson-namo", "nowhere.json", "."])
def test_no_such_suite(name: str) -> None:
    with pytest.raises(UsageError) as error:
        tables.read(name)
    assert error.value.hint == "optimize suite list"


BROKEN = {
    "another schema": lambda v: v.update(schema="optimize.suite/2"),
    "no cells": lambda v: v.update(cells=[]),
    "twice": lambda v: v["cells"].append(v["cells"][0]),
    "name with a slash": lambda v: v["cells"][0].update(name="../x"),
    "no source of a cell": lambda v: v["cells"][0].update(source=" "),
    "no source": lambda v: v["source"].pop("url"),
    "unknown quantity": lambda v: v["cells"][0].update(quantity="fps"),
    "nothing published": lambda v: v["cells"][0].update(published=0),
    "published in words": lambda v: v["cells"][0].update(published="36"),
    "batch 0": lambda v: v["cells"][0].update(batch=0),
    "true for a batch": lambda v: v["cells"][0].update(batch=True),
    "unknown precision": lambda v: v["cells"][0].update(precision="fp8"),
    "timed in a way of its own": lambda v: v["cells"][0].update(conditions={"timed": "fast"}),
    "modules in a word": lambda v: v["conditions"].update(modules="p3448"),
    "a model that says nothing": lambda v: v["cells"][0].update(made={}),
    "a model of three sizes": lambda v: v["cells"][0]["made"].update(size=[224, 224, 3]),
    "a width in words": lambda v: v["cells"][0]["made"].update(size=[224, "224"]),
    "no classes": lambda v: v["cells"][0]["made"].update(classes=0),
    "nothing assumed": lambda v: v["cells"][0]["made"].update(assumed=" "),
    "a model without a size": lambda v: v["cells"][0].update(made={"architecture": "resnet50", "classes": 10}),
    "not made without a why": lambda v: v["cells"][0].update(made=None, why=""),
    "unknown form": lambda v: v["cells"][0].update(form="fly"),
    "tolerance in percent": lambda v: v.update(tolerance=5),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_wrong_field_is_refused_by_name(what: str, tmp_path: Path) -> None:
    value = copy.deepcopy(WHOLE["jetson-nano"])
    BROKEN[what](value)
    jsonfile.write(tmp_path / "s.json", value)
    with pytest.raises(DamagedError, match=r"s\.json"):
        tables.read(tmp_path / "s.json")


@given(st.data())
def test_a_field_that_is_missing_is_damage(data: Any) -> None:
    value = copy.deepcopy(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    cell = data.draw(st.sampled_from(value["cells"]))
    where = data.draw(st.sampled_from([value, value["source"], value["conditions"], cell]))
    optional = {"note", "conditions", "why", "form", "threads"} if where is cell else set()
    field = data.draw(st.sampled_from(sorted(set(where) - (optional - {"note"}))))
    del where[field]
    with pytest.raises(DamagedError, match=field):
        tables.validate(value)


@given(
    st.data(),
    st.none() | st.booleans() | st.integers(-5, 5) | st.text(max_size=3) | st.lists(st.integers(), max_size=2),
)
def test_any_value_in_any_field_is_valid_or_damage(data: Any, junk: Any) -> None:
    value = copy.deepcopy(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    where = data.draw(st.sampled_from([value, value["source"], value["conditions"], *value["cells"]]))
    where[data.draw(st.sampled_from(sorted(where)))] = junk
    try:
        tables.validate(value)
    except DamagedError as error:
        assert error.message


@given(data=st.data())
def test_a_file_that_was_cut_is_refused(data: Any, tmp_path_factory: pytest.TempPathFactory) -> None:
    text = json.dumps(WHOLE["resnet-family-edge"])
    path = tmp_path_factory.getbasetemp() / "cut.json"
    path.write_text(text[: data.draw(st.integers(0, len(text) - 1))])
    with pytest.raises(DamagedError):
        tables.read(path)
