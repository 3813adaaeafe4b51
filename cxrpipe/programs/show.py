"""The program `show`: one study as a picture, as the archive has it or as it was scored."""

from cxrpipe import console, storage
from cxrpipe.archives.reader import Reader
from cxrpipe.config import DECODE_TIMEOUT_S, ShowConfig
from cxrpipe.errors import ConfigError, ExitStatus
from cxrpipe.images.isolation import Isolated
from cxrpipe.images.squares import decode_view
from cxrpipe.records import Study, find_score
from cxrpipe.records.study_table import StudyTable
from cxrpipe.report.sheet import draw
from cxrpipe.report.study_panels import heading, panels
from cxrpipe.runs.root import ScoreRoot
from cxrpipe.scoring.prepare import Row


def run(config: ShowConfig) -> ExitStatus:
    source = storage.normalise(config.source)
    row: Row | None = None
    if source.endswith(".parquet"):
        table = StudyTable(source)
    else:
        row, run_id = find_score(source, config.study, config.fingerprint)
        table = StudyTable(ScoreRoot(source).run(run_id).studies)
    study = _find(table, config.study)
    with Reader(table.seek_points) as reader, Isolated(decode_view, DECODE_TIMEOUT_S) as decode:
        sheet = draw([*panels(study, reader, row, decode)], "\n".join(heading(study, row)))
    out = storage.normalise(config.out or f"{config.study.replace('/', '_')}.png")
    storage.write(out, sheet)
    console.out().print("\n".join([*heading(study, row), f"Picture: {out}"]), markup=False)
    return ExitStatus.DONE


def _find(table: StudyTable, study_id: str) -> Study:
    if study := next(table.find([study_id]), None):
        return study
    first = next(table.batches(["study_id"]))["study_id"].slice(0, 3).to_pylist()
    raise ConfigError(f"{table.url}: no study {study_id!r} among {table.rows:,}; its ids look like {', '.join(first)}")
