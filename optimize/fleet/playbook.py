"""One step on many boards at once, by the program `ansible-playbook`; what each board answers comes back in a file.

Values that came from a board, a plan or a file are handed over as `!unsafe` strings, in which Ansible expands nothing.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Tuple

from engines import jsonfile, process, scratch
from engines.errors import IncompatibleError, OptimizeError, UsageError
from engines.spec import A_LINE, Progress, quiet
from engines.text import plain

OLDEST, NEWEST = (2, 16), (2, 19)
"""Ansible that is known to work; newer ones do not manage boards with Python 3.8."""

INSTALL = "pip install 'optimize-trt[fleet]' (Python 3.10 or newer), or pipx install 'ansible-core<2.20'"

FILES = Path(__file__).parent / "ansible"

_ALIVE = "-o ServerAliveInterval=15 -o ServerAliveCountMax=8"
"""A board that lost its power is known to be lost after two minutes, and not when TCP gives up."""

_BEAT = 0.2
_LAST_WORDS = 4096


class Answer(NamedTuple):
    """What a board has answered in a step.

    Attributes:
        lost: It could not be reached, at first or any more.
        message: What went wrong; empty where nothing did.
        commands: `rc`, `stdout`, `stderr` of each command that was run.
        told: All that the role tells, as it is.
    """

    lost: bool
    message: str
    commands: List[Dict[str, Any]]
    told: Dict[str, Any]


def program() -> Tuple[str, str]:
    """Path of `ansible-playbook` and the version of its core.

    Raises:
        IncompatibleError: It is missing, does not run, or is of another version.
    """
    beside = Path(sys.executable).parent / "ansible-playbook"
    path = str(beside) if os.access(beside, os.X_OK) else shutil.which("ansible-playbook")
    if path is None:
        raise IncompatibleError("Ansible is not installed: ansible-playbook is not found", INSTALL)
    try:
        done = subprocess.run([path, "--version"], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=120)
    except (OSError, subprocess.SubprocessError) as error:
        raise IncompatibleError(f"{path} does not run: {error}", INSTALL) from None
    text = done.stdout.decode("utf-8", "replace")
    found = re.search(r"\[core (\d+)\.(\d+)[^\]\s]*\]", text)
    if found is None:
        raise IncompatibleError(f"{path} is no ansible-core: {' '.join(text.split())[:200]}", INSTALL)
    version = int(found.group(1)), int(found.group(2))
    if not OLDEST <= version <= NEWEST:
        known = f"{OLDEST[0]}.{OLDEST[1]} to {NEWEST[0]}.{NEWEST[1]}"
        raise IncompatibleError(f"{path} is ansible-core {version[0]}.{version[1]}; {known} are supported", INSTALL)
    return path, found.group(0)[len("[core ") : -1]


class Ansible:
    """Runs steps of the role on the boards of an inventory.

    Args:
        inventory: Handed to Ansible as it is: a file, a folder or a program.
        work: Folder for what is sent, answered and logged.
        limit: Ansible's `--limit`; empty for all.
        forks: Boards at a time.
        step_s: Seconds that a step may take in all.
    """

    def __init__(self, inventory: Path, work: Path, limit: str = "", forks: int = 16, step_s: float = 6 * 3600) -> None:
        if not os.path.exists(inventory):
            raise UsageError(f"no such inventory: {inventory}", "-i inventory.yml; docs/fleet.md shows one")
        self.program, self.version = program()
        self.inventory = Path(inventory).resolve()
        self.work = work.resolve()
        self.limit, self.forks, self.step_s = limit, forks, step_s

    def hosts(self) -> List[str]:
        """Names of the boards that the inventory and the limit give, in their order.

        Raises:
            UsageError: The inventory cannot be read, or gives none.
        """
        with scratch.folder() as folder:
            target = Path(folder) / "hosts.json"
            code, log = self._play("hosts", {"fleet_hosts_file": str(target)}, self.limit, {}, quiet)
            if not target.is_file():
                why = "gives no board" if code == 0 else f"cannot be used: {_last(log)}"
                limited = f" with --limit {self.limit}" if self.limit else ""
                raise UsageError(f"{self.inventory}{limited} {why}", f"the log is {log}")
            found = jsonfile.loads(target.read_text(encoding="utf-8"))
        return [str(name) for name in found]

    def step(
        self, name: str, play: str, jobs: Mapping[str, Mapping[str, Any]], progress: Progress = quiet
    ) -> Dict[str, Answer]:
        """Do a job on each of some boards.

        Args:
            name: Of the step, for the log and the progress.
            play: Tasks of the role: `facts`, `job` or `raw`.
            jobs: By board, what its tasks need (`optimize.fleet.jobs`).
            progress: Told which boards have answered.

        Returns:
            What each board has answered.
        """
        if not jobs:
            return {}
        with scratch.folder() as folder:
            answers = Path(folder) / "answers"
            answers.mkdir()
            files = {host: str(answers / f"{number}.json") for number, host in enumerate(jobs)}
            given = {host: {**job, "answer": files[host]} for host, job in jobs.items()}
            hosts = Path(folder) / "hosts"
            hosts.write_text("".join(f"{host}\n" for host in jobs), encoding="utf-8")
            about = {"fleet_step": name, "fleet_tasks": play, "fleet_jobs": given}
            _, log = self._play("step", about, f"@{hosts}", files, progress, name)
            return {host: _answer(Path(file), log) for host, file in files.items()}

    def _play(
        self,
        playbook: str,
        variables: Mapping[str, Any],
        limit: str,
        answers: Mapping[str, str],
        progress: Progress,
        name: str = "",
    ) -> Tuple[int, Path]:
        """Run a playbook; its exit code and its log."""
        logs = self.work / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        log = logs / f"{time.strftime('%Y%m%dT%H%M%S')}-{name or playbook}.log"
        with scratch.folder() as folder, open(log, "ab") as out:
            given = Path(folder) / "variables.yml"
            given.write_text(_yaml(variables) + "\n", encoding="utf-8")
            words = [self.program, "-i", str(self.inventory), "-e", f"@{given}", "--forks", str(self.forks)]
            words += ["--limit", limit] if limit else []
            words += ["--ssh-extra-args", _ALIVE, str(FILES / f"{playbook}.yml")]
            started = subprocess.Popen(
                words,
                cwd=str(self.inventory.parent),  # where a user of Ansible keeps ansible.cfg
                env=_environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=os.name == "posix",
            )
            try:
                with process.passing_on(started, True):
                    _wait(started, name, answers, self.step_s, progress)
            finally:
                process.end(started, True)
        return started.returncode, log


def _wait(
    started: subprocess.Popen[bytes], name: str, answers: Mapping[str, str], most_s: float, progress: Progress
) -> None:
    """Wait for the end, and tell which boards have answered."""
    deadline = time.monotonic() + most_s
    what = f"{name} on {_some(list(answers))}"
    waiting = dict(answers)
    if answers:
        progress(what, 0, len(answers))
    while True:
        ended = started.poll() is not None
        for host in [host for host, file in waiting.items() if os.path.exists(file)]:
            del waiting[host]
            here = len(answers) - len(waiting)
            progress(f"{name}: {host} has answered, {here} of {len(answers)}", 0, A_LINE)
            progress(what, here, len(answers))
        if ended:
            return
        if time.monotonic() > deadline:
            raise OptimizeError(f"{name} took longer than {most_s:.0f} s", "raise [limits] step in the plan")
        time.sleep(_BEAT)


def _some(names: Sequence[str]) -> str:
    """Names for a reader, the first few of many."""
    return ", ".join(names) if len(names) <= 4 else f"{', '.join(names[:3])} and {len(names) - 3} more"


def _environment() -> Dict[str, str]:
    """Of the user, but for what would change what is run or what comes back."""
    kept = {key: value for key, value in os.environ.items() if key != "ANSIBLE_CHECK_MODE"}
    return {**kept, "ANSIBLE_RETRY_FILES_ENABLED": "0", "ANSIBLE_FORCE_COLOR": "0", "ANSIBLE_NOCOLOR": "1"}


def _yaml(value: Any) -> str:
    """A value as YAML on one line; every string in it is marked as one that Ansible must not expand."""
    if isinstance(value, str):
        return f"!unsafe {_quoted(value)}"
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_quoted(str(key))}: {_yaml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(map(_yaml, value)) + "]"
    return json.dumps(value, allow_nan=False)


def _quoted(text: str) -> str:
    """A string of YAML: as in JSON, but that YAML knows no pairs of surrogates."""
    return '"' + "".join(f"\\U{ord(c):08x}" if ord(c) > 0xFFFF else json.dumps(c)[1:-1] for c in text) + '"'


def _answer(file: Path, log: Path) -> Answer:
    """What a board has answered; one that has not was lost on the way."""
    try:
        told = _unicode(jsonfile.read(file))
    except FileNotFoundError:
        return Answer(True, f"the connection was lost; the log is {log}", [], {})
    except (OptimizeError, ValueError) as error:
        return Answer(False, f"its answer cannot be read: {plain(str(error))[:200]}", [], {})
    if told.get("unreachable") is True:
        words = re.sub(
            r"^(Task failed: )?(Failed to connect to the host via ssh: )?", "", str(told.get("message") or "")
        )
        return Answer(True, _short(words or "the connection was lost", log), [], told)
    parts = [told.get(name) if isinstance(told.get(name), list) else [] for name in ("rcs", "stdouts", "stderrs")]
    commands = [{"rc": rc, "stdout": str(out), "stderr": str(err)} for rc, out, err in zip(*parts)]
    return Answer(False, _message(told, commands, log), commands, told)


def _message(told: Mapping[str, Any], commands: Sequence[Mapping[str, Any]], log: Path) -> str:
    """Why a board failed, by its own words."""
    if told.get("failed"):
        task = f"{told['task']}: " if told.get("task") else ""
        return _short(f"{task}{told.get('message')}", log)
    load = told.get("quiet") or {}
    if load.get("rc") == BUSY:
        now, _, hot = str(load.get("stdout")).strip().partition(" ")
        return f"it is not quiet: load {now} for each core, hottest zone {hot} degrees"
    accepted = told.get("accept") or [0]
    bad = next((one for one in commands if one["rc"] not in accepted), None)
    if bad is None:
        return ""
    error = error_of(bad)
    if error:
        return _short(str(error.get("message")), log)
    if bad["rc"] == BUSY:
        return "another job holds the lock of the board"
    text = str(bad["stderr"] or bad["stdout"]).strip().splitlines()
    return _short(f"ended with code {bad['rc']}: {' '.join(text[-3:])}", log)


BUSY = 75
"""Exit code of a board that is not quiet or not free in time: EX_TEMPFAIL of sysexits.h."""


def error_of(command: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """The error in the JSON document that a command of ours has printed; None where there is none."""
    value = document(command)
    error = value.get("error") if value else None
    return error if isinstance(error, dict) else None


def document(command: Mapping[str, Any]) -> Optional[Dict[str, Any]]:
    """The JSON object that a command has printed on stdout; None where it did not."""
    try:
        value = _unicode(jsonfile.loads(str(command.get("stdout") or "")))
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def _unicode(value: Any) -> Any:
    """A JSON value without lone surrogates, which no file and no terminal takes: a question mark stands for each.

    Raises:
        ValueError: It is nested too deeply, or keys are the same then.
    """
    try:
        return jsonfile.loads(jsonfile.dumps(value).encode("utf-8", "replace").decode("utf-8"))
    except RecursionError:
        raise ValueError("nested too deeply") from None


def _short(text: str, log: Path) -> str:
    words = plain(" ".join(text.split()))
    return words if len(words) <= 400 else f"{words[:400]}... (the log is {log})"


def _last(log: Path) -> str:
    """The last words of a log."""
    with open(log, "rb") as file:
        file.seek(max(0, os.fstat(file.fileno()).st_size - _LAST_WORDS))
        lines = file.read().decode("utf-8", "replace").strip().splitlines()
    errors = [line for line in lines if "ERROR" in line or "FAILED" in line]
    return " ".join((errors or lines or ["it printed nothing"])[-1].split())
