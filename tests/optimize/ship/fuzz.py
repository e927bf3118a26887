"""Documents that somebody has tampered with: mutations of a good one, of its values and of its bytes."""

from __future__ import annotations

import copy
import json
import random
from typing import Any, List, Tuple

_HOSTILE: Tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    1 << 62,
    1 << 70,
    -0.5,
    1e308,
    "",
    "x" * 5000,
    "../../etc/passwd",
    "/etc/passwd",
    "..",
    ".hidden",
    "a/b",
    "a\\b",
    "a\0b",
    "CON",
    "naïve",
    "sha256:" + "0" * 64,
    "0" * 64,
    "optimize.shipment/2",
    [],
    {},
    [[[]]],
    {"schema": "optimize.shipment/1"},
)


def _places(value: Any, path: Tuple[Any, ...] = ()) -> List[Tuple[Any, ...]]:
    found = [path]
    if isinstance(value, dict):
        for key, inner in value.items():
            found += _places(inner, (*path, key))
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            found += _places(inner, (*path, index))
    return found


def mutated(good: Any, rng: random.Random) -> bytes:
    """The text of a document after one to three mutations."""
    value = copy.deepcopy(good)
    for _ in range(rng.randint(1, 3)):
        places = _places(value)
        path = rng.choice(places)
        if not path:
            if rng.random() < 0.05:
                return json.dumps(rng.choice(_HOSTILE)).encode()
            continue
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        what = rng.randrange(5)
        if what == 0:
            del holder[path[-1]]
        elif what == 1 and isinstance(holder, list):
            holder.append(copy.deepcopy(rng.choice(holder)))
        elif what == 2:
            other = rng.choice(places)
            taken = value
            for key in other:
                taken = taken[key] if isinstance(taken, (dict, list)) else taken
            holder[path[-1]] = copy.deepcopy(taken) if other and taken is not value else None
        else:
            holder[path[-1]] = copy.deepcopy(rng.choice(_HOSTILE))  # the next mutation may change it
    text = bytearray(json.dumps(value).encode())
    if rng.random() < 0.3:
        _spoil(text, rng)
    return bytes(text)


def _spoil(text: bytearray, rng: random.Random) -> None:
    """Change bytes where they stand, cut the end, or give a key twice."""
    what = rng.randrange(4)
    at = rng.randrange(len(text)) if text else 0
    if what == 0 and text:
        text[at] ^= 1 << rng.randrange(8)
    elif what == 1:
        del text[at:]
    elif what == 2 and text[:1] == b"{":
        text[1:1] = b'"schema": 1, '
    else:
        text[at:at] = rng.choice((b"NaN", b"\xff", b"[" * 3000, b"9" * 5000, b"\0", b"1e999"))


def flipped(good: bytes, rng: random.Random) -> bytes:
    """The bytes of an archive after one to eight of them changed, or a part was cut out, doubled or put in."""
    content = bytearray(good)
    for _ in range(rng.randint(1, 8)):
        at = rng.randrange(len(content)) if content else 0
        what = rng.randrange(6)
        if what < 3 and content:
            content[at] = rng.randrange(256)
        elif what == 3:
            del content[at : at + rng.randrange(64)]
        elif what == 4:
            content[at:at] = content[at : at + rng.randrange(64)]
        else:
            content[at:at] = rng.randbytes(rng.randrange(16)) if hasattr(rng, "randbytes") else b"\xff" * 8
    return bytes(content)
