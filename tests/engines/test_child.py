"""Children: clean path, errors as themselves, progress, and an end in every case."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Callable, List, Tuple

import pytest

from engines import child, killed
from engines.errors import CLASSES, OptimizeError

ROOT = Path(__file__).resolve().parents[2]

STAGES = """
    import os, sys, signal, time
    from engines import errors

    def echo(progress, **arguments):
        return arguments

    def count(progress, n):
        print("to the log, not to the parent")
        for i in range(n):
            progress("counting ü", i, n)
        return n

    def fail(progress, kind, message):
        if hasattr(errors, kind):
            raise getattr(errors, kind)(message, "a hint")
        raise getattr(__import__("builtins"), kind)(message)

    class Special(errors.BuildError):
        pass

    def fail_specially(progress):
        raise Special("no memory", "a smaller --batch")

    def kill(progress, number):
        os.kill(os.getpid(), number)

    def run_out(progress, counter):
        open(counter, "w").write("pgfault 5\\noom_kill 3\\n")
        os.kill(os.getpid(), signal.SIGKILL)

    def leave(progress):
        print("last words", file=sys.stderr, flush=True)
        os._exit(7)

    def speak(progress, text):
        print(text, flush=True)
        os._exit(7)

    def quit(progress):
        sys.exit(3)

    def temporary(progress):
        import tempfile
        return tempfile.mkstemp()[1]

    def nan(progress):
        return float("nan")

    def where(progress):
        return {"path": sys.path, "env": {k: v for k, v in os.environ.items() if k.startswith("OPTIMIZE_")}}

    def origin(progress, names):
        import importlib
        return [getattr(importlib.import_module(n), "__file__", "") or "" for n in names]

    def sleep(progress, mark):
        progress("pid", os.getpid(), 0)
        open(mark, "w").write(str(os.getpid()))
        time.sleep(60)

    def leave_behind(progress, late, ignoring=False):
        progress("before", 1, 2)
        pid = os.fork()
        if not pid:
            signal.signal(signal.SIGTERM, signal.SIG_IGN if ignoring else signal.SIG_DFL)
            time.sleep(20)
            open(late, "w").close()
            os._exit(0)
        progress("after", 2, 2)
        return pid

    def twice(progress, code):
        if not os.fork():
            return "from the copy"
        time.sleep(1)
        if code:
            os._exit(code)
        return "from the original"

    def beside(progress, mark):
        program = f"import os, time; open({mark!r}, 'w').write(str(os.getpid())); time.sleep(60)"
        started = __import__("subprocess").Popen([sys.executable, "-c", program])
        while not (os.path.exists(mark) and open(mark).read()):
            time.sleep(0.02)
        progress("pid", started.pid, 0)
        time.sleep(60)

    def inner(progress, late):
        from engines import child
        pid = child.call("stages_for_test:leave_behind", {"late": late}, progress)
        return {"pid": pid, "still_here": True}
"""


@pytest.fixture
def stage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """`stage("echo", a=1)`: calls that function of STAGES in a child."""
    folder = tmp_path / "lib"
    folder.mkdir()
    (folder / "stages_for_test.py").write_text(textwrap.dedent(STAGES))
    monkeypatch.syspath_prepend(str(folder))

    def call(name: str, progress: Any = lambda *_: None, **arguments: Any) -> Any:
        env = arguments.pop("env", None)
        return child.call(f"stages_for_test:{name}", arguments, progress, env)

    return call


def test_values_go_there_and_back(stage: Callable[..., Any]):
    value = {"text": "ü", "list": [1, 2.5, None, True], "nested": {"a": {}}, "error": "not one"}
    assert stage("echo", **value) == value


def test_progress_is_forwarded_and_prints_are_not(stage: Callable[..., Any], capfd: pytest.CaptureFixture[str]):
    seen: List[Tuple[str, int, int]] = []
    assert stage("count", lambda *args: seen.append(args), n=3) == 3
    assert seen == [("counting ü", i, 3) for i in range(3)]
    out, err = capfd.readouterr()
    assert out == err == ""


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_is_raised_again_as_itself(name: str, stage: Callable[..., Any]):
    with pytest.raises(OptimizeError, match=r"f\.txt: bad") as error:
        stage("fail", kind=name, message="f.txt: bad")
    assert type(error.value) is CLASSES[name]
    assert error.value.hint == "a hint"


@pytest.mark.parametrize(
    "name, code, words", [("ValueError", 1, "unexpected ValueError: odd"), ("MemoryError", 1, "out of memory")]
)
def test_other_errors_become_ours(name: str, code: int, words: str, stage: Callable[..., Any]):
    with pytest.raises(OptimizeError) as error:
        stage("fail", kind=name, message="odd")
    assert (error.value.message, error.value.exit_code) == (words, code)


def test_an_error_of_a_narrower_class_arrives_as_the_one_the_table_knows(stage: Callable[..., Any]):
    with pytest.raises(CLASSES["BuildError"], match="no memory") as error:
        stage("fail_specially")
    assert error.value.hint == "a smaller --batch"


def test_a_missing_module_or_function_is_an_error(stage: Callable[..., Any]):
    with pytest.raises(OptimizeError, match="no_such_module") as error:
        child.call("no_such_module:f", {})
    assert error.value.exit_code == 4
    with pytest.raises(OptimizeError, match="no_such_function"):
        stage("no_such_function")


def test_a_killed_child_blames_the_memory_only_where_the_kernel_does(
    stage: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """The counter of a kernel that ends the child, in a file of the same form."""
    monkeypatch.setattr(killed, "_ROOT", tmp_path)
    (tmp_path / "proc").mkdir()
    counter = tmp_path / "proc" / "vmstat"
    counter.write_text("pgfault 5\noom_kill 2\n")
    with pytest.raises(OptimizeError, match=r"^stages_for_test:kill was killed \(signal 9\)$"):
        stage("kill", number=int(signal.SIGKILL))
    with pytest.raises(OptimizeError, match=r"stages_for_test:run_out was killed.*memory ran out") as error:
        stage("run_out", counter=str(counter))
    assert "smaller --batch" in error.value.hint


def test_a_child_that_crashes_or_leaves_is_an_error(stage: Callable[..., Any]):
    with pytest.raises(OptimizeError, match="ended with code -11"):
        stage("kill", number=int(signal.SIGSEGV))
    with pytest.raises(OptimizeError, match="ended with code 7: last words"):
        stage("leave")
    with pytest.raises(OptimizeError, match="unexpected SystemExit"):
        stage("quit")


def test_a_result_that_is_no_json_is_an_error(stage: Callable[..., Any]):
    with pytest.raises(OptimizeError, match="unexpected ValueError"):
        stage("nan")


def test_the_log_can_be_kept(stage: Callable[..., Any], tmp_path: Path):
    log = tmp_path / "log.txt"
    child.call("stages_for_test:count", {"n": 1}, env={"PYTHONUNBUFFERED": ""}, log=log)
    assert "to the log" in log.read_text()


def test_what_a_child_prints_needs_no_locale(stage: Callable[..., Any]):
    plain = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    with pytest.raises(OptimizeError, match="ended with code 7: ü✓"):
        stage("speak", env=plain, text="ü✓")


def test_temporary_files_of_a_child_go_with_it(stage: Callable[..., Any]):
    assert not Path(stage("temporary")).parent.exists()


def test_environment_is_added(stage: Callable[..., Any]):
    assert stage("where", env={"OPTIMIZE_EXTRA": "1"})["env"]["OPTIMIZE_EXTRA"] == "1"


HOSTILE = (
    "bench.py",
    "onnx.py",
    "calib/__init__.py",
    "select.py",
    "json.py",
    "numpy.py",
    "engines/__init__.py",
    "re.py",
)


def test_files_of_the_working_folder_shadow_nothing(tmp_path: Path):
    """Started as a user starts it, from a folder full of files named like ours."""
    here = tmp_path / "here"
    for name in HOSTILE:
        (here / name).parent.mkdir(parents=True, exist_ok=True)
        (here / name).write_text(
            f"open({str(tmp_path / 'touched')!r}, 'a').write({name!r})\nraise SystemExit('hostile')\n"
        )
    lib = tmp_path / "lib"
    lib.mkdir()
    (lib / "stages_for_test.py").write_text(textwrap.dedent(STAGES))
    script = (
        "import sys; sys.path[:] = [p for p in sys.path if p]; "
        f"sys.path[:0] = [{str(ROOT)!r}, {str(lib)!r}]; "
        "from engines import child; sys.path.insert(0, ''); "
        "names = ['bench', 'calib', 'select', 'json', 'numpy', 'engines', 're', 'onnx']; "
        "print('\\n'.join(child.call('stages_for_test:origin', {'names': names})))"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=str(here), capture_output=True)
    assert done.returncode == 0, done.stderr.decode()
    assert not (tmp_path / "touched").exists()
    assert str(here) not in done.stdout.decode()


def test_the_working_folder_is_not_on_the_path(
    stage: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend("")
    assert str(tmp_path) not in child.clean_path()
    assert str(tmp_path) not in stage("where")["path"]


def _gone(pid: int) -> bool:
    """Whether a process has ended (a zombie has)."""
    for _ in range(100):
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.05)
    return False


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc")
def test_an_interrupt_ends_the_child(stage: Callable[..., Any], tmp_path: Path):
    pids: List[int] = []

    def interrupt(what: str, done: int, total: int) -> None:
        pids.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage("sleep", interrupt, mark=str(tmp_path / "mark"))
    assert _gone(pids[0])


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc")
@pytest.mark.parametrize("ignoring", [False, True])
def test_what_user_code_forks_delays_nothing_and_is_ended(stage: Callable[..., Any], tmp_path: Path, ignoring: bool):
    """The fork holds the progress pipe for 20 s; then it would write its file."""
    seen: List[str] = []
    late = tmp_path / "late"
    pid = stage("leave_behind", lambda what, *_: seen.append(what), late=str(late), ignoring=ignoring)
    assert not late.exists() and _gone(pid)
    assert seen == ["before", "after"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs a fork")
def test_code_that_forks_and_returns_twice_answers_once(stage: Callable[..., Any]):
    assert stage("twice", code=0) == "from the original"
    with pytest.raises(OptimizeError, match="ended with code 7"):
        stage("twice", code=7)


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc")
def test_an_interrupt_ends_what_the_child_started(stage: Callable[..., Any], tmp_path: Path):
    pids: List[int] = []

    def interrupt(what: str, done: int, total: int) -> None:
        pids.append(done)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stage("beside", interrupt, mark=str(tmp_path / "mark"))
    assert _gone(pids[0])


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc")
def test_a_child_of_a_child_stays_in_its_group_and_ends_no_more_than_itself(stage: Callable[..., Any], tmp_path: Path):
    late = tmp_path / "late"
    done = stage("inner", late=str(late))
    assert done["still_here"] and not late.exists() and _gone(done["pid"])


def _parent(tmp_path: Path, name: str) -> Tuple[subprocess.Popen, Path]:
    """A process that calls a stage of STAGES, once the stage has left the mark."""
    lib, mark = tmp_path / "lib", tmp_path / "mark"
    lib.mkdir()
    (lib / "stages_for_test.py").write_text(textwrap.dedent(STAGES))
    script = (
        "import signal, sys; signal.signal(signal.SIGHUP, signal.SIG_DFL); "  # ignored, where nohup runs the tests
        f"sys.path[:0] = [{str(ROOT)!r}, {str(lib)!r}]; from engines import child; "
        f"child.call('stages_for_test:{name}', {{'mark': {str(mark)!r}}})"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", script], cwd=str(tmp_path), env={**os.environ, "TMPDIR": str(tmp_path)}
    )
    for _ in range(400):
        if mark.exists() and mark.read_text():
            break
        time.sleep(0.05)
    return parent, mark


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_what_ends_the_parent_ends_the_other_group_and_leaves_nothing(tmp_path: Path, number: int):
    parent, mark = _parent(tmp_path, "beside")
    try:
        os.kill(parent.pid, number)
        assert parent.wait(30) == 128 + number
        assert _gone(int(mark.read_text()))
        assert not list(tmp_path.glob("optimize-*"))
    finally:
        if parent.poll() is None:
            parent.kill()
            parent.wait()


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc")
def test_stopping_the_parent_stops_the_child_until_it_goes_on(tmp_path: Path):
    parent, mark = _parent(tmp_path, "sleep")
    pid = int(mark.read_text())

    def both(*states: str) -> bool:
        for _ in range(200):
            if _state(parent.pid) in states and _state(pid) in states:
                return True
            time.sleep(0.02)
        return False

    try:
        os.kill(parent.pid, signal.SIGTSTP)
        assert both("T")
        os.kill(parent.pid, signal.SIGCONT)
        assert both("S", "R")
    finally:
        parent.kill()
        parent.wait()
    assert _gone(pid)


@pytest.mark.skipif(sys.platform != "linux", reason="uses /proc and prctl")
def test_a_child_ends_with_its_parent_and_what_both_left_is_swept_by_the_next(tmp_path: Path):
    parent, mark = _parent(tmp_path, "sleep")
    try:
        pid = int(mark.read_text())
        os.kill(parent.pid, signal.SIGKILL)
        parent.wait()
        assert _gone(pid)
        assert list(tmp_path.glob("optimize-*"))
        again = "import sys; sys.path.insert(0, sys.argv[1]); from engines import child; child.call('sys:exit', {})"
        subprocess.run(
            [sys.executable, "-c", again, str(ROOT)],
            env={**os.environ, "TMPDIR": str(tmp_path)},
            stderr=subprocess.DEVNULL,
        )
        assert not list(tmp_path.glob("optimize-*"))
    finally:
        if parent.poll() is None:
            parent.kill()
            parent.wait()


@pytest.mark.skipif(sys.platform != "linux", reason="uses prctl")
def test_a_child_that_begins_after_its_parent_has_died_does_nothing(tmp_path: Path):
    job, mark = tmp_path / "job.json", tmp_path / "mark"
    asked = {"target": "pathlib:Path.write_text", "arguments": {}, "result": str(mark)}
    command = [sys.executable, "-c", child._BOOT, str(job), *child.clean_path()]
    for parent, begins in ((1 << 22, False), (os.getpid(), True)):  # the first is more than any process id
        job.write_text(json.dumps({**asked, "parent": parent}))
        assert (subprocess.run(command, stderr=subprocess.DEVNULL).returncode == 1) != begins
        assert mark.exists() == begins
