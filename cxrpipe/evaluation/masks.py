"""Figures of predicted lung masks, with intervals over patients, from their overlaps with the true masks."""

from collections.abc import Iterable

import numpy as np
import pyarrow as pa

from cxrpipe.evaluation.boundary import Boundary
from cxrpipe.evaluation.evidence import patients_of
from cxrpipe.evaluation.figures import MaskFigures
from cxrpipe.evaluation.metrics import Estimate, Overlap, resample_weights

Fit = tuple[str, str | None, Overlap] | tuple[str, str | None, Overlap, Boundary | None]
"""study_id, patient_id, overlap[, boundary]"""


def evaluate_masks(
    overlaps: Iterable[Fit],
    *,
    resamples: int = 2000,
    seed: int = 0,
) -> MaskFigures:
    """Compute the figures of masks.

    overlaps  (study_id, patient_id, overlap[, boundary]), one per study, in any order
    """
    rows = sorted(overlaps, key=lambda row: row[0])
    patients = patients_of(pa.array([row[1] for row in rows], pa.string()))
    boundaries = [(row[3] if len(row) > 3 else None) or Boundary(np.nan, np.nan) for row in rows]
    fits = [(row[2].dice, row[2].iou, *boundary) for row, boundary in zip(rows, boundaries, strict=True)]
    values = np.array(fits, np.float64).reshape(-1, 4)  # (N, 4)
    once = _means(values, np.ones((1, len(rows))))[0]
    resampled = np.concatenate([_means(values, w) for w in resample_weights(patients, resamples, seed)])  # (R, 4)
    names = ("dice", "iou", "boundary_px", "boundary_p95_px")
    return MaskFigures(
        studies=len(rows),
        patients=len(np.unique(patients)),
        boundary_studies=int(np.count_nonzero(~np.isnan(values[:, 2]))),
        study_ids=tuple(row[0] for row in rows),
        dice_by_study=values[:, 0],
        iou_by_study=values[:, 1],
        boundary_px_by_study=values[:, 2],
        dice_resampled=resampled[:, 0],
        **{name: Estimate.of(once[number], resampled[:, number]) for number, name in enumerate(names)},
    )


def _means(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Average the values that are not nan: (N, C) values, (R, N) weights → (R, C); nan without studies."""
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means: np.ndarray = weights @ np.where(known, values, 0) / (weights @ known.astype(np.float64))
    return means
