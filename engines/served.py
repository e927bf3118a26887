"""A model on a server that speaks KServe v2, as a Runner: each query is a request."""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Tuple
from urllib.parse import quote

import numpy as np

from engines import jsonfile, kserve
from engines.errors import DamagedError, ModelError, OptimizeError, UsageError
from engines.spec import Feeds, Query, Runner, RunnerSpec, TensorSpec
from engines.tensors import checked

DURATIONS = ("success", "queue", "compute_input", "compute_infer", "compute_output")
"""Of Triton's statistics: the whole request in the server, waiting, and the three parts of computing."""

PREFIX = "optimize."
"""Parameters of a model's configuration that this project wrote begin so."""

_MOST_TOLD = 8
"""Models of a server that the answer to a wrong name lists."""


def load(spec: RunnerSpec) -> Runner:
    """Connect to `spec.path`, a URL such as `http://node:8000/resnet34-int8`.

    Raises:
        UsageError: The server has no such model.
        OptimizeError: It is not reached, or the model is not ready.
    """
    return _ServedRunner(spec)


def describe(url: str) -> Dict[str, Any]:
    """What a server says of a model.

    Returns:
        `server` (name and version), `extensions`, `platform`, `inputs` and `outputs` (TensorSpec), `max_batch` (0 where
        the first axis is no batch or it is not told), and `told`: what this project wrote into the configuration.

    Raises:
        OptimizeError: See `load`.
    """
    where = kserve.place(url)
    connection = kserve.Connection(where)
    try:
        server = _object(connection.json("GET", "/v2"), "/v2")
        ready = kserve.path(where.model, "ready")
        try:
            about = _object(connection.json("GET", kserve.path(where.model)), "the model's metadata")
        except UsageError as error:
            raise UsageError(error.message, _known(connection)) from None
        try:
            connection.ask("GET", ready)
        except UsageError:
            raise OptimizeError(
                f"{where.server}: {where.model} is not ready", f"load it: POST /v2/repository/models/{where.model}/load"
            ) from None
        config: Mapping[str, Any] = {}
        try:
            config = _object(connection.json("GET", kserve.path(where.model, "config")), "the configuration")
        except (UsageError, DamagedError):  # an extension of Triton's, that others need not have
            config = {}
    finally:
        connection.close()
    return {
        "server": " ".join(str(server.get(key, "")) for key in ("name", "version")).strip(),
        "extensions": [str(word) for word in server.get("extensions") or ()],
        "platform": str(about.get("platform") or ""),
        "inputs": _tensors(about.get("inputs")),
        "outputs": _tensors(about.get("outputs")),
        "max_batch": config.get("max_batch_size") or 0,
        "told": told(config),
    }


def _known(connection: kserve.Connection) -> str:
    """The models that a server lists, as URLs; nothing where it lists none, which not every server does."""
    try:
        listed = connection.json("POST", "/v2/repository/index", {})
    except OptimizeError:
        return ""
    names = [one["name"] for one in listed or () if isinstance(one, dict) and isinstance(one.get("name"), str)]
    where = connection.where
    urls = [f"{where.server}{where.root}/{quote(name, safe='')}" for name in dict.fromkeys(names)]
    return " or ".join(urls[:_MOST_TOLD])


def _object(value: Any, what: str) -> Dict[str, Any]:
    if not isinstance(value, dict):
        raise DamagedError(f"{what}: a JSON object is expected")
    return value


def _tensors(value: Any) -> Tuple[TensorSpec, ...]:
    found = []
    for one in value if isinstance(value, list) else ():
        if not isinstance(one, dict) or one.get("datatype") not in kserve.DTYPES:
            raise ModelError(f"a tensor of the datatype {one.get('datatype') if isinstance(one, dict) else one!r}")
        shape = tuple(None if int(size) < 0 else int(size) for size in one.get("shape") or ())
        found.append(TensorSpec(str(one.get("name")), shape, kserve.DTYPES[one["datatype"]]))
    return tuple(found)


def told(config: Mapping[str, Any]) -> Dict[str, Any]:
    """The parameters that `optimize` wrote into a model's configuration: `precision`, `preprocess` and the like; JSON
    where it is some."""
    found: Dict[str, Any] = {}
    parameters = config.get("parameters")
    for key, value in parameters.items() if isinstance(parameters, dict) else ():
        text = value.get("string_value") if isinstance(value, dict) else None
        if isinstance(text, str) and key.startswith(PREFIX):
            try:
                found[key[len(PREFIX) :]] = jsonfile.loads(text)
            except ValueError:
                found[key[len(PREFIX) :]] = text
    return found


class _ServedRunner(Runner):
    """Requests over connections of their own: one for each binding, so that bindings run side by side."""

    def __init__(self, spec: RunnerSpec) -> None:
        about = describe(spec.path)
        self.where = kserve.place(spec.path)
        self.inputs, self.outputs = about["inputs"], about["outputs"]
        if not self.inputs or not self.outputs:
            raise ModelError(f"{spec.path}: the server does not say what the model takes and gives")
        self.binary = kserve.BINARY in about["extensions"]
        self._counts = kserve.STATISTICS in about["extensions"]
        first = self.inputs[0].shape[0] if self.inputs[0].shape else None
        self.batches = () if first is None else (first,)
        self.spec = spec.with_(inputs=self.inputs, outputs=self.outputs)
        self._asking = kserve.Connection(self.where)
        self._open: List[kserve.Connection] = [self._asking]

    def bind(self, feeds: Feeds) -> Query:
        """See `Runner.bind`. What a query takes includes encoding the request and decoding the answer."""
        checked(self.inputs, feeds)
        connection = kserve.Connection(self.where)
        self._open.append(connection)
        path, binary = kserve.path(self.where.model, "infer"), self.binary
        arrays = dict(feeds)
        about = {"parameters": {"binary_data_output": True}} if binary else {}

        def query() -> Dict[str, np.ndarray[Any, Any]]:
            body, headers = kserve.encode(arrays, "inputs", binary, about)
            got, text = connection.ask("POST", path, body, headers)
            value, raw = kserve.split(text, got.get(kserve.HEADER.lower()))
            return kserve.decode(value.get("outputs"), raw, null=True)

        return query

    def statistics(self) -> Optional[Dict[str, Any]]:
        """What the server has counted of this model so far; None where it does not count.

        Returns:
            `requests`, `failed`, `executions` (batches that ran), `inferences` (samples in them), and of each of
            `DURATIONS` the nanoseconds of all requests together.

        Raises:
            OptimizeError: The server is not reached.
        """
        if not self._counts:
            return None
        try:
            value = self._asking.json("GET", kserve.path(self.where.model, "stats"))
            one = value["model_stats"][-1]
            stats = one["inference_stats"]
            counted = {key: int(stats[key]["ns"]) for key in DURATIONS}
            return {
                "requests": int(stats["success"]["count"]),
                "failed": int(stats["fail"]["count"]),
                "executions": int(one["execution_count"]),
                "inferences": int(one["inference_count"]),
                **counted,
            }
        except (KeyError, IndexError, TypeError, ValueError):
            raise DamagedError(f"{self.where.server}: statistics that are not Triton's") from None

    def close(self) -> None:
        """End the connections."""
        for connection in self._open:
            connection.close()
