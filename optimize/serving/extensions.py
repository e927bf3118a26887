"""In front of MLServer, what clients of Triton expect and it lacks: binary tensors above all, and limits.

MLServer takes numbers in JSON only. What asks with raw bytes (the header `Inference-Header-Content-Length`, as
`tritonclient` does unless told otherwise) is answered here; everything else goes on to MLServer, which would read and
unpack a body of any size: here it is held against what the model's largest batch can hold, compressed and not.
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md
"""

from __future__ import annotations

import asyncio
import json
import re
import zlib
from typing import Any, Awaitable, Callable, Dict, List, Mapping, MutableMapping, Optional, Tuple
from urllib.parse import unquote

from engines import kserve
from engines.errors import DamagedError, IncompatibleError, OptimizeError, UsageError
from optimize.serving import limits
from optimize.serving.models import VERSION, Model

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Headers = List[Tuple[bytes, bytes]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

_MODEL = re.compile(r"/v2/models/([^/]+)/.*")

_INDEX = "/v2/repository/index"
"""Triton takes no body here, MLServer needs one."""

_JSON = [(b"content-type", b"application/json")]


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
        if scope["type"] != "http" or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        path, length = str(scope["path"]), headers.get(kserve.HEADER.lower())
        asked = _PATH.fullmatch(path) if length is not None else None
        status, body, more = 200, b"", {"Content-Type": "application/json"}
        others: Optional[bytes] = None
        try:
            if asked is None:
                others = await _read(receive, headers, self._limit(path))
            else:
                model = self._model(unquote(asked.group(1)), asked.group(2))
                value, raw = kserve.split(await _read(receive, headers, limits.raw(model)), length)
                body, more = await _infer(model, value, raw)
        except _Refused as error:
            status, body = error.status, _error(error.message)
        except (UsageError, DamagedError) as error:
            status, body = 400, _error(error.message)
        except IncompatibleError as error:
            status, body = 503, _error(error.message)
        except _Gone:
            return
        except Exception as error:  # what a backend raises is told to the one that asked
            status, body = 500, _error(str(error) or type(error).__name__)
        if others is not None:
            typed = _JSON if path == _INDEX and not others else []
            content = others or (b"{}" if typed else b"")
            await self._app(_of(scope, content, typed), _again(content, receive), send)
            return
        fields = [(name.lower().encode(), text.encode()) for name, text in more.items()]
        fields.append((b"content-length", str(len(body)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": fields})
        await send({"type": "http.response.body", "body": body})

    def _model(self, name: str, version: Any) -> Model:
        model = self._models.get(name)
        if model is None or version not in (None, VERSION):
            raise _Refused(404, f"no model {name}{f' version {version}' if version else ''} is served")
        return model

    def _limit(self, path: str) -> int:
        """Bytes of a body for MLServer: of the model that is asked, and little where none is."""
        found = _MODEL.fullmatch(path)
        model = self._models.get(unquote(found.group(1))) if found else None
        return limits.SLACK if model is None else limits.text(model)


def _of(scope: Message, content: bytes, typed: Headers) -> Message:
    """A request with another body."""
    changed = {b"content-length", b"content-encoding", b"transfer-encoding", *(name for name, _ in typed)}
    kept = [pair for pair in scope["headers"] if pair[0].lower() not in changed]
    return {**scope, "headers": [*kept, *typed, (b"content-length", str(len(content)).encode())]}


def _again(content: bytes, receive: Receive) -> Receive:
    """What was read already, and then what comes: that the client leaves."""
    left = [content]

    async def given() -> Message:
        return {"type": "http.request", "body": left.pop(), "more_body": False} if left else await receive()

    return given


class _Refused(OptimizeError):
    """With the status of HTTP that says so."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


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


async def _read(receive: Receive, headers: Mapping[str, str], limit: int) -> bytes:
    """A body as it was before it was compressed."""
    words = f"a request of more than {limit} bytes, which is more than the largest batch takes"
    told = headers.get("content-length", "")
    if told.isdecimal() and int(told) > limit:
        raise _Refused(413, words)
    parts: List[bytes] = []
    total = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise _Gone
        parts.append(message.get("body", b""))
        total += len(parts[-1])
        if total > limit:
            raise _Refused(413, words)
        if not message.get("more_body"):
            break
    encoding, content = headers.get("content-encoding", "identity").strip().lower(), b"".join(parts)
    if encoding == "identity":
        return content
    if encoding not in ("gzip", "deflate"):
        raise _Refused(415, "a body is sent as it is, or compressed by gzip or deflate")
    try:
        unpacking = zlib.decompressobj(zlib.MAX_WBITS | 32)  # the header tells which of the two
        content = unpacking.decompress(content, limit + 1)
    except zlib.error:
        raise DamagedError(f"the body is not {encoding}") from None
    if len(content) > limit:
        raise _Refused(413, words)
    if not unpacking.eof or unpacking.unused_data:
        raise DamagedError(f"the body is not whole, or more than one body of {encoding}")
    return content


def _error(text: str) -> bytes:
    return json.dumps({"error": text}).encode()
