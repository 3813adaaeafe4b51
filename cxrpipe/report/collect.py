"""Collects what the report shows: an evaluation, the runs and models behind it, and pictures."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import storage
from cxrpipe.evaluation.figures import Evaluation
from cxrpipe.models.folder import CARD
from cxrpipe.records import RunReport
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.gallery import finding_pictures, mask_pictures
from cxrpipe.report.page import Flow, Report
from cxrpipe.scoring.parts import count_statuses


def collect(
    evaluation: Evaluation, rows: pa.Table, table: StudyTable, runs: Sequence[RunReport], *, pictures: int
) -> Report:
    """What the report shows. Images are read again for its galleries.

    rows      scored studies with labels, of which the evaluation was made (see `evaluation.join`)
    runs      that scored these rows
    pictures  the most pictures in the gallery of findings; zero: no gallery
    """
    findings = [figures.finding for figures in evaluation.findings]
    return Report(
        evaluation=evaluation,
        flow=Flow(_listed(table, evaluation.split), count_statuses(rows)),
        runs=runs,
        cards=_cards(runs),
        pictures=finding_pictures(rows, table, findings, pictures) if pictures and findings else {},
        mask_pictures=mask_pictures(evaluation.masks, rows, table) if pictures and evaluation.masks else (),
    )


def _listed(table: StudyTable, split: str) -> int:
    """The number of studies of the split in the table."""
    if split == "all":
        return int(table.rows)
    return sum(pc.sum(pc.equal(batch["split"], split)).as_py() or 0 for batch in table.batches(["split"]))


def _cards(runs: Sequence[RunReport]) -> dict[str, dict[str, Any]]:
    """Url → card of the models that scored, where the folder is still there and still holds the same weights."""
    cards = {}
    for model in (model for run in runs for model in run.models):
        url = storage.join(model.url, CARD)
        if model.url not in cards and storage.stat(url):
            card = json.loads(storage.read(url))
            if card["weights_sha256"] == model.weights_sha256:
                cards[model.url] = card
    return cards
