"""The program `predict`: a few images, as a person would try a model. The plain loop on studies of one view each."""

from collections.abc import Sequence
from pathlib import PurePosixPath

from rich.table import Table

from cxrpipe import console, storage
from cxrpipe.archives.reader import Reader
from cxrpipe.config import DECODE_TIMEOUT_S, PredictConfig
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.models import execution
from cxrpipe.models.ensemble import Ensemble, open_ensemble
from cxrpipe.records import Study, View
from cxrpipe.report.sheet import draw
from cxrpipe.report.study_panels import panels, scored
from cxrpipe.scoring.predict import Predictor
from cxrpipe.scoring.prepare import Row
from cxrpipe.scoring.rows import score, score_table

_COLUMNS = 5


def run(config: PredictConfig) -> int:
    ensemble = open_ensemble(config.models, config.segmenter, explain=config.explain and bool(config.models))
    studies, out = _studies(config.files), storage.normalise(config.out)
    predictor = Predictor(ensemble, plan=execution.plan(precision="auto"))
    with Reader("") as reader, Isolated(decode_view, DECODE_TIMEOUT_S) as isolated:
        rows = list(score(studies, reader, ensemble, predictor, decode=isolated))
        for study, row in zip(studies, rows, strict=True):
            sheet = draw(
                [*panels(study, reader, row, ensemble.preparations[0].recipe)],
                "\n".join([study.views[0].url, *scored(row)]),
            )
            storage.write(storage.join(out, f"{study.study_id}.png"), sheet)
    storage.write_table(storage.join(out, "scores.parquet"), score_table(rows, ensemble.findings))
    _print_rows(rows, ensemble)
    console.out().print(f"Pictures and scores: {out}")
    return 0


def _studies(files: Sequence[str]) -> list[Study]:
    """One study per file, named by its stem; a second file of that stem gets a number."""
    names: dict[str, int] = {}
    studies = []
    for file in files:
        url = storage.normalise(file)
        stem = PurePosixPath(url).stem
        names[stem] = names.get(stem, 0) + 1
        study_id = stem if names[stem] == 1 else f"{stem}_{names[stem]}"
        studies.append(Study(study_id=study_id, views=(View(url=url),), study_digest="none"))
    return studies


def _print_rows(rows: Sequence[Row], ensemble: Ensemble) -> None:
    """The findings with the highest probabilities, as many as fit; a star where the members agree on yes."""
    table = Table("study", "status", box=None)
    highest = sorted(ensemble.findings, key=lambda finding: -max(row.get(f"prob_{finding}") or 0.0 for row in rows))
    shown = [finding for finding in ensemble.findings if finding in highest[:_COLUMNS]]
    for finding in shown:
        table.add_column(finding, justify="right")
    if ensemble.segmenter:
        table.add_column("lungs", justify="right")
    for row in rows:
        cells = [_cell(row, finding) for finding in shown]
        if ensemble.segmenter:
            fraction = row["views"][0].get("lung_fraction")
            cells.append("" if fraction is None else f"{fraction:.0%}")
        table.add_row(row["study_id"], row["reason"] or ", ".join([row["status"], *row["flags"]]), *cells)
    console.out().print(table)
    if left := len(ensemble.findings) - len(shown):
        console.out().print(f"and {left} findings more, less probable, in scores.parquet")


def _cell(row: Row, finding: str) -> str:
    if row.get(f"prob_{finding}") is None:
        return ""
    members = len(row[f"member_probs_{finding}"])
    star = "*" if row[f"consensus_{finding}"] else " "
    return f"{row[f'prob_{finding}']:.2f} ({row[f'votes_{finding}']}/{members}){star}"
