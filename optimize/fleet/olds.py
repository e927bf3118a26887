"""The steps of a fleet on boards that are served by their own trtexec, with Ansible's `raw` and `script` alone."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Tuple

from bench import runs
from engines import jsonfile, onnxfile
from engines.errors import OptimizeError, UsageError
from engines.spec import A_LINE
from optimize.fleet import jobs, journal, playbook, results, trtexec
from optimize.fleet.boards import Board

if TYPE_CHECKING:
    from optimize.fleet.campaign import Campaign

BENCH = "bench"


def build(campaign: Campaign, todo: Mapping[str, Board], key: str) -> None:
    """Let one board of each class build its plans, and fetch them."""
    if not todo:
        return
    try:
        sent = _sent(campaign)
        cells = _cells(campaign, trtexec.CACHE in sent)
        if not cells:
            raise UsageError("nothing of the plan can be built by trtexec alone")
        shapes = {cell: trtexec.shapes(campaign.onnx(), cell.batch) for cell in cells}
    except OptimizeError as error:
        for name, board in todo.items():
            campaign.unbuilt(name, board, "build", False, error, key)
        return
    made: Dict[str, Dict[str, Any]] = {}
    for name, board in todo.items():
        folder = campaign.folder(name)
        folder.mkdir(parents=True, exist_ok=True)
        mib = campaign.plan.trtexec["workspace_mib"]
        words = [trtexec.build_words(board.command, cell, shapes[cell], mib) for cell in cells]
        made[board.name] = _job(campaign, board, words, sent, [(cell.plan, folder / cell.plan) for cell in cells])
    answers = campaign.ansible.step("build", "raw", made, campaign.progress)
    for name, board in todo.items():
        answer = answers[board.name]
        try:
            if answer.message:
                raise OptimizeError(_refused(answer))
            for cell in cells:
                trtexec.unpack(campaign.folder(name) / cell.plan)
        except OptimizeError as error:
            campaign.unbuilt(name, board, "build", answer.lost, error, key)
            continue
        plans = {cell.name: jsonfile.sha256(campaign.folder(name) / cell.plan) for cell in cells}
        campaign.keep(name, board, {"names": {}, "plans": plans}, key)


def bench(campaign: Campaign, boards: List[Board]) -> None:
    """Measure the one plan of its class on every board; its times become a run file like any other."""
    sent = {board.kind: _plans(campaign, board.kind) for board in boards}

    def made(board: Board) -> Tuple[str, Dict[str, Any]]:
        cells, words = _measured(campaign, board)
        folder = _folder(campaign, board)
        folder.mkdir(parents=True, exist_ok=True)
        fetch = [(file, folder / file) for cell in cells for file in (cell.times, cell.profile)]
        key = journal.key(campaign.built[board.kind]["plans"], campaign.plan.trtexec, [words])
        return key, _job(campaign, board, words, sent[board.kind], fetch, quiet=True)

    def read(board: Board, answer: playbook.Answer) -> Any:
        cells, words = _measured(campaign, board)
        folder = _folder(campaign, board)
        rows = []
        for cell in cells:
            for file in (cell.times, cell.profile):
                trtexec.unpack(folder / file)
            target = f"{campaign.plan.name}-{cell.precision}"
            plan = campaign.folder(board.kind) / cell.plan
            rows.append(trtexec.row(cell, folder, plan, board, target, jsonfile.sha256(campaign.plan.model)))
        runs.write(campaign.run_file(board.name), trtexec.run(board, rows, words))
        return results.measured(campaign.run_file(board.name))

    def whole(board: Board, value: Any) -> bool:
        return results.is_whole(campaign.run_file(board.name), value)

    campaign.each(BENCH, boards, made, read, whole, "raw")


def _cells(campaign: Campaign, calibrated: bool) -> List[trtexec.Cell]:
    return trtexec.cells(campaign.plan.precisions, campaign.plan.batches, calibrated)


def _measured(campaign: Campaign, board: Board) -> Tuple[List[trtexec.Cell], List[List[str]]]:
    """The cells of a board's class that were built, and the commands that measure them."""
    there = campaign.built[board.kind]["plans"]
    cells = [cell for cell in _cells(campaign, True) if cell.name in there]
    about = campaign.plan.trtexec
    words = []
    for cell in cells:
        shape = trtexec.shapes(campaign.onnx(), cell.batch)
        words += trtexec.measure_words(board.command, cell, shape, about["duration"], about["iterations"])
    return cells, words


def _sent(campaign: Campaign) -> Dict[str, Path]:
    """The graph, and a calibration cache where INT8 and data are asked, by their names on the board."""
    onnx = campaign.onnx()
    model = onnxfile.load(onnx)
    opset = max((entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    if opset > trtexec.OPSET:
        campaign.progress(
            f"{onnx.name} has opset {opset}; TensorRT 8.2 was made for {trtexec.OPSET} and may refuse it", 0, A_LINE
        )
    sent = {trtexec.MODEL: onnx}
    plan = campaign.plan
    if "int8" not in plan.precisions:
        return sent
    if not plan.data:
        campaign.progress("int8 needs data: it is left out on boards that only have trtexec", 0, A_LINE)
        return sent
    from optimize.calibration import calibrate

    target = campaign.work / "model" / trtexec.CACHE
    mark = target.with_suffix(".json")
    data = str(plan.data_path or plan.data)
    about = {"key": journal.key(jsonfile.sha256(onnx), data, plan.build.get("samples"), plan.source.get("preprocess"))}
    if not (target.is_file() and mark.is_file() and jsonfile.read(mark) == about):
        target.parent.mkdir(parents=True, exist_ok=True)
        given: Dict[str, Any] = {"preprocess": plan.source["preprocess"]} if "preprocess" in plan.source else {}
        samples = int(plan.build.get("samples", 512))
        calibrate(onnx, data, target, samples=samples, tensorrt=VERSION, progress=campaign.progress, **given)
        jsonfile.write(mark, about)
    return {**sent, trtexec.CACHE: target}


VERSION = "8.2.1"
"""In the header of the cache; trtexec reads only the scales of an entropy calibrator's."""


def _plans(campaign: Campaign, name: str) -> Dict[str, Path]:
    return {f"{cell}.plan": campaign.folder(name) / f"{cell}.plan" for cell in campaign.built[name]["plans"]}


def _folder(campaign: Campaign, board: Board) -> Path:
    """Where what a board has measured comes to."""
    return campaign.run_file(board.name).with_suffix("")


def _job(
    campaign: Campaign,
    board: Board,
    words: List[List[str]],
    sent: Mapping[str, Path],
    fetch: List[Tuple[str, Path]],
    quiet: bool = False,
) -> Dict[str, Any]:
    job = jobs.job(board, campaign.plan, words, [], fetch, quiet)
    parcels = []
    for name, source in sent.items():
        digest = jsonfile.sha256(source)
        parcel = campaign.work / "parcels" / f"{digest}.sh"
        if not parcel.is_file():
            trtexec.parcel(source, parcel)
        parcels.append({"parcel": str(parcel), "sha256": digest, "dest": f"{board.folder}/{name}"})
    return {**job, "send": parcels, "fetch": [{"src": name, "dest": str(target)} for name, target in fetch]}


def _refused(answer: playbook.Answer) -> str:
    """trtexec tells its errors on stdout, marked [E]."""
    for command in answer.commands:
        if command["rc"] != 0:
            lines = [line for line in str(command["stdout"]).splitlines() if "[E]" in line]
            if lines:
                return f"trtexec: {' '.join(lines[-1].split('[E]', 1)[1].split())}"
    return answer.message
