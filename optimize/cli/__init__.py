"""The command `optimize`: one file per group of commands, all thin wrappers over `optimize.api`.

Nothing is imported here: until `main` has begun, Ctrl-C shows a traceback.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


def main() -> None:
    """Entry point of the `optimize` command; ends the process with the exit code."""
    try:
        import signal
        import sys

        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, _interrupted)
        from engines import scratch
        from optimize.cli import streams
        from optimize.cli.app import app

        streams.prepare()
        scratch.sweep()
        code: Any
        try:
            code = app(prog_name="optimize", standalone_mode=False)
            streams.flush()
        except Exception as error:
            code = _usage(error)
    except KeyboardInterrupt:
        _interrupted()
    sys.exit(code if isinstance(code, int) else 0)


def begun() -> None:
    """A command has begun: from here on Ctrl-C is an exception, which it may tidy up after and explain."""
    import signal

    if signal.getsignal(signal.SIGINT) is _interrupted:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _interrupted(*_: Any) -> None:
    """Leave at once: nothing is open yet. An exception would be swallowed in some corners of an import."""
    import os
    import sys

    hint = b"run the same command again"
    try:
        if "--json" in sys.argv:
            os.write(1, b'{"error": {"message": "interrupted", "hint": "%s", "exit_code": 130}}\n' % hint)
        os.write(2, b"error: interrupted\n  try: %s\n" % hint)
    finally:
        os._exit(130)


def _usage(error: Exception) -> int:
    """Tell an error of the command line itself in one line; everything else was told by the command."""
    import json
    import sys

    from optimize.cli import streams

    if isinstance(error, OSError):  # stdout is a full disk: nothing more can be said there
        streams.discard()
        sys.stderr.write(f"error: the output cannot be written: {error.strerror}\n")
        return 1
    if type(error).__name__ == "Abort":  # Ctrl-C while the options were read
        _interrupted()
    tell = getattr(error, "format_message", None)
    if tell is None:
        raise error
    message = " ".join(str(tell()).split())
    context = getattr(error, "ctx", None)
    if type(error).__name__ == "NoArgsIsHelpError" or not message:
        sys.stdout.write(context.get_help() + "\n" if context else "")
        return 0
    hint = f"{context.command_path} --help" if context else "optimize --help"
    if "--json" in sys.argv:
        sys.stdout.write(json.dumps({"error": {"message": message, "hint": hint, "exit_code": 2}}) + "\n")
    sys.stderr.write(f"error: {message}\n  try: {hint}\n")
    return 2
