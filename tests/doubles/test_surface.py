"""What each version's Python API consists of, read from the real bindings; and the double held to it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any, Dict, Set

import pytest

from tests.doubles import bindings
from tests.doubles import surface as surfaces
from tests.doubles.plugin import FOLDER

_MATRIX = {
    "8.6.1": {
        "BuilderFlag.FP16": 0,
        "BuilderFlag.TF32": 7,
        "BuilderFlag.FP8": 17,
        "NetworkDefinitionCreationFlag.EXPLICIT_BATCH": 0,
    },
    "10.3.0": {
        "BuilderFlag.INT8": 1,
        "BuilderFlag.TF32": 6,
        "BuilderFlag.BF16": 17,
        "NetworkDefinitionCreationFlag.STRONGLY_TYPED": 1,
    },
    "10.13": {"BuilderFlag.TF32": 6, "BuilderFlag.INT4": 22, "BuilderFlag.GPU_FALLBACK": 3},
    "10.16": {"BuilderFlag.FP4": 26, "BuilderFlag.OBEY_PRECISION_CONSTRAINTS": 9},
    "11.4": {"BuilderFlag.FP16": None, "BuilderFlag.TF32": 6, "NetworkDefinitionCreationFlag.STRONGLY_TYPED": 0},
    "8.5.2": {"BuilderFlag.TF32": 7, "BuilderFlag.VERSION_COMPATIBLE": None, "BuilderFlag.STRICT_TYPES": 4},
}
"""Values that shift between versions, as NVIDIA's headers have them."""


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        (
            "f(self: tensorrt_bindings.tensorrt.Dims, arg0: typing.SupportsInt) -> int",
            "f(self: Dims, arg0: int) -> int",
        ),
        ("f(x: list[tuple[str, int]]) -> typing_extensions.Buffer", "f(x: List[Tuple[str, int]]) -> buffer"),
        ("f(x: collections.abc.Sequence[typing.SupportsInt | typing.SupportsIndex])", "f(x: List[int])"),
        (
            "f(x: typing.SupportsFloat | typing.SupportsIndex = 1.0) -> types.CapsuleType",
            "f(x: float = 1.0) -> capsule",
        ),
    ],
)
def test_signatures_of_newer_pybind_read_as_those_of_older(text: str, normal: str) -> None:
    assert surfaces.normalise(text) == normal


def test_arguments_keep_their_order_types_and_defaults() -> None:
    text = "f(self: C, a: Dict[str, int], b: Kind = <Kind.A: 0>, *, c: int = 3) -> None"
    assert surfaces.arguments(text) == [("a", "Dict[str, int]", None), ("b", "Kind", "<Kind.A: 0>"), ("c", "int", "3")]


@pytest.mark.tensorrt
def test_a_surface_has_the_values_of_its_version(trt: Any, surface: str) -> None:
    from tensorrt._real import SURFACE

    for name, value in _MATRIX[surface].items():
        kind, member = name.split(".")
        assert SURFACE["classes"][kind]["enum"].get(member) == value, name
        assert getattr(getattr(trt, kind), member, None) == (None if value is None else getattr(trt, kind)(value))


@pytest.mark.tensorrt
def test_the_double_has_the_surface_that_the_real_bindings_have(trt: Any, surface: str) -> None:
    """Every class of the double, described as the real one is, has the real one's members and no other."""
    from tensorrt._check import PUBLIC
    from tensorrt._real import SURFACE

    assert len(PUBLIC) == 14
    for name, kind in PUBLIC.items():
        real = SURFACE["classes"][name]
        have = {member for parent in kind.__mro__ for member in vars(parent) if not member.startswith("_")}
        have &= (
            {member for member in dir(kind) if not member.startswith("_")}
            if name != "IHostMemory"
            else {"nbytes", "dtype"}
        )
        assert have == {member for member in (*real["methods"], *real["props"]) if not member.startswith("_")}, name
        for member, known in real["props"].items():
            if name != "IHostMemory":
                value = getattr(kind, member)
                assert value.fset is None or not known["ro"], f"{name}.{member} is read-only"


@pytest.mark.tensorrt
def test_the_derived_surface_differs_from_its_neighbour_by_additions_only() -> None:
    if surfaces.shared_file() is None or not bindings.available("8.6.1"):
        pytest.skip("needs the description of 8.5.2 and the bindings of 8.6.1")
    older, newer = _members(surfaces.read_derived()), _members(surfaces.extract(bindings.load("8.6.1")))
    assert not older - newer
    assert "IBuilderConfig.builder_optimization_level" in newer - older


def _members(known: Dict[str, Any]) -> Set[str]:
    found: Set[str] = set()
    for name, kind in known["classes"].items():
        for member, texts in kind["methods"].items():
            found.update(f"{name}.{member}: {text}" for text in texts)
        found.update(f"{name}.{member}" for member in (*kind["props"], *kind["statics"]))
        found.update(f"{name}.{member}={value}" for member, value in kind.get("enum", {}).items())
    return found


@pytest.mark.tensorrt
def test_every_member_of_the_double_is_in_some_version() -> None:
    """A misspelt member would be taken away in every version, and never be missed."""
    if surfaces.shared_file() is None or not all(map(bindings.available, bindings.WHEELS)):
        pytest.skip("needs all versions")
    known = [surfaces.read_derived(), *(surfaces.extract(bindings.load(one)) for one in bindings.WHEELS)]
    source = "\n".join(path.read_text(encoding="utf-8") for path in sorted((FOLDER / "tensorrt").glob("_*.py")))
    for name, members in _written(source).items():
        everywhere = {
            member
            for one in known
            for part in ("methods", "props")
            for member in one["classes"].get(name, {}).get(part, {})
        }
        assert members <= everywhere, f"{name}: {members - everywhere}"


def _written(source: str) -> Dict[str, Set[str]]:
    """The public members of each checked class, as its source defines them."""
    import ast

    found: Dict[str, Set[str]] = {}
    for node in ast.walk(ast.parse(source.replace("from __future__ import annotations", ""))):
        if isinstance(node, ast.ClassDef) and node.decorator_list:
            names = {item.name for item in node.body if isinstance(item, ast.FunctionDef)}
            names |= {
                target.id
                for item in node.body
                if isinstance(item, ast.Assign)
                for target in item.targets
                if isinstance(target, ast.Name)
            }
            found[node.name] = {name for name in names if not name.startswith("_")}
    return found


@pytest.mark.tensorrt
def test_a_renamed_argument_stops_the_import(trt: Any, surface: str) -> None:
    from tensorrt._check import Guarded, checked

    kind = type("IBuilderConfig", (Guarded,), {"set_flag": lambda self, flags: None})
    with pytest.raises(ImportError, match=r"IBuilderConfig.set_flag\(.*the double has flags"):
        checked()(kind)


@pytest.mark.tensorrt
def test_a_property_that_cannot_be_set_stops_the_import(trt: Any, surface: str) -> None:
    from tensorrt._check import Guarded, checked

    kind = type("IBuilderConfig", (Guarded,), {"avg_timing_iterations": property(lambda self: 1)})
    with pytest.raises(ImportError, match=r"can set IBuilderConfig.avg_timing_iterations"):
        checked()(kind)


@pytest.mark.tensorrt
def test_what_the_double_lacks_says_so(trt: Any, surface: str) -> None:
    from tensorrt._check import Guarded, checked

    kind: Any = checked()(type("IBuilderConfig", (Guarded,), {}))
    with pytest.raises(NotImplementedError, match=f"TensorRT {surface} has IBuilderConfig.get_flag"):
        kind._make().get_flag()


@pytest.mark.tensorrt
def test_a_child_process_gets_the_same_double(trt: Any, surface: str) -> None:
    code = "import tensorrt; print(tensorrt.__version__)"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert ran.stdout.strip() == trt.__version__, ran.stderr
    assert trt.__version__.endswith("+double") and trt.__version__.startswith(surface)


def test_without_a_version_the_import_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(FOLDER))
    monkeypatch.delenv("OPTIMIZE_DOUBLE_SURFACE", raising=False)
    ran = subprocess.run([sys.executable, "-c", "import tensorrt"], capture_output=True, text=True)
    assert "OPTIMIZE_DOUBLE_SURFACE=10.3.0" in ran.stderr
