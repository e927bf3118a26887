"""RunnerSpec: how to load and run a model, as plain JSON; the Runner protocol; the words for precision."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, NamedTuple, Optional, Tuple

from engines.errors import DamagedError, UsageError

if TYPE_CHECKING:
    import numpy as np

Array = Any
"""A NumPy array; `numpy` itself is imported only where arrays are made."""

Feeds = Mapping[str, "np.ndarray[Any, Any]"]
Query = Callable[[], Dict[str, "np.ndarray[Any, Any]"]]
"""One query, bound to its host input arrays: run it and get the host output arrays by name."""

Progress = Callable[[str, int, int], None]
"""`progress(what, done, total)`: total 0 where it is not known. Called as often as is handy; the reader thins it."""

A_LINE = -1
"""As the total of a progress: `what` is a finding on the way, told in a line of its own beside the bars."""

PRECISIONS = ("fp32", "fp16", "int8", "best")

KINDS = (
    "keras-zip",
    "keras-hdf5",
    "savedmodel",
    "torch-pt2",
    "torchscript",
    "torch-state-dict",
    "onnx",
    "bundle",
    "served",
)
"""What a path holds, recognised by its content (`optimize/sources.py`); `served` is the URL of a server's model."""

FORMS: Dict[str, Tuple[str, ...]] = {
    "keras-zip": ("predict", "function", "xla"),
    "keras-hdf5": ("predict", "function", "xla"),
    "savedmodel": ("function", "xla"),
    "torch-pt2": ("eager",),
    "torchscript": ("eager",),
    "torch-state-dict": ("eager", "compile"),
}
"""The ways in which an original can be run, the default first."""


def quiet(what: str, done: int, total: int) -> None:
    """The Progress that says nothing."""


@dataclass(frozen=True)
class TensorSpec:
    """One input or output: `shape` with the batch first, None where it is free; `dtype` as NumPy names it."""

    name: str
    shape: Tuple[Optional[int], ...]
    dtype: str = "float32"

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> TensorSpec:
        """Read what `dataclasses.asdict` wrote."""
        return TensorSpec(str(value["name"]), tuple(value["shape"]), str(value["dtype"]))


@dataclass(frozen=True)
class RunnerSpec:
    """How to load and run a model: the original, an ONNX graph, or an engine bundle. Child processes get only this.

    Attributes:
        path: Absolute path of the file or folder, or a URL.
        kind: One of `KINDS`.
        custom_objects: `FILE.py:NAME[,NAME]` with an absolute file, or None.
        factory: `FILE.py:NAME` with an absolute file, or a torchvision or timm model name, or None.
        input_shape: In the source's own order, without the batch; None where the file tells.
        layout: NHWC or NCHW of the image input at the boundary; empty where not known yet.
        preprocess: `calib.preprocess` as JSON, or None where not known.
        task: classify or tensors.
        inputs, outputs: What a caller feeds and gets; empty where the model must be loaded to know.
        form: For originals, one of `FORMS[kind]`; empty means the default.
        policy: For Keras, `saved` keeps the dtype policy of the file, `float32` runs every layer in float32.
        backend: For kind onnx, openvino or onnxruntime; bundles carry it in their manifest.
        threads: CPU threads; 0 leaves the runtime's default.
        options: For the backend, such as `{"inference_precision": "f32"}`.
    """

    path: str
    kind: str
    custom_objects: Optional[str] = None
    factory: Optional[str] = None
    input_shape: Optional[Tuple[int, ...]] = None
    layout: str = ""
    preprocess: Optional[Dict[str, Any]] = None
    task: str = "classify"
    inputs: Tuple[TensorSpec, ...] = ()
    outputs: Tuple[TensorSpec, ...] = ()
    form: str = ""
    policy: str = "saved"
    backend: str = ""
    threads: int = 0
    options: Dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise UsageError(f"unknown kind of model {self.kind!r}; known: {', '.join(KINDS)}")
        if self.form and self.form not in FORMS.get(self.kind, ()):
            known = ", ".join(FORMS.get(self.kind, ())) or "none"
            raise UsageError(f"a {self.kind} model cannot be run as {self.form!r}; forms: {known}")

    def to_json(self) -> Dict[str, Any]:
        """As plain JSON."""
        return asdict(self)

    @staticmethod
    def from_json(value: Mapping[str, Any]) -> RunnerSpec:
        """Read what `to_json` wrote; unknown fields are ignored.

        Raises:
            DamagedError: A field is missing or of another type.
        """
        known = {key: value[key] for key in RunnerSpec.__dataclass_fields__ if key in value}
        try:
            for name in ("inputs", "outputs"):
                known[name] = tuple(TensorSpec.from_json(item) for item in known.get(name, ()))
            if known.get("input_shape") is not None:
                known["input_shape"] = tuple(int(n) for n in known["input_shape"])
            return RunnerSpec(**known)
        except (KeyError, TypeError, ValueError) as error:
            raise DamagedError(f"not a runner spec: {error}") from None

    def with_(self, **changes: Any) -> RunnerSpec:
        """A copy with some fields changed."""
        return replace(self, **changes)


class LayerTimes(NamedTuple):
    """The time of each layer in each of several queries.

    Attributes:
        layers: In the order they run: `name`, `type`, `precision` (either empty where it is not told).
        ms: float64, shape (queries, layers).
        wall_ms: Of each query as a whole, float64, shape (queries,).
    """

    layers: List[Dict[str, str]]
    ms: np.ndarray[Any, Any]
    wall_ms: np.ndarray[Any, Any]


class Runner:
    """A loaded model that answers batches; a context manager. Backends and frameworks subclass it.

    Attributes:
        spec: What it was opened from, with inputs, outputs and layout filled in.
        inputs, outputs: In order.
        batches: The batch sizes that it answers, ascending; empty where it answers any.
        device: cpu or gpu, where it really computes, of what can be an original; empty else.
        parallel: Queries that were bound apart may run at the same time, each in a thread of its own.
        profiled: What `profile` tells of each layer: its `median` over the queries, or its `mean`.
    """

    spec: RunnerSpec
    inputs: Tuple[TensorSpec, ...]
    outputs: Tuple[TensorSpec, ...]
    batches: Tuple[int, ...] = ()
    device: str = ""
    parallel: bool = True
    profiled: str = "median"

    def batch_for(self, n: int) -> int:
        """The batch to feed `n` samples in: `n` where any is answered, else the smallest that holds them, or the
        largest there is."""
        if not self.batches:
            return n
        return next((batch for batch in self.batches if batch >= n), self.batches[-1])

    def bind(self, feeds: Feeds) -> Query:
        """Bind host input arrays once and return the query to time.

        Args:
            feeds: C-contiguous arrays by input name, batch first, of the dtypes in `inputs`. The runner keeps them:
                writing into them changes what the next query sees.

        Returns:
            A call without arguments that runs one query, host arrays in, host arrays out. The arrays it returns may be
            reused by the next query of the same binding.

        Raises:
            UsageError: A wrong name, shape or dtype.
        """
        raise NotImplementedError

    def bind_all(self, feeds: Feeds, batch: int) -> Query:
        """Bind more samples than a query takes; they are answered `batch` at a time, as an application would.

        Args:
            feeds: As of `bind`, with any number of samples.
            batch: Samples of a query. The last one is filled up with samples of the one before it.

        Returns:
            A call that answers all samples. The arrays it returns are reused by the next call.

        Raises:
            UsageError: A wrong name, shape or dtype, or a batch that this does not answer.
        """
        import numpy as np

        total = min(len(array) for array in feeds.values())
        held = {name: array[np.arange(batch) % total] for name, array in feeds.items()}
        query = self.bind(held)
        kept = {name: np.empty((total, *value.shape[1:]), value.dtype) for name, value in query().items()}

        def answer() -> Dict[str, np.ndarray[Any, Any]]:
            for start in range(0, total, batch):
                count = min(batch, total - start)
                for name, array in feeds.items():
                    held[name][:count] = array[start : start + count]
                for name, value in query().items():
                    kept[name][start : start + count] = value[:count]
            return kept

        return answer

    def infer(self, feeds: Feeds) -> Dict[str, np.ndarray[Any, Any]]:
        """One query with arrays of its own as the result."""
        return {name: value.copy() for name, value in self.bind(feeds)().items()}

    def achieved(self) -> Dict[str, int]:
        """How many layers ran in each precision, such as `{"bf16": 36, "f32": 2}`; empty where not known."""
        return {}

    def layer_times(self, feeds: Feeds, queries: int) -> LayerTimes:
        """Time each layer in each query, in queries of their own: to tell layers apart costs time.

        Args:
            feeds: See `bind`.
            queries: How many are timed, after some that are not.

        Raises:
            UsageError: What runs here does not tell its layers; or wrong feeds.
        """
        raise UsageError(
            f"{self.spec.path}: the time of single layers in each query is not told by what runs it",
            "an engine's is: optimize build makes one",
        )

    def profile(self, feeds: Feeds, queries: int = 20) -> List[Dict[str, Any]]:
        """Time each layer: the medians of `layer_times`, or what else tells them.

        Args:
            feeds: See `bind`.
            queries: How many are timed, after some that are not.

        Returns:
            Layers in the order they run: `name`, `type`, `precision` (either empty where it is not told) and `ms`, see
            `profiled`.

        Raises:
            UsageError: What runs here does not tell its layers; or wrong feeds.
        """
        import numpy as np

        found = self.layer_times(feeds, queries)
        medians = np.median(found.ms, axis=0).tolist() if found.layers else []
        return [{**layer, "ms": ms} for layer, ms in zip(found.layers, medians)]

    def close(self) -> None:
        """Free what the runner holds; it must not be used afterwards."""

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()
