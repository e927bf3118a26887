from __future__ import annotations

import subprocess

import pytest

from bench.peers import environments
from bench.peers.environments import Environment
from engines.errors import IncompatibleError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("environments")


@pytest.mark.slow
def test_an_environment_is_made_once_and_stands_alone(folder, monkeypatch):
    monkeypatch.setitem(environments.TABLE, "empty", Environment(()))
    inside = environments.python("empty", folder)
    code = "import sys, importlib.util as u; print(sys.prefix, u.find_spec('numpy'), u.find_spec('optimize'))"
    said = subprocess.run([str(inside), "-I", "-c", code], stdout=subprocess.PIPE, text=True, check=True).stdout.split()
    assert said == [str(folder / "empty"), "None", "None"]
    kept = folder / "empty" / "kept"
    kept.touch()
    assert environments.python("empty", folder) == inside and kept.exists()
    # Other packages than it was made with: it is made anew.
    monkeypatch.setitem(environments.TABLE, "empty", Environment((("--no-index", "no-such-package"),)))
    with pytest.raises(IncompatibleError, match="no-such-package for empty: ERROR"):
        environments.python("empty", folder)
    assert not kept.exists()
    monkeypatch.setitem(environments.TABLE, "empty", Environment(()))
    assert environments.python("empty", folder).exists()  # what was half made does not count


def test_runtimes_are_those_of_this_interpreter():
    import numpy

    wanted = environments._wanted(Environment((("peer",), ("more",)), ("numpy", "no-such-package")))
    assert wanted["steps"] == [["peer", f"numpy=={numpy.__version__}"], ["more"]]
