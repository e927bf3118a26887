"""Which variant of a shipment a device gets, and why not the others."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

from engines import jsonfile, manifest
from engines.backend import ORDER, unavailable
from engines.device import DeviceKey, device_key, mismatch
from engines.errors import DamagedError, UsageError
from optimize.ship import shipment
from optimize.ship.oci import DIGEST, Entry, Index

THIS = "this-device"

_FOR = "--for this-device, a bundle, or a file of optimize device show --json"


class Choice(NamedTuple):
    """The variant that was chosen, or None, and every other one with why not."""

    entry: Optional[Entry]
    others: List[Tuple[Entry, str]]


def keys_of(text: str) -> Optional[Tuple[DeviceKey, ...]]:
    """The device that a user names, as what each of its backends ties an engine to; None is this device.

    Args:
        text: `this-device`; a bundle or shipment; JSON or a file of it: a key, a manifest, or what
            `optimize device show --json` or `optimize node status --facts --json` have written.

    Raises:
        UsageError: None of these.
        DamagedError: A field of a key is missing or wrong.
    """
    if text == THIS:
        return None
    value: Any
    if text.lstrip().startswith("{"):
        try:
            value = jsonfile.loads(text)
        except ValueError as error:
            raise UsageError(f"--for: not valid JSON ({error})", _FOR) from None
    elif os.path.isdir(text):
        inside = manifest.inside(Path(text))
        if inside:
            raise UsageError(
                f"--for {text}: no bundle, it holds some: {', '.join(inside)}", f"--for {Path(text, inside[0])}"
            )
        value = manifest.read(Path(text))
    elif os.path.isfile(text):
        value = jsonfile.read(text)
    else:
        raise UsageError(f"--for {text}: no such file, and no device key", _FOR)
    value = value["device"] if isinstance(value.get("device"), dict) else value
    keys = value["backends"] if isinstance(value.get("backends"), list) else [value]
    try:
        found = tuple(DeviceKey.from_json(key) for key in keys)
    except DamagedError as error:
        raise DamagedError(f"--for {text[:200]}: {error.message}", _FOR) from None
    if not found:
        raise UsageError(f"--for {text[:200]}: a device without a backend", "install one there: optimize doctor")
    return found


def choose(index: Index, keys: Optional[Sequence[DeviceKey]] = None) -> Choice:
    """The variant for a device: of those that fit, the fastest backend's, and the one that uses most of the CPU.

    Args:
        index: The variants.
        keys: The device, see `keys_of`; None is this one.

    Raises:
        DamagedError: A device in the index is none.
    """
    fits: List[Entry] = []
    others: List[Tuple[Entry, str]] = []
    for entry in index.entries:
        why = why_not(entry, keys)
        if why:
            others.append((entry, why))
        else:
            fits.append(entry)
    fits.sort(key=_preference)
    others += [(entry, f"fits too, {_word(fits[0])} is preferred") for entry in fits[1:]]
    return Choice(fits[0] if fits else None, others)


def why_not(entry: Entry, keys: Optional[Sequence[DeviceKey]] = None) -> str:
    """Why a variant does not run on a device, see `keys_of`; empty where it does."""
    made_for = entry.device
    if made_for.backend not in ORDER:
        return f"this version of optimize has no backend {made_for.backend!r}"
    if keys is not None:
        key = next((one for one in keys if one.backend == made_for.backend), None)
        if key is None:
            has = ", ".join(one.backend for one in keys)
            return f"made with {made_for.backend}, the other device has {has}"
        return mismatch(made_for, key, "the other device")
    why = mismatch(made_for, device_key(made_for.backend))
    missing = unavailable(made_for.backend)
    return missing if missing and "(version)" in why else why or missing


def _preference(entry: Entry) -> Tuple[int, int, str]:
    return ORDER.index(entry.device.backend), -len(entry.device.features), entry.digest


def _word(entry: Entry) -> str:
    return f"{entry.device.backend} {entry.device.version}"


def describe(device: DeviceKey) -> str:
    """A device in words, for a line of a list."""
    words = [f"{device.backend} {device.version}", f"{device.os} {device.arch}"]
    if device.gpu or device.compute_capability:
        words.append(f"{device.gpu or 'GPU'} (compute capability {device.compute_capability})")
    if device.l4t:
        words.append(f"L4T {device.l4t}")
    if device.features:
        words.append(f"{len(device.features)} CPU features")
    return ", ".join(words)


def to_json(choice: Choice) -> List[Dict[str, Any]]:
    """The variants with why not; null is the reason of the one that was chosen."""
    found: List[Tuple[Entry, Optional[str]]] = [(choice.entry, None)] if choice.entry else []
    return [
        {"variant": entry.digest, "device": entry.device.to_json(), "precision": entry.precision, "why_not": why}
        for entry, why in [*found, *choice.others]
    ]


def parse_reference(text: str) -> Tuple[str, str, Optional[str]]:
    """NAME, NAME:TAG, NAME@sha256:DIGEST or both, as (name, tag, digest); the tag is `latest` by default.

    Raises:
        UsageError: Not of this form, such as a name that would leave the store's folder.
    """
    rest, mark, digest = text.partition("@")
    name, colon, tag = rest.partition(":")
    tag = tag if colon else "latest"
    if not shipment.is_name(name) or not shipment.TAG.fullmatch(tag) or (mark and not DIGEST.fullmatch(digest)):
        raise UsageError(
            f"{text!r} is no name of a shipment",
            "NAME[:TAG][@sha256:DIGEST], the name in lower-case letters, digits, '.', '_' and '-'",
        )
    return name, tag, digest if mark else None
