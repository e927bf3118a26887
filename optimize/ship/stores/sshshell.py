"""A shell on a far host that answers questions, one a line: an `ssh` and a login shell for each take far longer."""

from __future__ import annotations

import contextlib
import secrets
import shlex
import subprocess
from typing import IO, Callable, List, Optional, Tuple

GREETING = b"optimize\n"

_SCRIPT = 'echo optimize; while IFS=" " read -r word line; do [ "$word" = {token} ] || exit 1; eval "$line"; done'
"""Ends with its input, which ends with this process, however that goes; and runs no line that was cut short.

Input of scripts passes through the same pipe: each line begins with a word that nobody knew before, so that nothing of
such input is ever taken for a line.
"""

_QUESTION = (
    "{token} {before} {{ (set -- {words}; {script}) 2> /dev/null; printf '\\n%d' $?; {after} | od -An -v -tx1; echo ."
)
"""Answered by output and status, in hexadecimal lines up to a full stop. Not `od -w`, which POSIX lacks."""

_WITHOUT = "", "}} < /dev/null"
_WITH = "{{ head -c {size} || kill -9 $$; }} |", "cat > /dev/null; }}"
"""Around a script. No more is sent before the answer, so that a `head` which reads ahead does no harm."""

_PER_LINE = 16
"""Bytes in a line of `od`, as POSIX has it."""

_BLOCK = 1 << 18


def still(count: int) -> None:
    """For input whose progress nobody wants to know."""


class Shell:
    """A process on the far side; `start` is given its script and returns it.

    Attributes:
        process: It must say `GREETING` first, which is for the caller to read.
    """

    def __init__(self, start: Callable[[str], subprocess.Popen[bytes]]) -> None:
        self._token = secrets.token_hex(16)
        self._well = True
        self.process = start(_SCRIPT.format(token=self._token))

    def ask(
        self, script: str, arguments: Tuple[str, ...], data: bytes, limit: int, given: Callable[[int], None] = still
    ) -> Optional[bytes]:
        """What a script prints.

        Args:
            script: Without newlines; what it says of errors is lost.
            arguments: Its `$1`, `$2`, …
            data: Its input.
            limit: Most bytes that it may print; of what it prints before it has read its input, 64 KiB.
            given: Told how many bytes of the input were sent.

        Returns:
            None where the script failed or printed more, or the shell is gone.
        """
        before, after = (text.format(size=len(data)) for text in (_WITH if data else _WITHOUT))
        words = shlex.join(arguments)
        line = _QUESTION.format(token=self._token, before=before, words=words, script=script, after=after)
        if not self._well or "\n" in line:
            return None
        assert self.process.stdin is not None and self.process.stdout is not None
        self._well = False  # until all of the answer was read
        found: List[bytes] = []
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.write(line.encode() + b"\n")
            give(self.process.stdin, data, given)
        while (said := self.process.stdout.readline(1 << 10)) != b".\n":
            found.append(said)
            if not said or len(found) > limit // _PER_LINE + 2:
                return None
        self._well = True
        try:
            answer, _, status = bytes.fromhex(b"".join(found).decode()).rpartition(b"\n")
        except ValueError:
            return None
        return answer if status == b"0" and len(answer) <= limit else None


def give(pipe: IO[bytes], data: bytes, given: Callable[[int], None] = still) -> None:
    """Write all of a script's input, telling how much after each block."""
    for start in range(0, len(data), _BLOCK):
        pipe.write(data[start : start + _BLOCK])
        given(min(start + _BLOCK, len(data)))
    pipe.flush()
