"""Who is compared, with which settings, and how much of it is measured."""

from __future__ import annotations

from typing import Any, Dict, NamedTuple, Optional, Sequence, Tuple

_WEIGHTED = ["Conv", "Gemm", "MatMul"]

_FORMS: Tuple[Dict[str, Any], ...] = (
    {"operators": _WEIGHTED, "activation": "QUInt8"},
    {"operators": [*_WEIGHTED, "Add"], "activation": "QInt8"},
    {"operators": None, "activation": "QUInt8"},
)
"""Settings of ONNX Runtime's quantiser that are tried with every method: which operators (None: all that it knows), and
the type of activations; int8 is symmetric. Always per channel, Q/DQ, pre-processed."""


class Contender(NamedTuple):
    """A quantiser as it is meant to be used.

    Attributes:
        name: For people; unique.
        tool: One of `bench.peers.quantise.TOOLS`.
        tried: Settings, of which those that agree most with FP32 on hold-out images are kept.
        environment: One of `environments.TABLE`; empty for this interpreter.
    """

    name: str
    tool: str
    tried: Tuple[Dict[str, Any], ...]
    environment: str = ""


def _ort(method: str, more: Sequence[Dict[str, Any]] = ({},)) -> Contender:
    tried = tuple({"method": method, **form, **extra} for extra in more for form in _FORMS)
    return Contender(f"ONNX Runtime, {method.lower()}", "onnxruntime", tried)


OURS = "ours, OpenVINO placement"
TENSORRT = "ours, TensorRT placement"

CONTENDERS: Tuple[Contender, ...] = (
    Contender(OURS, "ours", ({"target": "openvino"},)),
    Contender(TENSORRT, "ours", ({"target": "tensorrt"},)),
    _ort("MinMax"),
    _ort("Entropy"),
    _ort("Percentile", ({"percentile": 99.999}, {"percentile": 99.9})),
    Contender("NNCF, performance", "nncf", ({"preset": "PERFORMANCE"},), "nncf"),
    Contender("NNCF, mixed", "nncf", ({"preset": "MIXED"},), "nncf"),
    Contender("ModelOpt, entropy", "modelopt", ({"method": "entropy"},), "modelopt"),
    Contender("ModelOpt, max", "modelopt", ({"method": "max"},), "modelopt"),
)

TOOLS = ("ours", "onnxruntime", "nncf", "modelopt")


class Settings(NamedTuple):
    """How much is measured.

    Attributes:
        samples: Calibration images.
        repeats: Runs of each quantiser, in turns; `stats.VERDICT_ROUNDS` of them give intervals.
        rounds, seconds: Fresh processes of each latency, and how long each measures a batch.
        again: Rounds of the fastest of the others against ours (`bench.peers.latency`).
        batches: Of the latencies.
        images: Test images at most; None for all.
        limit: Seconds after which a run of a tool is given up.
        search: Try all settings of a tool, else only the first.
        seed: Of the choice of images and of what is drawn.
    """

    samples: int = 512
    repeats: int = 5
    rounds: int = 7
    seconds: float = 1.0
    again: int = 31
    batches: Tuple[int, ...] = (1, 64)
    images: Optional[int] = None
    limit: int = 900
    search: bool = True
    seed: int = 0


QUICK = Settings(samples=128, repeats=1, rounds=1, seconds=0.2, again=1, images=500, limit=200, search=False)
