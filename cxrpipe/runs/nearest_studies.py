"""The studies of a score root that are nearest to one study by the feature vectors of one member."""

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.join import names_of
from cxrpipe.evaluation.neighbours import Neighbour, nearest
from cxrpipe.records import CompleteRuns
from cxrpipe.records.stored_vectors import read_embedded, refuse_none, with_vectors
from cxrpipe.records.vectors import Vectors
from cxrpipe.runs.forgotten import Forgotten
from cxrpipe.runs.root import ScoreRoot

Row = dict[str, Any]


class NearestStudies(NamedTuple):
    """A study and its neighbours. The rows have ids, `prob` and `consensus` of every finding, and `run_id`."""

    member: str
    """Name of the model whose feature vectors were compared."""
    study: Neighbour
    """The study itself, at distance 0, with its first view that has a vector."""
    neighbours: list[Neighbour]
    """The nearest first."""

    def is_same_patient(self, neighbour: Neighbour) -> bool:
        patient_id = self.study.row["patient_id"]
        return patient_id is not None and neighbour.row["patient_id"] == patient_id


def nearest_studies(
    root: ScoreRoot, study_id: str, top: int, *, member: str | None = None, fingerprint: str | None = None
) -> NearestStudies:
    """Compare a study with all others of the root. No forgotten patient is among them.

    member       name of the model whose vectors are compared; None: the first that has vectors
    fingerprint  see `stored_vectors.with_vectors`

    ConfigError where the root or the study has no vectors.
    """
    runs, forgotten = with_vectors(root.complete_runs(), fingerprint), root.forgotten()
    row = _row(runs, study_id, forgotten)
    place = _place_of(member, runs, row)
    views = row.pop("feature_vectors")
    of_views = [of_view[place] for of_view in views if of_view is not None]
    neighbours = nearest(np.array(of_views, np.float32), _others(runs, study_id, place, forgotten), top)
    first = next(number for number, of_view in enumerate(views) if of_view is not None)
    return NearestStudies(names_of(runs.newest.members)[place], Neighbour(0.0, first, row), neighbours)


def _row(runs: CompleteRuns, study_id: str, forgotten: Forgotten) -> Row:
    """The row of the study; ConfigError where there is none, or where it has no vectors."""
    refuse_none(runs)
    row, run_id = runs.find(study_id, [*_columns(runs), "feature_vectors"])
    if not forgotten.is_kept(pa.table({"patient_id": pa.array([row["patient_id"]], pa.string())}))[0]:
        raise ConfigError(f"{runs.root}: the patient of study {study_id!r} is forgotten")
    if row.get("feature_vectors") is None:
        raise ConfigError(f"{runs.root}: no view of study {study_id!r} was scored, so it has no feature vector")
    return row | {"run_id": run_id}


def _place_of(member: str | None, runs: CompleteRuns, row: Row) -> int:
    """The place of the member whose vectors are compared, among the members of the runs."""
    scored = next(of_view for of_view in row["feature_vectors"] if of_view is not None)
    names = names_of(runs.newest.members)
    having = {name: place for place, name in enumerate(names) if scored[place] is not None}
    if not having:
        raise ConfigError(f"{runs.root}: no model there has feature vectors; an ONNX file, for example, has none")
    member = member or next(iter(having))
    if member not in having:
        raise ConfigError(
            f"{runs.root} holds no feature vectors of --member {member}; expected one of {', '.join(having)}"
        )
    return having[member]


def _others(runs: CompleteRuns, study_id: str, member: int, forgotten: Forgotten) -> Iterator[tuple[pa.Table, Vectors]]:
    """The rows of all other studies and the vectors of their views; no forgotten patient is among them."""

    def is_other(rows: pa.Table) -> np.ndarray:
        is_kept: np.ndarray = forgotten.is_kept(rows) & pc.not_equal(rows["study_id"], study_id).to_numpy().astype(bool)
        return is_kept

    for report, rows, members in read_embedded(runs, _columns(runs), is_other):
        yield rows.append_column("run_id", pa.array([report.run_id] * rows.num_rows)), members[member]


def _columns(runs: CompleteRuns) -> list[str]:
    of_findings = [f"{name}_{finding}" for finding in runs.newest.findings for name in ("prob", "consensus")]
    return ["study_id", "patient_id", *of_findings]
