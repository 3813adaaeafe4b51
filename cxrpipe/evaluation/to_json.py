"""What an evaluation or a comparison found, as JSON: null for what is not defined, the same keys whatever it was."""

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
"""Curves and resamples; what they are drawn for stands beside them as figures."""


def figures_as_json(
    findings: Sequence[FindingFigures],
    masks: MaskFigures | None,
    subgroups: Sequence[SubgroupFigures] = (),
    ensembles: Sequence[EnsembleFigures] = (),
) -> dict[str, Any]:
    """The figures of metrics.json."""
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
    found = {name: value for name, value in as_json(masks).items() if not name.endswith("_by_study")}
    return found | {"resamples": len(masks.dice_resampled)}


def as_json(value: Any) -> Any:
    """Dataclasses and named tuples as objects, arrays as lists, nan as null."""
    if is_dataclass(value):
        names = [each.name for each in fields(value) if each.name not in _FOR_THE_EYE]
        return {name: as_json(getattr(value, name)) for name in names}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return as_json(value._asdict())
    if isinstance(value, Mapping):
        return {key: as_json(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(each) for each in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return as_json(value.tolist())
    return None if isinstance(value, float) and not math.isfinite(value) else value
