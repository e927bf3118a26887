"""How quickly 100 MB go to an SSH store over the loopback interface, beside `scp`.

    python -m tests.optimize.ship.speed [ROUNDS]

Both take turns, each with a connection and a folder of its own. Ours checks every hash at the far side and syncs it to
the disk before it appears; `scp` does neither, so that a second ratio is given to `scp` followed by `sha256sum` and
`sync` of what it wrote. Then one file is changed, and what goes over the wire is counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Callable, Dict, List

from optimize.ship.url import open_store
from tests.servers import sshd

SIZES = {"model.plan": 90_000_000, "graph.onnx": 9_000_000, "golden.npz": 990_000, "manifest.json": 10_000}


def digest_of(path: Path) -> str:
    return "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()


def shipped(url: str, folder: Path, digests: Dict[str, str]) -> int:
    """Send what the far side lacks; bytes sent."""
    store, told = open_store(url), [0]
    try:
        there = store.sizes("net", list(digests.values()))
        lacking = {digest: folder / name for name, digest in digests.items() if digest not in there}
        store.put("net", lacking, told.append, 0)
        store.tag("net", "latest", "application/json", json.dumps(digests).encode())
    finally:
        store.close()
    return told[-1]


def seconds(act: Callable[[], object]) -> float:
    os.sync()  # what others have written is not ours to wait for
    started = time.perf_counter()
    act()
    return time.perf_counter() - started


def main(rounds: int) -> Dict[str, object]:
    """Times and ratios; a ratio of 1 is `scp`'s speed, above it ours is quicker."""
    with tempfile.TemporaryDirectory() as place, sshd.running(Path(place) / "sshd") as server:
        os.environ["OPTIMIZE_SSH_CONFIG"] = str(server.config)
        bundle, far = Path(place) / "bundle", Path(place) / "far"
        bundle.mkdir()
        for name, size in SIZES.items():
            (bundle / name).write_bytes(os.urandom(size))
        digests = {name: digest_of(bundle / name) for name in SIZES}
        scp = ["scp", "-q", "-r", "-F", str(server.config), "-P", str(server.port), str(bundle), f"127.0.0.1:{far}"]
        check = f"cd {far} && sha256sum * && sync *"
        after = ["ssh", "-F", str(server.config), "-p", str(server.port), "127.0.0.1", check]

        def ours() -> None:
            assert shipped(f"{server.url}{far}", bundle, digests) == sum(SIZES.values())

        def theirs() -> None:
            subprocess.run(scp, check=True)

        def theirs_checked() -> None:
            theirs()
            subprocess.run(after, check=True, stdout=subprocess.DEVNULL)

        sides = {"ours": ours, "scp": theirs, "scp, sha256sum, sync": theirs_checked}
        times: Dict[str, List[float]] = {name: [] for name in sides}
        for turn in range(rounds):
            for name in list(sides)[:: 1 if turn % 2 == 0 else -1]:
                times[name].append(seconds(sides[name]))
                shutil.rmtree(far)
        ours()
        (bundle / "graph.onnx").write_bytes(os.urandom(SIZES["graph.onnx"] + 1))
        digests["graph.onnx"] = digest_of(bundle / "graph.onnx")
        sent = shipped(f"{server.url}{far}", bundle, digests)
    found: Dict[str, object] = {"seconds": times, "second_ship": {"sent": sent, "changed": SIZES["graph.onnx"] + 1}}
    for name in list(sides)[1:]:
        ratios = sorted(b / a for a, b in zip(times["ours"], times[name]))
        found[f"speed beside {name}"] = {"median": statistics.median(ratios), "least": ratios[0], "most": ratios[-1]}
    return found


if __name__ == "__main__":
    if sshd.missing():
        sys.exit(sshd.missing())
    print(json.dumps(main(int(sys.argv[1]) if len(sys.argv) > 1 else 9), indent=1))
