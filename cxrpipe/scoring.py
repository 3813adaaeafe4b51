"""The program `score`, whatever runs its stages: select, plan, freeze, score, reconcile, publish, account."""

import itertools
import json
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

import pyarrow as pa

from cxrpipe import __version__, console, runs, storage
from cxrpipe.cards import Ensemble, open_ensemble
from cxrpipe.config import ScoreConfig
from cxrpipe.errors import ConfigError, RunError
from cxrpipe.index import keep_source, open_source
from cxrpipe.lock import Lock, locked
from cxrpipe.prepare import prepare_study
from cxrpipe.reader import Reader
from cxrpipe.records import Study
from cxrpipe.runs import Run, Selection
from cxrpipe.score import Receipt, score, score_table, write_part
from cxrpipe.study_table import StudyTable, scratch_folder

TRIED_FIRST = 50
"""Random studies that are fetched and decoded before anything is written; and the least for exit status 3."""
TOO_MANY_FAILED = 3


@dataclass(frozen=True)
class Job:
    """What an engine is given: the frozen list, what of it is done, the models, and where parts go."""

    run: Run
    done: pa.Array
    """Study ids that readable parts hold already."""
    ensemble: Ensemble
    config: ScoreConfig


Engine = Callable[[Job], Iterator[Receipt]]


def loop(job: Job) -> Iterator[Receipt]:
    """The plain engine: one batch after another, in this process."""
    from cxrpipe.predict import Predictor  # torch: not for those who only plan

    table, done = StudyTable(job.run.studies), set(job.done.to_pylist())
    studies = (study for study in table.studies() if study.study_id not in done)
    with Reader(table.seek_points) as reader:
        batch = job.config.batch_studies
        private = table.is_pseudonymised
        rows = score(studies, reader, job.ensemble, Predictor(job.ensemble), batch_studies=batch, private=private)
        while part := list(itertools.islice(rows, job.config.part_studies)):
            yield write_part(score_table(part, job.ensemble.findings), job.run.parts)


def score_archive(config: ScoreConfig, engine: Engine) -> int:
    """Score what the settings ask for, exactly once; the exit status of the contract."""
    started = datetime.now(UTC)
    root = storage.normalise(config.out)
    ensemble = open_ensemble(config.models, config.segmenter)
    with scratch_folder() as scratch:
        table = open_source(config, scratch)
        selection = Selection(table, None if config.split == "all" else config.split, config.limit or None)
        hash_, studies = runs.plan_hash(selection, ensemble.fingerprint)
        if not studies:
            raise ConfigError(f"{config.studies or config.archive}: no studies in split {config.split}")
        lists = _frozen_lists(table)
        run = runs.find_run(root, hash_, lists)
        if run and run.is_complete():
            return _nothing_to_do(run, studies)
        for model in ensemble.models:
            model.read_weights()  # a broken copy is a refusal, not a broken run
        if run is None:
            _try_some(selection, studies, ensemble, config.max_failed_fraction)
        with locked(root) as lock:
            selection = replace(selection, table=keep_source(table, scratch, storage.join(root, "index")))
            settings = _settings(config, table)
            plan = {"fingerprint": ensemble.fingerprint, "findings": ensemble.findings, "settings": settings}
            run = runs.find_run(root, hash_, lists) or runs.new_run(root, hash_, plan, lists)
            if run.is_complete():  # by the one who held the lock until now
                return _nothing_to_do(run, studies)
            if storage.stat(run.studies) is None:
                runs.freeze(run, selection)
            return _score_run(run, studies, ensemble, config, engine, lock, started)


def _frozen_lists(table: StudyTable) -> str | None:
    """Where the list of a run lies if not in its root: beside a table that is private."""
    return storage.join(table.url.rpartition("/")[0], "frozen") if table.is_pseudonymised else None


def _settings(config: ScoreConfig, table: StudyTable) -> dict[str, Any]:
    """What a score root says of its settings; of a private table not where it lies, but what it is."""
    if not table.is_pseudonymised:
        return asdict(config)
    told = {name: value for name, value in table.metadata.items() if name not in ("archive", "seek_points")}
    return asdict(config) | {"archive": None, "studies": None, "table": told}


def _nothing_to_do(run: Run, studies: int) -> int:
    console.out().print(f"Nothing to do: run {run.run_id} has scored these {studies:,} studies with these models.")
    return 0


def _score_run(
    run: Run, studies: int, ensemble: Ensemble, config: ScoreConfig, engine: Engine, lock: Lock, started: datetime
) -> int:
    done = runs.done_ids(run)
    console.log(f"score: run {run.run_id}, {studies:,} studies" + (f", {len(done):,} done before" if len(done) else ""))
    clock, computed_on = _Clock(), ""
    stages: Counter = Counter()
    if len(done) < studies:
        with console.progress("scoring", studies - len(done)) as advance:
            for receipt in engine(Job(run, done, ensemble, config)):
                advance(receipt.studies)
                clock.add(receipt.studies)
                stages.update(receipt.seconds)
                computed_on = receipt.computed_on
    lock.check()
    counts = runs.publish(run)
    table = StudyTable(run.studies)
    account = {
        "run_id": run.run_id,
        "studies": studies,
        "studies_per_second": clock.studies_per_second,
        "seconds": clock.seconds,
        "scored_before_resume": len(done),
        "counts": dict(counts),
        "fingerprint": ensemble.fingerprint,
        "findings": ensemble.findings,
        "models": [_model_account(model, private=table.is_pseudonymised) for model in ensemble.models],
        "settings": _settings(config, table),
        "device": computed_on.rpartition(" ")[0] or None,
        "precision": computed_on.rpartition(" ")[2] or None,
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in stages.items()},
        "versions": _versions(),
        "start": started.isoformat(timespec="seconds"),
        "end": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    storage.write(run.account, json.dumps(account, indent=2).encode() + b"\n")
    _print_account(run, account, counts)
    failed = sum(count for status, count in counts.items() if status.startswith("failed"))
    if studies >= TRIED_FIRST and failed > config.max_failed_fraction * studies:
        console.log(f"score: {failed:,} of {studies:,} studies failed, more than --max_failed_fraction allows")
        return TOO_MANY_FAILED
    return 0


def _try_some(selection: Selection, studies: int, ensemble: Ensemble, max_failed_fraction: float) -> None:
    """Fetch and decode a few studies before anything is written: a wrong archive should cost a minute, not a night."""
    chosen = random.Random(0).sample(range(studies), min(TRIED_FIRST, studies))
    failures: list[str] = []
    before = 0
    with Reader(selection.table.seek_points) as reader:
        for batch in selection.batches():
            places = sorted(place - before for place in chosen if 0 <= place - before < batch.num_rows)
            before += batch.num_rows
            for row in batch.take(pa.array(places, pa.int64())).to_pylist():
                prepared = prepare_study(Study.from_row(row), reader, ensemble)
                if prepared.row["status"] == "failed":
                    failures.append(prepared.row["detail"])
    if len(failures) > max(0.5, max_failed_fraction) * len(chosen):
        raise RunError(
            f"{selection.table.metadata['archive']}: {len(failures)} of {len(chosen)} studies tried at random cannot "
            f"be read, so nothing was started; the first: {failures[0]}"
        )


class _Clock:
    """Wall time, and the steady rate: what came after the first receipt, over the time since then."""

    def __init__(self) -> None:
        self._start = time.monotonic()
        self._first = self._last = 0.0
        self._studies = self._after_first = 0

    def add(self, studies: int) -> None:
        self._last = time.monotonic()
        if self._first:
            self._after_first += studies
        else:
            self._first = self._last
        self._studies += studies

    @property
    def seconds(self) -> float:
        return round(time.monotonic() - self._start, 3)

    @property
    def studies_per_second(self) -> float | None:
        """None where nothing was scored; with a single receipt start-up is in it."""
        if not self._studies:
            return None
        if self._last > self._first:
            return round(self._after_first / (self._last - self._first), 2)
        return round(self._studies / (self._last - self._start), 2)


def _model_account(model: Any, private: bool) -> Mapping[str, Any]:
    card = model.card
    return {
        "url": model.url,
        "task": card.task,
        "architecture": card.architecture,
        "weights_sha256": card.weights_sha256,
        "archive": None if private else card.facts.get("archive"),
        "split_seed": card.facts.get("split_seed"),
    }


def _versions() -> dict[str, str]:
    packages = ("ray", "torch", "torchvision", "pyarrow", "numpy", "opencv-python-headless")
    return {
        "cxrpipe": __version__,
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def _print_account(run: Run, account: Mapping[str, Any], counts: Counter) -> None:
    out = console.out()
    out.print(
        f"{account['studies']:,} studies: " + ", ".join(f"{count:,} {status}" for status, count in counts.most_common())
    )
    if account["studies_per_second"]:
        out.print(f"{account['studies_per_second']} studies/s, {account['seconds']:.0f} s in all")
    out.print(f"Scores: {run.scores}\nAccount: {run.account}")
