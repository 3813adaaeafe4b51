"""From an evaluation and the rows it is made of to all that the report shows."""

from __future__ import annotations

import json
from typing import Any

import pyarrow.compute as pc

from cxrpipe import storage
from cxrpipe.evaluation.figures import Evaluation
from cxrpipe.evaluation.join import join
from cxrpipe.models.folder import CARD
from cxrpipe.records import read_scores, runs_of
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.gallery import finding_pictures, mask_pictures
from cxrpipe.report.page import Flow, Report
from cxrpipe.scoring.parts import count_statuses


def collect(evaluation: Evaluation, *, pictures: int) -> Report:
    """What the report shows; images are read again for its gallery.

    pictures  at most so many in the gallery of findings; zero: no gallery
    """
    table = StudyTable(evaluation.studies)
    rows = join(read_scores(evaluation.scores, evaluation.fingerprint), table, evaluation.split)
    runs = [run for run in runs_of(evaluation.scores) if run["fingerprint"] == evaluation.fingerprint]
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
    if split == "all":
        return table.rows
    return sum(pc.sum(pc.equal(batch["split"], split)).as_py() or 0 for batch in table.batches(["split"]))


def _cards(runs: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Url → card of the models that scored, where their folders are still there and still hold the same weights."""
    found = {}
    for model in (model for run in runs for model in run["models"]):
        url = storage.join(model["url"], CARD)
        if model["url"] not in found and storage.stat(url):
            card = json.loads(storage.read(url))
            if card["weights_sha256"] == model["weights_sha256"]:
                found[model["url"]] = card
    return found
