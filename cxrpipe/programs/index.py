"""The program `index`: an archive → a study table, and a summary of what the archive holds."""

from rich.table import Table

from cxrpipe import console, storage
from cxrpipe.archives.aside import MEANINGS
from cxrpipe.archives.index import index
from cxrpipe.archives.study_table_writer import IndexCounts
from cxrpipe.config import IndexConfig
from cxrpipe.errors import ExitStatus
from cxrpipe.records import SPLITS
from cxrpipe.records.study_table import SKIPPED


def run(config: IndexConfig) -> ExitStatus:
    counts = index(
        config.archive,
        config.out,
        layout=config.layout,
        split_seed=config.split_seed,
        previous=config.previous,
        pseudonymise=config.pseudonymise,
    )
    print_counts(counts, private=bool(config.pseudonymise))
    console.out().print(f"Study table: {storage.normalise(config.out)}")
    return ExitStatus.DONE


def print_counts(counts: IndexCounts, private: bool = False, kept: bool = True) -> None:
    """Print studies, patients, splits, labels, and the files left out, with reasons.

    private  leave out the names of objects
    kept     the study table stays, and beside it the list of skipped files
    """
    out = console.out()
    patients = f"{counts.patients:,} patients" if counts.patients else "patients unknown"
    out.print(f"{counts.studies:,} studies, {patients}, {counts.views:,} views")
    out.print("Split: " + ", ".join(f"{split} {counts.splits[split]:,}" for split in SPLITS))
    if counts.without_patient:
        out.print(
            f"{counts.without_patient:,} studies name no patient: where the archive has no split, theirs is by study"
        )
    if counts.without_position:
        out.print(f"{counts.without_position:,} studies have views without a view position: these count as frontal")
    _print_remarks(counts, private)
    if counts.identical.groups:
        groups, views, across = counts.identical
        out.print(f"Identical files: {groups:,} groups, {views:,} views; {across:,} groups in more than one split")
    if counts.tables:
        out.print(f"Read for what they say: {counts.tables:,} tables and lists")
    for reason, files in counts.skipped.most_common():
        meaning = f": {MEANINGS[reason]}" if reason in MEANINGS else ""
        out.print(f"Skipped: {files:,} files ({reason}{meaning})", markup=False, soft_wrap=True)
    where = f"in {SKIPPED} beside the table" if kept else f"in the {SKIPPED} that cxrpipe index writes"
    if counts.skipped:
        out.print(f"Skipped files are listed with their reasons {where}")
    shown = [] if private else counts.losses
    for loss in shown:
        out.print(f"Lost: {loss}", markup=False, soft_wrap=True)
    if more := counts.lost - len(shown):
        out.print(f"Lost: {more:,}{' more' if shown else ''}, listed {where}")
    if counts.unmatched:
        out.print(f"Labels without a file: {counts.unmatched:,}")
    _print_labels(counts)


def _print_remarks(counts: IndexCounts, private: bool) -> None:
    for kind, number in counts.remarks.items():
        examples = [] if private else counts.examples[kind]
        more = ", …" if examples and number > len(examples) else ""
        names = f": {', '.join(examples)}{more}" if examples else ""
        console.out().print(f"{number:,} {kind}{names}", markup=False, soft_wrap=True)


def _print_labels(counts: IndexCounts) -> None:
    out = console.out()
    labelled = {finding: labels for finding, labels in counts.labels.items() if set(labels) - {None}}
    if not labelled:
        out.print("No labels")
        return
    present = {finding: labels for finding, labels in labelled.items() if labels[1.0] or labels[-1.0]}
    if present:
        table = Table("finding", box=None)
        for name in ("present", "absent", "uncertain", "not mentioned"):
            table.add_column(name, justify="right")
        for finding, labels in present.items():
            table.add_row(finding, *(f"{labels[label]:,}" for label in (1.0, 0.0, -1.0, None)))
        out.print(table)
    if absent := [finding for finding in counts.labels if finding not in present]:
        out.print(f"Present in no study: {', '.join(absent)}")
