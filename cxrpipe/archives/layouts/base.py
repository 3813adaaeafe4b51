"""The shape that every layout has, and what a layout finds in an archive."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.listing import Names, fields, file_of
from cxrpipe.records import Study
from cxrpipe.storage import spill

T = TypeVar("T")


class Skipped(NamedTuple):
    """A file that is in no study."""

    url: str
    entry: str | None
    reason: str
    detail: str | None = None
    """A line for a person, where the reason alone does not say what to do."""


class Unmatched(NamedTuple):
    """Labels whose image is not in the archive."""

    study_id: str


class Remark(NamedTuple):
    """Something in an archive that a person should know. The index counts remarks and names some of the studies."""

    kind: str
    """The text behind the count: `ages below 0 or above 120 years: taken as unknown`."""
    example: str | None = None
    """A study id, or a line of a table."""


class Table(NamedTuple):
    """A file from which the layout has read labels, splits or readings."""

    url: str
    entry: str | None


Found = Study | Skipped | Unmatched | Remark | Table

CONTRADICTION = "studies whose rows contradict each other: what they disagree on is taken as unknown"
KEPT_APART = "studies share an id with another patient's: kept apart as <study_id>/<patient_id>"
"""Kinds of remarks that several layouts make."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """One kind of archive: how it is recognised, and how its studies are read. Every module beside this one makes one.

    A new layout needs the first three fields; the others have defaults that suit most archives.
    """

    name: str
    """The name in `--layout` and in the study table."""

    recognise: Callable[[Names], str | None]
    """Says why the names of files look like this layout, or None where they do not.

    `choose` passes the names of the store's objects first, and those of the entries of containers only where no layout
    recognises the objects: opening containers can take minutes. So a layout is given names, and not the catalogue."""

    studies: Callable[[Catalogue], Iterator[Found]]
    """Reads every study once, with its labels, and with its split where the archive has splits."""

    recognise_contents: Callable[[Catalogue], str | None] | None = None
    """Says why the first bytes of some files look like this layout, or None where they do not.

    A layout that has this function is chosen only where it agrees, and also where no names are recognised."""

    named_by_path: bool = False
    """Study ids are paths without their suffix, so `a.png` beside `a.jpg` gets the id `a.png`."""

    hides_ids: bool = False
    """`studies` replaces ids by pseudonyms itself, before it keeps what it read from headers."""


class Group(NamedTuple):
    """The files of one study."""

    study_id: str
    files: dict[str, File]
    """Name of the view → its file."""


def by_patient(study_id: str, items: Iterable[T], patient_of: Callable[[T], str | None]) -> dict[str, list[T]]:
    """Divide the items of a study id by patient; gives study id → items.

    Items of one patient keep the study id. Items of several patients get `<study_id>/<patient_id>`, and those that name
    no patient get `<study_id>/-`. Several patients share an id by mistake: an anonymiser gives every file the same
    id, or somebody has copied a table.
    """
    listed = list(items)
    of_patient: dict[str | None, list[T]] = {}
    for item in listed:
        of_patient.setdefault(patient_of(item) or None, []).append(item)
    if len(of_patient.keys() - {None}) < 2:
        return {study_id: listed}
    return {f"{study_id}/{patient or '-'}": some for patient, some in of_patient.items()}


def group(
    files: Iterable[File], place: Callable[[File], tuple[str, str] | None], otherwise: str
) -> Iterator[Group | Skipped]:
    """Group files into studies, in the order of first appearance. A view that is there twice is skipped once.

    place      gives a file's study id and the name of its view; None: the file is in no study
    otherwise  the reason why files without a place are skipped
    """
    with contextlib.closing(spill.Groups()) as groups:
        for file in files:
            placed = place(file)
            if placed is None:
                yield Skipped(file.url, file.entry, otherwise)
            else:
                groups.add(placed[0], (placed[1], fields(file)))
        for study_id, views in groups:
            files_of_study: dict[str, File] = {}
            for name, row in views:
                file = file_of(row)
                if files_of_study.setdefault(name, file) is not file:
                    yield Skipped(file.url, file.entry, "duplicate_instance")
            yield Group(study_id, files_of_study)
