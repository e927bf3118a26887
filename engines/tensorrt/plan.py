"""A plan that was deserialised: its tensors, the profile of each batch, and an execution context for each."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from engines.cuda import Stream
from engines.errors import IncompatibleError, OptimizeError, UsageError
from engines.spec import TensorSpec
from engines.tensorrt import compat


class Plan:
    """One engine in memory.

    Args:
        trt: The module.
        log: Keeps what TensorRT says.
        path: The plan.
        dla: Core of the deep-learning accelerator that runs it. A plan does not hold the number, as trtexec, too, tells
            it when it loads one.

    Attributes:
        inputs, outputs: The batch is None where profiles differ in it.
        batches: Batch -> number of the profile that serves it.
        bound: Batch -> whose addresses its execution context has.
        busy: Batch -> the stream where work of its execution context may be under way that nobody has waited for.
    """

    def __init__(self, trt: Any, log: Any, path: Path, dla: Optional[int] = None) -> None:
        content = Path(path).read_bytes()
        self._trt, self._log, self.path = trt, log, path
        self._runtime = trt.Runtime(log)
        if dla is not None:
            self._runtime.DLA_core = dla
        self.engine: Any = self._runtime.deserialize_cuda_engine(content)
        if self.engine is None:
            raise IncompatibleError(
                f"{path}: TensorRT {trt.__version__} refuses this plan ({log.errors()})", "build the bundle again"
            )
        self.inputs, self.outputs = self._tensors("INPUT"), self._tensors("OUTPUT")
        self.batches = self._profiles()
        self._contexts: Dict[int, Any] = {}
        self.bound: Dict[int, Any] = {}
        self.busy: Dict[int, Stream] = {}

    def _tensors(self, mode: str) -> Tuple[TensorSpec, ...]:
        engine, wanted = self.engine, getattr(self._trt.TensorIOMode, mode)
        names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
        return tuple(
            TensorSpec(
                name,
                tuple(None if size < 0 else int(size) for size in engine.get_tensor_shape(name)),
                compat.dtype_name(self._trt, engine.get_tensor_dtype(name)),
            )
            for name in names
            if engine.get_tensor_mode(name) == wanted
        )

    def _profiles(self) -> Dict[int, int]:
        """Each batch with its profile: the size of the first input's first axis, which min, opt and max share."""
        first = self.inputs[0]
        if first.shape and first.shape[0] is not None:
            return {first.shape[0]: 0}
        found = {}
        for index in range(self.engine.num_optimization_profiles):
            _, opt, _ = self.engine.get_tensor_profile_shape(first.name, index)
            found[int(next(iter(opt)))] = index
        return found

    def context(self, batch: int, stream: Stream) -> Any:
        """The execution context of a batch, its profile and input shapes set; made when it is first asked for.

        Raises:
            UsageError: No profile serves this batch.
            OptimizeError: TensorRT makes none, most often for want of memory.
        """
        if batch not in self.batches:
            known = ", ".join(map(str, sorted(self.batches)))
            raise UsageError(f"{self.path.name} serves batch {known}, not {batch}", f"optimize build … --batch {batch}")
        if batch in self._contexts:
            return self._contexts[batch]
        context = self.engine.create_execution_context()
        if context is None:
            raise OptimizeError(
                f"{self.path}: no execution context ({self._log.errors()})",
                "close other programs, or a smaller --batch",
            )
        try:
            self._require(
                context.set_optimization_profile_async(self.batches[batch], stream.handle), "choose the profile"
            )
            stream.synchronize()
            for tensor in self.inputs:
                if None in tensor.shape:
                    shape = (batch, *tensor.shape[1:])
                    self._require(context.set_input_shape(tensor.name, shape), f"take {tensor.name} as {shape}")
        except BaseException:
            del context  # or the traceback would keep it beyond the GPU's context
            raise
        self._contexts[batch] = context
        return context

    def _require(self, done: Any, what: str) -> None:
        if not done:
            raise OptimizeError(f"{self.path}: TensorRT does not {what} ({self._log.errors()})")

    def shape(self, context: Any, tensor: TensorSpec) -> Tuple[int, ...]:
        """The shape of an output for the inputs that are set.

        Raises:
            OptimizeError: It depends on what is computed.
        """
        shape = tuple(int(size) for size in context.get_tensor_shape(tensor.name))
        if any(size < 0 for size in shape):
            raise OptimizeError(f"{self.path}: the size of the output {tensor.name} depends on the data")
        return shape

    def bind(self, context: Any, addresses: Dict[str, int]) -> None:
        """Tell a context where its inputs and outputs lie."""
        for name, address in addresses.items():
            self._require(context.set_tensor_address(name, int(address)), f"take an address for {name}")

    def said(self) -> str:
        """What TensorRT logged of late."""
        return str(self._log.errors())

    def close(self) -> None:
        """Free contexts, the engine and the runtime, in this order."""
        self._contexts.clear()
        self.bound.clear()
        self.busy.clear()
        self.engine = None
        self._runtime = None


def open_plans(trt: Any, log: Any, paths: List[Path], dla: Optional[int] = None) -> List[Plan]:
    """Deserialise plans; where one is refused, those before it are freed.

    Raises:
        IncompatibleError: TensorRT refuses one.
    """
    plans: List[Plan] = []
    try:
        for path in paths:
            plans.append(Plan(trt, log, path, dla))
    except BaseException:
        for plan in plans:
            plan.close()
        raise
    return plans
