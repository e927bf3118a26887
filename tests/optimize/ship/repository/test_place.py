"""What every place of a model repository does alike, on real servers."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any, Callable, Dict, List

import pytest

import optimize
from engines.errors import DamagedError, UsageError
from engines.spec import A_LINE
from optimize.ship import triton
from optimize.ship.repository import place as places
from tests.optimize.ship.repository.conftest import KINDS, Place

pytest.importorskip("tritonclient.grpc")

kinds = pytest.mark.parametrize("kind", KINDS)

FILES = ["m/1/model.bin", "m/1/model.xml", "m/config.pbtxt", "m/labels.txt"]


def served(files: Dict[str, bytes]) -> Any:
    """The configuration, by Triton's own message."""
    from google.protobuf import text_format
    from tritonclient.grpc import model_config_pb2

    return text_format.Parse(files["m/config.pbtxt"].decode(), model_config_pb2.ModelConfig())


@kinds
def test_a_bundle_becomes_a_model_that_triton_finds(kind: str, place: Place, bundle: Callable[..., Path]) -> None:
    source = bundle()
    told: List[Any] = []
    done = optimize.ship([source], to=place.url, name="m", progress=lambda *words: told.append(words))
    (model,) = done["models"]
    assert (model["name"], model["version"]) == ("m", 1)
    assert model["copied"] == sum((source / name).stat().st_size for name in ("model.bin", "model.xml"))
    files = place.files()
    assert sorted(files) == FILES
    for name in ("model.bin", "model.xml"):
        assert files[f"m/1/{name}"] == (source / name).read_bytes()
    assert served(files).backend == "openvino" and files["m/labels.txt"].startswith(b"class0\nclass1\n")
    assert [words for words in told if words[2] != A_LINE][-1][1:] == (model["copied"], model["copied"])


@kinds
def test_the_same_engine_again_copies_nothing_and_another_becomes_the_next_version(
    kind: str, place: Place, bundle: Callable[..., Path]
) -> None:
    first, second = bundle(), bundle()
    optimize.ship([first], to=place.url, name="m")
    before = place.files()
    again = triton.write_repository([first], place.url, "m", queue_delay_us=777)["models"][0]
    assert (again["version"], again["copied"]) == (1, 0)
    assert b"777" in place.files()["m/config.pbtxt"]
    assert triton.write_repository([second], place.url, "m")["models"][0]["version"] == 2
    files = place.files()
    assert sorted(files) == ["m/1/model.bin", "m/1/model.xml", "m/2/model.bin", "m/2/model.xml", *FILES[2:]]
    assert files["m/1/model.bin"] == before["m/1/model.bin"]
    assert files["m/2/model.bin"] == (second / "model.bin").read_bytes()
    assert list(served(files).version_policy.specific.versions) == ([2] if kind == "s3" else [])


@kinds
def test_a_file_that_changes_while_it_is_sent_leaves_the_version_before(
    kind: str, place: Place, bundle: Callable[..., Path]
) -> None:
    first, second = bundle(), bundle()
    optimize.ship([first], to=place.url, name="m")
    before = place.files()
    (model,) = triton._models(second, "m", 100)
    (second / "model.xml").write_text("<another/>")  # the last to be sent
    repository = places.open_repository(place.url)
    with pytest.raises(DamagedError, match=r"model\.xml: changed while it was copied"):
        triton._write(repository, model, lambda count: None, 0)
    repository.close()
    files = place.files()
    assert {name: files[name] for name in before} == before
    visible = {name for name in files if not name.startswith("m/.")} - set(before)
    assert visible == ({"m/2/model.bin"} if kind == "s3" else set()), "which nobody is told to serve"
    third = bundle()
    assert optimize.ship([third], to=place.url, name="m")["models"][0]["version"] == 2
    files = place.files()
    assert files["m/2/model.bin"] == (third / "model.bin").read_bytes()
    assert files["m/2/model.xml"] == (third / "model.xml").read_bytes()


@kinds
@pytest.mark.parametrize("config", [b'backend: "onnxruntime"', b"version_policy { all { } }", b"", b"\xff"])
def test_a_model_of_another_is_refused_and_stays(
    kind: str, place: Place, bundle: Callable[..., Path], config: bytes
) -> None:
    theirs = {"m/3/model.xml": b"theirs", "m/config.pbtxt": config}
    place.put(theirs)
    with pytest.raises(UsageError, match="m there is another's") as caught:
        optimize.ship([bundle()], to=place.url, name="m")
    assert caught.value.hint == "--name OTHER" and place.files() == theirs


@kinds
def test_after_the_last_number_there_is_no_version(kind: str, place: Place, bundle: Callable[..., Path]) -> None:
    place.put({"m/999999999/model.xml": b"x"})
    with pytest.raises(UsageError, match="after which none is left"):
        optimize.ship([bundle()], to=place.url, name="m")
    assert list(place.files()) == ["m/999999999/model.xml"]


@pytest.mark.parametrize("kind", ["folder", "ssh"])
def test_what_is_no_folder_keeps_the_number_that_it_has(
    kind: str, place: Place, bundle: Callable[..., Path], tmp_path: Path
) -> None:
    model = tmp_path / "the models/m"
    model.mkdir(parents=True)
    (model / "1").write_text("theirs")
    (model / "2").symlink_to("nowhere")
    assert optimize.ship([bundle()], to=place.url, name="m")["models"][0]["version"] == 3
    assert (model / "1").read_text() == "theirs" and (model / "2").is_symlink()


@pytest.mark.parametrize("kind", ["folder", "ssh"])
@pytest.mark.parametrize("name", ["model.bin", "more"])
def test_a_version_with_what_is_no_file_is_not_ours_and_nobody_waits_for_it(
    kind: str, place: Place, bundle: Callable[..., Path], tmp_path: Path, name: str
) -> None:
    source, version = bundle(), tmp_path / "the models/m/1"
    optimize.ship([source], to=place.url, name="m")
    with contextlib.suppress(FileNotFoundError):
        (version / name).unlink()
    os.mkfifo(version / name)
    assert optimize.ship([source], to=place.url, name="m")["models"][0]["version"] == 2


@pytest.mark.parametrize("target", ["triton:{}", "triton:file://{}", "file://localhost{}", "{}"])
def test_a_folder_is_named_in_several_ways(target: str, tmp_path: Path) -> None:
    assert places.open_repository(target.format(tmp_path / "models")).root == str(tmp_path / "models")


@pytest.mark.parametrize(
    ("target", "words"),
    [
        ("triton:", "names no folder"),
        ("triton:file://elsewhere/models", "of this machine"),
        ("triton:oci://host/models", "no repository from oci"),
        ("triton:gs://bucket/models", "no repository from gs"),
        ("triton:ssh://host", "the folder is missing"),
        ("triton:ssh://user:secret@host/x", "password"),
        ("triton:s3://abc/../b", "prefix"),
    ],
)
def test_a_target_that_is_none_is_refused(target: str, words: str, bundle: Callable[..., Path]) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        optimize.ship([bundle()], to=target)
    assert "secret" not in str(caught.value)
