"""The program `score`, whatever runs its stages: select, plan, freeze, score, reconcile, publish, account."""

import contextlib
import json
from collections import Counter
from collections.abc import Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import NamedTuple

from cxrpipe import console, storage
from cxrpipe.archives.index import Source, open_source
from cxrpipe.config import ScoreConfig
from cxrpipe.errors import ConfigError
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.programs.index import print_counts
from cxrpipe.records import INTERNAL_ERROR, REASONS
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.accounts import Work, ensemble_account, print_account, settings_account, versions_account
from cxrpipe.runs.derive import derived_rows, sources
from cxrpipe.runs.engine import Engine, Job
from cxrpipe.runs.forgotten import read_forgotten
from cxrpipe.runs.ledger import RETRYABLE, Ledger, read_ledger, versions
from cxrpipe.runs.lock import Lock, locked
from cxrpipe.runs.progress import Bar
from cxrpipe.runs.root import Run, Selection, done_ids, find_run, freeze, new_run, plan_hash, publish, renew, unfinished
from cxrpipe.runs.trial import TRIED_FIRST, try_some
from cxrpipe.runs.watch import FaultWatch
from cxrpipe.scoring.parts import score_table, write_part

TOO_MANY_FAILED = 3


def run(config: ScoreConfig) -> int:
    from cxrpipe.on_ray.score import engine  # Ray takes a second to import: not for whoever brings another engine

    return score_archive(config, engine)


def score_archive(config: ScoreConfig, engine: Engine, lock: Lock | None = None) -> int:
    """Score what the settings ask for, exactly once; the exit status of the contract.

    lock  of the score root, where the caller holds it
    """
    if unknown := set(config.retry).difference(REASONS, [RETRYABLE]):
        raise ConfigError(f"retry {', '.join(sorted(unknown))}; expected {RETRYABLE} or some of {', '.join(REASONS)}")
    root = storage.normalise(config.out)
    ensemble = open_ensemble(config.models, config.segmenter, explain=config.explain, tta=config.tta)
    request = Request(config, root, ensemble, engine, lock)
    with open_source(config, print_counts) as source:
        selection = Selection(source.table, None if config.split == "all" else config.split, config.limit or None)
        if config.dry_run:
            return _say_what_would_be_done(request, selection)
        if config.incremental or config.retry:
            return _score_what_is_left(request, selection, source)
        return _score_plan(request, selection, source)


class Request(NamedTuple):
    """What one call of the program is to do, and with what."""

    config: ScoreConfig
    root: str
    ensemble: Ensemble
    engine: Engine
    lock: Lock | None = None

    def locked(self) -> AbstractContextManager[Lock]:
        return contextlib.nullcontext(self.lock) if self.lock else locked(self.root)


def _score_plan(request: Request, selection: Selection, source: Source) -> int:
    """All of the selection as one run, begun now or before."""
    config, root, ensemble = request.config, request.root, request.ensemble
    hash_, studies = plan_hash(selection, ensemble.fingerprint)
    if not studies:
        raise ConfigError(f"{config.studies or config.archive}: no studies in split {config.split}")
    run = find_run(root, hash_, _frozen_lists(selection.table))
    if run and run.is_complete():
        return _nothing_to_do(run, studies)
    _check_weights(ensemble)
    if run is None and not sources(root, ensemble):  # whose images could be read
        try_some(selection, studies, ensemble, config)
    with request.locked() as lock:
        run = find_run(root, hash_, _frozen_lists(selection.table)) or _new_run(request, selection.table, hash_)
        if run.is_complete():  # by the one who held the lock until now
            return _nothing_to_do(run, studies)
        if storage.stat(run.studies) is None:
            _freeze(request, run, selection, source)
        else:
            _renew(request, run, source)
        return _score_run(request, run, lock)


def _score_what_is_left(request: Request, selection: Selection, source: Source) -> int:
    """First the runs of these models that broke, each on its own list; then a run on what is not done, or to retry."""
    config, ensemble = request.config, request.ensemble
    _check_weights(ensemble)
    with request.locked() as lock:
        broken = unfinished(request.root, ensemble.fingerprint, _frozen_lists(selection.table))
        statuses = []
        ledger = read_ledger(request.root, ensemble.fingerprint)
        for run in broken:
            _renew(request, run, source)
            statuses.append(_score_run(request, run, lock, ledger.with_reason(INTERNAL_ERROR)))
        if broken:
            ledger = read_ledger(request.root, ensemble.fingerprint)
        selection = selection.where(read_forgotten(request.root).is_kept)
        left = _left(selection, ledger, config.retry)
        hash_, studies = plan_hash(left, ensemble.fingerprint)
        if not studies:
            console.out().print("Nothing left: " + ("no study to retry." if config.retry else "every study is scored."))
            return max(statuses, default=0)
        if not config.retry:
            fresh = left.where(lambda studies: ~ledger.is_to_retry(studies, [RETRYABLE]))
            try_some(fresh, fresh.count(), ensemble, config)
        run = _new_run(request, selection.table, hash_)
        _freeze(request, run, left, source)
        return max(*statuses, _score_run(request, run, lock, ledger.with_reason(INTERNAL_ERROR)), 0)


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
    broken = unfinished(request.root, request.ensemble.fingerprint, _frozen_lists(selection.table))
    out = console.out()
    out.print(f"{counts.total():,} studies: " + ", ".join(f"{counts[word]:,} {word}" for word in _WORDS))
    out.print(f"Runs to resume: {', '.join(run.run_id for run in broken) or 'none'}\nNothing was written.")
    return 0


_WORDS = ("new", "changed", "to retry", "done")


def _check_weights(ensemble: Ensemble) -> None:
    """A broken copy is a refusal, not a broken run."""
    for model in ensemble.models:
        model.read_weights()


def _new_run(request: Request, table: StudyTable, hash_: str) -> Run:
    plan = {
        "fingerprint": request.ensemble.fingerprint,
        "findings": request.ensemble.findings,
        "settings": settings_account(request.config, table),
    }
    return new_run(request.root, hash_, plan, _frozen_lists(table))


def _freeze(request: Request, run: Run, selection: Selection, source: Source) -> None:
    wanted = selection.where(read_forgotten(request.root).is_kept)
    freeze(run, wanted, _keep_seek_points(request, run, source))


def _renew(request: Request, run: Run, source: Source) -> None:
    """The list of a broken run may be of another archive that is scored into this root: then it stays as it is."""
    if StudyTable(run.studies).metadata["archive"] != source.table.metadata["archive"]:
        return
    if left_out := renew(run, source.table, _keep_seek_points(request, run, source)):
        console.log(f"run {run.run_id}: {left_out:,} studies are not what they were; later runs score them")


def _keep_seek_points(request: Request, run: Run, source: Source) -> str:
    return source.keep_seek_points(storage.join(request.root, "index", run.run_id))


def _frozen_lists(table: StudyTable) -> str | None:
    """Where the list of a run lies if not in its root: beside a table that is private."""
    return storage.join(table.url.rpartition("/")[0], "frozen") if table.is_pseudonymised else None


def _nothing_to_do(run: Run, studies: int) -> int:
    console.out().print(f"Nothing to do: run {run.run_id} has scored these {studies:,} studies with these models.")
    return 0


def _score_run(request: Request, run: Run, lock: Lock, known_faulty: IdSet | None = None) -> int:
    with console.about(run=run.run_id):
        return _score_open(request, run, lock, known_faulty)


def _score_open(request: Request, run: Run, lock: Lock, known_faulty: IdSet | None) -> int:
    """Score what the frozen list has and no part holds; reconcile, publish, account.

    known_faulty  studies of `internal_error` rows of earlier runs
    """
    started = datetime.now(UTC)
    config, ensemble = request.config, request.ensemble
    table = StudyTable(run.studies)
    studies = table.rows
    before = done_ids(run)
    console.log(f"run {run.run_id}, {studies:,} studies" + (f", {len(before):,} done before" if before else ""))
    derived = 0 if len(before) == studies else _derive(request, run, before)
    done = done_ids(run) if derived else before
    work = Work()
    if len(done) < studies:
        watch = FaultWatch(studies, len(done), known_faulty, table.is_pseudonymised)
        with console.progress("scoring", studies - len(done)) as advance:
            bar = Bar(studies - len(done), advance)
            with contextlib.closing(request.engine(Job(run, done, ensemble, config, bar.predicted))) as receipts:
                for receipt in receipts:
                    bar.landed(receipt.studies)
                    work.add(receipt)
                    watch.add(receipt)
    lock.check()
    counts = publish(run)
    account = {
        "run_id": run.run_id,
        "studies": studies,
        **work.account(),
        "scored_before_resume": len(before),
        "derived": derived,
        "counts": dict(counts),
        **ensemble_account(ensemble, table.is_pseudonymised),
        "settings": settings_account(config, table),
        "versions": versions_account(),
        "start": started.isoformat(timespec="seconds"),
        "end": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    storage.write(run.account, json.dumps(account, indent=2).encode() + b"\n")
    print_account(run, account)
    failed = sum(count for status, count in counts.items() if status.startswith("failed"))
    if studies >= TRIED_FIRST and failed > config.max_failed_fraction * studies and not config.retry:
        console.log(f"{failed:,} of {studies:,} studies failed, more than --max_failed_fraction allows")
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
        console.log(f"{derived:,} studies derived from rows of the same networks, no image opened")
    return derived
