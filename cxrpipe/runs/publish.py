"""Publishes a run: reconciles its parts with its frozen list, and merges the parts into files of about 256 MB."""

import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.errors import RunError
from cxrpipe.records import united, with_columns_of
from cxrpipe.records.id_set import IdSet
from cxrpipe.records.study_table import StudyTable
from cxrpipe.runs.plan import ROW_GROUP
from cxrpipe.runs.resume import met_an_error, part_urls, read_parts
from cxrpipe.runs.root import Run
from cxrpipe.scoring.parts import count_statuses

_PUBLISHED_BYTES = 256 << 20


def publish(run: Run) -> Counter[str]:
    """Reconcile the parts with the frozen list and merge them under deterministic names; count the statuses.

    Every id is published exactly once. A second row of a study is dropped, and so is a row `internal_error` where a
    later attempt has scored the study. RunError where a study is in no part.
    """
    wanted = IdSet.union(IdSet(ids) for ids in _frozen_ids(run))
    in_parts = read_parts(run)
    _require_all(run, IdSet.union(in_parts))
    counts: Counter[str] = Counter()
    storage.delete_below(run.scores)  # an attempt that was killed may have left more files than this one writes
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as folder:
        for number, path in enumerate(_merged(_each_once(run, wanted, in_parts.done, counts), Path(folder))):
            storage.upload_file(path, storage.join(run.scores, f"scores-{number:05d}.parquet"))
            path.unlink()
    return counts


def _frozen_ids(run: Run) -> Iterator[list[str]]:
    for batch in StudyTable(run.studies).batches(["study_id"]):
        yield batch["study_id"].to_pylist()


def _require_all(run: Run, scored: IdSet) -> None:
    missing: list[str] = []
    for ids in _frozen_ids(run):
        missing += (study_id for study_id, is_scored in zip(ids, scored.contains(ids), strict=True) if not is_scored)
    if missing:
        raise RunError(
            f"{run.url}: {len(missing)} studies are in no part, {sorted(missing)[:3]} among them; "
            "run the same command again to score them"
        )


def _each_once(run: Run, wanted: IdSet, done: IdSet, counts: Counter[str]) -> Iterator[pa.Table]:
    """The rows of all parts, in the order of the parts' names: the first row of every wanted study.

    done    studies with a row that is not `internal_error`: their `internal_error` rows are skipped
    counts  gains the statuses of these rows
    """
    taken = np.zeros(len(wanted), bool)
    for url in sorted(part_urls(run)):
        try:
            rows = storage.read_table(url)
        except (pa.ArrowInvalid, OSError) as error:  # the ids of this part can be read, its other columns cannot
            storage.delete(url)
            raise RunError(
                f"{url}: cannot be read ({error}); run the same command again to score its studies"
            ) from error
        ids = rows["study_id"].to_pylist()
        is_bettered = met_an_error(rows).to_numpy() & done.contains(ids)
        keep = []
        for place, bettered in zip(wanted.places(ids), is_bettered, strict=True):
            keep.append(place >= 0 and not taken[place] and not bettered)
            if keep[-1]:
                taken[place] = True
        rows = rows.filter(pa.array(keep))
        counts.update(count_statuses(rows))
        yield rows


def _merged(tables: Iterable[pa.Table], folder: Path) -> Iterator[Path]:
    """Merge tables into local files of about 256 MB, with row groups of at most 1,000 rows.

    A later version may have resumed the run and written columns that the first parts lack. A file has the columns of
    all tables before it; a table with further columns begins a new file. Readers unite the columns of the files.
    """
    path, writer, number, schema = folder, None, 0, pa.schema([])
    for table in tables:
        schema = united([schema, table.schema])
        if writer is not None and not writer.schema.equals(schema):
            writer.close()
            yield path
            writer = None
        if writer is None:
            path = folder / f"{number}.parquet"
            writer = pq.ParquetWriter(path, schema, compression="zstd")
            number += 1
        writer.write_table(with_columns_of(schema, table), row_group_size=ROW_GROUP)
        if path.stat().st_size >= _PUBLISHED_BYTES:
            writer.close()
            yield path
            writer = None
    if writer is not None:
        writer.close()
        yield path
