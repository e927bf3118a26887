"""What a file is and what it says of itself, without running it."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional

from engines import asked, jsonfile, manifest
from engines.errors import OptimizeError, UsageError
from engines.spec import RunnerSpec


def inspect(path: Path) -> Dict[str, Any]:
    """Describe a bundle, a model or a JSON file of this project.

    Returns:
        `what` and the facts of it: a bundle's manifest with `damaged` and `why_not` (empty where it runs here) and
        `warnings` (layers that run in another precision than asked), a model's kind, an ONNX graph's inputs, outputs,
        opset and operators, the tensors of a PyTorch file of weights with what building it needs, a run file's
        environment and rows.

    Raises:
        UsageError: No such file.
        ModelError, DamagedError: It is none of these, or damaged.
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"no such file: {path}")
    if path.is_file() and path.suffix == ".json":
        value = jsonfile.read(path)
        return {"what": value.get("schema", "json"), "path": str(path), "content": value}
    from optimize.sources import kind_of, recognise

    place, kind = kind_of(path)
    # weights without their module can be looked at; to build them takes more, which is told
    spec = RunnerSpec(str(place), kind) if kind == "torch-state-dict" else recognise(str(path))
    about: Dict[str, Any] = {"what": spec.kind, "path": str(path)}
    if spec.kind == "bundle":
        about["manifest"] = manifest.read(path)
        text = asked.warning(about["manifest"].get("comparison"))
        about["warnings"] = [text] if text else []
        about["why_not"] = manifest.why_not(path)
        try:
            manifest.check_files(path)
            about["damaged"] = ""
        except OptimizeError as error:
            about["damaged"] = error.message
        return about
    about["size_bytes"] = sum(p.stat().st_size for p in path.rglob("*")) if path.is_dir() else path.stat().st_size
    about["spec"] = spec.to_json()
    if spec.kind == "onnx":
        about["graph"] = _graph(path)
    if spec.kind == "torch-state-dict":
        about.update(_weights(place))
    return about


def _weights(path: Path) -> Dict[str, Any]:
    """What a file of weights holds: `tensors`, `parameters`, and `needs`, the options of a build, with a `guess`."""
    from engines import torchstate
    from optimize.zoo import shapes

    found = torchstate.read(str(path))
    guess = shapes.guess({name: one.shape for name, one in found.items()})
    return {
        "tensors": [{"name": name, "shape": list(one.shape), "dtype": one.dtype} for name, one in found.items()],
        "parameters": torchstate.parameters(found),
        "guess": {**guess._asdict(), "factory": guess.factory} if guess else None,
        "needs": f"--factory {guess.factory if guess else 'FILE.py:NAME'} --input-shape 3xHEIGHTxWIDTH",
    }


def _graph(path: Path) -> Dict[str, Any]:
    import onnx

    model = onnx.load(str(path), load_external_data=False)

    def shape(value: Any) -> List[Any]:
        dims = value.type.tensor_type.shape.dim
        return [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in dims]

    weights = {w.name for w in model.graph.initializer}
    return {
        "opset": {o.domain or "ai.onnx": o.version for o in model.opset_import},
        "ir_version": model.ir_version,
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
        "inputs": {v.name: shape(v) for v in model.graph.input if v.name not in weights},
        "outputs": {v.name: shape(v) for v in model.graph.output},
        "operators": dict(Counter(n.op_type for n in model.graph.node).most_common()),
        "metadata": {m.key: m.value for m in model.metadata_props},
    }


def preprocess_text(preprocess: Optional[Mapping[str, Any]], measured: bool) -> str:
    """Preprocessing for a reader, with how it came to be known where the user did not say it.

    Args:
        preprocess: `calib.preprocess.Preprocess` as JSON, or None.
        measured: Whether accuracy on labelled images could decide.
    """
    if not preprocess:
        return "none"
    how = "chosen by accuracy" if measured else "assumed: give --preprocess if it was trained otherwise"
    return f"{preprocess['text']} ({how})" if preprocess.get("inferred") else str(preprocess["text"])


def lines(about: Dict[str, Any], layers: bool = False) -> List[str]:
    """What `inspect` found, for a reader."""
    out = [f"{about['path']}: {about['what']}"]
    if about["what"] == "bundle":
        return out + _bundle_lines(about, layers)
    if "graph" in about:
        graph = about["graph"]
        out += [f"  opset      {graph['opset']}", f"  producer   {graph['producer']}"]
        out += [f"  input      {name} {shape}" for name, shape in graph["inputs"].items()]
        out += [f"  output     {name} {shape}" for name, shape in graph["outputs"].items()]
        out += [f"  operators  {' '.join(f'{k}:{v}' for k, v in graph['operators'].items())}"]
    elif "content" in about and "rows" in about["content"]:
        for row in about["content"]["rows"]:
            out.append(f"  {row.get('target')} {row.get('form') or row.get('precision')} batch {row.get('batch')}")
    elif "size_bytes" in about:
        out.append(f"  size       {about['size_bytes'] / 1e6:.1f} MB")
    if "tensors" in about:
        out += _weights_lines(about)
    return out


def _weights_lines(about: Dict[str, Any]) -> List[str]:
    tensors, guess = about["tensors"], about["guess"]
    width = max(len(one["name"]) for one in tensors)
    dtypes = Counter(one["dtype"] or "unknown" for one in tensors).most_common()
    held = f"{len(tensors)} tensors ({', '.join(f'{n} {dtype}' for dtype, n in dtypes)})"
    out = [f"  holds      {held}, {about['parameters']:,} parameters; no module: weights only"]
    if guess:
        out.append(f"  looks like {guess['name']} of the zoo, {guess['stem']} stem, {guess['classes']} classes")
    or_name = "" if guess else ", or --factory with the name of a torchvision or timm model"
    out.append(f"  to build   optimize build {shlex.quote(about['path'])} {about['needs']}{or_name}")
    shown = [(one["name"], "x".join(map(str, one["shape"])) or "scalar", one["dtype"]) for one in tensors]
    return out + [f"    {name:{width}}  {shape:16} {dtype}".rstrip() for name, shape, dtype in shown]


def _options_lines(options: Dict[str, Any], batches: List[int]) -> List[str]:
    """What the engine was built and is run with, one a line; a command as it is typed, tables by their size."""
    out = []
    for name, value in options.items():
        if name == "trtexec":
            name, value = f"trtexec, batch {batches[-1]}", shlex.join(value)  # it has one profile
        elif isinstance(value, dict):
            value = ", ".join(f"{k} {v}" for k, v in value.items() if not isinstance(v, (dict, list))) or len(value)
        elif isinstance(value, list) and any(isinstance(one, (dict, list)) for one in value):
            value = f"{len(value)} (--json shows them)"
        if value not in (None, "", [], {}):
            out.append(f"    {name:18} {value}")
    return out


def _compared(found: Optional[Mapping[str, Any]]) -> str:
    """How many layers got the precision that was asked of them."""
    if found is None:
        return "unknown: built before it was recorded"
    if not found["asked"]:
        return "no layer was asked for a precision of its own: the backend chooses"
    unread = f", {found['unread']} unknown" if found["unread"] else ""
    return f"{found['met']} of {found['asked']} layers run in the precision asked of them{unread}"


def _bundle_lines(about: Dict[str, Any], layers: bool) -> List[str]:
    m = about["manifest"]
    accuracy, check, calibration = m["accuracy"], m["check"], m["calibration"]
    device = m["device"]
    out = [
        f"  name        {m['name']}, made {m['created']} by optimize {m['version']} from {m['model']['name']}",
        f"  backend     {m['backend']} {device['version']} on {device['os']} {device['arch']}",
        *_options_lines(m["options"], m["batches"]),
        f"  precision   asked {m['precision']}, achieved "
        + ", ".join(f"{n} layer{'s' * (n != 1)} {k}" for k, n in m["achieved"].items()),
        f"  compared    {_compared(m.get('comparison'))}",
        f"  batches     {m['batches']}",
        f"  preprocess  {preprocess_text(m['preprocess'], bool(accuracy and accuracy.get('top1') is not None))}",
    ]
    out += [f"  input       {t['name']} {t['shape']} {t['dtype']}" for t in m["inputs"]]
    out += [f"  output      {t['name']} {t['shape']} {t['dtype']}" for t in m["outputs"]]
    if calibration:
        data = calibration["dataset"]
        method = calibration["method"]
        if isinstance(method, dict):
            method = " ".join(str(v) for v in (method.get("name"), method.get("percentile")) if v is not None)
        cache = calibration.get("imported")
        by = f"{method} on {calibration['samples']} images of {data['name']}"
        by = f"by the scales of {cache['name']} ({cache['header']})" if cache else by
        out.append(f"  calibrated  {by}")
    if accuracy:
        top1 = accuracy.get("top1")
        out.append(
            f"  accuracy    top-1 {'unmeasured' if top1 is None else f'{100 * top1:.2f}%'}, "
            f"agreement {100 * accuracy['agreement']:.2f}%"
        )
    else:
        out.append("  accuracy    unmeasured")
    if check:
        out.append(f"  check       largest difference {check['max_abs']:.3g} on {check['n']} {check['data']} inputs")
    if m["gate"]:
        out.append("  gate        " + ("passed" if m["gate"]["passed"] else f"FAILED: {m['gate'].get('reasons')}"))
    if m["flags"]:
        out.append(f"  flags       {', '.join(m['flags'])}")
    out += [f"  warning     {text}" for text in about["warnings"]]
    if about["damaged"]:
        out.append(f"  damaged     {about['damaged']}")
    out.append(f"  runs here   {'no: ' + about['why_not'] if about['why_not'] else 'yes'}")
    if layers:
        out += [f"    {x['precision']:8} {x['type']:20} {x['name']}" for x in m["layers"]]
    return out
