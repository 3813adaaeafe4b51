"""Evaluations as values, made of random numbers: for what draws and prints them."""

import numpy as np

from cxrpipe.evaluation import curves
from cxrpipe.evaluation.figures import (
    DECISION_FIGURES,
    PROBABILITY_FIGURES,
    EnsembleFigures,
    Evaluation,
    FindingFigures,
    Gap,
    LabelPolicy,
    MacroFigures,
    MaskFigures,
    MemberFigures,
    OperatingPoint,
    SubgroupFigures,
)
from cxrpipe.evaluation.metrics import Estimate, confusion
from cxrpipe.records import ModelReport, RunReport
from cxrpipe.report.page import Flow, Report

NOT_DEFINED = Estimate(np.nan, np.nan, np.nan)


def around(value: float, width: float = 0.04) -> Estimate:
    return Estimate(value, max(0, value - width), min(1, value + width))


def operating_point(targets: np.ndarray, called: np.ndarray, **settings: object) -> OperatingPoint:
    counts = confusion(targets, called)
    figures = {name: around(getattr(counts, name, 0.8)) for name in DECISION_FIGURES}
    told = {"rule": "consensus", "said": "consensus", "threshold": np.nan, "chosen_on": "cards", "optimistic": False}
    return OperatingPoint(counts=counts, **figures, **told | settings)  # type: ignore[arg-type]


def finding_figures(finding: str, studies: int = 300, seed: int = 0, prevalence: float = 0.3) -> FindingFigures:
    """Of a finding that no study has, where the prevalence is 0: figures that are not defined."""
    rng = np.random.default_rng(seed)
    targets = rng.random(studies) < prevalence
    probs = rng.beta(2 + 3 * targets, 4)
    consensus = operating_point(targets, probs >= 0.45)
    by_rule = operating_point(
        targets,
        probs >= 0.3,
        rule="sensitivity",
        said="sensitivity of at least 90%",
        threshold=0.3,
        chosen_on="test",
        optimistic=True,
    )
    defined = bool(targets.any())
    return FindingFigures(
        finding=finding,
        studies=studies,
        positives=int(targets.sum()),
        patients=studies // 2,
        left_out=3,
        unscored=1,
        counts=consensus.counts,
        auroc=around(0.83) if defined else NOT_DEFINED,
        auprc=around(0.61) if defined else NOT_DEFINED,
        brier=around(0.14),
        log_loss=around(0.42),
        ece=around(0.07),
        **{name: getattr(consensus, name) for name in DECISION_FIGURES},
        operating_points=(consensus, by_rule),
        roc=curves.roc(targets, probs),
        precision_recall=curves.precision_recall(targets, probs),
        reliability=curves.reliability(targets, probs),
        histogram=curves.histogram(targets, probs),
        resampled={},
    )


def subgroups(finding: str) -> list[SubgroupFigures]:
    groups = {"sex": ("F", "M", "unknown"), "age": ("0–19", "20–39", "40–59", "60+"), "view_position": ("AP", "PA")}
    return [
        SubgroupFigures(
            finding=finding,
            attribute=attribute,
            group=group,
            studies=60,
            positives=20,
            patients=40,
            auroc=NOT_DEFINED if group == "unknown" else around(0.7 + 0.05 * number, 0.08),
            sensitivity=around(0.8),
            specificity=around(0.7),
            gaps={"auroc": Gap(around(-0.1), 0.004, group == "AP"), "sensitivity": Gap(around(0.02), 0.5, False)},
        )
        for attribute, names in groups.items()
        for number, group in enumerate(names)
    ]


def ensemble_figures(figures: FindingFigures, members: tuple[str, ...] = ("first", "second")) -> EnsembleFigures:
    k = len(members)
    return EnsembleFigures(
        finding=figures.finding,
        members=tuple(
            MemberFigures(
                member=member,
                auroc=around(0.8),
                auroc_gain=Estimate(0.03, -0.01, 0.06),
                p_value=0.04,
                brier=0.16,
                sensitivity=around(0.8),
                specificity=around(0.7),
            )
            for member in members
        ),
        mean=figures.operating_points[0],
        majority=figures.operating_points[0],
        agreement=np.full((k, k), 0.88) + 0.12 * np.eye(k),
        kappa=np.full((k, k), 0.7) + 0.3 * np.eye(k),
        disagreement_edges=np.linspace(0, 0.3, 6),
        disagreement_studies=np.full(5, 60),
        error_fraction=np.array([0.05, 0.1, 0.15, 0.22, 0.31]),
        error_auroc=around(0.71),
    )


def mask_figures(studies: int = 8) -> MaskFigures:
    dice = np.linspace(0.6, 0.98, studies)
    return MaskFigures(
        studies=studies,
        patients=studies,
        dice=around(0.9),
        iou=around(0.82),
        boundary_px=Estimate(3.1, 2.2, 4.4),
        boundary_p95_px=Estimate(9.1, 7.2, 14.4),
        boundary_studies=studies,
        study_ids=tuple(f"s{number}" for number in range(studies)),
        dice_by_study=dice,
        iou_by_study=dice / (2 - dice),
        boundary_px_by_study=np.full(studies, 3.0),
        dice_resampled=np.full(10, 0.9),
    )


def evaluation(findings: tuple[str, ...] = ("Mass", "Pleural_Effusion"), **settings: object) -> Evaluation:
    made = tuple(finding_figures(finding, seed=seed) for seed, finding in enumerate(findings))
    macro = {name: around(0.8) for name in (*PROBABILITY_FIGURES, *DECISION_FIGURES)}
    told = {
        "scores": "/data/scored",
        "studies": "/data/studies.parquet",
        "split": "test",
        "fingerprint": "8de215bce7931bae87ab7a15a8aaaaf4",
        "studies_scored": 304,
        "policy": LabelPolicy(),
        "resamples": 2000,
        "seed": 0,
        "findings": made,
        "macro": MacroFigures(findings=findings, **macro),
        "masks": mask_figures(),
        "subgroups": tuple(group for finding in findings for group in subgroups(finding)),
        "ensembles": tuple(map(ensemble_figures, made)),
    }
    return Evaluation(**told | settings)  # type: ignore[arg-type]


RUN = RunReport(
    run_id="20261120T095551.000001-f21af93f",
    studies=304,
    studies_per_second=21.4,
    models=(
        ModelReport(
            url="/m/first",
            task="classify",
            architecture="resnet50",
            weights_sha256="75e5c8c2" * 8,
            archive="/nih",
        ),
        ModelReport(
            url="/m/lungs",
            task="segment",
            architecture="unet-resnet18",
            weights_sha256="ff" * 32,
        ),
    ),
    device="cpu",
    precision="float32",
    versions={"cxrpipe": "0.1.0", "torch": "2.15.0"},
    start="2026-11-20T09:56:46+00:00",
    end="2026-11-20T09:57:46+00:00",
)


def report(**settings: object) -> Report:
    flow = Flow(310, {"ok": 298, "partial/truncated": 2, "failed/missing": 3, "rejected/blank": 1})
    return Report(**{"evaluation": evaluation(), "flow": flow, "runs": [RUN]} | settings)  # type: ignore[arg-type]
