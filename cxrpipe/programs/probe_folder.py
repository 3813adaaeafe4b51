"""The files of a model folder that `probe` writes beside the weights: the fitted card, its facts, pictures."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from cxrpipe import __version__
from cxrpipe.config import ProbeConfig
from cxrpipe.evaluation.findings import mean_auroc
from cxrpipe.evaluation.linear_heads import Fitted
from cxrpipe.evaluation.population import population
from cxrpipe.evaluation.probing import Judged
from cxrpipe.evaluation.stored_views import StoredViews
from cxrpipe.evaluation.to_json import as_json
from cxrpipe.models.card import Card
from cxrpipe.models.folder import ModelFolder
from cxrpipe.models.out_of_distribution import embedding_of
from cxrpipe.records import CompleteRuns, Study
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.figures import as_files
from cxrpipe.report.reliability import draw_reliability

_SOME_VIEWS = 10_000
"""About so many views say how views look that the heads have seen: all of 100,000 would take a gigabyte."""
_OF_SOURCE = ("source", "licence", "citation", "warnings")
"""Facts of the source's card that hold for the new model, too."""
_OF_BACKBONE = (
    "archive",
    "layout",
    "split_seed",
    "population",
    "settings",
    "valid",
    "best_epoch",
    "cxrpipe",
    "created",
)
"""Facts of the source's card that say what the network under the new heads has learned from."""


def decided(card: Card, source: ModelFolder, vectors: np.ndarray, judged: Judged) -> Card:
    """Add what the studies decide: thresholds, calibration, and how the views look that the heads have seen.

    A source with an embedding averages its last feature map over places: this average is the feature vector. A source
    without one cannot tell what is unlike.
    """
    known = source.card.embedding
    tells = known is not None and len(known.mean) == vectors.shape[1]
    some = vectors[:: 1 + len(vectors) // _SOME_VIEWS].astype(np.float32)
    return replace(
        card,
        thresholds=dict.fromkeys(card.findings, 0.5) | {fit.finding: fit.threshold for fit in judged.fitted},
        calibration={fit.finding: (fit.line.slope, fit.line.intercept) for fit in judged.fitted},
        embedding=embedding_of(some) if tells else None,
    )


def origin(
    config: ProbeConfig,
    runs: CompleteRuns,
    source: ModelFolder,
    table: StudyTable,
    views: Mapping[str, StoredViews],
) -> dict[str, Any]:
    """Facts of the card: where the heads and their backbone come from. `forget` reads `heads`."""
    of_source = source.card.facts
    return {
        **{name: of_source[name] for name in _OF_SOURCE if name in of_source},
        "settings": asdict(config) | {"findings": list(config.findings)},
        **table.origin,
        "population": {split: population(_studies(table, of_split)) for split, of_split in views.items()},
        "heads": {
            "scores": runs.root,
            "runs": [report.run_id for report in runs],
            "studies": table.url,
            "model": source.url,
        },
        "backbone": of_source.get("backbone", {key: of_source[key] for key in _OF_BACKBONE if key in of_source}),
        "cxrpipe": __version__,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _studies(table: StudyTable, views: StoredViews) -> list[Study]:
    ids = IdSet(views.studies["study_id"].take(pa.array(np.unique(views.study))).to_pylist())
    return [study for study in table.studies() if ids.contains([study.study_id])[0]]


def figures(fitted: Fitted, judged: Judged, rule: str, split: str) -> dict[str, Any]:
    """Facts of the card: how good the heads are on the studies of a split, and what was chosen there and in training.

    rule  of the thresholds
    """
    areas = {figures.finding: as_json(figures.auroc) for figures in judged.figures}
    return {
        "valid": {
            "score": as_json(mean_auroc(judged.figures))["value"],
            "per_finding": {finding: area["value"] for finding, area in areas.items()},
            "interval": {finding: [area["low"], area["high"]] for finding, area in areas.items()},
        },
        "fitted": {"calibration": "platt", "threshold": rule, "split": split},
        "prevalence": {fit.finding: fit.prevalence for fit in judged.fitted},
        "strengths": dict(zip(areas, fitted.strengths.tolist(), strict=True)),
    }


def pictures(judged: Judged) -> dict[str, bytes]:
    """File name → PNG."""
    files = {"reliability.png": draw_reliability(judged.fitted)} if judged.fitted else {}
    return files | as_files(judged.figures)
