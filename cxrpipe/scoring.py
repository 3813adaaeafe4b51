"""The program `score`, whatever runs its stages: select, plan, freeze, score, reconcile, publish, account."""

import itertools
import json
import platform
import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import pyarrow as pa

from cxrpipe import __version__, console, runs, storage
from cxrpipe.cards import Ensemble, open_ensemble
from cxrpipe.config import ScoreConfig
from cxrpipe.decoding import Decode, decode_view
from cxrpipe.derive import derived_rows
from cxrpipe.errors import ConfigError, RunError
from cxrpipe.forgotten import read_forgotten
from cxrpipe.id_set import IdSet
from cxrpipe.index import keep_source, open_source
from cxrpipe.isolation import Isolated
from cxrpipe.ledger import RETRYABLE, Ledger, read_ledger, versions
from cxrpipe.lock import Lock, locked
from cxrpipe.prepare import prepare_study
from cxrpipe.reader import Reader
from cxrpipe.records import REASONS, Study
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
    done: IdSet
    """Study ids that readable parts hold already."""
    ensemble: Ensemble
    config: ScoreConfig


Engine = Callable[[Job], Iterator[Receipt]]


def loop(job: Job, decode: Decode = decode_view) -> Iterator[Receipt]:
    """The plain engine: one batch after another in this process, but for what may crash."""
    from cxrpipe.predict import Predictor  # torch: not for those who only plan

    table = StudyTable(job.run.studies)
    studies = (study for study in table.studies() if not job.done.contains([study.study_id])[0])
    with Reader(table.seek_points) as reader, Isolated(decode, job.config.decode_timeout_s) as isolated:
        batch = job.config.batch_studies
        predictor = Predictor(job.ensemble)
        rows = score(studies, reader, job.ensemble, predictor, batch_studies=batch, decode=isolated)
        while part := list(itertools.islice(rows, job.config.part_studies)):
            yield write_part(score_table(part, job.ensemble.findings), job.run.parts)


def score_archive(config: ScoreConfig, engine: Engine) -> int:
    """Score what the settings ask for, exactly once; the exit status of the contract."""
    if unknown := set(config.retry).difference(REASONS, [RETRYABLE]):
        raise ConfigError(f"retry {', '.join(sorted(unknown))}; expected {RETRYABLE} or some of {', '.join(REASONS)}")
    root = storage.normalise(config.out)
    request = Request(config, root, open_ensemble(config.models, config.segmenter), engine)
    with scratch_folder() as scratch:
        table = open_source(config, scratch)
        selection = Selection(table, None if config.split == "all" else config.split, config.limit or None)
        if config.dry_run:
            return _say_what_would_be_done(request, selection)
        if config.incremental or config.retry:
            return _score_what_is_left(request, selection, scratch)
        return _score_plan(request, selection, scratch)


class Request(NamedTuple):
    """What one call of the program is to do, and with what."""

    config: ScoreConfig
    root: str
    ensemble: Ensemble
    engine: Engine


def _score_plan(request: Request, selection: Selection, scratch: str) -> int:
    """All of the selection as one run, begun now or before."""
    config, root, ensemble = request.config, request.root, request.ensemble
    hash_, studies = runs.plan_hash(selection, ensemble.fingerprint)
    if not studies:
        raise ConfigError(f"{config.studies or config.archive}: no studies in split {config.split}")
    run = runs.find_run(root, hash_)
    if run and run.is_complete():
        return _nothing_to_do(run, studies)
    _check_weights(ensemble)
    if run is None:
        _try_some(request, selection, studies)
    with locked(root) as lock:
        run = runs.find_run(root, hash_) or _new_run(request, hash_)
        if run.is_complete():  # by the one who held the lock until now
            return _nothing_to_do(run, studies)
        if storage.stat(run.studies) is None:
            _freeze(request, run, selection, scratch)
        return _score_run(request, run, lock)


def _score_what_is_left(request: Request, selection: Selection, scratch: str) -> int:
    """First the runs of these models that broke, each on its own list; then a run on what is not done, or to retry."""
    config, ensemble = request.config, request.ensemble
    _check_weights(ensemble)
    with locked(request.root) as lock:
        broken = runs.unfinished(request.root, ensemble.fingerprint)
        statuses = [_score_run(request, run, lock) for run in broken]
        selection = selection.where(read_forgotten(request.root).is_kept)
        left = _left(selection, read_ledger(request.root, ensemble.fingerprint), config.retry)
        hash_, studies = runs.plan_hash(left, ensemble.fingerprint)
        if not studies:
            console.out().print("Nothing left: " + ("no study to retry." if config.retry else "every study is scored."))
            return max(statuses, default=0)
        if not config.retry:
            _try_some(request, left, studies)
        run = _new_run(request, hash_)
        _freeze(request, run, left, scratch)
        return max(*statuses, _score_run(request, run, lock), 0)


def _left(selection: Selection, ledger: Ledger, retry: Sequence[str]) -> Selection:
    if retry:
        return selection.where(lambda studies: ledger.is_to_retry(studies, retry))
    return selection.where(lambda studies: ~ledger.is_done(studies))


def _say_what_would_be_done(request: Request, selection: Selection) -> int:
    """Counts of new, changed, retryable and done studies; nothing is written."""
    ledger = read_ledger(request.root, request.ensemble.fingerprint)
    selection = selection.where(read_forgotten(request.root).is_kept)
    counts: Counter = Counter()
    for studies in selection.batches():
        done, known = ledger.is_done(studies), ledger.is_known(studies)
        retry = ledger.is_to_retry(studies, [RETRYABLE]) & ~done
        counts["done"] += int(done.sum())
        counts["new"] += int((~known).sum())
        counts["to retry"] += int(retry.sum())
        counts["changed"] += int((known & ~done & ~retry).sum())
    broken = runs.unfinished(request.root, request.ensemble.fingerprint)
    out = console.out()
    out.print(f"{counts.total():,} studies: " + ", ".join(f"{counts[word]:,} {word}" for word in _WORDS))
    out.print(f"Runs to resume: {', '.join(run.run_id for run in broken) or 'none'}\nNothing was written.")
    return 0


_WORDS = ("new", "changed", "to retry", "done")


def _check_weights(ensemble: Ensemble) -> None:
    """A broken copy is a refusal, not a broken run."""
    for model in ensemble.models:
        model.read_weights()


def _new_run(request: Request, hash_: str) -> Run:
    plan = {
        "fingerprint": request.ensemble.fingerprint,
        "findings": request.ensemble.findings,
        "settings": asdict(request.config),
    }
    return runs.new_run(request.root, hash_, plan)


def _freeze(request: Request, run: Run, selection: Selection, scratch: str) -> None:
    home = storage.join(request.root, "index", run.run_id)
    selection = replace(selection, table=keep_source(selection.table, scratch, home))
    runs.freeze(run, selection.where(read_forgotten(request.root).is_kept))


def _nothing_to_do(run: Run, studies: int) -> int:
    console.out().print(f"Nothing to do: run {run.run_id} has scored these {studies:,} studies with these models.")
    return 0


def _score_run(request: Request, run: Run, lock: Lock) -> int:
    """Score what the frozen list has and no part holds; reconcile, publish, account."""
    started = datetime.now(UTC)
    config, ensemble = request.config, request.ensemble
    studies = StudyTable(run.studies).rows
    before = runs.done_ids(run)
    console.log(f"score: run {run.run_id}, {studies:,} studies" + (f", {len(before):,} done before" if before else ""))
    derived = 0 if len(before) == studies else _derive(request, run, before)
    done = runs.done_ids(run) if derived else before
    work = _Work()
    if len(done) < studies:
        with console.progress("scoring", studies - len(done)) as advance:
            for receipt in request.engine(Job(run, done, ensemble, config)):
                advance(receipt.studies)
                work.add(receipt)
    lock.check()
    counts = runs.publish(run)
    account = {
        "run_id": run.run_id,
        "studies": studies,
        "studies_per_second": work.studies_per_second,
        "seconds": work.seconds,
        "scored_before_resume": len(before),
        "derived": derived,
        "counts": dict(counts),
        "fingerprint": ensemble.fingerprint,
        "views_fingerprint": ensemble.views_fingerprint,
        "findings": ensemble.findings,
        "models": [_model_account(model) for model in ensemble.models],
        "settings": asdict(config),
        "device": work.computed_on.rpartition(" ")[0] or None,
        "precision": work.computed_on.rpartition(" ")[2] or None,
        "stage_seconds": {stage: round(seconds, 3) for stage, seconds in work.stages.items()},
        "versions": _versions(),
        "start": started.isoformat(timespec="seconds"),
        "end": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    storage.write(run.account, json.dumps(account, indent=2).encode() + b"\n")
    _print_account(run, account, counts)
    failed = sum(count for status, count in counts.items() if status.startswith("failed"))
    if studies >= TRIED_FIRST and failed > config.max_failed_fraction * studies and not config.retry:
        console.log(f"score: {failed:,} of {studies:,} studies failed, more than --max_failed_fraction allows")
        return TOO_MANY_FAILED
    return 0


def _derive(request: Request, run: Run, done: IdSet) -> int:
    """Write parts of what other thresholds of the same networks have scored; the number of studies."""
    wanted = IdSet.union(
        IdSet(version for version, is_done in zip(versions(studies), done.contains(ids), strict=True) if not is_done)
        for studies in StudyTable(run.studies).batches(["study_id", "study_digest"])
        for ids in [studies["study_id"].to_pylist()]
    )
    derived = 0
    for rows in derived_rows(request.root, request.ensemble, wanted):
        derived += write_part(score_table(rows, request.ensemble.findings), run.parts).studies
    if derived:
        console.log(f"score: {derived:,} studies derived from rows of the same networks, no image opened")
    return derived


def _try_some(request: Request, selection: Selection, studies: int) -> None:
    """Fetch and decode a few studies before anything is written: a wrong archive should cost a minute, not a night."""
    chosen = random.Random(0).sample(range(studies), min(TRIED_FIRST, studies))
    failures: list[str] = []
    before, ensemble, allowed = 0, request.ensemble, max(0.5, request.config.max_failed_fraction)
    isolated = Isolated(decode_view, request.config.decode_timeout_s)
    with Reader(selection.table.seek_points) as reader, isolated as decode:
        for batch in selection.batches():
            places = sorted(place - before for place in chosen if 0 <= place - before < batch.num_rows)
            before += batch.num_rows
            for row in batch.take(pa.array(places, pa.int64())).to_pylist():
                prepared = prepare_study(Study.from_row(row), reader, ensemble, decode)
                if prepared.row["status"] == "failed":
                    failures.append(prepared.row["detail"])
    if len(failures) > allowed * len(chosen):
        raise RunError(
            f"{selection.table.metadata['archive']}: {len(failures)} of {len(chosen)} studies tried at random cannot "
            f"be read, so nothing was started; the first: {failures[0]}"
        )


class _Work:
    """What the receipts add up to: stages, wall time, and the steady rate after the first receipt."""

    def __init__(self) -> None:
        self.stages: Counter = Counter()
        self.computed_on = ""
        self._start = time.monotonic()
        self._first = self._last = 0.0
        self._studies = self._after_first = 0

    def add(self, receipt: Receipt) -> None:
        self.stages.update(receipt.seconds)
        self.computed_on = receipt.computed_on
        self._last = time.monotonic()
        if self._first:
            self._after_first += receipt.studies
        else:
            self._first = self._last
        self._studies += receipt.studies

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


def _model_account(model: Any) -> Mapping[str, Any]:
    card = model.card
    return {
        "url": model.url,
        "task": card.task,
        "architecture": card.architecture,
        "weights_sha256": card.weights_sha256,
        "archive": card.facts.get("archive"),
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
