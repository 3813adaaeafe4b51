"""Arrays of one finding from joined rows: targets by the label policy, probabilities, decisions and patients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe.errors import ConfigError
from cxrpipe.evaluation.figures import LEFT_OUT, LabelPolicy


@dataclass(frozen=True, eq=False, kw_only=True)
class Evidence:
    """One finding of a table: n of its N studies have both a label and a probability."""

    finding: str
    rows: np.ndarray  # (n,) int, their rows in the table
    targets: np.ndarray  # (n,) bool
    probs: np.ndarray  # (n,) float32
    consensus: np.ndarray  # (n,) bool
    patients: np.ndarray  # (n,) int, 0..P-1
    patients_in_table: int
    """P of the whole table, the same for all findings: they share their resamples."""
    left_out: int
    unscored: int

    def by_patient(self, values: np.ndarray) -> np.ndarray:
        """Sum over the studies of every patient: (n, C) → (P, C)."""
        columns = [np.bincount(self.patients, column, minlength=self.patients_in_table) for column in values.T]
        return np.stack(columns, axis=1) if columns else np.zeros((self.patients_in_table, 0))


def read_evidence(
    table: pa.Table, findings: Sequence[str], policy: LabelPolicy = LEFT_OUT
) -> tuple[pa.Table, list[Evidence]]:
    """Read the evidence of every finding. Gives the table sorted by study id, too.

    The table is sorted because the order of its rows must not change an interval.

    table  one row per study: study_id, patient_id (null: the study counts as a patient), and for every finding
           prob_<finding> float, consensus_<finding> bool, label_<finding> 1, 0, -1 (uncertain) or null
    """
    columns = ["study_id", "patient_id"]
    for finding in findings:
        columns += [f"prob_{finding}", f"consensus_{finding}", f"label_{finding}"]
    missing = [column for column in columns if column not in table.column_names]
    if missing:
        raise ConfigError(
            f"cannot evaluate: the joined table lacks {', '.join(missing)}; "
            "name findings that are both scored and labelled"
        )
    order = pc.sort_indices(table["study_id"])
    table = table.take(order)
    patients = patients_of(table["patient_id"])
    return table, [_read(table, finding, patients, policy) for finding in findings]


def patients_of(patient_ids: pa.ChunkedArray | pa.Array) -> np.ndarray:
    """Number the patients: (N,) int, 0..P-1. A study without a patient counts as a patient."""
    patient_ids = pc.cast(patient_ids, pa.string())
    known = pc.index_in(patient_ids, pc.unique(pc.drop_null(patient_ids)))  # 0, 1, … or null
    single = pa.array(np.arange(-len(known), 0, dtype=np.int32))
    return np.unique(pc.coalesce(known, single).to_numpy(), return_inverse=True)[1]


def targets_of(labels: pa.ChunkedArray, finding: str, policy: LabelPolicy) -> np.ndarray:
    """Turn labels into targets: (N,) float, 1, 0, or nan for labels that the policy leaves out."""
    values = pc.cast(labels, pa.float32()).to_numpy()  # null -> nan
    unknown = np.setdiff1d(values[~np.isnan(values)], [1, 0, -1])
    if len(unknown):
        raise ConfigError(f"label_{finding} has values {unknown[:3].tolist()}; expected 1, 0, -1 or null")
    target_of = {"ignore": np.nan, "ones": 1.0, "zeros": 0.0}
    values = np.where(values == -1, target_of[policy.uncertain], np.where(np.isnan(values), -1, values))
    return np.where(values == -1, target_of[policy.blank], values)


def _read(table: pa.Table, finding: str, patients: np.ndarray, policy: LabelPolicy) -> Evidence:
    targets = targets_of(table[f"label_{finding}"], finding, policy)
    probs = pc.cast(table[f"prob_{finding}"], pa.float32()).to_numpy()
    consensus = pc.cast(table[f"consensus_{finding}"], pa.bool_())
    labelled = ~np.isnan(targets)
    scored = ~np.isnan(probs) & consensus.is_valid().to_numpy()
    rows = np.flatnonzero(labelled & scored)
    return Evidence(
        finding=finding,
        rows=rows,
        targets=targets[rows] == 1,
        probs=probs[rows],
        consensus=pc.fill_null(consensus, False).to_numpy()[rows],
        patients=patients[rows],
        patients_in_table=int(patients.max(initial=-1)) + 1,
        left_out=int(np.count_nonzero(~labelled)),
        unscored=int(np.count_nonzero(labelled & ~scored)),
    )
