"""The program `index`: an archive → a study table, and a short account."""

from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

from rich.table import Table

from cxrpipe import console, storage
from cxrpipe.archives import layouts
from cxrpipe.archives.aside import MEANINGS
from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.containers.gzips import SEEK_POINTS
from cxrpipe.archives.layouts.base import Found, Layout
from cxrpipe.archives.listing import FILES
from cxrpipe.config import IndexConfig
from cxrpipe.errors import ConfigError
from cxrpipe.records import SPLITS
from cxrpipe.records.pseudonyms import Pseudonyms, read_key
from cxrpipe.records.study_table import PSEUDONYMISED, SKIPPED, Account, StudyTable, scratch_folder, write_study_table


def index(
    archive: str,
    out: str,
    *,
    layout: str = "auto",
    split_seed: int = 0,
    previous: str | None = None,
    pseudonymise: str | None = None,
) -> Account:
    """Catalogue `archive` and write its study table to `out`; ConfigError where there is nothing to catalogue.

    previous      url of a study table of the same archive: what has not changed since is not opened again
    pseudonymise  path of a key file: ids become pseudonyms under its key
    """
    archive, out = storage.normalise(archive), storage.normalise(out)
    if not out.endswith(".parquet"):
        raise ConfigError(f"{out}: a study table is one Parquet file; name it, as in {out}/studies.parquet")
    pseudonyms = read_key(pseudonymise, split_seed) if pseudonymise else None
    if previous:
        layout = _layout_before(previous, archive, layout, split_seed, pseudonyms)
    with scratch_folder() as scratch:
        folder = Path(scratch)
        catalogue = Catalogue(
            archive,
            folder / SEEK_POINTS,
            lambda container: console.log(f"reading {'a container' if pseudonyms else container}"),
            previous=storage.normalise(previous).rpartition("/")[0] if previous else None,
            pseudonyms=pseudonyms,
        )
        chosen, why = layouts.choose(catalogue, layout)
        why = "as before" if previous else why
        console.log("" + (f"as {chosen.name}" if pseudonyms else f"{archive} as {chosen.name} ({why})"))
        return write_study_table(
            _found(catalogue, chosen, split_seed, folder),
            out,
            archive=archive,
            layout=chosen.name,
            split_seed=split_seed,
            scratch=folder,
            key_id=pseudonyms.key_id if pseudonyms else None,
        )


def _layout_before(previous: str, archive: str, layout: str, split_seed: int, pseudonyms: Pseudonyms | None) -> str:
    """The layout of a previous table; ConfigError unless it was made of this archive, in the way that is asked for."""
    table = StudyTable(previous)
    key_id = table.metadata.get(PSEUDONYMISED)
    made = table.metadata | {PSEUDONYMISED: f"by key {key_id}" if key_id else "by no key"}
    asked = {
        "archive": archive,
        "layout": made["layout"] if layout == "auto" else layout,
        "split_seed": str(split_seed),
        PSEUDONYMISED: f"by key {pseudonyms.key_id}" if pseudonyms else "by no key",
    }
    for name, value in asked.items():
        if made[name] != value:
            raise ConfigError(
                f"{table.url}: previous table with {name} {made[name]}; expected {value}: "
                "name a table that was made alike, or index without --previous"
            )
    return asked["layout"]


def _found(catalogue: Catalogue, layout: Layout, split_seed: int, folder: Path) -> Iterator[Found]:
    """What is found; then the listing is written to the folder, with what has been learned of the files."""
    yield from layouts.studies(catalogue, layout, split_seed)
    catalogue.save(folder / FILES)


class Source(Protocol):
    """Settings that name either an archive or a study table."""

    @property
    def archive(self) -> str | None: ...
    @property
    def studies(self) -> str | None: ...
    @property
    def layout(self) -> str: ...
    @property
    def split_seed(self) -> int: ...


def open_source(source: Source, scratch: str) -> StudyTable:
    """The study table that the settings name, or their archive's, made now in a local scratch folder."""
    if source.studies:
        return StudyTable(source.studies)
    out = storage.join(scratch, "studies.parquet")
    print_account(index(source.archive or "", out, layout=source.layout, split_seed=source.split_seed))
    return StudyTable(out)


def keep_source(table: StudyTable, scratch: str, home: str) -> StudyTable:
    """Move a table that was made in scratch, with its seek points, to where every worker can read it."""
    if not table.url.startswith(scratch):
        return table
    storage.upload(Path(scratch), home)
    return StudyTable(storage.join(home, "studies.parquet"))


def keep_seek_points(table: StudyTable, scratch: str, home: str) -> str:
    """The folder of the table's seek points; those made in scratch go below `home`, where every worker can read them.

    Nothing else of the table does: it names all patients of the archive, also those that a score root must forget.
    """
    if not table.url.startswith(scratch):
        return table.seek_points
    kept = storage.join(home, SEEK_POINTS)
    if Path(table.seek_points).exists():
        storage.upload(Path(table.seek_points), kept)
    return kept


def run(config: IndexConfig) -> int:
    account = index(
        config.archive,
        config.out,
        layout=config.layout,
        split_seed=config.split_seed,
        previous=config.previous,
        pseudonymise=config.pseudonymise,
    )
    print_account(account, private=bool(config.pseudonymise))
    console.out().print(f"Study table: {storage.normalise(config.out)}")
    return 0


def print_account(account: Account, private: bool = False) -> None:
    """Studies, patients, splits, labels, and what was left out and why; `private`: without the names of objects."""
    out = console.out()
    patients = f"{account.patients:,} patients" if account.patients else "patients unknown"
    out.print(f"{account.studies:,} studies, {patients}, {account.views:,} views")
    out.print("Split: " + ", ".join(f"{split} {account.splits[split]:,}" for split in SPLITS))
    if account.without_patient:
        out.print(
            f"{account.without_patient:,} studies name no patient: where the archive has no split, theirs is by study"
        )
    if account.without_position:
        out.print(f"{account.without_position:,} studies have views without a view position: these count as frontal")
    _print_remarks(account, private)
    if account.identical.groups:
        groups, views, across = account.identical
        out.print(f"Identical files: {groups:,} groups, {views:,} views; {across:,} groups in more than one split")
    if account.tables:
        out.print(f"Read for what they say: {account.tables:,} tables and lists")
    for reason, count in account.skipped.most_common():
        meaning = f": {MEANINGS[reason]}" if reason in MEANINGS else ""
        out.print(f"Skipped: {count:,} files ({reason}{meaning})", markup=False, soft_wrap=True)
    if account.skipped:
        out.print(f"Skipped files are listed with their reasons in {SKIPPED} beside the table")
    shown = [] if private else account.losses
    for loss in shown:
        out.print(f"Lost: {loss}", markup=False, soft_wrap=True)
    if more := account.lost - len(shown):
        out.print(f"Lost: {more:,}{' more' if shown else ''}, listed in {SKIPPED} beside the table")
    if account.unmatched:
        out.print(f"Labels without a file: {account.unmatched:,}")
    _print_labels(account)


def _print_remarks(account: Account, private: bool) -> None:
    for kind, number in account.remarks.items():
        examples = [] if private else account.examples[kind]
        more = ", …" if examples and number > len(examples) else ""
        names = f": {', '.join(examples)}{more}" if examples else ""
        console.out().print(f"{number:,} {kind}{names}", markup=False, soft_wrap=True)


def _print_labels(account: Account) -> None:
    out = console.out()
    labelled = {finding: counts for finding, counts in account.labels.items() if set(counts) - {None}}
    if not labelled:
        out.print("No labels")
        return
    seen = {finding: counts for finding, counts in labelled.items() if counts[1.0] or counts[-1.0]}
    if seen:
        table = Table("finding", box=None)
        for name in ("present", "absent", "uncertain", "not mentioned"):
            table.add_column(name, justify="right")
        for finding, counts in seen.items():
            table.add_row(finding, *(f"{counts[label]:,}" for label in (1.0, 0.0, -1.0, None)))
        out.print(table)
    if unseen := [finding for finding in account.labels if finding not in seen]:
        out.print(f"Present in no study: {', '.join(unseen)}")
