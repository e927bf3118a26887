"""Records of versions, and the versions that users mean."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Callable

import pytest

from engines import jsonfile
from engines.errors import UsageError
from optimize.ship import activate, journal, node, records

Pulled = Callable[..., str]


def test_a_version_is_found_by_what_a_user_types(place: Path, pulled: Pulled) -> None:
    with pytest.raises(UsageError, match="no version was pulled"):
        records.find(place, None)
    first, second = pulled(1, "v1"), pulled(2, "v2")
    for text, variant in (
        (None, second),
        ("linear-fp32", second),
        ("linear-fp32:v1", first),
        (f"linear-fp32@sha256:{1:064x}", first),
        (f"linear-fp32@sha256:{first}", first),
        (f"linear-fp32:v1@sha256:{1:064x}", first),
        (first, first),
        (first[:8], first),
        (f"sha256:{first}", first),
        (f"sha256:{2:064x}", second),
    ):
        assert records.find(place, text)["variant"] == variant, text


@pytest.mark.parametrize(
    "text", ["linear", "linear-fp32:v3", f"linear-fp32:v2@sha256:{1:064x}", "", "../..", "abcdefab", "-x", "a" * 65]
)
def test_what_is_not_there_is_told_with_what_is(place: Path, pulled: Pulled, text: str) -> None:
    pulled(1, "v1")
    pulled(2, "v2")
    with pytest.raises(UsageError, match=r"there are linear-fp32:v2 \([0-9a-f]{12}\), linear-fp32:v1"):
        records.find(place, text)


def test_the_beginning_of_two_digests_is_none(place: Path, pulled: Pulled) -> None:
    pulled(1)
    pulled(2)
    with pytest.raises(UsageError, match="beginning of 2 digests"):
        records.find(place, "00000000")  # of both indexes


def test_a_lost_record_costs_the_tag_and_not_the_version(place: Path, pulled: Pulled) -> None:
    variant = pulled(1, "v1")
    records.path_of(place, variant).write_text('{"schema": "optimize.version/1", "variant": 7}')
    found = records.find(place, "linear-fp32")
    assert (found["variant"], found["tag"], found["digest"]) == (variant, None, None)
    assert node.status(place)["versions"][0]["name"] == "linear-fp32"


def test_special_files_are_passed_over_as_other_damage_is(place: Path, pulled: Pulled) -> None:
    variant = pulled(1, "v1")
    for path in (records.path_of(place, variant), records.versions(place) / variant / "shipment.json"):
        path.unlink()
        os.mkfifo(path)
    assert records.read(place, variant)["name"] == "unknown"


@pytest.mark.parametrize("number", [journal.MOST, journal.MOST + 1, 1 << 62])
def test_a_number_that_nobody_counts_to_blocks_nothing(place: Path, pulled: Pulled, number: int) -> None:
    variant = pulled(1, "v1")
    jsonfile.write(records.path_of(place, variant), {**records.read(place, variant), "pulled": number})
    line = {"sequence": number, "time": "2031-01-01T00:00:00Z", "event": "pulled", "active": None}
    with open(place / journal.NAME, "a") as handle:
        handle.write(json.dumps(line) + "\n")
    assert records.next_number(place) < 10
    activate.activate(place)
    pulled(2, "v2")


def test_a_folder_in_place_of_the_journal_stops_no_activation(place: Path, pulled: Pulled) -> None:
    variant = pulled(1, "v1")
    (place / journal.NAME).unlink()
    (place / journal.NAME).mkdir()
    assert activate.activate(place)["active"]["variant"] == variant


def test_numbers_only_grow_whatever_is_lost(place: Path, pulled: Pulled) -> None:
    pulled(1)
    pulled(2)
    number = records.next_number(place)
    (place / "journal.jsonl").unlink()
    assert records.next_number(place) >= number
    for record in (place / "records").iterdir():
        record.unlink()
    assert records.next_number(place) == 1
