"""`evaluate`: near-duplicates across the splits of a study table, where the score root holds feature vectors."""

from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import console
from cxrpipe.evaluation import near_duplicates
from cxrpipe.evaluation.figures import DuplicatePair, NearDuplicates
from cxrpipe.evaluation.join import join_all, names_of
from cxrpipe.evaluation.near_duplicates import MOST_VIEWS, EmbeddedViews
from cxrpipe.records import CompleteRuns
from cxrpipe.records.stored_vectors import holds_vectors, read_embedded
from cxrpipe.records.study_table import StudyTable
from cxrpipe.records.vectors import Vectors
from cxrpipe.runs.root import ScoreRoot


def search(runs: CompleteRuns, table: StudyTable) -> NearDuplicates | None:
    """Search all scored studies of the table, whatever split is evaluated. None, and a line that says why, where this
    cannot be done; no line where the runs hold no vectors."""
    if not holds_vectors(runs):
        return None
    if (views := _count(runs)) > MOST_VIEWS:
        console.log(f"near-duplicates across splits not sought: {views:,} views; at most {MOST_VIEWS:,} are compared")
        return None
    if (read := _read(runs, table)) is None:
        return None
    member, studies, embedded = read
    splits = pc.unique(studies["split"]).to_pylist()
    if len(splits) < 2:
        console.log(f"near-duplicates across splits not sought: vectors of split {', '.join(splits)} alone")
        return None
    compared = len(embedded.vectors)
    with console.progress("comparing views", compared) as advance:
        duplicates = near_duplicates.find(embedded, advance)
    if duplicates is None:
        console.log(f"near-duplicates across splits not sought: {compared:,} views are too few, or too alike")
        return None
    ids, split = studies["study_id"].to_pylist(), studies["split"].to_pylist()
    pairs = tuple(
        DuplicatePair(pair.distance, ids[pair.study], split[pair.study], ids[pair.other], split[pair.other])
        for pair in duplicates.nearest
    )
    return NearDuplicates(member, compared, duplicates.compared, duplicates.limit, duplicates.studies, pairs)


def warn(duplicates: NearDuplicates) -> None:
    """Print a line about near-duplicates, if there are any."""
    if duplicates.studies:
        first = duplicates.nearest[0]
        console.log(
            f"WARNING: near-duplicates of different patients in two splits: {duplicates.studies:,} pairs of studies, "
            f"such as {first.study_id} ({first.split}) and {first.other_study_id} ({first.other_split}); if a pair "
            "shows one patient, the figures are too good; the report lists the nearest pairs"
        )


def _count(runs: CompleteRuns) -> int:
    return sum(pc.sum(rows["n_views_ok"]).as_py() or 0 for _, rows in runs.newest_rows(only=["study_id", "n_views_ok"]))


class _Read(NamedTuple):
    member: str
    """The first model that has vectors."""
    studies: pa.Table
    """The studies of the table of which it has some, with `split`."""
    views: EmbeddedViews


def _read(runs: CompleteRuns, table: StudyTable) -> _Read | None:
    """The vectors of one member, and no more in memory; None where no member has any."""
    member: int | None = None
    batches: list[tuple[pa.Table, Vectors]] = []
    for _, rows, members in read_embedded(runs, [], ScoreRoot.at(runs.root).forgotten().is_kept):
        if member is None:
            member = next((place for place, vectors in enumerate(members) if len(vectors.values)), None)
        if member is not None and len(members[member].values):
            batches.append((rows, members[member]))
    if member is None:
        return None
    starts = np.cumsum([0, *(rows.num_rows for rows, _ in batches)])[:-1]
    study = np.concatenate([start + vectors.study for start, (_, vectors) in zip(starts, batches, strict=True)])
    values = np.concatenate([vectors.values for _, vectors in batches])
    scored = pa.concat_tables(rows for rows, _ in batches)
    joined = join_all(scored.append_column("place", pa.array(np.arange(scored.num_rows))), table)
    of_place = np.full(scored.num_rows, -1)
    of_place[joined["place"].to_numpy()] = np.arange(joined.num_rows)
    known = of_place[study] >= 0
    study = of_place[study][known]
    patient = _numbers(pc.coalesce(joined["patient_id"], joined["study_id"]))  # no patient: one of its own
    views = EmbeddedViews(values[known], study, patient[study], _numbers(joined["split"])[study])
    return _Read(names_of(runs.newest.members)[member], joined, views)


def _numbers(names: pa.ChunkedArray) -> np.ndarray:
    """(N,) int: equal names have equal numbers."""
    return np.asarray(names.combine_chunks().dictionary_encode().indices.to_numpy())
