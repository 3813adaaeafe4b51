"""Writes a study table and the files beside it, and counts what an index found."""

import contextlib
import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import __version__, storage
from cxrpipe.archives.layouts.base import Found, Remark, Skipped, Table, Unmatched
from cxrpipe.archives.listing import FILES
from cxrpipe.errors import ConfigError
from cxrpipe.records import SCHEMA_VERSION, SKIPPED_SCHEMA, UNMATCHED_SCHEMA, Study, study_schema
from cxrpipe.records.study_table import PSEUDONYMISED, SKIPPED, UNMATCHED
from cxrpipe.storage import spill

LOSSES_KEPT = 10
_BATCH = 5_000
_EXAMPLES = 5
_TWO_SEXES = "patients are of both sexes by their studies: is one id given to several people?"


class Identical(NamedTuple):
    """Views of equal content, as far as checksums tell without reading the files."""

    groups: int
    views: int
    groups_across_splits: int


@dataclass
class IndexCounts:
    """What an index found, in numbers and examples for a person."""

    studies: int = 0
    views: int = 0
    masks: int = 0
    tables: int = 0
    """Files that the layout has read as tables or lists."""
    skipped: Counter[str] = field(default_factory=Counter)
    """Reason → files."""
    losses: list[str] = field(default_factory=list)
    """The first lost files: a sentence for each, with what to do."""
    lost: int = 0
    unmatched: int = 0
    remarks: Counter[str] = field(default_factory=Counter)
    """Kind of remark → how many."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Kind of remark → its first studies, or its first lines of a table."""
    without_position: int = 0
    """Studies with a view whose view position is unknown."""
    splits: Counter[str | None] = field(default_factory=Counter)
    """Split → studies."""
    labels: dict[str, Counter[float | None]] = field(default_factory=dict)
    """Finding → label → studies."""
    patients: int = 0
    without_patient: int = 0
    """Studies whose patient is unknown."""
    identical: Identical = field(default_factory=lambda: Identical(0, 0, 0))

    def add(self, item: Found) -> None:
        match item:
            case Study():
                self.studies += 1
                self.views += len(item.views)
                self.masks += len(item.mask_views)
                self.splits[item.split] += 1
                self.without_patient += not item.patient_id
                self.without_position += any(view.view_position is None for view in item.views)
                for finding, label in item.labels.items():
                    self.labels.setdefault(finding, Counter())[label] += 1
            case Skipped():
                self.skipped[item.reason] += 1
                if item.detail:
                    self.lost += 1
                    self.losses += [item.detail] if self.lost <= LOSSES_KEPT else []
            case Table():
                self.tables += 1
            case Unmatched():
                self.unmatched += 1
            case Remark():
                self.remarks[item.kind] += 1
                examples = self.examples.setdefault(item.kind, [])
                if item.example and len(examples) < _EXAMPLES:
                    examples.append(item.example)


def write_study_table(
    found: Iterable[Found],
    out: str,
    *,
    archive: str,
    layout: str,
    split_seed: int,
    scratch: Path,
    key_id: str | None = None,
) -> IndexCounts:
    """Make the table and the files beside it in `scratch`, then upload them all, the table last.

    key_id   id of the key that made the table's pseudonyms; None: its ids are the archive's
    scratch  local folder; everything in it becomes part of the table, such as `seek_points/`
    """
    counts = IndexCounts()
    folder, _, name = out.rpartition("/")
    writers: dict[str, _Writer] = {
        SKIPPED: _Writer(scratch / SKIPPED, SKIPPED_SCHEMA),
        UNMATCHED: _Writer(scratch / UNMATCHED, UNMATCHED_SCHEMA),
    }
    with (
        contextlib.closing(spill.Seen()) as patients,
        contextlib.closing(_Sexes()) as sexes,
        contextlib.closing(_Contents()) as contents,
    ):
        for item in found:
            counts.add(item)
            match item:
                case Study():
                    if item.patient_id:
                        counts.patients += patients.add(item.patient_id)
                        if sexes.contradict(item):
                            counts.add(Remark(_TWO_SEXES, None if key_id else item.patient_id))
                    if name not in writers:
                        schema = study_schema(list(item.labels)).with_metadata(
                            _metadata(item, archive, layout, split_seed) | ({PSEUDONYMISED: key_id} if key_id else {})
                        )
                        writers[name] = _Writer(scratch / name, schema)
                    writers[name].add(item.row())
                    contents.add(item)
                case Skipped():
                    writers[SKIPPED].add(item._asdict())
                case Unmatched():
                    writers[UNMATCHED].add(item._asdict())
        counts.identical = contents.identical()
    for writer in writers.values():
        writer.close()
    if name not in writers:
        raise ConfigError(f"{archive}: layout {layout} finds no images there")
    # The upload may break off. The next index trusts that a table has its list of files beside it, and that a list of
    # files has the seek points of its tar.gz files.
    storage.upload(scratch, folder, last=(FILES, name))
    return counts


def _metadata(study: Study, archive: str, layout: str, split_seed: int) -> dict[str, str]:
    return {
        "schema_version": str(SCHEMA_VERSION),
        "archive": archive,
        "layout": layout,
        "findings": json.dumps(list(study.labels)),
        "split_seed": str(split_seed),
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "cxrpipe": __version__,
    }


class _Sexes:
    """The sexes of every patient: two sexes betray an id that an anonymiser or a table gives to several people."""

    def __init__(self) -> None:
        self._patients, self._pairs = spill.Seen(), spill.Seen()

    def contradict(self, study: Study) -> bool:
        """Whether an earlier study of this patient has the other sex."""
        if study.patient_sex not in ("M", "F"):
            return False
        known = not self._patients.add(study.patient_id or "")
        return self._pairs.add(f"{study.patient_sex} {study.patient_id}") and known

    def close(self) -> None:
        self._patients.close()
        self._pairs.close()


class _Contents:
    """Checksums of views: the CRC of a zip entry, and the MD5 that S3 gives for an object uploaded in one piece."""

    def __init__(self) -> None:
        self._database = spill.database("CREATE TABLE contents (version, length, split);")

    def add(self, study: Study) -> None:
        for view in study.views:
            of_zip = view.crc32 is not None
            of_object = view.entry is None and storage.is_s3(view.url) and "-" not in view.version
            if view.length and (of_zip or of_object):
                row = (view.version, view.length, study.split)
                self._database.execute("INSERT INTO contents VALUES (?, ?, ?)", row)

    def identical(self) -> Identical:
        groups = """SELECT count(*) AS views, count(DISTINCT split) AS splits
        FROM contents GROUP BY version, length HAVING views > 1"""
        query = f"SELECT count(*), ifnull(sum(views), 0), ifnull(sum(splits > 1), 0) FROM ({groups})"
        return Identical(*self._database.execute(query).fetchone())

    def close(self) -> None:
        self._database.close()


class _Writer:
    """Writes rows to one Parquet file, a batch at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[dict[str, Any]] = []
        self._file = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: dict[str, Any]) -> None:
        self._rows.append(row)
        if len(self._rows) >= _BATCH:
            self._flush()

    def _flush(self) -> None:
        if self._rows:
            self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
            self._rows = []

    def close(self) -> None:
        self._flush()
        self._file.close()
