"""A small scored archive for the pages of `review`: what can be seen, and what cannot."""

import csv
from pathlib import Path
from typing import NamedTuple

from builders import png, radiograph, segmenter, small_classifier

from cxrpipe.archives.index import index
from cxrpipe.config import ScoreConfig
from cxrpipe.programs.score import score_archive
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.engine import loop
from cxrpipe.runs.root import ScoreRoot

MARKUP = 'x"><b>bold</b>&'
FILES = {
    "p1/a": [png(radiograph(1)), png(radiograph(2, rows=60, columns=90))],
    "p1/b": [png(radiograph(3))],
    MARKUP: [png(radiograph(4))],
    "half": [png(radiograph(5)), b"junk <i>"],
    "junk": [b"%PDF-1.4 no film <script>alert(1)</script>"],
}
"""Study id → the bytes of its views. A part before `/` is the patient."""


class Archive(NamedTuple):
    table: StudyTable
    root: ScoreRoot


def scored_archive(folder: Path, key: Path | None = None) -> Archive:
    """`FILES`, indexed, and scored by two models and a segmenter with heat maps and feature vectors.

    key  of pseudonyms, under which there are no feature vectors
    """
    table = indexed_files(folder / "archive", key)
    models = tuple(small_classifier(folder / name, seed=seed, side_px=64).url for seed, name in enumerate("ab"))
    out = str(folder / "root")
    config = ScoreConfig(
        studies=table.url,
        models=models,
        segmenter=segmenter(folder / "lungs").url,
        out=out,
        explain=True,
        embed=key is None,
    )
    score_archive(config, loop)
    return Archive(table, ScoreRoot.at(out))


def indexed_files(folder: Path, key: Path | None) -> StudyTable:
    """`FILES` as an archive of its own, indexed."""
    folder.mkdir(parents=True)
    lines = [("study_id", "path", "patient_id", "label_Pneumonia")]
    for place, (study_id, files) in enumerate(FILES.items()):
        for number, data in enumerate(files):
            path = folder / f"{place}_{number}.png"
            path.write_bytes(data)
            lines.append((study_id, path.name, study_id.partition("/")[0], str(place % 2)))
    with (folder / "table.csv").open("w", newline="") as file:
        csv.writer(file).writerows(lines)
    out = str(folder.parent / "table" / "studies.parquet")
    index(str(folder / "table.csv"), out, pseudonymise=str(key) if key else None)
    return StudyTable(out)
