"""Cast an FP32 ONNX graph to a mixed 16-bit graph, for a TensorRT that takes precision from the graph alone.

Strongly typed TensorRT (11; 10 where asked for) computes every operator in the type of its inputs. So the types are
written into the graph: weights as 16-bit initializers, Casts where a node that stays in float32 meets one that does
not. What stays is decided in `calib.fp16_rules`. Inputs and outputs keep their type, tensors and nodes their names.

Q/DQ pairs. TensorRT demands that the input of a QuantizeLinear has the type of its scale, which is a constant. It fuses
DequantizeLinear and Conv where nothing stands between them. So:

- From opset 19 the scales become 16-bit, as do all tensors around: no Cast is left anywhere near a pair. Scales are
  rounded before the weights are quantised with them, so that both sides of a pair agree to the bit. A layer that stays
  in float32 gets a DequantizeLinear of its own with the same scale in float32, instead of a Cast behind the shared one.
- At opset 13 to 18, with ONNX 1.14, and where a scale would lose its digits, the pair stays in float32. Then the
  layer that reads it stays in float32 as well, with the element-wise operators that are fused to it, up to the next
  QuantizeLinear. The kernel is the same: INT8 in, an INT32 sum scaled in float, INT8 out where a Q follows. Casts stand
  where the quantised region ends.

Weights become int8 constants with a DequantizeLinear, which the strongly typed versions take; biases stay float.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional, Sequence, Set, Union

import numpy as np
import numpy.typing as npt

from calib import fp16_prepare as prepare
from calib import fp16_rules as rules
from calib import graph as graphs
from calib.fp16_rules import FLOAT, FORMATS, Format, Plan
from calib.quantize import captured
from engines import jsonfile
from engines.errors import DataError, ModelError, UsageError
from engines.spec import Progress, quiet

_EXTREMES = ("ReduceMax", "ReduceMin", "ReduceL1")
"""What is computed of each tensor; the sum is there for NaN, which ONNX Runtime's maximum passes over."""


def cast(
    onnx: Union[str, Path],
    out: Union[str, Path],
    float_type: str = "float16",
    keep: Sequence[str] = (),
    ranges: Optional[Mapping[str, float]] = None,
) -> Dict[str, Any]:
    """Write the mixed 16-bit form of an FP32 graph, with or without Q/DQ pairs.

    Args:
        onnx: FP32 graph.
        out: Where the new graph is written, atomically.
        float_type: `float16`, or `bfloat16` where the opset has it for the graph's layers (22 for Conv).
        keep: Names of nodes that stay in float32.
        ranges: Largest |x| per tensor, from `ranges_for`; what would overflow, or vanish, stays in float32.

    Returns:
        `cast` (nodes that compute in 16 bits), `kept` (`[{"node", "op", "why"}]`, without Q/DQ nodes), `casts`
        (Casts added), `float_type`, `opset`, `weights` (16-bit initializers), `int8_weights`, `saturated`
        (`[{"tensor", "values", "largest"}]`, bounds beyond the format's range, now its largest value), `denormal`
        and `flushed` (values below the smallest normal one, and those of them that became zero).

    Raises:
        ModelError: Not an ONNX graph, one that breaks ONNX's own rules, or the opset lacks the type for its layers.
        UsageError: An unknown type, or `keep` names a node that the graph lacks.
    """
    if float_type not in FORMATS:
        raise UsageError(f"unknown float type {float_type!r}; known: {', '.join(FORMATS)}")
    form = FORMATS[float_type]
    model = prepare.read(onnx)
    opset = graphs.opset(model)
    typed = prepare.inferred(model, str(onnx), strict=False)
    if rules.pairs_follow(opset):
        prepare.round_scales(model, form)
    folded = prepare.fold_weights(model)
    prepare.drop_casts(model, rules.element_types(typed))
    types = rules.element_types(typed)
    types.update({item.name: int(item.data_type) for item in model.graph.initializer})
    plan = rules.plan(model, opset, types, form, keep, ranges)
    lacking = [i for i, why in plan.kept.items() if why.startswith(f"opset {opset} has no") and _computes(model, i)]
    if lacking:
        raise ModelError(f"{onnx}: {plan.kept[lacking[0]]}", "use float16, or a later opset")
    writer = _Writer(model, types, plan, form, opset)
    writer.write()
    result = prepare.inferred(model, str(onnx), strict=True)
    with jsonfile.replacing_file(out) as part:
        part.write_bytes(result.SerializeToString())
    return {**writer.record, "int8_weights": folded, "float_type": float_type, "opset": opset}


def ranges_for(
    onnx: Union[str, Path],
    batches: Iterable[Mapping[str, npt.NDArray[Any]]],
    progress: Progress = quiet,
    total: int = 0,
    broken: bool = False,
) -> Dict[str, float]:
    """The largest |x| of every float32 tensor of a graph, in one pass.

    The maxima are computed inside the graph, so that memory is what one plain run of the batch needs.

    Args:
        onnx: FP32 graph, without Q/DQ pairs.
        batches: Feeds by input name, batch first; where the graph has a fixed batch, a shorter one is padded.
        progress: Told the images done.
        total: Images to come, for `progress`; 0 where not known.
        broken: The graph is known to be broken, and the question is where: NaN is returned like a number.

    Returns:
        Largest |x| by tensor name, for inputs and results of nodes in their order; infinity where one was seen.

    Raises:
        DataError: No batch came, or a tensor got NaN (named), unless `broken`.
        ModelError: ONNX Runtime cannot run the graph.
    """
    from onnx import TensorProto, helper

    from calib import ranges

    model = prepare.read(onnx)
    types = rules.element_types(prepare.inferred(model, str(onnx), strict=False))
    constants = {item.name for item in model.graph.initializer}
    made = [*(item.name for item in model.graph.input), *(name for node in model.graph.node for name in node.output)]
    names = [name for name in made if types.get(name) == FLOAT and name not in constants]
    del model.graph.output[:]
    for index, name in enumerate(names):
        for op in _EXTREMES:
            result = f"{op}/{index}"
            model.graph.node.append(helper.make_node(op, [name], [result], keepdims=0))
            model.graph.output.append(helper.make_tensor_value_info(result, TensorProto.FLOAT, []))
    runner = ranges.session(model.SerializeToString())
    fixed = ranges.fixed_batch(runner)
    peaks = np.zeros(len(names))
    done = 0
    for feeds in batches:
        results = np.array(runner.run(None, ranges.pad(feeds, fixed)), np.float64)
        high, low, sums = results.reshape(-1, len(_EXTREMES)).T
        if np.isnan(sums).any() and not broken:
            raise DataError(
                f"tensor {names[int(np.isnan(sums).argmax())]!r} holds NaN on the calibration images",
                "check --preprocess, and the model in FP32 first",
            )
        largest = np.where(high < low, 0.0, np.maximum(high, -low))  # without values, high is -inf
        peaks = np.maximum(peaks, np.where(np.isnan(sums), np.nan, largest))
        done += len(next(iter(feeds.values())))
        progress("ranges", done, total)
    if done == 0:
        raise DataError("no calibration image: the ranges are unknown", "give images with --data")
    return {name: float(peak) for name, peak in zip(names, peaks)}


def _computes(model: Any, index: int) -> bool:
    return model.graph.node[index].op_type in graphs.COMPUTE


@dataclass
class _Writer:
    """Writes the types of a plan into a model, in place.

    Attributes:
        record: What was done, as `cast` returns it.
    """

    model: Any
    types: Mapping[str, int]
    plan: Plan
    form: Format
    opset: int
    record: Dict[str, Any] = field(default_factory=dict)
    _nodes: List[Any] = field(default_factory=list)
    _low: Dict[str, str] = field(default_factory=dict)
    _high: Dict[str, str] = field(default_factory=dict)
    _constants: List[Any] = field(default_factory=list)
    _made: Set[str] = field(default_factory=set)
    _casts: int = 0

    def write(self) -> None:
        from onnx import TensorProto

        self.to = int(getattr(TensorProto, self.form.name.upper()))
        self.graph = graphs.Graph(self.model)
        self.record = {"saturated": [], "denormal": 0, "flushed": 0}
        self._original = set(self.graph.outputs) | captured(self.model)  # read in float32 under their own names
        self._taken = self.graph.constants.keys() | self.graph.producer.keys() | set(self.graph.inputs)
        self._taken |= {node.name for node in self.graph.nodes}
        self._wide = self._original | {
            name
            for index, node in enumerate(self.graph.nodes)
            for slot, name in enumerate(node.input)
            if not self._reads_low(index, slot) or (slot == 1 and node.op_type in rules.QDQ)
        }
        self._high = {name: name for name in self.graph.inputs}
        for index in range(len(self.graph.nodes)):
            self._node(index)
        self._finish()

    def _reads_low(self, index: int, slot: int) -> bool:
        return index in self.plan.low and slot in self.plan.low[index].inputs

    def _node(self, index: int) -> None:
        """Append a node with its inputs in the types it reads, and its outputs under the names that others read."""
        original = self.graph.nodes[index]
        node = type(original).FromString(original.SerializeToString())
        for slot, name in enumerate(original.input):
            if self.types.get(name) != FLOAT:
                continue
            if original.op_type in (*rules.SHAPES, "Cast"):  # either type will do
                node.input[slot] = self._high.get(name) or self._low.get(name) or name
                if node.input[slot] not in self._high and graphs.attribute(node, "to", 0) == self.to:
                    node.op_type = "Identity"
                    del node.attribute[:]
            else:
                node.input[slot] = self._as(name, self._reads_low(index, slot))
        if index in self.plan.low and original.op_type == "ConstantOfShape":
            self._fill(node)
        self._nodes.append(node)
        for slot, name in enumerate(original.output):
            if self.types.get(name) != FLOAT:
                continue
            if index not in self.plan.low or slot not in self.plan.low[index].outputs:
                self._high[name] = name
            elif name in self._original:
                node.output[slot] = self._low[name] = self._name(name, self.form.name)
                self._as(name, False)
            else:
                self._low[name] = name

    def _as(self, name: str, low: bool) -> str:
        """A float tensor in the type wanted, by one Cast for all who read it so."""
        if name in self.graph.constants:
            return self._constant(name) if low else name
        known = self._low if low else self._high
        if name not in known:
            known[name] = self._converted(name, low)
        return known[name]

    def _converted(self, name: str, low: bool) -> str:
        from onnx import helper

        suffix = self.form.name if low else "float32"
        fresh = self._name(name, suffix)
        out = name if not low and name in self._original else fresh
        maker = self.graph.maker(name)
        if maker is not None and maker.op_type == "DequantizeLinear" and rules.pairs_follow(self.opset):
            scale = self._constant(maker.input[1]) if low else maker.input[1]
            again = type(maker).FromString(maker.SerializeToString())
            again.name, again.input[1], again.output[0] = fresh, scale, out
            self._nodes.append(again)
            return out
        source = (self._high if low else self._low)[name]
        if maker is not None and maker.op_type == "Cast" and self.types.get(maker.input[0]) != FLOAT:
            source = maker.input[0]  # from integers to both floats, not through one of them
        self._nodes.append(helper.make_node("Cast", [source], [out], name=fresh, to=self.to if low else FLOAT))
        self._casts += 1
        return out

    def _name(self, stem: str, suffix: str) -> str:
        """A name that nothing in the graph has."""
        name, count = f"{stem}_{suffix}", 1
        while name in self._taken or name in self._made:
            name, count = f"{stem}_{suffix}_{count}", count + 1
        self._made.add(name)
        return name

    def _constant(self, name: str) -> str:
        """The 16-bit form of an initializer; under its own name where nothing reads it in float32."""
        if name not in self._low:
            self._low[name] = self._name(name, self.form.name) if name in self._wide else name
            value = self.graph.array(name)
            assert value is not None
            self._constants.append(self._tensor(name, value, self._low[name]))
        return self._low[name]

    def _fill(self, node: Any) -> None:
        """ConstantOfShape takes its type from its value."""
        from onnx import helper, numpy_helper

        given = next((item.t for item in node.attribute if item.name == "value"), None)
        value = np.zeros(1, np.float32) if given is None else numpy_helper.to_array(given)
        del node.attribute[:]
        node.attribute.append(helper.make_attribute("value", self._tensor(rules.label(node), value, "value")))

    def _tensor(self, source: str, value: npt.NDArray[Any], name: str) -> Any:
        """A 16-bit TensorProto of float32 values, with what was lost recorded."""
        from onnx import helper

        sizes = np.abs(value)
        beyond = np.isfinite(value) & (sizes > self.form.largest)
        if beyond.any():
            worst = float(sizes[beyond].max())
            self.record["saturated"].append({"tensor": source, "values": int(beyond.sum()), "largest": worst})
        grid = rules.rounded(value, self.form)
        self.record["denormal"] += int(((value != 0) & (sizes < self.form.normal)).sum())
        self.record["flushed"] += int(((value != 0) & (grid == 0)).sum())
        if self.form.name == "float16":
            raw = grid.astype("<f2").tobytes()
        else:
            raw = (np.ascontiguousarray(grid).view(np.uint32) >> np.uint32(16)).astype("<u2").tobytes()
        return helper.make_tensor(name, self.to, value.shape, raw, raw=True)

    def _finish(self) -> None:
        """Put the nodes and initializers in place, without what nothing reads any more."""
        nodes = self._nodes
        while True:
            read = {name for node in nodes for name in node.input} | self._original
            live = [node for node in nodes if node.op_type != "Cast" or node.output[0] in read]
            if len(live) == len(nodes):
                break
            nodes = live
        del self.model.graph.node[:]
        self.model.graph.node.extend(nodes)
        fresh = {item.name for item in self._constants}
        kept = [item for item in self.model.graph.initializer if item.name in read and item.name not in fresh]
        prepare.replace(self.model.graph.initializer, [*kept, *self._constants])
        kept_nodes = [(self.graph.nodes[i], why) for i, why in sorted(self.plan.kept.items())]
        self.record.update(
            cast=len(self.plan.low),
            kept=[
                {"node": rules.label(node), "op": node.op_type, "why": why}
                for node, why in kept_nodes
                if node.op_type not in rules.QDQ
            ],
            casts=self._casts,
            weights=len(self._constants),
        )
