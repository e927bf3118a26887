"""What made an engine, as a record that travels with it: versions, hashes of model and data, build key, flags."""

from __future__ import annotations

import platform
from typing import Any, Dict, List, Optional

from engines.device import version_of
from optimize.pipeline.inputs import CALIBRATION_PACKAGES, EXPORT_PACKAGES
from optimize.version import VERSION


def record(about: Dict[str, Any], origin: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
    """The field `provenance` of shipment.json.

    What only the moment of the build tells is in the manifest, and taken from there. Python and packages are those of
    the machine that ships, which is where `optimize build` ran unless the bundle was carried elsewhere.

    Args:
        about: The bundle's manifest.
        origin: The record of the shipment whose graph it was built from, where it came so.

    Returns:
        `optimize` (version that built), `built` (when), `shipped_by` (version that ships), `python`, `system`,
        `packages`, `backend`, `model`, `graph` (SHA-256 of the ONNX that the backend got), `data` (`use`, `name`, `n`,
        `sha256` of each set of images), `build_key`, `flags`, `origin`.
    """
    data: List[Dict[str, Any]] = []
    for use in ("calibration", "accuracy"):
        dataset = (about[use] or {}).get("dataset")
        if dataset:
            data.append({"use": use, **{key: dataset[key] for key in ("name", "n", "sha256")}})
    names = sorted({*CALIBRATION_PACKAGES, *EXPORT_PACKAGES, about["backend"]})
    packages = {name: version_of(name) for name in names if version_of(name)}
    return {
        "optimize": about["version"],
        "built": about["created"],
        "shipped_by": VERSION,
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "packages": packages,
        "backend": {"name": about["backend"], "version": about["device"]["version"]},
        "model": about["model"],
        "graph": about["onnx"]["sha256"],
        "data": data,
        "build_key": about["build_key"],
        "flags": about["flags"],
        "origin": origin,
    }
