"""The figures of an evaluation, as values. Nothing is computed here, so drawing and printing need nothing else.

An `Estimate` is a value with its 95% interval; a figure that is not defined is nan. Decisions are counted at an
operating point, which names the origin of its threshold. A threshold that is chosen on the evaluated studies gives
figures that are too good, and is marked `optimistic`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from cxrpipe.evaluation.metrics import Counts, Estimate
from cxrpipe.evaluation.readers import ReviewFacts
from cxrpipe.evaluation.weighted import WeightedFigures

DECISION_FIGURES = ("sensitivity", "specificity", "precision", "npv", "f1", "balanced_accuracy", "accuracy")
"""Figures of decisions. To add one: a property of `Counts`, a name here, and a field of `DecisionFigures`."""
PROBABILITY_FIGURES = ("auroc", "auprc", "brier", "log_loss", "ece")
"""Figures of probabilities, which need no threshold."""


class Roc(NamedTuple):
    """The ROC curve, from "nothing is positive" to "everything is"; empty with one class only."""

    specificity: np.ndarray  # (P,) float, 1..0
    sensitivity: np.ndarray  # (P,) float, 0..1


class PrecisionRecall(NamedTuple):
    """Precision against sensitivity, from "nothing is positive" to "everything is"; empty without positive studies."""

    sensitivity: np.ndarray  # (P,) float, 0..1, ascending
    precision: np.ndarray  # (P,) float, 0..1


class Reliability(NamedTuple):
    """Mean probability against fraction of positives, in B equal bins of 0..1; nan in bins without studies."""

    edges: np.ndarray  # (B + 1,) float, 0..1
    studies: np.ndarray  # (B,) int
    prob: np.ndarray  # (B,) float, the mean probability
    positive_fraction: np.ndarray  # (B,) float, 0..1
    low: np.ndarray  # (B,) float, Wilson's 95% interval of the fraction, without regard to patients
    high: np.ndarray  # (B,) float


class ScoreHistogram(NamedTuple):
    """Numbers of studies by probability and label."""

    edges: np.ndarray  # (B + 1,) float, 0..1
    positives: np.ndarray  # (B,) int
    negatives: np.ndarray  # (B,) int


@dataclass(frozen=True, eq=False, kw_only=True)
class DecisionFigures:
    """The figures of decisions."""

    sensitivity: Estimate
    specificity: Estimate
    precision: Estimate
    npv: Estimate
    f1: Estimate
    balanced_accuracy: Estimate
    accuracy: Estimate


@dataclass(frozen=True, eq=False, kw_only=True)
class ProbabilityFigures(DecisionFigures):
    """The figures of probabilities, and of decisions made with them."""

    auroc: Estimate
    auprc: Estimate
    """Average precision, as in scikit-learn; by chance it is the fraction of positives."""
    brier: Estimate
    log_loss: Estimate
    """Binary cross-entropy of the probability, natural logarithm: the loss of a test set."""
    ece: Estimate
    """Expected calibration error over bins of the probability, 0..1."""


@dataclass(frozen=True, eq=False, kw_only=True)
class OperatingPoint(DecisionFigures):
    """The figures of decisions at one threshold."""

    rule: str
    """`consensus` (the members' own thresholds and their vote), `mean`, or a name of `config.evaluate.RULES`: `0.5`,
    `prevalence`, `youden`, `sensitivity`, `specificity`, `cost`."""
    said: str
    """The rule in words: `sensitivity of at least 90%`. The field has the name of its key in metrics.json."""
    threshold: float
    """Threshold (≥) on the mean probability of the ensemble; nan for the consensus, and where the rule gives none."""
    chosen_on: str
    """`cards`, `fixed`, or the split whose studies the threshold was chosen on."""
    optimistic: bool
    """Whether the threshold was chosen on the evaluated studies."""
    counts: Counts


@dataclass(frozen=True, eq=False, kw_only=True)
class FindingFigures(ProbabilityFigures):
    """All figures of an ensemble for one finding. studies + left_out + unscored = rows of the table.

    Figures of decisions are those of the consensus, the first of `operating_points`.
    """

    finding: str
    studies: int
    """Studies with a probability and a label that the policy keeps: all figures are over these."""
    positives: int
    patients: int
    left_out: int
    """Studies with an uncertain or missing label that the policy ignores."""
    unscored: int
    """Studies with a label but without a probability: they failed or were rejected."""

    counts: Counts
    operating_points: tuple[OperatingPoint, ...] = field(repr=False)
    """That of the consensus, then one for every rule."""
    roc: Roc = field(repr=False)
    precision_recall: PrecisionRecall = field(repr=False)
    reliability: Reliability = field(repr=False)
    histogram: ScoreHistogram = field(repr=False)
    resampled: dict[str, np.ndarray] = field(repr=False)
    """Figure → its value in every resample, (R,); all findings of an evaluation share their resamples."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MacroFigures(ProbabilityFigures):
    """Means over the findings that have an AUROC, all with the same weight; decisions are those of the consensus."""

    findings: tuple[str, ...]


@dataclass(frozen=True, eq=False, kw_only=True)
class MaskFigures:
    """How well masks fit, as means over studies, all with the same weight."""

    studies: int
    patients: int
    dice: Estimate
    iou: Estimate
    boundary_px: Estimate
    """Mean distance between the outlines, both ways, in pixels of the original image, over `boundary_studies`."""
    boundary_p95_px: Estimate
    """95th percentile of these distances in a study (the robust Hausdorff distance)."""
    boundary_studies: int
    """Studies in which both masks have an outline: an empty mask has no distance to another."""
    study_ids: tuple[str, ...] = field(repr=False)
    dice_by_study: np.ndarray = field(repr=False)  # (N,) float, 0..1
    iou_by_study: np.ndarray = field(repr=False)  # (N,) float, 0..1
    boundary_px_by_study: np.ndarray = field(repr=False)  # (N,) float, nan without a distance
    dice_resampled: np.ndarray = field(repr=False)  # (R,) float, the mean of every resample


class Gap(NamedTuple):
    """A figure of a subgroup minus the same figure of all other studies."""

    difference: Estimate
    p_value: float
    """p-value of no difference, by Holm's correction for all gaps of the evaluation; nan with too few patients."""
    exceeds_noise: bool
    """p_value < 0.05."""


@dataclass(frozen=True, eq=False, kw_only=True)
class SubgroupFigures:
    """The figures of one finding in one subgroup."""

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
    """Gaps of `auroc`, `sensitivity` and `specificity`; empty for the subgroup `unknown`."""


@dataclass(frozen=True, eq=False, kw_only=True)
class MemberFigures:
    """The figures of one member alone, on the same studies and the same resamples as the ensemble."""

    member: str
    """The last part of the URL of its model folder."""
    auroc: Estimate
    auroc_gain: Estimate
    """AUROC of the ensemble's mean minus that of the member, by the paired bootstrap over patients."""
    p_value: float
    """p-value of equal AUROC, by DeLong's test for clustered data (Obuchowski 1997)."""
    brier: float
    sensitivity: Estimate
    """Sensitivity at the member's own threshold; nan where the run did not record thresholds."""
    specificity: Estimate


@dataclass(frozen=True, eq=False, kw_only=True)
class EnsembleFigures:
    """The figures of one finding: of the members, of their mean, and of their majority vote."""

    finding: str
    members: tuple[MemberFigures, ...]
    mean: OperatingPoint
    """The mean probability at the mean of the members' thresholds; rule `mean`."""
    majority: OperatingPoint
    """The consensus; rule `consensus`."""
    agreement: np.ndarray = field(repr=False)  # (K, K) float, 0..1, fraction of studies on which two members agree
    kappa: np.ndarray = field(repr=False)  # (K, K) float, Cohen's; nan where not defined
    disagreement_edges: np.ndarray = field(repr=False)  # (B + 1,) float, standard deviation of the members, by quantile
    disagreement_studies: np.ndarray = field(repr=False)  # (B,) int
    error_fraction: np.ndarray = field(repr=False)  # (B,) float, 0..1, fraction where the consensus is wrong
    error_auroc: Estimate
    """AUROC with which disagreement predicts a wrong consensus; 0.5 is chance."""


@dataclass(frozen=True, eq=False, kw_only=True)
class PrevalenceFigures:
    """The decisions of the consensus on one finding, as they would be at a prevalence."""

    finding: str
    prevalence: float
    measured: bool
    """Whether this is the prevalence of the evaluated studies."""
    ppv: Estimate
    npv: Estimate
    flagged_per_1000: Estimate
    """Studies of 1,000 that the consensus calls positive."""
    missed_per_1000: Estimate
    """Studies of 1,000 that have the finding and are called negative."""


class LabelPolicy(NamedTuple):
    """What uncertain and missing labels count as."""

    uncertain: str = "ignore"
    """`ignore`, `ones` or `zeros`."""
    blank: str = "ignore"
    """`ignore` or `zeros`."""


LEFT_OUT = LabelPolicy()
"""Uncertain and missing labels are left out, and counted."""


class DuplicatePair(NamedTuple):
    """Two studies of different patients, in two splits, whose nearest views are near-duplicates."""

    distance: float
    """1 − the cosine of the feature vectors."""
    study_id: str
    split: str
    other_study_id: str
    other_split: str


class NearDuplicates(NamedTuple):
    """Near-duplicates across splits, by feature vector; see `evaluation.near_duplicates`."""

    member: str
    """The model whose vectors were compared."""
    views: int
    compared: int
    """Pairs of views in two splits."""
    limit: float
    """1 − cosine of the farthest pair that counts."""
    studies: int
    """Pairs of studies that were found."""
    nearest: tuple[DuplicatePair, ...]
    """The nearest of these."""


@dataclass(frozen=True, eq=False, kw_only=True)
class Evaluation:
    """Everything that `evaluate` measured; the table, metrics.json and the report are made of it."""

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
    """Ordered by finding, attribute and group."""
    ensembles: tuple[EnsembleFigures, ...]
    """One per finding; empty for an ensemble of one member."""
    prevalences: tuple[PrevalenceFigures, ...] = ()
    """Ordered by finding: at the measured prevalence, then at the assumed ones."""
    near_duplicates: NearDuplicates | None = None
    """None: not sought. The score root holds no feature vectors, or too few, or too many."""
    reviews: ReviewFacts | None = None
    """Whose verdicts the labels are. None: the labels are those of the study table."""
    weighted: tuple[WeightedFigures, ...] = ()
    """Ordered by reading list and finding: figures of the archive, from the studies of the list that were read."""
