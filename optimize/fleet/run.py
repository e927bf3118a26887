"""`optimize fleet check|run|status|collect`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, List, Optional, Union

from engines.errors import DamagedError, OptimizeError, PartialError
from engines.spec import A_LINE, Progress, quiet
from optimize.fleet import boards as kinds
from optimize.fleet import journal, playbook, publish, results
from optimize.fleet import plan as plans
from optimize.fleet.campaign import SCHEMA, Campaign

PathLike = Union[str, Path]


def check(
    plan: PathLike, inventory: PathLike, limit: str = "", out: Optional[PathLike] = None, progress: Progress = quiet
) -> Dict[str, Any]:
    """Ask every board what it is, and say what a run would do; nothing is built and nothing changes there.

    Args:
        plan: See `optimize.fleet.plan`.
        inventory: Ansible's.
        limit: Ansible's `--limit`.
        out: Folder of the run, by default `<plan>.fleet` beside the plan.
        progress: Told what happens.

    Returns:
        `schema`, `plan`, `inventory`, `out`, `ansible` (version), `classes` (`class`, `by`, `device`, `boards`) and
        `boards` (see `optimize.fleet.boards.Board.to_json`; `failed` is why one was left behind, `steps` as they ended
        last, `active` what its node serves: None where nothing is, or it was not asked).

    Raises:
        UsageError: A plan or an inventory that cannot be used.
        IncompatibleError: Ansible is missing or of another version, or another run is at work in the folder.
    """
    campaign = _campaign(plan, inventory, limit, out, progress)
    with journal.alone(campaign.work):
        campaign.probe()
    return _told(campaign)


def run(
    plan: PathLike, inventory: PathLike, limit: str = "", out: Optional[PathLike] = None, progress: Progress = quiet
) -> Dict[str, Any]:
    """Build once for each class of boards, bench on every board, publish, activate; go on where a run has stopped.

    Args:
        plan, inventory, limit, out, progress: See `check`.

    Returns:
        What `check` does, and for a class `builder`, `bundles` (`precision`, `build_key`, and where it was published
        `name`, `digest`, `variant`, `signed_by`) and `why` it has none; for a board what was activated, under `active`;
        `report` (files).

    Raises:
        See `check`. What happens to single boards is in the answer: see `outcome`.
    """
    campaign = _campaign(plan, inventory, limit, out, progress)
    with journal.alone(campaign.work):
        campaign.probe()
        campaign.build()
        campaign.publish()
        campaign.pull()
        campaign.bench()
        campaign.activate()
        return {**_told(campaign), "report": _report(campaign)}


def collect(
    plan: PathLike, inventory: PathLike, limit: str = "", out: Optional[PathLike] = None, progress: Progress = quiet
) -> Dict[str, Any]:
    """Fetch run files that are on the boards still, as after a connection that broke, and write the report again.

    Returns:
        What `check` does, and `report` (files) and `fetched` (boards).
    """
    campaign = _campaign(plan, inventory, limit, out, progress)
    with journal.alone(campaign.work):
        campaign.probe()
        fetched = campaign.fetch()
        return {**_told(campaign), "fetched": fetched, "report": _report(campaign)}


def status(
    plan: PathLike,
    inventory: PathLike,
    limit: str = "",
    out: Optional[PathLike] = None,
    offline: bool = False,
    progress: Progress = quiet,
) -> Dict[str, Any]:
    """What is done by the journal, and what each board's node has active now.

    Args:
        plan, inventory, limit, out, progress: See `check`.
        offline: Ask no board.

    Returns:
        What `check` does, but offline for `classes`; for a board `active` (of `optimize node status`) too.
    """
    campaign = _campaign(plan, inventory, limit, out, progress)
    if offline:
        names = campaign.ansible.hosts()
        campaign.boards = [kinds.Board(name) for name in names]
        return _told(campaign)
    with journal.alone(campaign.work):
        campaign.probe()
        campaign.recall()
        campaign.ask()
    return _told(campaign)


def outcome(found: Dict[str, Any]) -> None:
    """What a run came to as a whole.

    Raises:
        PartialError: Some boards were lost or failed; what the others did is kept.
        OptimizeError: All were.
    """
    bad = [one for one in found["boards"] if one["failed"]]
    if not bad:
        return
    names = ", ".join(one["board"] for one in bad)
    words = f"{len(bad)} of {len(found['boards'])} boards were lost or failed: {names}"
    again = "mend them and run the same command again: what is done is not done again"
    if len(bad) == len(found["boards"]):
        raise OptimizeError(words, next((one["fix"] for one in bad if one["fix"]), again))
    raise PartialError(f"{words}; the others are kept", again)


def _campaign(plan: PathLike, inventory: PathLike, limit: str, out: Optional[PathLike], progress: Progress) -> Campaign:
    asked = plans.read(Path(plan))
    work = Path(out).absolute() if out else asked.path.with_name(asked.path.name.rsplit(".", 1)[0] + ".fleet")
    ansible = playbook.Ansible(Path(inventory), work, limit, asked.forks, asked.limits["step"])
    return Campaign(asked, ansible, work, progress)


def _told(campaign: Campaign) -> Dict[str, Any]:
    grouped: Dict[str, List[kinds.Board]] = {}
    for board in campaign.boards:
        if board.key and board.by and board.usable:
            grouped.setdefault(board.kind, []).append(board)
    classes = []
    for name, found in grouped.items():
        key = found[0].key
        built = campaign.built.get(name, {})
        classes.append(
            {
                "class": name,
                "by": found[0].by,
                "device": key.to_json() if key else None,
                "boards": [board.name for board in found],
                "builder": built.get("builder"),
                "bundles": publish.told(built, campaign.published.get(name, {})),
                "why": campaign.failed.get(name, ""),
            }
        )
    return {
        "schema": SCHEMA,
        "plan": str(campaign.plan.path),
        "inventory": str(campaign.ansible.inventory),
        "out": str(campaign.work),
        "ansible": campaign.ansible.version,
        "classes": classes,
        "boards": [
            {
                **board.to_json(),
                "lost": board.name in campaign.lost,
                "failed": campaign.failed.get(board.name, ""),
                "steps": campaign.journal.last(board.name),
                "active": campaign.serving.get(board.name),
            }
            for board in campaign.boards
        ],
    }


def _report(campaign: Campaign) -> List[str]:
    there: Dict[str, Path] = {}
    for board in campaign.boards:
        file = campaign.run_file(board.name)
        try:
            if file.is_file():
                results.measured(file)
                there[board.name] = file
        except DamagedError as error:  # the board was left behind for it, and the others' report is written
            campaign.progress(f"{board.name} is not in the report: {error.message}", 0, A_LINE)
    again = ["optimize", "fleet", "run", "-i", str(campaign.ansible.inventory), str(campaign.plan.path)]
    return [str(path) for path in results.report(there, campaign.work / "report", again)]
