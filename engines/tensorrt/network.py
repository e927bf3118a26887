"""An ONNX file as a TensorRT network, and the graph's faults in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Sequence, Tuple

from engines.errors import BuildError, IncompatibleError, UsageError
from engines.tensorrt import compat


def parse(trt: Any, log: Any, builder: Any, onnx: Path, model: Any, strongly_typed: bool) -> Tuple[Any, Any]:
    """Parse an ONNX file.

    Args:
        trt: The module.
        log: Of `compat.logger`.
        builder: That will build it.
        onnx: The file, so that external data is found beside it.
        model: The same, loaded, to name the node of an error.
        strongly_typed: Take every type from the graph.

    Returns:
        The network, and the parser, which must live as long.

    Raises:
        BuildError: TensorRT does not take the graph; names node, operator and reason.
    """
    network = builder.create_network(compat.network_flags(trt, strongly_typed))
    if network is None:
        raise BuildError(f"TensorRT makes no network ({log.errors()})")
    parser = trt.OnnxParser(network, log)
    if not parser.parse_from_file(str(onnx)):
        reasons = [_reason(parser.get_error(index), model) for index in range(parser.num_errors)]
        text = "; ".join(dict.fromkeys(reasons)) or log.errors()
        raise BuildError(
            f"{onnx}: TensorRT {trt.__version__} does not take this graph: {text}",
            "replace the layer, export with another --opset, or choose another --backend",
        )
    return network, parser


def _reason(error: Any, model: Any) -> str:
    """Operator, node and reason; 8.x tells only the node's number."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    index = int(error.node())
    if not operator and 0 <= index < len(model.graph.node):
        node = model.graph.node[index]
        name, operator = node.name or next(iter(node.output), ""), node.op_type
    where = f"{operator} in node {name}: " if operator else ""
    return where + " ".join(str(error.desc()).split())


def free_inputs(network: Any) -> List[Tuple[str, Tuple[int, ...]]]:
    """Inputs whose shape is not fixed, with -1 for what is free."""
    found = []
    for index in range(network.num_inputs):
        tensor = network.get_input(index)
        shape = tuple(int(size) for size in tensor.shape)
        if any(size < 0 for size in shape):
            found.append((str(tensor.name), shape))
    return found


def add_profiles(builder: Any, network: Any, config: Any, batches: Sequence[int]) -> List[Any]:
    """One optimisation profile for each batch, with min, opt and max alike, so that each gets tactics of its own.

    Raises:
        UsageError: Another size than the batch is free.
        BuildError: TensorRT refuses a profile.
    """
    free = free_inputs(network)
    profiles = []
    for batch in batches if free else ():
        profile = builder.create_optimization_profile()
        for name, shape in free:
            if any(size < 0 for size in shape[1:]):
                raise UsageError(
                    f"the input {name} has free sizes beside the batch", "--input-shape, such as 224x224x3"
                )
            fixed = (batch, *shape[1:])
            profile.set_shape(name, fixed, fixed, fixed)
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"TensorRT refuses the optimisation profile of batch {batch}")
        profiles.append(profile)
    return profiles


def calibration_profile(builder: Any, network: Any, config: Any, batch: int) -> Any:
    """Tell the calibrator's batch where the shape is free; it may differ from those that the engine serves.

    Raises:
        BuildError: TensorRT refuses it.
    """
    free = free_inputs(network)
    if not free:
        return None
    profile = builder.create_optimization_profile()
    for name, shape in free:
        fixed = (batch, *shape[1:])
        profile.set_shape(name, fixed, fixed, fixed)
    if not config.set_calibration_profile(profile):
        raise BuildError(f"TensorRT refuses the calibration profile of batch {batch}")
    return profile


def keep_fp32(trt: Any, network: Any, config: Any, names: Sequence[str]) -> None:
    """Leave layers in FP32, on versions where that is a layer's property.

    Raises:
        UsageError: No layer has one of the names.
    """
    wanted = set(names)
    for index in range(network.num_layers if names else 0):
        layer = network.get_layer(index)
        if layer.name in wanted:
            wanted.discard(layer.name)
            layer.precision = trt.float32
            for output in range(layer.num_outputs):
                layer.set_output_type(output, trt.float32)
    if wanted:
        raise UsageError(
            f"--keep-fp32 {', '.join(sorted(wanted))}: the graph has no such node", "optimize inspect F.onnx"
        )
    if names:
        obey = compat.flag(trt, "OBEY_PRECISION_CONSTRAINTS")
        config.set_flag(obey if obey is not None else trt.BuilderFlag.STRICT_TYPES)


def use_dla(trt: Any, builder: Any, config: Any, core: int, fallback: bool) -> None:
    """Put the network on a deep-learning accelerator.

    Raises:
        IncompatibleError: This board has no such core.
    """
    cores = int(builder.num_DLA_cores)
    if core >= cores:
        has = f"{cores} accelerators, counted from 0" if cores else "no deep-learning accelerator (DLA)"
        raise IncompatibleError(f"--dla {core}: this device has {has}", "leave --dla out")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
