"""User code runs only from the file that was named, and leaves the interpreter as it was."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from engines import child, userfile
from engines.errors import IncompatibleError, ModelError, UsageError


@pytest.fixture
def write(tmp_path: Path):
    def write(text: str, name: str = "net.py") -> Path:
        file = tmp_path / name
        file.write_text(text)
        return file

    return write


def test_names_come_from_the_file(write):
    file = write("class Block: pass\nclass Outer:\n    class Inner: pass\nLIMIT = 3\n")
    found = userfile.load_names(f"{file}:Block, LIMIT,Outer.Inner")
    assert set(found) == {"Block", "LIMIT", "Inner"}
    assert found["LIMIT"] == 3
    assert found["Inner"].__name__ == "Inner"


def test_a_file_runs_once_until_it_changes(write):
    file = write("class Block: pass\n")
    first = userfile.load_names(f"{file}:Block")["Block"]
    assert userfile.load_names(f"{file}:Block")["Block"] is first
    file.write_text("class Block:\n    changed = True\n")
    assert userfile.load_names(f"{file}:Block")["Block"].changed


def test_the_interpreter_is_left_as_it_was(write):
    write("VALUE = 7\n", "beside.py")
    file = write("import beside, sys\nVALUE = beside.VALUE\nSEEN = list(sys.argv)\n")
    path, argv, modules = list(sys.path), list(sys.argv), set(sys.modules)
    found = userfile.load_names(f"{file}:VALUE,SEEN")
    assert found["VALUE"] == 7
    assert found["SEEN"] == [str(file)]
    assert sys.path == path
    assert sys.argv == argv
    assert {name for name in set(sys.modules) - modules if not name.startswith("_user_net_")} == set()


def test_a_file_beside_it_shadows_nothing(write):
    write("raise RuntimeError('hostile')\n", "json.py")
    write("raise RuntimeError('hostile')\n", "numpy.py")
    file = write("import json, numpy\nTEXT = json.dumps(numpy.__name__)\n")
    assert userfile.load_names(f"{file}:TEXT")["TEXT"] == '"numpy"'


def test_imports_inside_a_function_work_while_importing(write):
    write("VALUE = 9\n", "later.py")
    file = write("def make():\n    import later\n    return later.VALUE\n")
    make = userfile.load_names(f"{file}:make")["make"]
    with pytest.raises(ImportError):
        make()
    with userfile.importing(file):
        assert make() == 9
    assert "later" not in sys.modules


@pytest.mark.parametrize("text", ["net.py", "net.py:", ":Block", "net.py:a b", "net.py:1x", ""])
def test_other_forms_are_usage_errors(text):
    with pytest.raises(UsageError, match=r"FILE\.py:NAME"):
        userfile.load_names(text)


def test_a_missing_file_and_a_missing_name_are_told(write, tmp_path):
    with pytest.raises(UsageError, match="no such file"):
        userfile.load_names(f"{tmp_path / 'none.py'}:Block")
    file = write("class Block: pass\ndef make(): pass\n")
    with pytest.raises(UsageError, match="'Bloc'") as caught:
        userfile.load_names(f"{file}:Bloc")
    assert "Block, make" in caught.value.hint


@pytest.mark.parametrize(
    ("code", "kind", "said"),
    [
        ("import no_such_package_here", IncompatibleError, "no_such_package_here"),
        ("import sys; sys.exit(1)", ModelError, r"ended the process.*sys\.exit\(1\)"),
        ("x = = 1", ModelError, "line 1"),
        ("raise ValueError('broken')", ModelError, "ValueError: broken"),
    ],
)
def test_failures_of_user_code_are_one_line(write, code, kind, said):
    file = write(code)
    modules = set(sys.modules)
    with pytest.raises(kind, match=said):
        userfile.load_names(f"{file}:x")
    assert not {name for name in set(sys.modules) - modules if "_user_" in name}


@pytest.mark.parametrize("inside", [False, True])
def test_an_interrupt_out_of_user_code_is_its_mistake_only_where_no_other_can_come(write, monkeypatch, inside):
    monkeypatch.setattr(child, "_inside", inside)
    file = write("raise KeyboardInterrupt\n")
    with pytest.raises(ModelError if inside else KeyboardInterrupt) as caught:
        userfile.load_names(f"{file}:x")
    if inside:
        assert "KeyboardInterrupt" in caught.value.message and str(file) in caught.value.message


def _raised(make) -> BaseException:
    with pytest.raises(BaseException) as caught:
        make()
    return caught.value


def test_the_line_that_ended_the_process_is_named(write, monkeypatch):
    beside = write("import sys\ndef leave():\n    sys.exit('no GPU')\n", "beside.py")
    file = write(
        "import beside\nleave = beside.leave\ndef interrupt(): raise KeyboardInterrupt\ndef fail(): raise ValueError\n"
    )
    found = userfile.load_names(f"{file}:leave,interrupt,fail")
    left = userfile.blamed(_raised(found["leave"]))
    assert isinstance(left, ModelError)
    assert left.message == f"{beside}, line 3, in leave: ended by sys.exit('no GPU')"
    assert userfile.blamed(_raised(found["fail"])) is None
    assert userfile.blamed(_raised(lambda: sys.exit(3))) is None
    interrupted = _raised(found["interrupt"])
    assert userfile.blamed(interrupted) is None
    monkeypatch.setattr(child, "_inside", True)
    assert "line 3, in interrupt: ended by KeyboardInterrupt" in str(userfile.blamed(interrupted))


def test_a_copy_of_the_code_that_a_framework_runs_elsewhere_is_still_the_users(write):
    file = write("import sys\nVALUE = 1\n")
    userfile.load_names(f"{file}:VALUE")
    module = next(m for m in reversed(list(sys.modules.values())) if getattr(m, "__file__", None) == str(file))
    exec(compile("def tf__call(): sys.exit(9)", "/generated.py", "exec"), module.__dict__)
    assert str(userfile.blamed(_raised(module.tf__call))) == f"{file}: ended by sys.exit(9)"


@pytest.mark.skipif(sys.platform != "linux", reason="names that are any bytes")
def test_a_file_in_a_folder_without_an_encoding_is_loaded(tmp_path):
    folder = tmp_path / "\udcff"
    folder.mkdir()
    (folder / "net.py").write_text("VALUE = 3\n")
    assert userfile.load_names(f"{folder / 'net.py'}:VALUE") == {"VALUE": 3}
