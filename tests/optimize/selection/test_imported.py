from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import runs
from engines.errors import DataError
from optimize.selection import imported
from optimize.selection.choose import select

HEAD = "model,top1_percent,seconds,images\n"


def table(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "table.csv"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_users_table_as_it_would_be_typed(tmp_path: Path) -> None:
    found = select([table(tmp_path, HEAD + "ResNet-152,95.11,30.79,10000\nResNet-18,91.04,16.80,10000\n")])
    assert (found["baseline"], found["chosen"], found["verdict"]) == ("ResNet-152", "ResNet-18", "PASS")
    assert round(100 * found["saving"], 1) == 45.4 and round(found["drop_points"], 2) == 4.07
    assert {"batch: all", "precision: all", "backend: all", "device: all"} <= set(found["unknown"])


def test_what_else_is_known_counts(tmp_path: Path) -> None:
    head = "model,top1_percent,seconds,images,size_bytes,load_s,first_s,batch,dataset,device,joules_per_image\n"
    lines = "a,95,30,10000,100000000,1,0.1,10,cifar10,NUC,0.5\nb,94,10,10000,10000000,0.5,0.1,10,cifar10,NUC,0.2\n"
    found = select([table(tmp_path, head + lines)], bandwidth="10Mbps")
    a, b = found["candidates"]
    assert a["times"]["total_s"] == pytest.approx(80 + 1 + 0.1 + 30) and a["times"]["sources"]["load"] == "given"
    assert b["ms_per_image"] == pytest.approx(1) and found["axes"] == ["accuracy", "latency", "energy", "size"]
    assert not any(text.startswith(("size", "batch", "data set", "device")) for text in found["unknown"])


def test_the_seconds_of_a_table_are_those_of_its_images_whatever_the_batch(tmp_path: Path) -> None:
    """10,000 images are 156 full batches of 64 and one that is not."""
    found = select([table(tmp_path, HEAD.strip() + ",batch\na,95,100,10000,64\nb,94,50,10000,64\n")])
    assert [one["times"]["inference_s"] for one in found["candidates"]] == pytest.approx([100, 50])


def test_an_empty_field_is_unknown(tmp_path: Path) -> None:
    found = select([table(tmp_path, HEAD + "a,95,,10000\nb,94,10,10000\nc,,9,10000\n")])
    assert {one["target"]: one["reason"] for one in found["rejected"]} == {
        "a": "its time is not known",
        "c": "accuracy unmeasured (optimize bench ... --data cifar10 measures it)",
    }


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "lacks model, top1_percent"),
        ("model,top1_percent,seconds\na,1,2\n", "lacks images"),
        (HEAD[:-1] + ",colour\na,1,2,3,red\n", "has colour"),
        (HEAD[:-1] + ",model\na,1,2,3,b\n", "a column twice"),
        (HEAD + "a,1,2\n", "line 2: it has not as many fields"),
        (HEAD + "a,1,2,3,4\n", "line 2: it has not as many fields"),
        (HEAD + "a,1,2,3\n,1,2,3\n", "line 3: model is empty"),
        (HEAD + "a,101,2,3\n", "top1_percent '101'"),
        (HEAD + "a,91%,2,3\n", "top1_percent '91%'"),
        (HEAD + "a,nan,2,3\n", "top1_percent 'nan'"),
        (HEAD + "a,1,-2,3\n", "seconds '-2'"),
        (HEAD + "a,1,2,0\n", "images '0' is not a whole number"),
        (HEAD + "a,1,2,2.5\n", "images"),
        (HEAD[:-1] + ",device\na,1,2,3,NUC\nb,1,2,3,Nano\n", "NUC and Nano"),
        (HEAD + '"a,1,2,3\n', "not a CSV table"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(DataError, match=words):
        imported.read(table(tmp_path, text))


@given(st.text(max_size=60))
def test_any_text_is_a_run_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.mktemp("csv") / "t.csv"
    path.write_bytes((HEAD + text).encode("utf-8", "surrogatepass"))
    try:
        runs.validate(imported.read(path))
    except DataError as error:
        assert "t.csv" in error.message
