"""What a build made: engines on the way to a bundle, bundles, and the answer of one call."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from engines import manifest
from engines.errors import OptimizeError
from engines.spec import RunnerSpec


@dataclass
class Built:
    """One bundle of a build, and what was measured of it."""

    path: Path
    precision: str
    manifest: Dict[str, Any]
    reused: bool

    def to_json(self) -> Dict[str, Any]:
        """The bundle's line in `optimize build --json`."""
        about = self.manifest
        return {
            "path": str(self.path),
            "precision": self.precision,
            "backend": about["backend"],
            "achieved": about["achieved"],
            "comparison": about.get("comparison"),
            "size_bytes": sum(f["bytes"] for f in about["files"]),
            "seconds": about["seconds"],
            "reused": self.reused,
            "accuracy": about["accuracy"],
            "check": about["check"],
            "gate": about["gate"],
            "flags": about["flags"],
            "calibration": about["calibration"],
            "variants": about.get("variants", []),
            "search": about.get("search"),
            "chosen": about.get("chosen"),
        }


@dataclass
class Candidate:
    """One engine that was built and measured, not yet a bundle."""

    name: str
    stage: Path
    spec: RunnerSpec
    manifest: Dict[str, Any]
    reused: bool

    @property
    def passed(self) -> bool:
        """Whether its gate was met, or there was none."""
        return self.manifest["gate"] is None or bool(self.manifest["gate"]["passed"])

    def compared(self, times: Dict[str, float], kept: bool) -> Dict[str, Any]:
        """Its line where several ways were built: what speaks for it and against it."""
        options, accuracy = self.manifest["options"], self.manifest["accuracy"] or {}
        return {
            "name": self.name or "int8",
            "kept": kept,
            "keep_float": (self.manifest["calibration"] or {}).get("keep_float", []),
            "log_ms": times[self.name],
            "passed": self.manifest["gate"]["passed"] if self.manifest["gate"] else None,
            "top1_drop": accuracy.get("top1_drop"),
            "agreement": accuracy.get("agreement"),
            "achieved": self.manifest["achieved"],
            **{key: options.get(key) for key in ("reformats", "qdq")},
        }


@dataclass
class Build:
    """What one call of `build` made of one model."""

    model: Path
    out: Path
    backend: str
    spec: RunnerSpec
    check: Dict[str, Any]
    source_accuracy: Optional[Dict[str, Any]]
    warnings: List[str] = field(default_factory=list)
    bundles: List[Built] = field(default_factory=list)
    failures: List[Tuple[str, OptimizeError]] = field(default_factory=list)

    def to_json(self) -> Dict[str, Any]:
        """The answer of `optimize build --json`."""
        return {
            "model": str(self.model),
            "out": str(self.out),
            "backend": self.backend,
            "preprocess": self.spec.preprocess,
            "check": self.check,
            "source": self.source_accuracy,
            "bundles": [b.to_json() for b in self.bundles],
            "warnings": self.warnings,
            "failures": [{"precision": p, "message": e.message, "hint": e.hint} for p, e in self.failures],
        }


def unchanged(bundle: Path, about: Dict[str, Any]) -> bool:
    """Whether the bundle in place is whole and says the same, but for when it was made."""
    try:
        there = manifest.read(bundle)
        manifest.check_files(bundle)
    except (OptimizeError, OSError):
        return False
    return {**there, "created": ""} == {**about, "created": ""}


def as_tuned(bundle: Path, about: Dict[str, Any]) -> Dict[str, Any]:
    """The manifest with what `bench --tune` has kept in the bundle in place, where that holds the very same engine."""
    try:
        there = manifest.read(bundle)
    except (OptimizeError, OSError):
        return about
    tuned = there["options"].get("tuned")
    if not tuned or any(there[name] != about[name] for name in ("files", "device")):
        return about
    return {**about, "options": {**about["options"], "tuned": tuned}}
