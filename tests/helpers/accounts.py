"""Where every file of a scored archive has gone: a row of the scores, or a line of skipped.parquet."""

from pathlib import Path
from typing import NamedTuple

from cxrpipe import storage
from cxrpipe.records import REASONS, read_scores
from cxrpipe.records.study_table import SKIPPED, StudyTable


class Outcome(NamedTuple):
    """What became of one file, or of one entry of a container."""

    url: str
    entry: str | None
    said: str
    """`ok`, `failed/truncated`, `skipped/duplicate_instance`: status and reason of its view, or why it is no view."""

    def name_below(self, archive: str) -> str:
        """Its path in the archive, or in the container that holds it, with slashes."""
        return (self.entry or self.url.removeprefix(f"{archive}/")).replace("\\", "/")


def outcomes(table: str, out: str) -> list[Outcome]:
    """All files that an indexed and scored archive accounts for; AssertionError unless rows out are studies in."""
    rows = read_scores(out).to_pylist()
    studies = [study.study_id for study in StudyTable(table).studies()]
    assert sorted(row["study_id"] for row in rows) == sorted(studies)
    found = []
    for row in rows:
        assert (row["reason"] is None) == (row["status"] == "ok"), row
        assert row["reason"] is None or row["reason"] in REASONS, row
        for view in row["views"]:
            found.append(Outcome(view["url"], view["entry"], _said(view, row)))
    skipped = storage.read_table(storage.join(table.rpartition("/")[0], SKIPPED)).to_pylist()
    return found + [Outcome(line["url"], line["entry"], f"skipped/{line['reason']}") for line in skipped]


def _said(view: dict, row: dict) -> str:
    """A lateral that the model leaves out has the reason of its study."""
    reason = view["reason"] or (row["reason"] if view["status"] == "skipped" else None)
    status = row["status"] if view["status"] == "skipped" else view["status"]
    return status if reason is None else f"{status}/{reason}"


def files_in_no_account(archive: str, table: str, found: list[Outcome]) -> list[str]:
    """The files of an archive that are neither views, nor masks, nor the table, nor skipped with a reason."""
    masks = {mask.url for study in StudyTable(table).studies() for mask in study.mask_views}
    known = {outcome.url for outcome in found} | masks | {archive}
    folder = archive.rpartition("/")[0] if Path(archive).suffix == ".csv" else archive
    return sorted(file.url for file in storage.listing(folder) if file.url not in known)
