"""The program `similar`: the studies nearest to one study by feature vector, as a table and as a picture."""

from collections import defaultdict
from collections.abc import Iterator, Sequence

from cxrpipe import console, storage
from cxrpipe.archives.reader import Reader
from cxrpipe.config import DECODE_TIMEOUT_S, SimilarConfig
from cxrpipe.errors import CxrError, ExitStatus, StudyError
from cxrpipe.evaluation.neighbours import Neighbour
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.records import Study
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.sheet import Panel, draw
from cxrpipe.report.study_panels import shown
from cxrpipe.report.terminal import figures_table
from cxrpipe.report.words import agreed_findings
from cxrpipe.runs.nearest_studies import NearestStudies, nearest_studies
from cxrpipe.runs.root import ScoreRoot

_WIDTH = 100


def run(config: SimilarConfig) -> ExitStatus:
    root = ScoreRoot.at(config.source)
    nearest = nearest_studies(root, config.study, config.top, member=config.member, fingerprint=config.fingerprint)
    out = console.out(_WIDTH)
    out.print(
        f"Nearest to {config.study} by the feature vectors of {nearest.member}; distance: 1 − cosine", markup=False
    )
    table = figures_table("study", "findings", "", "distance", words=3)
    for neighbour in nearest.neighbours:
        same = "same patient" if nearest.is_same_patient(neighbour) else ""
        table.add_row(neighbour.row["study_id"], agreed_findings(neighbour.row), same, f"{neighbour.distance:.4f}")
    out.print(table)
    out.print(_picture(config, root, nearest), markup=False)
    return ExitStatus.DONE


def _picture(config: SimilarConfig, root: ScoreRoot, nearest: NearestStudies) -> str:
    """Draw the study and its neighbours; a line for people, which says why where there is no picture."""
    try:
        studies = _studies(config, root, [nearest.study, *nearest.neighbours])
        panels = [*_panels(nearest, studies)]
    except (FileNotFoundError, CxrError) as error:
        return f"No picture: {error}"
    out = storage.normalise(config.out)
    heading = f"study {config.study} and the {len(nearest.neighbours)} nearest by feature vector"
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


def _panels(nearest: NearestStudies, studies: dict[str, tuple[Study, StudyTable]]) -> Iterator[Panel]:
    """A panel for the nearest view of each study."""
    with Isolated(decode_view, DECODE_TIMEOUT_S) as decode:
        for neighbour in (nearest.study, *nearest.neighbours):
            row, distance = neighbour.row, "the study"
            if neighbour is not nearest.study:
                distance = f"{neighbour.distance:.4f}" + " same patient" * nearest.is_same_patient(neighbour)
            title = f"{row['study_id']} · {distance} · {agreed_findings(row)}"
            pixels = None
            if row["study_id"] in studies:
                study, table = studies[row["study_id"]]
                try:
                    with Reader(table.seek_points) as reader:
                        pixels = shown(study.views[neighbour.view], reader, decode).pixels
                except StudyError as error:
                    title = f"{row['study_id']}: {error.reason}"
            yield Panel(title=title, pixels=pixels)
