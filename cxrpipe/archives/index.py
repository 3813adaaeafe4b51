"""Indexing: an archive → a study table; and the source of a program, which is an archive or a study table."""

import contextlib
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from cxrpipe import console, storage
from cxrpipe.archives import layouts
from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.layouts.base import Found, Layout
from cxrpipe.archives.listing import FILES
from cxrpipe.archives.study_table_writer import IndexCounts, write_study_table
from cxrpipe.errors import ConfigError
from cxrpipe.records.pseudonyms import Pseudonyms, read_key
from cxrpipe.records.study_table import PSEUDONYMISED, SEEK_POINTS, StudyTable

_TABLE = "studies.parquet"


def index(
    archive: str,
    out: str,
    *,
    layout: str = "auto",
    split_seed: int = 0,
    previous: str | None = None,
    pseudonymise: str | None = None,
) -> IndexCounts:
    """Catalogue `archive` and write its study table to `out`; ConfigError where the archive has no images.

    previous      url of an earlier study table of this archive: files that have not changed since are not opened again
    pseudonymise  path of a key file: ids become pseudonyms under its key
    """
    archive, out = storage.normalise(archive), storage.normalise(out)
    if not out.endswith(".parquet"):
        raise ConfigError(f"{out}: a study table is one Parquet file; name it, as in {out}/studies.parquet")
    pseudonyms = read_key(pseudonymise, split_seed) if pseudonymise else None
    if previous:
        layout = _layout_before(previous, archive, layout, split_seed, pseudonyms)
    with _scratch() as scratch:
        catalogue = Catalogue(
            archive,
            scratch / SEEK_POINTS,
            lambda container: console.log(f"reading {'a container' if pseudonyms else container}"),
            previous=storage.normalise(previous).rpartition("/")[0] if previous else None,
            pseudonyms=pseudonyms,
        )
        chosen, why = layouts.choose(catalogue, layout)
        why = "as before" if previous else why
        console.log(f"as {chosen.name}" if pseudonyms else f"{archive} as {chosen.name} ({why})")
        return write_study_table(
            _found(catalogue, chosen, split_seed, scratch),
            out,
            archive=archive,
            layout=chosen.name,
            split_seed=split_seed,
            scratch=scratch,
            key_id=pseudonyms.key_id if pseudonyms else None,
        )


def _layout_before(previous: str, archive: str, layout: str, split_seed: int, pseudonyms: Pseudonyms | None) -> str:
    """The layout of the previous table; ConfigError where the table is of another archive or other settings."""
    table = StudyTable(previous)
    key_id = table.metadata.get(PSEUDONYMISED)
    before = table.metadata | {PSEUDONYMISED: f"by key {key_id}" if key_id else "by no key"}
    now = {
        "archive": archive,
        "layout": before["layout"] if layout == "auto" else layout,
        "split_seed": str(split_seed),
        PSEUDONYMISED: f"by key {pseudonyms.key_id}" if pseudonyms else "by no key",
    }
    for name, value in now.items():
        if before[name] != value:
            raise ConfigError(
                f"{table.url}: the previous table has {name} {before[name]}; expected {value}: "
                "name a table with the same settings, or index without --previous"
            )
    return now["layout"]


def _found(catalogue: Catalogue, layout: Layout, split_seed: int, scratch: Path) -> Iterator[Found]:
    """Everything that the layout finds. At the end, the list of files is saved with what was learned about them."""
    yield from layouts.studies(catalogue, layout, split_seed)
    catalogue.save(scratch / FILES)


# ---- the source of a program ------------------------------------------------------------------------------------


class SourceSettings(Protocol):
    """Settings that name either an archive or a study table."""

    @property
    def archive(self) -> str | None: ...
    @property
    def studies(self) -> str | None: ...
    @property
    def layout(self) -> str: ...
    @property
    def split_seed(self) -> int: ...


@dataclass(frozen=True)
class Source:
    """The studies that a program works on: a study table, named by the settings or made just now."""

    table: StudyTable
    scratch: Path
    """A local folder, gone when the source is closed."""
    in_scratch: bool = False
    """Whether the table was made in `scratch`, and has to be kept elsewhere for other machines and later runs."""

    def replaced(self, rows: pa.Table) -> "Source":
        """The source with other rows: a table made in scratch, which reads the same seek points."""
        if not self.in_scratch:
            seek_points = {b"seek_points": self.table.seek_points.encode()}
            rows = rows.replace_schema_metadata(rows.schema.metadata | seek_points)
        path = self.scratch / _TABLE
        pq.write_table(rows, path, compression="zstd")
        return Source(StudyTable(str(path)), self.scratch, in_scratch=True)

    def keep(self, home: str) -> StudyTable:
        """The table where every worker can read it: a table made in scratch is uploaded to `home` with all files."""
        if not self.in_scratch:
            return self.table
        storage.upload(self.scratch, home)
        return StudyTable(storage.join(home, _TABLE))

    def keep_seek_points(self, home: str) -> str:
        """The folder of the table's seek points; those made in scratch are uploaded below `home`.

        The rest of the table is not: it names all patients of the archive, also those that a score root must forget.
        """
        if not self.in_scratch:
            return self.table.seek_points
        kept = storage.join(home, SEEK_POINTS)
        if Path(self.table.seek_points).exists():
            storage.upload(Path(self.table.seek_points), kept)
        return kept


@contextlib.contextmanager
def open_source(settings: SourceSettings, show: Callable[[IndexCounts], object]) -> Iterator[Source]:
    """Open the study table that the settings name, or index their archive into a scratch folder.

    show  is given what the index found
    """
    with _scratch() as scratch:
        if settings.studies:
            yield Source(StudyTable(settings.studies), scratch)
            return
        out = str(scratch / _TABLE)
        show(index(settings.archive or "", out, layout=settings.layout, split_seed=settings.split_seed))
        yield Source(StudyTable(out), scratch, in_scratch=True)


@contextlib.contextmanager
def _scratch() -> Iterator[Path]:
    """A local folder in which a table is made before it is published."""
    with tempfile.TemporaryDirectory(prefix="cxrpipe-") as folder:
        yield Path(folder)
