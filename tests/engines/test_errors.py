"""One table from any exception to message, exit code and hint."""

from __future__ import annotations

import errno
import pickle

import pytest

from engines import errors

CODES = {
    "OptimizeError": 1,
    "ModelError": 1,
    "DataError": 1,
    "DamagedError": 1,
    "BuildError": 1,
    "UsageError": 2,
    "GateError": 3,
    "IncompatibleError": 4,
    "NewerError": 4,
    "TrustError": 4,
    "PartialError": 5,
}


def test_the_exit_codes():
    assert {name: cls.exit_code for name, cls in errors.CLASSES.items()} == CODES


@pytest.mark.parametrize("name", CODES)
def test_an_error_survives_pickling_and_stays_one_line(name: str):
    error = errors.CLASSES[name]("two\n  lines", "a hint")
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is type(error)
    assert errors.outcome(again) == ("two lines", CODES[name], "a hint")


@pytest.mark.parametrize(
    "error, message, code",
    [
        (KeyboardInterrupt(), "interrupted", 130),
        (MemoryError(), "out of memory", 1),
        (ModuleNotFoundError("No module named 'torch'", name="torch.nn"), "package torch is missing", 4),
        (OSError(errno.ENOSPC, "x", "/f"), "no space left on the disk: /f", 1),
        (OSError(errno.EFBIG, "x", "/f"), "a file is larger than the disk or a limit allows: /f", 1),
        (OSError(errno.EIO, "x", "/f"), "the disk failed: /f", 1),
        (PermissionError(errno.EACCES, "x", "/f"), "permission denied: /f", 4),
        (FileNotFoundError(errno.ENOENT, "x", "/f"), "no such file or folder: /f", 2),
        (ZeroDivisionError("by\nzero"), "unexpected ZeroDivisionError: by zero", 1),
        (ZeroDivisionError(), "unexpected ZeroDivisionError", 1),
        (OSError("odd"), "unexpected OSError: odd", 1),
        (
            UnicodeEncodeError("utf-8", "m\udcc3.onnx", 1, 2, "surrogates not allowed"),
            r"cannot name: 'm\udcc3.onnx'",
            2,
        ),
        (UnicodeEncodeError("ascii", "✓", 0, 1, "ordinal not in range"), "unexpected UnicodeEncodeError", 1),
    ],
)
def test_other_exceptions(error: BaseException, message: str, code: int):
    found = errors.outcome(error)
    assert message in found.message
    assert found.exit_code == code
    assert found.hint
    assert "\n" not in found.message
