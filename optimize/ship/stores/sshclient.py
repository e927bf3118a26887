"""The system's OpenSSH client, over one connection: its configuration, agents, jump hosts and host keys are the user's.

One `ssh` holds the connection and every command passes through it (`ControlMaster`), so that a password or a second
factor is asked for once. Commands are POSIX shell scripts without `'`, `!` and newlines, given as one quoted word, so
that any login shell hands them to `sh` as they are.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
from typing import IO, Callable, Iterator, List, Optional, Tuple

from engines import scratch
from engines.errors import DamagedError, IncompatibleError, OptimizeError
from optimize.ship.stores import sshshell
from optimize.ship.stores.sshwords import Host, refusal, shortened

CONFIG = "OPTIMIZE_SSH_CONFIG"
"""Environment variable: a configuration file for `ssh -F` in place of the user's own."""

_PATIENCE = 20
"""Seconds: to connect, and without a sign of life (four looks) until a connection counts as lost."""

_LONGEST = 70
"""Characters of the folder of the control socket: a socket's path ends at 104 on some systems, and ssh appends 17."""

_OPTIONS = {
    "ConnectTimeout": _PATIENCE,
    "ServerAliveInterval": _PATIENCE // 4,
    "ServerAliveCountMax": 4,
    "ControlPersist": "no",
    "ClearAllForwardings": "yes",
    "ForwardAgent": "no",
    "ForwardX11": "no",
    "PermitLocalCommand": "no",
    "RemoteCommand": "none",
    "RequestTTY": "no",
    "LogLevel": "ERROR",
}
"""Over the user's configuration: no more than a pipe is wanted, and errors are shown."""


_GRACE = 2.0
"""Seconds that a process has to end by itself when its pipes are closed."""


class Connection:
    """A connection to a host, made when the first command needs it.

    Args:
        host: Whom to talk to.
        shown: The URL, for messages.
    """

    def __init__(self, host: Host, shown: str) -> None:
        self.host = host
        self.shown = shown
        self._stack = contextlib.ExitStack()
        self._socket = ""
        self._shell: Optional[sshshell.Shell] = None

    def ask(
        self,
        script: str,
        *arguments: str,
        data: bytes = b"",
        limit: int = 1 << 16,
        given: Callable[[int], None] = sshshell.still,
    ) -> bytes:
        """What a script prints.

        Args:
            script: For `sh -c`; it may run twice.
            arguments: Its `$1`, `$2`, …
            data: Its input.
            limit: Most bytes that it may print.
            given: Told how many bytes of the input were sent.

        Raises:
            OptimizeError: It failed; see `_REFUSALS` and `_THERE`.
            DamagedError: It prints more.
        """
        if not self._socket:
            self._connect()
        answer = self._shell.ask(script, arguments, data, limit, given) if self._shell else None
        if answer is not None:
            return answer
        found = b""  # else an `ssh` of its own, which tells why it fails
        with self.started(script, *arguments) as process:
            assert process.stdin is not None
            sshshell.give(process.stdin, data, given)
            process.stdin.close()
            found = printed(process, limit + 1)
            if len(found) > limit:
                raise DamagedError(f"{self.shown}: the far side answers with more than {limit} bytes")
        return found

    @contextlib.contextmanager
    def started(
        self, script: str, *arguments: str, source: Optional[IO[bytes]] = None
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A script that runs, with its pipes; on the way out it has ended, and what failed is told.

        Args:
            script, arguments: See `ask`.
            source: File that is its input, from where it stands; by default a pipe.

        Raises:
            OptimizeError: See `ask`.
        """
        if not self._socket:
            self._connect()
        with tempfile.TemporaryFile() as errors:
            process = self._start(["-S", self._socket, "-o", "ControlMaster=no"], script, arguments, errors, source)
            try:
                with contextlib.suppress(BrokenPipeError):  # it ended before it had read all, and says why
                    yield process
                    _close(process.stdin)
                status = process.wait()
            finally:
                _end(process)
            if status:
                raise self._refused(status, errors)

    def close(self) -> None:
        """End the connection."""
        self._socket, self._shell = "", None
        self._stack.close()

    def _connect(self) -> None:
        if shutil.which("ssh") is None:
            raise IncompatibleError("the program ssh is missing", "apt-get install openssh-client")
        stack = contextlib.ExitStack()
        with contextlib.ExitStack() as opening:
            opening.push(stack)
            short = len(tempfile.gettempdir()) <= _LONGEST
            place = None if short else "/tmp"  # noqa: S108  (a private folder is made in it)
            socket = os.path.join(stack.enter_context(scratch.folder(place)), "ssh")
            errors = stack.enter_context(tempfile.TemporaryFile())
            shell = sshshell.Shell(lambda script: self._start(["-S", socket, "-M"], script, (), errors))
            process = shell.process
            stack.callback(_end, process)
            assert process.stdout is not None
            said = process.stdout.readline(1 << 10)
            if not said:
                raise self._refused(process.wait(), errors)
            if said != sshshell.GREETING:
                words = shortened(said.decode("utf-8", "replace"))
                raise IncompatibleError(
                    f"{self.shown}: the account there prints where a program is expected to: {words}",
                    "scripts such as .bashrc must print nothing where there is no terminal",
                )
            opening.pop_all()
        self._socket, self._stack, self._shell = socket, stack, shell

    def _start(
        self,
        options: List[str],
        script: str,
        arguments: Tuple[str, ...],
        errors: IO[bytes],
        source: Optional[IO[bytes]] = None,
    ) -> subprocess.Popen[bytes]:
        config = os.environ.get(CONFIG)
        command = ["ssh", *(["-F", config] if config else []), "-T"]
        command += [word for name, value in _OPTIONS.items() for word in ("-o", f"{name}={value}")]
        if not sys.stdin or not sys.stdin.isatty():
            command += ["-o", "BatchMode=yes"]  # nobody is there to answer
        command += options
        if self.host.user:
            command += ["-l", self.host.user]
        if self.host.port:
            command += ["-p", str(self.host.port)]
        words = ["sh", "-c", "LC_ALL=C; export LC_ALL; " + script, "sh", *arguments]
        command += ["--", self.host.name, shlex.join(words)]
        return subprocess.Popen(command, stdin=source or subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)

    def _refused(self, status: int, errors: IO[bytes]) -> OptimizeError:
        errors.seek(0)
        return refusal(self.host, self.shown, status, errors.read(1 << 16).decode("utf-8", "replace"))


def printed(process: subprocess.Popen[bytes], size: int) -> bytes:
    """What a script prints: all, or the next `size` bytes of it."""
    assert process.stdout is not None
    return process.stdout.read(size)


def _close(pipe: Optional[IO[bytes]]) -> None:
    if pipe is not None:
        pipe.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    for pipe in (process.stdin, process.stdout):
        with contextlib.suppress(BrokenPipeError):
            _close(pipe)
    try:
        process.wait(_GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
