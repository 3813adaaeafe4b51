"""Heads on stored feature vectors: learned on one split of the studies, calibrated and judged on another."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from cxrpipe import console
from cxrpipe.errors import ConfigError
from cxrpipe.evaluation import calibration
from cxrpipe.evaluation.calibration import FittedFinding
from cxrpipe.evaluation.evidence import patients_of, targets_of
from cxrpipe.evaluation.figures import FindingFigures, LabelPolicy
from cxrpipe.evaluation.findings import evaluate_findings
from cxrpipe.evaluation.linear_heads import Fitted, LinearHeads, fit_heads
from cxrpipe.evaluation.stored_views import StoredViews
from cxrpipe.evaluation.thresholds import Aims
from cxrpipe.models import consensus

_HIGHEST_RATIO = 20.0  # as in `train`
_THRESHOLD = 0.5


class Judged(NamedTuple):
    """Heads as studies of another split see them."""

    fitted: list[FittedFinding]
    """Calibration and threshold of the findings that have enough studies."""
    figures: list[FindingFigures]
    """Of all findings."""


def learnable(views: StoredViews, findings: Sequence[str], policy: LabelPolicy) -> list[str]:
    """The findings with positive and negative views."""
    targets = _targets(views, findings, policy)
    both = (targets == 1).any(axis=0) & (targets == 0).any(axis=0)
    return [finding for finding, kinds in zip(findings, both, strict=True) if kinds]


def learn(
    views: StoredViews,
    findings: Sequence[str],
    policy: LabelPolicy,
    *,
    balanced: bool,
    step: Callable[[str], object] = console.log,
) -> Fitted:
    """Fit a head for every finding; a view has the labels of its study.

    findings  see `learnable`
    balanced  whether the positive views of a finding weigh as much as its negative ones, 20 times their weight at most
    """
    targets = _targets(views, findings, policy)
    present, absent = (targets == 1).sum(axis=0), (targets == 0).sum(axis=0)
    ratios = np.clip(absent / present, 1 / _HIGHEST_RATIO, _HIGHEST_RATIO)
    patients = patients_of(views.studies["patient_id"])[views.study]
    return fit_heads(
        views.vectors.astype(np.float32),
        targets,
        patients,
        positive_weights=ratios if balanced else None,
        step=step,
    )


def judge(
    views: StoredViews,
    heads: LinearHeads,
    rules: Mapping[str, str],
    policy: LabelPolicy,
    *,
    rule: str,
    aims: Aims,
    split: str,
) -> Judged:
    """Calibrate heads on the studies of a split, choose thresholds, and compute figures with intervals.

    A finding with few studies stays uncalibrated and keeps the threshold 0.5; a log line says so.

    rules  finding → how the views of a study are aggregated, in the order of the heads
    rule   how a threshold is chosen (see `Aims`)
    """
    probs = _by_study(heads.probs(views.vectors), views.study, list(rules.values()))
    studies = views.studies.take(np.unique(views.study))
    patients = patients_of(studies["patient_id"])
    columns: dict[str, object] = {name: studies[name] for name in ("study_id", "patient_id")}
    fitted = []
    for finding, of_finding in zip(rules, probs.T, strict=True):
        labels = targets_of(studies[f"label_{finding}"], finding, policy)
        known = ~np.isnan(labels)
        targets = labels[known] == 1
        decided, threshold = of_finding, _THRESHOLD
        try:
            calibration.require_enough(targets, split)
            fit = calibration.fit_finding(
                finding,
                of_finding[known],
                targets,
                patients[known],
                method="platt",
                rule=rule,
                aims=aims,
                split=split,
            )
            fitted.append(fit)
            decided, threshold = fit.line.apply(of_finding), fit.threshold
        except ConfigError as error:
            console.log(f"{finding} is not calibrated, and its threshold stays {_THRESHOLD}: {error}")
        columns |= {
            f"prob_{finding}": decided,
            f"consensus_{finding}": decided >= np.float32(threshold),
            f"label_{finding}": studies[f"label_{finding}"],
        }
    return Judged(fitted, evaluate_findings(pa.table(columns), list(rules), policy=policy, aims=aims, split=split))


def _targets(views: StoredViews, findings: Sequence[str], policy: LabelPolicy) -> np.ndarray:
    """(M, F) float32: the targets of every view, nan where the policy leaves it out."""
    of_studies = [targets_of(views.studies[f"label_{finding}"], finding, policy) for finding in findings]
    return np.asarray(np.stack(of_studies, axis=1)[views.study], np.float32)


def _by_study(probs: np.ndarray, study: np.ndarray, rules: Sequence[str]) -> np.ndarray:
    """(M, F) probabilities of views → (N, F) of the studies that have any, each finding by its rule."""
    _, first = np.unique(study, return_index=True)
    return np.stack([consensus.aggregate_views(views, rules) for views in np.split(probs, first[1:])])
