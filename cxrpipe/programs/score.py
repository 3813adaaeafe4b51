"""The program `score`: select, plan, freeze, score, reconcile, publish, report. An engine runs the stages."""

import contextlib
import functools
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from cxrpipe import console, storage
from cxrpipe.archives.index import Source, open_source
from cxrpipe.config import ScoreConfig
from cxrpipe.errors import ConfigError, ExitStatus
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.programs.index import print_counts
from cxrpipe.records import INTERNAL_ERROR, REASONS
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.models import log_models
from cxrpipe.runs.derive import studies_of_sources, write_derived
from cxrpipe.runs.engine import Engine, Job
from cxrpipe.runs.ledger import RETRYABLE, Ledger, versions
from cxrpipe.runs.lock import Lock
from cxrpipe.runs.plan import Selection, freeze, new_run, plan_hash
from cxrpipe.runs.progress import Bar
from cxrpipe.runs.publish import publish
from cxrpipe.runs.reports import Work, model_reports, print_report, reported_settings, run_report
from cxrpipe.runs.resume import done_ids, renew
from cxrpipe.runs.root import Run, RunPlan, ScoreRoot
from cxrpipe.runs.trial import TRIED_FIRST, try_some
from cxrpipe.runs.watch import FaultWatch

_DECIDE_THE_MODELS = ("models", "segmenter", "explain", "tta", "embed")
"""Settings that name what scores. The fingerprint tells versions of it apart."""


def run(config: ScoreConfig) -> int:
    from cxrpipe.on_ray.score import engine  # Ray takes a second to import: not for a caller with another engine

    return score_archive(config, engine)


def score_archive(config: ScoreConfig, engine: Engine, lock: Lock | None = None) -> ExitStatus:
    """Score the studies that the settings name, exactly once; the exit status.

    lock  of the score root, where the caller holds it
    """
    if unknown := set(config.retry).difference(REASONS, [RETRYABLE]):
        raise ConfigError(f"retry {', '.join(sorted(unknown))}; expected {RETRYABLE} or some of {', '.join(REASONS)}")
    ensemble = open_ensemble(
        config.models, config.segmenter, explain=config.explain, tta=config.tta, embed=config.embed
    )
    log_models(model_reports(ensemble, private=False))
    with open_source(config, functools.partial(print_counts, kept=False)) as source:
        if source.table.is_pseudonymised:
            config.check_pseudonyms()
        root = ScoreRoot.of_table(config.out, source.table, lock)
        scorer = Scorer(config, root, ensemble, engine, source)
        scorer.name_runs_of_other_versions()
        selection = Selection(source.table, None if config.split == "all" else config.split, config.limit or None)
        if config.dry_run:
            return scorer.count(selection)
        if config.incremental or config.retry:
            return scorer.score_the_rest(selection)
        return scorer.score_plan(selection)


@dataclass(frozen=True)
class Scorer:
    """Scores the studies of one table into one score root, with one ensemble on one engine."""

    config: ScoreConfig
    root: ScoreRoot
    ensemble: Ensemble
    engine: Engine
    source: Source

    # ---- the three ways ---------------------------------------------------------------------------------------

    def score_plan(self, selection: Selection) -> ExitStatus:
        """Score all of the selection as one run, which an earlier call may have begun."""
        config, root = self.config, self.root
        hash_, studies = plan_hash(selection, self.ensemble.fingerprint)
        if not studies:
            raise ConfigError(f"{config.studies or config.archive}: no studies in split {config.split}")
        run = root.find_run(hash_)
        if run and run.is_complete():
            return _nothing_to_do(run, studies)
        self._check_weights()
        if run is None:
            self._try(selection)
        with root.locked(config.wait_for_lock_s) as lock:
            run = root.find_run(hash_) or self._new_run(hash_)
            if run.is_complete():  # completed by the process that held the lock until now
                return _nothing_to_do(run, studies)
            if storage.stat(run.studies) is None:
                self._freeze(run, selection)
            else:
                self._renew(run)
            return self._score_run(run, lock)

    def score_the_rest(self, selection: Selection) -> ExitStatus:
        """Complete the broken runs of these models, each on its own list; then score what is not done, or to retry."""
        config, root, fingerprint = self.config, self.root, self.ensemble.fingerprint
        self._check_weights()
        with root.locked(config.wait_for_lock_s) as lock:
            broken = root.unfinished_of(fingerprint)
            statuses = [ExitStatus.DONE]
            ledger = root.ledger(fingerprint)
            for run in broken:
                self._renew(run)
                statuses.append(self._score_run(run, lock, ledger.with_reason(INTERNAL_ERROR)))
            if broken:
                ledger = root.ledger(fingerprint)
            selection = selection.where(root.forgotten().is_kept)
            left = _left(selection, ledger, config.retry)
            hash_, studies = plan_hash(left, fingerprint)
            if not studies:
                nothing = "no study to retry." if config.retry else "every study is scored."
                console.out().print(f"Nothing left: {nothing}")
                return max(statuses)
            if not config.retry:
                self._try(left.where(lambda studies: ~ledger.is_to_retry(studies, [RETRYABLE])))
            run = self._new_run(hash_)
            self._freeze(run, left)
            return max(*statuses, self._score_run(run, lock, ledger.with_reason(INTERNAL_ERROR)))

    def count(self, selection: Selection) -> ExitStatus:
        """Print how many studies are new, changed, to retry and done. Nothing is written."""
        ledger = self.root.ledger(self.ensemble.fingerprint)
        selection = selection.where(self.root.forgotten().is_kept)
        counts: Counter[str] = Counter()
        for studies in selection.batches():
            done, known = ledger.is_done(studies), ledger.is_known(studies)
            retry = ledger.is_to_retry(studies, [RETRYABLE]) & ~done
            counts["new"] += int((~known).sum())
            counts["changed"] += int((known & ~done & ~retry).sum())
            counts["to retry"] += int(retry.sum())
            counts["done"] += int(done.sum())
        broken = self.root.unfinished_of(self.ensemble.fingerprint)
        words = ("new", "changed", "to retry", "done")
        out = console.out()
        out.print(f"{counts.total():,} studies: " + ", ".join(f"{counts[word]:,} {word}" for word in words))
        out.print(f"Runs to resume: {', '.join(run.run_id for run in broken) or 'none'}\nNothing was written.")
        return ExitStatus.DONE

    def name_runs_of_other_versions(self) -> None:
        """Log the unfinished runs that the same settings began with other weights, thresholds or code."""
        for run, plan in self.root.unfinished():
            settings = reported_settings(self.config, self.source.table)
            same = all(_listed(settings[name]) == _listed(plan.settings.get(name)) for name in _DECIDE_THE_MODELS)
            if same and plan.fingerprint != self.ensemble.fingerprint:
                console.log(f"run {run.run_id} of another version of these models is unfinished and stays so")

    # ---- before a run -----------------------------------------------------------------------------------------

    def _check_weights(self) -> None:
        """Refuse a broken copy of the weights now, before a run breaks over it."""
        for model in self.ensemble.models:
            model.read_weights()

    def _try(self, selection: Selection) -> None:
        """Try some of the studies, but none of runs from which rows can be derived: their images have been tried."""
        known = studies_of_sources(self.root.complete_runs(), self.ensemble)
        left = selection.where(lambda studies: ~known.contains(versions(studies)))
        if studies := left.count():
            try_some(left, studies, self.ensemble, self.config)

    def _new_run(self, hash_: str) -> Run:
        ensemble, settings = self.ensemble, reported_settings(self.config, self.source.table)
        return new_run(self.root, RunPlan(hash_, ensemble.fingerprint, tuple(ensemble.findings), settings))

    def _freeze(self, run: Run, selection: Selection) -> None:
        wanted = selection.where(self.root.forgotten().is_kept)
        freeze(run, wanted, self._keep_seek_points(run))

    def _renew(self, run: Run) -> None:
        """Update the list of a broken run, unless it lists another archive that is scored into the same root."""
        if StudyTable(run.studies).metadata["archive"] != self.source.table.metadata["archive"]:
            return
        if left_out := renew(run, self.source.table, self._keep_seek_points(run)):
            console.log(f"run {run.run_id}: {left_out:,} studies have changed or are gone; later runs score them")

    def _keep_seek_points(self, run: Run) -> str:
        return self.source.keep_seek_points(storage.join(self.root.url, "index", run.run_id))

    # ---- a run ------------------------------------------------------------------------------------------------

    def _score_run(self, run: Run, lock: Lock, known_faulty: IdSet | None = None) -> ExitStatus:
        """Score the studies of the frozen list that are in no part; reconcile, publish, report.

        known_faulty  studies of `internal_error` rows of earlier runs
        """
        with console.about(run=run.run_id):
            start = datetime.now(UTC)
            studies = StudyTable(run.studies).rows
            before = done_ids(run)
            done_before = f", {len(before):,} done before" if before else ""
            console.log(f"run {run.run_id}, {studies:,} studies{done_before}")
            derived = 0 if len(before) == studies else write_derived(run, self.ensemble, before)
            work = self._work(run, done_ids(run) if derived else before, known_faulty)
            lock.check()
            counts = publish(run, lock.check)  # once more: merging a million rows takes half a minute
            report = run_report(
                run,
                work,
                counts,
                self.ensemble,
                self.config,
                scored_before_resume=len(before),
                derived=derived,
                start=start,
            )
            storage.write(run.report, report.to_json())
            print_report(run, report)
            return self._status(studies, counts)

    def _work(self, run: Run, done: IdSet, known_faulty: IdSet | None) -> Work:
        """Let the engine score the studies that are not done, and watch it."""
        table, work = StudyTable(run.studies), Work()
        left = table.rows - len(done)
        if not left:
            return work
        watch = FaultWatch(table.rows, len(done), known_faulty, table.is_pseudonymised)
        with console.progress("scoring", left) as advance:
            bar = Bar(left, advance)
            job = Job(run, done, self.ensemble, self.config, bar.predicted)
            with contextlib.closing(self.engine(job)) as receipts:
                for receipt in receipts:
                    bar.landed(receipt.studies)
                    work.add(receipt)
                    watch.add(receipt)
        return work

    def _status(self, studies: int, counts: Counter[str]) -> ExitStatus:
        failed = sum(count for status, count in counts.items() if status.startswith("failed"))
        too_many = failed > self.config.max_failed_fraction * studies
        if studies >= TRIED_FIRST and too_many and not self.config.retry:
            console.log(f"{failed:,} of {studies:,} studies failed, more than --max-failed-fraction allows")
            return ExitStatus.TOO_MANY_FAILED
        return ExitStatus.DONE


def _left(selection: Selection, ledger: Ledger, retry: Sequence[str]) -> Selection:
    if retry:
        return selection.where(lambda studies: ledger.is_to_retry(studies, retry))
    return selection.where(lambda studies: ~ledger.is_done(studies))


def _nothing_to_do(run: Run, studies: int) -> ExitStatus:
    console.out().print(f"Nothing to do: run {run.run_id} has scored these {studies:,} studies with these models.")
    return ExitStatus.DONE


def _listed(value: object) -> object:
    """A setting as JSON has it. A plan may be older than flags, and than several segmenters."""
    match value:
        case tuple():
            return list(value)
        case str():
            return [value]
    return value or []
