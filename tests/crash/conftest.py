"""A node and a store with small real engines, copied anew for each death."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Dict, Iterator, Tuple

import pytest

from optimize.ship import activate as activation
from optimize.ship import node, records, send
from tests.crash.worlds import NEW, OLD, OLDEST, Case, Runner, World
from tests.optimize.ship import small
from tests.optimize.ship.conftest import same_process, stay_here

__all__ = ["same_process"]


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runner]:
    """See `Runner`."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing: apt-get install strace")
    command = [sys.executable, str(Path(__file__).with_name("operations.py"))]
    where = tmp_path_factory.mktemp("operations")
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=where)
    yield Runner(process)
    assert process.stdin
    process.stdin.close()
    process.wait()


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory) -> Tuple[Path, Dict[int, str]]:
    """See `World`; and the variants by their seeds."""
    base = tmp_path_factory.mktemp("template")
    variants: Dict[int, str] = {}
    for seed in (OLDEST, OLD, NEW):
        source = small.made(base / f"shipment{seed}", seed)
        variants[seed] = small.variant(source)
    with pytest.MonkeyPatch.context() as patch:
        stay_here(patch)
        patch.setattr(send, "_SETTLE_S", 0.0)
        send.ship([base / f"shipment{OLD}"], str(base / "store"), "linear-fp32")
        send.ship([base / f"shipment{NEW}"], str(base / "store"), "linear-fp32", "next")
        place = base / "node"
        for seed, variant in variants.items():
            with node.locked(place):
                shutil.copytree(base / f"shipment{seed}", records.versions(place) / variant)
            node.received(place, variant, "linear-fp32", f"v{seed}", f"sha256:{seed:064x}", "file:///store")
            if seed != NEW:
                activation.activate(place)
    return base, variants


@pytest.fixture
def world_of(template: Tuple[Path, Dict[int, str]], tmp_path: Path) -> Callable[[Case], World]:
    """`world_of(case)`: where that case begins."""

    def get(case: Case) -> World:
        world: World = case.world(template[0], tmp_path, template[1])
        case.prepare(world)
        return world

    return get
