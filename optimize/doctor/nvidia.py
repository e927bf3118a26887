"""The NVIDIA part of `optimize doctor`: each thing that TensorRT needs here, and the command that mends it.

Commands are only said, never run: many of them need root.
"""

from __future__ import annotations

from typing import Any, List, Mapping, Optional

from engines.driver import Gpu
from optimize.doctor import machine, software
from optimize.doctor.interpreter import Interpreter
from optimize.doctor.row import Row

NEEDED = ("driver", "bindings", "pycuda")
"""Lines without which no TensorRT engine is built or run."""


def rows(
    found: Mapping[str, Any], python: Interpreter, gpu: Optional[Gpu], no_gpu: str = "", container: bool = False
) -> List[Row]:
    """What there is to say of an NVIDIA machine.

    Args:
        found: `engines.board.facts`.
        python: The interpreter that runs this.
        gpu, no_gpu: Of `engines.driver.ask`: the GPU, or why there is none.
        container: This runs in a container.
    """
    jetson = found["jetson"]
    out = machine.board(found, container)
    if found["jetpack"].split(".")[0] == "4":
        old = (software.libnvinfer, machine.memory, machine.power, machine.clocks, software.too_old)
        return [*out, *(row(found) for row in old)]
    out.append(machine.driver(gpu, no_gpu, jetson, container))
    out += [software.libnvinfer(found)] if jetson or found["tensorrt"] else []
    out.append(software.bindings(found, python))
    out += software.cuda(found, python)
    out.append(software.pycuda(found, python))
    out += software.tensorflow(found, python)
    out.append(machine.memory(found, bool(gpu and gpu.integrated)))
    out += [machine.power(found)] if jetson else []
    return [*out, machine.clocks(found)]
