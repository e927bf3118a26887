"""Who made a shipment: ed25519 keys, signatures over shipment.json, and what a node asks of them.

The signature covers `optimize.shipment/1`, a newline, and the SHA-256 of shipment.json in hex. shipment.json holds the
hash of every other file, so that it speaks for all of them.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
import re
import stat
from pathlib import Path
from typing import Any, Dict, Mapping, NamedTuple, Optional, Tuple

from engines import fields, jsonfile
from engines.errors import DamagedError, IncompatibleError, TrustError, UsageError

SCHEMA = "optimize.signature/1"
NAME = "shipment.sig.json"

LIMIT = 1 << 16
"""Largest signature or key file read, bytes."""

_WORD = "optimize-ed25519"
_PREFIX = b"optimize.shipment/1\n"
_ID = re.compile(r"[0-9a-f]{16}")
_HASH = re.compile(r"[0-9a-f]{64}")
_BASE64 = re.compile(r"[A-Za-z0-9+/]{86}==")


class Policy(NamedTuple):
    """What a reader of shipments asks of their signatures.

    Attributes:
        required: Refuse a shipment without a signature by one of `keys`.
        keys: Public keys (32 bytes) by their id. Where there are any, a signature by another key is refused.
    """

    required: bool = False
    keys: Mapping[str, bytes] = {}


ANY = Policy()
"""Takes unsigned shipments, and cannot tell whose a signature is."""


def _cryptography() -> Tuple[Any, Any, Any]:
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError as error:
        raise IncompatibleError(
            f"signatures need the Python package cryptography ({error})", "pip install 'optimize-trt[trust]'"
        ) from None
    return ed25519, serialization, InvalidSignature


def new_key(path: Path) -> Dict[str, str]:
    """Make a private key, readable by its owner only, and its public key beside it.

    Args:
        path: Of the private key (PEM, PKCS 8, without a passphrase); `.pub` is added for the public one.

    Returns:
        `id`, `key` and `public` (paths), `line` (the public key).

    Raises:
        UsageError: A file is there: a key that signs is never overwritten.
    """
    ed25519, serialization, _ = _cryptography()
    public_file = path.with_name(path.name + ".pub")
    for file in (path, public_file):
        if os.path.lexists(file):
            raise UsageError(f"{file} is there already, and a key is never overwritten", "choose another name")
    path.parent.mkdir(parents=True, exist_ok=True)
    private = ed25519.Ed25519PrivateKey.generate()
    text = private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    handle = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    with os.fdopen(handle, "wb") as file_of_key:
        file_of_key.write(text)
        file_of_key.flush()
        os.fsync(file_of_key.fileno())
    line = public_line(_raw(private.public_key()))
    with jsonfile.replacing_file(public_file) as part:
        part.write_text(line + "\n", encoding="ascii")
    return {"id": key_id(read_public(public_file)), "key": str(path), "public": str(public_file), "line": line}


def show_key(path: Path) -> Dict[str, str]:
    """The `id` and the `line` of a key, be it the private or the public one.

    Raises:
        UsageError: No such file.
        DamagedError: No key of ours.
    """
    raw = read_public(path) if _text(path).startswith(_WORD) else _raw(_private(path).public_key())
    return {"id": key_id(raw), "line": public_line(raw)}


def key_id(raw: bytes) -> str:
    """The name of a public key: the first 16 hex digits of the SHA-256 of its 32 bytes."""
    return hashlib.sha256(raw).hexdigest()[:16]


def public_line(raw: bytes) -> str:
    """A public key as one line of text."""
    return f"{_WORD} {base64.b64encode(raw).decode('ascii')}"


def parse_public(text: str, where: str = "public key") -> bytes:
    """The 32 bytes of a public key; what follows it on its line is a comment.

    Raises:
        DamagedError: Not one line of a public key.
    """
    words = text.split(None, 2)
    if "\n" not in text.strip() and len(words) >= 2 and words[0] == _WORD:
        try:
            raw = base64.b64decode(words[1], validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) == 32:
            return raw
    raise DamagedError(f"{where}: no public key ({_WORD} and 44 characters of base64)", "optimize key show KEY")


def read_public(path: Path) -> bytes:
    """The 32 bytes of a public key in a file.

    Raises:
        UsageError: No such file.
        DamagedError: No public key, such as a private one.
    """
    return parse_public(_text(path), str(path))


def trusted(folder: Path) -> Dict[str, bytes]:
    """The public keys in a trust store by their ids: its files `<id>.pub`.

    Raises:
        DamagedError: A file of another key than its name says, a link, or no key.
    """
    found = {}
    for path in sorted(folder.glob("*.pub")) if folder.is_dir() else []:
        if path.is_symlink() or not path.is_file():
            raise DamagedError(f"{path}: a link or folder, where a public key is expected", "remove it")
        raw = read_public(path)
        if key_id(raw) != path.name[: -len(".pub")]:
            raise DamagedError(f"{path}: the key in it is {key_id(raw)}", "optimize node trust add KEY.pub")
        found[key_id(raw)] = raw
    return found


def sign(folder: Path, key: Path) -> str:
    """Write the signature of the shipment in a folder; returns the key's id.

    Raises:
        UsageError: No such key.
        DamagedError: No private key.
        TrustError: Others can read it.
    """
    private = _private(key)
    raw = _raw(private.public_key())
    sha256 = jsonfile.sha256(folder / "shipment.json")
    value = {
        "schema": SCHEMA,
        "key": key_id(raw),
        "shipment": sha256,
        "signature": base64.b64encode(private.sign(_PREFIX + sha256.encode("ascii"))).decode("ascii"),
    }
    jsonfile.write(folder / NAME, value)
    return key_id(raw)


def signer(key: Path) -> str:
    """The id of a private key that can sign.

    Raises:
        See `sign`.
    """
    return key_id(_raw(_private(key).public_key()))


def verify(folder: Path, policy: Policy, name: str = "") -> Optional[str]:
    """Hold the signature of the shipment in a folder against a policy, before anything else of it is read.

    Args:
        folder: The shipment.
        policy: Which signatures are asked.
        name: Of the shipment, for messages; the folder's by default.

    Returns:
        The id of the trusted key that signed it; None where it is not signed, or nobody is trusted here.

    Raises:
        TrustError: None where one is required, one by a key that is not trusted, or one that is wrong.
        DamagedError: The signature file is none.
        IncompatibleError: cryptography is missing.
    """
    path = folder / NAME
    if not os.path.lexists(path):
        if policy.required:
            raise TrustError(f"{name or folder.name}: not signed, and only signed shipments are taken here", _SIGN)
        return None
    if path.is_symlink() or not path.is_file():
        raise DamagedError(f"{path}: a link or special file, where a signature is expected")
    if path.stat().st_size > LIMIT:
        raise DamagedError(f"{path}: larger than {LIMIT >> 10} KiB, not a signature")
    value = jsonfile.checked(path, SCHEMA, _valid)
    if not policy.keys and not policy.required:
        return None
    key = policy.keys.get(value["key"])
    if key is None:
        known = ", ".join(sorted(policy.keys)) or "none"
        raise TrustError(
            f"signed by key {value['key']}, which is not trusted here (trusted: {known})",
            "if it should be: optimize node trust add KEY.pub",
        )
    sha256 = jsonfile.sha256(folder / "shipment.json")
    if value["shipment"] != sha256 or not _right(key, value["signature"], sha256):
        raise TrustError(
            f"the signature by key {value['key']} is not of this shipment.json: one of the two was changed",
            "ship it again, and find out who changed it",
        )
    return str(value["key"])


_SIGN = (
    "optimize ship BUNDLE --to URL --sign KEY; to take unsigned ones: optimize node policy --no-require-signature, "
    "or with -o DIR no --trust"
)


def _right(key: bytes, signature: str, sha256: str) -> bool:
    ed25519, _, invalid = _cryptography()
    try:
        ed25519.Ed25519PublicKey.from_public_bytes(key).verify(
            base64.b64decode(signature), _PREFIX + sha256.encode("ascii")
        )
    except invalid:
        return False
    return True


def _valid(value: Any) -> None:
    fields.an_object(
        key=fields.matching(_ID, "the id of a key"),
        shipment=fields.matching(_HASH, "a SHA-256 in hex"),
        signature=fields.matching(_BASE64, "64 bytes in base64"),
    )("signature", value)


def _private(path: Path) -> Any:
    ed25519, serialization, _ = _cryptography()
    text = _text(path)
    if text.startswith(_WORD):
        raise UsageError(f"{path} is a public key, and the private one signs", "name the file without .pub")
    if os.name == "posix" and stat.S_IMODE(os.stat(path).st_mode) & 0o077:
        raise TrustError(f"{path}: others can read this private key", f"chmod 600 {path}")
    try:
        key = serialization.load_pem_private_key(text.encode("utf-8"), None)
    except (ValueError, TypeError) as error:  # TypeError: it is encrypted
        why = "it has a passphrase" if isinstance(error, TypeError) else "not PEM of a private key"
        raise DamagedError(f"{path}: no key to sign with ({why})", "optimize key new FILE") from None
    if not isinstance(key, ed25519.Ed25519PrivateKey):
        raise DamagedError(f"{path}: not an ed25519 key", "optimize key new FILE")
    return key


def _raw(public: Any) -> bytes:
    _, serialization, _ = _cryptography()
    raw: bytes = public.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
    return raw


def _text(path: Path) -> str:
    if not path.is_file():
        raise UsageError(f"{path}: no such key", "optimize key new FILE")
    if path.stat().st_size > LIMIT:
        raise DamagedError(f"{path}: larger than {LIMIT >> 10} KiB, not a key")
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError:
        raise DamagedError(f"{path}: not a key", "optimize key new FILE") from None
