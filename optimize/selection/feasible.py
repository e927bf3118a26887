"""Which candidates the device can take: memory, the engine's backend and GPU, background load.

A device is what `optimize device show --json` printed there. What it does not tell limits nothing, and is told.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Union

from engines import fields, jsonfile
from engines.device import DeviceKey, mismatch
from engines.driver import Gpu
from engines.errors import DamagedError, IncompatibleError, UsageError
from optimize.selection.asked import Asked
from optimize.selection.candidates import Candidate, Runs

MORE_LOAD = 0.1
"""By which share of the processor the device may be busier than it was when the times were taken, unremarked."""


THIS = "this-device"


def told(device: Union[str, Path]) -> Dict[str, Any]:
    """What a file tells of a device (see `read`), or, of `this-device`, this machine itself."""
    if str(device) == THIS:
        from optimize import device as machine

        return machine.show()
    return read(Path(device))


def read(path: Path) -> Dict[str, Any]:
    """Read what `optimize device show --json` printed, or `optimize node status --facts --json`.

    Raises:
        UsageError: No such file.
        DamagedError: Not such a file.
    """
    if not path.is_file():
        raise UsageError(f"{path}: no such device file", "on the device: optimize device show --json > device.json")
    value = jsonfile.read(path)
    if "node" in value and "active" in value:
        facts = value.get("device")
        if not isinstance(facts, dict):
            raise DamagedError(
                f"{path}: the state of a node, and not what its machine is", "optimize node status --facts --json"
            )
        value = facts
    try:
        _DEVICE("device", value)
        for name, check in _MORE.items():
            if name in value:
                check(name, value[name])
        for name, check in _STATE.items():
            if name in value["state"]:
                check(f"device.state.{name}", value["state"][name])
        for key in value.get("backends") or []:
            DeviceKey.from_json(key)
    except DamagedError as error:
        raise DamagedError(f"{path}: {error.message}", "on the device: optimize device show --json") from None
    return value


_bytes = fields.null_or(fields.whole(0, 1 << 50))
_share = fields.null_or(fields.between(0, 1))
_DEVICE = fields.an_object(
    model=fields.word,
    memory=fields.an_object(total_bytes=_bytes, available_bytes=_bytes),
    state=fields.an_object(),
)
_STATE: Dict[str, fields.Check] = {
    "others_share": fields.null_or(fields.between(0, 1)),
    "load": fields.null_or(fields.a_list(fields.number)),
}
_MORE: Dict[str, fields.Check] = {
    "cores": fields.null_or(fields.whole(1, 1 << 20)),
    "backends": fields.a_list(fields.an_object()),
    "links": fields.a_list(fields.an_object(name=fields.word, mbps=fields.null_or(fields.between(0, 1e9)))),
}


def link(device: Optional[Mapping[str, Any]]) -> float:
    """The bandwidth of a device's fastest network link, bits a second: the most that a transfer can have.

    Raises:
        UsageError: No device, or it tells no link's speed.
    """
    told = [float(one["mbps"]) for one in (device or {}).get("links", ()) if one["mbps"]]
    if not told:
        raise UsageError("--bandwidth link: no link's speed is known", "--device DEVICE.json, or --bandwidth 10Mbps")
    return 1e6 * max(told)


def check_device(device: Mapping[str, Any], runs: Runs) -> None:
    """Refuse times that are known to be of another device.

    Raises:
        IncompatibleError: They were taken on another model.
    """
    for name, run in runs:
        about = run["environment"]
        measured = about.get("board") or about.get("cpu")
        if measured and device["model"] and measured != device["model"]:
            raise IncompatibleError(
                f"{name} was measured on {measured}, the device is {device['model']}", "measure on the device itself"
            )


def refused(one: Candidate, environment: Mapping[str, Any], asked: Asked, device: Optional[Mapping[str, Any]]) -> str:
    """Why a candidate cannot run on the device, or cannot be judged; empty where it can."""
    if one.top1 is None:
        return "accuracy unmeasured (optimize bench ... --data cifar10 measures it)"
    if one.mean.query_s is None:
        return "its time is not known"
    if min([one.mean.query_s, *(cost.query_s or 0.0 for cost in one.costs.values())]) <= 0:
        return "its time is not above 0"
    limit, whose = _memory(asked, device)
    needs = one.memory_bytes if one.memory_bytes is not None else one.size_bytes
    if limit is not None and needs is not None and needs > limit:
        what = "took" if one.memory_bytes is not None else "its file alone has"
        return f"does not fit: {what} {_mib(needs)}, {whose} {_mib(limit)}"
    load = _load(device)
    if asked.max_load is not None and load is not None and load > asked.max_load:
        return f"the device is busy: others take {load:.0%} of its processor, {asked.max_load:.0%} are allowed"
    return _other_backend(one, environment, device) if device else ""


def _memory(asked: Asked, device: Optional[Mapping[str, Any]]) -> Tuple[Optional[int], str]:
    """The lower of the limit asked for and what the device has free."""
    free = device["memory"]["available_bytes"] if device else None
    if asked.memory_bytes is not None and (free is None or asked.memory_bytes <= free):
        return asked.memory_bytes, "the limit is"
    return free, "the device has free"


def _load(device: Optional[Mapping[str, Any]]) -> Optional[float]:
    """The share of the processor that other programs take; where it was not sampled, the load of a minute by cores."""
    if device is None:
        return None
    state = device["state"]
    share, load, cores = state.get("others_share"), state.get("load"), device.get("cores")
    return float(share) if share is not None else min(1.0, load[0] / cores) if load and cores else None


def _other_backend(one: Candidate, environment: Mapping[str, Any], device: Mapping[str, Any]) -> str:
    """Why an engine that ran where it was measured will not run on the device: `engines.device.mismatch`."""
    keys = {key["backend"]: DeviceKey.from_json(key) for key in device.get("backends") or ()}
    name = one.row["backend"].split(" ")[0]
    if one.row["role"] != "engine" or not keys:
        return ""
    if name not in keys:
        return f"the device has no {name}"
    ran = ran_on(name, environment)
    return mismatch(ran, keys[name]) if ran else ""


def ran_on(backend: str, environment: Mapping[str, Any]) -> Optional[DeviceKey]:
    """What an engine was tied to where it was measured; None where the run does not tell."""
    version = (environment.get("packages") or {}).get(backend)
    if not version or not environment.get("os") or not environment.get("arch"):
        return None
    told = environment.get("gpu") if backend == "tensorrt" else None
    gpu = _NO_GPU._replace(**{name: told[name] for name in Gpu._fields if name in told}) if told else _NO_GPU
    return DeviceKey(
        backend=backend,
        version=str(version),
        os=str(environment["os"]),
        arch=str(environment["arch"]),
        features=() if backend == "tensorrt" else tuple(environment.get("features") or ()),
        compute_capability=gpu.compute_capability,
        l4t=str(environment.get("l4t", "")) if backend == "tensorrt" else "",
        gpu=gpu.model if told else "",
    )


_NO_GPU = Gpu("", "", False, "")


def unknown(found: Sequence[Candidate], runs: Runs, asked: Asked, device: Optional[Mapping[str, Any]]) -> List[str]:
    """What of the limits could not be checked, in words."""
    told = []
    limited = _memory(asked, device)[0] is not None
    lacking = [one.name for one in found if one.memory_bytes is None]
    if limited and lacking:
        words = "all" if len(lacking) == len(found) else ", ".join(lacking)
        told.append(f"memory that it takes (its size was held against the limit): {words}")
    load = _load(device)
    if asked.max_load is not None and load is None:
        told.append("background load of the device (--device DEVICE.json)")
    quiet = [
        share for _, run in runs for share in ((run["environment"].get("before") or {}).get("others_share"),) if share
    ]
    if load is not None and load > max(quiet, default=0.0) + MORE_LOAD:
        told.append(f"times under the device's background load: others take {load:.0%} of its processor")
    return told


def _mib(count: int) -> str:
    return f"{count / 2**20:.0f} MiB"
