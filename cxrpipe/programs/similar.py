"""The program `similar`: the studies nearest to one study by feature vector, as a table and as a picture."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from cxrpipe import console, storage
from cxrpipe.archives.reader import Reader
from cxrpipe.config import DECODE_TIMEOUT_S, SimilarConfig
from cxrpipe.errors import ConfigError, CxrError, ExitStatus, StudyError
from cxrpipe.evaluation.join import names_of
from cxrpipe.evaluation.neighbours import Neighbour, nearest
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.records import CompleteRuns, Study, complete_runs
from cxrpipe.records.stored_vectors import read_embedded, refuse_none, with_vectors
from cxrpipe.records.study_table import StudyTable
from cxrpipe.records.vectors import Vectors
from cxrpipe.report.sheet import Panel, draw
from cxrpipe.report.study_panels import shown
from cxrpipe.report.terminal import figures_table
from cxrpipe.report.words import spoken
from cxrpipe.runs.forgotten import Forgotten
from cxrpipe.runs.root import ScoreRoot

_WIDTH = 100
Row = dict[str, Any]


def run(config: SimilarConfig) -> ExitStatus:
    root, runs = ScoreRoot.at(config.source), with_vectors(complete_runs(config.source), config.fingerprint)
    forgotten = root.forgotten()
    row = _row(config, runs, forgotten)
    member = _member(config, runs, row)
    of_views = [of_view[member] for of_view in row["feature_vectors"] if of_view is not None]
    batches = _others(runs, config.study, member, forgotten)
    neighbours = nearest(np.array(of_views, np.float32), batches, config.top)
    name = names_of(runs.newest.members)[member]
    out = console.out(_WIDTH)
    out.print(f"Nearest to {config.study} by the feature vectors of {name}; distance: 1 − cosine", markup=False)
    table = figures_table("study", "findings", "", "distance", words=3)
    for neighbour in neighbours:
        same = "same patient" if _is_same_patient(neighbour.row, row) else ""
        table.add_row(neighbour.row["study_id"], _findings(neighbour.row), same, f"{neighbour.distance:.4f}")
    out.print(table)
    itself = Neighbour(0.0, next(n for n, each in enumerate(row["feature_vectors"]) if each is not None), row)
    out.print(_picture(config, root, [itself, *neighbours]), markup=False)
    return ExitStatus.DONE


# ---- the search -----------------------------------------------------------------------------------------------


def _row(config: SimilarConfig, runs: CompleteRuns, forgotten: Forgotten) -> Row:
    """The row of the study; ConfigError where there is none, or where it has no vectors."""
    refuse_none(runs)
    row, run_id = runs.find(config.study)
    if not forgotten.is_kept(pa.table({"patient_id": pa.array([row["patient_id"]], pa.string())}))[0]:
        raise ConfigError(f"{runs.root}: the patient of study {config.study!r} is forgotten")
    if row.get("feature_vectors") is None:
        raise ConfigError(f"{runs.root}: no view of study {config.study!r} was scored, so it has no feature vector")
    return row | {"run_id": run_id}


def _member(config: SimilarConfig, runs: CompleteRuns, row: Row) -> int:
    """The place of the member whose vectors are compared."""
    scored = next(of_view for of_view in row["feature_vectors"] if of_view is not None)
    names = names_of(runs.newest.members)
    having = {name: place for place, name in enumerate(names) if scored[place] is not None}
    if not having:
        raise ConfigError(f"{runs.root}: no model there has feature vectors; an ONNX file, for example, has none")
    member = config.member or next(iter(having))
    if member not in having:
        raise ConfigError(
            f"{runs.root} holds no feature vectors of --member {member}; expected one of {', '.join(having)}"
        )
    return having[member]


def _others(runs: CompleteRuns, study_id: str, member: int, forgotten: Forgotten) -> Iterator[tuple[pa.Table, Vectors]]:
    """The rows of all other studies and the vectors of their views; no forgotten patient is among them."""

    def is_other(rows: pa.Table) -> np.ndarray:
        is_kept: np.ndarray = forgotten.is_kept(rows) & pc.not_equal(rows["study_id"], study_id).to_numpy().astype(bool)
        return is_kept

    columns = [f"{name}_{finding}" for finding in runs.newest.findings for name in ("prob", "consensus")]
    for report, rows, members in read_embedded(runs, columns, is_other):
        yield rows.append_column("run_id", pa.array([report.run_id] * rows.num_rows)), members[member]


# ---- words and pictures ---------------------------------------------------------------------------------------


def _is_same_patient(row: Row, other: Row) -> bool:
    return row["patient_id"] is not None and row["patient_id"] == other["patient_id"]


def _findings(row: Row) -> str:
    """The findings that the members agree on, the most probable first: `Pneumonia 0.81, Mass 0.62`."""
    names = [name.removeprefix("consensus_") for name, value in row.items() if name.startswith("consensus_") and value]
    names.sort(key=lambda name: -row[f"prob_{name}"])
    return ", ".join(f"{spoken(name)} {row[f'prob_{name}']:.2f}" for name in names) or "–"


def _picture(config: SimilarConfig, root: ScoreRoot, neighbours: Sequence[Neighbour]) -> str:
    """Draw the study and its neighbours; a line for people, which says why where there is no picture."""
    try:
        studies = _studies(config, root, neighbours)
        panels = [*_panels(neighbours, studies)]
    except (FileNotFoundError, CxrError) as error:
        return f"No picture: {error}"
    out = storage.normalise(config.out)
    heading = f"study {config.study} and the {len(neighbours) - 1} nearest by feature vector"
    storage.write(out, draw(panels, heading))
    return f"Picture: {out}"


def _studies(
    config: SimilarConfig, root: ScoreRoot, neighbours: Sequence[Neighbour]
) -> dict[str, tuple[Study, StudyTable]]:
    """Study id → the study and its table, from the lists of the runs that scored it."""
    ids = defaultdict[str, list[str]](list)
    for neighbour in neighbours:
        ids[config.studies or root.run(neighbour.row["run_id"]).studies].append(neighbour.row["study_id"])
    tables = {url: StudyTable(url) for url in ids}
    return {study.study_id: (study, tables[url]) for url in ids for study in tables[url].find(ids[url])}


def _panels(neighbours: Sequence[Neighbour], studies: dict[str, tuple[Study, StudyTable]]) -> Iterator[Panel]:
    """A panel for the nearest view of each study."""
    with Isolated(decode_view, DECODE_TIMEOUT_S) as decode:
        for neighbour in neighbours:
            row = neighbour.row
            distance = f"{neighbour.distance:.4f}" if neighbour is not neighbours[0] else "the study"
            same = (
                " same patient" if neighbour is not neighbours[0] and _is_same_patient(row, neighbours[0].row) else ""
            )
            title = f"{row['study_id']} · {distance}{same} · {_findings(row)}"
            pixels = None
            if row["study_id"] in studies:
                study, table = studies[row["study_id"]]
                try:
                    with Reader(table.seek_points) as reader:
                        pixels = shown(study.views[neighbour.view], reader, decode).pixels
                except StudyError as error:
                    title = f"{row['study_id']}: {error.reason}"
            yield Panel(title=title, pixels=pixels)
