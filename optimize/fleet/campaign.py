"""A fleet's run: probe, build once for each class, publish, pull, bench, activate; what is done is not done again."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from engines.errors import OptimizeError
from engines.spec import A_LINE, Progress, quiet
from engines.text import plain
from optimize.fleet import boards as kinds
from optimize.fleet import graph, jobs, journal, olds, playbook, publish, results
from optimize.fleet import plan as plans
from optimize.fleet.boards import Board
from optimize.ship import trust

SCHEMA = "optimize.fleet/1"

BUILD, SIGN, PUBLISH, PULL, BENCH, ACTIVATE = "build", "sign", "publish", "pull", "bench", "activate"


class Campaign:
    """A plan on the boards of an inventory.

    Args:
        plan: What is to be done.
        ansible: Reaches the boards.
        work: Folder of all that is kept.
        progress: Told what happens.

    Attributes:
        boards: All that the inventory and the limit give, as they were probed.
        failed: Why a board or a class was left behind, by its name.
        lost: Boards that stopped answering.
        serving: What the node of each board has active, by its name, as far as it was asked.
        signer: Id of the plan's key; empty where nothing is signed.

    Raises:
        UsageError, DamagedError, TrustError: The plan's key is none that can sign.
    """

    def __init__(self, plan: plans.Plan, ansible: playbook.Ansible, work: Path, progress: Progress = quiet) -> None:
        self.plan, self.ansible, self.work, self.progress = plan, ansible, work, progress
        self.journal = journal.Journal(work / "journal.jsonl")
        self.boards: List[Board] = []
        self.failed: Dict[str, str] = {}
        self.lost: List[str] = []
        self.built: Dict[str, Dict[str, Any]] = {}
        self.published: Dict[str, Dict[str, Any]] = {}
        self.places: Dict[str, Any] = {}
        self.serving: Dict[str, Any] = {}
        self.signer = trust.signer(plan.sign) if plan.sign else ""
        self._onnx: Optional[Path] = None

    def probe(self) -> None:
        """Ask every board what it is."""
        names = self.ansible.hosts()
        answers = self.ansible.step("probe", "facts", {name: {} for name in names}, self.progress)
        self.boards = [kinds.examine(name, _told(answers[name]), self.plan.backend) for name in names]
        for board in self.boards:
            if not board.usable:
                self._leave(board, "probe", board.lost, board.why)

    def alive(self, name: str = "") -> List[Board]:
        """Boards that take part still, of a class or all."""
        return [b for b in self.boards if b.usable and b.name not in self.failed and name in ("", b.kind)]

    def kinds(self) -> List[str]:
        """Classes of the boards that take part still."""
        return list(kinds.classes(self.alive()))

    def _leave(self, board: Board, step: str, lost: bool, why: str, key: str = "") -> None:
        """Go on without a board."""
        why = plain(why)
        self.failed[board.name] = f"{step}: {why}"
        if lost:
            self.lost.append(board.name)
        self.journal.add(board.name, step, key, journal.LOST if lost else journal.FAILED, why=why)
        self.progress(f"{board.name}: {'lost' if lost else 'left behind'}: {step}: {why}", 0, A_LINE)

    def onnx(self) -> Path:
        """The graph that every board builds from: the model itself, or what is exported here, once."""
        if self._onnx is None:
            self._onnx = graph.exported(self.plan, self.work, self.progress)
        return self._onnx

    def build(self) -> None:
        """Build once for each class, on the first of its boards that can; the next one tries where one is lost."""
        key = plans.key(self.plan)
        tried: Dict[str, List[str]] = {}
        while True:
            todo: Dict[str, Board] = {}
            for name in self.kinds():
                if name in self.built or name in self.failed:
                    continue
                done = self.journal.done(name, BUILD, key)
                if done is not None and publish.whole(self.folder(name), done):
                    self.built[name] = done
                    continue
                left = [board for board in self.alive(name) if board.name not in tried.get(name, [])]
                if left:
                    todo[name] = left[0]
                    tried.setdefault(name, []).append(left[0].name)
            if not todo:
                return
            new = {name: board for name, board in todo.items() if board.by == kinds.OPTIMIZE}
            old = {name: board for name, board in todo.items() if board.by == kinds.TRTEXEC}
            self._build_new(new, key)
            olds.build(self, old, key)

    def recall(self) -> None:
        """What was built and published by the journal; nothing is done for what is missing."""
        for name in self.kinds():
            done = self.journal.done(name, BUILD, plans.key(self.plan))
            if done is not None:
                if self.signer:
                    done = self.journal.done(name, SIGN, journal.key(done.get("variants"), self.signer)) or done
                self.built[name] = done
                key = journal.key(done.get("variants"), self.store, self.plan.tag)
                self.published[name] = self.journal.done(name, PUBLISH, key) or {}

    def _build_new(self, todo: Mapping[str, Board], key: str) -> None:
        if not todo:
            return
        model = self.onnx().name
        made = {board.name: jobs.build(board, self.plan, self.onnx(), model) for board in todo.values()}
        answers = self.ansible.step(BUILD, "job", made, self.progress)
        shipping: Dict[str, Dict[str, Any]] = {}
        built: Dict[str, Dict[str, Any]] = {}
        for name, board in todo.items():
            answer = answers[board.name]
            try:
                told = publish.bundles(answer, self.plan)
            except OptimizeError as error:
                self.unbuilt(name, board, BUILD, answer.lost, error, key)
                continue
            self.folder(name).mkdir(parents=True, exist_ok=True)
            target = self.folder(name) / publish.ARCHIVE
            shipping[board.name] = jobs.ship(board, self.plan, told["names"], target)
            built[name] = told
        answers = self.ansible.step("ship", "job", shipping, self.progress)
        for name, told in built.items():
            board = todo[name]
            answer = answers[board.name]
            try:
                if answer.message:
                    raise OptimizeError(answer.message)
                told = publish.received(self.folder(name), told, self.plan, board)
            except OptimizeError as error:
                self.unbuilt(name, board, "ship", answer.lost, error, key)
                continue
            self.keep(name, board, told, key)

    def keep(self, name: str, board: Board, told: Dict[str, Any], key: str) -> None:
        """A class has its one build."""
        self.built[name] = {**told, "builder": board.name}
        self.journal.add(name, BUILD, key, value=self.built[name])

    def unbuilt(self, name: str, board: Board, step: str, lost: bool, error: OptimizeError, key: str) -> None:
        """A board could not build: another one of its class may, unless the model or the gate is to blame."""
        if not lost and error.exit_code in (2, 3):
            self.failed[name] = f"{step}: {error.message}"
            self.journal.add(name, BUILD, key, journal.FAILED, why=error.message)
            for other in self.alive(name):
                self._leave(other, step, False, f"nothing was built for its class: {error.message}", key)
        else:
            self._leave(board, step, lost, error.message, key)

    def publish(self) -> None:
        """Sign what was built, if the plan says so, and put it into its store, every class beside the others."""
        for name in [name for name, told in self.built.items() if told.get("variants")]:  # of trtexec: nothing
            told = self.built[name] = self._signed(name, self.built[name])
            key = journal.key(told["variants"], self.store, self.plan.tag)
            try:
                done = self.journal.done(name, PUBLISH, key)
                if done is None:
                    done = publish.publish(self.folder(name), told, self.store, self.plan, self.progress)
                    self.journal.add(name, PUBLISH, key, value=done)
                self.published[name] = done
            except OptimizeError as error:
                self.failed[name] = f"{PUBLISH}: {error.message}"
                for board in self.alive(name):
                    self._leave(board, PUBLISH, False, error.message, key)
        for name in list(self.published):
            self.published[name] = publish.current(self.store, self.published[name], self.plan)

    def _signed(self, name: str, told: Dict[str, Any]) -> Dict[str, Any]:
        """A class's build with the signature of the plan's key."""
        if self.plan.sign is None:
            return told
        key = journal.key(told["variants"], self.signer)
        done: Optional[Dict[str, Any]] = self.journal.done(name, SIGN, key)
        if done is None or not publish.whole(self.folder(name), done):
            done = publish.signed(self.folder(name), told, self.plan.sign)
            self.journal.add(name, SIGN, key, value=done)
        return done

    @property
    def store(self) -> str:
        """URL of the store."""
        return self.plan.store or str((self.work / plans.STORE).resolve())

    def _carried(self, name: str) -> Tuple[str, Optional[Path]]:
        """Where a board of a class pulls from, and the archive that is sent to it before; a store that boards reach
        themselves needs none."""
        if not publish.is_folder(self.store):
            return self.store, None
        target = self.folder(name) / "store.tar"
        publish.pack(self.store, self.published[name], self.plan, target)
        return jobs.STORE, target

    def pull(self) -> None:
        """Every board of a class pulls the one build of it, byte for byte."""
        expected = {name: publish.files(self.folder(name), self.built[name]) for name in self.published}
        carried = {name: self._carried(name) for name in self.published}

        def made(board: Board) -> Tuple[str, Dict[str, Any]]:
            job = jobs.pull(board, self.plan, self.published[board.kind], *carried[board.kind])
            return journal.key(expected[board.kind], board.folder), job

        def read(board: Board, answer: playbook.Answer) -> Any:
            return publish.pulled(answer, expected[board.kind])

        self.places = self.each(PULL, [b for b in self.alive() if b.kind in self.published], made, read)

    def bench(self) -> None:
        """Measure on every board, one job at a time there, when it is quiet; the run files come back."""

        def made(board: Board) -> Tuple[str, Dict[str, Any]]:
            variants = [one["variant"] for one in self.published[board.kind].values()]
            key = journal.key(variants, self.plan.bench, self.plan.batches)
            bundles = list(self.places[board.name]["places"].values())
            return key, jobs.bench(board, self.plan, bundles, self.run_file(board.name), key)

        def read(board: Board, answer: playbook.Answer) -> Any:
            return results.measured(self.run_file(board.name))

        def whole(board: Board, value: Any) -> bool:
            return results.is_whole(self.run_file(board.name), value)

        (self.work / "runs").mkdir(exist_ok=True)
        self.each(BENCH, [b for b in self.alive() if b.name in self.places], made, read, whole)
        olds.bench(self, [b for b in self.alive() if b.by == kinds.TRTEXEC and b.kind in self.built])

    def activate(self) -> None:
        """Let every board of a class serve what was chosen for the class."""
        if self.plan.activate == plans.NEVER:
            return
        chosen = {name: results.choose(self, name) for name in self.published}
        carried = {name: self._carried(name) for name in self.published}

        def made(board: Board) -> Tuple[str, Dict[str, Any]]:
            name = chosen[board.kind]
            one = self.published[board.kind][name]
            return journal.key(one["variant"]), jobs.activate(board, self.plan, name, one, *carried[board.kind])

        def read(board: Board, answer: playbook.Answer) -> Any:
            name = chosen[board.kind]
            return publish.active(answer, name, self.published[board.kind][name])

        ready = [b for b in self.alive() if chosen.get(b.kind)]
        self.serving = self.each(ACTIVATE, ready, made, read)

    def each(
        self,
        step: str,
        boards: Sequence[Board],
        made: Callable[[Board], Tuple[str, Dict[str, Any]]],
        read: Callable[[Board, playbook.Answer], Any],
        whole: Callable[[Board, Any], bool] = lambda board, value: True,
        play: str = "job",
    ) -> Dict[str, Any]:
        """Do a step on the boards that have not done it, keep what they answer, go on without those that fail.

        Args:
            step: Its name.
            boards: That should do it.
            made: What it depends on, as a key, and the job.
            read: What of an answer is kept; raises where it is not what it should be.
            whole: Whether what the journal has kept is still so.
            play: Tasks of the role.

        Returns:
            What is kept, by board.
        """
        kept: Dict[str, Any] = {}
        todo: Dict[str, Dict[str, Any]] = {}
        keys: Dict[str, str] = {}
        for board in boards:
            key, job = made(board)
            done = self.journal.done(board.name, step, key)
            if done is not None and whole(board, done):
                kept[board.name] = done
            else:
                keys[board.name], todo[board.name] = key, job
        for name in todo:
            self.journal.add(name, step, keys[name], journal.BEGUN)
        answers = self.ansible.step(step, play, todo, self.progress)
        for board in [b for b in boards if b.name in todo]:
            answer = answers[board.name]
            try:
                if answer.message:
                    raise OptimizeError(answer.message)
                value = read(board, answer)
            except OptimizeError as error:
                self._leave(board, step, answer.lost, error.message, keys[board.name])
                if step in (BENCH, ACTIVATE) and board.name in self.places:
                    self.journal.add(board.name, PULL, "", journal.BEGUN)  # again: its files may be gone
                continue
            kept[board.name] = value
            self.journal.add(board.name, step, keys[board.name], value=value)
        return kept

    def fetch(self) -> List[str]:
        """Fetch the run files of boards that have measured and lost the connection; those that came."""
        todo: Dict[str, Dict[str, Any]] = {}
        keys: Dict[str, str] = {}
        for board in self.alive():
            key = self.journal.unfinished(board.name, BENCH)
            if board.by == kinds.OPTIMIZE and key:
                keys[board.name] = key
                target = self.work / "runs" / "incoming" / self.run_file(board.name).name
                todo[board.name] = jobs.collect(board, self.plan, target, key)
        answers = self.ansible.step("collect", "job", todo, self.progress)
        came = []
        for name, job in todo.items():
            target = Path(job["fetch"][0]["dest"])
            if answers[name].message or not target.is_file():
                continue
            try:
                results.measured(target)
            except OptimizeError as error:
                self.progress(f"{name}: {error.message}", 0, A_LINE)
                continue
            target.replace(self.run_file(name))
            self.journal.add(name, BENCH, keys[name], value=results.measured(self.run_file(name)))
            came.append(name)
        return came

    def ask(self) -> None:
        """Ask the node of each board what it has active."""
        asked = {b.name: jobs.status(b, self.plan) for b in self.alive() if b.by == kinds.OPTIMIZE}
        for name, answer in self.ansible.step("status", "job", asked, self.progress).items():
            try:
                self.serving[name] = publish.serving(answer)
            except OptimizeError as error:
                self.progress(f"{name}: {error.message}", 0, A_LINE)

    def folder(self, name: str) -> Path:
        """Of a class."""
        return self.work / "classes" / name

    def run_file(self, name: str) -> Path:
        """Of a board, whatever its name is made of."""
        safe = "".join(c if (c.isalnum() and c.isascii()) or c in "._-" else "-" for c in name).lstrip(".-") or "board"
        mark = "" if safe == name else "-" + hashlib.sha256(name.encode()).hexdigest()[:6]
        return self.work / "runs" / f"{safe}{mark}.json"


def _told(answer: playbook.Answer) -> Dict[str, Any]:
    """What `boards.examine` reads, of an answer to tasks/facts.yml."""
    told = answer.told
    documents: List[Optional[Dict[str, Any]]] = [None, None]
    asked = told.get("asked")
    for place, text in enumerate(asked[:2] if isinstance(asked, list) else []):
        documents[place] = playbook.document({"stdout": text})
    said = told.get("words")
    words = [str(one).strip() for one in said if str(one).strip()] if isinstance(said, list) else []
    return {
        "unreachable": answer.lost,
        "error": answer.message or (words[-1].splitlines()[-1] if words else ""),
        "facts": told.get("facts"),
        "doctor": documents[0],
        "show": documents[1],
    }
