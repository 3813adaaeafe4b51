"""What an evaluation says, as values: no computing here, so that who draws or prints needs nothing else.

An `Estimate` is a value with its 95% interval; what is not defined is nan. Decisions are counted at an operating
point, and every operating point says where its threshold comes from: one chosen on the very studies that it is judged
on flatters itself, and is marked `optimistic`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cxrpipe.evaluation.metrics import Counts, Estimate

DECISION_FIGURES = ("sensitivity", "specificity", "precision", "npv", "f1", "balanced_accuracy", "accuracy")
"""Figures of decisions. A further one is a property of `Counts`, a word here and a field of `OperatingPoint`."""
PROBABILITY_FIGURES = ("auroc", "auprc", "brier", "ece")
"""Figures of probabilities, whatever the threshold."""


class Roc(NamedTuple):
    """From "nothing is positive" to "everything is"; empty where only one class is seen."""

    specificity: np.ndarray  # (P,) float, 1..0
    sensitivity: np.ndarray  # (P,) float, 0..1


class PrecisionRecall(NamedTuple):
    """From "nothing is positive" to "everything is"; empty where nothing is positive."""

    sensitivity: np.ndarray  # (P,) float, 0..1, ascending
    precision: np.ndarray  # (P,) float, 0..1


class Reliability(NamedTuple):
    """Probabilities against what came true, in B bins of equal width over 0..1; nan in bins without studies."""

    edges: np.ndarray  # (B + 1,) float, 0..1
    studies: np.ndarray  # (B,) int
    prob: np.ndarray  # (B,) float, the mean probability
    positive_fraction: np.ndarray  # (B,) float, 0..1
    low: np.ndarray  # (B,) float, Wilson's 95% interval of it, patients not regarded
    high: np.ndarray  # (B,) float


class ScoreHistogram(NamedTuple):
    """How many studies have which probability, by label."""

    edges: np.ndarray  # (B + 1,) float, 0..1
    positives: np.ndarray  # (B,) int
    negatives: np.ndarray  # (B,) int


@dataclass(frozen=True, eq=False, kw_only=True)
class DecisionFigures:
    """What decisions are worth."""

    sensitivity: Estimate
    specificity: Estimate
    precision: Estimate
    npv: Estimate
    f1: Estimate
    balanced_accuracy: Estimate
    accuracy: Estimate


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbabilityFigures(DecisionFigures):
    """What probabilities are worth, and the decisions made of them."""

    auroc: Estimate
    auprc: Estimate
    """Average precision, as scikit-learn has it: its level of chance is the fraction of positives."""
    brier: Estimate
    ece: Estimate
    """Expected calibration error in bins of the probability, 0..1."""


@dataclass(frozen=True, eq=False, kw_only=True)
class OperatingPoint(DecisionFigures):
    """Decisions at one threshold."""

    rule: str
    """`consensus` (the members' own thresholds and their vote), `mean`, or a name of `config.evaluate.RULES`: `0.5`,
    `prevalence`, `youden`, `sensitivity`, `specificity`, `cost`."""
    said: str
    """The rule for a person: `sensitivity of at least 90%`."""
    threshold: float
    """On the ensemble's mean probability (≥); nan for the consensus, and where no threshold fulfils the rule."""
    chosen_on: str
    """`cards`, `fixed`, or the split whose studies it was chosen on."""
    optimistic: bool
    """Chosen on the studies that it is judged on."""
    counts: Counts


@dataclass(frozen=True, eq=False, kw_only=True)
class FindingFigures(ProbabilityFigures):
    """What an ensemble is worth for one finding. studies + left_out + unscored = rows of the table.

    Sensitivity to accuracy are those of the consensus, the first of `operating_points`.
    """

    finding: str
    studies: int
    """Studies with a probability and a label that the policy knows: the figures are about these."""
    positives: int
    patients: int
    left_out: int
    """Studies whose label is uncertain or missing, where the policy ignores these."""
    unscored: int
    """Studies with a label but no probability: failed or rejected."""

    counts: Counts
    operating_points: tuple[OperatingPoint, ...] = field(repr=False)
    """The consensus, and one for every rule."""
    roc: Roc = field(repr=False)
    precision_recall: PrecisionRecall = field(repr=False)
    reliability: Reliability = field(repr=False)
    histogram: ScoreHistogram = field(repr=False)
    resampled: dict[str, np.ndarray] = field(repr=False)
    """Figure → (R,) its value in every resample; all findings of one evaluation share their resamples."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MacroFigures(ProbabilityFigures):
    """Means over those findings that have an AUROC, every finding weighing the same; decisions are the consensus's."""

    findings: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskFigures:
    """How well masks fit, as means over studies; every study weighs the same."""

    studies: int
    patients: int
    dice: Estimate
    iou: Estimate
    boundary_px: Estimate
    """Mean distance between the outlines, both ways, in pixels of the original image; over `boundary_studies`."""
    boundary_p95_px: Estimate
    """95th percentile of these distances in a study (the robust Hausdorff distance)."""
    boundary_studies: int
    """Studies in which both masks have an outline: there is no distance to an empty mask."""
    study_ids: tuple[str, ...] = field(repr=False)
    dice_by_study: np.ndarray = field(repr=False)  # (N,) float, 0..1
    iou_by_study: np.ndarray = field(repr=False)  # (N,) float, 0..1
    boundary_px_by_study: np.ndarray = field(repr=False)  # (N,) float, nan where there is none
    dice_resampled: np.ndarray = field(repr=False)  # (R,) float, the mean of every resample


class Gap(NamedTuple):
    """A figure of a subgroup less the same figure of all other studies."""

    difference: Estimate
    p_value: float
    """Of no difference, after Holm's correction for all gaps of the evaluation; nan where too few studies to tell."""
    exceeds_noise: bool
    """p_value < 0.05."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SubgroupFigures:
    """One finding among the studies of one subgroup."""

    finding: str
    attribute: str
    """`sex`, `age`, `view_position` or `scanner`."""
    group: str
    """`F`, `40–59`, `AP`, … or `unknown`."""
    studies: int
    positives: int
    patients: int
    auroc: Estimate
    sensitivity: Estimate
    specificity: Estimate
    gaps: dict[str, Gap]
    """`auroc`, `sensitivity`, `specificity`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MemberFigures:
    """One member of the ensemble by itself, on the same studies and the same resamples."""

    member: str
    """The last part of its url."""
    auroc: Estimate
    auroc_gain: Estimate
    """AUROC of the ensemble's mean less the member's, by the paired bootstrap over patients."""
    p_value: float
    """Of equal AUROC, by DeLong's test for clustered data (Obuchowski 1997)."""
    brier: float
    sensitivity: Estimate
    """At its own threshold; nan where the run does not say its thresholds."""
    specificity: Estimate


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleFigures:
    """One finding: the members, their mean, and their majority vote."""

    finding: str
    members: tuple[MemberFigures, ...]
    mean: OperatingPoint
    """Mean probability at the mean of the members' thresholds; rule `mean`."""
    majority: OperatingPoint
    """The consensus; rule `consensus`."""
    agreement: np.ndarray = field(repr=False)  # (K, K) float, 0..1, the fraction of studies that two members call alike
    kappa: np.ndarray = field(repr=False)  # (K, K) float, Cohen's; nan where not defined
    disagreement_edges: np.ndarray = field(repr=False)  # (B + 1,) float, standard deviation of the members, by quantile
    disagreement_studies: np.ndarray = field(repr=False)  # (B,) int
    error_fraction: np.ndarray = field(repr=False)  # (B,) float, 0..1, how often the consensus is wrong there
    error_auroc: Estimate
    """How well disagreement tells the wrong consensus from the right one; 0.5 is not at all."""


class LabelPolicy(NamedTuple):
    """What labels that say neither yes nor no stand for."""

    uncertain: str = "ignore"
    """`ignore`, `ones` or `zeros`."""
    blank: str = "ignore"
    """`ignore` or `zeros`."""


LEFT_OUT = LabelPolicy()
"""Uncertain and missing labels are left out, and counted."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """All that `evaluate` found, which the table, metrics.json and the report are made of."""

    scores: str
    """The score root."""
    studies: str
    """The study table."""
    split: str
    fingerprint: str
    studies_scored: int
    policy: LabelPolicy
    resamples: int
    seed: int
    findings: tuple[FindingFigures, ...]
    macro: MacroFigures
    masks: MaskFigures | None
    subgroups: tuple[SubgroupFigures, ...]
    """By finding, then attribute, then group."""
    ensembles: tuple[EnsembleFigures, ...]
    """One per finding; none where the ensemble has one member."""
