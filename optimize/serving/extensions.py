"""In front of MLServer, what clients of Triton expect and it lacks: binary tensors above all.

MLServer takes numbers in JSON only. What asks with raw bytes (the header `Inference-Header-Content-Length`, as
`tritonclient` does unless told otherwise) is answered here; everything else goes on to MLServer.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any, Awaitable, Callable, Dict, List, Mapping, MutableMapping, Tuple
from urllib.parse import unquote

from engines import kserve
from engines.errors import DamagedError, IncompatibleError, OptimizeError, UsageError
from optimize.serving.models import VERSION, Model

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

_INDEX = "/v2/repository/index"
"""Triton takes no body here, MLServer needs one."""

_SLACK = 1 << 20
"""Bytes of a request beside its tensors."""

_DIGITS = 16
"""Times as many bytes as the number itself that one takes in JSON, at most."""


_JSON = {"Content-Type": "application/json"}


class Extensions:
    """An ASGI application around another.

    Args:
        app: What answers everything else.
        models: By name.
    """

    def __init__(self, app: App, models: Mapping[str, Model]) -> None:
        self._app, self._models = app, models

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Answer a request, or hand it on."""
        asked = _PATH.fullmatch(str(scope.get("path"))) if scope["type"] == "http" else None
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope.get("headers", ())}
        length = headers.get(kserve.HEADER.lower())
        if scope.get("path") == _INDEX and headers.get("content-length", "0") == "0":
            await self._app(_with_json(scope), _empty_object, send)
            return
        if asked is None or length is None or scope["method"] != "POST":
            model = self._models.get(unquote(asked.group(1))) if asked else None
            await self._hand_on(scope, receive, send, headers, _DIGITS * _limit(model) if model else _SLACK)
            return
        status, body, more = 200, b"", _JSON
        try:
            model = self._model(unquote(asked.group(1)), asked.group(2))
            content = await _read(receive, headers, _limit(model))
            value, raw = kserve.split(content, length)
            body, more = await _infer(model, value, raw)
        except _NotFound as error:
            status, body = 404, _error(error.message)
        except _TooLarge as error:
            status, body = 413, _error(error.message)
        except (UsageError, DamagedError) as error:
            status, body = 400, _error(error.message)
        except IncompatibleError as error:
            status, body = 503, _error(error.message)
        except _Gone:
            return
        except Exception as error:  # what a backend raises is told to the one that asked
            status, body = 500, _error(str(error) or type(error).__name__)
        await _answer(send, status, body, more)

    async def _hand_on(
        self, scope: Message, receive: Receive, send: Send, headers: Mapping[str, str], most: int
    ) -> None:
        """Let MLServer answer a request; a body that it would unpack, or keep whatever its size, does not reach it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            whole = [await _read(receive, headers, most)]
        except _TooLarge as error:
            await _answer(send, 413, _error(error.message), _JSON)
            return
        except UsageError as error:
            await _answer(send, 400, _error(error.message), _JSON)
            return
        except _Gone:
            return

        async def again() -> Message:
            return {"type": "http.request", "body": whole.pop(), "more_body": False} if whole else await receive()

        await self._app(scope, again, send)

    def _model(self, name: str, version: Any) -> Model:
        model = self._models.get(name)
        if model is None or version not in (None, VERSION):
            raise _NotFound(f"no model {name}{f' version {version}' if version else ''} is served")
        return model


def _with_json(scope: Message) -> Message:
    headers = [pair for pair in scope["headers"] if pair[0].lower() not in (b"content-type", b"content-length")]
    return {**scope, "headers": [*headers, (b"content-type", b"application/json"), (b"content-length", b"2")]}


async def _empty_object() -> Message:
    return {"type": "http.request", "body": b"{}", "more_body": False}


class _NotFound(OptimizeError):
    pass


class _TooLarge(OptimizeError):
    pass


class _Gone(Exception):
    """The client has left."""


async def _infer(model: Model, value: Dict[str, Any], raw: memoryview) -> Tuple[bytes, Dict[str, str]]:
    feeds = kserve.decode(value.get("inputs"), raw)
    names, binary = _wanted(model, value)
    found = await asyncio.wrap_future(model.batcher.submit(feeds))
    about: Dict[str, Any] = {"model_name": model.name, "model_version": VERSION}
    if isinstance(value.get("id"), str):
        about["id"] = value["id"]
    return kserve.encode({name: found[name] for name in names}, "outputs", binary, about)


def _wanted(model: Model, value: Mapping[str, Any]) -> Tuple[List[str], bool]:
    """The outputs that a request asks for, and whether all of them as raw bytes."""
    known = [one.name for one in model.outputs]
    parameters = value.get("parameters") or {}
    default = isinstance(parameters, dict) and parameters.get("binary_data_output") is True
    asked = value.get("outputs") or []
    if not isinstance(asked, list) or not all(isinstance(one, dict) for one in asked):
        raise UsageError("outputs: a list of objects is expected")
    if not asked:
        return known, default
    names, raw = [], []
    for one in asked:
        if one.get("name") not in known:
            raise UsageError(f"the outputs are {', '.join(known)}, not {one.get('name')!r}")
        given = one.get("parameters") or {}
        names.append(str(one["name"]))
        raw.append(given.get("binary_data", default) is True if isinstance(given, dict) else default)
    return list(dict.fromkeys(names)), all(raw)


def _limit(model: Model) -> int:
    """Bytes of the largest request that a model can answer."""
    import numpy as np

    samples = sum(
        np.dtype(one.dtype).itemsize * int(np.prod([n or 1 for n in one.shape[1:]], dtype=np.int64))
        for one in model.inputs
    )
    return samples * model.batcher.most + _SLACK


async def _answer(send: Send, status: int, body: bytes, more: Mapping[str, str]) -> None:
    fields = [(name.lower().encode(), text.encode()) for name, text in more.items()]
    fields.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": fields})
    await send({"type": "http.response.body", "body": body})


async def _read(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    if headers.get("content-encoding", "identity") != "identity":
        raise UsageError("a compressed body is not taken")
    parts: List[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        parts.append(message.get("body", b""))
        total += len(parts[-1])
        if total > limit:
            raise _TooLarge(f"a request of more than {limit} bytes, which is more than the largest batch takes")
        if not message.get("more_body"):
            return b"".join(parts)


def _error(text: str) -> bytes:
    return json.dumps({"error": text}).encode()
