"""The neighbours of a study for its page: the nearest studies by the feature vectors that `score --embed` stored."""

from __future__ import annotations

import threading
from typing import Any

from cxrpipe.report.words import agreed_findings, study_url
from cxrpipe.review.context import thumbnail_url
from cxrpipe.runs.nearest_studies import nearest_studies
from cxrpipe.runs.root import ScoreRoot

TOP = 8
_one_search = threading.Lock()
"""A search reads the vectors of every study. Several at once would only wait for each other."""


def neighbours(root: ScoreRoot, study_id: str, fingerprint: str) -> dict[str, Any]:
    """The nearest studies, for JSON; ConfigError where the root or the study has no vectors."""
    with _one_search:
        nearest = nearest_studies(root, study_id, TOP, fingerprint=fingerprint)
    return {
        "member": nearest.member,
        "studies": [
            {
                "study_id": neighbour.row["study_id"],
                "page": study_url(neighbour.row["study_id"]),
                "thumbnail": thumbnail_url(neighbour.row["study_id"]),
                "distance": round(neighbour.distance, 4),
                "findings": agreed_findings(neighbour.row),
                "is_same_patient": nearest.is_same_patient(neighbour),
            }
            for neighbour in nearest.neighbours
        ],
    }
