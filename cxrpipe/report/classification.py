"""The classification report of scikit-learn: precision, recall, F1 and number of studies of each class of decisions."""

from collections.abc import Sequence

import numpy as np

from cxrpipe.evaluation.figures import FindingFigures
from cxrpipe.report.words import spoken

_LABELS, _DECISIONS = (1, 1, 0, 0), (1, 0, 1, 0)


def classification_report(findings: Sequence[FindingFigures]) -> str:
    """One block for every finding, at the operating point of the consensus; a figure that is not defined is nan."""
    return "\n".join(_block(figures) for figures in findings)


def _block(figures: FindingFigures) -> str:
    from sklearn import metrics  # a second of imports, for one file

    counts = figures.counts
    cells = (counts.true_positive, counts.false_negative, counts.false_positive, counts.true_negative)
    report: str = metrics.classification_report(
        np.repeat(_LABELS, cells),
        np.repeat(_DECISIONS, cells),
        labels=[0, 1],
        target_names=["negative", "positive"],
        digits=4,
        zero_division=np.nan,
    )
    return f"{spoken(figures.finding)}\n{report}"
