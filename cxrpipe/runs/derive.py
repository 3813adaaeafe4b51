"""Derives new rows from old ones: where only aggregation, calibration or thresholds changed, no image is opened.

A row holds the uncalibrated answers of the members to every view (`views.member_probs`). All other columns of a finding
follow from these answers, by the same function as in scoring.
"""

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import pyarrow as pa

from cxrpipe import console, storage
from cxrpipe.models.ensemble import Ensemble
from cxrpipe.records import REASONS, CompleteRuns, RunReport
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.ledger import versions
from cxrpipe.runs.plan import VERSION
from cxrpipe.runs.root import Run
from cxrpipe.scoring.findings import finding_columns
from cxrpipe.scoring.parts import score_table, write_part
from cxrpipe.scoring.prepare import Row

_BATCH = 1_000


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
        console.log(f"{derived:,} studies derived from rows of the same networks, no image opened")
    return derived


def derived_rows(runs: CompleteRuns, ensemble: Ensemble, wanted: IdSet) -> Iterator[pa.Table]:
    """Rows for the studies of `wanted` (see `ledger.versions`) that runs of the same networks hold.

    Every study comes once, derived from its newest row. A study is left out where its reason is retryable.
    """
    taken = np.zeros(len(wanted), bool)
    for report in reversed(sources(runs, ensemble)):
        for url in runs.files(report):
            yield from _derive(storage.read_table(url), ensemble, wanted, taken)


def sources(runs: CompleteRuns, ensemble: Ensemble) -> list[RunReport]:
    """The runs of the same networks under another fingerprint, oldest first: from their rows others can be derived."""
    same_networks = (report for report in runs if report.views_fingerprint == ensemble.views_fingerprint)
    return [report for report in same_networks if report.fingerprint != ensemble.fingerprint]


def _derive(rows: pa.Table, ensemble: Ensemble, wanted: IdSet, taken: np.ndarray) -> Iterator[pa.Table]:
    for start in range(0, rows.num_rows, _BATCH):
        batch = rows.slice(start, _BATCH)
        chosen = []
        for number, (place, reason) in enumerate(
            zip(wanted.places(versions(batch)), batch["reason"].to_pylist(), strict=True)
        ):
            retryable = reason is not None and REASONS[reason].retryable
            if place >= 0 and not taken[place] and not retryable:
                taken[place] = True
                chosen.append(number)
        if chosen:
            yield _derived(batch.take(chosen), ensemble)


def _derived(rows: pa.Table, ensemble: Ensemble) -> pa.Table:
    """The vectors stay as they are: as Python's numbers a thousand studies would take gigabytes."""
    if not ensemble.embed:
        return derive(rows.to_pylist(), ensemble)
    vectors = rows["feature_vectors"].combine_chunks()
    return derive(rows.drop_columns(["feature_vectors"]).to_pylist(), ensemble, vectors)


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
