"""Stages: functions from files to files, each in a child process, keyed by the content of what goes in.

A stage's key is the hash of its function, its options, the hashes of its input files and the versions of the packages
that decide its result. Its folder appears under that key in one rename, so that a second run finds it finished and an
interrupted one starts over at the first stage that is not there.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional, Sequence, Tuple

from engines import child, jsonfile
from engines.device import version_of
from engines.errors import DamagedError, OptimizeError
from engines.spec import Progress, quiet
from optimize.version import VERSION

_HERE = "{stage}"
"""Stands for the stage's folder in its stored result, so that the output folder may be moved."""

_SCHEMA = "optimize.stage/1"


class Workspace:
    """The hidden `.optimize/` of an output folder: finished stages, and the journal of what was done when.

    Attributes:
        root: The `.optimize` folder.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._held: Optional[Tuple[int, int]] = None

    @property
    def stages(self) -> Path:
        """Where finished stages lie, one folder each."""
        return self.root / "stages"

    @contextlib.contextmanager
    def locked(self, waiting: Progress = quiet) -> Iterator[None]:
        """Hold the folder for one build at a time; a second one waits and says so.

        Raises:
            OptimizeError: The folder was removed or moved while it was held, whatever else came of that.
        """
        from filelock import FileLock, Timeout

        self.root.mkdir(parents=True, exist_ok=True)
        lock = FileLock(str(self.root / "lock"))
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting(f"waiting for another build in {self.root.parent}", 0, 0)
            lock.acquire()
        try:
            self._held = _file_id(self.root / "lock")
            for folder in (self.stages, self.root.parent):
                jsonfile.sweep(folder)
            try:
                yield
            except Exception:
                self.check_there()
                raise
            self.check_there()
        finally:
            self._held = None
            lock.release()

    def check_there(self) -> None:
        """Refuse to go on in an output folder that is not the one that is held.

        Raises:
            OptimizeError: It was removed or moved; what was begun anew in its place is removed where it is empty.
        """
        if self._is_there():
            return
        for folder in (self.stages, self.root, self.root.parent):
            with contextlib.suppress(OSError):
                folder.rmdir()
        gone = self.root if self.root.parent.exists() else self.root.parent
        raise OptimizeError(f"{gone} was removed or moved during the build", "run the command again")

    def _is_there(self) -> bool:
        return self._held is None or _file_id(self.root / "lock") == self._held

    def note(self, event: str, stage: str, key: str, **more: Any) -> None:
        """Append one line to the journal."""
        line = {"time": now(), "event": event, "stage": stage, "key": key, **more}
        if self._held is None:
            self.root.mkdir(parents=True, exist_ok=True)
        with open(self.root / "journal.jsonl", "a", encoding="utf-8") as handle:
            handle.write(json.dumps(line) + "\n")

    def run(
        self,
        name: str,
        target: str,
        arguments: Mapping[str, Any],
        inputs: Mapping[str, Any],
        progress: Progress = quiet,
        packages: Sequence[str] = (),
        out: Optional[str] = None,
        env: Optional[Mapping[str, str]] = None,
        force: bool = False,
        unchanged: Callable[[], None] = lambda: None,
    ) -> Dict[str, Any]:
        """Return a stage's result, from an earlier run where nothing that decides it has changed.

        Args:
            name: Of the stage; part of its folder's name.
            target: `package.module:function`, run by `engines.child.call`.
            arguments: JSON values; paths in them do not count for the key, so they stand in `inputs` by their hash.
            inputs: What decides the result: content hashes and options, by name.
            progress: Told what the child reports.
            packages: Distributions whose versions decide the result.
            out: The argument that gets a path inside the stage's folder: `name=file`, or `name` for the folder itself.
            env: Added to the child's environment.
            force: Run again even where a result is there.
            unchanged: Raises where a file that the function reads is another than `inputs` tell: nothing is kept.

        Returns:
            What the function returned, with `folder`, `seconds` (of the run that made it) and `reused`.
        """
        key = digest(
            {
                "target": target,
                "inputs": dict(inputs),
                "versions": {p: version_of(p) for p in packages},
                "optimize": VERSION,
            }
        )
        folder = self.stages / f"{name}-{key[:16]}"
        self.check_there()
        if not force:
            found = _finished(folder, key)
            if found is not None:
                self.note("reused", name, key)
                return {**found, "folder": str(folder), "reused": True}
        begun = time.perf_counter()
        try:
            self.note("started", name, key)  # in here: Ctrl-C may come before this line has returned
            with jsonfile.replacing_folder(folder) as part:
                call = dict(arguments)
                if out is not None:
                    argument, _, file = out.partition("=")
                    call[argument] = str(part / file) if file else str(part)
                try:
                    value = child.call(target, call, progress, env)
                except OptimizeError:
                    self.check_there()
                    unchanged()  # a file that was cut short while it was read is the reason of any other error
                    raise
                self.check_there()
                unchanged()
                seconds = round(time.perf_counter() - begun, 3)
                record = {
                    "schema": _SCHEMA,
                    "name": name,
                    "key": key,
                    "created": now(),
                    "seconds": seconds,
                    "inputs": dict(inputs),
                    "files": {
                        p.relative_to(part).as_posix(): jsonfile.sha256(p) for p in part.rglob("*") if p.is_file()
                    },
                    "result": _swap(value, str(part), _HERE),
                }
                jsonfile.write(part / "stage.json", _sealed(record))
        except BaseException as error:
            event = "interrupted" if isinstance(error, KeyboardInterrupt) else "failed"
            with contextlib.suppress(OSError):  # a full disk must not hide the error
                if self._is_there():
                    self.note(event, name, key, why=str(error))
            raise
        self.note("done", name, key, seconds=seconds)
        return {**_swap(value, str(part), str(folder)), "folder": str(folder), "seconds": seconds, "reused": False}


def finished(stages: Path) -> List[Tuple[Path, Dict[str, Any]]]:
    """The folder and the record of every finished stage, the newest first; records that are not whole are left out."""
    found = []
    for file in stages.glob("*/stage.json"):
        try:
            record = jsonfile.read(file, _SCHEMA)
            if record.pop("seal", None) == digest(record):
                found.append((file.parent, record))
        except (OSError, DamagedError, RecursionError):
            continue
    return sorted(found, key=lambda one: str(one[1].get("created")), reverse=True)


def value_of(result: Mapping[str, Any]) -> Dict[str, Any]:
    """What a stage's function returned, without what `Workspace.run` adds: the same in every run."""
    return {k: v for k, v in result.items() if k not in ("folder", "seconds", "reused")}


def _finished(folder: Path, key: str) -> Optional[Dict[str, Any]]:
    """The result in `folder` if it is whole: made for `key`, record and files as they were written; else None.

    The record's own hash tells whatever was lost or changed in it, so that nothing else of it needs a doubt.
    """
    file = folder / "stage.json"
    try:
        if not file.is_file():
            return None
        record = jsonfile.read(file, _SCHEMA)
        if record.pop("seal", None) != digest(record) or record.get("key") != key:
            return None
        for name, sha in record["files"].items():
            if not (folder / name).is_file() or jsonfile.sha256(folder / name) != sha:
                return None
    except (OSError, DamagedError, RecursionError):  # no folder, no right to read it, a failing disk, hostile nesting
        return None
    return {**_swap(record["result"], _HERE, str(folder)), "seconds": record["seconds"]}


def _sealed(record: Dict[str, Any]) -> Dict[str, Any]:
    """A record with the hash of what a reader of it will see."""
    return {**record, "seal": digest(jsonfile.loads(jsonfile.dumps(record)))}


def _swap(value: Any, old: str, new: str) -> Any:
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {k: _swap(v, old, new) for k, v in value.items()}
    if isinstance(value, list):
        return [_swap(v, old, new) for v in value]
    return value


def _file_id(path: Path) -> Optional[Tuple[int, int]]:
    """Which file it is; no other gets the same while it is held open. None where there is none."""
    try:
        about = os.stat(path)
    except OSError:
        return None
    return about.st_dev, about.st_ino


def digest(value: Any) -> str:
    """SHA-256 of a JSON value in its canonical form, as hex."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()


def now() -> str:
    """The time in UTC, to the second, as ISO 8601."""
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
