"""An ONNX file as a TensorRT network, and the graph's faults in words."""

from __future__ import annotations

from pathlib import Path
from typing import Any, List, Optional, Sequence, Tuple

from engines.errors import BuildError, IncompatibleError, UsageError
from engines.spec import TensorSpec
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
    try:
        parser = trt.OnnxParser(network, log)
    except TypeError:  # what the bindings make of a null pointer
        raise BuildError(f"TensorRT makes no ONNX parser ({log.errors()})", "optimize doctor") from None
    if not parser.parse_from_file(str(onnx)):
        reasons = [_reason(parser.get_error(index), model) for index in range(parser.num_errors)]
        text = "; ".join(dict.fromkeys(reasons)) or log.errors()
        raise BuildError(
            f"{onnx}: TensorRT {trt.__version__} does not take this graph: {text}",
            "replace the layer, export with another --opset, or choose another --backend",
        )
    return network, parser


def _reason(error: Any, model: Any) -> str:
    """Operator, node and reason; 8.x tells only the node's number, and none names a node that has no name."""
    name = error.node_name() if hasattr(error, "node_name") else ""
    operator = error.node_operator() if hasattr(error, "node_operator") else ""
    index = int(error.node())
    if not (name and operator) and 0 <= index < len(model.graph.node):
        node = model.graph.node[index]
        name, operator = node.name or next(iter(node.output), ""), operator or node.op_type
    where = f"{operator} in node {name}: " if operator else ""
    return where + " ".join(str(error.desc()).split())


def inputs(trt: Any, network: Any) -> List[TensorSpec]:
    """The network's inputs."""
    found = [network.get_input(index) for index in range(network.num_inputs)]
    return [
        TensorSpec(
            str(tensor.name),
            tuple(None if size < 0 else int(size) for size in tensor.shape),
            compat.dtype_name(trt, tensor.dtype),
        )
        for tensor in found
    ]


def fixed_batch(tensors: Sequence[TensorSpec]) -> Optional[int]:
    """The batch that the graph fixes, or None where it is free."""
    return next((tensor.shape[0] for tensor in tensors if tensor.shape), None)


def profile_of(builder: Any, tensors: Sequence[TensorSpec], batch: int) -> Any:
    """An optimisation profile with min, opt and max alike, or None where no size is free.

    Raises:
        UsageError: Another size than the batch is free.
    """
    free = [tensor for tensor in tensors if None in tensor.shape]
    profile: Any = builder.create_optimization_profile() if free else None
    for tensor in free:
        if None in tensor.shape[1:]:
            raise UsageError(
                f"the input {tensor.name} has free sizes beside the batch", "--input-shape, such as 224x224x3"
            )
        fixed = (batch, *tensor.shape[1:])
        profile.set_shape(tensor.name, fixed, fixed, fixed)
    return profile


def add_profiles(builder: Any, tensors: Sequence[TensorSpec], config: Any, batches: Sequence[int]) -> List[Any]:
    """One optimisation profile for each batch, so that each gets tactics of its own; none where no size is free.

    Raises:
        UsageError: Another size than the batch is free.
        BuildError: TensorRT refuses a profile.
    """
    profiles = []
    for batch in batches:
        profile = profile_of(builder, tensors, batch)
        if profile is None:
            break
        if config.add_optimization_profile(profile) < 0:
            raise BuildError(f"TensorRT refuses the optimisation profile of batch {batch}")
        profiles.append(profile)
    return profiles


def calibration_profile(builder: Any, tensors: Sequence[TensorSpec], config: Any, batch: int) -> Any:
    """Tell the calibrator's batch where it is free; it may differ from those that the engine serves.

    Raises:
        BuildError: TensorRT refuses it.
    """
    profile = profile_of(builder, tensors, batch)
    if profile is not None and not config.set_calibration_profile(profile):
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


def use_dla(trt: Any, builder: Any, config: Any, core: int, fallback: bool, precision: str) -> None:
    """Put the network on a deep-learning accelerator.

    Raises:
        IncompatibleError: This board has no such core.
        UsageError: fp32, in which none computes.
    """
    cores = int(builder.num_DLA_cores)
    if not 0 <= core < cores:
        has = f"{cores} accelerators, counted from 0" if cores else "no deep-learning accelerator (DLA)"
        raise IncompatibleError(f"--dla {core}: this device has {has}", "leave --dla out")
    if precision == "fp32":
        raise UsageError(f"--dla {core}: an accelerator computes in FP16 or INT8, not in FP32", "--precision fp16")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    if fallback:
        config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
