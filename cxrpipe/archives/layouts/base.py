"""What every layout is: a name, a way to recognise it, and a way to read studies out of it."""

import contextlib
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Protocol, TypeVar

from cxrpipe.archives.catalogue import Catalogue
from cxrpipe.archives.containers.entries import File
from cxrpipe.archives.listing import Names, fields, file_of
from cxrpipe.records import Study
from cxrpipe.storage import spill

T = TypeVar("T")


class Skipped(NamedTuple):
    """A file that is no radiograph of any study."""

    url: str
    entry: str | None
    reason: str
    detail: str | None = None
    """A line for a person, where the reason does not say all."""


class Unmatched(NamedTuple):
    """Labels whose image is not in the archive."""

    study_id: str


class Remark(NamedTuple):
    """Something in an archive that a person should know; the account counts it and names some of the studies."""

    kind: str
    """What follows the number in the account: `ages below 0 or above 120 years: taken as unknown`."""
    example: str | None = None
    """The study, or the line of a table."""


class Table(NamedTuple):
    """A file that the layout has read for what it says: labels, splits, readings."""

    url: str
    entry: str | None


Found = Study | Skipped | Unmatched | Remark | Table

CONTRADICTION = "studies whose rows contradict each other: what they disagree on is taken as unknown"
KEPT_APART = "studies share an id with another patient's: kept apart as <study_id>/<patient_id>"
"""Kinds of remarks that several layouts make."""


class Layout(Protocol):
    NAME: str

    def recognise(self, names: Names) -> str | None:
        """Why the names look like this layout, or None where they do not."""

    def studies(self, catalogue: Catalogue) -> Iterator[Found]:
        """Every study once, with its labels; a study that the archive splits says so."""


class Group(NamedTuple):
    """The files of one study."""

    study_id: str
    files: dict[str, File]
    """By the names of the views."""


def by_patient(study_id: str, items: Iterable[T], patient_of: Callable[[T], str | None]) -> dict[str, list[T]]:
    """The items of a study by the study id that they get: its own, unless they are those of several patients.

    Then each patient's get `<study_id>/<patient_id>`, and those that name no patient `<study_id>/-`. An id that several
    patients share is a fault of whoever gave it: an anonymiser that gives every file the same one, or a copied table.
    """
    every = list(items)
    of_patient: dict[str | None, list[T]] = {}
    for item in every:
        of_patient.setdefault(patient_of(item) or None, []).append(item)
    if len(of_patient.keys() - {None}) < 2:
        return {study_id: every}
    return {f"{study_id}/{patient or '-'}": some for patient, some in of_patient.items()}


def group(
    files: Iterable[File], place: Callable[[File], tuple[str, str] | None], otherwise: str
) -> Iterator[Group | Skipped]:
    """Every study once, in the order of first appearance, and what is left: files there twice, or with no place.

    place  (study id, name of the view) of a file, or None where it is none, which is skipped for the reason `otherwise`
    """
    with contextlib.closing(spill.Groups()) as groups:
        for file in files:
            placed = place(file)
            if placed is None:
                yield Skipped(file.url, file.entry, otherwise)
            else:
                groups.add(placed[0], (placed[1], fields(file)))
        for study_id, views in groups:
            found: dict[str, File] = {}
            for name, of_file in views:
                file = file_of(of_file)
                if found.setdefault(name, file) is not file:
                    yield Skipped(file.url, file.entry, "duplicate_instance")
            yield Group(study_id, found)
