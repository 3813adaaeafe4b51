"""The columns of the findings of many studies at once: aggregate the views, calibrate, combine the members.

Scoring and the derivation of rows from old rows use the same function.
"""

from collections.abc import Callable, Sequence

import numpy as np
import pyarrow as pa

from cxrpipe.models import consensus
from cxrpipe.models.ensemble import Ensemble


def finding_columns(ensemble: Ensemble, probs: np.ndarray, views: np.ndarray) -> dict[str, pa.Array]:
    """The columns of all findings for N studies; null for a study without a view. No columns without a finding.

    probs  (K, ΣV, F) float32, 0..1: the members' uncalibrated probabilities of the views, study after study; nan where
           a member does not know a finding
    views  (N,) int: the number of views of each study, 0 or more
    """
    if not ensemble.findings:
        return {}
    cards = [member.card for member in ensemble.members]
    scored = views > 0
    starts = (np.cumsum(views) - views)[scored]
    by_member = ensemble.by_finding(
        [
            consensus.calibrate(_aggregate(of_member[:, places], starts, views[scored], card.rules), *card.platt)
            for card, places, of_member in zip(cards, ensemble.places, probs, strict=True)
        ]
    )  # (K, M, F), of the M studies with a view
    agreed = consensus.combine(by_member, ensemble.thresholds)
    columns: dict[str, pa.Array] = {}
    for number, finding in enumerate(ensemble.findings):
        known = ~np.isnan(agreed.mean[:, number])
        columns[f"prob_{finding}"] = _column(agreed.mean[:, number], scored, known)
        columns[f"votes_{finding}"] = _column(agreed.votes[:, number], scored, known)
        columns[f"consensus_{finding}"] = _column(agreed.agreed[:, number], scored, known)
        columns[f"member_probs_{finding}"] = _lists(by_member[:, :, number].T, scored)
        columns[f"disagreement_{finding}"] = _column(agreed.disagreement[:, number], scored, known)
    return columns


def _aggregate(probs: np.ndarray, starts: np.ndarray, views: np.ndarray, rules: Sequence[str]) -> np.ndarray:
    """(ΣV, F) → (M, F): the views of each study by the rule of each finding.

    starts  (M,) place of each study's first view
    """
    if not len(starts) or not rules:  # a backbone has no findings
        return np.zeros((len(starts), probs.shape[1]), np.float32)
    by_rule: dict[str, Callable[[], np.ndarray]] = {
        "max": lambda: np.maximum.reduceat(probs, starts),
        "min": lambda: np.minimum.reduceat(probs, starts),
        "mean": lambda: np.add.reduceat(probs, starts) / views[:, None].astype(np.float32),
    }
    by_used_rule = {rule: by_rule[rule]() for rule in set(rules)}
    return np.stack([by_used_rule[rule][:, column] for column, rule in enumerate(rules)], axis=1)


def _column(values: np.ndarray, scored: np.ndarray, known: np.ndarray) -> pa.Array:
    """(M,) values of the scored studies → a column of all N studies, null for the others, and where not `known`."""
    column, null = np.zeros(len(scored), values.dtype), ~scored
    column[scored] = values
    null[scored] = ~known
    return pa.array(column, mask=null)


def _lists(values: np.ndarray, scored: np.ndarray) -> pa.Array:
    """(M, K) values of the scored studies → a column of lists for all N studies, null for the others. Nan → null."""
    ends = np.cumsum(np.where(scored, values.shape[1], 0))
    offsets = pa.array(np.concatenate([[0], ends]), pa.int32(), mask=np.append(~scored, False))
    return pa.ListArray.from_arrays(offsets, pa.array(np.ascontiguousarray(values).ravel(), from_pandas=True))
