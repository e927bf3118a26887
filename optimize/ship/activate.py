"""Activation: a version is checked and tried before the link moves, and tried again after; else the old one stays."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import tempfile
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

from engines import manifest, process
from engines.errors import GateError, IncompatibleError, OptimizeError, UsageError
from engines.spec import A_LINE, Progress, quiet
from optimize.pipeline.stages import now
from optimize.ship import golden, journal, link, node, records, retention

PATIENCE = 60.0
"""Seconds that a health check may take by default."""

_PENDING, _PASSED = "pending", "passed"


def activate(
    folder: node.Folder = None,
    reference: Optional[str] = None,
    health: Optional[str] = None,
    patience: float = PATIENCE,
    wait: bool = True,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """Let a version of a node become the one that runs, if it is whole, trusted, fits and gives the golden outputs.

    Args:
        folder: Of the node; see `node.home`.
        reference: See `records.find`; None is the version pulled last.
        health: A command that ends with 0 where the node is well, run after the switch without a shell; by default the
            golden inputs run once more, through `active`.
        patience: Seconds that it may take.
        wait: For another writer, or fail.
        progress: Told what happens.

    Returns:
        `node`, `active` and `before` (versions, see `node.status`; `before` may be null), `removed` (variants).

    Raises:
        GateError: Its outputs are not those recorded, or the health check failed: the version that was active is.
        DamagedError, IncompatibleError, TrustError: It is not whole, made for another device, or not trusted.
        UsageError: No such version.
        OptimizeError: See `node.locked`.
    """
    command, folder = _words(health, patience), node.home(folder)
    with node.locked(folder, wait, progress):
        record = records.find(folder, reference)
        variant, old = record["variant"], link.active(folder)
        with _refusals(folder, record, progress):
            about = {**_verified(_golden(_fit(folder, record, progress), progress)), "health": _PENDING}
        number = records.next_number(folder)
        if old is None or old.name != variant:
            back = old.name if old else None
            about.update(before=back, activated=number, activated_at=now())
        else:  # again: of one that was interrupted before its health check, the version before it is what to go back to
            unsure = record["health"] == _PENDING and record["before"] in records.present(folder)
            back = record["before"] if unsure else variant
        record = {**record, **about}
        records.write(folder, record)
        try:
            link.point(folder, variant)
            if old is None or old.name != variant:
                _note(folder, progress, "activated", record)
            _check_health(folder, record, command, patience, progress)
        except BaseException as error:
            _go_back(folder, record, back, error, progress)
            raise
        _keep(folder, {**record, "health": _PASSED}, progress)
        removed = _retained(folder, progress)
    return _answer(folder, removed)


def rollback(folder: node.Folder = None, wait: bool = True, progress: Progress = quiet) -> Dict[str, Any]:
    """Let the version run again that was active before this one; it is checked like any other.

    A second rollback goes one further back.

    Args:
        folder: Of the node; see `node.home`.
        wait: For another writer, or fail.
        progress: Told what happens.

    Returns:
        See `activate`; `before` is what a second rollback goes back to.

    Raises:
        UsageError: There is none.
        OptimizeError: See `activate`.
    """
    folder = node.home(folder)
    with node.locked(folder, wait, progress):
        if link.pointed(folder) is None:
            raise UsageError(f"{folder}: no version is active", "optimize node activate")
        variant = retention.before(folder)
        if variant is None:
            raise UsageError(f"{folder}: there is no version to go back to", "optimize node status")
        record = records.read(folder, variant)
        with _refusals(folder, record, progress):
            path = _fit(folder, record, progress)
            try:
                about = _verified(_golden(path, progress))
            except OSError as error:  # a full disk must not stand between a node and the version that worked
                progress(f"warning: the golden inputs could not be run: {error}", 0, A_LINE)
                about = {}
        link.point(folder, variant)
        _note(folder, progress, "rolled-back", record, reason="asked for")
        about.update(health=_PASSED, activated=records.next_number(folder), activated_at=now())
        _keep(folder, {**record, **about}, progress)
    return _answer(folder, [])


def _answer(folder: Path, removed: List[str]) -> Dict[str, Any]:
    told = node.status(folder)
    before = next((one for one in told["versions"] if one["variant"] == told["rollback"]), None)
    return {"node": str(folder), "active": told["active"], "before": before, "removed": removed}


def _fit(folder: Path, record: Dict[str, Any], progress: Progress) -> Path:
    """Where a version is, once its bytes, its signature and its device are known right; nothing of it is loaded."""
    path: Path = records.versions(folder) / record["variant"]
    progress("checking every byte", 0, 0)
    node.whole(folder, record)
    why = manifest.why_not(path)
    if why:
        raise IncompatibleError(f"it will not run here: {why}", "optimize pull NAME --from URL --for this-device")
    return path


def _golden(path: Path, progress: Progress) -> Dict[str, Any]:
    """Raise where the engine does not give the golden outputs; slower than recorded is a warning."""
    progress("running the golden inputs", 0, 0)
    result = golden.run(path, progress)
    if not result["passed"]:
        raise GateError("the golden inputs: " + "; ".join(result["reasons"]))
    for text in result["warnings"]:
        progress(f"warning: {text}", 0, A_LINE)
    return result


def _verified(result: Dict[str, Any]) -> Dict[str, Any]:
    """The fields of a record that tell what the golden inputs gave; against nothing, nothing is verified."""
    return {"verified": result["against"] != "none", "golden": result}


@contextlib.contextmanager
def _refusals(folder: Path, record: Dict[str, Any], progress: Progress) -> Iterator[None]:
    """Say of a refusal which version it is of, and what stays active; note it in the journal."""
    try:
        yield
    except OptimizeError as error:
        _note(folder, progress, "refused", record, reason=error.message)
        active = link.pointed(folder)
        stays = f"{records.title(records.read(folder, active))} stays active" if active else "none is active"
        raise type(error)(f"{records.title(record)} was refused: {error.message}; {stays}", error.hint) from None


def _check_health(
    folder: Path, record: Dict[str, Any], command: List[str], patience: float, progress: Progress
) -> None:
    """Raise where the node is not well with the version that is active now."""
    progress("running the health check", 0, 0)
    if not command:
        _golden(folder / link.NAME, quiet)  # its warnings were told before the switch
        return
    env = {**os.environ, "OPTIMIZE_NODE": str(folder), "OPTIMIZE_ACTIVE": str(folder / link.NAME)}
    with tempfile.TemporaryFile() as out:
        try:
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=subprocess.STDOUT, env=env, start_new_session=True
            )
        except OSError as error:
            raise GateError(f"the health check {command[0]} does not start: {error.strerror}") from None
        with process.passing_on(child, True):
            try:
                code = child.wait(patience)
            except subprocess.TimeoutExpired:
                raise GateError(f"the health check took longer than {patience:g} s") from None
            finally:
                process.end(child, True)
        out.seek(0)
        said = out.read(1 << 16).decode("utf-8", "replace").split("\n")
    if code:
        last = next((text for text in reversed(said) if text.strip()), "it said nothing")
        raise GateError(f"the health check ended with code {code}: {last}")


def _go_back(
    folder: Path, record: Dict[str, Any], back: Optional[str], error: BaseException, progress: Progress
) -> None:
    """Undo a switch: the version before is active again; or none, where there was none.

    Raises:
        OptimizeError: The error, with what is active now.
    """
    name, variant = records.title(record), record["variant"]
    why = str(error) or type(error).__name__
    if back != variant:
        if link.pointed(folder) != variant:
            return  # it never came to the switch
        try:
            link.point(folder, back)
        except OSError as failed:
            raise OptimizeError(f"{name} is active and not well ({why}): {failed}", "optimize node rollback") from None
        about = records.read(folder, back) if back else record
        _note(folder, progress, "rolled-back", about, reason=f"{name}: {why}")
    _keep(folder, {**record, "health": f"failed: {why}"[:500]}, progress)
    if isinstance(error, OptimizeError):
        if back == variant:
            raise type(error)(f"{name} stays active, and is not well: {error.message}", "optimize node rollback")
        active = f"{records.title(records.read(folder, back))} is active again" if back else "no version is active"
        raise type(error)(f"{name} was active and not well: {error.message}; {active}", error.hint)


def _note(folder: Path, progress: Progress, event: str, record: Dict[str, Any], **more: Any) -> None:
    """Write into the journal; where it cannot be written, the next writer makes up for it, and the node goes on."""
    about = {**records.whence(record), **more}
    try:
        journal.add(folder, records.next_number(folder), event, link.pointed(folder), **about)
    except OSError as error:
        progress(f"warning: the journal cannot be written: {error}", 0, A_LINE)


def _keep(folder: Path, record: Dict[str, Any], progress: Progress) -> None:
    try:
        records.write(folder, record)
    except OSError as error:
        progress(f"warning: the record of {records.title(record)} cannot be written: {error}", 0, A_LINE)


def _retained(folder: Path, progress: Progress) -> List[str]:
    try:
        return retention.retain(folder, node.policy(folder)["keep"])
    except OSError as error:
        progress(f"warning: versions beyond those kept cannot be removed: {error}", 0, A_LINE)
        return []


def _words(health: Optional[str], patience: float) -> List[str]:
    if not 0 < patience <= 86400:
        raise UsageError(f"--health-timeout {patience:g}: seconds up to a day are expected")
    if health is None:
        return []
    try:
        words = shlex.split(health)
    except ValueError as error:
        raise UsageError(f"--health {health}: {error}") from None
    if not words:
        raise UsageError("--health: a command is expected")
    return words
