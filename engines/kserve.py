"""The Open Inference Protocol (KServe v2) over HTTP, as Triton, MLServer and `optimize serve` speak it.

Tensors travel as JSON numbers or, where the server has Triton's binary extension, as raw little-endian bytes after the
JSON header (`Inference-Header-Content-Length` tells how long that is). Protocol:
https://github.com/kserve/open-inference-protocol and https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

from __future__ import annotations

import http.client
import json
import re
import socket
import ssl
from itertools import chain
from typing import Any, Dict, List, Mapping, NamedTuple, Optional, Sequence, Set, Tuple
from urllib.parse import quote, unquote, urlsplit

import numpy as np

from engines import jsonfile
from engines.errors import DamagedError, IncompatibleError, OptimizeError, UsageError

HEADER = "Inference-Header-Content-Length"
BINARY = "binary_tensor_data"
STATISTICS = "statistics"
"""Words for what a server can do beyond the protocol, in its metadata's `extensions`."""

DATATYPES: Dict[str, str] = {
    "bool": "BOOL",
    "uint8": "UINT8",
    "uint16": "UINT16",
    "uint32": "UINT32",
    "uint64": "UINT64",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
}
"""The protocol's word for each NumPy dtype. BYTES (strings) is left out: no engine takes them."""

DTYPES: Dict[str, str] = {word: name for name, word in DATATYPES.items()}

_TYPES: Dict[str, Set[type]] = {"f": {int, float}, "b": {int, bool}, "i": {int}, "u": {int}}
"""What a list of numbers may hold, by the kind of the dtype: NumPy itself takes null for NaN, true and "1" for 1."""

_PATIENCE_S = 60.0
"""Seconds without a byte from the server before it counts as gone."""

_LARGEST = 1 << 30
"""Bytes of an answer that are read."""

_BLOCK = 1 << 20

_LENGTH = re.compile(r"[0-9]{1,19}")
"""More digits are no length, and Python refuses to read thousands of them."""


class Place(NamedTuple):
    """A served model.

    Attributes:
        host, port, tls: Of the server.
        root: Path before `/v2`, mostly empty.
        model: Its name there; empty where the URL names none.
    """

    host: str
    port: int
    tls: bool
    root: str
    model: str

    @property
    def server(self) -> str:
        """The server for a reader, without what may be secret in a URL."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}"


def is_url(text: object) -> bool:
    """Whether this names a server and not a file."""
    return str(text).lower().startswith(("http://", "https://"))


def place(url: str, needs_model: bool = True) -> Place:
    """Read `http://node:8000/model`, also with the protocol's own path: `http://node:8000/v2/models/model`.

    Args:
        url: The text.
        needs_model: Whether one without a model is refused.

    Raises:
        UsageError: Not such a URL.
    """
    again = "for example http://node:8000/resnet34-int8"
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"not a URL: {error}", again) from None
    if parts.scheme.lower() not in ("http", "https") or not parts.hostname:
        raise UsageError("not the URL of a server", again)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise UsageError(f"the URL of {parts.hostname} holds more than a host, a port and a model", again)
    names = [unquote(name) for name in parts.path.split("/") if name]
    if names[-3:-1] == ["v2", "models"]:
        names = [*names[:-3], names[-1]]
    if needs_model and not names:
        raise UsageError(f"{url} names no model", again)
    model = names.pop() if names else ""
    tls = parts.scheme.lower() == "https"
    root = "".join(f"/{quote(name, safe='')}" for name in names)
    return Place(parts.hostname, port or (443 if tls else 80), tls, root, model)


class Connection:
    """A connection that stays open between requests; of one thread at a time.

    Args:
        where: The server.
        patience_s: Seconds without a byte before the server counts as gone.
    """

    def __init__(self, where: Place, patience_s: float = _PATIENCE_S) -> None:
        self.where = where
        kind = http.client.HTTPSConnection if where.tls else http.client.HTTPConnection
        self._http = kind(where.host, where.port, timeout=patience_s)

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: Optional[Mapping[str, str]] = None
    ) -> Tuple[Dict[str, str], bytes]:
        """One request.

        Args:
            method: GET or POST.
            path: After the server's root, such as `/v2/health/ready`.
            body: What is sent.
            headers: Beside those that every request has.

        Returns:
            Headers in lower case, and the body of the answer.

        Raises:
            OptimizeError: The server is not reached, leaves in the middle, or says that it failed.
            UsageError: It knows no such model or path, or refuses the request.
        """
        server = self.where.server
        try:
            answer = self._answer(method, path, body, dict(headers or {}))
            text = _content(answer)
            if answer.length and len(text) <= _LARGEST:
                raise http.client.IncompleteRead(text, answer.length)
        except ssl.SSLCertVerificationError as error:
            self.close()
            raise IncompatibleError(f"{server}: its certificate is not trusted: {error.verify_message}") from None
        except (OSError, http.client.HTTPException) as error:
            self.close()
            why = str(error) or type(error).__name__
            raise OptimizeError(f"{server} does not answer: {why}", "see that a server runs there") from None
        if len(text) > _LARGEST:
            self.close()
            raise DamagedError(f"{server}: an answer of more than {_LARGEST >> 30} GiB")
        if answer.status != 200:
            why = _reason(text) or answer.reason
            message = f"{server}{path}: {why} (HTTP {answer.status})"
            raise (UsageError if answer.status in _REFUSED else OptimizeError)(message)
        return {name.lower(): value for name, value in answer.getheaders()}, text

    def _answer(self, method: str, path: str, body: bytes, headers: Dict[str, str]) -> http.client.HTTPResponse:
        """Send a request; once more where the server has let go of the connection, as it does of idle ones."""
        kept = self._http.sock is not None
        try:
            if not kept:
                self._http.connect()
                opened: Optional[socket.socket] = self._http.sock
                if opened is not None:
                    opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._http.request(method, self.where.root + path, body or None, headers)
            return self._http.getresponse()
        except ConnectionError:
            self.close()
            if not kept:
                raise
        return self._answer(method, path, body, headers)

    def json(self, method: str, path: str, value: Optional[Mapping[str, Any]] = None) -> Any:
        """Ask with JSON, or nothing, and read JSON; None where the answer is empty.

        Raises:
            DamagedError: The answer is no JSON.
            OptimizeError: See `ask`.
        """
        body = b"" if value is None else json.dumps(value).encode()
        _, text = self.ask(method, path, body, {"Content-Type": "application/json"} if body else None)
        return _loads(text, self.where.server + path) if text.strip() else None

    def close(self) -> None:
        """End the connection; the next request opens another."""
        self._http.close()


def _content(answer: http.client.HTTPResponse) -> bytes:
    """A body, or the beginning of one that is too large; in blocks, since Python 3.8 fills as many bytes with zeros as
    it is asked to read."""
    parts: List[bytes] = []
    total = 0
    while total <= _LARGEST:
        part = answer.read(_BLOCK if answer.length is None else min(_BLOCK, answer.length))
        if not part:
            break
        parts.append(part)
        total += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


_REFUSED = (400, 404, 405, 413, 415, 422)


def _reason(text: bytes) -> str:
    """What a server says of a failure, in one line."""
    try:
        value = json.loads(text)
    except ValueError:
        value = text[:200].decode("utf-8", "replace")
    if isinstance(value, dict):
        value = value.get("error") or value.get("detail") or ""
    return " ".join(str(value).split())[:500]


def _loads(text: bytes, where: str) -> Any:
    try:
        return jsonfile.loads(text.decode("utf-8"))
    except ValueError as error:
        raise DamagedError(f"{where}: not the JSON that the protocol has ({error})") from None


def path(model: str, what: str = "") -> str:
    """The path of a model, or of something of it (`infer`, `stats`, `config`, `ready`)."""
    return f"/v2/models/{quote(model, safe='')}{'/' + what if what else ''}"


def encode(
    arrays: Mapping[str, np.ndarray[Any, Any]],
    kind: str,
    binary: bool,
    about: Optional[Mapping[str, Any]] = None,
) -> Tuple[bytes, Dict[str, str]]:
    """The body and headers that carry tensors.

    Args:
        arrays: By name, C-contiguous.
        kind: `inputs` or `outputs`.
        binary: Raw bytes after the header, else numbers in JSON; of outputs that are not finite, null.
        about: Other fields of the JSON object.
    """
    tensors: List[Dict[str, Any]] = []
    raw: List[bytes] = []
    for name, array in arrays.items():
        one: Dict[str, Any] = {"name": name, "datatype": DATATYPES[array.dtype.name], "shape": list(array.shape)}
        if binary:
            raw.append(_little(array))
            one["parameters"] = {"binary_data_size": len(raw[-1])}
        else:
            one["data"] = (_or_null(array) if kind == "outputs" else array).reshape(-1).tolist()
        tensors.append(one)
    header = json.dumps({**(about or {}), kind: tensors}, allow_nan=not binary, separators=(",", ":")).encode()
    if not binary:
        return header, {"Content-Type": "application/json"}
    return b"".join([header, *raw]), {"Content-Type": "application/octet-stream", HEADER: str(len(header))}


def _or_null(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """An array whose numbers JSON has words for: NaN and infinities become None, `null`."""
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return array
    found: np.ndarray[Any, Any] = np.where(np.isfinite(array), array.astype(object), None)
    return found


def _little(array: np.ndarray[Any, Any]) -> bytes:
    return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()


def split(body: bytes, length: Optional[str]) -> Tuple[Dict[str, Any], memoryview]:
    """The JSON object of a body, and the raw bytes after it.

    Args:
        body: Of a request or an answer.
        length: What the header `HEADER` says; None where there is none.

    Raises:
        DamagedError: They do not fit, or it is no JSON object.
    """
    if length is not None and not (_LENGTH.fullmatch(length) and int(length) <= len(body)):
        raise DamagedError(f"{HEADER} is {length[:20]!r}, the body has {len(body)} bytes")
    end = len(body) if length is None else int(length)
    value = _loads(body[:end], "the body")
    if not isinstance(value, dict):
        raise DamagedError("the body: a JSON object is expected")
    return value, memoryview(body)[end:]


def decode(tensors: Any, raw: memoryview, null: bool = False) -> Dict[str, np.ndarray[Any, Any]]:
    """Tensors by name; nothing in them is trusted.

    Args:
        tensors: The list `inputs` or `outputs` of a body.
        raw: The bytes after its JSON.
        null: Whether floats may be null, which is NaN: in an answer (see `encode`), and not in a request.

    Raises:
        DamagedError: A field is missing or wrong, or the bytes do not fit the shapes.
    """
    if not isinstance(tensors, list) or not tensors:
        raise DamagedError("a list of tensors is expected")
    found: Dict[str, np.ndarray[Any, Any]] = {}
    for one in tensors:
        name, dtype, shape = _about(one)
        if name in found:
            raise DamagedError(f"the tensor {name} is given twice")
        size = (one.get("parameters") or {}).get("binary_data_size")
        if size is None:
            found[name] = numbers(name, dtype, shape, one.get("data"), null)
            continue
        count = _count(shape)
        if type(size) is not int or size != count * dtype.itemsize or size > len(raw):
            raise DamagedError(f"{name}: {size} bytes do not fit the shape {shape} of {dtype.name}")
        array = np.frombuffer(raw[:size], dtype.newbyteorder("<")).reshape(shape)
        found[name], raw = array.astype(dtype, copy=False), raw[size:]
    if len(raw):
        raise DamagedError(f"{len(raw)} bytes are left over")
    return found


def numbers(
    name: str, dtype: np.dtype[Any], shape: Sequence[int], data: Any, null: bool = False
) -> np.ndarray[Any, Any]:
    """An array from a list of numbers, flat or nested.

    Args:
        name: Of the tensor.
        dtype: Of the array.
        shape: Of the array.
        data: What JSON has.
        null: Whether floats may be null.

    Raises:
        DamagedError: They are no numbers, or not as many as the shape says.
    """
    allowed = _TYPES[dtype.kind] | ({type(None)} if null and dtype.kind == "f" else set())
    try:
        if not isinstance(data, list) or not _types(data) <= allowed:
            raise TypeError
        with np.errstate(over="ignore"):  # what is beyond the datatype becomes an infinity
            array = np.asarray(data, dtype)
    except (ValueError, TypeError, OverflowError):
        raise DamagedError(f"{name}: numbers of {dtype.name} are expected") from None
    if array.size != _count(shape):
        raise DamagedError(f"{name}: {array.size} numbers do not fit the shape {list(shape)}")
    found: np.ndarray[Any, Any] = array.reshape(shape)
    return found


def _types(data: List[Any]) -> Set[type]:
    """The types of what a list, and each list in it, holds."""
    found = set(map(type, data))
    while found == {list}:
        data = list(chain.from_iterable(data))
        found = set(map(type, data))
    return found


def _about(one: Any) -> Tuple[str, np.dtype[Any], List[int]]:
    if not isinstance(one, dict) or not isinstance(one.get("name"), str):
        raise DamagedError("a tensor without a name")
    name, shape, word = one["name"], one.get("shape"), one.get("datatype")
    if not isinstance(word, str) or word not in DTYPES:
        raise DamagedError(f"{name}: the datatype is one of {', '.join(DTYPES)}, not {word!r}")
    if not isinstance(shape, list) or len(shape) > 32 or not all(type(n) is int and 0 <= n < 1 << 31 for n in shape):
        raise DamagedError(f"{name}: a shape of whole numbers is expected")
    if not isinstance(one.get("parameters") or {}, dict):
        raise DamagedError(f"{name}: its parameters are an object")
    return name, np.dtype(DTYPES[word]), shape


def _count(shape: Sequence[int]) -> int:
    count = 1
    for size in shape:
        count *= size  # Python's own integers do not overflow
    return count
