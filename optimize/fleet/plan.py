"""`plan.toml`: what a fleet is to do. Every key is known or refused."""

from __future__ import annotations

import hashlib
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple

from engines import fields, jsonfile
from engines.backend import ORDER
from engines.errors import DamagedError, UsageError
from engines.spec import PRECISIONS
from optimize.pipeline.options import parse_batches, parse_precisions

STORE = "store"
"""Default of `store`: a folder beside the other files of the run, which Ansible carries to the boards."""

NEVER, FASTEST = "none", "fastest"
"""Words of `activate` that are no precision."""

_NAME = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h)")
_SECONDS = {"ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}

_HINT = "docs/fleet.md shows a plan"


def _words(name: str, value: Any) -> None:
    fields.a_list(fields.word, 1)(name, [value] if isinstance(value, str) else value)


def _precisions(name: str, value: Any) -> None:
    fields.a_list(fields.one_of(*PRECISIONS), 1)(name, [value] if isinstance(value, str) else value)


def _batches(name: str, value: Any) -> None:
    fields.a_list(fields.whole(1, 1 << 20), 1)(name, [value] if isinstance(value, int) else value)


def duration(name: str, value: Any) -> float:
    """Seconds of `300s`, `5m` or `2h`."""
    found = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise fields.wrong(name, value, "a time such as 300s, 5m or 2h")
    return float(found.group(1)) * _SECONDS[found.group(2)]


def _duration(name: str, value: Any) -> None:
    duration(name, value)


_count = fields.whole(1, 1 << 20)

_TOP: Dict[str, fields.Check] = {
    "model": fields.word,
    "precision": _precisions,
    "batch": _batches,
    "backend": fields.one_of("auto", *ORDER),
    "data": fields.word,
    "name": fields.matching(_NAME, "lower-case letters and digits, with . _ or - between them,"),
    "tag": fields.matching(_TAG, "letters, digits, . _ and -"),
    "store": fields.word,
    "sign": fields.word,
    "activate": fields.one_of(NEVER, FASTEST, *PRECISIONS),
    "forks": fields.whole(1, 1000),
    **dict.fromkeys(("preprocess", "custom_objects", "factory", "input_shape", "task"), fields.word),
}

_BUILD: Dict[str, fields.Check] = {
    "max_drop": fields.between(0, 100),
    "min_agreement": fields.between(0, 100),
    "expect_top1": fields.between(0, 100),
    "search_budget": fields.between(0, 1e6),
    **dict.fromkeys(("samples", "builds"), _count),
    **dict.fromkeys(("seed", "threads", "dla", "optimization_level"), fields.whole(0, 1 << 31)),
    **dict.fromkeys(("workspace", "layout", "int8_mode", "keep"), fields.word),
    **dict.fromkeys(("keep_fp32", "without"), _words),
    **dict.fromkeys(("strict", "gpu_fallback", "split_batches"), fields.truth),
}
_BENCH: Dict[str, fields.Check] = {
    **dict.fromkeys(("rounds", "iterations"), _count),
    **dict.fromkeys(("warmup", "duration"), _duration),
    **dict.fromkeys(
        ("quick", "cuda_graph", "spin", "transfers", "energy", "lock_clocks", "usage", "layers"), fields.truth
    ),
    **dict.fromkeys(("threads", "streams"), _batches),
    "io": fields.word,
}
_QUIET: Dict[str, fields.Check] = {
    "load": fields.between(0, 1e6),
    "celsius": fields.between(-100, 200),
    "wait": _duration,
}
_TRTEXEC: Dict[str, fields.Check] = {
    "workspace_mib": _count,
    "iterations": _count,
    "duration": _duration,
}
_LIMITS: Dict[str, fields.Check] = {"step": _duration, "lock": _duration}

_TABLES = {"build": _BUILD, "bench": _BENCH, "quiet": _QUIET, "trtexec": _TRTEXEC, "limits": _LIMITS}
"""Tables of a plan. `build` and `bench` hold options of these commands, by their long names."""

_QUIET_DEFAULTS = {"load": 0.5, "celsius": 70.0, "wait": "5m"}
_TRTEXEC_DEFAULTS = {"workspace_mib": 1024, "iterations": 10, "duration": "3s"}
_LIMITS_DEFAULTS = {"step": "6h", "lock": "10m"}


@dataclass(frozen=True)
class Plan:
    """What a fleet is to do.

    Attributes:
        path: The file.
        model: Of the control node: Keras, SavedModel, PyTorch or ONNX.
        precisions: Asked of every class.
        batches: Sizes that engines serve and that are measured.
        backend: auto takes the first that works on a board.
        data: A file or folder of the control node, or a word that `optimize build` knows; empty for none.
        name: Of what is shipped, without the precision.
        tag: Of what is shipped.
        store: URL of a store that the boards reach themselves; empty for a folder that Ansible carries to them.
        sign: Private key of the control node that signs what is shipped; it stays there.
        activate: A precision, `FASTEST` or `NEVER`.
        forks: Boards at a time.
        source: Model options, as of `optimize build`.
        build, bench: Options of these commands.
        quiet: `load` (load average of a minute for each core), `celsius` and `wait` (seconds): what a board must be
            below before it measures, and how long it may take to get there.
        trtexec: `workspace_mib`, `iterations` and `duration` (seconds) on boards that only have trtexec.
        limits: `step` and `lock`, seconds that one step may take on a board, and that it waits for another job there.
    """

    path: Path
    model: Path
    precisions: Tuple[str, ...]
    batches: Tuple[int, ...]
    backend: str
    data: str
    name: str
    tag: str
    store: str
    sign: Optional[Path]
    activate: str
    forks: int
    source: Dict[str, str]
    build: Dict[str, Any]
    bench: Dict[str, Any]
    quiet: Dict[str, float]
    trtexec: Dict[str, float]
    limits: Dict[str, float]

    @property
    def data_path(self) -> Optional[Path]:
        """The data where they are a file or folder of the control node, which is sent to the boards that build."""
        path = self.path.parent / self.data
        return path if self.data and path.exists() else None


def read(path: Path) -> Plan:
    """Read a plan.

    Raises:
        UsageError: No such file, not TOML, a key that is not known, a value that is not what it must be, or no such
            model.
    """
    path = Path(path).absolute()  # Ansible looks for files elsewhere
    value = _toml(path)
    try:
        return _plan(path, value)
    except DamagedError as error:
        raise UsageError(f"{path}: {error.message}", _HINT) from None


def _plan(path: Path, value: Dict[str, Any]) -> Plan:
    tables = {name: value.pop(name, {}) for name in _TABLES}
    _known("", value, _TOP)
    for name, table in tables.items():
        if not isinstance(table, dict):
            raise fields.wrong(name, table, "a table")
        _known(f"{name}.", table, _TABLES[name])
    if "model" not in value:
        raise DamagedError("model is missing")
    model = path.parent / value["model"]
    if not model.exists():
        raise UsageError(f"{path}: no such model: {model}", "paths in a plan are beside the plan")
    precisions = parse_precisions(_list(value.get("precision", "fp16")))
    activate = value.get("activate", NEVER)
    if activate not in (NEVER, FASTEST, *precisions):
        raise UsageError(f"{path}: activate = {activate!r} is not built: {', '.join(precisions)} are")
    return Plan(
        path=path,
        model=model,
        precisions=precisions,
        batches=parse_batches([str(n) for n in _list(value.get("batch", [1, 64]))]),
        backend=value.get("backend", "auto"),
        data=value.get("data", ""),
        name=value.get("name", _default_name(model)),
        tag=value.get("tag", "latest"),
        store=_url(path, value.get("store", "")),
        sign=path.parent / value["sign"] if "sign" in value else None,
        activate=activate,
        forks=value.get("forks", 16),
        source={
            name: value[name]
            for name in ("preprocess", "custom_objects", "factory", "input_shape", "task")
            if name in value
        },
        build=tables["build"],
        bench=tables["bench"],
        quiet=_seconds({**_QUIET_DEFAULTS, **tables["quiet"]}),
        trtexec=_seconds({**_TRTEXEC_DEFAULTS, **tables["trtexec"]}),
        limits=_seconds({**_LIMITS_DEFAULTS, **tables["limits"]}),
    )


def _toml(path: Path) -> Dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    try:
        return dict(tomllib.loads(path.read_text(encoding="utf-8")))
    except IsADirectoryError:
        raise UsageError(f"{path} is a folder, not a plan", _HINT) from None
    except FileNotFoundError:
        raise UsageError(f"no such plan: {path}", _HINT) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: not TOML: {error}", _HINT) from None


def _known(where: str, value: Mapping[str, Any], table: Mapping[str, Callable[[str, Any], None]]) -> None:
    for key, item in value.items():
        if key not in table:
            near = [*table, *(f"[{name}]" for name in _TABLES if not where)]
            raise DamagedError(f"{where}{key} is not known; {', '.join(near)} are")
        table[key](where + key, item)


def _list(value: Any) -> List[Any]:
    return list(value) if isinstance(value, list) else [value]


def _seconds(table: Mapping[str, Any]) -> Dict[str, float]:
    return {name: duration(name, value) if isinstance(value, str) else float(value) for name, value in table.items()}


def _url(path: Path, store: str) -> str:
    """A folder is beside the plan; everything else is an address."""
    return store if not store or ":" in store else str((path.parent / store).resolve())


def _default_name(model: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "-", model.name.rsplit(".", 1)[0].lower()).strip("-")
    return name[:64] or "model"


def key(plan: Plan) -> str:
    """What the engines depend on: model, data and options of the build, as a SHA-256 in hex."""
    data = plan.data_path
    about = [
        jsonfile.sha256(plan.model),
        plan.precisions,
        plan.batches,
        plan.backend,
        jsonfile.sha256(data) if data else plan.data,
        plan.source,
        plan.build,
        plan.trtexec["workspace_mib"],
    ]
    return hashlib.sha256(jsonfile.dumps(about).encode()).hexdigest()


def words(options: Mapping[str, Any]) -> List[str]:
    """Options of a table as words of the command line: `--max-drop 1.0`, `--quick`, `--no-transfers`."""
    out: List[str] = []
    for name, value in options.items():
        flag = "--" + name.replace("_", "-")
        if isinstance(value, bool):
            out += [flag] if value else ["--no-transfers"] if name == "transfers" else []
        elif isinstance(value, list):
            repeated = name in ("keep_fp32", "without")
            out += (
                [word for one in value for word in (flag, str(one))] if repeated else [flag, ",".join(map(str, value))]
            )
        else:
            out += [flag, str(value)]
    return out
