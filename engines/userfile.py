"""Load the user's own code from the file that the user named: `FILE.py:NAME[,NAME]`.

Models are code. Nothing of the user's runs unless the file was named, and naming one file gives no other file power:
its folder stands last on `sys.path`, and only while its code runs, so that an `onnx.py` beside it shadows nothing.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType
from typing import Any, Dict, Iterator, List, Optional, Tuple

from engines import child
from engines.errors import IncompatibleError, ModelError, OptimizeError, UsageError

_FORM = "FILE.py:NAME"

_FLOORS = ("engines", "calib", "bench", "optimize")
"""Packages of ours: a user's file may lie beside them."""


def split(text: str) -> Tuple[Path, List[str]]:
    """Take `FILE.py:NAME[,NAME]` apart.

    Returns:
        The file as it was written, and the names.

    Raises:
        UsageError: Another form.
    """
    file, _, names = text.rpartition(":")
    found = [name.strip() for name in names.split(",") if name.strip()]
    if not file or not found or not all(part.isidentifier() for name in found for part in name.split(".")):
        raise UsageError(f"{text!r} does not have the form {_FORM}", f"for example train.py:{'ResidualBlock'}")
    return Path(file), found


@contextlib.contextmanager
def importing(file: Path) -> Iterator[None]:
    """While it lasts, code of `file` may import what lies beside it; afterwards `sys` is as it was found.

    Modules from the file's folder that were imported meanwhile are forgotten; those of installed packages stay, since
    a framework must never be imported twice.
    """
    folder = str(file.resolve().parent)
    before, arguments = set(sys.modules), sys.argv
    sys.path.append(folder)
    sys.argv = [str(file)]
    own = _module_name(file)
    try:
        yield
    finally:
        sys.argv = arguments
        if folder in sys.path:
            del sys.path[len(sys.path) - 1 - sys.path[::-1].index(folder)]
        for name in set(sys.modules) - before - {own}:
            origin = getattr(sys.modules[name], "__file__", None) or ""
            if os.path.dirname(os.path.abspath(origin)).startswith(folder) and "site-packages" not in origin:
                del sys.modules[name]


def load_names(text: str) -> Dict[str, Any]:
    """Load names from the user's file, running the file once per process as long as it does not change.

    Args:
        text: `FILE.py:NAME[,NAME]`; a name may be dotted.

    Returns:
        The objects, by the last part of each name.

    Raises:
        UsageError: The file or a name in it is missing.
        IncompatibleError: The file imports a package that is not installed.
        ModelError: Its code failed.
    """
    file, names = split(text)
    module = _load(file)
    found: Dict[str, Any] = {}
    for name in names:
        value: Any = module
        for part in name.split("."):
            if not hasattr(value, part):
                known = ", ".join(sorted(n for n, v in vars(module).items() if _is_own(v, module))) or "none"
                raise UsageError(f"{file} has no {name!r}", f"it defines: {known}")
            value = getattr(value, part)
        found[name.split(".")[-1]] = value
    return found


def _is_own(value: Any, module: ModuleType) -> bool:
    return callable(value) and getattr(value, "__module__", None) == module.__name__


def _module_name(file: Path) -> str:
    where = hashlib.sha256(str(file.resolve()).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    return f"_user_{file.stem}_{where}"


def _load(file: Path) -> ModuleType:
    if not file.is_file():
        raise UsageError(f"no such file: {file}", f"give {_FORM}, relative to the current folder")
    name = _module_name(file)
    state = (file.stat().st_mtime_ns, file.stat().st_size)
    loaded = sys.modules.get(name)
    if loaded is not None and getattr(loaded, "__optimize_state__", None) == state:
        return loaded  # a second run would register its Keras classes twice
    spec = importlib.util.spec_from_file_location(name, str(file.resolve()))
    if spec is None or spec.loader is None:
        raise UsageError(f"{file} is not a Python file", f"give {_FORM}")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with importing(file):
            spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        raise _translated(file, error) from None
    module.__dict__["__optimize_state__"] = state
    return module


def _translated(file: Path, error: BaseException) -> BaseException:
    """What a failure of the user's code means to the user."""
    if isinstance(error, (MemoryError, OptimizeError)) or not is_users(error):
        return error
    if isinstance(error, ImportError):
        return IncompatibleError(f"{file} cannot import what it needs: {error}", "install that package, then try again")
    if not isinstance(error, Exception):
        return ModelError(
            f"{file} ended the process while it was imported: {said(error)}",
            'put its command-line part under `if __name__ == "__main__":`',
        )
    line = f" (line {error.lineno})" if isinstance(error, SyntaxError) else ""
    return ModelError(f"{file} failed while it was imported{line}: {type(error).__name__}: {error}")


def is_users(error: BaseException) -> bool:
    """Whether an exception out of the user's code is its mistake: Ctrl-C is not, and never reaches a child."""
    return isinstance(error, (Exception, SystemExit)) or (isinstance(error, KeyboardInterrupt) and child.inside())


def said(error: BaseException) -> str:
    """An exception in a few words, in one line."""
    if isinstance(error, SystemExit):
        return f"sys.exit({'' if error.code is None else ' '.join(repr(error.code).split())[:300]})"
    return ": ".join(part for part in (type(error).__name__, " ".join(str(error).split())[:300]) if part)


def blamed(error: BaseException) -> Optional[OptimizeError]:
    """The error for code of the user that ended the process, wherever a framework has called it.

    Returns:
        An error that names the line and what it did; None for an ordinary exception, and where no line of a file
        that was loaded, or of one beside it, took part.
    """
    if isinstance(error, Exception) or not is_users(error):
        return None
    files = [getattr(module, "__file__", None) for name, module in list(sys.modules.items()) if name[:6] == "_user_"]
    folders = tuple(os.path.join(os.path.dirname(file), "") for file in files if file)
    place, step = "", error.__traceback__
    while step is not None:
        code, names = step.tb_frame.f_code, step.tb_frame.f_globals
        written = os.path.abspath(code.co_filename)
        file = os.path.abspath(str(names.get("__file__") or written))  # TensorFlow runs a copy of the code, elsewhere
        floor = str(names.get("__name__")).partition(".")[0]
        if file.startswith(folders) and "site-packages" not in file and floor not in _FLOORS:
            place = f"{file}, line {step.tb_lineno}, in {code.co_name}" if file == written else file
        step = step.tb_next
    if not place:
        return None
    return ModelError(f"{place}: ended by {said(error)}", "let that code return, or raise an error")


def _home(file: str, folder: str) -> str:
    """The folder that a module was imported from: `folder`, or an entry of `sys.path` inside it (a `.venv`, say)."""
    return max((p for p in (folder, *sys.path) if p and file.startswith(p)), key=len, default="")
