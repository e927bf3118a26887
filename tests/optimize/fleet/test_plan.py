from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engines.errors import UsageError
from optimize.fleet import plan


@pytest.fixture
def write(tmp_path: Path):
    (tmp_path / "net.onnx").write_bytes(b"a model")

    def written(text: str) -> Path:
        path = tmp_path / "plan.toml"
        path.write_text(text)
        return path

    return written


def test_a_plan_needs_only_a_model(write):
    found = plan.read(write("model = 'net.onnx'"))
    assert found.precisions == ("fp16",)
    assert found.batches == (1, 64)
    assert (found.name, found.tag, found.store, found.activate) == ("net", "latest", "", plan.NEVER)
    assert found.quiet == {"load": 0.5, "celsius": 70.0, "wait": 300.0}


def test_everything_can_be_said(write, tmp_path):
    (tmp_path / "images.npz").write_bytes(b"images")
    found = plan.read(
        write(
            "model = 'net.onnx'\nprecision = ['int8', 'fp16']\nbatch = [8, 1]\ndata = 'images.npz'\nname = 'mine'\n"
            "tag = 'v1'\nstore = 'oci://registry:5000/engines'\nactivate = 'int8'\npreprocess = 'unit'\nforks = 3\n"
            "[build]\nmax_drop = 2.0\nkeep_fp32 = ['a', 'b']\n[bench]\nquick = true\nthreads = [1, 3]\n"
            "[quiet]\nwait = '2m'\n[limits]\nstep = '1h'\nlock = '5s'\n[trtexec]\nduration = '1s'\n"
        )
    )
    assert found.batches == (1, 8)
    assert found.data_path == tmp_path / "images.npz"
    assert found.store == "oci://registry:5000/engines"
    assert found.limits == {"step": 3600.0, "lock": 5.0}
    assert found.quiet["wait"] == 120.0
    assert plan.words(found.build) == ["--max-drop", "2.0", "--keep-fp32", "a", "--keep-fp32", "b"]
    assert plan.words(found.bench) == ["--quick", "--threads", "1,3"]


def test_a_plan_named_from_its_folder_gives_whole_paths(write, tmp_path, monkeypatch):
    write("model = 'net.onnx'\ndata = 'net.onnx'")
    monkeypatch.chdir(tmp_path)
    found = plan.read(Path("plan.toml"))
    assert (found.path, found.model, found.data_path) == (
        tmp_path / "plan.toml",
        tmp_path / "net.onnx",
        tmp_path / "net.onnx",
    )


def test_a_store_without_a_scheme_is_a_folder_beside_the_plan(write, tmp_path):
    assert plan.read(write("model = 'net.onnx'\nstore = 'engines'")).store == str(tmp_path / "engines")


def test_a_key_is_a_file_beside_the_plan_and_engines_do_not_depend_on_it(write, tmp_path):
    signed = plan.read(write("model = 'net.onnx'\nsign = 'keys/release'"))
    unsigned = plan.read(write("model = 'net.onnx'"))
    assert (signed.sign, unsigned.sign) == (tmp_path / "keys/release", None)
    assert plan.key(signed) == plan.key(unsigned)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "model is missing"),
        ("model = 'no.onnx'", "no such model"),
        ("model = 'net.onnx'\ncolour = 1", "colour is not known"),
        ("model = 'net.onnx'\n[bench]\nforce = true", "bench.force is not known"),
        ("model = 'net.onnx'\n[bench]\nrounds = 0", "bench.rounds"),
        ("model = 'net.onnx'\n[quiet]\nwait = 'soon'", "quiet.wait"),
        ("model = 'net.onnx'\nprecision = 'fp8'", "fp8"),
        ("model = 'net.onnx'\nbatch = [0]", "batch"),
        ("model = 'net.onnx'\nname = '../up'", "name"),
        ("model = 'net.onnx'\ntag = 'a/b'", "tag"),
        ("model = 'net.onnx'\nactivate = 'int8'", "is not built"),
        ("model = 'net.onnx'\nbuild = 3", "build"),
        ("model = ", "not TOML"),
    ],
)
def test_what_is_wrong_is_named_with_the_file(write, text, words):
    with pytest.raises(UsageError) as error:
        plan.read(write(text))
    assert words in error.value.message and "plan.toml" in error.value.message


def test_a_plan_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="no such plan"):
        plan.read(tmp_path / "plan.toml")
    with pytest.raises(UsageError, match="folder"):
        plan.read(tmp_path)


def test_the_key_follows_what_engines_depend_on_and_nothing_else(write, tmp_path):
    base = plan.key(plan.read(write("model = 'net.onnx'")))
    assert plan.key(plan.read(write("model = 'net.onnx'\ntag = 'v2'\n[bench]\nquick = true"))) == base
    assert plan.key(plan.read(write("model = 'net.onnx'\n[build]\nseed = 1"))) != base
    (tmp_path / "net.onnx").write_bytes(b"another model")
    assert plan.key(plan.read(write("model = 'net.onnx'"))) != base


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.text(max_size=200))
def test_any_text_is_a_plan_or_a_user_s_error(write, text):
    path = write("")
    path.write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(UsageError):
        plan.read(path)
