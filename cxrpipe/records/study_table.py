"""The study table on disk: Parquet, one row per study, and what lies beside it."""

import contextlib
import json
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import __version__, storage
from cxrpipe.archives.containers.gzips import SEEK_POINTS
from cxrpipe.archives.layouts.base import Found, Remark, Skipped, Table, Unmatched
from cxrpipe.archives.listing import FILES
from cxrpipe.errors import ConfigError
from cxrpipe.records import SCHEMA_VERSION, SKIPPED_SCHEMA, UNMATCHED_SCHEMA, Study, study_schema
from cxrpipe.storage import spill

SKIPPED = "skipped.parquet"
UNMATCHED = "labels_without_files.parquet"
PSEUDONYMISED = "pseudonymised"
"""In the metadata of a table with pseudonyms: the id of their key."""
_BATCH = 5_000
_EXAMPLES = 5
_TWO_SEXES = "patients are of both sexes by their studies: is one id given to several people?"
LOSSES_KEPT = 10


class Identical(NamedTuple):
    """Views of equal content, as far as that can be told without reading them."""

    groups: int
    views: int
    groups_across_splits: int


@dataclass
class Account:
    """What an index found, for a person."""

    studies: int = 0
    views: int = 0
    masks: int = 0
    tables: int = 0
    """Files that the layout has read for what they say."""
    skipped: Counter = field(default_factory=Counter)
    losses: list[str] = field(default_factory=list)
    """What has been lost, in words and with what to do: the first of them."""
    lost: int = 0
    unmatched: int = 0
    remarks: Counter = field(default_factory=Counter)
    """How many of each kind."""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """Of each kind of remark: the first studies, or lines of a table."""
    without_position: int = 0
    """Studies with a view of which the view position is unknown."""
    splits: Counter = field(default_factory=Counter)
    labels: dict[str, Counter] = field(default_factory=dict)
    patients: int = 0
    without_patient: int = 0
    """Studies of which no patient is known."""
    identical: "Identical" = field(default_factory=lambda: Identical(0, 0, 0))

    def add(self, found: Found) -> None:
        match found:
            case Study():
                self.studies += 1
                self.views += len(found.views)
                self.masks += len(found.mask_views)
                self.splits[found.split] += 1
                self.without_patient += not found.patient_id
                self.without_position += any(view.view_position is None for view in found.views)
                for finding, label in found.labels.items():
                    self.labels.setdefault(finding, Counter())[label] += 1
            case Skipped():
                self.skipped[found.reason] += 1
                if found.detail:
                    self.lost += 1
                    self.losses += [found.detail] if self.lost <= LOSSES_KEPT else []
            case Table():
                self.tables += 1
            case Unmatched():
                self.unmatched += 1
            case Remark():
                self.remarks[found.kind] += 1
                examples = self.examples.setdefault(found.kind, [])
                if found.example and len(examples) < _EXAMPLES:
                    examples.append(found.example)


def write_study_table(
    found: Iterable[Found],
    out: str,
    *,
    archive: str,
    layout: str,
    split_seed: int,
    scratch: Path,
    key_id: str | None = None,
) -> Account:
    """Write the table and what lies beside it, at the end; the table last.

    key_id   of the key of its pseudonyms, where it has any
    scratch  local folder; seek points that lie in its `seek_points/` become part of the table
    """
    account = Account()
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
            account.add(item)
            match item:
                case Study():
                    if item.patient_id:
                        account.patients += patients.add(item.patient_id)
                        if sexes.contradict(item):
                            account.add(Remark(_TWO_SEXES, None if key_id else item.patient_id))
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
        account.identical = contents.identical()
    for writer in writers.values():
        writer.close()
    if name not in writers:
        raise ConfigError(f"{archive}: layout {layout} finds no images there")
    # It may break off: the next index believes a table to have its list of files, and a list of files to have the seek
    # points of what it lists.
    storage.upload(scratch, folder, last=(FILES, name))
    return account


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
    """Of every patient: one id that an anonymiser or a table gives to several people shows by it."""

    def __init__(self) -> None:
        self._patients, self._pairs = spill.Seen(), spill.Seen()

    def contradict(self, study: Study) -> bool:
        """Whether another study of this patient has said the other sex."""
        if study.patient_sex not in ("M", "F"):
            return False
        known = not self._patients.add(study.patient_id or "")
        return self._pairs.add(f"{study.patient_sex} {study.patient_id}") and known

    def close(self) -> None:
        self._patients.close()
        self._pairs.close()


class _Contents:
    """What tells the content of views: the CRC of a zip entry, the MD5 that S3 gives of an object sent in one piece."""

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
    """Rows to one Parquet file, a batch at a time."""

    def __init__(self, path: Path, schema: pa.Schema) -> None:
        self._schema = schema
        self._rows: list[dict] = []
        self._file = pq.ParquetWriter(path, schema, compression="zstd")

    def add(self, row: dict) -> None:
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


class StudyTable:
    """A study table, opened: what its metadata say, and its studies in order."""

    def __init__(self, url: str) -> None:
        self.url = storage.normalise(url)
        try:
            with storage.open_seekable(self.url) as stream:
                file = pq.ParquetFile(stream)
                self.schema, self.rows = file.schema_arrow, file.metadata.num_rows
                self.row_groups = file.metadata.num_row_groups
        except FileNotFoundError:
            raise ConfigError(
                f"{self.url}: no study table there; make one with: cxrpipe index --archive … --out …"
            ) from None
        except (pa.ArrowInvalid, IsADirectoryError) as error:
            raise ConfigError(f"{self.url}: not a study table ({error}); expected what cxrpipe index writes") from None
        metadata = self.schema.metadata or {}
        if b"schema_version" not in metadata:
            raise ConfigError(
                f"{self.url}: Parquet, but not a study table; index it first: cxrpipe index --archive {self.url}"
            )
        self.metadata = {
            key.decode(): value.decode() for key, value in metadata.items() if not key.startswith(b"ARROW")
        }
        self.findings: tuple[str, ...] = tuple(json.loads(self.metadata["findings"]))

    @property
    def is_pseudonymised(self) -> bool:
        """Then the table is private, and what is made of it names no object of the archive."""
        return PSEUDONYMISED in self.metadata

    @property
    def seek_points(self) -> str:
        """Folder of the seek points of its tar.gz files: beside it, unless it is a frozen copy."""
        return self.metadata.get("seek_points") or storage.join(self.url.rpartition("/")[0], SEEK_POINTS)

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        yield from storage.batches(self.url, columns, _BATCH)

    def read_group(self, number: int, columns: list[str]) -> pa.Table:
        """One row group of the file: a piece that can be read on its own."""
        with storage.open_seekable(self.url) as stream:
            return pq.ParquetFile(stream).read_row_group(number, columns=columns)

    def studies(self, split: str | None = None) -> Iterator[Study]:
        """All studies, or those of one split."""
        for batch in self.batches():
            for row in batch.to_pylist():
                if split in (None, row["split"]):
                    yield Study.from_row(row)

    def find(self, study_ids: Iterable[str]) -> Iterator[Study]:
        """The studies of these ids that the table has, in its order."""
        wanted = pa.array(study_ids, pa.string())
        for batch in self.batches():
            yield from map(Study.from_row, batch.filter(pc.is_in(batch["study_id"], wanted)).to_pylist())


def scratch_folder() -> tempfile.TemporaryDirectory:
    """Where a table is made before it is published; gone afterwards."""
    return tempfile.TemporaryDirectory(prefix="cxrpipe-")
