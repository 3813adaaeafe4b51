"""Evaluations and comparisons as JSON. Figures that are not defined are null, and keys are always the same."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import numpy as np

from cxrpipe.evaluation.figures import EnsembleFigures, FindingFigures, MaskFigures, SubgroupFigures
from cxrpipe.evaluation.findings import macro

INTERVAL = "95%, bias-corrected percentiles over resamples of patients; subgroups by clustered standard errors"
_FOR_THE_EYE = {"roc", "precision_recall", "resampled", "dice_resampled", "study_ids"}
"""Fields that are left out of JSON: curves and resamples, whose figures stand beside them."""


def figures_as_json(
    findings: Sequence[FindingFigures],
    masks: MaskFigures | None,
    subgroups: Sequence[SubgroupFigures] = (),
    ensembles: Sequence[EnsembleFigures] = (),
) -> dict[str, Any]:
    """Give the figures of metrics.json."""
    return {
        "interval": INTERVAL,
        "findings": {
            figures.finding: as_json(figures) | {"resamples": len(figures.resampled["auroc"])} for figures in findings
        },
        "macro": as_json(macro(findings)),
        "masks": None if masks is None else _masks(masks),
        "subgroups": as_json(subgroups),
        "ensembles": {figures.finding: as_json(figures) for figures in ensembles},
    }


def _masks(masks: MaskFigures) -> dict[str, Any]:
    figures = {name: value for name, value in as_json(masks).items() if not name.endswith("_by_study")}
    return figures | {"resamples": len(masks.dice_resampled)}


def as_json(value: Any) -> Any:
    """Convert a value for JSON: dataclasses and named tuples become objects, arrays lists, nan and infinity null."""
    if is_dataclass(value):
        names = [field.name for field in fields(value) if field.name not in _FOR_THE_EYE]
        return {name: as_json(getattr(value, name)) for name in names}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, Mapping):
        return {key: as_json(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(item) for item in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return as_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
