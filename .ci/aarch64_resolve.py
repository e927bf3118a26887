"""Whether a Jetson's Python finds a file of every package: pip resolves for aarch64 here, metadata only.

    python .ci/aarch64_resolve.py                # the three JetPacks, as a table; status 1 where a file is missing
    python .ci/aarch64_resolve.py --download DIR --python 3.11 --glibc 2.36 -- pytest

pip evaluates markers such as `platform_machine == "aarch64"` for the machine that it runs on, whatever `--platform`
says. So it runs here with the marker values of the target.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Dict, List, NamedTuple, Sequence, Tuple
from urllib.parse import unquote, urlsplit

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
ON_A_BOARD = ("tensorflow", "openvino", "report")
"""Extras that make sense on a board; PyTorch for a Jetson is NVIDIA's, `tensorrt` is for desktops."""


class Exemption(NamedTuple):
    """A pinned package that has no aarch64 file in the index, and where a board gets it.

    Attributes:
        name: As pinned.
        source: Where it comes from.
        like: Requirements that bring what it depends on, resolved in its place.
        built: It is built on the board from the source that the index has.
    """

    name: str
    source: str
    like: Tuple[str, ...] = ()
    built: bool = False


class Target(NamedTuple):
    """A Python on aarch64.

    Attributes:
        pure: Pinned packages that come as source only and are pure Python: pip builds a wheel that runs anywhere.
    """

    name: str
    python: str
    glibc: str
    exemptions: Tuple[Exemption, ...] = ()
    pure: Tuple[str, ...] = ()


class Row(NamedTuple):
    """A line of the table."""

    name: str
    version: str
    pinned: str
    source: str


_NVCC = "built on the board from its source with JetPack's nvcc"
_DEB = "JetPack's package python3-libnvinfer"
_WHEELS = "NVIDIA's wheels for JetPack"

TARGETS = (
    Target(
        "jetpack5",
        "3.8",
        "2.31",
        (
            Exemption("tensorrt", _DEB),
            # PyPI's build of the same release declares the same dependencies as NVIDIA's.
            Exemption("tensorflow", f"{_WHEELS}, jp/v512", ("tensorflow-cpu-aws==2.12.1",)),
            Exemption("tensorflow-cpu", "only on x86-64, where these pins are tested"),
            Exemption("pycuda", _NVCC, ("pytools", "mako", "appdirs"), built=True),
        ),
        ("jax", "pytools"),
    ),
    Target(
        "jetpack6",
        "3.10",
        "2.35",
        (
            Exemption("tensorrt", _DEB),
            Exemption("tensorflow", f"{_WHEELS}, jp/v61", ("tensorflow==2.16.1",)),
            Exemption("pycuda", _NVCC, ("pytools", "mako", "platformdirs"), built=True),
        ),
    ),
    Target(
        "jetpack7",
        "3.12",
        "2.39",
        (
            Exemption("tensorrt", _DEB),
            Exemption("pycuda", _NVCC, ("pytools", "mako", "platformdirs"), built=True),
        ),
    ),
)

_PIP = """
import json, sys
from pip._vendor.packaging import markers
values = json.loads(sys.argv[1])
true = markers.default_environment
markers.default_environment = lambda: {**true(), **values}
from pip._internal.cli.main import main
sys.exit(main(sys.argv[2:]))
"""


def platforms(glibc: str) -> List[str]:
    """Every manylinux tag that this glibc runs, newest first."""
    newest = int(glibc.split(".")[1])
    return [f"manylinux_2_{minor}_aarch64" for minor in range(newest, 16, -1)] + ["manylinux2014_aarch64"]


def marker_values(target: Target) -> Dict[str, str]:
    """What environment markers say on the target."""
    return {
        "implementation_name": "cpython",
        "os_name": "posix",
        "platform_machine": "aarch64",
        "platform_python_implementation": "CPython",
        "platform_system": "Linux",
        "python_full_version": f"{target.python}.10",
        "python_version": target.python,
        "sys_platform": "linux",
    }


def pip(target: Target, command: str, *words: str) -> subprocess.CompletedProcess[str]:
    """Run `pip install` or `pip download` as if for the target. Only wheels: nothing is built here."""
    tags = [word for platform in platforms(target.glibc) for word in ("--platform", platform)]
    line = [sys.executable, "-c", _PIP, json.dumps(marker_values(target)), command, "--quiet", "--no-input"]
    line += ["--disable-pip-version-check", "--only-binary", ":all:", "--implementation", "cp"]
    line += ["--python-version", target.python, *tags, *words]
    return subprocess.run(line, capture_output=True, text=True)


def requirements(extras: Sequence[str]) -> List[str]:
    """Dependencies of the project and of its extras, markers and all."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return [*project["dependencies"], *(line for extra in extras for line in project["optional-dependencies"][extra])]


def pins(path: Path) -> Dict[str, str]:
    """Name and version of every `name==version` of a constraints file."""
    lines = (line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines())
    out = {}
    for line in filter(None, lines):
        name, _, version = line.partition("==")
        if not version or ";" in version:
            raise SystemExit(f"error: {path}: not a plain name==version: {line}")
        out[_normal(name)] = version.strip()
    return out


def resolve(target: Target, folder: Path) -> Tuple[List[Row], str]:
    """What pip would install on the target, and pip's complaint where it finds no way."""
    wanted = pins(ROOT / "constraints" / f"{target.name}.txt")
    exempt = {one.name: one for one in target.exemptions}
    free = {name: version for name, version in wanted.items() if name not in exempt}
    constraints, report = folder / f"{target.name}.txt", folder / f"{target.name}.json"
    constraints.write_text("".join(f"{name}=={version}\n" for name, version in free.items()), encoding="utf-8")
    wheels = folder / f"{target.name}-pure"
    complaint = _build_pure([f"{name}=={wanted[name]}" for name in target.pure], wheels)
    if complaint:
        return [], complaint
    # Every pin is asked for, not only what the project needs: a pin without a file shows here and not on the board.
    asked = [f"{name}=={version}" for name, version in free.items()]
    asked += [line for one in target.exemptions for line in one.like]
    options = ["--dry-run", "--ignore-installed", "--report", str(report), "-c", str(constraints)]
    done = pip(target, "install", *options, "--find-links", str(wheels), *requirements(ON_A_BOARD), *asked)
    if done.returncode:
        # pip calls it a conflict where a pin has no file: each pin alone tells which.
        alone = ["--dry-run", "--ignore-installed", "--no-deps", "--find-links", str(wheels)]
        without = [f"{n}=={v}" for n, v in free.items() if pip(target, "install", *alone, f"{n}=={v}").returncode]
        return [], f"no file for the board: {', '.join(without)}" if without else _complaint(done.stderr)
    stand_ins = {_normal(line.split("==")[0]) for one in target.exemptions for line in one.like if "==" in line}
    rows = []
    for item in json.loads(report.read_text(encoding="utf-8"))["install"]:
        name, version = _normal(item["metadata"]["name"]), item["metadata"]["version"]
        if name in stand_ins:
            continue
        file = unquote(urlsplit(item["download_info"]["url"]).path.rsplit("/", 1)[-1])
        source = "source, pure Python" if name in target.pure else _tag(file)
        rows.append(Row(name, version, "pinned" if name in wanted else "free", source))
    for name, one in exempt.items():
        if name not in wanted:
            return [], f"{name} is exempt but not pinned in constraints/{target.name}.txt"
        if one.built and not _has_source(name, wanted[name]):
            return [], f"the index has no source of {name} {wanted[name]}"
        rows.append(Row(name, wanted[name], "pinned", f"exempt: {one.source}"))
    missing = sorted(set(wanted) - {row.name for row in rows})
    return sorted(rows), f"pinned and not found: {', '.join(missing)}" if missing else ""


def download(target: Target, folder: Path, extras: Sequence[str], more: Sequence[str]) -> str:
    """Fetch the files that the project and `more` need on the target. Returns what pip complained of, or nothing."""
    done = pip(target, "download", "-d", str(folder), *requirements(extras), *more)
    return _complaint(done.stderr) if done.returncode else ""


def _build_pure(asked: Sequence[str], folder: Path) -> str:
    """Make wheels of packages that come as source; a complaint where one is not the same for every machine."""
    folder.mkdir(parents=True, exist_ok=True)
    if not asked:
        return ""
    names = ",".join(line.split("==")[0] for line in asked)
    line = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--ignore-requires-python"]
    line += ["--no-binary", names, "-w", str(folder), *asked]
    done = subprocess.run(line, capture_output=True, text=True)
    if done.returncode:
        return _complaint(done.stderr)
    tied = [path.name for path in folder.glob("*.whl") if not path.name.endswith("-none-any.whl")]
    return f"named as pure Python, but built for this machine: {', '.join(tied)}" if tied else ""


def _has_source(name: str, version: str) -> bool:
    line = [sys.executable, "-m", "pip", "index", "versions", name, "--no-binary", name, "--ignore-requires-python"]
    done = subprocess.run(line, capture_output=True, text=True)
    return version in re.split(r"[\s,]+", done.stdout)


def _tag(file: str) -> str:
    """The platform of a wheel, the oldest where there are several."""
    return file[: -len(".whl")].split("-")[-1].split(".")[0] if file.endswith(".whl") else file


def _complaint(words: str) -> str:
    lines = [line for line in words.splitlines() if line.strip() and not line.startswith("WARNING: Location")]
    return "\n".join(line[:600] for line in lines[-25:]) or "pip failed without a word"


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name.strip().lower())


def _table(target: Target, rows: Sequence[Row], seconds: float) -> None:
    tags = platforms(target.glibc)
    print(f"{target.name}: Python {target.python}, {tags[-1]} to {tags[0]}: {len(rows)} packages in {seconds:.0f} s")
    for row in rows:
        print(f"  {row.name:30}{row.version:18}{row.pinned:8}{row.source}")


def main() -> int:
    """Check the JetPacks, or download."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("targets", nargs="*", help="jetpack5 ...: all by default; or what to download")
    parser.add_argument("--download", type=Path, metavar="DIR")
    parser.add_argument("--python", default="3.11")
    parser.add_argument("--glibc", default="2.31")
    parser.add_argument("--extras", default="openvino")
    given = parser.parse_args()
    if given.download:
        target = Target("download", given.python, given.glibc)
        complaint = download(target, given.download, given.extras.split(","), given.targets)
        if complaint:
            print(complaint, file=sys.stderr)
        return 1 if complaint else 0
    unknown = set(given.targets) - {target.name for target in TARGETS}
    if unknown:
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    failed = 0
    for target in TARGETS:
        if given.targets and target.name not in given.targets:
            continue
        begun = time.monotonic()
        with tempfile.TemporaryDirectory() as folder:
            rows, complaint = resolve(target, Path(folder))
        _table(target, rows, time.monotonic() - begun)
        if complaint:
            failed += 1
            print(f"{target.name} FAILED: {complaint}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
