"""Describes the studies that a model learned from, for the facts of its card."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from cxrpipe.records import Study


def population(studies: Sequence[Study]) -> dict[str, Any]:
    """Numbers of studies, patients, views and labels, and the quartiles of age, as plain values for JSON."""
    ages = [study.patient_age for study in studies if study.patient_age is not None]
    findings = studies[0].labels if studies else {}
    return {
        "studies": len(studies),
        "patients": len({study.patient_id for study in studies if study.patient_id}) or None,
        "age_quartiles": [round(float(age), 1) for age in np.percentile(ages, [25, 50, 75])] if ages else None,
        "view_positions": dict(Counter(view.view_position or "unknown" for study in studies for view in study.views)),
        "sex": dict(Counter(study.patient_sex or "unknown" for study in studies)),
        "present": {finding: sum(study.labels[finding] == 1 for study in studies) for finding in findings},
    }
