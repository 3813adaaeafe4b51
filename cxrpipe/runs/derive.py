"""Derives new rows from old ones: where only aggregation, calibration or thresholds changed, no image is opened.

A row holds the uncalibrated answers of the members to every view (`views.member_probs`). All other columns of a finding
follow from these answers, by the same function as in scoring. Where the heads changed, too, the answers follow from
stored feature vectors: see `derive_heads`.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import console, storage
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records import CompleteRuns, RunReport
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.derive_heads import vector_sources
from cxrpipe.runs.ledger import RETRYABLE_REASONS, versions
from cxrpipe.runs.plan import VERSION
from cxrpipe.runs.root import Run
from cxrpipe.scoring.findings import finding_columns
from cxrpipe.scoring.parts import score_table, write_part
from cxrpipe.scoring.prepare import Row


def write_derived(run: Run, ensemble: Ensemble, done: IdSet) -> int:
    """Write parts with the rows that can be derived; the number of studies.

    done  ids of the studies that need no row any more
    """
    wanted = IdSet.union(
        IdSet(version for version, is_done in zip(versions(studies), done.contains(ids), strict=True) if not is_done)
        for studies in StudyTable(run.studies).batches(VERSION)
        for ids in [studies["study_id"].to_pylist()]
    )
    derived = 0
    for rows in derived_rows(run.root.complete_runs(), ensemble, wanted):
        derived += write_part(rows, run.parts).studies
    if derived:
        console.log(f"{derived:,} studies derived from rows of other runs, no image opened")
    return derived


def derived_rows(runs: CompleteRuns, ensemble: Ensemble, wanted: IdSet) -> Iterator[pa.Table]:
    """Rows for the studies of `wanted` (see `ledger.versions`) that follow from the rows of other runs.

    Every study comes once, derived from its newest row. A study is left out where its reason is retryable.
    """
    taken = np.zeros(len(wanted), bool)
    for source in sources(runs, ensemble):
        for rows in _final_rows(runs, source):
            places = wanted.places(versions(rows))
            open_ = places >= 0
            open_[open_] = ~taken[places[open_]]
            rows, places = rows.filter(pa.array(open_)), places[open_]
            usable = source.usable(rows)
            taken[places[usable]] = True
            if usable.any():
                yield source.derive(rows.filter(pa.array(usable)))


def studies_of_sources(runs: CompleteRuns, ensemble: Ensemble) -> IdSet:
    """The studies (see `ledger.versions`) of the runs whose rows can be used. Most of them open no image again."""
    return IdSet.union(
        IdSet(versions(rows))
        for source in sources(runs, ensemble)
        for url in runs.files(source.report)
        for rows in storage.batches(url, VERSION)
    )


class Source(Protocol):
    """A run from whose rows those of an ensemble follow."""

    @property
    def report(self) -> RunReport: ...

    def usable(self, rows: pa.Table) -> np.ndarray:
        """(N,) bool: the rows that hold all that the new rows need."""

    def derive(self, rows: pa.Table) -> pa.Table:
        """The rows that the ensemble would give. All rows are usable."""


def sources(runs: CompleteRuns, ensemble: Ensemble) -> list[Source]:
    """The runs of another fingerprint whose rows can be used: those of the same networks first, the newest first."""
    others = [report for report in runs if report.fingerprint != ensemble.fingerprint]
    same = [report for report in others if report.views_fingerprint == ensemble.views_fingerprint]
    return [
        *(SameNetworks(report, ensemble) for report in reversed(same)),
        *reversed(list(vector_sources(others, ensemble))),
    ]


@dataclass(frozen=True)
class SameNetworks:
    """A run of the same networks: aggregation, calibration or thresholds differ."""

    report: RunReport
    ensemble: Ensemble

    def usable(self, rows: pa.Table) -> np.ndarray:
        return np.ones(rows.num_rows, bool)

    def derive(self, rows: pa.Table) -> pa.Table:
        """The vectors stay as they are: as Python's numbers those of a thousand studies would take gigabytes."""
        if not self.ensemble.embed:
            return derive(rows.to_pylist(), self.ensemble)
        vectors = rows["feature_vectors"].combine_chunks()
        return derive(rows.drop_columns(["feature_vectors"]).to_pylist(), self.ensemble, vectors)


def _final_rows(runs: CompleteRuns, source: Source) -> Iterator[pa.Table]:
    """The rows of a run, at most a thousand at once, without those whose reason is retryable."""
    for url in runs.files(source.report):
        for rows in storage.batches(url):
            yield rows.filter(pc.invert(pc.is_in(rows["reason"], RETRYABLE_REASONS)))


def derive(rows: Sequence[Row], ensemble: Ensemble, vectors: pa.Array | None = None) -> pa.Table:
    """The rows that `ensemble` would give, from rows that the same networks gave.

    vectors  the column `feature_vectors` of these rows, where the ensemble embeds
    """
    views = [[view["member_probs"] for view in row["views"] if view["member_probs"] is not None] for row in rows]
    counts = np.array([len(of_study) for of_study in views])
    shape = (counts.sum(), len(ensemble.members), len(ensemble.findings))
    probs = np.array(list(itertools.chain(*views)), np.float32).reshape(shape)  # null → nan
    columns = finding_columns(ensemble, probs.swapaxes(0, 1), counts)
    if vectors is not None:
        columns["feature_vectors"] = vectors
    renamed = (row | {"fingerprint": ensemble.fingerprint} for row in rows)
    return score_table(renamed, ensemble.findings, columns, embed=ensemble.embed)
