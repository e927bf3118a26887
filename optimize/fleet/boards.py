"""What a board is, as it tells by itself, and the class of boards that can run the same engine."""

from __future__ import annotations

import hashlib
import re
import tempfile
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from engines import board, fields, jsonfile
from engines.backend import ORDER
from engines.device import DeviceKey
from engines.errors import DamagedError
from engines.text import plain

OPTIMIZE, TRTEXEC = "optimize", "trtexec"
"""What a board is served by."""

OLDEST_PYTHON = (3, 8)

_TEXT = 1 << 20
"""Characters of a board's own words that are read at most."""

_PATH = re.compile(r"/[A-Za-z0-9_@%+=:,./ ~-]{0,1000}")
"""Paths of a board that its commands are made of."""

_FILE = re.compile(r"(?:(?!\.{1,2}/)[A-Za-z0-9_.@:+,-]{1,100}/){0,12}(?!\.{1,2}$)[A-Za-z0-9_.@:+,-]{1,100}")
"""Names of files that a board sends."""

_MOST_FILES = 4096

_VERSION = re.compile(r"[0-9]{1,4}\.[0-9]{1,4}[0-9A-Za-z.+]{0,32}")
"""Of a Python."""

_WORD = re.compile(r"[ -~]{0,64}")
_KEY = fields.an_object(
    backend=fields.one_of(*ORDER),
    version=fields.matching(_WORD, "a version of at most 64 characters"),  # it is in the name of a folder
    features=fields.a_list(fields.matching(_WORD, "a short word")),
    **dict.fromkeys(("os", "arch", "compute_capability", "l4t", "gpu"), fields.matching(_WORD, "a short word")),
)
"""A DeviceKey that a board tells."""

_DOCTOR: Dict[str, fields.Check] = {
    "facts": fields.null_or(fields.an_object()),
    "board": fields.null_or(fields.an_object()),
    "backends": fields.a_list(fields.an_object(name=fields.word, works=fields.truth)),
}
_SHOW: Dict[str, fields.Check] = {"backends": fields.a_list(fields.an_object(backend=fields.word))}
"""What is read of `optimize doctor --json` and `optimize device show --json`, where it is there."""

_STRINGS = ("proc/device-tree/model", "proc/device-tree/compatible")
"""Files whose strings end in a zero byte."""


@dataclass
class Board:
    """A board of the inventory, and what was found there.

    Attributes:
        name: Of the inventory.
        by: `OPTIMIZE` or `TRTEXEC`; empty where neither can serve it.
        why: Why it cannot be used, in words; empty where it can.
        fix: What mends that.
        lost: It did not answer.
        python: Its python3.
        folder: Where the fleet's files lie there.
        key: What an engine that is built there is tied to.
        command: Path of `optimize` or of trtexec.
        flock: Whether the program flock is there.
        environment: As of a run file, of boards that are served by trtexec.
    """

    name: str
    by: str = ""
    why: str = ""
    fix: str = ""
    lost: bool = False
    python: str = ""
    folder: str = ""
    key: Optional[DeviceKey] = None
    command: str = ""
    flock: bool = True
    environment: Dict[str, Any] = field(default_factory=dict)

    @property
    def usable(self) -> bool:
        """Whether anything can be built and measured there."""
        return bool(self.by) and not self.why and not self.lost

    @property
    def kind(self) -> str:
        """Name of its class; empty where it has none."""
        return kind(self.key, self.by) if self.key and self.usable else ""

    def to_json(self) -> Dict[str, Any]:
        """For `--json`."""
        return {
            "board": self.name,
            "class": self.kind,
            "by": self.by,
            "device": self.key.to_json() if self.key else None,
            "python": self.python,
            "lost": self.lost,
            "why": self.why,
            "fix": self.fix,
        }


def kind(key: DeviceKey, by: str) -> str:
    """Name of a class: what is telling of its DeviceKey, and some digits of all of it."""
    words = [(TRTEXEC if by == TRTEXEC else key.backend) + key.version.replace("+", "-")]
    words += [f"sm{key.compute_capability.replace('.', '')}"] if key.compute_capability else [key.arch]
    words += [f"l4t{key.l4t}"] if key.l4t else []
    digits = hashlib.sha256(jsonfile.dumps(key.to_json()).encode()).hexdigest()[:6]
    return re.sub(r"[^A-Za-z0-9._-]", "-", "-".join([*words, digits]))


def classes(boards: Sequence[Board]) -> Dict[str, List[Board]]:
    """The usable boards by their class, in the inventory's order."""
    found: Dict[str, List[Board]] = {}
    for one in boards:
        if one.usable and one.key:
            found.setdefault(one.kind, []).append(one)
    return found


def examine(name: str, told: Mapping[str, Any], backend: str = "auto") -> Board:
    """A board by what its probe has told.

    Args:
        name: Of the inventory.
        told: `facts` (what files/facts.sh prints), `show` and `doctor` (the JSON of these commands; None where they
            could not be run), `error` (why not); `unreachable`.
        backend: Asked by the plan.
    """
    found = Board(name)
    if told.get("unreachable"):
        found.lost, found.why = True, _line(str(told.get("error") or "it does not answer"))
        found.fix = "see that the board is on and that `ssh` reaches it; the next run takes it up again"
        return found
    try:
        words, files = _read(str(told.get("facts") or ""))
        found.python, found.flock = _python(words.get("python", "")), bool(words.get("flock"))
        found.folder = words.get("folder", "")
        for path in ("folder", "optimize", "trtexec"):
            if words.get(path):
                fields.matching(_PATH, "a plain path")(path, words[path])
        if not found.folder:
            found.why, found.fix = "its folder cannot be made", "set optimize_folder in the inventory"
            return found
        if words.get("optimize"):
            return _served_by_optimize(found, words, told, backend)
        return _served_by_trtexec(found, words, files, backend)
    except DamagedError as error:
        found.why = _line(f"what it tells of itself is not understood: {error.message}")
        found.fix = (
            "run `optimize doctor --json` and `optimize device show --json` on the board, or update optimize there"
        )
        return found


def _served_by_optimize(found: Board, words: Mapping[str, str], told: Mapping[str, Any], backend: str) -> Board:
    found.by, found.command = OPTIMIZE, words["optimize"]
    doctor, show = told.get("doctor"), told.get("show")
    if not isinstance(doctor, dict) or not isinstance(show, dict):
        found.why = _line(str(told.get("error") or "`optimize doctor --json` does not answer there"))
        found.fix = f"run {found.command} doctor on the board"
        return found
    _check("doctor", doctor, _DOCTOR)
    _check("device show", show, _SHOW)
    found.python = _python((doctor.get("facts") or {}).get("python") or found.python)
    states: Dict[str, Dict[str, Any]] = {one["name"]: one for one in doctor.get("backends", [])}
    working = [name for name in ORDER if states.get(name, {}).get("works") is True]
    if backend == "auto" and _broken(states.get("tensorrt", {}), doctor):
        backend = "tensorrt"  # not measured on the processor instead, as if that were what the board is for
    chosen = backend if backend != "auto" else next(iter(working), "")
    if chosen not in working:
        about = states.get(chosen, {})
        found.why = _line(str(about.get("why") or "no backend works there"))
        found.fix = _line(str(about.get("fix") or doctor.get("fix") or ""))
        return found
    told_key = next((one for one in show.get("backends", []) if one["backend"] == chosen), None)
    if told_key is None:
        found.why = f"`optimize device show` tells nothing of {chosen}"
    else:
        found.key = _checked(DeviceKey.from_json(told_key))
    return found


def _check(name: str, value: Mapping[str, Any], table: Mapping[str, fields.Check]) -> None:
    for field_, check in table.items():
        if field_ in value:
            check(f"{name}.{field_}", value[field_])


def _checked(key: DeviceKey) -> DeviceKey:
    """A key whose words are short and plain: it names a folder, and is told to the board's own commands.

    Raises:
        DamagedError: They are not.
    """
    _KEY("device", key.to_json())
    return key


def _python(version: Any) -> str:
    """A version of Python as it is told; empty where none is.

    Raises:
        DamagedError: It is no version.
    """
    if version != "":
        fields.matching(_VERSION, "a version")("python", version)
    return str(version)


def _broken(tensorrt: Mapping[str, Any], doctor: Mapping[str, Any]) -> bool:
    """Whether a board that is meant for TensorRT has one that does not work."""
    if tensorrt.get("works") is not False:
        return False
    facts = (doctor.get("board") or {}).get("facts")
    fields.null_or(fields.an_object())("doctor.board.facts", facts)
    return bool((facts or {}).get("jetson")) or str(tensorrt.get("why")).startswith(_UNLOADED)


_UNLOADED = "the Python package tensorrt does not load"
"""Begins what `engines.backend` says of bindings whose library is missing or of another release."""


def _served_by_trtexec(found: Board, words: Mapping[str, str], files: Mapping[str, str], backend: str) -> Board:
    version = tuple(map(int, re.findall("[0-9]+", found.python)[:2]))
    old = version < OLDEST_PYTHON
    if not words.get("trtexec") or (version and not old):
        found.why = f"`optimize` is not there, and its Python is {found.python or 'missing'}"
        found.fix = (
            "install optimize-trt on the board (install-jetson.sh does so on a Jetson), or name its command by "
            "optimize_command in the inventory"
        )
        if old and not words.get("trtexec"):
            found.fix = "install Python 3.8 or newer there, or TensorRT with its trtexec (optimize_trtexec names it)"
        return found
    if backend not in ("auto", "tensorrt"):
        found.why = f"the plan asks for {backend}, and its Python {found.python or '(none)'} is too old for that"
        return found
    about = _facts(files)
    if not about["tensorrt"]:
        found.why, found.fix = "trtexec is there, but no package of libnvinfer tells its version", ""
        return found
    found.by, found.command = TRTEXEC, words["trtexec"]
    key = DeviceKey(
        backend="tensorrt",
        version=about["tensorrt"],
        os="linux",
        arch=words.get("arch", ""),
        features=(),
        compute_capability=about["compute_capability"],
        l4t=about["l4t"],
        gpu=about["soc"],
    )
    found.key = _checked(key)
    cores = words.get("cores", "")
    found.environment = {
        "cpu": "",
        "features": [],
        "cores": int(cores) if re.fullmatch(r"[0-9]{1,4}", cores) else None,
        "physical_cores": None,
        "memory_bytes": about["memory"]["total_bytes"],
        "os": "linux",
        "kernel": _line(words.get("kernel", "")),
        "arch": words.get("arch", ""),
        "board": _line(about["model"]),
        "l4t": about["l4t"],
        "gpu": None,
        "python": found.python,
        "packages": {"tensorrt": about["tensorrt"]},
        "container": False,
        "before": {
            "clocks": about["clocks"]["state"],
            "power_mode": _line(about["power"]["name"]) or None,
            "device_clocks": about["clocks"],
        },
        "after": {},
    }
    return found


def _facts(files: Mapping[str, str]) -> Dict[str, Any]:
    """`engines.board.facts` of a board whose files were sent as text."""
    with tempfile.TemporaryDirectory(prefix="optimize-board-") as folder:
        root = Path(folder)
        for name, text in files.items():
            if name == "dpkg-query":
                continue
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            sent = text.replace("\n", "\0") if name in _STRINGS else text
            target.write_text(sent, encoding="utf-8", errors="replace")
        return board.facts(root, lambda words: files.get("dpkg-query", "") if words[0] == "dpkg-query" else "")


def _read(text: str) -> Tuple[Dict[str, str], Dict[str, str]]:
    """The words and files that files/facts.sh prints.

    Raises:
        DamagedError: Too much, or a file that would lie elsewhere or in another's place.
    """
    if len(text) > _TEXT:
        raise DamagedError("too much")
    words: Dict[str, str] = {}
    files: Dict[str, str] = {}
    name, body = "", [""]
    for line in text.replace("\r\n", "\n").split("\n"):
        if line.startswith("@file "):
            name, body = line[len("@file ") :], []
            fields.matching(_FILE, "a plain name")("a file", name)
        elif line == "@end" and name:
            files[name], name = "\n".join(body), ""
        elif name:
            body.append(line)
        elif " " in line:
            key, _, value = line.partition(" ")
            words[key] = plain(value.strip())
    if len(files) > _MOST_FILES:
        raise DamagedError("too many files")
    folders = {str(folder) for name in files for folder in PurePosixPath(name.lower()).parents}
    both = next((name for name in files if name.lower() in folders), None)
    if both is not None:
        raise DamagedError(f"{both[:60]!r} is a file and a folder")
    return words, files


def _line(text: str) -> str:
    """The first words of a message, in one line."""
    shown = plain(" ".join(text.split()))
    return shown if len(shown) <= 300 else shown[:297] + "..."
