"""What a node keeps: the active version, the one before it, what is in use, and the last few of the others."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Callable, List

import pytest

from engines.errors import OptimizeError, UsageError
from optimize.ship import activate as activation
from optimize.ship import fetch, journal, link, node, records, retention

Pulled = Callable[..., str]


def there(place: Path) -> List[str]:
    return [record["variant"] for record in records.all_of(place)][::-1]


@pytest.mark.slow
def test_the_active_one_and_the_one_before_are_kept_however_old(place: Path, pulled: Pulled) -> None:
    node.set_policy(place, keep=1)
    one, two = pulled(1), pulled(2)
    activation.activate(place, one)
    activation.activate(place, two)
    three, four = pulled(3), pulled(4)
    assert there(place) == [one, two, three, four]
    five = pulled(5)
    assert there(place) == [one, two, four, five]
    last = journal.last(place)
    assert last is not None and (last["event"], last["variant"]) == ("removed", three)
    assert activation.activate(place)["removed"] == [one]
    assert there(place) == [two, four, five]
    assert not list((place / "versions").glob(".*.old")) and not records.path_of(place, three).exists()


def test_what_was_just_pulled_is_kept_where_nothing_else_is(place: Path, pulled: Pulled) -> None:
    node.set_policy(place, keep=0)
    first, second = pulled(1), pulled(2)
    assert there(place) == [second]
    activation.activate(place)
    third = pulled(3)
    assert activation.activate(place)["active"]["variant"] == third
    assert there(place) == [second, third] and first not in there(place)


@pytest.mark.slow
def test_a_version_in_use_stays_until_it_is_not(place: Path, pulled: Pulled) -> None:
    one, two, three = pulled(1), pulled(2), pulled(3)
    activation.activate(place, one)
    reader = (
        "import sys\nfrom pathlib import Path\nfrom optimize.ship import link\n"
        "with link.using(Path(sys.argv[1])) as path:\n print(path.name, flush=True)\n sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", reader, str(place)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[3],
    ) as process:
        assert process.stdout is not None and process.stdin is not None
        assert process.stdout.readline().strip() == one
        activation.activate(place, two)
        activation.activate(place, three)
        with pytest.raises(OptimizeError, match="is in use"):
            node.remove(place, one)
        with node.locked(place):
            assert retention.retain(place, 0) == []
        process.stdin.close()
        process.wait()
    with node.locked(place):
        assert retention.retain(place, 0) == [one]
    assert there(place) == [two, three]


def test_what_must_stay_is_not_removed_by_hand(place: Path, pulled: Pulled) -> None:
    one, two = pulled(1), pulled(2)
    activation.activate(place, one)
    activation.activate(place, two)
    with pytest.raises(UsageError, match="is active"):
        node.remove(place, two)
    with pytest.raises(UsageError, match="rollback goes back to"):
        node.remove(place, one)
    assert node.remove(place, one, force=True)["variant"] == one
    assert node.status(place)["rollback"] is None and link.pointed(place) == two
    with pytest.raises(UsageError, match="no version to go back to"):
        activation.rollback(place)


def test_nothing_goes_while_a_download_is_under_way(place: Path, pulled: Pulled) -> None:
    from filelock import FileLock

    one, _ = pulled(1), pulled(2)
    incoming = place / "versions" / fetch.INCOMING
    (incoming / ("c" * 64)).mkdir(parents=True)
    (incoming / ("c" * 64) / "model.onnx").write_bytes(b"half")
    assert node.status(place)["unfinished"] == [{"variant": "c" * 64, "bytes": 4}]
    with FileLock(str(incoming / "lock")):
        for ask in (lambda: node.remove(place, one), lambda: node.remove_unfinished(place)):
            with pytest.raises(OptimizeError, match=r"download into .* is under way"):
                ask()
        with node.locked(place):
            assert retention.retain(place, 0) == []
    assert node.remove_unfinished(place) == ["c" * 64]
    assert node.status(place)["unfinished"] == [] and node.remove(place, one)
