"""Checks of JSON fields, put together into a table: each is called with a field's name and value, and raises."""

from __future__ import annotations

import re
import reprlib
from typing import Any, Callable, Pattern

from engines.errors import DamagedError, NewerError

Check = Callable[[str, Any], None]
"""`check(name, value)` raises DamagedError naming the field, or returns."""


_REPR = reprlib.Repr()  # of what is nested deeply or very long, repr itself would fail or fill the memory
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 200


def wrong(name: str, value: Any, expected: str) -> DamagedError:
    """The error that names the field, what is expected and what is there."""
    shown = _REPR.repr(value)
    return DamagedError(f"{name}: {expected} is expected, not {shown if len(shown) < 60 else shown[:57] + '...'}")


def of_schema(value: Any, what: str, schema: str, hint: str = "") -> None:
    """Check that a document is an object of a schema, before its fields are looked at.

    Args:
        value: What was read.
        what: In words: `a run`.
        schema: `name/major` that it must say of itself.
        hint: Where it is no object.

    Raises:
        DamagedError: It is none, or of another schema.
        NewerError: Of a newer major of it.
    """
    if not isinstance(value, dict):
        raise DamagedError(f"{what} is a JSON object", hint)
    if value.get("schema") != schema:
        raise other_schema(value.get("schema"), schema)


def other_schema(found: Any, schema: str, where: str = "") -> DamagedError:
    """The error for a document that says another schema of itself, or none.

    Args:
        found: What it says.
        schema: `name/major` that is read here.
        where: What it was read from, for the message.
    """
    kind, _, major = schema.partition("/")
    newer = re.fullmatch(re.escape(kind) + "/([1-9][0-9]{0,5})", found) if isinstance(found, str) else None
    place = f"{where}: " if where else ""
    said = f"schema {_REPR.repr(found)}, this version reads {schema!r}"
    if newer and int(newer[1]) > int(major):
        return NewerError(f"{place}made by a newer version of optimize: {said}", "pip install --upgrade optimize-trt")
    return DamagedError(place + said, "update optimize, or make the file again")


def word(name: str, value: Any) -> None:
    """A string."""
    if not isinstance(value, str):
        raise wrong(name, value, "a string")


def matching(pattern: Pattern[str], expected: str) -> Check:
    """A string that matches as a whole."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or not pattern.fullmatch(value):
            raise wrong(name, value, expected)

    return check


def one_of(*known: str) -> Check:
    """One of these strings."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, str) or value not in known:
            raise wrong(name, value, " or ".join(repr(k) for k in known))

    return check


def whole(least: int, most: int) -> Check:
    """An integer within bounds; true and false are none."""

    def check(name: str, value: Any) -> None:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise wrong(name, value, f"a whole number from {least} to {most}")

    return check


def number(name: str, value: Any) -> None:
    """An integer or float."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise wrong(name, value, "a number")


def between(low: float, high: float) -> Check:
    """A number within bounds."""

    def check(name: str, value: Any) -> None:
        number(name, value)
        if not low <= value <= high:
            raise wrong(name, value, f"a number from {low} to {high}")

    return check


def truth(name: str, value: Any) -> None:
    """True or false."""
    if not isinstance(value, bool):
        raise wrong(name, value, "true or false")


def an_object(**fields: Check) -> Check:
    """An object with at least these fields."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise wrong(name, value, "an object")
        for key, inner in fields.items():
            if key not in value:
                raise DamagedError(f"the field {name}.{key} is missing")
            inner(f"{name}.{key}", value[key])

    return check


def null_or(inner: Check) -> Check:
    """Null, or what `inner` takes."""

    def check(name: str, value: Any) -> None:
        if value is not None:
            inner(name, value)

    return check


def a_list(inner: Check, least: int = 0) -> Check:
    """A list of what `inner` takes."""

    def check(name: str, value: Any) -> None:
        if not isinstance(value, list) or len(value) < least:
            raise wrong(name, value, "a list" if not least else f"a list of {least} or more")
        for index, item in enumerate(value):
            inner(f"{name}[{index}]", item)

    return check


def counts(name: str, value: Any) -> None:
    """An object of whole numbers."""
    if not isinstance(value, dict):
        raise wrong(name, value, "an object")
    for key, count in value.items():
        whole(0, 1 << 31)(f"{name}.{key}", count)


def anything(name: str, value: Any) -> None:
    """Any JSON value."""
