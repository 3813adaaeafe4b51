"""The study table on disk: Parquet, one row per study. `cxrpipe.archives.index` writes it; here it is read."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from cxrpipe import storage
from cxrpipe.errors import ConfigError
from cxrpipe.records import Study

SEEK_POINTS = "seek_points"
"""Folder beside the table: seek points of its tar.gz files."""
SKIPPED = "skipped.parquet"
"""File beside the table: the files that are no radiograph of any study, with their reasons."""
UNMATCHED = "labels_without_files.parquet"
"""File beside the table: the studies that have labels and no image."""
PSEUDONYMISED = "pseudonymised"
"""Key in the table's metadata: the id of the key that made its pseudonyms."""
_BATCH = 5_000


class StudyTable:
    """A study table, opened: its metadata, and its studies in order."""

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
            if {"study_digest", "views"} <= set(self.schema.names):
                raise ConfigError(
                    f"{self.url}: has the columns of a study table without the metadata of its schema, which pandas "
                    "and DuckDB drop; write a part of a table with pyarrow.parquet, as docs/archives.md shows"
                )
            raise ConfigError(
                f"{self.url}: Parquet, but not a study table; index it first: cxrpipe index --archive {self.url}"
            )
        self.metadata = {
            key.decode(): value.decode() for key, value in metadata.items() if not key.startswith(b"ARROW")
        }
        self.findings: tuple[str, ...] = tuple(json.loads(self.metadata["findings"]))

    @property
    def origin(self) -> dict[str, Any]:
        """Archive, layout and split seed, for the facts of a model's card."""
        seed = self.metadata["split_seed"]
        return {
            "archive": self.metadata["archive"],
            "layout": self.metadata["layout"],
            "split_seed": int(seed) if seed.isdigit() else seed,
        }

    @property
    def is_pseudonymised(self) -> bool:
        """Whether the ids are pseudonyms. Then what is made from the table names no object of the archive."""
        return PSEUDONYMISED in self.metadata

    @property
    def seek_points(self) -> str:
        """Folder of the seek points of the tar.gz files: beside the table, unless the table is a frozen copy."""
        return self.metadata.get("seek_points") or storage.join(self.url.rpartition("/")[0], SEEK_POINTS)

    def batches(self, columns: list[str] | None = None) -> Iterator[pa.Table]:
        yield from storage.batches(self.url, columns, _BATCH)

    def read_group(self, number: int, columns: list[str]) -> pa.Table:
        """One row group of the file: a piece that can be read without the others."""
        with storage.open_seekable(self.url) as stream:
            return pq.ParquetFile(stream).read_row_group(number, columns=columns)

    def studies(self, split: str | None = None) -> Iterator[Study]:
        """All studies, or those of one split."""
        for batch in self.batches():
            for row in batch.to_pylist():
                if split in (None, row["split"]):
                    yield Study.from_row(row)

    def find(self, study_ids: Iterable[str]) -> Iterator[Study]:
        """The studies with these ids, in the order of the table; ids that the table lacks are left out."""
        ids = pa.array(study_ids, pa.string())
        for batch in self.batches():
            yield from map(Study.from_row, batch.filter(pc.is_in(batch["study_id"], ids)).to_pylist())

    def refuse_shared_patients(self) -> None:
        """ConfigError where a patient is in several splits: figures on such splits would be optimistic."""
        split_of: dict[str, str] = {}
        leaks = set()
        for batch in self.batches(["patient_id", "split"]):
            for patient, split in zip(batch["patient_id"].to_pylist(), batch["split"].to_pylist(), strict=True):
                if patient and split_of.setdefault(patient, split) != split:
                    leaks.add(patient)
        if leaks:
            some = f"{len(leaks)} patients are in more than one split ({', '.join(sorted(leaks)[:5])})"
            raise ConfigError(f"{self.url}: {some}; split by patient")
