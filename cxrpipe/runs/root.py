"""A score root and the runs in it. Every study is scored exactly once.

<root>/runs/<run_id>/plan.json         written first
<root>/runs/<run_id>/studies.parquet   the frozen list; of a private table <table>/frozen/<run_id>.parquet
<root>/runs/<run_id>/parts/            what the workers write
<root>/scores/run=<run_id>/            published
<root>/runs/<run_id>/run.json          the report, written last: its presence says that the run is complete
<root>/forgotten.parquet               patients whom no later run takes in
<root>/reviews/                        readers' verdicts and reading lists (`reviews`, `reading_lists`)
<root>/lock/                           one run at a time
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from typing import Any

from cxrpipe import storage
from cxrpipe.records import CompleteRuns, complete_runs
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.forgotten import Forgotten, add_forgotten, read_forgotten
from cxrpipe.runs.ledger import Ledger, read_ledger
from cxrpipe.runs.lock import Lock, locked


@dataclass(frozen=True)
class ScoreRoot:
    """The folder that many runs share. Reads nothing until a method asks."""

    url: str
    """Normalised (see `ScoreRoot.at`)."""
    lists: str | None = None
    """Folder of frozen lists outside the root. Used for a private study table, because a list names its objects."""
    held: Lock | None = None
    """The lock of the root, where the caller holds it."""

    @classmethod
    def at(cls, url: str, lists: str | None = None, held: Lock | None = None) -> ScoreRoot:
        return cls(storage.normalise(url), lists, held)

    @classmethod
    def of_table(cls, url: str, table: StudyTable, held: Lock | None = None) -> ScoreRoot:
        """The root whose runs score this table. The frozen lists of a private table lie beside it."""
        private = table.is_pseudonymised
        return cls.at(url, storage.join(table.url.rpartition("/")[0], "frozen") if private else None, held)

    def run(self, run_id: str) -> Run:
        return Run(self, run_id)

    def runs(self) -> list[Run]:
        """All runs, complete or not, oldest first."""
        return [self.run(run_id) for run_id in storage.folders(storage.join(self.url, "runs"))]

    def complete_runs(self) -> CompleteRuns:
        """The reports of the complete runs, as they are now."""
        return complete_runs(self.url)

    def ledger(self, fingerprint: str) -> Ledger:
        """What the complete runs of these models hold of every study."""
        return read_ledger(self.complete_runs(), fingerprint)

    def forgotten(self) -> Forgotten:
        return read_forgotten(self._forgotten)

    def forget(self, patient_id: str) -> None:
        """Keep a patient out of all later runs. Only the holder of the lock may call this."""
        add_forgotten(self._forgotten, patient_id)

    @property
    def _forgotten(self) -> str:
        return storage.join(self.url, "forgotten.parquet")

    def locked(self, wait_s: float = 0.0) -> AbstractContextManager[Lock]:
        """Hold the lock of the root; LockError where another run still holds it after `wait_s` seconds."""
        return contextlib.nullcontext(self.held) if self.held else locked(self.url, wait_s)

    def find_run(self, hash_: str) -> Run | None:
        """The newest run of this plan, complete or not."""
        planned = (run for run in reversed(self.runs()) if storage.stat(run.plan))
        return next((run for run in planned if run.read_plan().hash == hash_), None)

    def unfinished(self) -> list[tuple[Run, RunPlan]]:
        """The runs that have a frozen list and are not complete, with their plans, oldest first."""
        runs = (run for run in self.runs() if run.is_unfinished() and storage.stat(run.plan))
        return [(run, run.read_plan()) for run in runs]

    def unfinished_of(self, fingerprint: str) -> list[Run]:
        """The unfinished runs of these models, oldest first."""
        return [run for run, plan in self.unfinished() if plan.fingerprint == fingerprint]


@dataclass(frozen=True)
class Run:
    """One run of a score root, by name: where its files lie."""

    root: ScoreRoot
    run_id: str

    @property
    def url(self) -> str:
        return storage.join(self.root.url, "runs", self.run_id)

    @property
    def plan(self) -> str:
        return storage.join(self.url, "plan.json")

    @property
    def studies(self) -> str:
        """The frozen list."""
        if self.root.lists:
            return storage.join(self.root.lists, f"{self.run_id}.parquet")
        return storage.join(self.url, "studies.parquet")

    @property
    def parts(self) -> str:
        return storage.join(self.url, "parts")

    @property
    def scores(self) -> str:
        """Folder of the published rows."""
        return storage.join(self.root.url, "scores", f"run={self.run_id}")

    @property
    def report(self) -> str:
        return storage.join(self.url, "run.json")

    def is_complete(self) -> bool:
        return storage.stat(self.report) is not None

    def is_unfinished(self) -> bool:
        """Whether the list is frozen and the run is not complete."""
        return not self.is_complete() and storage.stat(self.studies) is not None

    def read_plan(self) -> RunPlan:
        return RunPlan.from_json(storage.read(self.plan))


@dataclass(frozen=True)
class RunPlan:
    """The content of `plan.json`: what a run scores, and with which models."""

    hash: str
    """Of the studies and the fingerprint (`plan.plan_hash`)."""
    fingerprint: str = ""
    findings: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_json(cls, content: bytes) -> RunPlan:
        facts = json.loads(content)
        return cls(
            facts["hash"], facts.get("fingerprint", ""), tuple(facts.get("findings", ())), facts.get("settings", {})
        )

    def to_json(self) -> bytes:
        return json.dumps(asdict(self), indent=2).encode() + b"\n"
